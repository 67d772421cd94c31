"""The stages in memory: image to cells, cells to labels. Shared by the durable flow and by ``allpacs classify``.

No socket, clock, database or settings: paths and values in, findings out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from allpacs.cells.choose import finder_for
from allpacs.classify import aggregate
from allpacs.classify.bundle import Bundle
from allpacs.classify.preprocess import prepare
from allpacs.classify.quality import judge
from allpacs.decode.anything import read_frames_of
from allpacs.domain.errors import UndecodablePixels
from allpacs.domain.findings import CellFinding, InstanceFindings
from allpacs.domain.image import Frame

#: Preprocessed cells, ``uint8`` of shape (n, input_px, input_px, 3), in the order of the findings' cells.
Crops = NDArray[np.uint8]


#: Asks the model: crops to ``float32`` logits of shape (n, labels); a row that could not be judged is not finite.
AskModel = Callable[[Crops], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One file to read, with the identity its findings carry."""

    path: Path
    sop_instance_uid: str
    sop_class_uid: str
    series_uid: str
    cells_by: str | None = None


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The stages with the bundle they work for.

    Attributes
    ----------
    max_pixels:
        Frames of more pixels are not decoded; the instance is then recorded as unreadable.
    """

    bundle: Bundle
    max_pixels: int = 100_000_000

    def decision_digest(self, cells_by: Iterable[str | None]) -> str:
        """Return the digest of everything besides the images and the model that decides the outcome.

        Parameters
        ----------
        cells_by:
            How cells are found in the images, as `ImageFile` has it.
        """
        ways = sorted({way or "by the picture" for way in cells_by})
        decisions = {"max_pixels": self.max_pixels, "cells_by": ways}
        return "sha256:" + hashlib.sha256(json.dumps(decisions, sort_keys=True).encode()).hexdigest()

    def find(self, image: ImageFile) -> tuple[InstanceFindings, Crops]:
        """Decode an image and find its cells; cells of poor quality carry their reason already.

        An image that cannot be decoded gives findings with a `fault` and no cells; it is never an exception.
        """
        cells: list[CellFinding] = []
        crops: list[Crops] = []
        frames = 0
        try:
            for frame in read_frames_of(image.path, max_pixels=self.max_pixels):
                frames += 1
                for finding, crop in self._cells_of(frame, image):
                    cells.append(finding)
                    crops.append(crop)
        except UndecodablePixels as fault:
            return self._findings(image, frames, (), str(fault)), self._stack([])
        return self._findings(image, frames, tuple(cells), None), self._stack(crops)

    def label(self, findings: InstanceFindings, crops: Crops, ask: AskModel) -> InstanceFindings:
        """Ask the model about every cell that has no reason yet, and return the findings with labels."""
        return self.label_all([findings], [crops], ask)[0]

    def label_all(
        self, findings: Sequence[InstanceFindings], crops: Sequence[Crops], ask: AskModel
    ) -> list[InstanceFindings]:
        """Label the cells of several instances with one request, so that batches fill."""
        asked = [[cell.reason is None for cell in instance.cells] for instance in findings]
        wanted = [own[np.array(mask, dtype=bool)] for own, mask in zip(crops, asked, strict=True) if any(mask)]
        logits = iter(ask(np.concatenate(wanted))) if wanted else iter(())
        labelled = []
        for instance, mask in zip(findings, asked, strict=True):
            cells = tuple(
                aggregate.judged(cell, next(logits), self.bundle.temperature, self.bundle.thresholds)
                if is_asked
                else cell
                for cell, is_asked in zip(instance.cells, mask, strict=True)
            )
            labelled.append(replace(instance, cells=cells))
        return labelled

    def _cells_of(self, frame: Frame, image: ImageFile) -> Iterator[tuple[CellFinding, Crops]]:
        found = finder_for(frame, image.cells_by).find(frame)
        for number, cell in enumerate(found, start=1):
            finding = CellFinding(
                sop_instance_uid=image.sop_instance_uid,
                frame_number=frame.number,
                cell_number=number,
                box=cell.box,
                outline=cell.outline,
                reason=judge(frame.rgb, cell, self.bundle.quality),
            )
            yield finding, prepare(frame.rgb, cell, self.bundle.preprocessing)

    def _stack(self, crops: list[Crops]) -> Crops:
        side = self.bundle.preprocessing.input_px
        return np.stack(crops) if crops else np.zeros((0, side, side, 3), np.uint8)

    @staticmethod
    def _findings(image: ImageFile, frames: int, cells: tuple[CellFinding, ...], fault: str | None) -> InstanceFindings:
        return InstanceFindings(
            sop_instance_uid=image.sop_instance_uid,
            sop_class_uid=image.sop_class_uid,
            series_uid=image.series_uid,
            frames=frames,
            cells=cells,
            fault=fault,
        )
