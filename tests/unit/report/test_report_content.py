"""Content items are what pydicom reads and would write itself."""

from __future__ import annotations

from io import BytesIO

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sr.coding import Code

from allpacs.report import codes, content


def read(item: bytes) -> Dataset:
    """Read one encoded item with pydicom."""
    return pydicom.dcmread(BytesIO(item[8:]), force=True)


def written_by_pydicom(item: Dataset) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, item)
    return buffer.getvalue()


OUTLINE = ((1.0, 2.0), (30.5, 2.0), (30.5, 44.25))
ITEMS = {
    "text": content.written(content.CONTAINS, codes.COMMENT, "odd"),
    "text in Unicode": content.written(content.CONTAINS, codes.COMMENT, "Prüfung 血"),
    "uid": content.identified(content.HAS_OBS_CONTEXT, codes.TRACKING_UNIQUE_IDENTIFIER, "1.2.3"),
    "code": content.coded(content.CONTAINS, codes.FINDING, codes.LYMPHOBLAST),
    "number": content.measured(content.CONTAINS, codes.PROBABILITY, "0.973123", codes.NO_UNITS),
    "region": content.region(codes.IMAGE_REGION, OUTLINE, "1.2.3", "1.2.3.4", 7),
    "container": content.container(
        content.CONTAINS,
        codes.MEASUREMENT_GROUP,
        [
            content.written(content.CONTAINS, codes.COMMENT, "a"),
            content.measured(
                content.CONTAINS,
                codes.LYMPHOBLAST_FRACTION,
                "1",
                codes.NO_UNITS,
                [content.measured(content.HAS_PROPERTIES, codes.INTERVAL_LOW, "0", codes.NO_UNITS)],
            ),
        ],
        template="1410",
    ),
}


@pytest.mark.parametrize("name", ITEMS)
def test_pydicom_writes_the_same_bytes(name: str) -> None:
    item = ITEMS[name]
    assert int.from_bytes(item[4:8], "little") == len(item) - 8
    dataset = read(item)
    for element in dataset.iterall():  # decoded, so that pydicom encodes again
        assert element.VR != "UN"
    if not item.isascii() and name == "text in Unicode":
        assert item.count("Prüfung 血".encode()) == 1
    else:
        assert written_by_pydicom(dataset) == item[8:]


def test_region_is_closed_and_names_its_frame() -> None:
    region = read(ITEMS["region"])
    assert region.GraphicType == "POLYLINE"
    assert list(region.GraphicData) == [1.0, 2.0, 30.5, 2.0, 30.5, 44.25, 1.0, 2.0]
    image = region.ContentSequence[0]
    assert image.RelationshipType == "SELECTED FROM"
    assert image.ReferencedSOPSequence[0].ReferencedFrameNumber == 7
    single = read(content.region(codes.IMAGE_REGION, OUTLINE, "1.2.3", "1.2.3.4", None))
    assert "ReferencedFrameNumber" not in single.ContentSequence[0].ReferencedSOPSequence[0]


def test_a_very_long_outline_is_thinned_evenly() -> None:
    outline = [(float(k), float(k % 7)) for k in range(20_000)]
    region = read(content.region(codes.IMAGE_REGION, outline, "1.2.3", "1.2.3.4", None))
    points = len(region.GraphicData) // 2
    assert content.MAXIMUM_POINTS / 2 < points <= content.MAXIMUM_POINTS + 1
    assert list(region.GraphicData[:2]) == list(region.GraphicData[-2:]) == [0.0, 0.0]


def test_value_too_long_for_its_length_field_is_an_error() -> None:
    with pytest.raises(ValueError, match="too long"):
        content.element("CodeMeaning", "LO", b"x" * 70_000)


def test_container_without_children_has_no_content_sequence() -> None:
    assert "ContentSequence" not in read(content.container(content.CONTAINS, Code("1", "DCM", "x"), []))
