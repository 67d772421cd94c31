"""A fault of allpacs stays within its frame or region; trouble of this machine is nobody else's fault."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from allpacs.cells.finders.whole_frame import WholeFrame
from allpacs.classify.bundle import Bundle, load_bundle
from allpacs.decode.guard import as_input_fault
from allpacs.domain.errors import InternalFault, StoreFault, UndecodablePixels
from allpacs.domain.findings import InstanceFindings, Remark, RemarkKind
from allpacs.domain.image import Frame
from allpacs.domain.parts import NO_CELLS, complete
from allpacs.settings import SHIPPED_BUNDLE
from allpacs.study.containment import contained
from allpacs.study.pipeline import ImageFile, Pipeline


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle(SHIPPED_BUNDLE)


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), StoreFault),
        (OSError(errno.EMFILE, "Too many open files"), StoreFault),
        (OSError(errno.EIO, "Input/output error"), StoreFault),
        (MemoryError(), StoreFault),
        (OSError("broken data stream"), UndecodablePixels),
        (ValueError("Doe^Jane"), UndecodablePixels),
        (RecursionError(), UndecodablePixels),
    ],
)
def test_only_what_lies_in_the_bytes_is_the_senders_fault(raised: Exception, expected: type[Exception]) -> None:
    with pytest.raises(expected) as caught, as_input_fault("frame 1 cannot be decoded"):
        raise raised
    assert "Doe" not in str(caught.value)


def test_an_unexpected_exception_is_logged_by_type_and_place_alone() -> None:
    with capture_logs() as lines, pytest.raises(InternalFault) as caught, contained("frame 7"):
        raise ValueError("Doe^Jane")
    assert str(caught.value) == "frame 7: internal error (ValueError)"
    (line,) = lines
    assert line["event"] == "internal_error"
    assert "test_study_containment.py:" in line["reason"]
    assert "Doe" not in str(lines)


@pytest.mark.parametrize("raised", [OSError(errno.ENOSPC, "No space left on device"), MemoryError()])
def test_trouble_of_this_machine_is_waited_for(raised: Exception) -> None:
    with pytest.raises(StoreFault), contained("frame 7"):
        raise raised


def test_a_frame_that_breaks_the_finder_does_not_take_the_others_with_it(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = WholeFrame.find_and_measure

    def broken(self: WholeFrame, frame: Frame) -> object:
        if frame.number == 2:
            raise ValueError("Doe^Jane")
        return real(self, frame)

    monkeypatch.setattr(WholeFrame, "find_and_measure", broken)
    rgb = np.zeros((450, 450, 3), np.uint8)
    rgb[125:325, 125:325] = (120, 60, 140)
    image = ImageFile(Path("unread"), "1.2.3", "1.2.4", "1.2.5", cell_finder="whole_frame")
    found, crops = Pipeline(bundle).find_among(image, [Frame(number, rgb) for number in (1, 2, 3)])
    assert [cell.frame_number for cell in found.cells] == [1, 3]
    assert len(crops) == 2
    assert [(one.number, one.reason) for one in found.unreadable] == [(2, "frame 2: internal error (ValueError)")]
    assert found.fault is None


def test_a_slide_with_a_lost_region_is_not_said_to_be_without_cells() -> None:
    lost = Remark(RemarkKind.NOT_ANALYSED, "Not analysed: a region of the slide: internal error (ValueError).")
    findings = InstanceFindings("1.2.3", "1.2.4", "1.2.5", 9, (), remarks=(lost,))
    assert complete(findings).remarks == (lost,)
    assert NO_CELLS in complete(InstanceFindings("1.2.3", "1.2.4", "1.2.5", 9, ())).remarks
