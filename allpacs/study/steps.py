"""The steps of a reading, over the store: each can be run twice with the effect of once.

A study is analysed in chunks (`allpacs.study.chunks`). After each step a chunk's findings are in the index and its
preprocessed cells in a work file, so an interrupted step runs again from the files on disk. Decoded frames are not
kept: they are many times larger than the cells in them and quick to decode again.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache, partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset, dcmread

from allpacs.classify import aggregate
from allpacs.classify.saliency import Explain
from allpacs.decode.kept_open import KeptOpen
from allpacs.decode.part10 import read_elements, read_header, readable
from allpacs.domain.artefacts import Artefact, ArtefactKind
from allpacs.domain.errors import InputFault, ModelFault, StoreDamaged, StoreFault
from allpacs.domain.findings import CellFinding, CellLabel, InstanceFindings, StudyFindings
from allpacs.domain.parts import complete
from allpacs.report.context import CellPicture, PriorReport, ReportContext
from allpacs.report.headers import OF_EACH, check_one_patient, gathered
from allpacs.report.key_images import key_cells
from allpacs.store.records import InstanceRow
from allpacs.store.store import Store
from allpacs.study import sampling
from allpacs.study.cell_images import Pictures
from allpacs.study.chunks import PARTING, Chunk, plan
from allpacs.study.pipeline import AskModel, Crops, ImageFile, Pipeline
from allpacs.study.prefetch import Ahead
from allpacs.study.results import results
from allpacs.study.signing import findings_as_signed, signed_results
from allpacs.study.slides import search
from allpacs.telemetry import metrics, tracing

_log = structlog.get_logger("allpacs.study.steps")

_REVISIONS_REMEMBERED = 8
#: Chunks whose cells are sought at a time while the network is busy with others.
_AHEAD = 2
#: Files of many frames that are kept open from one chunk to the next: of as many studies as are usually read at a time.
_FILES_KEPT_OPEN = 8
_SAMPLE_FILE = "sample.npy"
_LYMPHOBLAST = aggregate.LABELS.index(CellLabel.ALL)
#: Stages of an instance's findings in the index.
FOUND, LABELLED = "cells", "classify"


@dataclass(frozen=True, slots=True)
class ReadingOptions:
    """How studies are read.

    Attributes
    ----------
    chunk_instances:
        Instances between two checkpoints, each frame of one that has several counted.
    cells_by:
        Way of finding cells by calling AE title; a sender that is not named is judged by its pictures.
    host_name:
        Name of this station, for the report's device.
    spacing_um:
        Distance of pixels by calling AE title, for images that do not tell it.
    key_images:
        Cells that key images show, at most; 0: there are none.
    annotations_above:
        An image with more cells than these has annotations beside a summary report.
    pdf:
        Whether the report is printed, too.
    """

    chunk_instances: int
    cells_by: Mapping[str, str]
    host_name: str
    spacing_um: Mapping[str, float] = field(default_factory=dict)
    key_images: int = 0
    annotations_above: int = 2_000
    pdf: bool = False


class Reading:
    """The steps of a reading. Whatever they need is in the store and the work folder.

    While the network judges a chunk, the cells of the next one are sought already; they are kept nowhere, and what is
    lost of them is made again.
    """

    def __init__(
        self,
        *,
        store: Store,
        pipeline: Pipeline,
        ask: AskModel,
        work_folder: Path,
        options: ReadingOptions,
        explain: Explain | None = None,
    ) -> None:
        self._store = store
        self._ask = ask
        self._explain = explain
        # What is in a closed revision never changes; asking for it once keeps the cost of a chunk that of its cells.
        self._instances = lru_cache(maxsize=_REVISIONS_REMEMBERED)(store.revisions.instances)
        self._chunks = lru_cache(maxsize=_REVISIONS_REMEMBERED)(self._planned)
        self._ahead: Ahead[tuple[str, int, int], tuple[list[InstanceFindings], list[Crops]]] = Ahead(_AHEAD)
        self._files = KeptOpen(_FILES_KEPT_OPEN)
        self._work_folder = work_folder
        self._options = options
        self.pipeline = pipeline

    @property
    def terms(self) -> str:
        """What a reading that was interrupted must go on with: the model, the decision settings, the way of cutting."""
        options, pipeline = self._options, self.pipeline
        ways, scales = sorted(options.cells_by.items()), sorted(options.spacing_um.items())
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
        kept = sampling.smallest([*self._sample(study_uid, revision), *priorities], size)
        findings, masks = sampling.sampled(found, kept, size)
        self._keep(study_uid, revision, f"{chunk}.npy", _joined(crops, masks))
        self._store.findings.put(study_uid, revision, findings, stage=FOUND, part=planned.part)
        self._keep(study_uid, revision, _SAMPLE_FILE, kept)
        return sum(len(one.cells) for one in findings)

    def classify(self, study_uid: str, revision: int, chunk: int) -> int:
        """Label the cells of a chunk; return how many have a label."""
        chunks = self._chunks(study_uid, revision)
        findings = self._found(study_uid, revision, chunk)
        crops = self._crops(study_uid, revision, chunk, findings)
        ends = np.cumsum([len(instance.cells) for instance in findings])
        if chunk + 1 < len(chunks):
            self._ahead.begin((study_uid, revision, chunk + 1), partial(self._find, chunks[chunk + 1]))
        labelled = self.pipeline.label_all(findings, np.split(crops, ends[:-1]), self._ask)
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
            artefacts, after = results(findings, *self._sources(findings, findings)), findings
            for outcome in ("all", "hem", "not_assessable"):
                metrics.CELLS.labels(outcome).inc(getattr(findings.counts, outcome))
        else:
            review = review.of(findings.cells)
            after = findings_as_signed(findings, review)
            artefacts = signed_results(findings, *self._sources(findings, after), review)
        self._store.artefacts.put_all(study_uid, revision, artefacts)
        self._store.outcomes.put(after)
        return {
            "instances": len(findings.instances),
            "cells": findings.counts.total,
        }

    def discard_work(self, study_uid: str, revision: int) -> None:
        """Delete the work files of a revision whose artefacts are written, and what was begun of it."""
        self._ahead.forget(lambda key: key[:2] == (study_uid, revision))
        shutil.rmtree(self._work(study_uid, revision), ignore_errors=True)

    # ------------------------------------------------------------------------------------------------------- parts

    def _findings(self, study_uid: str, revision: int) -> StudyFindings:
        """Return what the model found; of a signed revision, what the model of its reading found."""
        made = self._store.reviews.made(study_uid, revision)
        read = None if made is None else self._store.outcomes.get(study_uid, made.revision)
        if read is None:
            rows = self._instances(study_uid, revision)
            ways = (self._options.cells_by.get(row.calling_ae) for row in rows)
            model, decision_digest = self.pipeline.bundle.identity, self.pipeline.decision_digest(ways)
        else:
            model, decision_digest = read.model, read.decision_digest
        found = self._store.findings.get(study_uid, revision)
        return aggregate.study_findings(study_uid, revision, model, decision_digest, found)

    def _sources(self, findings: StudyFindings, after: StudyFindings) -> tuple[dict[str, Dataset], ReportContext]:
        """Return the headers that a report quotes, and what else it needs.

        Parameters
        ----------
        after:
            The findings as they are reported: of a signed revision, with the person's decisions.

        Raises
        ------
        InputFault
            The instances name different patients.
        """
        study_uid, revision = findings.study_uid, findings.revision
        pictures = self._pictures(findings, after)
        rows = {row.sop_instance_uid: row for row in self._instances(study_uid, revision)}
        lead = next((one.sop_instance_uid for one in findings.instances if one.sop_instance_uid in rows), "")
        each = ((uid, _header(row, only=None if uid == lead else OF_EACH)) for uid, row in rows.items())
        headers = gathered(each, lead, readable)
        check_one_patient(headers.values())
        context = ReportContext(
            # When the revision was closed, not now: writing the report again gives the same bytes.
            made_at=datetime.fromtimestamp(self._store.revisions.get(study_uid, revision).created_at, UTC).astimezone(),
            predecessor=self._predecessor(study_uid, revision),
            signed_before=self._store.reviews.signed_before(study_uid, revision) is not None,
            model_card=self.pipeline.bundle.contract.intended_use,
            host_name=self._options.host_name,
            thumbnails=pictures.thumbnails,
            pictures=pictures.key,
            annotations_above=self._options.annotations_above,
            pdf=self._options.pdf,
        )
        return headers, context

    def _predecessor(self, study_uid: str, revision: int) -> PriorReport | None:
        """Return the SR of the nearest earlier revision that has one."""
        for earlier in range(revision - 1, 0, -1):
            for artefact in self._store.artefacts.get(study_uid, earlier):
                if artefact.kind == ArtefactKind.SR:
                    return prior_report(artefact)
        return None

    def _pictures(self, findings: StudyFindings, after: StudyFindings) -> Pictures:
        """Return the pictures of the cells; those of a revision that was made by signing were kept at its reading.

        A key cell that only the person's decisions made one was kept as JPEG, and is explained as that shows it.
        """
        study_uid, reading = findings.study_uid, findings.revision
        while (made := self._store.reviews.made(study_uid, reading)) is not None:
            reading = made.revision
        chosen = {cell.tracking_uid for cell in key_cells(after, self._options.key_images)}
        kept = None if reading == findings.revision else self._kept_pictures(study_uid, reading)
        if kept is not None:
            known = {uid: picture for uid, picture in kept.key.items() if uid in chosen}
            others = {
                uid: _rgb(kept.thumbnails[uid]) for uid in sorted(chosen - known.keys()) if uid in kept.thumbnails
            }
            return Pictures(kept.thumbnails, known | self._explained(study_uid, others))
        thumbnails, crops = {}, {}
        for cell, crop in self._cells_with_crops(findings):
            thumbnails[cell.tracking_uid] = _jpeg(crop)
            if cell.tracking_uid in chosen:
                crops[cell.tracking_uid] = np.array(crop)
        pictures = Pictures(thumbnails, self._explained(study_uid, crops))
        self._store.artefacts.put_pictures(study_uid, reading, pictures.packed())
        return pictures

    def _kept_pictures(self, study_uid: str, reading: int) -> Pictures | None:
        kept = self._store.artefacts.pictures(study_uid, reading)
        with suppress(StoreDamaged):
            return None if kept is None else Pictures.unpacked(kept)
        return None

    def _explained(self, study_uid: str, crops: Mapping[str, Crops]) -> dict[str, CellPicture]:
        """Return the cells with what in each spoke for a lymphoblast, where the model tells."""
        if self._explain is None or not crops:
            return {uid: CellPicture(crop) for uid, crop in crops.items()}
        try:
            maps = self._explain(np.stack(list(crops.values())), [_LYMPHOBLAST] * len(crops))
        except ModelFault as fault:  # the cells are judged: their report does not wait for what would be nice to see
            _log.warning("cells_not_explained", study_uid=study_uid, reason=str(fault))
            return {uid: CellPicture(crop) for uid, crop in crops.items()}
        return {uid: CellPicture(crop, evidence) for (uid, crop), evidence in zip(crops.items(), maps, strict=True)}

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
                self._keep(study_uid, revision, f"{chunk}.npy", crops[np.concatenate(masks)])
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
            cells_by=self._options.cells_by.get(row.calling_ae),
            spacing_um=self._options.spacing_um.get(row.calling_ae),
        )

    def _work(self, study_uid: str, revision: int) -> Path:
        return self._work_folder / f"{study_uid}@{revision}"

    def _keep(self, study_uid: str, revision: int, name: str, content: NDArray[Any]) -> None:
        folder = self._work(study_uid, revision)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            partial = folder / f"{name}.partial"
            with partial.open("wb") as stream:
                np.save(stream, content)
            partial.replace(folder / name)
        except OSError as error:
            raise StoreFault(f"cannot write work files: {error.strerror}: free some disk space") from error

    def _crops(self, study_uid: str, revision: int, chunk: int, findings: list[InstanceFindings]) -> Crops:
        file = self._work(study_uid, revision) / f"{chunk}.npy"
        with suppress(OSError, ValueError):
            crops: Crops = np.load(file, mmap_mode="r")
            if len(crops) == sum(len(instance.cells) for instance in findings):
                return crops
        # An unsynced file after a power cut, or one that went ahead of the index: what it held can be made again.
        found, again = self._find(self._chunks(study_uid, revision)[chunk])
        kept = {cell.tracking_uid for instance in findings for cell in instance.cells}
        masks = [np.array([cell.tracking_uid in kept for cell in instance.cells], np.bool_) for instance in found]
        return _joined(again, masks)

    def _sample(self, study_uid: str, revision: int) -> NDArray[np.int64]:
        """Return the priorities of the sample so far; without them more cells are judged than need be, no others."""
        with suppress(OSError, ValueError):
            kept: NDArray[np.int64] = np.load(self._work(study_uid, revision) / _SAMPLE_FILE)
            return kept
        return np.zeros(0, np.int64)


def _joined(crops: list[Crops], masks: list[NDArray[np.bool_]]) -> Crops:
    return np.concatenate([own[mask] for own, mask in zip(crops, masks, strict=True)])


def prior_report(sr: Artefact) -> PriorReport:
    """Return how a structured report is named by the one that replaces it."""
    header = dcmread(BytesIO(sr.content), specific_tags=["SeriesInstanceUID", "SOPClassUID"])
    return PriorReport(
        sop_instance_uid=sr.uid,
        sop_class_uid=str(header.SOPClassUID),
        series_uid=str(header.SeriesInstanceUID),
    )


def _header(row: InstanceRow, *, only: Iterable[str] | None) -> Dataset:
    """Return the header of an instance, or some of it; of one that cannot be parsed any more, what the index knows."""
    try:
        return read_header(row.path) if only is None else read_elements(row.path, only)
    except InputFault:
        known = Dataset()
        known.SOPInstanceUID = row.sop_instance_uid
        known.SOPClassUID = row.sop_class_uid
        known.StudyInstanceUID = row.study_uid
        known.SeriesInstanceUID = row.series_uid
        return known


def _jpeg(crop: Crops) -> bytes:
    buffer = BytesIO()
    Image.fromarray(crop).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _rgb(jpeg: bytes) -> Crops:
    return np.asarray(Image.open(BytesIO(jpeg)).convert("RGB"))
