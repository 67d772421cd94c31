"""How much is measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Scale:
    """Sizes of the rows.

    Attributes
    ----------
    folder:
        For studies, stores and logs; on the disk that is to be measured.
    receive:
        Instances a receiver is sent in one run.
    plugin:
        Instances of the study that the whole plugin reads.
    engine_cells:
        Cells that an engine classifies in one run.
    report_cells:
        Cells of the reports.
    large:
        Instances of the large study (growth, memory).
    small:
        Instances of the study that it is compared with.
    console_studies:
        Studies in the store whose pages are asked for.
    slide_stamps, slide_filled:
        Side of the slide, and of the corner of it with cells, in pieces of 1280 pixels.
    """

    folder: Path
    runs: int
    receive: int
    plugin: int
    engine_cells: int
    report_cells: int
    large: int
    small: int
    console_studies: int
    slide_stamps: int
    slide_filled: int


def full(folder: Path) -> Scale:
    """Return the sizes of the published table."""
    return Scale(
        folder, runs=5, receive=600, plugin=1000, engine_cells=256, report_cells=1000, large=50_000, small=500,
        console_studies=5000, slide_stamps=32, slide_filled=12,
    )  # fmt: skip


def quick(folder: Path) -> Scale:
    """Return sizes that show that everything runs."""
    return Scale(
        folder, runs=1, receive=40, plugin=12, engine_cells=16, report_cells=20, large=100, small=20,
        console_studies=50, slide_stamps=2, slide_filled=1,
    )  # fmt: skip
