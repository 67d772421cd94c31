"""The Observations of a FHIR bundle: one of each listed cell, and the panel of the study.

Source: HL7 FHIR R4 Observation; section 6.1 (security labels).
"""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.sr.coding import Code

from allpacs.domain.findings import CellFinding, CellLabel, InstanceFindings, StudyFindings, tracking_id
from allpacs.domain.review import Signed
from allpacs.domain.size import cell_size
from allpacs.report import codes, wording
from allpacs.report.context import ReportContext
from allpacs.report.elements import clean, text
from allpacs.report.fhir_elements import (
    Resource,
    category,
    cell_class,
    cells,
    concept,
    data_absent,
    dicom_identifier,
    narrative,
    not_assessable,
    panel_identifier,
    quantity,
    share,
    specimen_reference,
)
from allpacs.report.fhir_shared import Shared, full_url, specimen_key
from allpacs.report.fhir_signed import asserted, cell_notes, observation_status, practitioner, study_notes
from allpacs.report.listing import is_changed, listed_cells
from allpacs.report.specimens import SpecimenResult


def cell_observation(shared: Shared, instance: InstanceFindings, cell: CellFinding) -> Resource:
    """Return what was found of one cell."""
    name = tracking_id(shared.image_numbers[instance.sop_instance_uid], instance.frames, cell)
    observation = _observation(
        shared,
        dicom_identifier(cell.tracking_uid),
        codes.CELL_CLASS,
        f"White cell, {name}: {wording.outcome(cell)}{_probability_words(shared.signed, cell)}.",
        cell,
    )
    specimens = shared.source.specimens.get(instance.sop_instance_uid, ())
    if len(specimens) == 1:
        observation["specimen"] = specimen_reference(specimens[0])
    site = shared.source.site(instance.sop_instance_uid)
    if site is not None:
        observation["bodySite"] = concept(site)
    if cell.label is not None:
        observation["valueCodeableConcept"] = cell_class(cell.label)
    else:
        observation["dataAbsentReason"] = not_assessable(cell.reason)
    region = f"urn:oid:{instance.sop_instance_uid}#frame={cell.frame_number}&xywh="
    observation["component"] = [
        {
            "code": concept(codes.IMAGE_REGION),
            "valueString": region + ",".join(map(str, cell.box.as_list())),
        }
    ]
    measured = [*_probabilities(shared.signed, cell), *_size(instance, cell)]
    observation["component"] = [*measured, *observation["component"]]
    notes = cell_notes(shared.signed, cell)
    if notes:
        observation["note"] = notes
    return observation


def _probabilities(signed: Signed | None, cell: CellFinding) -> list[Resource]:
    """Return the algorithm's probability of a lymphoblast, and that of the stated class; none if a person changed it.

    The finding is the person's then: the algorithm's is told in a note.
    """
    if cell.probability_all is None or is_changed(signed, cell):
        return []
    components: list[Resource] = []
    if cell.label is not None:
        of_class = wording.class_probability(cell.label, cell.probability_all)
        stated = {**concept(codes.PROBABILITY), "text": "Probability of the stated class, by the algorithm"}
        components.append({"code": stated, "valueQuantity": share(of_class)})
    lymphoblast = concept(codes.CLASS_PROBABILITIES[CellLabel.ALL])
    lymphoblast["text"] = "Probability that the cell is a lymphoblast, by the algorithm"
    return [*components, {"code": lymphoblast, "valueQuantity": share(cell.probability_all)}]


def _size(instance: InstanceFindings, cell: CellFinding) -> list[Resource]:
    """Return area and diameter of a cell, if the scale of its image is known."""
    size = cell_size(instance, cell)
    if size is None:
        return []
    return [
        {"code": concept(codes.AREA), "valueQuantity": quantity(size.area_um2, codes.SQUARE_MICROMETRE, "µm²")},
        {"code": concept(codes.DIAMETER), "valueQuantity": quantity(size.diameter_um, codes.MICROMETRE, "µm")},
    ]


def retired_observation(shared: Shared, tracking_uid: str) -> Resource:
    """Return the Observation of a cell that an earlier revision had and this one does not: entered in error."""
    observation = _observation(
        shared, dicom_identifier(tracking_uid), codes.CELL_CLASS, "This cell is no longer part of the report."
    )
    observation |= {"status": "entered-in-error", "dataAbsentReason": data_absent("not-applicable", "Not Applicable")}
    return observation


