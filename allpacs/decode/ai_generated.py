"""Whether an algorithm of artificial intelligence made an image: what a model drew is never judged by a model."""

from __future__ import annotations

from pathlib import Path

from pydicom import Dataset
from pydicom.tag import BaseTag, Tag

from allpacs.decode.elements import data_set, read_until
from allpacs.decode.guard import as_input_fault, opened
from allpacs.dicom.encoding import HEAD_BYTES, looks_like_part10
from allpacs.domain.errors import UndecodablePixels

#: Code of artificial intelligence as the family of an algorithm (PS3.16 CID 7162).
_ARTIFICIAL_INTELLIGENCE = ("123110", "DCM")
_ROWS, _PIXEL_DATA = 0x00280010, 0x7FE00010


def made_by_artificial_intelligence(header: Dataset) -> bool:
    """Whether the Contributing Equipment Sequence names artificial intelligence, at any depth (PS3.3 C.12.1)."""
    return any(_names_it(part) for part in header.get("ContributingEquipmentSequence") or ())


def file_made_by_artificial_intelligence(path: Path) -> bool:
    """Whether a DICOM file's header says so; a picture, and a header that cannot be read, say nothing.

    Raises
    ------
    StoreFault
        The file cannot be opened.
    """
    with opened(path) as file:
        if not looks_like_part10(file.read(HEAD_BYTES)):
            return False
        file.seek(0)
        try:
            with as_input_fault("the header cannot be read"):
                stream, _, encoding = data_set(file)
                with stream:
                    # It stands before the image's own attributes.
                    tags: list[BaseTag | int] = [Tag("ContributingEquipmentSequence")]
                    header = read_until(stream, encoding, _ROWS, _PIXEL_DATA, tags=tags)
                return made_by_artificial_intelligence(header)
        except UndecodablePixels:
            return False


def _names_it(part: Dataset) -> bool:
    code = (str(part.get("CodeValue") or ""), str(part.get("CodingSchemeDesignator") or ""))
    return code == _ARTIFICIAL_INTELLIGENCE or any(
        _names_it(item) for element in part if element.VR == "SQ" for item in element.value
    )
