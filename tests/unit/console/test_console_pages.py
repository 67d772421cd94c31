"""Worklist, study page and review, over HTTP."""

from __future__ import annotations

import csv
import io
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from pydicom import dcmread

from allpacs.commands.show import one_study, study_json
from allpacs.console.access import Role
from allpacs.domain.artefacts import Artefact, ArtefactKind
from allpacs.domain.errors import Outdated
from allpacs.domain.review import Reviewer
from allpacs.store.store import Store
from support.console_samples import HTML, keep_file, painted_study, report, reported_study
from unit.console.conftest import Browser

Browse = Callable[..., Browser]


def uids(store: Store, study: str) -> list[str]:
    return [cell.tracking_uid for one in store.findings.get(study, 1) for cell in one.cells]


def test_hostile_names_are_text(browse: Browse, study: str) -> None:
    browser = browse(Role.REVIEWER)
    path = f"/studies/{study}/revisions/1"
    assert (
        browser.change(f"{path}/comment", seen="", comment="</textarea><img src=x onerror=alert(1)>").status_code == 200
    )
    for place in ("/", path, f"{path}/sign-off"):
        text = browser.see(place).text
        assert "O&#39;Neil" in text
        assert "<script>alert" not in text
        assert "<img src=x" not in text
        assert "<b>O" not in text


def test_the_worklist_finds_a_patient(browse: Browse, store: Store, study: str, tmp_path: Path) -> None:
    other = reported_study(store, tmp_path, cells=1, at=9000.0, seeds=[55], patient_name="Найти^Меня", patient_id="Z-9")
    browser = browse(Role.VIEWER)
    browser.see("/")  # the headers of what is shown are read
    for words in ("найти", "z-9", "z-9 меня", other[:30]):
        text = browser.see(f"/?q={words}").text
        assert other in text
        assert study not in text
    assert "No study matches" in browser.see("/?q=nobody").text
    part = browser.see("/?q=z-9", **{"hx-request": "true"}).text
    assert "<html" not in part
    assert other in part


@pytest.mark.parametrize("query", ["page=0", "page=x", "sort=%27", "state=nonsense", "review=x", "dir=x", "page=99999"])
def test_an_address_that_means_nothing_is_harmless(browse: Browse, query: str) -> None:
    assert browse(Role.VIEWER).see(f"/?{query}").status_code == 200


def test_the_study_page_shows_every_cell_by_probability(browse: Browse, store: Store, study: str) -> None:
    browser = browse(Role.VIEWER)
    text = browser.see(f"/studies/{study}/revisions/1").text
    assert re.findall(r'data-percent="([^"]*)"', text) == [
        "97.0\u00a0%",
        "74.0\u00a0%",
        "50.0\u00a0%",
        "22.0\u00a0%",
        "8.0\u00a0%",
        "",
    ]
    assert "Sign off" not in text  # a viewer does not
    assert browser.see(f"/studies/{study}").headers["location"] == f"/studies/{study}/revisions/1"
    only = browser.see(f"/studies/{study}/revisions/1?show=not-assessable&sort=place").text
    assert re.findall(r'data-percent="([^"]*)"', only) == [""]
    uncertain = browser.see(f"/studies/{study}/revisions/1?show=uncertain").text
    assert re.findall(r'data-percent="([^"]*)"', uncertain) == ["50.0\u00a0%"]
    assert "out of focus" in only
    assert browser.see("/studies/1.2.3/revisions/1").status_code == 404
    assert browser.see(f"/studies/{study}/revisions/9").status_code == 404
    for path in ("/studies/1.2.3", "/nowhere"):  # within the frame of the console, with a way back
        missing = browser.see(path)
        assert missing.status_code == 404
        assert "Back to the worklist" in missing.text
        assert "Research use only" in missing.text
    assert browser.get("/nowhere").text == "Not Found"  # to a program


