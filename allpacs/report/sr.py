"""Findings to a DICOM structured report: Comprehensive 3D SR with root template TID 1500.

One group of TID 1410 a cell (outline, class, probability), but for those that are in annotations only; counts and
fraction under Derived Imaging Measurements (TID 1420); the summary, the notice and what could not be read under
Qualitative Evaluations. Study-level numbers are no measurement group, because a group without a region makes a widely
used viewer fail.

Source: PS3.3 A.35.13; PS3.16 TID 1500, 1410, 1420, 4019; IHE AI Results (AIR).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.tag import Tag

from allpacs.domain.artefacts import DICOM, Artefact, ArtefactKind
from allpacs.domain.findings import CellFinding, InstanceFindings, StudyFindings
from allpacs.domain.review import Signed
from allpacs.report import codes, wording
from allpacs.report.content import (
    CONTAINS,
    HAS_CONCEPT_MOD,
    HAS_OBS_CONTEXT,
    HAS_PROPERTIES,
    attached,
    coded,
    container,
    identified,
    items,
    measured,
    named,
    opening,
    region,
    region_in_space,
    written,
)
from allpacs.report.context import ReportContext, result_uid
from allpacs.report.dicom_object import code_item, part_10
from allpacs.report.document import document
from allpacs.report.format import Format
from allpacs.report.inputs import FormatInputs
from allpacs.report.listing import listed_cells
from allpacs.report.source import Source, clean

#: How the report names what goes with it, in this order.
_ATTACHED: dict[str, tuple[Code, str]] = {
    ArtefactKind.KEY_IMAGES: (codes.BEST_ILLUSTRATION, "IMAGE"),
    ArtefactKind.ANNOTATIONS: (codes.CELL_ANNOTATIONS, "COMPOSITE"),
}


def structured_report(inputs: FormatInputs) -> Artefact:
    """Return the structured report of one revision of a study, as a Part 10 file.

    Parameters
    ----------
    inputs:
        Findings of all instances of the study, also of those that could not be read.
    """
    findings, context = inputs.findings, inputs.context
    uid = result_uid(FORMAT.kind, findings, context)
    prior = context.predecessor if context.predecessor and context.predecessor.sop_instance_uid != uid else None
    content = items(_root_content(inputs))
    attached_results = [result for kind in FORMAT.after for result in inputs.results.get(kind, ())]
    report = document(inputs, uid, prior, attached_results)
    report.ValueType = "CONTAINER"
    report.ConceptNameCodeSequence = [code_item(codes.IMAGING_MEASUREMENT_REPORT)]
    report.ContinuityOfContent = "SEPARATE"
    template = Dataset()
    template.MappingResource = "DCMR"
    template.TemplateIdentifier = "1500"
    report.ContentTemplateSequence = [template]
    replaced = prior.sop_instance_uid if prior else None
    return FORMAT.artefact(uid, _with_content(report, content), supersedes=replaced)


def _root_content(inputs: FormatInputs) -> Iterator[bytes]:
    findings, source, context = inputs.findings, inputs.source, inputs.context
    signed = context.signed
    model = findings.model
    algorithm = _algorithm(findings)
    yield coded(HAS_CONCEPT_MOD, codes.LANGUAGE, codes.ENGLISH)
    yield coded(HAS_OBS_CONTEXT, codes.OBSERVER_TYPE, codes.DEVICE)
    yield identified(HAS_OBS_CONTEXT, codes.DEVICE_OBSERVER_UID, model.device_uid)
    yield written(HAS_OBS_CONTEXT, codes.DEVICE_OBSERVER_NAME, clean(f"{model.name} {model.version}"))
    yield written(HAS_OBS_CONTEXT, codes.DEVICE_OBSERVER_MANUFACTURER, clean(model.manufacturer))
    yield written(HAS_OBS_CONTEXT, codes.DEVICE_OBSERVER_MODEL_NAME, clean(model.family))
    if signed is not None:
        yield from _person(signed)
    yield coded(HAS_CONCEPT_MOD, codes.PROCEDURE_REPORTED, source.procedure)
    listed = list(listed_cells(findings, context))
    groups = (
        _cell_group(instance, cell, source, algorithm, () if signed is None else _review(signed, cell))
        for instance, cell in listed
    )
    yield container(CONTAINS, codes.IMAGING_MEASUREMENTS, groups if listed else algorithm)
    yield container(CONTAINS, codes.DERIVED_IMAGING_MEASUREMENTS, [*algorithm, *_derived(findings)])
    yield container(CONTAINS, codes.QUALITATIVE_EVALUATIONS, list(_evaluations(findings, context)))
    for kind, (name, value_type) in _ATTACHED.items():
        for result in inputs.results.get(kind, ()):
            yield attached(name, value_type, result.sop_class_uid, result.uid)


def _person(signed: Signed) -> Iterator[bytes]:
    """TID 1003: the person who signed, a second observer beside the device."""
    reviewer = signed.review.reviewer
    yield coded(HAS_OBS_CONTEXT, codes.OBSERVER_TYPE, codes.PERSON)
    yield named(HAS_OBS_CONTEXT, codes.PERSON_OBSERVER_NAME, clean(reviewer.name))
    if reviewer.identifier:
        yield written(HAS_OBS_CONTEXT, codes.PERSON_OBSERVER_LOGIN, clean(reviewer.identifier))
    yield written(HAS_OBS_CONTEXT, codes.PERSON_OBSERVER_ORGANIZATION, clean(reviewer.organisation))


def _algorithm(findings: StudyFindings) -> list[bytes]:
    """TID 4019: which algorithm, in which version, with which settings."""
    model = findings.model
    return [
        written(HAS_CONCEPT_MOD, codes.ALGORITHM_NAME, clean(model.name)),
        written(HAS_CONCEPT_MOD, codes.ALGORITHM_VERSION, clean(model.version)),
        written(HAS_CONCEPT_MOD, codes.ALGORITHM_MANUFACTURER, clean(model.manufacturer)),
        written(HAS_CONCEPT_MOD, codes.ALGORITHM_PARAMETERS, clean(f"network {model.family}")),
        written(HAS_CONCEPT_MOD, codes.ALGORITHM_PARAMETERS, clean(f"model {model.digest}")),
        written(HAS_CONCEPT_MOD, codes.ALGORITHM_PARAMETERS, clean(f"decision {findings.decision_digest}")),
        coded(HAS_CONCEPT_MOD, codes.ALGORITHM_FAMILY, codes.ARTIFICIAL_INTELLIGENCE),
    ]


def _cell_group(
    instance: InstanceFindings, cell: CellFinding, source: Source, algorithm: list[bytes], review: Iterable[bytes]
) -> bytes:
    """TID 1410 for one cell."""
    group = [
        written(HAS_OBS_CONTEXT, codes.TRACKING_IDENTIFIER, cell.tracking_id),
        identified(HAS_OBS_CONTEXT, codes.TRACKING_UNIQUE_IDENTIFIER, cell.tracking_uid),
    ]
    group.append(coded(CONTAINS, codes.FINDING, _finding(cell)))
    group += algorithm
    site = source.site(cell.sop_instance_uid)
    if site is not None:
        group.append(coded(HAS_CONCEPT_MOD, codes.FINDING_SITE, site))
    outline = cell.outline if len(cell.outline) >= 3 else cell.box.corners()
    frame_number = cell.frame_number if instance.frames > 1 else None
    group.append(
        region(codes.IMAGE_REGION, outline, instance.sop_class_uid, instance.sop_instance_uid, frame_number),
    )
    on_slide = _on_slide(instance, cell)
    if on_slide and instance.matrix is not None:
        group.append(region_in_space(codes.OUTLINE_ON_SLIDE, on_slide, instance.matrix.frame_of_reference_uid))
    if cell.probability_all is not None:
        number = wording.decimal_string(cell.probability_all)
        group.append(measured(CONTAINS, codes.PROBABILITY, number, codes.NO_UNITS))
        if cell.label is not None:  # viewers write the numbers of a group beside its outline, and no finding
            number = wording.decimal_string(wording.class_probability(cell.label, cell.probability_all))
            group.append(measured(CONTAINS, codes.CLASS_PROBABILITIES[cell.label], number, codes.NO_UNITS))
    if cell.reason is not None:
        group.append(coded(CONTAINS, codes.REASON_NOT_ASSESSABLE, codes.REASONS[cell.reason]))
    group += review
    return container(CONTAINS, codes.MEASUREMENT_GROUP, group, template="1410")


def _on_slide(instance: InstanceFindings, cell: CellFinding) -> list[tuple[float, float, float]]:
    """Return a cell's outline on the slide in millimetres; empty where the image does not say where it lies."""
    matrix, place = instance.matrix, cell.on_matrix
    if matrix is None or place is None or not matrix.frame_of_reference_uid:
        return []
    outline = place.outline if len(place.outline) >= 3 else place.box.corners()
    return [point for point in map(matrix.on_slide_mm, outline) if point is not None]


