"""The stages in memory: image to cells, cells to labels. Shared by the durable flow and by ``allpacs classify``.

No socket, clock, database or settings: paths and values in, findings out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from allpacs.cells.choose import finder_for
from allpacs.cells.scale import choose_scale
from allpacs.classify import aggregate
from allpacs.classify.bundle import Bundle
from allpacs.classify.preprocess import LYMPHOBLAST_UM, prepare
from allpacs.classify.quality import judge
from allpacs.decode.ai_generated import file_made_by_artificial_intelligence
from allpacs.decode.open import read_frames_of
from allpacs.domain.errors import InternalFault, UndecodablePixels
from allpacs.domain.findings import CellFinding, InstanceFindings, NotAssessable, Remark, RemarkKind
from allpacs.domain.image import COARSEST_UM, FINEST_UM, Cell, Frame, Scale, ScaleOrigin, UnreadableFrame
from allpacs.domain.parts import complete
from allpacs.study.containment import contained

#: Preprocessed cells, ``uint8`` of shape (n, input_px, input_px, 3), in the order of the findings' cells.
Crops = NDArray[np.uint8]

_ARTIFICIAL = Remark(RemarkKind.LEFT_OUT, "Left out on purpose: it was made by artificial intelligence.")

#: Asks the model: crops to ``float32`` logits of shape (n, labels); a row that could not be judged is not finite.
Predict = Callable[[Crops], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One file to read, with the identity its findings carry.

    Attributes
    ----------
    cell_finder:
        Way of finding cells; None: chosen by the picture.
    spacing_um:
        What the operator says of the sender's images, where neither the object nor red cells tell.
    """

    path: Path
    sop_instance_uid: str
    sop_class_uid: str
    series_uid: str
    cell_finder: str | None = None
    spacing_um: float | None = None


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The stages with the bundle they work for.

    Attributes
    ----------
    max_pixels:
        Frames of more pixels are not decoded; the instance is then recorded as unreadable.
    max_cells:
        Of a study with more cells a random sample of so many is judged (`allpacs.study.sampling`).
    """

    bundle: Bundle
    max_pixels: int = 100_000_000
    max_cells: int = 10_000

    def decision_digest(self, cell_finder: Iterable[str | None]) -> str:
        """Return the digest of everything besides the images and the model that decides the outcome.

        Parameters
        ----------
        cell_finder:
            How cells are found in the images, as `ImageFile` has it.
        """
        ways = sorted({way or "by the picture" for way in cell_finder})
        decisions = {"max_pixels": self.max_pixels, "max_cells": self.max_cells, "cell_finder": ways}
        return "sha256:" + hashlib.sha256(json.dumps(decisions, sort_keys=True).encode()).hexdigest()

    def find(self, image: ImageFile) -> tuple[InstanceFindings, Crops]:
        """Decode an image and find its cells; cells of poor quality carry their reason already.

        An image that cannot be decoded gives findings with a `fault` and no cells; it is never an exception.
        """
        if file_made_by_artificial_intelligence(image.path):
            return replace(self._findings(image, 0, (), None), remarks=(_ARTIFICIAL,)), self.stack([])
        found, crops = self.find_among(image, read_frames_of(image.path, max_pixels=self.max_pixels))
        return complete(found), crops

    def find_among(self, image: ImageFile, frames: Iterable[Frame | UnreadableFrame]) -> tuple[InstanceFindings, Crops]:
        """Find the cells of some frames of an image, in order; the findings are those of a part of it.

        `UndecodablePixels`, where reading a frame raises it, is a `fault` of the findings, which then have no cells.
        """
        cells: list[CellFinding] = []
        crops: list[Crops] = []
        unreadable: list[UnreadableFrame] = []
        measured_um: list[float] = []
        scale: Scale | None = None
        remarks: dict[Remark, None] = {}  # in order, each once
        last = 0
        try:
            for frame in frames:
                last = frame.number
                if isinstance(frame, UnreadableFrame):
                    unreadable.append(frame)
                    continue
                try:
                    with contained(f"frame {frame.number}"):
                        found, used, conflict = self._cells_of(image, frame)
                except InternalFault as fault:
                    unreadable.append(UnreadableFrame(frame.number, str(fault)))
                    continue
                if conflict is not None:
                    remarks[conflict] = None
                if used is not None and used.origin is ScaleOrigin.RED_CELLS:
                    measured_um.append(used.spacing_um)
                else:
                    scale = used
                cells += [finding for finding, _ in found]
                crops += [crop for _, crop in found]
        except UndecodablePixels as undecodable:
            return self._findings(image, last, (), str(undecodable)), self.stack([])
        findings = replace(
            self._findings(image, last, tuple(cells), None),
            scale=scale,
            remarks=tuple(remarks),
            unreadable=tuple(unreadable),
            measured_um=tuple(measured_um),
        )
        return findings, self.stack(crops)

    def _cells_of(
        self, image: ImageFile, frame: Frame
    ) -> tuple[list[tuple[CellFinding, Crops]], Scale | None, Remark | None]:
        """Return the cells of a frame with the network's inputs, its scale, and a remark if scales contradict."""
        finder = finder_for(frame, image.cell_finder)
        found, measured = finder.find_and_measure(frame)
        scale, conflict = choose_scale(frame.scale, measured, _configured(image), segmented=finder.segmented)
        cells = []
        for number, cell in enumerate(found, start=1):
            finding = CellFinding(
                sop_instance_uid=image.sop_instance_uid,
                frame_number=frame.number,
                cell_number=number,
                box=cell.box,
                outline=cell.outline,
                reason=self.rejection_reason(frame.rgb, cell, scale),
            )
            cells.append((finding, self.prepared(frame.rgb, cell, scale)))
        return cells, scale, conflict

    def label(self, findings: InstanceFindings, crops: Crops, predict: Predict) -> InstanceFindings:
        """Ask the model about every cell that has no reason yet, and return the findings with labels."""
        return self.label_all([findings], [crops], predict)[0]

    def label_all(
        self, findings: Sequence[InstanceFindings], crops: Sequence[Crops], predict: Predict
    ) -> list[InstanceFindings]:
        """Label the cells of several instances with one request, so that batches fill."""
        asked = [[cell.reason is None for cell in instance.cells] for instance in findings]
        wanted = [own[np.array(mask, dtype=bool)] for own, mask in zip(crops, asked, strict=True) if any(mask)]
        logits = iter(predict(np.concatenate(wanted))) if wanted else iter(())
        bundle = self.bundle
        labelled = []
        for instance, mask in zip(findings, asked, strict=True):
            cells = tuple(
                aggregate.judged(
                    cell, next(logits), bundle.temperature, bundle.thresholds, bundle.other_at_most, bundle.outputs
                )
                if is_asked
                else cell
                for cell, is_asked in zip(instance.cells, mask, strict=True)
            )
            labelled.append(replace(instance, cells=cells))
        return labelled

    def rejection_reason(self, rgb: NDArray[np.uint8], cell: Cell, scale: Scale | None) -> NotAssessable | None:
        """Return why a cell of a frame must not be judged, or None."""
        reason = judge(rgb, cell, self.bundle.quality)
        if reason is None and self.bundle.preprocessing.needs_scale and (scale is None or not scale.usable):
            return NotAssessable.SCALE_UNKNOWN
        return reason

    def prepared(self, rgb: NDArray[np.uint8], cell: Cell, scale: Scale | None) -> Crops:
        """Return the network's input of a cell of a frame, shape (input_px, input_px, 3).

        A cell without a usable scale is not judged; its crop shows it at the size of a lymphoblast.
        """
        if scale is not None and scale.usable:
            spacing_um = scale.spacing_um
        else:
            shown_um = LYMPHOBLAST_UM / max(cell.box.width, cell.box.height)
            spacing_um = min(max(shown_um, FINEST_UM), COARSEST_UM)
        return prepare(rgb, cell, self.bundle.preprocessing, spacing_um)

    def stack(self, crops: list[Crops]) -> Crops:
        """Return the inputs as one array, also where there are none."""
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


def _configured(image: ImageFile) -> Scale | None:
    return None if image.spacing_um is None else Scale(image.spacing_um, ScaleOrigin.CONFIGURED)
