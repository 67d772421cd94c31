"""PBC (Barcelona): normal peripheral blood cells of eight types. Subjects are not given."""

from __future__ import annotations

from pathlib import Path

from training.datasets.dataset import DataSet, Sample, images_in

TYPES = ("basophil", "eosinophil", "erythroblast", "ig", "lymphocyte", "monocyte", "neutrophil", "platelet")


#: µm per pixel: median of 240 images of all types, measured on their red cells.
SPACING_UM = 0.183


def _read(folder: Path) -> list[Sample]:
    return [
        Sample(path, kind, None, SET.title, SET.licence, spacing_um=SPACING_UM)
        for kind in TYPES
        for path in images_in(folder / kind, "*.jpg")
    ]


SET = DataSet("pbc", "PBC Barcelona", "Acevedo et al. 2020, doi 10.1016/j.dib.2020.105474", "CC BY 4.0", _read)
