"""Findings to a DICOM structured report: Comprehensive 3D SR with root template TID 1500.

The notice, the summary and what could not be read come first, under Qualitative Evaluations. Counts and fraction follow
under Derived Imaging Measurements, once for each specimen, then the images (TID 1600), then a group of TID 1410 for
each cell: outline, class, probability of that class. Cells that are in annotations have no group. If a person changed a
cell, the person is the observer of its group, and what the algorithm had found stands below. Study-level numbers are
not a measurement group, because a group without a region makes a widely used viewer fail.

Source: PS3.3 A.35.13; PS3.16 TID 1500, 1006, 1009, 1410, 1420, 1600, 4019; IHE AI Results (AIR).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.tag import Tag

from allpacs.domain.artefacts import DICOM, Artefact, ArtefactKind
from allpacs.domain.findings import CellFinding, InstanceFindings, StudyFindings, tracking_id
from allpacs.domain.review import Signed
from allpacs.domain.size import cell_size
from allpacs.report import codes, specimens, wording
from allpacs.report.content import (
    CONTAINS,
    HAS_CONCEPT_MOD,
    HAS_OBS_CONTEXT,
    HAS_PROPERTIES,
    attached,
    coded,
    container,
    identified,
    image,
    items,
    measured,
    named,
    opening,
    region,
    region_in_space,
    written,
)
from allpacs.report.context import result_uid
from allpacs.report.dicom_object import code_item, part_10
from allpacs.report.document import document
from allpacs.report.elements import clean
from allpacs.report.format import Format
from allpacs.report.inputs import FormatInputs
from allpacs.report.listing import listed_cells
from allpacs.report.source import Source, Specimen

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
    """TID 1500, what a reader needs first at the top: the notice and the summary stand before the cells."""
    findings, source, context = inputs.findings, inputs.source, inputs.context
    signed = context.signed
    model = findings.model
    yield coded(HAS_CONCEPT_MOD, codes.LANGUAGE, codes.ENGLISH)
    yield coded(HAS_OBS_CONTEXT, codes.OBSERVER_TYPE, codes.DEVICE)
    yield identified(HAS_OBS_CONTEXT, codes.DEVICE_OBSERVER_UID, model.device_uid)
    yield written(HAS_OBS_CONTEXT, codes.DEVICE_OBSERVER_NAME, clean(f"{model.name} {model.version}"))
    yield written(HAS_OBS_CONTEXT, codes.DEVICE_OBSERVER_MANUFACTURER, clean(model.manufacturer))
    yield written(HAS_OBS_CONTEXT, codes.DEVICE_OBSERVER_MODEL_NAME, clean(model.family))
    if signed is not None:
        yield from _person(signed)
    one = len(inputs.parts) == 1
    if one:
        yield from _subject(inputs.parts[0].specimens)
    elif any(part.specimens for part in inputs.parts):
        yield coded(HAS_OBS_CONTEXT, codes.SUBJECT_CLASS, codes.SPECIMEN)
    yield coded(HAS_CONCEPT_MOD, codes.PROCEDURE_REPORTED, source.procedure)
    yield container(CONTAINS, codes.QUALITATIVE_EVALUATIONS, list(_evaluations(inputs)))
    for part in inputs.parts:
        subject = [] if one else list(_subject(part.specimens))
        yield container(
            CONTAINS,
            codes.DERIVED_IMAGING_MEASUREMENTS,
            [*subject, *_algorithm(findings, whole=True), *_derived(part.findings)],
        )
    if any(instance.fault is None for instance in findings.instances):
        yield container(CONTAINS, codes.IMAGE_LIBRARY, [_image_library(findings)])
    listed = list(listed_cells(findings, context))
    numbers = findings.image_numbers
    algorithm = _algorithm(findings)
    subjects = {} if one else {part.specimens: list(_subject(part.specimens)) for part in inputs.parts}
    groups = (
        _cell_group(
            instance,
            cell,
            tracking_id(numbers[instance.sop_instance_uid], instance.frames, cell),
            [*subjects.get(source.specimens.get(instance.sop_instance_uid, ()), ()), *_site(source, instance)],
            algorithm,
            signed,
        )
        for instance, cell in listed
    )
    yield container(CONTAINS, codes.IMAGING_MEASUREMENTS, groups if listed else _algorithm(findings, whole=True))
    for kind, (name, value_type) in _ATTACHED.items():
        for result in inputs.results.get(kind, ()):
            yield attached(name, value_type, result.sop_class_uid, result.uid)


def _subject(of: Sequence[Specimen]) -> Iterator[bytes]:
    """TID 1006 and 1009: the specimens that the findings are about; nothing if the images name none."""
    if not of:
        return
    yield coded(HAS_OBS_CONTEXT, codes.SUBJECT_CLASS, codes.SPECIMEN)
    for specimen in of:
        if specimen.uid:
            yield identified(HAS_OBS_CONTEXT, codes.SPECIMEN_UID, specimen.uid)
        if specimen.identifier:
            yield written(HAS_OBS_CONTEXT, codes.SPECIMEN_IDENTIFIER, specimen.identifier)
        if specimen.container:
            yield written(HAS_OBS_CONTEXT, codes.SPECIMEN_CONTAINER, specimen.container)


def _image_library(findings: StudyFindings) -> bytes:
    """TID 1600: the images that were analysed, so that a viewer can load them before it draws."""
    images = [image(one.sop_class_uid, one.sop_instance_uid) for one in findings.instances if one.fault is None]
    return container(CONTAINS, codes.IMAGE_LIBRARY_GROUP, images)


def _site(source: Source, instance: InstanceFindings) -> list[bytes]:
    site = source.site(instance.sop_instance_uid)
    return [] if site is None else [coded(HAS_CONCEPT_MOD, codes.FINDING_SITE, site)]


def _person(signed: Signed) -> Iterator[bytes]:
    """TID 1003: the person who signed, a second observer beside the device."""
    reviewer = signed.review.reviewer
    yield coded(HAS_OBS_CONTEXT, codes.OBSERVER_TYPE, codes.PERSON)
    yield named(HAS_OBS_CONTEXT, codes.PERSON_OBSERVER_NAME, clean(reviewer.name))
    if reviewer.identifier:
        yield written(HAS_OBS_CONTEXT, codes.PERSON_OBSERVER_LOGIN, clean(reviewer.identifier))
    yield written(HAS_OBS_CONTEXT, codes.PERSON_OBSERVER_ORGANIZATION, clean(reviewer.organisation))


def _algorithm(findings: StudyFindings, *, whole: bool = False) -> list[bytes]:
    """TID 4019: which algorithm, in which version; `whole`: with its settings, which are the same for every cell."""
    model = findings.model
    name = [
        written(HAS_CONCEPT_MOD, codes.ALGORITHM_NAME, clean(model.name)),
        written(HAS_CONCEPT_MOD, codes.ALGORITHM_VERSION, clean(model.version)),
    ]
    if not whole:
        return name
    return [
        *name,
        written(HAS_CONCEPT_MOD, codes.ALGORITHM_MANUFACTURER, clean(model.manufacturer)),
        written(HAS_CONCEPT_MOD, codes.ALGORITHM_PARAMETERS, clean(f"network {model.family}")),
        written(HAS_CONCEPT_MOD, codes.ALGORITHM_PARAMETERS, clean(f"model {model.digest}")),
        written(HAS_CONCEPT_MOD, codes.ALGORITHM_PARAMETERS, clean(f"decision {findings.decision_digest}")),
        coded(HAS_CONCEPT_MOD, codes.ALGORITHM_FAMILY, codes.ARTIFICIAL_INTELLIGENCE),
    ]


def _cell_group(
    instance: InstanceFindings,
    cell: CellFinding,
    name: str,
    of_instance: list[bytes],
    algorithm: list[bytes],
    signed: Signed | None,
) -> bytes:
    """TID 1410 for one cell.

    Parameters
    ----------
    name:
        Tracking Identifier.
    of_instance:
        Specimen and finding site of the image.
    algorithm:
        Who made the finding, if no person changed it.
    """
    before = None if signed is None else signed.changed(cell)
    group = [
        written(HAS_OBS_CONTEXT, codes.TRACKING_IDENTIFIER, name),
        identified(HAS_OBS_CONTEXT, codes.TRACKING_UNIQUE_IDENTIFIER, cell.tracking_uid),
    ]
    if signed is not None and before is not None:
        group += _person(signed)
    group.append(coded(CONTAINS, codes.FINDING, _finding(cell)))
    if before is None:
        group += algorithm
    group += of_instance
    group += _regions(instance, cell)
    if before is None:
        group += _probabilities(CONTAINS, cell)
    group += _size(instance, cell)
    if cell.reason is not None:
        group.append(coded(CONTAINS, codes.REASON_NOT_ASSESSABLE, codes.REASONS[cell.reason]))
    if signed is not None:
        group += _review(signed, cell, before, algorithm)
    return container(CONTAINS, codes.MEASUREMENT_GROUP, group, template="1410")


def _regions(instance: InstanceFindings, cell: CellFinding) -> Iterator[bytes]:
    """Yield the cell's outline: on a slide in millimetres (SCOORD3D) and beside it on its tile, else on the image."""
    outline = cell.outline if len(cell.outline) >= 3 else cell.box.corners()
    frame_number = cell.frame_number if instance.frames > 1 else None
    on_slide = _on_slide(instance, cell)
    if on_slide and instance.matrix is not None:
        yield region_in_space(codes.IMAGE_REGION, on_slide, instance.matrix.frame_of_reference_uid)
    name = codes.OUTLINE_ON_TILE if on_slide else codes.IMAGE_REGION
    yield region(name, outline, instance.sop_class_uid, instance.sop_instance_uid, frame_number)