def _finding(cell: CellFinding) -> Code:
    if cell.label is not None:
        return codes.LABELS[cell.label]
    return codes.INDETERMINATE if cell.reason is None else codes.NOT_ASSESSABLE[cell.reason]


def _review(signed: Signed, cell: CellFinding) -> Iterator[bytes]:
    """Qualitative evaluations of one cell: what the person decided, and what the algorithm had said."""
    decision = signed.decision(cell)
    before = signed.changed(cell)
    if decision is not None:
        yield coded(CONTAINS, codes.REVIEW_DECISION, codes.DECISIONS[decision.decision])
    if before is not None:
        yield coded(CONTAINS, codes.FINDING_BEFORE_REVIEW, _finding(before))
    if decision is not None and clean(decision.comment):
        yield written(CONTAINS, codes.COMMENT, clean(decision.comment))


def _derived(findings: StudyFindings) -> Iterator[bytes]:
    """TID 1420: numbers derived from all cells together."""
    counts = findings.counts
    for name, number in (
        (codes.CELLS_FOUND, findings.found),
        (codes.LYMPHOBLASTS, counts.all),
        (codes.HEMATOGONES, counts.hem),
        (codes.CELLS_NOT_ASSESSABLE, counts.not_assessable),
    ):
        yield measured(CONTAINS, name, str(number), codes.CELLS_UNIT)
    if findings.fraction is not None:
        low = wording.decimal_string(findings.fraction.low)
        high = wording.decimal_string(findings.fraction.high)
        limits = [
            measured(HAS_PROPERTIES, codes.INTERVAL_LOW, low, codes.NO_UNITS),
            measured(HAS_PROPERTIES, codes.INTERVAL_HIGH, high, codes.NO_UNITS),
        ]
        value = wording.decimal_string(findings.fraction.value)
        yield measured(CONTAINS, codes.LYMPHOBLAST_FRACTION, value, codes.NO_UNITS, limits)


