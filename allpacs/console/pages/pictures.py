"""Pictures of cells and fields, and the outlines that are drawn over a field."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from allpacs.console.pages.study import Subject, cell, cells_of, subject
from allpacs.console.visit import Visit

_SIDES_PX = (192, 448)
#: Pictures of a revision never change; a browser may keep them while its reader works, and nobody else may.
_CACHED = {"Cache-Control": "private, max-age=1800"}


def crop(visit: Visit) -> Response:
    """Send a cell with some context (``?side=192`` or ``448``)."""
    about = subject(visit)
    found = cell(visit, about).finding
    visit.open_study(about.study.study_uid)
    side_px = _SIDES_PX[1] if visit.query("side") == str(_SIDES_PX[1]) else _SIDES_PX[0]
    picture = visit.console.pictures.crop(found.sop_instance_uid, found.frame_number, found.box, side_px)
    return Response(picture, 200, _CACHED, "image/jpeg")


def activation(visit: Visit) -> Response:
    """Send where the model looked, to lie over the larger crop; loads the model when first asked for."""
    about = subject(visit)
    found = cell(visit, about).finding
    maps = visit.console.in_use.activation
    if maps is None or about.outcome is None or maps.digest != about.outcome.model.digest:
        raise HTTPException(404)  # the model that read this study is not the one in use
    visit.open_study(about.study.study_uid)
    return Response(maps.over_crop(found, _SIDES_PX[1]), 200, _CACHED, "image/png")


def field(visit: Visit) -> Response:
    """Send a whole frame."""
    uid, frame = _field(visit, subject(visit))
    return Response(visit.console.pictures.field(uid, frame), 200, _CACHED, "image/jpeg")


def outlines(visit: Visit) -> Response:
    """Say how large a frame is and where its cells are, in pixels of the frame."""
    about = subject(visit)
    uid, frame = _field(visit, about)
    rows, columns, _ = visit.console.pictures.frame(uid, frame).shape
    everything, _ = cells_of(visit, about)
    found = [
        {
            "cell": one.tracking_uid,
            "outline": [[round(x, 1), round(y, 1)] for x, y in one.finding.outline],
            "label": one.finding.label,
        }
        for one in everything.cells
        if one.finding.sop_instance_uid == uid and one.finding.frame_number == frame
    ]
    return JSONResponse({"width": columns, "height": rows, "cells": found}, headers=_CACHED)


def _field(visit: Visit, about: Subject) -> tuple[str, int]:
    uid, frame = visit.path("sop_instance_uid"), int(visit.path("frame"))
    known = {one.sop_instance_uid for one in cells_of(visit, about)[0].instances}
    if uid not in known:  # of another study, or of none
        raise HTTPException(404)
    visit.open_study(about.study.study_uid)
    return uid, frame
