"""Domain values: what they hold to."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allpacs.domain.findings import CellFinding, Counts, ModelIdentity, tracking_id
from allpacs.domain.geometry import BoxPx
from allpacs.domain.identity import derive_uid, is_ae_title, is_uid, workflow_id

MODEL = ModelIdentity("first", "1", "sha256:ab", "EfficientNetB3")


@given(st.lists(st.text()))
def test_a_derived_uid_is_a_uid_and_repeatable(parts: list[str]) -> None:
    uid = derive_uid(*parts)
    assert is_uid(uid)
    assert len(uid) <= 44
    assert uid == derive_uid(*parts)


def test_where_the_parts_are_divided_matters() -> None:
    assert derive_uid("ab", "c") != derive_uid("a", "bc")


@pytest.mark.parametrize(
    ("text", "valid"), [("1.2.3", True), ("1.02", False), ("1..2", False), ("1.2." + "3" * 61, False)]
)
def test_what_a_uid_is(text: str, valid: bool) -> None:
    assert is_uid(text) is valid


@pytest.mark.parametrize(
    ("text", "valid"), [("PACS", True), (" ", False), ("A\\B", False), ("A" * 17, False), ("Ä", False)]
)
def test_what_an_ae_title_is(text: str, valid: bool) -> None:
    assert is_ae_title(text) is valid


def test_a_model_of_another_digest_is_another_device() -> None:
    assert MODEL.device_uid != dataclasses.replace(MODEL, digest="sha256:cd").device_uid


@pytest.mark.parametrize("part", ["name", "version", "digest", "family", "manufacturer"])
def test_a_model_without_its_particulars_is_none(part: str) -> None:
    with pytest.raises(ValueError, match="a model has"):
        dataclasses.replace(MODEL, **{part: " "})


def test_a_box_lies_in_a_frame() -> None:
    with pytest.raises(ValueError, match="not a box"):
        BoxPx(-1, 0, 2, 2)
    assert BoxPx(1, 2, 3, 4).corners() == ((1.0, 2.0), (4.0, 2.0), (4.0, 6.0), (1.0, 6.0))


def test_a_cell_keeps_its_tracking_uid_whatever_is_found() -> None:
    """It goes with place and size, not with the number: a changed finder does not move a decision to another cell."""
    cell = CellFinding("1.2.3", 1, 1, BoxPx(0, 0, 5, 5), ())
    assert cell.tracking_uid == dataclasses.replace(cell, probability_all=0.5, cell_number=2).tracking_uid
    for other in ({"box": BoxPx(1, 0, 5, 5)}, {"box": BoxPx(0, 0, 5, 6)}, {"frame_number": 2}):
        assert cell.tracking_uid != dataclasses.replace(cell, **other).tracking_uid


def test_a_cell_is_named_by_its_image_and_number() -> None:
    cell = CellFinding("1.2.3", 2, 15, BoxPx(0, 0, 5, 5), ())
    assert tracking_id(3, 1, cell) == "image 3 cell 15"
    assert tracking_id(3, 7, cell) == "image 3 frame 2 cell 15"


def test_counts_add_up() -> None:
    assert (Counts(3, 2, 1).assessable, Counts(3, 2, 1).total) == (5, 6)


def test_a_workflow_is_named_after_study_and_revision() -> None:
    assert workflow_id("1.2", 3) == "1.2@3"
