"""ALL-IDB2: single cells with their surroundings. Subjects are not given.

The file name ends in 1 for a lymphoblast, in 0 for a cell of a healthy person, which may be of any type.
"""

from __future__ import annotations

import re
from pathlib import Path

from training.datasets.dataset import NORMAL, DataSet, Sample, images_in

#: µm per pixel: median of 60 images, measured on their red cells (0.060 to 0.125: two cameras).
SPACING_UM = 0.09


def _read(folder: Path) -> list[Sample]:
    found = [(path, re.fullmatch(r"Im\d+_([01])", path.stem)) for path in images_in(folder, "**/Im*.*")]
    return [
        Sample(path, "ALL" if name[1] == "1" else NORMAL, None, SET.title, SET.licence, spacing_um=SPACING_UM)
        for path, name in found
        if name
    ]


SET = DataSet(
    "allidb2", "ALL-IDB2", "Università degli Studi di Milano, ALL-IDB", "research use, not redistributable", _read
)
