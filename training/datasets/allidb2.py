"""ALL-IDB2: single cells with their surroundings; the file name ends in 1 for a lymphoblast. Subjects are not given."""

from __future__ import annotations

import re
from pathlib import Path

from training.datasets.port import DataSet, Sample, images_in


def _read(folder: Path) -> list[Sample]:
    found = [(path, re.fullmatch(r"Im\d+_([01])", path.stem)) for path in images_in(folder, "**/Im*.*")]
    return [
        Sample(path, "ALL" if name[1] == "1" else "HEM", None, SET.title, SET.licence) for path, name in found if name
    ]


SET = DataSet(
    "allidb2", "ALL-IDB2", "Università degli Studi di Milano, ALL-IDB", "research use, not redistributable", _read
)