def panel_observation(shared: Shared, part: SpecimenResult) -> Resource:
    """Return the panel of one specimen: counts, fraction and its interval. Its members are cells."""
    findings = part.findings
    counts = findings.counts
    identifier = panel_identifier(findings.study_uid, *specimen_key(shared.parts, part))
    summary = wording.summary(findings)
    said = summary if len(shared.parts) == 1 else f"{part.name}: {summary}"
    panel = _observation(shared, identifier, codes.CLASSIFICATION, said)
    if part.specimen is not None:
        panel["specimen"] = specimen_reference(part.specimen)
    listed = observed_cells(findings, shared.context)
    members = [{"reference": full_url("Observation", cell.tracking_uid)} for _, cell in listed]
    if members:
        panel["hasMember"] = members
    panel["component"] = [
        {"code": concept(name), "valueQuantity": cells(number)}
        for name, number in (
            (codes.CELLS_FOUND, findings.found),
            (codes.LYMPHOBLASTS, counts.all),
            (codes.HEMATOGONES, counts.hem),
            (codes.CELLS_NOT_ASSESSABLE, counts.not_assessable),
        )
    ]
    fraction: Resource = {"code": concept(codes.LYMPHOBLAST_FRACTION)}
    interval: Resource = {"code": concept(codes.INTERVAL)}
    if findings.fraction is not None:
        fraction["valueQuantity"] = share(findings.fraction.value)
        interval["valueRange"] = {"low": share(findings.fraction.low), "high": share(findings.fraction.high)}
    else:
        fraction["dataAbsentReason"] = interval["dataAbsentReason"] = data_absent("not-applicable", "Not Applicable")
    panel["component"] += [fraction, interval]
    notes = [*study_notes(shared.signed), *({"text": line} for line in _lines(findings))]
    if part is shared.parts[0]:
        notes += [{"text": line} for line in shared.contradictions]
    if notes:
        panel["note"] = notes
    return panel


def observed_cells(findings: StudyFindings, context: ReportContext) -> Iterator[tuple[InstanceFindings, CellFinding]]:
    """Yield the cells that have an Observation of their own, as the site decided (`FhirOptions.cells`)."""
    shown = {*context.pictures, *context.observed}
    for instance, cell in listed_cells(findings, context):
        match context.fhir.cells:
            case "all":
                yield instance, cell
            case "key" if is_changed(context.signed, cell) or cell.tracking_uid in shown:
                yield instance, cell


def _lines(findings: StudyFindings) -> Iterator[str]:
    """Yield what a reader must know of the images: those that could not be read, and remarks."""
    for instance in findings.instances:
        if instance.fault is not None:
            yield f"Instance that could not be read: {clean(instance.sop_instance_uid)}: {clean(instance.fault)}"
    for instance in findings.instances:
        for line in wording.remarks(instance):
            yield f"{clean(instance.sop_instance_uid)}: {clean(line)}"


def _observation(
    shared: Shared, identifier: dict[str, str], code: Code, said: str, cell: CellFinding | None = None
) -> Resource:
    return {
        "resourceType": "Observation",
        "meta": asserted(shared.signed, cell),
        "text": narrative(f"{said} {shared.notice}"),
        "identifier": [identifier],
        "status": observation_status(shared.context, cell),
        "category": [category("observation-category", "laboratory", "Laboratory")],
        "code": concept(code),
        "issued": shared.issued,
        "derivedFrom": [shared.study],
        **_performed(shared, cell),
        **shared.about,
    }


def _performed(shared: Shared, cell: CellFinding | None) -> Resource:
    """Return who made a finding: the algorithm at the institution, or the person who changed the cell."""
    if shared.signed is not None and cell is not None and shared.signed.changed(cell) is not None:
        return {"performer": [practitioner(shared.signed.review.reviewer)]}
    made: Resource = {"device": {"reference": shared.device_url}}
    if organisation := text(shared.source.lead, "InstitutionName"):
        made["performer"] = [{"type": "Organization", "display": organisation}]
    return made


def _probability_words(signed: Signed | None, cell: CellFinding) -> str:
    if cell.probability_all is None or is_changed(signed, cell):
        return ""
    return f", probability of a lymphoblast {wording.percent(wording.stated(cell.probability_all))}"
