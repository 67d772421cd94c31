"""``allpacs classify``: images straight to an answer, without a server (the paper's step 7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from allpacs.app import asking, make_pipeline, start_model
from allpacs.commands.files import image_files
from allpacs.commands.progress import tracked
from allpacs.domain.findings import CellFinding, InstanceFindings, ModelIdentity
from allpacs.settings import Settings
from allpacs.study.images import image_file, label_images


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model says of some files.

    Attributes
    ----------
    images:
        One entry a file, in the order asked.
    """

    model: ModelIdentity
    images: Sequence[tuple[Path, InstanceFindings]]

    @property
    def faults(self) -> int:
        """How many files could not be read."""
        return sum(findings.fault is not None for _, findings in self.images)

    def as_json(self) -> dict[str, Any]:
        """Return the answer by its stable contract: one entry a frame.

        An unreadable file has one entry with ``frame`` null, no cells and its ``error``.
        """
        model = {"name": self.model.name, "version": self.model.version, "digest": self.model.digest}
        return {"bundle": model, "images": [entry for path, one in self.images for entry in _frames(path, one)]}

    def print_table(self) -> None:
        """Print one row a cell, and what could not be read."""
        console = Console()
        table = Table(title=f"{self.model.name} {self.model.version} – research use only", title_justify="left")
        for heading in ("image", "frame", "cell", "label", "P(ALL)", "not assessable because"):
            table.add_column(heading, justify="right" if heading in {"frame", "cell", "P(ALL)"} else "left")
        for path, findings in self.images:
            if findings.fault is not None:
                table.add_row(path.name, "", "", "", "", f"[red]unreadable[/red]: {findings.fault}")
            elif not findings.cells:
                table.add_row(path.name, "", "", "", "", "no cells found")
            for cell in findings.cells:
                table.add_row(path.name, str(cell.frame_number), str(cell.cell_number), *cell_columns(cell))
        console.print(table)


def cell_columns(cell: CellFinding) -> tuple[str, str, str]:
    """Return label, probability and reason of a cell as a table shows them."""
    return (
        "" if cell.label is None else str(cell.label),
        "" if cell.probability_all is None else f"{cell.probability_all:.3f}",
        "" if cell.reason is None else str(cell.reason),
    )


def classify_files(paths: Sequence[Path], settings: Settings, *, spacing_um: float | None = None) -> Answer:
    """Classify the cells of every picture and DICOM file among the paths.

    Parameters
    ----------
    spacing_um:
        Pixel size, µm, used when neither the image nor its red cells give one.

    Raises
    ------
    InputFault
        A path does not exist, or there is no image among them.
    ModelFault
        The bundle cannot be used.
    """
    files = image_files(paths)
    pipeline = make_pipeline(settings)
    images = [replace(image_file(path), spacing_um=spacing_um) for path in files]
    with start_model(settings, pipeline.bundle) as batcher:
        found = label_images(pipeline, images, asking(batcher), partial(tracked, what="classifying"))
    return Answer(pipeline.bundle.identity, list(zip(files, found, strict=True)))


def _frames(path: Path, findings: InstanceFindings) -> list[dict[str, Any]]:
    if findings.fault is not None:
        return [{"path": str(path), "frame": None, "cells": [], "error": findings.fault}]
    scale = None
    if findings.scale is not None:
        scale = {"spacing_um": round(findings.scale.spacing_um, 6), "origin": findings.scale.origin.value}
    by_frame: dict[int, list[dict[str, Any]]] = {number: [] for number in range(1, findings.frames + 1)}
    for cell in findings.cells:
        by_frame[cell.frame_number].append(
            {
                "box_px": cell.box.as_list(),
                "label": cell.label,
                "probability_all": cell.probability_all,
                "assessable": cell.assessable,
                "reason": cell.reason,
            }
        )
    return [{"path": str(path), "frame": number, "cells": cells, "scale": scale} for number, cells in by_frame.items()]
