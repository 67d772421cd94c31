"""Findings to an HL7 v2.5.1 message ORU^R01^ORU_R01, for EHRs without FHIR: the study's result, not its single cells.

    MSH   from allpacs, UTF-8                       OBR   the procedure; preliminary (P), final (F) or corrected (C)
    PID   the patient as the images name it         OBX   summary, counts, fraction and its interval, the report's UID
                                                    NTE   research use only

The message's control id derives from the report: sending it again is recognised as the same message.

Source: HL7 v2.5.1 chapters 2 (escapes 2.7, character sets 2.15.9.18), 3.4.2 (PID), 7.3.1 (ORU^R01), 7.4 (OBR, OBX).
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from pydicom.sr.coding import Code

from allpacs.domain.artefacts import HL7_V2, Artefact, ArtefactKind
from allpacs.domain.findings import StudyFindings
from allpacs.domain.identity import derive_uuid, is_uid
from allpacs.report import codes, wording
from allpacs.report.context import ReportContext, result_uid
from allpacs.report.fhir_signed import report_status
from allpacs.report.format import Format
from allpacs.report.inputs import FormatInputs
from allpacs.report.source import Source, clean, text

VERSION = "2.5.1"

#: Coding schemes by their HL7 names (table 0396).
_SYSTEMS = {"SCT": "SCT", "DCM": "DCM", "LN": "LN", "UCUM": "UCUM", codes.PRIVATE_SCHEME: codes.PRIVATE_SCHEME}
#: Result status (table 0085, 0123) by the status of the FHIR report that says the same.
_STATUS = {"preliminary": "P", "final": "F", "amended": "C"}
_ESCAPES = str.maketrans({"\\": "\\E\\", "|": "\\F\\", "^": "\\S\\", "~": "\\R\\", "&": "\\T\\"})


def oru_message(inputs: FormatInputs) -> Artefact:
    """Return the message of one revision of a study, in UTF-8, segments ended by a carriage return."""
    findings, source, context = inputs.findings, inputs.source, inputs.context
    uid = result_uid(FORMAT.kind, findings, context)
    status = _STATUS[report_status(context)]
    issued = _moment(context.issued_at)
    observations = _observations(findings, context, inputs.uid_of(ArtefactKind.SR))
    segments = [
        _segment(
            *("MSH", "^~\\&", "ALLPACS", _safe(context.host_name), "", "", issued, "", "ORU^R01^ORU_R01"),
            *(derive_uuid("hl7v2", uid).replace("-", "")[:20], "P", VERSION, "", "", "AL", "NE", "", "UNICODE UTF-8"),
        ),
        _segment(
            *("PID", "1", "", _identified(source.patient_id, source.patient_id_authority, "MR"), ""),
            *(_name(text(source.lead, "PatientName")), "", source.birth_date, _safe(source.sex)),
        ),
        _request(
            source, text(source.lead, "PlacerOrderNumberImagingServiceRequest"), findings, status, issued, context
        ),
        _segment("NTE", "1", "L", _safe(wording.notice(context.signed))),
        *(
            _segment("OBX", str(number), kind, concept, "1", value, unit, "", "", "", "", status, "", "", issued)
            for number, (kind, concept, value, unit) in enumerate(observations, start=1)
        ),
    ]
    content = "".join(f"{segment}\r" for segment in segments)
    return FORMAT.artefact(uid, content.encode())


def _request(
    source: Source, placer: str, findings: StudyFindings, status: str, issued: str, context: ReportContext
) -> str:
    """OBR: fields 1 to 32, of which the accession number is in 3 (filler) and 18 (placer field 1), as IHE has it."""
    fields = [""] * 32
    accession = _safe(source.accession_number)
    fields[0], fields[1], fields[2] = "1", _safe(placer), accession or _safe(findings.study_uid)[:199]
    fields[3] = _concept(codes.CLASSIFICATION)
    fields[6] = source.study_date
    fields[17] = accession
    fields[21], fields[24] = issued, status
    if context.signed is not None:
        reviewer = context.signed.review.reviewer
        family, _, given = clean(reviewer.name).partition("=")[0].partition("^")
        fields[31] = "&".join((_safe(clean(reviewer.identifier)), _safe(family), _safe(given)))
    return _segment("OBR", *fields)


def _observations(findings: StudyFindings, context: ReportContext, sr_uid: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield value type, concept, value and unit of each OBX."""
    counts = findings.counts
    yield "TX", _concept(codes.SUMMARY), _safe(wording.summary(findings)), ""
    if context.signed is not None:
        said = (wording.review_summary(context.signed), context.signed.review.comment)
        yield "TX", _concept(codes.COMMENT), "~".join(filter(None, map(_safe, said))), ""
    for code, number in (
        (codes.CELLS_FOUND, findings.found),
        (codes.LYMPHOBLASTS, counts.all),
        (codes.HEMATOGONES, counts.hem),
        (codes.CELLS_NOT_ASSESSABLE, counts.not_assessable),
    ):
        yield "NM", _concept(code), str(number), _concept(codes.CELLS_UNIT)
    if findings.fraction is not None:
        fraction, unit = findings.fraction, _concept(codes.NO_UNITS)
        yield "NM", _concept(codes.LYMPHOBLAST_FRACTION), wording.decimal_string(fraction.value), unit
        low, high = wording.decimal_string(fraction.low), wording.decimal_string(fraction.high)
        yield "SN", _concept(codes.INTERVAL), f"^{low}^-^{high}", unit
    yield "HD", _concept(codes.STUDY_INSTANCE_UID), f"^{findings.study_uid}^ISO", ""
    yield "HD", _concept(codes.REPORT_INSTANCE_UID), f"^{sr_uid}^ISO", ""


def _segment(*fields: str) -> str:
    return "|".join(fields).rstrip("|")


def _safe(value: str) -> str:
    """Return one line of text with the message's own delimiters escaped (chapter 2.7)."""
    return clean(value).translate(_ESCAPES)


def _concept(code: Code) -> str:
    return f"{_safe(code.value)}^{_safe(code.meaning)}^{_SYSTEMS[code.scheme_designator]}"


def _identified(value: str, authority: tuple[str, str, str], kind: str) -> str:
    """Return a CX: the identifier, who gave it (an HD as one component, chapter 2A.3.36), its type."""
    return f"{_safe(value)}^^^{_authority(*authority)}^{kind}" if value else ""


def _authority(namespace: str, universal_id: str, kind: str) -> str:
    """Return an HD of name space, universal ID and its type, as subcomponents.

    A universal ID stands with its type or not at all: of an OID that states none it is ``ISO``. An OID that stands
    where the name space should is put in its place.
    """
    if not universal_id and is_uid(namespace):
        namespace, universal_id = "", namespace
    kind = kind or ("ISO" if is_uid(universal_id) else "")
    if not universal_id or not kind:
        return _safe(namespace or universal_id)
    return f"{_safe(namespace)}&{_safe(universal_id)}&{_safe(kind)}"


def _name(name: str) -> str:
    """Return a DICOM person name as XPN: the first group that is there, in the same order of components."""
    group = next((one for one in name.split("=") if one), "")
    family, given, middle, prefix, suffix = ([*map(_safe, group.split("^")), *[""] * 5])[:5]
    return "^".join((family, given, middle, suffix, prefix)).rstrip("^")


def _moment(moment: datetime) -> str:
    return moment.strftime("%Y%m%d%H%M%S%z")


FORMAT = Format(ArtefactKind.HL7V2, HL7_V2, ".hl7", oru_message, after=(ArtefactKind.SR,), over_signed=False)
