"""What a person's signature changes in the FHIR resources: statuses, and who stands behind them.

Unsigned, everything is ``preliminary`` and asserted by an algorithm. At the first signature everything is ``final``,
also the cells that the person changed. At a later signature the report, its panels and the cells that were decided
otherwise are ``amended``.

Source: HL7 FHIR R4 value sets diagnostic-report-status, observation-status, provenance-agent-type; HL7 v3
ObservationValue (AIAST, DEVAST, CLINAST).
"""

from __future__ import annotations

from allpacs.domain.findings import CellFinding
from allpacs.domain.review import Review, Reviewer, Signed
from allpacs.report import codes, wording
from allpacs.report.context import ReportContext
from allpacs.report.elements import clean
from allpacs.report.fhir_elements import AI_ASSERTED, TERMINOLOGY, Resource, category, instant

_CLINICIAN: Resource = {
    "system": f"{TERMINOLOGY}/v3-ObservationValue",
    "code": "CLINAST",
    "display": "clinician asserted",
}
#: Made by the algorithm, and signed by a person.
_BOTH_ASSERTED: Resource = {"security": [*AI_ASSERTED["security"], _CLINICIAN]}
#: What a person put in place of the algorithm's answer.
_PERSON_ASSERTED: Resource = {"security": [_CLINICIAN]}


def asserted(signed: Signed | None, cell: CellFinding | None = None) -> Resource:
    """Return the meta element of a resource, or of a cell's Observation: who asserts it."""
    if signed is None:
        return AI_ASSERTED
    return _PERSON_ASSERTED if cell is not None and signed.changed(cell) is not None else _BOTH_ASSERTED


def report_status(context: ReportContext) -> str:
    """Return the status of the DiagnosticReport."""
    if context.signed is None:
        return "preliminary"
    return "amended" if context.signed_before else "final"


def observation_status(context: ReportContext, cell: CellFinding | None = None) -> str:
    """Return the status of a panel, or of a cell's Observation.

    ``amended`` is what was final before and has changed since (R4 ObservationStatus): never at the first signature.
    """
    if context.signed is None:
        return "preliminary"
    if context.signed_earlier is None:
        return "final"
    return "final" if cell is not None and _stands(context.signed_earlier, context.signed, cell) else "amended"


def _stands(earlier: Review, signed: Signed, cell: CellFinding) -> bool:
    """Whether a person's decision about a cell is the one of the earlier signature."""
    before, now = earlier.by_cell.get(cell.tracking_uid), signed.decision(cell)
    return (before and (before.decision, before.label)) == (now and (now.decision, now.label))


def practitioner(reviewer: Reviewer) -> Resource:
    """Return the person who signed, by what the organisation knows the person by; no Practitioner is created."""
    reference: Resource = {
        "type": "Practitioner",
        "display": f"{wording.person(clean(reviewer.name))}, {clean(reviewer.organisation)}",
    }
    if reviewer.identifier:
        assigner = {"display": clean(reviewer.organisation)}
        reference["identifier"] = {"value": clean(reviewer.identifier), "assigner": assigner}
    return reference


def verifier(signed: Signed) -> Resource:
    """Return the person who signed as an agent of a Provenance."""
    return {
        "type": category("provenance-participant-type", "verifier", "Verifier"),
        "who": practitioner(signed.review.reviewer),
    }


def cell_notes(signed: Signed | None, cell: CellFinding) -> list[Resource]:
    """Return what the person decided about a cell, and what the algorithm had said, as annotations."""
    decision = None if signed is None else signed.decision(cell)
    if signed is None or decision is None:
        return []
    said = codes.DECISIONS[decision.decision].meaning
    before = signed.changed(cell)
    if before is not None:
        said += f"; by the algorithm: {wording.outcome(before)}"
    comment = clean(decision.comment)
    return [_note(signed, f"{said}.")] + ([_note(signed, comment)] if comment else [])


def study_notes(signed: Signed | None) -> list[Resource]:
    """Return what the person did and wrote about the study as annotations."""
    if signed is None:
        return []
    comment = clean(signed.review.comment)
    return [_note(signed, wording.review_summary(signed))] + ([_note(signed, comment)] if comment else [])


def _note(signed: Signed, said: str) -> Resource:
    author = practitioner(signed.review.reviewer)
    return {"authorReference": author, "time": instant(signed.review.signed_at), "text": said}
