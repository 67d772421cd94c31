"""Findings to an HL7 v2.5.1 message ORU^R01^ORU_R01, for EHRs without FHIR: the study's result, not its single cells.

    MSH   from allpacs, UTF-8                       NTE   research use only
    PID   the patient as the images name it         OBX   summary, counts, fraction and its interval; with the first
    PV1   the visit, if the images name it                group also the report's UID, a link to the viewer, its pages
    ORC   once for each order and specimen          SPM   the specimen
    OBR   the order; preliminary (P), final (F) or corrected (C)

The message's control id derives from the report: sending it again is recognised as the same message.

Source: HL7 v2.5.1 chapters 2 (escapes 2.7, character sets 2.15.9.18), 3.4.2 (PID), 7.3.1 (ORU^R01), 7.4 (OBR, OBX).
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import datetime

from pydicom.sr.coding import Code

from allpacs.domain.artefacts import HL7_V2, Artefact, ArtefactKind
from allpacs.domain.findings import ModelIdentity
from allpacs.domain.identity import derive_uuid, is_uid
from allpacs.domain.review import Reviewer
from allpacs.report import codes, wording
from allpacs.report.context import result_uid
from allpacs.report.elements import clean, text
from allpacs.report.fhir_signed import report_status
from allpacs.report.format import Format
from allpacs.report.inputs import FormatInputs
from allpacs.report.order import Authority, Order
from allpacs.report.pdf import printed
from allpacs.report.source import Specimen
from allpacs.report.specimens import SpecimenResult

VERSION = "2.5.1"

#: Coding schemes by their HL7 names (table 0396).
_SYSTEMS = {"SCT": "SCT", "DCM": "DCM", "LN": "LN", "UCUM": "UCUM", codes.PRIVATE_SCHEME: codes.PRIVATE_SCHEME}
#: Result status (table 0085, 0123) by the status of the FHIR report that says the same.
_STATUS = {"preliminary": "P", "final": "F", "amended": "C"}
_ESCAPES = str.maketrans({"\\": "\\E\\", "|": "\\F\\", "^": "\\S\\", "~": "\\R\\", "&": "\\T\\"})


def oru_message(inputs: FormatInputs) -> Artefact:
    """Return the message of one revision of a study, in UTF-8, segments ended by a carriage return.

    Each order is answered by a group of its own for each specimen: ORC, OBR, notes, results, SPM.
    """
    findings, source, context = inputs.findings, inputs.source, inputs.context
    uid = result_uid(FORMAT.kind, findings, context)
    segments = [
        _segment(
            *("MSH", "^~\\&", "ALLPACS", _safe(context.host_name), "", "", _moment(context.issued_at), ""),
            *("ORU^R01^ORU_R01", derive_uuid("hl7v2", uid).replace("-", "")[:20], "P", VERSION),
            *("", "", "AL", "NE", "", "UNICODE UTF-8"),
        ),
        _segment(
            *("PID", "1", "", _identified(source.patient_id, source.patient_id_authority, "MR"), ""),
            *(_name(text(source.lead, "PatientName")), "", source.birth_date, _safe(source.sex)),
        ),
    ]
    if visit := text(source.lead, "AdmissionID"):  # its class is not known from images
        segments.append(_segment("PV1", "1", "U", *[""] * 16, _safe(visit)))
    groups = [(order, part) for order in source.orders or (Order(),) for part in inputs.parts]
    for number, (order, part) in enumerate(groups, start=1):
        segments += _results(inputs, number, order, part)
    content = "".join(f"{segment}\r" for segment in segments)
    return FORMAT.artefact(uid, content.encode())


def _results(inputs: FormatInputs, number: int, order: Order, part: SpecimenResult) -> Iterator[str]:
    """Yield the segments of one ORDER_OBSERVATION group (7.3.1)."""
    context, source = inputs.context, inputs.source
    status = _STATUS[report_status(context)]
    placer = _numbered(order.placer, order.placer_issuer)
    filler = _numbered(order.filler, order.filler_issuer) or _numbered(order.accession, order.accession_issuer)
    filler = filler or _safe(inputs.findings.study_uid)[:199]
    yield _segment("ORC", "RE", placer, filler)
    yield _segment("OBR", *_request(inputs, number, order, status, (placer, filler)))
    yield _segment("NTE", "1", "L", _safe(wording.notice(context.signed)))
    for place, line in enumerate(inputs.contradictions if number == 1 else (), start=2):
        yield _segment("NTE", str(place), "L", _safe(line))
    observer = "" if context.signed is None else _person(context.signed.review.reviewer)
    about = (
        *(source.acquired, ""),  # OBX-14: when the images were acquired
        *(observer, _method(inputs.findings.model), _device(inputs.findings.model), _moment(context.made_at)),
        *("", "", "", _organisation(inputs)),
    )
    for place, (kind, concept, value, unit) in enumerate(_observations(inputs, part, first=number == 1), start=1):
        yield _segment("OBX", str(place), kind, concept, "1", value, unit, "", "", "", "", status, "", "", *about)
    for place, specimen in enumerate(part.specimens, start=1):
        kind = "" if specimen.type is None else _concept(specimen.type)
        yield _segment("SPM", str(place), _specimen(specimen), "", kind)


def _request(inputs: FormatInputs, number: int, order: Order, status: str, numbers: tuple[str, str]) -> list[str]:
    """Return fields 1 to 44 of OBR; accession number and requested procedure ID in 18 and 19, as IHE RAD has them."""
    context, source = inputs.context, inputs.source
    fields = [""] * 44
    fields[0], fields[1], fields[2] = str(number), *numbers
    fields[3] = _concept(codes.CLASSIFICATION)
    fields[6] = source.acquired
    fields[15] = _named_person(text(source.lead, "ReferringPhysicianName"), "")
    fields[17], fields[18] = _safe(order.accession), _safe(order.procedure_id)
    fields[21], fields[23], fields[24] = _moment(context.issued_at), "HM", status
    if context.signed is not None:
        reviewer = context.signed.review.reviewer
        family, _, given = clean(reviewer.name).partition("=")[0].partition("^")
        fields[31] = "&".join((_safe(clean(reviewer.identifier)), _safe(family), _safe(given)))
    if order.procedure_codes:
        code = order.procedure_codes[0]
        scheme = _SYSTEMS.get(code.scheme_designator, _safe(code.scheme_designator))
        fields[43] = f"{_safe(code.value)}^{_safe(code.meaning)}^{scheme}"
    return fields


def _observations(inputs: FormatInputs, part: SpecimenResult, *, first: bool) -> Iterator[tuple[str, str, str, str]]:
    """Yield value type, concept, value and unit of each OBX; what is of the whole study with the first group alone."""
    findings, context = part.findings, inputs.context
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
        fraction, unit = findings.fraction, _concept(codes.PERCENT)
        yield "NM", _concept(codes.LYMPHOBLAST_FRACTION), _percent(fraction.value), unit
        yield "SN", _concept(codes.INTERVAL), f"^{_percent(fraction.low)}^-^{_percent(fraction.high)}", unit
    if not first:
        return
    yield "HD", _concept(codes.STUDY_INSTANCE_UID), f"^{inputs.findings.study_uid}^ISO", ""
    yield "HD", _concept(codes.REPORT_INSTANCE_UID), f"^{inputs.uid_of(ArtefactKind.SR)}^ISO", ""
    if context.viewer_url:
        address = context.viewer_url.replace("{study}", inputs.findings.study_uid)
        yield "RP", _concept(codes.CLASSIFICATION), f"{_safe(address)}^ALLPACS^AP^HTML", ""
    if context.hl7_pdf and ArtefactKind.PDF in inputs.contents:
        page = base64.b64encode(printed(inputs.contents[ArtefactKind.PDF])).decode("ascii")
        yield "ED", _concept(codes.CLASSIFICATION), f"ALLPACS^AP^PDF^Base64^{page}", ""


def _percent(number: float) -> str:
    return f"{wording.percent_number(number):.1f}"


def _numbered(number: str, issuer: Authority) -> str:
    """Return an EI: a number and who issued it; empty without a number."""
    if not number:
        return ""
    namespace, universal_id, kind = issuer.namespace, issuer.universal_id, issuer.kind
    kind = kind or ("ISO" if is_uid(universal_id) else "")
    parts = (number, namespace, universal_id if kind else "", kind if universal_id else "")
    return "^".join(map(_safe, parts)).rstrip("^")


def _specimen(specimen: Specimen) -> str:
    """Return an EIP: the identifier that the one who filled the order gave the specimen (SPM-2.2)."""
    parts = [_safe(specimen.identifier), "", _safe(specimen.uid), "ISO" if specimen.uid else ""]
    return "^" + "&".join(parts).rstrip("&")


def _method(model: ModelIdentity) -> str:
    """Return OBX-17: the algorithm and its version."""
    name = _safe(clean(f"{model.name} {model.version}"))
    return f"{_safe(codes.CLASSIFICATION.value)}^{name}^{_SYSTEMS[codes.PRIVATE_SCHEME]}"


def _device(model: ModelIdentity) -> str:
    """Return OBX-18: the model as equipment, by the UID that the structured report gives it."""
    return f"{_safe(clean(model.name))}^^{model.device_uid}^ISO"


def _organisation(inputs: FormatInputs) -> str:
    """Return OBX-23: the reviewer's organisation, or the institution that the images name."""
    signed = inputs.context.signed
    return _safe(text(inputs.source.lead, "InstitutionName") if signed is None else signed.review.reviewer.organisation)


def _person(reviewer: Reviewer) -> str:
    """Return OBX-16: the person who signed (XCN)."""
    return _named_person(clean(reviewer.name), clean(reviewer.identifier))


def _named_person(name: str, identifier: str) -> str:
    """Return an XCN; empty without a name."""
    return f"{_safe(identifier)}^{_name(name)}" if name else ""


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


FORMAT = Format(
    ArtefactKind.HL7V2,
    HL7_V2,
    ".hl7",
    oru_message,
    after=(ArtefactKind.SR,),
    embeds=(ArtefactKind.PDF,),
    over_signed=False,
)
