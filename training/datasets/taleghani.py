"""Taleghani Hospital ALL set: fields with many cells, one of four labels a field. Subjects are not given.

Some fields are there twice, pixel for pixel: the second is left out, or it could be trained on and tested on.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from training.datasets.dataset import DataSet, Sample, images_in

#: µm per pixel: median of 120 fields, measured on their red cells (0.24 to 0.51: fields were scaled to one size).
SPACING_UM = 0.38

TYPES = ("Benign", "Early", "Pre", "Pro")


def _read(folder: Path) -> list[Sample]:
    seen: set[str] = set()
    samples = []
    for kind in TYPES:
        for path in images_in(folder / kind, "*.jpg"):
            with Image.open(path) as image:
                digest = hashlib.sha256(np.asarray(image.convert("RGB")).tobytes()).hexdigest()
            if digest not in seen:
                samples.append(Sample(path, kind, None, SET.title, SET.licence, shows="cells", spacing_um=SPACING_UM))
            seen.add(digest)
    return samples


SET = DataSet(
    "taleghani", "Taleghani", "Taleghani Hospital, Tehran; Ghaderzadeh et al. 2021",
    "research use, not redistributable", _read,
)  # fmt: skip
