"""How long the reports of a study take: SR, HTML, FHIR and HL7 v2, by number of cells."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
from pydicom.uid import generate_uid

from allpacs.app import make_pipeline
from allpacs.classify import aggregate
from allpacs.decode.part10 import read_header
from allpacs.domain.findings import StudyFindings
from allpacs.report.context import ReportContext
from allpacs.report.source import Headers
from allpacs.settings import Settings
from allpacs.study.pipeline import ImageFile
from allpacs.study.results import results
from benchmarks import instances
from benchmarks.measure import Row, alone, paired
from benchmarks.scale import Scale


def rows(scale: Scale) -> Iterator[Row]:
    """Yield report_1000_s, and report_linear: seconds a cell, ten times the cells against so many."""
    yield alone(
        "report_1000_s",
        _writing(scale, scale.report_cells),
        runs=scale.runs,
        unit="s",
        aim="<= 2",
        setting=f"SR, FHIR and HTML of {scale.report_cells} cells",
    )
    many = _writing(scale, scale.report_cells * 10)
    few = _writing(scale, scale.report_cells)
    yield paired(
        "report_linear",
        lambda: many() / (scale.report_cells * 10),
        lambda: few() / scale.report_cells,
        runs=max(1, scale.runs // 2),
        unit="s/cell",
        aim="<= 1.1",
        setting=f"{scale.report_cells * 10} cells against {scale.report_cells}",
    )


def _writing(scale: Scale, cells: int) -> Callable[[], float]:
    findings, headers = _study(scale, cells)
    context = ReportContext(made_at=datetime.now(UTC), host_name="benchmark")

    def measured() -> float:
        began = time.perf_counter()
        deque(results(findings, headers, context), maxlen=0)
        return time.perf_counter() - began

    return measured


def _study(scale: Scale, cells: int) -> tuple[StudyFindings, Headers]:
    """Return a study with so many cells: those of a few instances that are read, under UIDs of their own."""
    pipeline = make_pipeline(Settings())
    files = instances.study(scale.folder, min(cells, 24))
    read = []
    headers = {}
    for file in files:
        header = read_header(file)
        uid = str(header.SOPInstanceUID)
        image = ImageFile(file, uid, str(header.SOPClassUID), str(header.SeriesInstanceUID))
        found, crops = pipeline.find(image)
        read.append(pipeline.label(found, crops, lambda asked: np.tile(np.array([1, -1], np.float32), (len(asked), 1))))
        headers[uid] = header
    instances.discard(files)
    whole, all_headers = [], {}
    for number in range(cells):
        one = read[number % len(read)]
        uid = str(generate_uid())
        header = deepcopy(headers[one.sop_instance_uid])
        header.SOPInstanceUID = uid
        all_headers[uid] = header
        whole.append(
            replace(
                one, sop_instance_uid=uid, cells=tuple(replace(cell, sop_instance_uid=uid) for cell in one.cells[:1])
            )
        )
    study_uid = str(headers[read[0].sop_instance_uid].StudyInstanceUID)
    digest = pipeline.decision_digest([None])
    return aggregate.study_findings(study_uid, 1, pipeline.bundle.identity, digest, whole), all_headers
