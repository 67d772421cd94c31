"""The study page: what was found, as pictures, with what people decided about it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from allpacs.classify.contract import Contract
from allpacs.console import cells as cells_module
from allpacs.console import live
from allpacs.console.access import Permission
from allpacs.console.cells import Cell, CellFilter, CellOrder, StudyCells
from allpacs.console.numbers import whole_number
from allpacs.console.pictures import crop_side
from allpacs.console.visit import Visit
from allpacs.domain.artefacts import ArtefactKind
from allpacs.domain.identity import is_uid
from allpacs.store.outcomes import Outcome
from allpacs.store.records import RECEIVING, RevisionRow, StudyRow
from allpacs.store.reviews import REVIEWABLE, CellDecision, ReviewRow

#: Cells that one part of the gallery shows; the next part is loaded when its reader comes near.
_CELLS = 120


@dataclass(frozen=True, slots=True)
class Subject:
    """The study and revision that an address names.

    Attributes
    ----------
    signed_from:
        The review that the revision was made of, or None.
    """

    study: StudyRow
    revision: RevisionRow
    outcome: Outcome | None
    review: ReviewRow
    signed_from: ReviewRow | None

    @property
    def is_latest(self) -> bool:
        """Whether there is no later revision."""
        return self.study.revision == self.revision.revision

    @property
    def open_for_review(self) -> bool:
        """Whether decisions can be made now."""
        ready = self.revision.state in REVIEWABLE and self.study.state != RECEIVING
        return self.is_latest and ready and self.review.signed_at is None

    @property
    def path(self) -> str:
        """Address of the revision."""
        return f"/studies/{self.study.study_uid}/revisions/{self.revision.revision}"


def subject(visit: Visit) -> Subject:
    """Return what the address names.

    Raises
    ------
    HTTPException
        404: there is no such study or revision.
    """
    study_uid, number = visit.path("study_uid"), int(visit.path("revision"))
    study = visit.store.studies.get(study_uid) if is_uid(study_uid) else None
    revisions = {} if study is None else {one.revision: one for one in visit.store.revisions.of_study(study_uid)}
    if study is None or number not in revisions:
        raise HTTPException(404)
    return Subject(
        study=study,
        revision=revisions[number],
        outcome=visit.store.outcomes.get(study_uid, number),
        review=visit.store.reviews.get(study_uid, number),
        signed_from=visit.store.reviews.made(study_uid, number),
    )


def latest(visit: Visit) -> Response:
    """Lead to the latest revision of a study that has one; one that is still received has a page, too."""
    study_uid = visit.path("study_uid")
    stamp = live.stamp(visit.store, study_uid)
    study = visit.store.studies.get(study_uid) if is_uid(study_uid) else None
    if study is None:
        raise HTTPException(404)
    if study.revision:
        return RedirectResponse(f"/studies/{study_uid}/revisions/{study.revision}", 303)
    return visit.page(
        "study_receiving.html",
        stamp=stamp,
        study=study,
        patient=visit.console.patients.of([study_uid])[study_uid],
        now=time.time(),
    )


def show(visit: Visit) -> Response:
    """Show one revision."""
    stamp = live.stamp(visit.store, visit.path("study_uid"))
    about = subject(visit)
    uid = about.study.study_uid
    visit.open_study(uid, again=True)
    return visit.page(
        "study.html",
        stamp=stamp,
        about=about,
        patient=visit.console.patients.of([uid])[uid],
        revisions=visit.store.revisions.of_study(uid),
        contract=_contract(visit, about),
        **_gallery(visit, about),
        **_status(visit, about),
    )


def more_cells(visit: Visit) -> Response:
    """Show the next part of the gallery."""
    about = subject(visit)
    return visit.page("study_cells.html", about=about, **_gallery(visit, about))


def status(visit: Visit) -> Response:
    """Show what changes while a page is open: state, deliveries, what the report would say now."""
    about = subject(visit)
    return visit.page("study_status.html", about=about, **_status(visit, about))


def artefact(visit: Visit) -> Response:
    """Send one of the revision's results."""
    about = subject(visit)
    paths = visit.store.artefacts.paths(about.study.study_uid, about.revision.revision)
    name = visit.path("name")
    path = paths.get(name)
    if path is None or not path.is_file():
        raise HTTPException(404)
    visit.open_study(about.study.study_uid)
    if name == ArtefactKind.HTML:
        # The report brings its own style and pictures, and no script; it is shown as a document of no origin.
        policy = "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'self'"
        return Response(path.read_bytes(), 200, {"Content-Security-Policy": policy}, "text/html; charset=utf-8")
    headers = {"Content-Disposition": f'attachment; filename="{path.name}"'}
    return Response(path.read_bytes(), 200, headers, "application/octet-stream")


