"""Cells that a person reviewed in the console, as it exports them: ``label.json`` beside each crop."""

from __future__ import annotations

import json
from pathlib import Path

from allpacs.domain.errors import InputFault
from training.datasets.dataset import DataSet, Sample, images_in


def _read(folder: Path) -> list[Sample]:
    samples = []
    for path in images_in(folder, "**/*label.json"):
        try:
            written = json.loads(path.read_text("utf-8"))
            image, label, subject = path.parent / written["image"], written["label"], written["subject"]
        except (ValueError, KeyError, TypeError) as fault:
            raise InputFault(f"{path} must be an object with image, label and subject") from fault
        if not image.is_file():
            raise InputFault(f"{image.name}, which {path} names, is missing")
        samples.append(Sample(image, str(label), str(subject), SET.title, SET.licence))
    return samples


SET = DataSet("reviewed", "Reviewed cells", "exported by the console", "the site's own", _read)
