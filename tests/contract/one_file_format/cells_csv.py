"""A report format as somebody would add it: one file. It lists the cells as comma-separated values."""

from __future__ import annotations

import csv
import io

from allpacs.domain.artefacts import Artefact, ArtefactKind
from allpacs.report.context import result_uid
from allpacs.report.format import Format
from allpacs.report.inputs import FormatInputs


def cells_csv(inputs: FormatInputs) -> Artefact:
    """Return one line for each cell; the last column is the structured report that states the same."""
    report_uid = inputs.uid_of(ArtefactKind.SR)
    text = io.StringIO()
    lines = csv.writer(text)
    lines.writerow(("image", "cell", "class", "report"))
    for cell in inputs.findings.cells:
        lines.writerow((cell.sop_instance_uid, cell.cell_number, cell.label or "", report_uid))
    uid = result_uid(FORMAT.kind, inputs.findings, inputs.context)
    return FORMAT.artefact(uid, text.getvalue().encode())


FORMAT = Format(
    "cells-csv",
    "text/csv; charset=utf-8",
    ".csv",
    cells_csv,
    wants=lambda _context, findings: bool(findings.cells),
    after=(ArtefactKind.SR,),
)
