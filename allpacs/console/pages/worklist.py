"""The worklist."""

from __future__ import annotations

import math
import time
from typing import Any
from urllib.parse import urlencode

from starlette.responses import RedirectResponse, Response

from allpacs.console import live
from allpacs.console.numbers import whole_number
from allpacs.console.visit import Visit
from allpacs.store.records import RECEIVING, RevisionState
from allpacs.store.worklist import Order, ReviewFilter, WorklistQuery

_ROWS = 50
#: What a reader chooses from; superseded revisions are never a study's latest.
STATES = (
    RECEIVING,
    RevisionState.QUEUED,
    RevisionState.READING,
    RevisionState.REPORTED,
    RevisionState.DELIVERED,
    RevisionState.ATTENTION,
)


def show(visit: Visit) -> Response:
    """Show a page of studies; only the table where htmx asks for it."""
    query, words, number = _asked(visit)
    stamp = live.stamp(visit.store, "")  # before the rows are read: a change meanwhile is told
    page = visit.store.worklist.page(query)
    values: dict[str, Any] = {
        "page": page,
        "stamp": stamp,
        "patients": visit.console.patients.of(row.study_uid for row in page.rows),
        "query": query,
        "words": words,
        "number": number,
        "pages": max(1, math.ceil(page.total / _ROWS)),
        "states": STATES,
        "orders": Order,
        "now": time.time(),
        "link": lambda **changed: _link(visit, **changed),
    }
    return visit.page("worklist_table.html" if visit.is_partial else "worklist.html", **values)


def next_to_review(visit: Visit) -> Response:
    """Lead to the study that has waited longest for a review; to the list if there is none."""
    query = WorklistQuery(review=ReviewFilter.TO_REVIEW, order=Order.RECEIVED, ascending=True, limit=2)
    waiting = [row for row in visit.store.worklist.page(query).rows if row.study_uid != visit.query("after")]
    return RedirectResponse(f"/studies/{waiting[0].study_uid}" if waiting else "/?review=to-review", 303)


def _asked(visit: Visit) -> tuple[WorklistQuery, str, int]:
    """Return what the address asks for; what it cannot mean is left out."""
    words = visit.query("q").strip()[:100]
    number = max(1, whole_number(visit.query("page")) or 1)
    review = visit.query("review")
    query = WorklistQuery(
        states=frozenset(state for state in visit.request.query_params.getlist("state") if state in STATES),
        review=ReviewFilter(review) if review in set(ReviewFilter) else None,
        source_ae=visit.query("source") or None,
        study_uids=visit.console.patients.matching(words)[:1000] if words else None,
        uid_part=words if words and all(c.isdecimal() or c == "." for c in words) else None,
        order=Order(visit.query("sort")) if visit.query("sort") in set(Order) else Order.RECEIVED,
        ascending=visit.query("dir") == "up",
        to_review_first=visit.query("sort") not in set(Order),
        offset=(number - 1) * _ROWS,
        limit=_ROWS,
    )
    return query, words, number


def _link(visit: Visit, **changed: object) -> str:
    """Return the address of the list with some of what it asks for changed; None leaves a parameter out."""
    kept = [
        (key, value) for key, value in visit.request.query_params.multi_items() if key not in changed and key != "page"
    ]
    added = [(key, str(value)) for key, value in changed.items() if value is not None]
    return "/?" + urlencode(kept + added)
