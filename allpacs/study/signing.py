"""A signed review to the results that are sent for it: pure, values in and values out.

findings of the model + Review ──► findings as signed ──► verified SR, HTML, FHIR report (final)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from allpacs.classify import aggregate
from allpacs.domain.artefacts import Artefact
from allpacs.domain.findings import StudyFindings
from allpacs.domain.review import Review, Signed
from allpacs.report.context import ReportContext
from allpacs.report.source import Headers
from allpacs.study.results import results


def findings_as_signed(findings: StudyFindings, review: Review) -> StudyFindings:
    """Return the findings with the person's decisions: classes, counts, fraction and interval follow them.

    Raises
    ------
    InputFault
        The review names a cell that the findings do not have.
    """
    return aggregate.study_findings(
        findings.study_uid,
        findings.revision,
        findings.model,
        findings.decision_digest,
        review.applied_to(findings.instances),
    )


def signed_results(
    findings: StudyFindings, headers: Headers, context: ReportContext, review: Review
) -> Iterator[Artefact]:
    """Yield the results of a signed review: the structured report verified, the reports to the EHR final.

    Parameters
    ----------
    findings:
        As the model left them; the review is of this revision.
    context:
        Its `predecessor` is the report that was reviewed.

    Raises
    ------
    InputFault
        The review names a cell that the findings do not have.
    """
    signed = Signed(review, {cell.tracking_uid: cell for cell in findings.cells})
    context = replace(context, signed=signed)
    yield from results(findings_as_signed(findings, review), headers, context)
