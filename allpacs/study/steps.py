"""The steps of one study: find cells, classify, report. Running a step twice has the effect of running it once.

A study is analysed in chunks (`allpacs.study.chunks`). After each step a chunk's findings are in the index and its
preprocessed cells in a work file, so an interrupted step runs again from the files on disk. Decoded frames are not
kept: they are many times larger than the cells in them and quick to decode again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from allpacs.classify import aggregate
from allpacs.classify.saliency import Explain
from allpacs.decode.open_files import KeptOpen
from allpacs.domain.findings import CellFinding, InstanceFindings, StudyFindings
from allpacs.domain.parts import complete
from allpacs.store.records import InstanceRow
from allpacs.store.store import Store
from allpacs.study import sampling
from allpacs.study.cell_images import CellImages, CellImageStore
from allpacs.study.chunks import PARTING, Chunk, plan
from allpacs.study.options import StudyOptions
from allpacs.study.pipeline import Crops, ImageFile, Pipeline, Predict
from allpacs.study.prefetch import Prefetcher
from allpacs.study.report_inputs import ReportInputs
from allpacs.study.results import results
from allpacs.study.signing import findings_as_signed, signed_results
from allpacs.study.slides import search
from allpacs.study.work_files import WorkFiles
from allpacs.telemetry import metrics, tracing

_REVISIONS_REMEMBERED = 8
#: Chunks whose cells are sought at a time while the network is busy with others.
_AHEAD = 2
#: Files of many frames that are kept open from one chunk to the next: of as many studies as are usually read at a time.
_FILES_KEPT_OPEN = 8
#: Stages of an instance's findings in the index.
FOUND, LABELLED = "cells", "classify"


class StudySteps:
    """The steps of one study. Their state is in the store and the work folder.

    While the network classifies one chunk, the cells of the next are already being found. A prefetched chunk is not
    stored; if it is lost, its cells are found again.
    """

    def __init__(
        self,
        *,
        store: Store,
        pipeline: Pipeline,
        predict: Predict,
        work_folder: Path,
        options: StudyOptions,
        explain: Explain | None = None,
    ) -> None:
        self._store = store
        self._predict = predict
        # What is in a closed revision never changes; asking for it once keeps the cost of a chunk that of its cells.
        self._instances = lru_cache(maxsize=_REVISIONS_REMEMBERED)(store.revisions.instances)
        self._chunks = lru_cache(maxsize=_REVISIONS_REMEMBERED)(self._planned)
        self._ahead: Prefetcher[tuple[str, int, int], tuple[list[InstanceFindings], list[Crops]]] = Prefetcher(_AHEAD)
        self._files = KeptOpen(_FILES_KEPT_OPEN)
        self._work = WorkFiles(work_folder)
        self._images = CellImageStore(store, explain, options.key_images)
        self._inputs = ReportInputs(store, options, pipeline.bundle.contract.intended_use, self._instances)
        self._options = options
        self.pipeline = pipeline

    @property
    def fingerprint(self) -> str:
        """What a reading that was interrupted must go on with: the model, the decision settings, the way of cutting."""
        options, pipeline = self._options, self.pipeline
        ways, scales = sorted(options.cell_finder.items()), sorted(options.spacing_um.items())
        sizes = f"{options.chunk_instances} {PARTING} {pipeline.max_pixels} {pipeline.max_cells}"
        return f"{pipeline.bundle.digest} {sizes} {ways} {scales}"

    def begin(self, study_uid: str, revision: int) -> int:
        """Forget what an earlier attempt has found, and return how many chunks the revision has."""
        chunks = len(self._chunks(study_uid, revision))
        self._store.findings.clear(study_uid, revision)
        self.discard_work(study_uid, revision)
        self._store.revisions.progress(study_uid, revision, read=0, pieces=chunks)
        return chunks

    def find_cells(self, study_uid: str, revision: int, chunk: int) -> int:
        """Decode a chunk's instances, find their cells and keep both; return the number of cells.

        Of more cells than are judged, those outside the random sample of all so far are counted and dropped.
        """
        planned = self._chunks(study_uid, revision)[chunk]
        with tracing.span("decode", study_uid, revision=revision, instances=len(planned.uids)):
            found, crops = self._ahead.take((study_uid, revision, chunk), partial(self._find, planned))
        size = self.pipeline.max_cells
        priorities = (sampling.priority(cell) for one in found for cell in one.cells)
        kept = sampling.smallest([*self._work.sample(study_uid, revision), *priorities], size)
        findings, masks = sampling.sampled(found, kept, size)
        self._work.save_crops(study_uid, revision, chunk, _joined(crops, masks))
        self._store.findings.put(study_uid, revision, findings, stage=FOUND, part=planned.part)
        self._work.save_sample(study_uid, revision, kept)
        return sum(len(one.cells) for one in findings)

    def classify(self, study_uid: str, revision: int, chunk: int) -> int:
        """Label the cells of a chunk; return how many have a label."""
        chunks = self._chunks(study_uid, revision)
        findings = self._found(study_uid, revision, chunk)
        crops = self._crops(study_uid, revision, chunk, findings)
        ends = np.cumsum([len(instance.cells) for instance in findings])
        if chunk + 1 < len(chunks):
            self._ahead.begin((study_uid, revision, chunk + 1), partial(self._find, chunks[chunk + 1]))
        labelled = self.pipeline.label_all(findings, np.split(crops, ends[:-1]), self._predict)
        self._store.findings.put(study_uid, revision, labelled, stage=LABELLED, part=chunks[chunk].part)
        self._store.revisions.progress(study_uid, revision, read=chunk + 1, pieces=len(chunks))
        return sum(cell.assessable for instance in labelled for cell in instance.cells)

    def report(self, study_uid: str, revision: int) -> dict[str, int]:
        """Write the study's artefacts; return its counts by outcome.

        A revision that a person made by signing has the findings of the one they reviewed, and no reading of its own.
        """
        review = self._store.reviews.signed(study_uid, revision)
        if review is None:
            self._settle_sample(study_uid, revision)
        findings = self._findings(study_uid, revision)
        if review is None:
            after = findings
            artefacts = results(findings, *self._inputs.of(findings, self._images_of(findings, after)))
            for outcome in ("all", "hem", "not_assessable"):
                metrics.CELLS.labels(outcome).inc(getattr(findings.counts, outcome))
        else:
            review = review.of(findings.cells)
            after = findings_as_signed(findings, review)
            artefacts = signed_results(findings, *self._inputs.of(findings, self._images_of(findings, after)), review)
        self._store.artefacts.put_all(study_uid, revision, artefacts)
        self._store.outcomes.put(after)
        return {
            "instances": len(findings.instances),
            "cells": findings.counts.total,
        }

    def discard_work(self, study_uid: str, revision: int) -> None:
        """Delete the work files of a revision whose artefacts are written, and what was begun of it."""
        self._ahead.forget(lambda key: key[:2] == (study_uid, revision))
        self._work.discard(study_uid, revision)

    # ------------------------------------------------------------------------------------------------------- parts

    def _findings(self, study_uid: str, revision: int) -> StudyFindings:
        """Return what the model found; of a signed revision, what the model of its reading found."""
        made = self._store.reviews.made(study_uid, revision)
        read = None if made is None else self._store.outcomes.get(study_uid, made.revision)
        if read is None:
            rows = self._instances(study_uid, revision)
            ways = (self._options.cell_finder.get(row.calling_ae) for row in rows)
            model, decision_digest = self.pipeline.bundle.identity, self.pipeline.decision_digest(ways)
        else:
            model, decision_digest = read.model, read.decision_digest
        found = self._store.findings.get(study_uid, revision)
        return aggregate.study_findings(study_uid, revision, model, decision_digest, found)

    def _images_of(self, findings: StudyFindings, after: StudyFindings) -> CellImages:
        return self._images.of(findings, after, lambda: self._cells_with_crops(findings))

    def _cells_with_crops(self, findings: StudyFindings) -> Iterator[tuple[CellFinding, Crops]]:
        """Yield each reported cell with what the network saw of it."""
        study_uid, revision = findings.study_uid, findings.revision
        reported = {cell.tracking_uid for cell in findings.cells}
        for chunk in range(len(self._chunks(study_uid, revision))):
            found = self._found(study_uid, revision, chunk)
            cells = (cell for instance in found for cell in instance.cells)
            for cell, crop in zip(cells, self._crops(study_uid, revision, chunk, found), strict=True):
                if cell.tracking_uid in reported:
                    yield cell, crop

    def _planned(self, study_uid: str, revision: int) -> tuple[Chunk, ...]:
        rows = self._instances(study_uid, revision)
        return tuple(plan(self.pipeline, [(row, self._image(row)) for row in rows], self._options.chunk_instances))

    def _find(self, chunk: Chunk) -> tuple[list[InstanceFindings], list[Crops]]:
        """Find the cells of a chunk; findings and crops are those of `Chunk.uids`, in this order."""
        if chunk.slide is not None:
            return search(self.pipeline, chunk.slide, chunk.regions, with_remarks=chunk.part == 0)
        if chunk.frames is not None:
            (image,) = chunk.images
            frames = self._files.read(image.path, chunk.frames, max_pixels=self.pipeline.max_pixels)
            found = [self.pipeline.find_among(image, frames)]
        else:
            found = [self.pipeline.find(image) for image in chunk.images]
        nothing = self.pipeline.stack([])
        return (
            [*(findings for findings, _ in found), *chunk.known],
            [*(crops for _, crops in found), *(nothing for _ in chunk.known)],
        )

    def _found(self, study_uid: str, revision: int, chunk: int) -> list[InstanceFindings]:
        """Return what the index has of a chunk, in its order."""
        planned = self._chunks(study_uid, revision)[chunk]
        found = self._store.findings.get(study_uid, revision, of=planned.uids, part=planned.part)
        by_uid = {one.sop_instance_uid: one for one in found}
        return [by_uid[uid] for uid in planned.uids]

    def _settle_sample(self, study_uid: str, revision: int) -> None:
        """Drop the cells that others have pushed out of the sample, and remark what only the whole can tell.

        What the index has afterwards is what reports and reviews are made of.
        """
        before = self._store.findings.get(study_uid, revision)
        after = sampling.final_sample([complete(one) for one in before], self.pipeline.max_cells)
        if after == before:
            return
        whole = {one.sop_instance_uid: one for one in after}
        kept = {cell.tracking_uid for one in after for cell in one.cells}
        for chunk, planned in enumerate(self._chunks(study_uid, revision)):
            found = self._found(study_uid, revision, chunk)
            masks = [np.array([cell.tracking_uid in kept for cell in one.cells], np.bool_) for one in found]
            if not all(mask.all() for mask in masks):
                crops = self._crops(study_uid, revision, chunk, found)
                self._work.save_crops(study_uid, revision, chunk, crops[np.concatenate(masks)])
            settled = [
                replace(
                    one,
                    cells=tuple(cell for cell in one.cells if cell.tracking_uid in kept),
                    cells_found=one.cells_found if mask.all() else one.found,
                )
                for one, mask in zip(found, masks, strict=True)
            ]
            if planned.part == 0:
                of_whole = (whole[one.sop_instance_uid] for one in settled)
                settled = [
                    replace(one, fault=all_of_it.fault, scale=all_of_it.scale, remarks=all_of_it.remarks)
                    for one, all_of_it in zip(settled, of_whole, strict=True)
                ]
            if settled != found:
                self._store.findings.put(study_uid, revision, settled, stage=LABELLED, part=planned.part)

    def _image(self, row: InstanceRow) -> ImageFile:
        return ImageFile(
            path=row.path,
            sop_instance_uid=row.sop_instance_uid,
            sop_class_uid=row.sop_class_uid,
            series_uid=row.series_uid,
            cell_finder=self._options.cell_finder.get(row.calling_ae),
            spacing_um=self._options.spacing_um.get(row.calling_ae),
        )

    def _crops(self, study_uid: str, revision: int, chunk: int, findings: list[InstanceFindings]) -> Crops:
        stored = self._work.crops(study_uid, revision, chunk, sum(len(instance.cells) for instance in findings))
        if stored is not None:
            return stored
        found, again = self._find(self._chunks(study_uid, revision)[chunk])
        kept = {cell.tracking_uid for instance in findings for cell in instance.cells}
        masks = [np.array([cell.tracking_uid in kept for cell in instance.cells], np.bool_) for instance in found]
        return _joined(again, masks)


def _joined(crops: list[Crops], masks: list[NDArray[np.bool_]]) -> Crops:
    return np.concatenate([own[mask] for own, mask in zip(crops, masks, strict=True)])
