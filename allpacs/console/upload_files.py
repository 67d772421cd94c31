"""Sorts the files of an upload: which go to the receiver, and why each other one does not.

A bad file costs only itself. What the files become on disk is bounded: a few kilobytes of deflated zeros, or a TIFF
whose pages all share one strip, would otherwise fill the disk.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, cast

from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)

from allpacs.console.upload_folder import private_file
from allpacs.dicom.deflate import inflated
from allpacs.dicom.encoding import is_part10, read_file_meta
from allpacs.dicom.status import CANNOT_UNDERSTAND
from allpacs.domain.errors import InputFault, InstanceRefused
from allpacs.domain.image import Frame
from allpacs.domain.specimen import PatientAndSpecimen
from allpacs.receive.admit import admit
from allpacs.receive.header import read_header
from allpacs.study.import_images import import_pictures

#: Pages of one picture file; a focus series has tens.
MOST_PAGES = 200
#: The type of a decoder's exception, at the end of a reason: for logs, not for people.
_EXCEPTION = re.compile(r" \([A-Z]\w*\)$")


@dataclass(frozen=True, slots=True)
class ImageForm:
    """What the form says of pictures that are not DICOM yet."""

    patient: PatientAndSpecimen
    made_at: datetime
    spacing_um: float | None
    study_uid: str


@dataclass(frozen=True, slots=True)
class Instance:
    """A DICOM file to send: what the person calls it, and its study."""

    name: str
    study_uid: str


@dataclass(slots=True)
class SortedFiles:
    """The files of one upload.

    Attributes
    ----------
    folder:
        Where files are written.
    max_inflated_bytes:
        Largest deflated data set, inflated.
    bytes_left:
        How many bytes may still be written.
    instances:
        DICOM files to send.
    refused:
        Name and reason of every other file.
    """

    folder: Path
    max_inflated_bytes: int
    bytes_left: int
    instances: dict[Path, Instance] = field(default_factory=dict)
    refused: list[tuple[str, str]] = field(default_factory=list)

    def add(self, name: str, content: BinaryIO, form: ImageForm) -> None:
        """Take one file, or remember why it is not taken.

        Parameters
        ----------
        name:
            What the person calls it; nothing on disk is named after it.

        Raises
        ------
        StoreFault
            The disk is full or broken.
        OSError
            As `StoreFault`.
        """
        path = self.folder / f"{len(self.instances) + len(self.refused):05d}"
        with open(private_file(path), "wb") as target:  # noqa: PTH123 - a descriptor, not a path
            shutil.copyfileobj(content, target)
        self.bytes_left -= path.stat().st_size
        try:
            if is_part10(path):
                self.instances[path] = Instance(name, _admitted_study(path, self.max_inflated_bytes))
            else:
                made = self._as_instances(path, form)
                self.instances.update(dict.fromkeys(made, Instance(name, form.study_uid)))
        except InstanceRefused as refused:
            self.refused.append((name, f"0x{refused.status:04X} {refused.reason}"))
        except InputFault as fault:
            self.refused.append((name, _EXCEPTION.sub("", str(fault).replace(f"{path}: ", ""))))
        if path not in self.instances:
            path.unlink()

    def _as_instances(self, path: Path, form: ImageForm) -> list[Path]:
        folder = path.with_suffix(".pages")
        folder.mkdir(mode=0o700)
        before = self.bytes_left

        def check(page: Frame) -> None:
            if page.number > MOST_PAGES:
                raise InputFault(f"the file has more than {MOST_PAGES} pages: split it")
            self.bytes_left -= page.rgb.nbytes
            if self.bytes_left < 0:
                raise InputFault("the decoded images need too much space: upload fewer files at a time")

        try:
            made = import_pictures(
                [path],
                folder,
                patient=form.patient,
                made_at=form.made_at,
                spacing_um=form.spacing_um,
                study_uid=form.study_uid,
                first_number=len(self.instances) + 1,
                check_page=check,
            )
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            self.bytes_left = before
            raise
        for instance in made:
            instance.chmod(0o600)
        return made


def names_of(files: Iterable[str | None]) -> list[str]:
    """Return file names for a reader: without folders, which some browsers send."""
    return [(name or "").replace("\\", "/").rsplit("/", 1)[-1] for name in files]


def _admitted_study(path: Path, max_inflated_bytes: int) -> str:
    """Return the Study Instance UID of a DICOM file that the receiver would admit.

    Raises
    ------
    InstanceRefused
        With the status and the reason that C-STORE would answer (PS3.4 Table B.2-1).
    """
    with path.open("rb") as file:
        meta, syntax = _file_meta(file)
        if meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
            raise InputFault("this is a DICOMDIR, the index of a medium: upload the images that it lists")
        try:
            if syntax == DeflatedExplicitVRLittleEndian:
                with inflated(file, max_bytes=max_inflated_bytes) as plain:
                    header = read_header(plain, ExplicitVRLittleEndian)
            else:
                header = read_header(_data_set(file), syntax)
        except InstanceRefused:
            raise
        except (InputFault, zlib.error) as fault:
            reason = str(fault) if isinstance(fault, InputFault) else "the data set is not deflated"
            raise InstanceRefused(CANNOT_UNDERSTAND, reason) from None
    sop_class_uid = str(meta.get("MediaStorageSOPClassUID") or header.get("SOPClassUID") or "")
    sop_instance_uid = str(header.get("SOPInstanceUID") or "")
    return admit(
        header, sop_class_uid=sop_class_uid, sop_instance_uid=sop_instance_uid, transfer_syntax_uid=syntax
    ).study_uid


def _file_meta(file: BinaryIO) -> tuple[FileMetaDataset, str]:
    """Read File Meta Information (PS3.10 section 7.1), and leave the file at the first byte of the data set."""
    try:
        meta = read_file_meta(file)
        syntax = str(meta.get("TransferSyntaxUID") or "")
    except Exception as fault:  # noqa: BLE001 - a stranger's bytes make the parser raise anything
        reason = f"File Meta Information cannot be parsed ({type(fault).__name__})"
        raise InstanceRefused(CANNOT_UNDERSTAND, reason) from None
    if not syntax:
        raise InputFault("the DICOM file does not state its transfer syntax: export it as a DICOM Part 10 file")
    return meta, syntax


def _data_set(file: BinaryIO) -> BinaryIO:
    """Return the rest of a file as a stream of its own, whose first byte is at 0."""
    return cast(BinaryIO, io.BufferedReader(_Rest(file)))


class _Rest(io.RawIOBase):
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._start = file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        content = self._file.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset + (self._start if whence == os.SEEK_SET else 0), whence) - self._start

    def tell(self) -> int:
        return self._file.tell() - self._start
