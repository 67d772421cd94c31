"""ALL-IDB1: fields with many cells; the experts' centroids of the lymphoblasts, none in fields of healthy people.

In a field with lymphoblasts only the marked cells have a label: of the others nothing is said.
"""

from __future__ import annotations

import csv
from pathlib import Path

from allpacs.domain.errors import InputFault
from training.datasets.dataset import NORMAL, DataSet, Sample, images_in

#: µm per pixel at half size: median of 60 fields, measured on their red cells (0.158 to 0.211: two cameras).
SPACING_UM = 0.18


def _read(folder: Path) -> list[Sample]:
    samples = []
    for image in images_in(folder, "Im*_[01].jpg"):
        if image.stem.endswith("_0"):
            samples.append(Sample(image, NORMAL, None, SET.title, SET.licence, shows="cells", spacing_um=SPACING_UM))
            continue
        table = image.with_suffix(".csv")
        if not table.is_file():
            raise InputFault(f"{table.name} with the centroids of {image.name} is missing")
        with table.open(newline="") as stream:
            samples += [
                Sample(
                    image,
                    "ALL",
                    None,
                    SET.title,
                    SET.licence,
                    shows=(float(row["x_px"]), float(row["y_px"])),
                    spacing_um=SPACING_UM,
                )
                for row in csv.DictReader(stream)
            ]
    return samples


SET = DataSet(
    "allidb1", "ALL-IDB1", "Università degli Studi di Milano, ALL-IDB", "research use, not redistributable", _read
)
