"""A stand-in for the hospital's PACS: a small Storage SCP that keeps files. For demonstrations and tests only.

It listens on 127.0.0.1 alone, has no index to query, no storage commitment and no retention: not an archive.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import Verification

from allpacs.dicom import status
from allpacs.domain.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, is_uid

_HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class KeptInstance:
    """One SOP Instance the stand-in has taken.

    Attributes
    ----------
    times_received:
        How often it was sent; sending it again does not keep it twice.
    """

    sop_instance_uid: str
    sop_class_uid: str
    study_uid: str
    series_uid: str
    calling_ae: str
    path: Path
    times_received: int = 1


class Archive:
    """Keeps what it is sent as ``folder/<study UID>/<SOP Instance UID>.dcm``; answers C-ECHO.

    The same object again is answered with 0x0000, another object under the same UID with 0x0111 (the first is kept).

    Parameters
    ----------
    port:
        0: any free port; `port` says which one after `start`.
    """

    def __init__(self, folder: Path, ae_title: str, port: int = 0) -> None:
        self._folder = folder
        self._ae = AE(ae_title=ae_title)
        self._ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        self._ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        self._ae.maximum_associations = 32
        self._ae.add_supported_context(Verification)
        for context in AllStoragePresentationContexts:
            self._ae.add_supported_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES)
        self._asked_port = port
        self._server: Any = None
        self._kept: dict[str, KeptInstance] = {}
        self._changed = threading.Condition()

    def start(self) -> Self:
        """Listen; return itself.

        Raises
        ------
        OSError
            The port is taken.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        handlers = [(evt.EVT_C_STORE, self._take)]
        self._server = self._ae.start_server((_HOST, self._asked_port), block=False, evt_handlers=handlers)
        return self

    def stop(self) -> None:
        """Stop listening and abort what is still associated."""
        if self._server is not None:
            self._ae.shutdown()
            self._server = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def ae_title(self) -> str:
        """Its AE title."""
        return str(self._ae.ae_title)

    @property
    def host(self) -> str:
        """Its address: this machine only."""
        return _HOST

    @property
    def port(self) -> int:
        """The port it listens on."""
        if self._server is None:
            raise RuntimeError("the archive is not started")
        return int(self._server.server_address[1])

    @property
    def instances(self) -> tuple[KeptInstance, ...]:
        """What it keeps since it was started, in order of arrival."""
        with self._changed:
            return tuple(self._kept.values())

    def wait_for(
        self, wanted: str | Callable[[KeptInstance], bool], timeout_s: float, *, count: int = 1
    ) -> list[KeptInstance]:
        """Wait until it keeps at least so many instances of a SOP class, or for which the predicate holds.

        Raises
        ------
        TimeoutError
            They did not come in time.
        """
        matches = wanted if callable(wanted) else lambda instance: instance.sop_class_uid == wanted
        found: list[KeptInstance] = []

        def enough() -> bool:
            found[:] = [instance for instance in self._kept.values() if matches(instance)]
            return len(found) >= count

        with self._changed:
            if not self._changed.wait_for(enough, timeout_s):
                raise TimeoutError(f"{len(found)} of {count} instances came to the archive within {timeout_s:g} s")
        return found

    def _take(self, event: Any) -> int:
        """Answer one C-STORE-RQ."""
        part10 = event.encoded_dataset()
        try:
            tags = ["SOPInstanceUID", "SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID"]
            header = dcmread(BytesIO(part10), specific_tags=tags, stop_before_pixels=True)
            sop_instance, sop_class, study, series = (str(header[keyword].value) for keyword in tags)
        except (InvalidDicomError, EOFError, KeyError, ValueError):
            return status.CANNOT_UNDERSTAND
        if not (is_uid(sop_instance) and is_uid(study)):  # they become names of files
            return status.CANNOT_UNDERSTAND
        instance = KeptInstance(
            sop_instance,
            sop_class,
            study,
            series,
            str(event.assoc.requestor.ae_title),
            self._folder / study / f"{sop_instance}.dcm",
        )
        with self._changed:
            try:
                if instance.path.exists():
                    if instance.path.read_bytes() != part10:
                        return status.DUPLICATE_SOP_INSTANCE
                else:
                    _write(instance.path, part10)
            except OSError:
                return status.OUT_OF_RESOURCES
            known = self._kept.get(sop_instance)
            if known is not None:
                instance = replace(known, times_received=known.times_received + 1)
            self._kept[sop_instance] = instance
            self._changed.notify_all()
        return status.SUCCESS


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}.part")
    draft.write_bytes(content)
    draft.replace(path)