def test_pictures_of_cells_and_fields(browse: Browse, store: Store, study: str) -> None:
    browser = browse(Role.VIEWER)
    base = f"/studies/{study}/revisions/1"
    cell, *_ = uids(store, study)
    for side in ("192", "448"):
        answer = browser.get(f"{base}/cells/{cell}.jpg?side={side}")
        with Image.open(io.BytesIO(answer.content)) as picture:
            assert picture.size == (int(side), int(side))
            assert max(picture.convert("RGB").getpixel((int(side) // 2, int(side) // 2))) > 60
    assert "private" in answer.headers["cache-control"]
    first, *_ = store.findings.get(study, 1)
    field = browser.get(f"{base}/fields/{first.sop_instance_uid}/1")
    assert (field.json()["width"], field.json()["height"], len(field.json()["cells"])) == (200, 200, 1)
    assert browser.get(f"{base}/fields/{first.sop_instance_uid}/1.jpg").headers["content-type"] == "image/jpeg"
    assert browser.get(f"{base}/fields/{first.sop_instance_uid}/7.jpg").status_code == 422
    assert browser.get(f"{base}/fields/1.2.3/1.jpg").status_code == 404
    assert browser.get(f"{base}/cells/1.2.3.jpg").status_code == 404


def test_the_report_page_is_shown_as_a_document_of_no_origin(browse: Browse, study: str) -> None:
    answer = browse(Role.VIEWER).see(f"/studies/{study}/revisions/1/artefacts/html")
    assert answer.content == HTML
    assert answer.headers["content-security-policy"].startswith("sandbox;")
    assert browse(Role.VIEWER).see(f"/studies/{study}/revisions/1/artefacts/sr").status_code == 404


def test_each_of_several_results_of_a_kind_has_its_button(browse: Browse, store: Store, tmp_path: Path) -> None:
    study = reported_study(store, tmp_path, at=30_000.0, seeds=range(66, 67))
    for number in (1, 2):
        content, uid = f"annotations {number}".encode(), f"2.25.{number}"
        made = Artefact(ArtefactKind.ANNOTATIONS, uid, "application/dicom", f"{uid}.dcm", content, number=number)
        store.artefacts.put(study, 1, made)
    browser = browse(Role.VIEWER)
    path = f"/studies/{study}/revisions/1"
    buttons = re.findall(rf'href="{path}/artefacts/([^"]*)"[^>]*>([^<]*)<', browser.see(path).text)
    assert buttons == [("annotations", "annotations"), ("annotations-2", "annotations-2"), ("html", "Open the page")]
    answers = [browser.see(f"{path}/artefacts/{name}") for name in ("annotations", "annotations-2")]
    assert [one.content for one in answers] == [b"annotations 1", b"annotations 2"]
    assert browser.see(f"{path}/artefacts/annotations-3").status_code == 404
    shown = study_json(store, one_study(store, study))["revisions"][0]["artefacts"]
    assert list(shown) == ["annotations", "annotations-2", "html"]


def decide(browser: Browser, study: str, *decisions: dict[str, object], revision: int = 1) -> object:
    path = f"/studies/{study}/revisions/{revision}/decisions"
    headers = {"x-csrf-token": browser.token, "accept": "application/json"}
    return browser.post(path, json={"decisions": decisions}, headers=headers)


def test_review_to_signature(browse: Browse, store: Store, tmp_path: Path) -> None:
    study = reported_study(store, tmp_path, at=20_000.0, seeds=range(60, 66))
    sam, ada = browse(Role.REVIEWER, identifier="sam"), browse(Role.REVIEWER, identifier="ada")
    one, two, *_ = uids(store, study)
    path = f"/studies/{study}/revisions/1"

    answer = decide(sam, study, {"cell": one, "decision": "relabelled", "label": "HEM", "seen": 0})
    assert [kept["version"] for kept in answer.json()["kept"]] == [1]
    # Another person, who has not seen it: theirs does not overwrite, and says whose stands.
    answer = decide(ada, study, {"cell": one, "decision": "excluded", "label": None, "seen": 0})
    assert [other["by"] for other in answer.json()["conflicts"]] == ["sam"]
    for wrong in (
        {"cell": "1.2.3", "decision": "accepted", "label": None, "seen": 0},
        {"cell": two, "decision": "relabelled", "label": None, "seen": 0},
        {"cell": two, "decision": "perhaps", "label": None, "seen": 0},
        {"cell": two},
    ):
        assert decide(sam, study, wrong).status_code == 422
    assert "25.0\u00a0%" in sam.see(f"{path}/status").text  # one of four; the model said two of four

    form = sam.see(f"{path}/sign-off").text
    (version,) = re.findall(r'name="version" value="(\d+)"', form)
    fields = {"version": version, "name": "Specialist, Sam", "organisation": "Test Hospital", "responsible": "yes"}
    assert sam.change(f"{path}/sign-off", **fields).status_code == 422  # three cells were not looked at one by one
    fields["unseen"] = "3"
    assert sam.change(f"{path}/sign-off", **(fields | {"organisation": ""})).status_code == 422
    assert sam.change(f"{path}/sign-off", **(fields | {"responsible": ""})).status_code == 422
    # Somebody changes a cell between looking and signing.
    decide(ada, study, {"cell": two, "decision": "accepted", "label": None, "seen": 0})
    answer = sam.change(f"{path}/sign-off", **fields)
    assert answer.status_code == 409
    assert "ada has changed this review" in answer.text

    (version,) = re.findall(r'name="version" value="(\d+)"', sam.see(f"{path}/sign-off").text)
    answer = sam.change(f"{path}/sign-off", **(fields | {"version": version}))
    assert (answer.status_code, answer.headers["location"]) == (303, f"/studies/{study}/revisions/2")
    signed = store.reviews.signed(study, 2)
    assert signed is not None
    assert signed.reviewer == Reviewer("Specialist^Sam", "Test Hospital", "sam")
    assert len(signed.cells) == 2

    late = decide(ada, study, {"cell": two, "decision": "excluded", "label": None, "seen": 1})
    assert late.status_code == 409
    assert "sam has signed this review" in late.json()["error"]
    with pytest.raises(Outdated):
        store.reviews.sign(study, 1, seen_version=3, reviewer=signed.reviewer, by="ada", now=time.time())


def test_who_signs_sees_whom_the_report_will_name_though_its_first_image_came_late(
    browse: Browse, store: Store, tmp_path: Path
) -> None:
    study = reported_study(store, tmp_path / "first", at=40_000.0, seeds=[70], patient_name="Early^Name")
    browser = browse(Role.REVIEWER)
    assert "Early Name" in browser.see(f"/studies/{study}/revisions/1/sign-off").text
    (file,) = painted_study(tmp_path / "late", [71], study_uid=study)
    image = dcmread(file)
    image.SeriesInstanceUID, image.PatientName = "1.1", "Late^Name"
    image.save_as(file)
    keep_file(store, file, at=40_100.0)
    store.revisions.close_due(40_200.0)
    report(store, study, 2)
    assert store.revisions.instances(study, 2)[0].series_uid == "1.1"
    assert "Late Name" in browser.see(f"/studies/{study}/revisions/2/sign-off").text


def test_images_after_a_signature_are_said_in_a_line_of_their_own(browse: Browse, store: Store, tmp_path: Path) -> None:
    study = reported_study(store, tmp_path / "first", at=50_000.0, seeds=[80])
    browser = browse(Role.REVIEWER)
    signature = {
        "version": "0",
        "name": "Specialist, Sam",
        "organisation": "Hospital",
        "responsible": "yes",
        "unseen": "1",
    }
    assert browser.change(f"/studies/{study}/revisions/1/sign-off", **signature).status_code == 303
    (file,) = painted_study(tmp_path / "late", [81], study_uid=study)
    keep_file(store, file, at=50_100.0)
    store.revisions.close_due(50_200.0)
    report(store, study, 3)
    said = "Images came after Specialist, Sam signed."
    assert f'<p class="banner" role="status">{said}' in browser.see(f"/studies/{study}/revisions/3").text
    for path in ("3/status", "2", "1"):
        assert said not in browser.see(f"/studies/{study}/revisions/{path}").text


def test_the_page_names_the_person_whose_decisions_it_keeps(browse: Browse, study: str) -> None:
    browser = browse(Role.REVIEWER, identifier='sam"<b>')
    assert 'data-person="sam&#34;&lt;b&gt;"' in browser.see(f"/studies/{study}/revisions/1").text


def test_a_session_that_ends_in_mid_review_answers_so_that_the_page_keeps_what_it_has(
    browse: Browse, store: Store, study: str
) -> None:
    cell, *_ = uids(store, study)
    answer = decide(browse(), study, {"cell": cell, "decision": "accepted", "label": None, "seen": 0})
    assert (answer.status_code, answer.json()) == (401, {"error": "session ended"})


def test_too_much_at_once_is_refused(browse: Browse, study: str) -> None:
    browser = browse(Role.REVIEWER)
    assert decide(browser, study, {"cell": "x" * 300_000, "decision": None, "seen": 0}).status_code == 413
    path = f"/studies/{study}/revisions/1/comment"
    assert browser.change(path, comment="x" * 5000).status_code == 422
    assert browser.change(path, comment="x" * 2_000_000).status_code == 413


def test_the_table_of_cells_holds_no_formula(browse: Browse, store: Store, tmp_path: Path) -> None:
    study = reported_study(store, tmp_path, at=60_000.0, cells=2, seeds=[85, 86])
    reviewer = browse(Role.REVIEWER, identifier="=HYPERLINK(A1)")
    first, _ = uids(store, study)
    decide(reviewer, study, {"cell": first, "decision": "excluded", "label": None, "seen": 0})
    answer = reviewer.see(f"/studies/{study}/revisions/1/cells.csv")
    assert answer.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [(row["decision"], row["decided_by"]) for row in rows] == [("excluded", "'=HYPERLINK(A1)"), ("", "")]
    assert [row["class"] == row["model_class"] for row in rows] == [False, True]
    assert {row["notice"] for row in rows} == {"Research use only"}
    assert "Synthetic" not in answer.text