def _size(instance: InstanceFindings, cell: CellFinding) -> Iterator[bytes]:
    """Yield area and diameter of the cell if the image's scale is known (TID 1419, CID 7469)."""
    size = cell_size(instance, cell)
    if size is not None:
        yield measured(CONTAINS, codes.AREA, f"{size.area_um2:.1f}", codes.SQUARE_MICROMETRE)
        yield measured(CONTAINS, codes.DIAMETER, f"{size.diameter_um:.1f}", codes.MICROMETRE)


def _probabilities(relationship: str, cell: CellFinding) -> Iterator[bytes]:
    """Yield the probability of the cell's own finding, and by its name that of its class (of a lymphoblast if none)."""
    if cell.probability_all is None:
        return
    if cell.label is None:
        number = wording.decimal_string(cell.probability_all)
        yield measured(relationship, codes.UNCERTAIN_PROBABILITY, number, codes.NO_UNITS)
        return
    number = wording.decimal_string(wording.class_probability(cell.label, cell.probability_all))
    yield measured(relationship, codes.PROBABILITY, number, codes.NO_UNITS)
    yield measured(relationship, codes.CLASS_PROBABILITIES[cell.label], number, codes.NO_UNITS)


def _on_slide(instance: InstanceFindings, cell: CellFinding) -> list[tuple[float, float, float]]:
    """Return a cell's outline on the slide in millimetres; empty where the image does not say where it lies."""
    matrix, place = instance.matrix, cell.on_matrix
    if matrix is None or place is None or not matrix.frame_of_reference_uid:
        return []
    outline = place.outline if len(place.outline) >= 3 else place.box.corners()
    points = [point for point in map(matrix.on_slide_mm, outline) if point is not None]
    return points if len(points) == len(outline) else []


