"""Pictures of cells and fields, and the outlines that are drawn over a field."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from allpacs.console.cells import label_after
from allpacs.console.pages.study import Subject, cell, cells_of, subject
from allpacs.console.visit import Visit

_SIDES_PX = (192, 448)
#: Pictures of a revision never change; a browser may keep them while its reader works, and nobody else may.
_CACHED = {"Cache-Control": "private, max-age=1800"}


def crop(visit: Visit) -> Response:
    """Send a cell with some context (``?side=192`` or ``448``; ``outline=yes``)."""
    about = subject(visit)
    chosen = cell(visit, about)
    visit.open_study(about.study.study_uid)
    side_px = _SIDES_PX[1] if visit.query("side") == str(_SIDES_PX[1]) else _SIDES_PX[0]
    picture = visit.console.pictures.crop(
        chosen.finding, side_px, chosen.spacing_um, outlined=visit.query("outline") == "yes"
    )
    return Response(picture, 200, _CACHED, "image/jpeg")


def activation(visit: Visit) -> Response:
    """Send where the model looked, to lie over the larger crop; loads the model when first asked for."""
    about = subject(visit)
    chosen = cell(visit, about)
    maps = visit.console.in_use.activation
    if maps is None or about.outcome is None or maps.digest != about.outcome.model.digest:
        raise HTTPException(404)  # the model that read this study is not the one in use
    visit.open_study(about.study.study_uid)
    return Response(maps.over_crop(chosen.finding, _SIDES_PX[1], chosen.spacing_um), 200, _CACHED, "image/png")


def field(visit: Visit) -> Response:
    """Send a whole frame."""
    uid, frame = _field(visit, subject(visit))
    return Response(visit.console.pictures.field(uid, frame), 200, _CACHED, "image/jpeg")


def outlines(visit: Visit) -> Response:
    """Say how large a frame is and where its cells are, in pixels of the frame."""
    about = subject(visit)
    uid, frame = _field(visit, about)
    rows, columns, _ = visit.console.pictures.frame(uid, frame).shape
    everything, decisions = cells_of(visit, about)
    here = [one for one in everything.cells if (one.finding.sop_instance_uid, one.finding.frame_number) == (uid, frame)]
    found = [
        {
            "cell": one.tracking_uid,
            "outline": [[round(x, 1), round(y, 1)] for x, y in one.finding.outline],
            "label": label_after(one.finding, decisions.get(one.tracking_uid)),
        }
        for one in here
    ]
    fields = list(dict.fromkeys((one.finding.sop_instance_uid, one.finding.frame_number) for one in everything.cells))
    place = fields.index((uid, frame)) if here else -1
    answer = {
        "width": columns,
        "height": rows,
        "cells": found,
        "image": here[0].image if here else None,
        "spacing_um": here[0].spacing_um if here else None,
        "field": place + 1,
        "fields": len(fields),
        "previous": _address(fields[place - 1]) if place > 0 else None,
        "next": _address(fields[place + 1]) if 0 <= place < len(fields) - 1 else None,
    }
    return JSONResponse(answer, headers={"Cache-Control": "private, no-cache"})  # the classes follow the review


def _address(field: tuple[str, int]) -> str:
    return f"{field[0]}/{field[1]}"


def _field(visit: Visit, about: Subject) -> tuple[str, int]:
    uid, frame = visit.path("sop_instance_uid"), int(visit.path("frame"))
    known = {one.sop_instance_uid for one in cells_of(visit, about)[0].instances}
    if uid not in known:  # of another study, or of none
        raise HTTPException(404)
    visit.open_study(about.study.study_uid)
    return uid, frame
