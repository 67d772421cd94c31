"""Which pixel size a frame's cells are judged at."""

from __future__ import annotations

import pytest

from allpacs.cells.scale import CNMC_UM, choose_scale
from allpacs.domain.findings import RemarkKind
from allpacs.domain.image import Scale, ScaleOrigin

STATED = Scale(0.1, ScaleOrigin.PIXEL_SPACING)
MEASURED = Scale(0.11, ScaleOrigin.RED_CELLS)
CONFIGURED = Scale(0.2, ScaleOrigin.CONFIGURED)


@pytest.mark.parametrize(
    ("stated", "measured", "configured", "segmented", "expected"),
    [
        (STATED, MEASURED, CONFIGURED, False, STATED),
        (STATED, None, None, True, STATED),
        (None, MEASURED, CONFIGURED, False, MEASURED),
        (None, None, CONFIGURED, True, CONFIGURED),
        (None, None, None, True, Scale(CNMC_UM, ScaleOrigin.ASSUMED)),
        (None, None, None, False, None),
    ],
)
def test_the_surest_scale_is_used(
    stated: Scale | None, measured: Scale | None, configured: Scale | None, segmented: bool, expected: Scale | None
) -> None:
    assert choose_scale(stated, measured, configured, segmented=segmented) == (expected, None)


@pytest.mark.parametrize("factor", [1.6, 9.0, 0.6, 0.2])
def test_red_cells_are_believed_over_a_header_that_contradicts_them(factor: float) -> None:
    stated = Scale(MEASURED.spacing_um * factor, ScaleOrigin.PIXEL_SPACING)
    scale, remark = choose_scale(stated, MEASURED, CONFIGURED, segmented=False)
    assert scale == MEASURED
    assert remark is not None
    assert remark.kind is RemarkKind.SCALE_CONFLICT
    assert f"{stated.spacing_um:.4g}" in remark.text
    assert "0.11" in remark.text


@pytest.mark.parametrize("spacing_um", [264.0, 1.01, 0.019])
def test_a_stated_scale_that_cannot_be_is_passed_over(spacing_um: float) -> None:
    stated = Scale(spacing_um, ScaleOrigin.PIXEL_SPACING)
    for others, expected in (
        ({"measured": MEASURED, "configured": CONFIGURED, "segmented": False}, MEASURED),
        ({"measured": None, "configured": CONFIGURED, "segmented": False}, CONFIGURED),
        ({"measured": None, "configured": None, "segmented": True}, Scale(CNMC_UM, ScaleOrigin.ASSUMED)),
        ({"measured": None, "configured": None, "segmented": False}, None),
    ):
        scale, remark = choose_scale(stated, **others)  # type: ignore[arg-type]
        assert scale == expected
        assert remark is not None
        assert f"states {spacing_um:.4g} micrometres" in remark.text


@pytest.mark.parametrize("factor", [1.4, 0.7])
def test_a_small_difference_is_no_conflict(factor: float) -> None:
    stated = Scale(MEASURED.spacing_um * factor, ScaleOrigin.PIXEL_SPACING)
    assert choose_scale(stated, MEASURED, None, segmented=False) == (stated, None)
