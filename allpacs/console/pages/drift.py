"""The drift page."""

from __future__ import annotations

import time

from starlette.responses import Response

from allpacs.console import trend
from allpacs.console.numbers import whole_number
from allpacs.console.visit import Visit

_WEEKS = (4, 13, 26, 52)


def show(visit: Visit) -> Response:
    """Show what the model said in the last weeks (``?weeks=13``), of all sources or of one (``?source=AE``)."""
    asked = whole_number(visit.query("weeks"))
    weeks = asked if asked in _WEEKS else 13
    starts = trend.mondays(weeks, time.time())
    rows = trend.by_week(visit.store.outcomes.summed(starts), starts)
    sources = sorted({row.source_ae for row in rows})
    source = visit.query("source") if visit.query("source") in sources else ""
    return visit.page(
        "drift.html",
        rows=[row for row in rows if source in ("", row.source_ae)],
        sources=sources,
        source=source,
        weeks=weeks,
        choices=_WEEKS,
        shifted=trend.SHIFTED,
        much_shifted=trend.MUCH_SHIFTED,
        least_cells=trend.LEAST_CELLS,
    )