def _evaluations(findings: StudyFindings, context: ReportContext) -> Iterator[bytes]:
    signed = context.signed
    yield written(CONTAINS, codes.COMMENT, wording.notice(signed))
    yield written(CONTAINS, codes.SUMMARY, wording.summary(findings))
    if clean(context.model_card):
        yield written(CONTAINS, codes.MODEL_CARD, clean(context.model_card))
    if signed is not None:
        yield written(CONTAINS, codes.COMMENT, wording.review_summary(signed))
        if clean(signed.review.comment):
            yield written(CONTAINS, codes.COMMENT, clean(signed.review.comment))
    for instance in findings.instances:
        if instance.sop_instance_uid in context.annotated:
            cells = wording.counted(len(instance.cells), "cell is", "cells are")
            number = 1 + context.annotated.index(instance.sop_instance_uid)
            said = f"{instance.sop_instance_uid}: its {cells} in the annotations, instance {number} of their series"
            changed = 0 if signed is None else sum(signed.changed(cell) is not None for cell in instance.cells)
            also = f"; {changed} of them, changed by the reviewer, in this report, too" if changed else ""
            yield written(CONTAINS, codes.COMMENT, f"{said}{also}.")
        if instance.fault is not None:
            fault = clean(f"{instance.sop_instance_uid}: {instance.fault}")
            yield written(CONTAINS, codes.UNREADABLE_INSTANCE, fault)
        for remark in wording.remarks(instance):
            yield written(CONTAINS, codes.COMMENT, clean(f"{instance.sop_instance_uid}: {remark}"))


def _with_content(report: Dataset, content: bytes) -> bytes:
    """Return the data set as a Part 10 file in Explicit VR Little Endian, without reading a clock.

    The Content Sequence, already encoded, has the highest tag of all and follows what pydicom writes.
    """
    if max(report.keys()) >= Tag("ContentSequence"):
        raise ValueError("an element would follow the Content Sequence")
    return b"".join([part_10(report), opening("ContentSequence", "SQ", len(content)), content])


FORMAT = Format(ArtefactKind.SR, DICOM, ".dcm", structured_report, after=tuple(_ATTACHED))
