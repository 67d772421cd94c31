"""Files of pictures to one DICOM study in a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from pydicom import FileDataset

from allpacs.capture.vl_microscopic import capture
from allpacs.decode.picture import lossy_ratio, read_picture
from allpacs.domain.errors import InputFault, StoreFault, UndecodablePixels
from allpacs.domain.identity import derive_uid
from allpacs.domain.image import Frame
from allpacs.domain.specimen import PatientAndSpecimen


def import_pictures(
    paths: Sequence[Path],
    out_dir: Path,
    *,
    patient: PatientAndSpecimen,
    made_at: datetime,
    spacing_um: float | None = None,
    study_uid: str | None = None,
    synthetic: bool = False,
    progress: Callable[[], None] = lambda: None,
    on_bad: Callable[[Path, InputFault], None] | None = None,
    first_number: int = 1,
    check_page: Callable[[Frame], None] = lambda _: None,
) -> list[Path]:
    """Write one study with one series: an instance for each picture, for each page of a multi-page TIFF.

    Importing the same pictures with the same particulars again writes the same files.

    Parameters
    ----------
    study_uid:
        Study to add to; None for a new one, derived from the pictures, the patient and the time.
    progress:
        Called after each picture.
    on_bad:
        Called for each file that cannot be read; the others are imported. None: the first such file raises.
    first_number:
        Instance Number of the first instance.
    check_page:
        Called with each page before it is written; raises `InputFault` if the page must not be written.

    Returns
    -------
    The files written, in order; each is named by its SOP Instance UID.

    Raises
    ------
    InputFault
        No picture was named; one cannot be read (without `on_bad`), the message names the file, and pictures before it
        are written; or `check_page` refused a page.
    StoreFault
        The folder cannot be written.
    """
    if not paths:
        raise InputFault("no pictures to import")
    if study_uid is None:
        digests = [_digest(path) for path in paths]
        study_uid = derive_uid("imported study", repr(patient), made_at.isoformat(), *digests)
    series_uid = derive_uid("imported series", study_uid, made_at.isoformat())
    written: list[Path] = []
    for path in paths:
        of_this_file: list[Path] = []
        try:
            ratio = lossy_ratio(path)
            for frame in read_picture(path):
                check_page(frame)
                image = capture(
                    frame.rgb,
                    patient=patient,
                    study_uid=study_uid,
                    series_uid=series_uid,
                    instance_number=first_number + len(written) + len(of_this_file),
                    made_at=made_at,
                    spacing_um=spacing_um,
                    lossy_ratio=ratio,
                    synthetic=synthetic,
                )
                of_this_file.append(save(image, out_dir))
        except UndecodablePixels as fault:
            named = UndecodablePixels(f"{path}: {fault}")
            if on_bad is None:
                raise named from None
            for page in of_this_file:  # pages before the bad one: a file is imported whole or not at all
                page.unlink()
            on_bad(path, named)
        else:
            written += of_this_file
        progress()
    return written


def save(image: FileDataset, out_dir: Path) -> Path:
    """Write the instance into the folder as ``<SOP Instance UID>.dcm``, whole or not at all; return the file.

    Raises
    ------
    StoreFault
        It cannot be written.
    """
    path = out_dir / f"{image.SOPInstanceUID}.dcm"
    unfinished = path.with_suffix(".part")
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        image.save_as(unfinished, enforce_file_format=True)
        unfinished.replace(path)
    except OSError as fault:
        raise StoreFault(f"{out_dir} cannot be written: {fault.strerror}") from fault
    return path


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as fault:
        raise InputFault(f"{path} cannot be opened: {fault.strerror}") from None
