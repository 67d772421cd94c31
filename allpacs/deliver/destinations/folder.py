"""The destination ``folder``: a folder (often a network share) that takes every result as a file."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import Field

from allpacs.audit.messages import AuditEvent
from allpacs.domain.artefacts import EVERY_MEDIA_TYPE, Artefact, Receipt
from allpacs.domain.errors import DeliveryRejected, DeliveryUnavailable
from allpacs.settings.destinations import DestinationSettings

#: One part of a file name: what every file system takes, and never "." or "..".
_SAFE_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")


class Settings(DestinationSettings):
    """A folder that takes every result as a file."""

    kind: Literal["folder"]
    folder: Path = Field(description="where the files go", examples=["/var/lib/allpacs/copies"])

    @property
    def address(self) -> str:
        """The folder."""
        return str(self.folder)

    def make(self, ae_title: str) -> FolderDestination:  # noqa: ARG002 - a folder is not told who writes
        """Return the live destination; see `DestinationSettings.make`."""
        return FolderDestination(self.folder)


class FolderDestination:
    """Writes each artefact to ``folder/<file_name>``; the file name may hold one folder (``study/report.html``).

    A file appears whole or not at all. The same content again changes nothing. Another content under the same name
    (a later revision of the same report) takes the name, and the superseded file stays beside it as
    ``name.superseded-<digest><suffix>``.

    Parameters
    ----------
    folder:
        Created where it is missing, but not its parent: a share that is not mounted must not be written over.
    """

    audit_event = AuditEvent.EXPORTED

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def takes(self) -> frozenset[str]:
        """Results of every format."""
        return frozenset({EVERY_MEDIA_TYPE})

    def deliver(self, artefacts: Sequence[Artefact]) -> Receipt:
        """Write all artefacts.

        Raises
        ------
        DeliveryUnavailable
            The folder cannot be written: missing, full, not permitted. Somebody can mend that, so it is tried again.
        DeliveryRejected
            A file name that could leave the folder.
        """
        written = 0
        for artefact in artefacts:
            target = self._folder / _checked(artefact)
            try:
                self._folder.mkdir(exist_ok=True)
                target.parent.mkdir(exist_ok=True)
                written += _write(target, artefact.content)
            except OSError as failure:
                raise _unavailable(failure) from failure
        return Receipt(detail=f"{written} files written, {len(artefacts) - written} already there")

    def check(self) -> str:
        """Write and remove an empty file.

        Raises
        ------
        DeliveryUnavailable
            The folder cannot be written.
        """
        probe = self._folder / f".check-{os.getpid()}"
        try:
            self._folder.mkdir(exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as failure:
            raise _unavailable(failure) from failure
        return "folder is writable"


def _checked(artefact: Artefact) -> PurePosixPath:
    parts = artefact.file_name.split("/")
    if len(parts) > 2 or not all(_SAFE_PART.fullmatch(part) for part in parts):
        raise DeliveryRejected(f"artefact {artefact.uid}: its file name is not safe to write")
    return PurePosixPath(*parts)


def _write(target: Path, content: bytes) -> bool:
    """Write the content durably under the name; return False where it is there already."""
    if target.exists():
        present = target.read_bytes()
        if present == content:
            return False
        digest = sha256(present).hexdigest()[:12]
        target.replace(target.with_name(f"{target.stem}.superseded-{digest}{target.suffix}"))
    draft = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)
    return True


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the platform can open a folder."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unavailable(failure: OSError) -> DeliveryUnavailable:
    # strerror, not str(): the path may lie in a folder that somebody named after a patient.
    return DeliveryUnavailable(f"results folder cannot be written: {failure.strerror}; check that it is mounted")