def _finding(cell: CellFinding) -> Code:
    if cell.label is not None:
        return codes.LABELS[cell.label]
    return codes.INDETERMINATE if cell.reason is None else codes.NOT_ASSESSABLE[cell.reason]


def _review(signed: Signed, cell: CellFinding, before: CellFinding | None, algorithm: list[bytes]) -> Iterator[bytes]:
    """Yield what the person decided and, if the person changed the finding, what the algorithm had found.

    Parameters
    ----------
    before:
        The cell as the model left it; None if the person did not change it.
    """
    decision = signed.decision(cell)
    if decision is not None:
        yield coded(CONTAINS, codes.REVIEW_DECISION, codes.DECISIONS[decision.decision])
    if before is not None:
        by_algorithm = (*algorithm, *_probabilities(HAS_PROPERTIES, before))
        yield coded(CONTAINS, codes.FINDING_BEFORE_REVIEW, _finding(before), by_algorithm)
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


def _evaluations(inputs: FormatInputs) -> Iterator[bytes]:
    findings, context = inputs.findings, inputs.context
    signed = context.signed
    yield written(CONTAINS, codes.COMMENT, wording.notice(signed))
    yield written(CONTAINS, codes.SUMMARY, clean(specimens.summary(inputs.parts)))
    for line in inputs.contradictions:
        yield written(CONTAINS, codes.COMMENT, clean(line))
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