def _contract(visit: Visit, about: Subject) -> Contract | None:
    """Return what the bundle that read the study states, where it is the one in use."""
    bundle = visit.console.in_use.bundle
    same = bundle is not None and about.outcome is not None and bundle.digest == about.outcome.model.digest
    return bundle.contract if same and bundle is not None else None


def _gallery(visit: Visit, about: Subject) -> dict[str, Any]:
    everything, decisions = cells_of(visit, about)
    sort, show_only = visit.query("sort"), visit.query("show")
    order = CellOrder(sort) if sort in set(CellOrder) else CellOrder.PROBABILITY
    only = CellFilter(show_only) if show_only in set(CellFilter) else CellFilter.ALL
    start = whole_number(visit.query("from")) or 0
    chosen = everything.chosen(order, only, decisions)
    return {
        "cells": chosen[start : start + _CELLS],
        "chosen": len(chosen),
        "next_part": start + _CELLS if start + _CELLS < len(chosen) else None,
        "first_number": start + 1,
        "decisions": decisions,
        "order": order,
        "orders": CellOrder,
        "only": only,
        "filters": CellFilter,
        "label_after": cells_module.label_after,
        "is_change": cells_module.is_change,
        "crop_um": _crop_um,
        "may_review": visit.someone.may(Permission.REVIEW) and about.open_for_review,
    }


def _crop_um(one: Cell) -> float | None:
    """Return what the crop of a cell shows from left to right, µm."""
    return None if one.spacing_um is None else crop_side(one.finding.box, one.spacing_um) * one.spacing_um


def _status(visit: Visit, about: Subject) -> dict[str, Any]:
    everything, decisions = cells_of(visit, about)
    uid, number = about.study.study_uid, about.revision.revision
    return {
        "progress": cells_module.progress(everything, decisions),
        "distribution": cells_module.distribution(everything, decisions, len(about.outcome.scores))
        if about.outcome is not None
        else [],
        "unreadable": [
            (image, one) for image, one in enumerate(everything.instances, start=1) if one.fault is not None
        ],
        "images": len(everything.instances),
        "signed_before": visit.store.reviews.signed_before(uid, number),
        "deliveries": visit.store.deliveries.of_revision(uid, number),
        "artefacts": list(visit.store.artefacts.paths(uid, number)),
        "history": visit.store.audit.of_study(uid),
        "now": time.time(),
    }


def cells_of(visit: Visit, about: Subject) -> tuple[StudyCells, Mapping[str, CellDecision]]:
    """Return the cells of a revision and what was decided about them; none until its report is written."""
    uid, number = about.study.study_uid, about.revision.revision
    if about.outcome is None:
        return StudyCells(uid, number, (), (), {}), {}
    everything = visit.console.cells.of(uid, number)
    if about.review.signed_at is not None:  # what was signed, whatever was decided since
        decisions = visit.store.reviews.signed_decisions(uid, number)
    else:
        decisions = visit.store.reviews.decisions(uid)
    return everything, decisions


def cell(visit: Visit, about: Subject) -> Cell:
    """Return the cell that the address names.

    Raises
    ------
    HTTPException
        404: the revision has no such cell.
    """
    found = cells_of(visit, about)[0].by_uid.get(visit.path("tracking_uid"))
    if found is None:
        raise HTTPException(404)
    return found
