"""Findings to everything that is sent for them: pure, values in and values out.

A new format is one file in `allpacs.report` and one line here.
"""

from __future__ import annotations

from collections.abc import Iterator

from allpacs.domain.artefacts import Artefact
from allpacs.domain.findings import StudyFindings
from allpacs.report.context import ReportContext
from allpacs.report.fhir import fhir_bundle
from allpacs.report.hl7v2 import oru_message
from allpacs.report.html import html_report
from allpacs.report.source import Headers
from allpacs.report.sr import structured_report


def results(findings: StudyFindings, headers: Headers, context: ReportContext) -> Iterator[Artefact]:
    """Yield the results of one revision of a study, in every format; all of them state the same."""
    sr = structured_report(findings, headers, context)
    yield sr
    html = html_report(findings, headers, context)
    yield html
    yield fhir_bundle(findings, headers, context, sr.uid, html)
    yield oru_message(findings, headers, context, sr.uid)
