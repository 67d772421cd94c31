"""The Observations of a FHIR bundle: one of each listed cell, and the panel of the study.

Source: HL7 FHIR R4 Observation; section 6.1 (security labels).
"""

from __future__ import annotations

from pydicom.sr.coding import Code

from allpacs.domain.findings import CellFinding, InstanceFindings
from allpacs.report import codes, wording
from allpacs.report.fhir_elements import (
    Resource,
    category,
    cell_class,
    concept,
    data_absent,
    dicom_identifier,
    narrative,
    not_assessable,
    panel_identifier,
    share,
    specimen_reference,
)
from allpacs.report.fhir_shared import Shared, full_url
from allpacs.report.fhir_signed import asserted, cell_notes, observation_status, study_notes
from allpacs.report.listing import listed_cells
from allpacs.report.source import clean


def cell_observation(shared: Shared, instance: InstanceFindings, cell: CellFinding) -> Resource:
    """Return what was found of one cell."""
    observation = _observation(
        shared,
        dicom_identifier(cell.tracking_uid),
        codes.CELL_CLASS,
        f"White cell, {cell.tracking_id}: {wording.outcome(cell)}{_probability_words(cell)}.",
    )
    observation |= {"meta": asserted(shared.signed, cell), "status": observation_status(shared.signed, cell)}
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
    if cell.probability_all is not None:
        probability = concept(codes.PROBABILITY)
        probability["text"] = "Probability that the cell is a lymphoblast"
        observation["component"].insert(0, {"code": probability, "valueQuantity": share(cell.probability_all)})
    notes = cell_notes(shared.signed, cell)
    if notes:
        observation["note"] = notes
    return observation


def panel_observation(shared: Shared) -> Resource:
    """Return the panel: counts, fraction and its interval; its members are the listed cells."""
    findings = shared.findings
    counts = findings.counts
    panel = _observation(shared, panel_identifier(findings.study_uid), codes.CLASSIFICATION, wording.summary(findings))
    specimens = shared.source.all_specimens
    if len(specimens) == 1:
        panel["specimen"] = specimen_reference(specimens[0])
    listed = listed_cells(findings, shared.context)
    members = [{"reference": full_url("Observation", cell.tracking_uid)} for _, cell in listed]
    if members:
        panel["hasMember"] = members
    panel["component"] = [
        {"code": concept(name), "valueInteger": number}
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
    unreadable = [i for i in findings.instances if i.fault is not None]
    lines = (f"{clean(i.sop_instance_uid)}: {clean(i.fault or '')}" for i in unreadable)
    notes = [*study_notes(shared.signed), *({"text": f"Instance that could not be read: {line}"} for line in lines)]
    remarks = ((i.sop_instance_uid, line) for i in shared.findings.instances for line in wording.remarks(i))
    notes += [{"text": f"{clean(uid)}: {clean(line)}"} for uid, line in remarks]
    if notes:
        panel["note"] = notes
    return panel


def _observation(shared: Shared, identifier: dict[str, str], code: Code, said: str) -> Resource:
    return {
        "resourceType": "Observation",
        "meta": asserted(shared.signed),
        "text": narrative(f"{said} {shared.notice}"),
        "identifier": [identifier],
        "status": observation_status(shared.signed),
        "category": [category("observation-category", "imaging", "Imaging")],
        "code": concept(code),
        "issued": shared.issued,
        "device": {"reference": shared.device_url},
        "derivedFrom": [shared.study],
        **shared.about,
    }


def _probability_words(cell: CellFinding) -> str:
    if cell.probability_all is None:
        return ""
    return f", probability of a lymphoblast {wording.percent(wording.stated(cell.probability_all))}"
