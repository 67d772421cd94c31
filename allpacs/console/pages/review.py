"""Review: decisions about cells, a comment, and the signature."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, NamedTuple

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import JSONResponse, RedirectResponse, Response

from allpacs.audit.messages import AuditEvent
from allpacs.console import cells as cells_module
from allpacs.console.cells import Cell, CellFilter, CellOrder
from allpacs.console.numbers import strict_json, whole_number
from allpacs.console.pages.study import cells_of, subject
from allpacs.console.visit import Visit
from allpacs.domain.errors import InputFault
from allpacs.domain.findings import CellLabel
from allpacs.domain.review import CellReview, Decision, Reviewer
from allpacs.store.reviews import CellDecision, NewDecision

_log = structlog.get_logger("allpacs.console")

_MOST_BODY_BYTES = 256_000
_MOST_COMMENT = 4000
#: Changed cells that the sign-off page shows for a second look; a link leads to all of them.
_MOST_CHANGES = 60


class _Change(NamedTuple):
    """A cell of another class than the model's, and the class after review; None: excluded."""

    cell: Cell
    after: CellLabel | None


class _Sent(BaseModel):
    """A decision as a page sends it."""

    model_config = ConfigDict(strict=False, extra="forbid")

    cell: str = Field(max_length=64)
    decision: Decision | None
    label: CellLabel | None = None
    seen: int = Field(ge=0, lt=2**53)


class _SentAll(BaseModel):
    model_config = ConfigDict(extra="forbid")

    decisions: list[_Sent] = Field(max_length=500)


async def decide(visit: Visit) -> Response:
    """Keep decisions, and say which of them another person had made otherwise meanwhile."""
    from starlette.concurrency import run_in_threadpool

    body = bytearray()
    async for part in visit.request.stream():
        body += part
        if len(body) > _MOST_BODY_BYTES:
            return JSONResponse({"error": "too many decisions at once"}, 413)
    try:
        value = strict_json(bytes(body))
    except ValueError:
        return JSONResponse({"error": "not JSON"}, 400)
    try:
        sent = _SentAll.model_validate(value)
    except ValidationError as invalid:
        raise InputFault(f"not a list of decisions: {invalid.error_count()} errors") from None
    return await run_in_threadpool(_decide, visit, sent.decisions)


def _decide(visit: Visit, sent: list[_Sent]) -> Response:
    about = subject(visit)
    everything, _ = cells_of(visit, about)
    for one in sent:
        if one.cell not in everything.by_uid:
            raise InputFault("there is no such cell in this report")
        if one.decision is not None:
            CellReview(one.cell, one.decision, one.label)  # refuses what cannot be
    review, kept, conflicts = visit.store.reviews.decide(
        about.study.study_uid,
        about.revision.revision,
        [NewDecision(one.cell, one.decision, one.label, one.seen) for one in sent],
        by=visit.someone.identifier,
        now=time.time(),
    )
    return JSONResponse(
        {
            "version": review.version,
            "kept": [_as_json(one) for one in kept],
            "conflicts": [_as_json(one) for one in conflicts],
        }
    )


def comment(visit: Visit) -> Response:
    """Keep the comment on the study."""
    about = subject(visit)
    text = visit.posted("comment").replace("\r\n", "\n")
    if len(text) > _MOST_COMMENT:
        raise InputFault(f"the comment is longer than {_MOST_COMMENT} characters")
    row = visit.store.reviews.write_comment(
        about.study.study_uid,
        about.revision.revision,
        text,
        seen=visit.posted("seen").replace("\r\n", "\n"),
        by=visit.someone.identifier,
        now=time.time(),
    )
    return visit.page("study_comment.html", about=replace(about, review=row), saved=True, may_review=True)


def sign_off_form(visit: Visit) -> Response:
    """Show what signing will say, and ask who signs."""
    return _sign_off_page(visit)


def sign_off(visit: Visit) -> Response:
    """Sign: queue the verified report."""
    about = subject(visit)
    try:
        reviewer = Reviewer(
            _person_name(visit.posted("name")), visit.posted("organisation").strip(), visit.someone.identifier
        )
    except InputFault as fault:
        return _sign_off_page(visit, str(fault), 422)
    if visit.posted("responsible") != "yes":
        return _sign_off_page(visit, "confirm that you have reviewed the cells", 422)
    everything, decisions = cells_of(visit, about)
    progress = cells_module.progress(everything, decisions)
    if progress.decided < progress.total and whole_number(visit.posted("unseen")) is None:
        return _sign_off_page(
            visit, "confirm that you accept the model's answer for cells that you did not review", 422
        )
    version = whole_number(visit.posted("version"))
    number = visit.store.reviews.sign(
        about.study.study_uid,
        about.revision.revision,
        seen_version=-1 if version is None else version,
        reviewer=reviewer,
        by=visit.someone.identifier,
        now=time.time(),
    )
    _log.info("review_signed", study_uid=about.study.study_uid, revision=number)
    visit.tell(AuditEvent.STUDY_SIGNED, study_uid=about.study.study_uid)
    return RedirectResponse(f"/studies/{about.study.study_uid}/revisions/{number}", 303)


def _sign_off_page(visit: Visit, fault: str = "", status: int = 200) -> Response:
    about = subject(visit)
    everything, decisions = cells_of(visit, about)
    settings = visit.console.settings.console
    last = visit.store.reviews.last_reviewer(visit.someone.identifier)
    changes = [
        _Change(one, cells_module.label_after(one.finding, decisions.get(one.tracking_uid)))
        for one in everything.chosen(CellOrder.PLACE, CellFilter.CHANGED, decisions)[:_MOST_CHANGES]
    ]
    return visit.page(
        "sign_off.html",
        status,
        about=about,
        patient=visit.console.patients.again(about.study.study_uid),
        progress=cells_module.progress(everything, decisions),
        changes=changes,
        name=visit.posted("name") or (last.name if last else visit.someone.name).replace("^", ", ", 1),
        organisation=visit.posted("organisation") or (last.organisation if last else settings.organisation),
        fault=fault,
    )


def _person_name(written: str) -> str:
    """Return the DICOM person name of ``Family, Given`` or ``Family^Given``."""
    family, comma, given = written.strip().partition(",")
    return f"{family.strip()}^{given.strip()}" if comma else written.strip()


def _as_json(one: CellDecision) -> dict[str, Any]:
    return {
        "cell": one.tracking_uid,
        "version": one.version,
        "decision": one.decision,
        "label": one.label,
        "by": one.decided_by,
        "at": one.decided_at,
    }
