"""Findings to one self-contained HTML page for the reader: no scripts, nothing loaded from anywhere.

The cells come first to last by probability, so that the reader sees at once what the model is sure of and where it is
not. Everything that comes from a header is escaped by the template engine.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

import allpacs
from allpacs.domain.artefacts import Artefact, ArtefactKind
from allpacs.domain.findings import CellFinding, CellLabel, InstanceFindings, StudyFindings, tracking_id
from allpacs.domain.review import Signed
from allpacs.report import codes, specimens, wording
from allpacs.report.context import ReportContext, result_uid
from allpacs.report.elements import clean
from allpacs.report.format import Format
from allpacs.report.inputs import FormatInputs
from allpacs.report.source import Source

#: Bars of the histogram: each five hundredths wide.
BINS = 20

#: Most bytes that a picture's tag and description take, without its data.
_PICTURE_TAG = 500

_STYLES = {CellLabel.ALL: "all", CellLabel.HEM: "hem", None: "none"}
_COLOURS = {"all": "#b4470f", "hem": "#1f6aa5", "none": "#777"}


@dataclass(frozen=True, slots=True)
class _Picture:
    """One source instance as the page names it: a short number instead of a long UID."""

    number: int
    uid: str
    instance_number: str
    cells: int
    fault: str | None
    remarks: list[str]


@dataclass(frozen=True, slots=True)
class _Card:
    """One cell as the page shows it."""

    place: str
    outcome: str
    style: str
    reason: str
    probability: float | None
    percent: str
    image: str
    decision: str
    before: str
    comment: str


@dataclass(frozen=True, slots=True)
class _Signature:
    """Who signed, as the page says it."""

    name: str
    organisation: str
    at: str
    done: str
    comment: str


@dataclass(frozen=True, slots=True)
class _Bar:
    """One piece of a histogram bar, in the units of its drawing: 400 wide and 100 high."""

    style: str
    colour: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class _Part:
    """The result of one specimen, and the bars of its histogram."""

    name: str
    findings: StudyFindings
    histogram: list[_Bar]
    tallest: int


def html_report(inputs: FormatInputs) -> Artefact:
    """Return the report of one revision of a study as an HTML page in UTF-8."""
    return FORMAT.artefact(_uid(inputs), html_page(inputs).encode())


def html_page(inputs: FormatInputs, *, list_cells: bool = True, thumbnails: bool = True) -> str:
    """Return the page of `html_report`.

    Parameters
    ----------
    list_cells:
        False leaves out the single cells and keeps the summary.
    thumbnails:
        False leaves out the cells' crops.
    """
    findings, context = inputs.findings, inputs.context
    pictures = _pictures(findings, inputs.source)
    crops = context.thumbnails if thumbnails else {}
    numbers = findings.image_numbers
    listed = findings.instances if list_cells else ()
    cards = [_card(instance, cell, numbers, context.signed, crops) for instance in listed for cell in instance.cells]
    assessed = sorted(
        (card for card in cards if card.style != "none"),
        key=lambda card: -1.0 if card.probability is None else card.probability,
        reverse=True,
    )
    return _template().render(
        findings=findings,
        source=inputs.source,
        context=context,
        summary=specimens.summary(inputs.parts),
        notice=wording.notice(context.signed),
        review=None if context.signed is None else _signature(context.signed),
        percent=wording.percent,
        pictures=pictures,
        unreadable=[picture for picture in pictures if picture.fault is not None],
        remarked=[picture for picture in pictures if picture.remarks],
        assessed=assessed,
        rejected=[card for card in cards if card.style == "none"],
        list_cells=list_cells,
        parts=[_Part(part.name, part.findings, *_histogram(part.findings.cells)) for part in inputs.parts],
        contradictions=inputs.contradictions,
        made_at=context.made_at.strftime("%Y-%m-%d %H:%M %z"),
        version=allpacs.__version__,
        uid=_uid(inputs),
    )


def _uid(inputs: FormatInputs) -> str:
    return result_uid(FORMAT.kind, inputs.findings, inputs.context)


@lru_cache(maxsize=1)
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("allpacs.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["iso_date"] = _iso_date
    return environment.get_template("report.html")


def _pictures(findings: StudyFindings, source: Source) -> list[_Picture]:
    return [
        _Picture(
            number,
            instance.sop_instance_uid,
            source.instance_numbers.get(instance.sop_instance_uid, ""),
            len(instance.cells),
            instance.fault,
            wording.remarks(instance),
        )
        for number, instance in enumerate(findings.instances, start=1)
    ]


def _signature(signed: Signed) -> _Signature:
    review = signed.review
    return _Signature(
        name=wording.person(clean(review.reviewer.name)),
        organisation=clean(review.reviewer.organisation),
        at=review.signed_at.strftime("%Y-%m-%d %H:%M %z"),
        done=wording.review_summary(signed),
        comment=review.comment.strip(),
    )


def _card(
    instance: InstanceFindings,
    cell: CellFinding,
    numbers: Mapping[str, int],
    signed: Signed | None,
    crops: Mapping[str, bytes],
) -> _Card:
    probability = None if cell.probability_all is None else wording.stated(cell.probability_all)
    decision = signed.decision(cell) if signed is not None else None
    before = signed.changed(cell) if signed is not None else None
    return _Card(
        place=tracking_id(numbers[instance.sop_instance_uid], instance.frames, cell),
        outcome=wording.LABEL_NAMES[cell.label] if cell.label else "Not assessable",
        style=_STYLES[cell.label],
        reason=codes.REASONS[cell.reason].meaning if cell.reason else "",
        probability=probability,
        percent="" if probability is None else wording.percent(probability),
        image=_data_uri(crops.get(cell.tracking_uid, b"")),
        decision="" if decision is None else codes.DECISIONS[decision.decision].meaning,
        before="" if before is None else wording.outcome(before),
        comment="" if decision is None else clean(decision.comment),
    )


def picture_bytes(context: ReportContext) -> int:
    """Return how many bytes a page may lose, at most, when it is made without thumbnails."""
    return sum(len(image) * 4 // 3 + _PICTURE_TAG for image in context.thumbnails.values())


def _data_uri(image: bytes) -> str:
    """Return the picture as a data URI; empty where it is neither PNG nor JPEG."""
    if image.startswith(b"\x89PNG\r\n\x1a\n"):
        kind = "png"
    elif image.startswith(b"\xff\xd8\xff"):
        kind = "jpeg"
    else:
        return ""
    return f"data:image/{kind};base64,{base64.b64encode(image).decode('ascii')}"


def _histogram(cells: Sequence[CellFinding]) -> tuple[list[_Bar], int]:
    """Return the pieces of the bars, stacked by outcome, and the number of cells in the tallest bar."""
    counts = {style: [0] * BINS for style in ("hem", "none", "all")}
    for cell in cells:
        if cell.probability_all is not None:
            place = min(BINS - 1, int(wording.stated(cell.probability_all) * BINS))
            counts[_STYLES[cell.label]][place] += 1
    tallest = max(sum(pieces) for pieces in zip(*counts.values(), strict=True))
    bars = []
    for place in range(BINS):
        top = 100.0
        for style, pieces in counts.items():
            if pieces[place]:
                height = 100 * pieces[place] / tallest
                top -= height
                left, width = 400 / BINS * place + 1, 400 / BINS - 2
                bars.append(_Bar(style, _COLOURS[style], left, round(top, 2), width, round(height, 2)))
    return bars, tallest


def _iso_date(date: str) -> str:
    return f"{date[:4]}-{date[4:6]}-{date[6:]}" if date else ""


FORMAT = Format(ArtefactKind.HTML, "text/html; charset=utf-8", ".html", html_report)
