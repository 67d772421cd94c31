"""CellImages of cells, kept and read again."""

from __future__ import annotations

import numpy as np
import pytest

from allpacs.domain.errors import StoreDamaged
from allpacs.report.context import CellImage
from allpacs.study.cell_images import CellImages


def pictures() -> CellImages:
    rgb = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    evidence = np.linspace(0, 1, 9, dtype=np.float32).reshape(3, 3)
    key = {"2.25.1": CellImage(rgb, evidence), "2.25.2": CellImage(rgb[::-1])}
    return CellImages({"2.25.1": b"\xff\xd8one", "2.25.3": b"\xff\xd8two"}, key)


def test_what_was_packed_is_unpacked() -> None:
    made = pictures()
    again = CellImages.unpacked(made.packed())
    assert again.thumbnails == made.thumbnails
    assert again.key.keys() == made.key.keys()
    for uid, picture in made.key.items():
        assert np.array_equal(again.key[uid].rgb, picture.rgb)
        assert (again.key[uid].evidence is None) == (picture.evidence is None)
    assert np.array_equal(again.key["2.25.1"].evidence, made.key["2.25.1"].evidence)  # type: ignore[arg-type]
    assert pictures().packed() == made.packed()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no archive", pictures().packed()[:-40]])
def test_what_was_altered_is_not_shown(content: bytes) -> None:
    with pytest.raises(StoreDamaged):
        CellImages.unpacked(content)
