"""BCCD: fields with boxes around white cells, red cells and platelets (Pascal VOC). Only the gate is tested on it."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

from allpacs.domain.errors import InputFault
from training.datasets.dataset import DataSet, Sample, images_in

#: µm per pixel: median of 30 fields, measured on their red cells.
SPACING_UM = 0.080


def _read(folder: Path) -> list[Sample]:
    samples = []
    for table in images_in(folder / "annotations", "*.xml"):
        image = folder / "images" / f"{table.stem}.jpg"
        if not image.is_file():
            raise InputFault(f"{image.name}, which {table.name} describes, is missing")
        for found in ET.parse(table).iter("object"):  # noqa: S314  (a data set of one's own choice)
            edges = [float(found.findtext(f"bndbox/{edge}", "0")) for edge in ("xmin", "ymin", "xmax", "ymax")]
            box = (edges[0], edges[1], edges[2] - edges[0], edges[3] - edges[1])
            name = found.findtext("name", "")
            samples.append(Sample(image, name, None, SET.title, SET.licence, shows=box, spacing_um=SPACING_UM))
    return samples


SET = DataSet("bccd", "BCCD", "BCCD Dataset (Shenggan, cosmicad)", "MIT", _read)
