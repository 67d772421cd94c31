"""Studies to write reports from: findings, headers and context, made of nothing but numbers and names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone

from pydicom.dataset import Dataset

from allpacs.domain.findings import (
    CellFinding,
    CellLabel,
    Counts,
    Fraction,
    InstanceFindings,
    ModelIdentity,
    NotAssessable,
    StudyFindings,
)
from allpacs.domain.geometry import BoxPx
from allpacs.report.context import FhirOptions, PriorReport, ReportContext
from allpacs.report.html import html_report
from allpacs.report.inputs import FormatInputs, ResultReference, format_inputs
from allpacs.report.source import Headers

#: Why a cell has no class before anybody reviewed it.
#: Reasons of every kind: the image, the thresholds, the model. Named types of cells have tests of their own.
MODEL_REASONS = [
    NotAssessable.EMPTY,
    NotAssessable.BLURRED,
    NotAssessable.TOO_SMALL,
    NotAssessable.CUT_OFF,
    NotAssessable.INDETERMINATE,
    NotAssessable.OUT_OF_DISTRIBUTION,
    NotAssessable.MODEL_FAILED,
]

MICROSCOPIC = "1.2.840.10008.5.1.4.1.1.77.1.2"
WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
STUDY = "1.2.826.0.1.3680043.10.999.1"
SERIES = f"{STUDY}.1"
MODEL = ModelIdentity("cnmc-b3", "1.0.0", "sha256:" + "ab" * 32, "EfficientNetB3")
MADE_AT = datetime(2026, 3, 4, 15, 6, 7, tzinfo=timezone(timedelta(hours=3, minutes=30)))
PRIOR = PriorReport("2.25.111", "1.2.840.10008.5.1.4.1.1.88.34", "2.25.112")
CONTEXT = ReportContext(
    made_at=MADE_AT,
    model_card="Trained on 238 ALL and 143 HEM cells.",
    fhir=FhirOptions(cells="all", wado_url="https://pacs.example/studies/{study}/series/{series}/instances/{instance}"),
    host_name="node-1",
)


def header(number: int = 1, **changes: object) -> Dataset:
    """Return a VL Microscopic header without pixels; None removes an element."""
    found = Dataset()
    found.SpecificCharacterSet = "ISO_IR 192"
    found.SOPClassUID = MICROSCOPIC
    found.SOPInstanceUID = f"{SERIES}.{number}"
    found.StudyInstanceUID = STUDY
    found.SeriesInstanceUID = SERIES
    found.PatientName = "Müller^Änne"
    found.PatientID = "P-17"
    found.IssuerOfPatientID = "HOSP"
    found.PatientBirthDate = "20190304"
    found.PatientSex = "F"
    found.AccessionNumber = "ACC-9"
    found.StudyID = "S1"
    found.StudyDate = "20260303"
    found.StudyTime = "101112"
    found.StudyDescription = "Bone marrow smear"
    found.Modality = "GM"
    found.Rows = 450
    found.Columns = 450
    kind, specimen = Dataset(), Dataset()
    kind.CodeValue, kind.CodingSchemeDesignator, kind.CodeMeaning = "119359002", "SCT", "Bone marrow specimen"
    specimen.SpecimenIdentifier = "SP-1"
    specimen.IssuerOfTheSpecimenIdentifierSequence = []
    specimen.SpecimenUID = "1.2.826.0.1.3680043.10.999.7"
    specimen.SpecimenTypeCodeSequence = [kind]
    specimen.SpecimenPreparationSequence = []
    slide = Dataset()
    slide.CodeValue, slide.CodingSchemeDesignator, slide.CodeMeaning = "433466003", "SCT", "Microscope slide"
    found.ContainerIdentifier = "SLIDE-1"
    found.IssuerOfTheContainerIdentifierSequence = []
    found.ContainerTypeCodeSequence = [slide]
    found.SpecimenDescriptionSequence = [specimen]
    for keyword, value in changes.items():
        if value is None:
            delattr(found, keyword)
        else:
            setattr(found, keyword, value)
    return found


def cell(instance: str, number: int, frame: int = 1, **outcome: object) -> CellFinding:
    """Return a round cell."""
    x, y = 40 + 100 * (number % 4), 50 + 100 * (number // 4)
    outline = tuple(
        (x + 40 + 38 * math.cos(2 * math.pi * k / 40), y + 40 + 38 * math.sin(2 * math.pi * k / 40)) for k in range(40)
    )
    return CellFinding(instance, frame, number, BoxPx(x, y, 80, 80), outline, **outcome)  # type: ignore[arg-type]


def study(instances: Sequence[InstanceFindings], revision: int = 1, fraction: Fraction | None = None) -> StudyFindings:
    """Return findings with counts that follow from the instances."""
    cells = [found for instance in instances for found in instance.cells]
    counts = Counts(
        sum(c.label is CellLabel.ALL for c in cells),
        sum(c.label is CellLabel.HEM for c in cells),
        sum(c.label is None for c in cells),
    )
    if counts.assessable and fraction is None:
        share = counts.all / counts.assessable
        fraction = Fraction(share, max(0.0, share - 0.21), min(1.0, share + 0.19))
    return StudyFindings(STUDY, revision, MODEL, "sha256:" + "cd" * 32, tuple(instances), counts, fraction)


def instance(
    number: int,
    cells: Sequence[CellFinding] = (),
    frames: int = 1,
    fault: str | None = None,
    sop_class: str = MICROSCOPIC,
) -> InstanceFindings:
    """Return the findings of one instance."""
    return InstanceFindings(f"{SERIES}.{number}", sop_class, SERIES, frames, tuple(cells), fault)


def usual_study(revision: int = 1) -> StudyFindings:
    """Return a study with every outcome, a multi-frame slide, an empty and an unreadable instance."""
    first, second, slide = f"{SERIES}.1", f"{SERIES}.2", f"{SERIES}.3"
    rejected = [
        cell(second, k + 1, reason=reason, probability_all=0.5 if reason is NotAssessable.INDETERMINATE else None)
        for k, reason in enumerate(MODEL_REASONS)
    ]
    return study(
        [
            instance(
                1,
                [
                    cell(first, 1, label=CellLabel.ALL, probability_all=0.9731234567),
                    cell(first, 2, label=CellLabel.HEM, probability_all=0.0400001),
                ],
            ),
            instance(2, rejected),
            instance(3, [cell(slide, 1, 2, label=CellLabel.ALL, probability_all=1.0)], frames=3, sop_class=WHOLE_SLIDE),
            instance(4),
            instance(5, fault="JPEG 2000 code stream ends too early"),
        ],
        revision,
    )


def usual_headers() -> dict[str, Dataset]:
    """Return the headers of `usual_study`; the unreadable instance's too."""
    found = [header(1), header(2), header(3, SOPClassUID=WHOLE_SLIDE, NumberOfFrames=3), header(4), header(5)]
    return {h.SOPInstanceUID: h for h in found}


def inputs_after(
    sr_uid: str, findings: StudyFindings, headers: Headers, context: ReportContext = CONTEXT
) -> FormatInputs:
    """Return what a format is written from after the structured report of this UID and the HTML report."""
    inputs = format_inputs(findings, headers, context)
    page = html_report(inputs)
    results = {"sr": (ResultReference(sr_uid),), "html": (ResultReference(page.uid),)}
    return replace(inputs, results=results, contents={"html": page.content})


def many_cells(number: int) -> tuple[StudyFindings, dict[str, Dataset]]:
    """Return a study of single-cell instances."""
    instances = []
    headers = {}
    for k in range(1, number + 1):
        label = CellLabel.ALL if k % 3 else CellLabel.HEM
        name = f"{SERIES}.{k}"
        instances.append(instance(k, [cell(name, 1, label=label, probability_all=(k % 1000) / 1000)]))
        headers[name] = header(k)
    return study(instances), headers
