"""The page: self-contained, escaped, complete, and the same bytes every time."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from allpacs.domain.artefacts import ArtefactKind
from allpacs.domain.findings import CellLabel, NotAssessable
from allpacs.report import wording
from allpacs.report.html import html_page, html_report
from allpacs.report.inputs import format_inputs
from conformance.support.report_samples import (
    CONTEXT,
    MODEL,
    SERIES,
    cell,
    header,
    instance,
    study,
    usual_headers,
    usual_study,
)

PNG = b"\x89PNG\r\n\x1a\n" + bytes(8)


def page(findings=None, headers=None, context=CONTEXT, **options) -> str:  # type: ignore[no-untyped-def]
    findings = usual_study() if findings is None else findings
    headers = usual_headers() if headers is None else headers
    return html_page(format_inputs(findings, headers, context), **options)


class Elements(HTMLParser):
    """Collects the elements, and whether they are closed in order."""

    VOID = frozenset({"meta", "img", "line", "rect", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def elements(text: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = Elements()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    return parser.found


def test_same_inputs_give_the_same_bytes() -> None:
    first = html_report(format_inputs(usual_study(), usual_headers(), CONTEXT))
    assert first == html_report(format_inputs(usual_study(), usual_headers(), CONTEXT))
    assert first.kind is ArtefactKind.HTML
    assert first.file_name == f"{first.uid}.html"


def test_nothing_is_loaded_and_nothing_runs() -> None:
    thumbnails = {found.tracking_uid: PNG for found in usual_study().cells}
    text = page(context=replace(CONTEXT, thumbnails=thumbnails))
    for tag, attributes in elements(text):
        assert tag not in {"script", "link", "iframe", "object", "embed", "form", "base"}
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "srcset", "action"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text


def test_notice_stands_first_and_last() -> None:
    text = page()
    body = text[text.index("<body>") :]
    assert body.index("Research use only.") < body.index("White cell classification")
    assert body.rindex("Research use only.") > body.index("How this was made")
    assert "leuk" not in text.lower().replace("leukocyte differential", "")


def test_header_is_escaped() -> None:
    source = header(1, PatientName="<script>alert(1)</script>^\"'&", PatientID="<b>", StudyDescription="</title>")
    context = replace(CONTEXT, model_card="<img src=x onerror=alert(1)>", host_name="<i>")
    findings = study([instance(1, fault="<u>")])
    text = page(findings, {source.SOPInstanceUID: source}, context)
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    for raw in ("<b>", "<u>", "<i>", "<img"):
        assert raw not in text.replace("<b>0</b>", "")
    elements(text)


def test_patient_and_study_are_named() -> None:
    text = page()
    for said in ("Müller Änne", "P-17", "2019-03-04", "ACC-9", "2026-03-03", "Bone marrow specimen", "SP-1"):
        assert said in text
    unnamed = page(study([instance(1)]), {})
    assert unnamed.count("not stated") == 6


def test_name_in_several_scripts() -> None:
    source = header(1, PatientName="Yamada^Tarou=山田^太郎=やまだ^たろう")
    assert "Yamada Tarou / 山田 太郎 / やまだ たろう" in page(study([instance(1)]), {source.SOPInstanceUID: source})


def test_cells_come_by_probability() -> None:
    name = f"{SERIES}.1"
    cells = [
        cell(name, k, label=CellLabel.ALL if p > 0.5 else CellLabel.HEM, probability_all=p)
        for k, p in enumerate([0.2, 0.95, 0.6, 0.01], start=1)
    ]
    text = page(study([instance(1, cells)]))
    shown = re.findall(r'class="p">([\d.]+ %)', text)
    assert shown == ["95.0 %", "60.0 %", "20.0 %", "1.0 %"]


def test_every_cell_and_reason_is_shown() -> None:
    text = page()
    cards = [a for tag, a in elements(text) if tag == "li" and (a.get("class") or "").startswith("card")]
    assert len(cards) == 10
    for reason in ("Out of focus", "Too few pixels to judge", "Unlike the cells the model was trained on"):
        assert reason in text
    assert "image 3 frame 2 cell 1" in text
    assert "JPEG 2000 code stream ends too early" in text
    assert f"{SERIES}.5" in text


def test_result_is_that_of_the_findings() -> None:
    text = page()
    assert "66.7 %" in text
    assert "95 % interval 45.7 % to 85.7 %" in text
    for said in ("<b>2</b> lymphoblasts", "<b>1</b> hematogone<", "<b>7</b> not assessable", "<b>10</b> cells found"):
        assert said in text


@pytest.mark.parametrize(
    ("findings", "said"),
    [
        (study([instance(1)]), "no white cells were found"),
        (study([instance(1, [cell(f"{SERIES}.1", 1, reason=NotAssessable.BLURRED)])]), "no cell was assessable"),
        (study([]), "no white cells were found"),
    ],
)
def test_no_fraction_is_said_in_words(findings, said) -> None:  # type: ignore[no-untyped-def]
    text = page(findings, {})
    assert said in text
    assert 'class="interval"' not in text
    elements(text)


def test_pictures_are_png_or_jpeg_within_the_page() -> None:
    cells = usual_study().cells
    kinds = {cells[0].tracking_uid: PNG, cells[1].tracking_uid: b"\xff\xd8\xff\xe0", cells[2].tracking_uid: b"GIF89a"}
    text = page(context=replace(CONTEXT, thumbnails=kinds))
    assert text.count("data:image/png;base64,") == 1
    assert text.count("data:image/jpeg;base64,") == 1
    assert text.count("no picture") == 8


def test_model_is_identified() -> None:
    text = page()
    for said in (MODEL.name, MODEL.version, MODEL.family, MODEL.digest, MODEL.device_uid, "Trained on 238 ALL"):
        assert said in text


def test_histogram_holds_every_judged_cell() -> None:
    name = f"{SERIES}.1"
    judged = [0.0, 0.049999, 0.05, 0.5, 0.999999, 1.0]
    cells = [cell(name, k, label=CellLabel.ALL, probability_all=p) for k, p in enumerate(judged, start=1)]
    text = page(study([instance(1, cells)]))
    drawing = text[text.index('class="histogram"') :]
    drawing = drawing[: drawing.index("</svg>")]
    heights = [float(h) for h in re.findall(r'<rect class="all".*?height="([\d.]+)"', drawing)]
    assert heights == [100, 50, 50, 100]
    assert "tallest bar: 2 cells" in drawing


def test_without_the_cells_the_summary_stays() -> None:
    text = page(list_cells=False)
    assert "single cells are left out" in text
    assert "66.7 %" in text
    assert 'class="card' not in text
    assert "JPEG 2000 code stream ends too early" in text


@pytest.mark.parametrize(("number", "said"), [(0.0, "0.000000"), (1.0, "1.000000"), (0.12345678, "0.123457")])
def test_decimal_string_fits_its_vr(number: float, said: str) -> None:
    assert wording.decimal_string(number) == said
    assert len(said) <= 16


def test_summary_counts_in_words() -> None:
    name = f"{SERIES}.1"
    one = study([instance(1, [cell(name, 1, label=CellLabel.ALL, probability_all=0.9)])])
    assert wording.summary(one).startswith("1 white cell found: 1 lymphoblast, 0 hematogones, 0 not assessable.")
    assert wording.outcome(cell(name, 1, reason=NotAssessable.BLURRED)) == "Not assessable: out of focus"
    assert wording.outcome(cell(name, 1)) == "Not assessable"
