"""The modules of a structured report around its content: document, verification, evidence, request.

Source: PS3.3 A.35.13 and the sections named below.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage

from allpacs.domain.identity import is_uid
from allpacs.domain.review import Signed
from allpacs.report import codes
from allpacs.report.context import PriorReport, sr_series_uid
from allpacs.report.dicom_object import Series, code_item, evidence, local, result_object
from allpacs.report.elements import clean
from allpacs.report.inputs import FormatInputs, ResultReference
from allpacs.report.order import Authority, Order
from allpacs.report.source import Source
from allpacs.report.study_modules import copied

SERIES_NUMBER = 9901
SERIES_DESCRIPTION = "AI white cell classification (research use only)"

#: Attributes of type 2 of a Referenced Request: present, empty if the order does not state them.
_REQUEST_TYPE_2 = (
    *("AccessionNumber", "PlacerOrderNumberImagingServiceRequest", "FillerOrderNumberImagingServiceRequest"),
    *("RequestedProcedureID", "RequestedProcedureDescription"),
)


def document(inputs: FormatInputs, uid: str, prior: PriorReport | None, attached: Sequence[ResultReference]) -> Dataset:
    """Return all modules of the report but its content.

    Parameters
    ----------
    prior:
        The report that this one replaces.
    attached:
        Results that the report points to.
    """
    series = Series(sr_series_uid(inputs.findings), SERIES_NUMBER, SERIES_DESCRIPTION, "SR")
    report = result_object(inputs, uid, Comprehensive3DSRStorage, series)
    _add_general(report)
    if inputs.context.signed is not None:
        _add_verification(report, inputs.context.signed, inputs.source)
    _add_references(report, inputs, prior, attached)
    return report


def _add_general(report: Dataset) -> None:
    """SR Document Series (C.17.1), SR Document General (C.17.2) and SOP Common (C.12.1)."""
    report.ReferencedPerformedProcedureStepSequence = []
    report.PreliminaryFlag = "PRELIMINARY"
    report.CompletionFlag = "COMPLETE"
    report.VerificationFlag = "UNVERIFIED"
    report.PerformedProcedureCodeSequence = []
    scheme = Dataset()
    scheme.CodingSchemeDesignator = codes.PRIVATE_SCHEME
    scheme.CodingSchemeUID = codes.PRIVATE_SCHEME_UID
    scheme.CodingSchemeName = "allpacs private codes"
    scheme.CodingSchemeResponsibleOrganization = "allpacs"
    report.CodingSchemeIdentificationSequence = [scheme]


def _add_verification(report: Dataset, signed: Signed, source: Source) -> None:
    """Verifying Observer (C.17.2): who signed, for whom and when; the report is final then."""
    review = signed.review
    observer = Dataset()
    observer.VerifyingOrganization = clean(review.reviewer.organisation)
    observer.VerificationDateTime = local(review.signed_at, source.timezone_offset).strftime("%Y%m%d%H%M%S%z")
    observer.VerifyingObserverName = clean(review.reviewer.name)
    observer.VerifyingObserverIdentificationCodeSequence = []
    report.VerifyingObserverSequence = [observer]
    report.VerificationFlag = "VERIFIED"
    report.PreliminaryFlag = "FINAL"


def _add_references(
    report: Dataset, inputs: FormatInputs, prior: PriorReport | None, attached: Sequence[ResultReference]
) -> None:
    """Evidence: every input, read or not, and what is attached; the request; the report that this one replaces."""
    findings, character_set = inputs.findings, inputs.character_set
    named = [(i.series_uid, i.sop_class_uid, i.sop_instance_uid) for i in findings.instances]
    named += [(one.series_uid, one.sop_class_uid, one.uid) for one in attached]
    if named:
        report.CurrentRequestedProcedureEvidenceSequence = [evidence(findings.study_uid, named)]
    if prior is not None:
        replaced = [(prior.series_uid, prior.sop_class_uid, prior.sop_instance_uid)]
        report.PredecessorDocumentsSequence = [evidence(findings.study_uid, replaced)]
    requests = [_request(order, findings.study_uid, character_set) for order in inputs.source.orders]
    if requests:
        report.ReferencedRequestSequence = requests


def _request(order: Order, study_uid: str, character_set: list[str]) -> Dataset:
    """Return an item of Referenced Request Sequence (PS3.3 C.17.2), with all its type 2 attributes.

    A value that its VR does not allow is left empty, as it is at the study level.
    """
    stated = Dataset()
    stated.AccessionNumber, stated.RequestedProcedureID = order.accession, order.procedure_id
    stated.PlacerOrderNumberImagingServiceRequest = order.placer
    stated.FillerOrderNumberImagingServiceRequest = order.filler
    stated.RequestedProcedureDescription = order.procedure
    for keyword, issuer in (
        ("IssuerOfAccessionNumberSequence", order.accession_issuer),
        ("OrderPlacerIdentifierSequence", order.placer_issuer),
        ("OrderFillerIdentifierSequence", order.filler_issuer),
    ):
        if issuer != Authority():
            setattr(stated, keyword, [_issuer(issuer)])
    request = copied(stated, tuple(element.keyword for element in stated), character_set)
    for keyword in _REQUEST_TYPE_2:
        if not request.get(keyword):
            setattr(request, keyword, None)
    request.StudyInstanceUID = study_uid
    request.ReferencedStudySequence = []
    request.RequestedProcedureCodeSequence = [code_item(code) for code in order.procedure_codes]
    return request


def _issuer(authority: Authority) -> Dataset:
    """Return an item of the HL7v2 Hierarchic Designator Macro (PS3.3 Table 10-17)."""
    item = Dataset()
    if authority.namespace:
        item.LocalNamespaceEntityID = authority.namespace
    if authority.universal_id:
        item.UniversalEntityID = authority.universal_id
        item.UniversalEntityIDType = authority.kind or ("ISO" if is_uid(authority.universal_id) else "DNS")
    return item
