"""Findings to everything that is sent for them: pure, values in and values out.

A new format is one file in `allpacs.report`; see `allpacs.report.format`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from allpacs.domain.artefacts import Artefact
from allpacs.domain.findings import StudyFindings
from allpacs.report.context import ReportContext
from allpacs.report.format import formats
from allpacs.report.inputs import ResultReference, format_inputs, reference_to
from allpacs.report.source import Headers


def results(findings: StudyFindings, headers: Headers, context: ReportContext) -> Iterator[Artefact]:
    """Yield the results of one revision of a study, in every format; all of them state the same.

    An EHR holds one report of a study. Where a person has signed an earlier revision, what nobody has signed yet
    (images came late) does not take the place of that report there.
    """
    inputs = format_inputs(findings, headers, context)
    del headers  # of a large study many; what reports need of them is in the inputs
    wanted = [one for one in formats() if one.is_wanted(inputs.context, findings)]
    for place, written in enumerate(wanted):
        embedded = {kind for other in wanted[place:] for kind in other.embeds}
        contents = {kind: content for kind, content in inputs.contents.items() if kind in embedded}
        inputs = replace(inputs, contents=contents)
        references: list[ResultReference] = []
        for result in written.artefacts(inputs):
            references.append(reference_to(result))
            if written.kind in embedded:
                contents.setdefault(written.kind, result.content)
            yield result
            del result  # of a large study a hundred megabytes
        inputs = replace(inputs, results={**inputs.results, written.kind: references})
