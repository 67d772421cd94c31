"""A plain folder of classes: ``DIR/<class>/<image>``; a subject is what stands before ``__`` in a file's name."""

from __future__ import annotations

from pathlib import Path

from allpacs.domain.errors import InputFault
from training.datasets.dataset import DataSet, Sample, images_in

_IMAGES = {".bmp", ".jpg", ".jpeg", ".png", ".tif", ".tiff"}


def _read(folder: Path) -> list[Sample]:
    samples = [
        Sample(path, path.parent.name, path.stem.split("__")[0] if "__" in path.stem else None, SET.title, SET.licence)
        for path in images_in(folder, "*/*")
        if path.suffix.lower() in _IMAGES
    ]
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not any(sample.label == entry.name for sample in samples):
            raise InputFault(f"class without images: {entry} holds none")
    return samples


SET = DataSet("folder", "A folder of classes", "a site's own", "the site's own", _read)
