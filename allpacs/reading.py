"""The steps of a reading, over the store: each can be run twice with the effect of once.

A study is read in chunks of instances. Between two steps a chunk's findings are in the index and its preprocessed
cells in a work file, so that a step which was interrupted is run again from what is on disk. Decoded frames are not
kept: they are many times larger than the cells in them and quick to make again.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom import Dataset, dcmread

from allpacs.classify import aggregate
from allpacs.decode.part10 import read_header
from allpacs.domain.artefacts import Artefact, ArtefactKind
from allpacs.domain.errors import InputFault, StoreFault
from allpacs.domain.findings import InstanceFindings, StudyFindings
from allpacs.pipeline import AskModel, Crops, ImageFile, Pipeline
from allpacs.report.context import PriorReport, ReportContext
from allpacs.results import results
from allpacs.signing import findings_as_signed, signed_results
from allpacs.store.records import InstanceRow
from allpacs.store.store import Store

_REVISIONS_REMEMBERED = 8
#: Stages of an instance's findings in the index.
FOUND, LABELLED = "cells", "classify"


@dataclass(frozen=True, slots=True)
class ReadingOptions:
    """How studies are read.

    Attributes
    ----------
    chunk_instances:
        Instances between two checkpoints.
    cells_by:
        Way of finding cells by calling AE title; a sender that is not named is judged by its pictures.
    host_name:
        Name of this station, for the report's device.
    spacing_um:
        Distance of pixels by calling AE title, for images that do not tell it.
    """

    chunk_instances: int
    cells_by: Mapping[str, str]
    host_name: str
    spacing_um: Mapping[str, float] = field(default_factory=dict)


class Reading:
    """The steps of a reading. Holds no state of its own: everything is in the store and the work folder."""

    def __init__(
        self, *, store: Store, pipeline: Pipeline, ask: AskModel, work_folder: Path, options: ReadingOptions
    ) -> None:
        self._store = store
        self._ask = ask
        # What is in a closed revision never changes; asking for it once keeps the cost of a chunk that of its cells.
        self._instances = lru_cache(maxsize=_REVISIONS_REMEMBERED)(store.revisions.instances)
        self._work_folder = work_folder
        self._options = options
        self.pipeline = pipeline

    @property
    def terms(self) -> str:
        """What a reading that was interrupted must go on with: the model, the decision settings, the size of chunks."""
        ways = sorted(self._options.cells_by.items())
        return f"{self.pipeline.bundle.digest} {self._options.chunk_instances} {self.pipeline.max_pixels} {ways}"

    def chunks(self, study_uid: str, revision: int) -> int:
        """Return how many chunks the revision has."""
        instances = len(self._instances(study_uid, revision))
        return -(-instances // self._options.chunk_instances)

    def find_cells(self, study_uid: str, revision: int, chunk: int) -> int:
        """Decode a chunk's instances, find their cells and keep both; return the number of cells."""
        findings, crops = self._find(study_uid, revision, chunk)
        self._keep_crops(study_uid, revision, chunk, crops)
        self._store.findings.put(study_uid, revision, findings, stage=FOUND)
        return sum(len(found.cells) for found in findings)

    def classify(self, study_uid: str, revision: int, chunk: int) -> int:
        """Label the cells of a chunk; return how many have a label."""
        uids = [row.sop_instance_uid for row in self._chunk(study_uid, revision, chunk)]
        found = self._store.findings.get(study_uid, revision, of=uids)
        by_uid = {findings.sop_instance_uid: findings for findings in found}
        findings = [by_uid[uid] for uid in uids]
        crops = self._crops(study_uid, revision, chunk)
        ends = np.cumsum([len(instance.cells) for instance in findings])
        labelled = self.pipeline.label_all(findings, np.split(crops, ends[:-1]), self._ask)
        self._store.findings.put(study_uid, revision, labelled, stage=LABELLED)
        return sum(cell.assessable for instance in labelled for cell in instance.cells)

    def report(self, study_uid: str, revision: int) -> dict[str, int]:
        """Write the study's artefacts; return its counts by outcome.

        A revision that a person made by signing has the findings of the one they reviewed, and no reading of its own.
        """
        review = self._store.reviews.signed(study_uid, revision)
        findings = self._findings(study_uid, revision)
        if review is None:
            artefacts, after = results(findings, *self._sources(findings)), findings
        else:
            review = review.of(findings.cells)
            artefacts = signed_results(findings, *self._sources(findings), review)
            after = findings_as_signed(findings, review)
        for artefact in artefacts:
            self._store.artefacts.put(study_uid, revision, artefact)
        self._store.outcomes.put(after)
        return {
            "instances": len(findings.instances),
            "cells": findings.counts.total,
        }

    def discard_work(self, study_uid: str, revision: int) -> None:
        """Delete the work files of a revision whose artefacts are written."""
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

    def _sources(self, findings: StudyFindings) -> tuple[dict[str, Dataset], ReportContext]:
        """Return the headers that a report quotes, and what else it needs."""
        study_uid, revision = findings.study_uid, findings.revision
        headers = {row.sop_instance_uid: _header(row) for row in self._instances(study_uid, revision)}
        context = ReportContext(
            # When the revision was closed, not now: writing the report again gives the same bytes.
            made_at=datetime.fromtimestamp(self._store.revisions.get(study_uid, revision).created_at, UTC).astimezone(),
            predecessor=self._predecessor(study_uid, revision),
            model_card=self.pipeline.bundle.contract.intended_use,
            host_name=self._options.host_name,
            thumbnails=self._thumbnails(findings),
        )
        return headers, context

    def _predecessor(self, study_uid: str, revision: int) -> PriorReport | None:
        """Return the SR of the nearest earlier revision that has one."""
        for earlier in range(revision - 1, 0, -1):
            for artefact in self._store.artefacts.get(study_uid, earlier):
                if artefact.kind == ArtefactKind.SR:
                    return prior_report(artefact)
        return None

    def _thumbnails(self, findings: StudyFindings) -> dict[str, bytes]:
        """Return a small JPEG of each cell, as the network saw it, by tracking UID."""
        by_instance = {instance.sop_instance_uid: instance for instance in findings.instances}
        thumbnails = {}
        for chunk in range(self.chunks(findings.study_uid, findings.revision)):
            crops = iter(self._crops(findings.study_uid, findings.revision, chunk))
            for row in self._chunk(findings.study_uid, findings.revision, chunk):
                for cell in by_instance[row.sop_instance_uid].cells:
                    thumbnails[cell.tracking_uid] = _jpeg(next(crops))
        return thumbnails

    def _chunk(self, study_uid: str, revision: int, chunk: int) -> list[InstanceRow]:
        size = self._options.chunk_instances
        return self._instances(study_uid, revision)[chunk * size : (chunk + 1) * size]

    def _find(self, study_uid: str, revision: int, chunk: int) -> tuple[list[InstanceFindings], Crops]:
        found = [self.pipeline.find(self._image(row)) for row in self._chunk(study_uid, revision, chunk)]
        return [findings for findings, _ in found], np.concatenate([crops for _, crops in found])

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

    def _keep_crops(self, study_uid: str, revision: int, chunk: int, crops: Crops) -> None:
        folder = self._work(study_uid, revision)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            partial = folder / f"{chunk}.partial"
            with partial.open("wb") as stream:
                np.save(stream, crops)
            partial.replace(folder / f"{chunk}.npy")
        except OSError as error:
            raise StoreFault(f"cannot write work files: {error.strerror}: free some disk space") from error

    def _crops(self, study_uid: str, revision: int, chunk: int) -> Crops:
        file = self._work(study_uid, revision) / f"{chunk}.npy"
        try:
            crops: Crops = np.load(file, mmap_mode="r")
        except (OSError, ValueError):  # an unsynced file after a power cut: what it held can be made again
            crops = self._find(study_uid, revision, chunk)[1]
        return crops


def prior_report(sr: Artefact) -> PriorReport:
    """Return how a structured report is named by the one that replaces it."""
    tags = ["SeriesInstanceUID", "SOPClassUID", "VerificationFlag"]
    header = dcmread(BytesIO(sr.content), specific_tags=tags)
    return PriorReport(
        sop_instance_uid=sr.uid,
        sop_class_uid=str(header.SOPClassUID),
        series_uid=str(header.SeriesInstanceUID),
        verified=header.VerificationFlag == "VERIFIED",
    )


def _header(row: InstanceRow) -> Dataset:
    """Return the header of a stored instance; of one that cannot be parsed any more, what the index knows."""
    try:
        return read_header(row.path)
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
