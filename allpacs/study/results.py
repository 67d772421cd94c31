"""Findings to everything that is sent for them: pure, values in and values out.

A new format is one file in `allpacs.report` and one line here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO

from pydicom import dcmread

from allpacs.domain.artefacts import Artefact
from allpacs.domain.findings import StudyFindings
from allpacs.report.annotations import annotated_images, cell_annotations
from allpacs.report.context import Attached, ReportContext
from allpacs.report.fhir import fhir_bundle
from allpacs.report.hl7v2 import oru_message
from allpacs.report.html import html_report
from allpacs.report.key_images import key_images
from allpacs.report.pdf import encapsulated_pdf, pdf_report
from allpacs.report.source import Headers
from allpacs.report.sr import structured_report


def results(findings: StudyFindings, headers: Headers, context: ReportContext) -> Iterator[Artefact]:
    """Yield the results of one revision of a study, in every format; all of them state the same.

    An EHR holds one report of a study. Where a person has signed an earlier revision, what nobody has signed yet
    (images came late) does not take the place of that report there.
    """
    crowded = annotated_images(findings, context.annotations_above)
    context = replace(context, annotated=tuple(image.sop_instance_uid for image in crowded))
    beside = [key_images(findings, headers, context)]
    beside += [cell_annotations(findings, headers, context, image) for image in crowded]
    for one in beside:
        if one is not None:
            yield one
            context = replace(context, attached=(*context.attached, _attached(one)))
    sr = structured_report(findings, headers, context)
    sr_uid = sr.uid
    yield sr
    del sr  # of a large study a hundred megabytes
    html = html_report(findings, headers, context)
    yield html
    pdf = pdf_report(findings, headers, context) if context.pdf else None
    if pdf is not None:
        yield encapsulated_pdf(findings, headers, context, pdf, sr_uid)
    if context.signed is None and context.signed_before:
        return
    yield fhir_bundle(findings, headers, context, sr_uid, html, pdf)
    yield oru_message(findings, headers, context, sr_uid)


def _attached(result: Artefact) -> Attached:
    header = dcmread(BytesIO(result.content), specific_tags=["SOPClassUID", "SeriesInstanceUID"])
    return Attached(result.kind, result.uid, str(header.SOPClassUID), str(header.SeriesInstanceUID))
