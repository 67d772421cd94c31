"""The cells of a report as a table for a spreadsheet (CSV, RFC 4180)."""

from __future__ import annotations

import csv
from io import StringIO

from starlette.responses import Response

from allpacs.console.cells import label_after
from allpacs.console.pages.study import cells_of, subject
from allpacs.console.visit import Visit

_COLUMNS = (
    "image", "frame", "cell", "class", "model_class", "reason", "probability_lymphoblast", "diameter_um", "decision",
    "decided_by", "notice",
)  # fmt: skip
_NOTICE = "Research use only"
#: A spreadsheet takes a field that begins with one of these for a formula (OWASP, CSV injection).
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def cells_csv(visit: Visit) -> Response:
    """Send one line for each cell, after review, in order of image, frame and cell; without the patient."""
    about = subject(visit)
    visit.open_study(about.study.study_uid)
    everything, decisions = cells_of(visit, about)
    written = StringIO()
    table = csv.writer(written)
    table.writerow(_COLUMNS)
    for cell in everything.cells:
        finding, decision = cell.finding, decisions.get(cell.tracking_uid)
        decided = decision if decision is not None and decision.decision is not None else None
        row = (
            cell.image,
            finding.frame_number,
            finding.cell_number,
            label_after(finding, decision) or "",
            finding.label or "",
            finding.reason or "",
            "" if finding.probability_all is None else f"{finding.probability_all:.4f}",
            "" if cell.size is None else f"{cell.size.diameter_um:.1f}",
            "" if decided is None else str(decided.decision),
            "" if decided is None else harmless(decided.decided_by),
            _NOTICE,
        )
        table.writerow(row)
    name = f"cells-{about.study.study_uid}-{about.revision.revision}.csv"
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "private, no-cache"}
    return Response(written.getvalue(), 200, headers, "text/csv; charset=utf-8")


def harmless(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula: one that looks like it gets an apostrophe in front."""
    return f"'{text}" if text.lstrip().startswith(_FORMULA) or text.startswith(_FORMULA) else text
