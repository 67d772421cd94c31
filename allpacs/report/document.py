"""The modules of a structured report around its content: document, verification, evidence, request.

Source: PS3.3 A.35.13 and the sections named below.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage

from allpacs.domain.review import Signed
from allpacs.report import codes
from allpacs.report.context import PriorReport, sr_series_uid
from allpacs.report.dicom_object import Series, evidence, local, result_object
from allpacs.report.inputs import FormatInputs, ResultReference
from allpacs.report.source import Source, clean, items
from allpacs.report.study_modules import copied

SERIES_NUMBER = 9901
SERIES_DESCRIPTION = "AI white cell classification (research use only)"

_ORDER_NUMBERS = ("PlacerOrderNumberImagingServiceRequest", "FillerOrderNumberImagingServiceRequest")
_REQUESTED = ("RequestedProcedureID", "RequestedProcedureDescription")


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
    findings, lead, character_set = inputs.findings, inputs.source.lead, inputs.character_set
    named = [(i.series_uid, i.sop_class_uid, i.sop_instance_uid) for i in findings.instances]
    named += [(one.series_uid, one.sop_class_uid, one.uid) for one in attached]
    if named:
        report.CurrentRequestedProcedureEvidenceSequence = [evidence(findings.study_uid, named)]
    if prior is not None:
        replaced = [(prior.series_uid, prior.sop_class_uid, prior.sop_instance_uid)]
        report.PredecessorDocumentsSequence = [evidence(findings.study_uid, replaced)]
    requested = next(items(lead, "RequestAttributesSequence"), Dataset())
    request = copied(requested, (*_ORDER_NUMBERS, *_REQUESTED), character_set)
    accession = (*_ORDER_NUMBERS, "AccessionNumber", "IssuerOfAccessionNumberSequence")
    request.update(copied(lead, accession, character_set))
    stated = (*_ORDER_NUMBERS, *_REQUESTED, "AccessionNumber")
    if any(request.get(keyword) for keyword in stated):
        for keyword in stated:
            if keyword not in request:
                setattr(request, keyword, None)
        request.StudyInstanceUID = findings.study_uid
        request.ReferencedStudySequence = []
        request.RequestedProcedureCodeSequence = []
        report.ReferencedRequestSequence = [request]
