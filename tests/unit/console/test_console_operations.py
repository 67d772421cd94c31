"""Operations, drift and export, over HTTP."""

from __future__ import annotations

import datetime as dt
import io
import json
import re
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog
from pydicom import Dataset, dcmread

from allpacs.audit.messages import AuditEvent
from allpacs.console import trend
from allpacs.console.access import Role
from allpacs.domain.findings import CellLabel
from allpacs.domain.review import Decision, Reviewer
from allpacs.settings import DESTINATIONS, SHIPPED_BUNDLE, load_settings
from allpacs.store.outcomes import SCORE_BINS
from allpacs.store.records import DeliveryState, RevisionState
from allpacs.store.reviews import NewDecision
from allpacs.store.store import Store
from allpacs.telemetry.logs import configure_logs
from allpacs.telemetry.recent_log import RecentLog
from support.console_samples import keep_file, painted_study, report, reported_study
from training.datasets import reviewed
from unit.console.conftest import Browser, Told

Browse = Callable[..., Browser]


def test_what_was_given_up_is_asked_for_again(browse: Browse, store: Store, tmp_path: Path) -> None:
    study = reported_study(store, tmp_path, cells=1, seeds=[301])
    store.deliveries.queue(study, 1, ["ehr"], now=1.0)
    store.deliveries.set_state(study, 1, "ehr", DeliveryState.DEAD, now=time.time(), attempts=3, reason="422 <b>no</b>")
    store.revisions.settle(study, 1, now=time.time())
    browser = browse(Role.ADMINISTRATOR, destinations={"ehr": {"kind": "fhir", "base_url": "http://ehr.example"}})
    text = browser.see("/operations").text
    assert "422 &lt;b&gt;no&lt;/b&gt;" in text
    assert "does not answer" in browser.see("/operations/receiver").text  # no receiver runs here
    assert "TEST-1" not in text  # no patient data on this page
    assert browser.change("/operations/retry", study=study).headers["location"] == "/operations?asked=1"
    (delivery,) = [one for one in store.deliveries.of_study(study) if one.destination == "ehr"]
    assert delivery.state == DeliveryState.QUEUED
    assert store.revisions.get(study, 1).state == RevisionState.REPORTED
    assert store.audit.of_study(study)[-1].event == "asked_again"
    assert "No failed deliveries" in browser.see("/operations").text
    assert browser.change("/operations/retry", study="' OR 1=1").headers["location"] == "/operations"


def test_every_kind_of_destination_has_its_address(browse: Browse) -> None:
    destinations = {
        "pacs": {"kind": "c_store", "host": "pacs.example", "port": 104, "called_ae": "PACS"},
        "archive": {"kind": "stow_rs", "base_url": "https://archive.example/dicom-web", "bearer_token": "s3cret"},
        "ehr": {"kind": "fhir", "base_url": "https://fhir.example/r4", "bearer_token": "s3cret"},
        "ris": {"kind": "mllp", "host": "ris.example", "port": 2575},
        "copies": {"kind": "folder", "folder": "/srv/copies"},
    }
    assert {str(one["kind"]) for one in destinations.values()} == set(DESTINATIONS.kinds())
    text = browse(Role.ADMINISTRATOR, destinations=destinations).see("/operations").text
    shown = re.findall(r'<bdi>([\w-]+)</bdi></th><td><bdi class="code">([^<]*)</bdi>', text)
    assert dict(shown) == {
        "pacs": "PACS@pacs.example:104",
        "archive": "https://archive.example/dicom-web",
        "ehr": "https://fhir.example/r4",
        "ris": "ris.example:2575",
        "copies": "/srv/copies",
    }
    assert "s3cret" not in text


def test_everything_that_needs_attention_is_asked_for_again(browse: Browse, store: Store, tmp_path: Path) -> None:
    (file,) = painted_study(tmp_path, [302])
    keep_file(store, file, at=100.0)
    ((study, revision),) = store.revisions.close_due(200.0)
    store.revisions.set_state(study, revision, RevisionState.ATTENTION, reason="ModelFault: bundle")
    browser = browse(Role.ADMINISTRATOR)
    assert "ModelFault: bundle" in browser.see("/operations").text
    browser.change("/operations/retry")
    assert store.revisions.get(study, revision).state == RevisionState.QUEUED


def test_the_log_shows_what_processes_said_and_no_patient(browse: Browse, store: Store) -> None:
    folder = store.spool.folder.parent
    for process in ("receive", "work"):
        configure_logs("info", "json", [RecentLog(folder, process)])
        log = structlog.get_logger(process)
        log.info("association_ended", calling_ae=f"OF-{process}", patient_name="CanaryName", PatientID="CanaryId")
        log.error("piece_failed", reason="<script>alert(1)</script>")
    browser = browse(Role.ADMINISTRATOR)
    text = browser.see("/operations").text
    for expected in ("OF-receive", "OF-work", "association_ended", "&lt;script&gt;alert(1)&lt;/script&gt;"):
        assert expected in text
    assert "Canary" not in text
    assert "(withheld)" in text
    assert "Canary" not in "".join(file.read_text() for file in (folder / "logs").rglob("*.jsonl"))
    grave = browser.see("/operations?level=error").text
    assert "piece_failed" in grave
    assert "association_ended" not in grave
    assert browser.see("/operations?level=' OR 1").status_code == 200


def test_another_bundle_is_asked_for_and_followed(browse: Browse, store: Store, tmp_path: Path) -> None:
    browser, folder = browse(Role.ADMINISTRATOR, identifier="ada"), tmp_path / "<b>bundle"
    shutil.copytree(SHIPPED_BUNDLE, folder)
    configured = load_settings().model.bundle
    assert browser.post("/operations/bundle", data={"folder": str(folder)}).status_code == 403  # of another page
    for wrong in ("", "models/other", str(tmp_path), str(tmp_path / "nowhere")):
        assert browser.change("/operations/bundle", folder=wrong).status_code == 422, wrong
    assert store.bundles.latest() == []
    assert browser.change("/operations/bundle", folder=str(folder)).headers["location"] == "/operations#bundle"
    (asked,) = store.bundles.latest()
    assert (asked.folder, asked.configured, asked.asked_by) == (folder, configured, "ada")
    assert store.audit.latest(1)[0].event == "bundle_asked"
    in_use = browser.app.state.console.in_use  # type: ignore[attr-defined]
    assert in_use.bundle.folder == configured
    text = browser.see("/operations").text
    assert "no worker has answered yet" in text
    assert "&lt;b&gt;bundle" in text
    store.bundles.taken(asked.id, in_use.bundle.digest, now=time.time())
    assert in_use.bundle.folder == folder
    assert "in use" in browser.see("/operations").text


def test_a_shift_of_the_scores_is_told() -> None:
    low = [100, *[0] * (SCORE_BINS - 1)]
    high = [*[0] * (SCORE_BINS - 1), 100]
    assert trend.stability_index(low, low) == pytest.approx(0.0)
    shift = trend.stability_index(low, high)
    assert shift is not None
    assert shift > trend.MUCH_SHIFTED
    assert trend.stability_index(low, [10, *[0] * (SCORE_BINS - 1)]) is None


def test_weeks_begin_on_mondays_by_the_clock_on_the_wall(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        thursday = dt.datetime(2024, 4, 4, 12, tzinfo=dt.UTC).timestamp()  # clocks changed on 31 March
        begun = [time.strftime("%a %F %T", time.localtime(at)) for at in trend.mondays(3, thursday)]
    finally:
        monkeypatch.undo()
        time.tzset()
    assert begun == ["Mon 2024-03-18 00:00:00", "Mon 2024-03-25 00:00:00", "Mon 2024-04-01 00:00:00"]


def sign(store: Store, study: str, revision: int = 1) -> None:
    cells = [cell.tracking_uid for one in store.findings.get(study, revision) for cell in one.cells]
    decisions = [
        NewDecision(cells[0], Decision.RELABELLED, CellLabel.HEM, 0),
        NewDecision(cells[1], Decision.ACCEPTED, None, 0),
        NewDecision(cells[2], Decision.EXCLUDED, None, 0),
        NewDecision(cells[3], Decision.ACCEPTED, None, 0),  # the model gave it no class, and nobody did
    ]
    review, *_ = store.reviews.decide(study, revision, decisions, by="sam", now=time.time())
    reviewer = Reviewer("Specialist^Sam", "Test Hospital", "sam")
    store.reviews.sign(study, revision, seen_version=review.version, reviewer=reviewer, by="sam", now=time.time())
    report(store, study, revision + 1)


def test_drift_counts_what_people_changed(browse: Browse, store: Store, tmp_path: Path) -> None:
    study = reported_study(store, tmp_path, at=time.time() - 3600, seeds=range(310, 316))
    sign(store, study)
    starts = trend.mondays(2, time.time())
    weeks = trend.by_week(store.outcomes.summed(starts), starts)
    (week,) = weeks
    assert (week.studies, week.cells, week.signed, week.source_ae) == (1, 6, 1, "MICROSCOPE")
    assert week.disagreed == pytest.approx(2 / 6)
    assert week.not_assessable == pytest.approx(2 / 6)
    assert week.lymphoblasts == pytest.approx(1 / 2)
    text = browse(Role.VIEWER).see("/drift?weeks=4").text
    assert "33.3\u00a0%" in text
    assert "MICROSCOPE" in text
    assert "33.3\u00a0%" in browse(Role.VIEWER).see("/drift?weeks=4&source=MICROSCOPE").text
    assert browse(Role.VIEWER).see("/drift?weeks=x&source=<b>").status_code == 200


def consent(flag: str | None, **changes: str) -> Callable[[Dataset], None]:
    def change(header: Dataset) -> None:
        for name, value in changes.items():
            setattr(header, name, value)
        if flag is not None:
            stated = Dataset()
            stated.ConsentForDistributionFlag = flag
            header.ConsentForClinicalTrialUseSequence = [stated]

    return change


def changed_study(store: Store, folder: Path, change: Callable[[Dataset], None], seed: int) -> str:
    for file in painted_study(folder, range(seed, seed + 6), patient_name="Secret^Person", patient_id="SECRET-7"):
        header = dcmread(file)
        change(header)
        header.save_as(file)
        keep_file(store, file, at=time.time())
    ((study, revision),) = store.revisions.close_due(time.time() + 20)
    report(store, study, revision)
    sign(store, study)
    return study


def test_reviewed_cells_leave_without_what_tells_whose_they_are(browse: Browse, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    yes = changed_study(store, tmp_path / "yes", consent("YES"), 400)
    silent = changed_study(store, tmp_path / "silent", consent(None), 410)
    changed_study(store, tmp_path / "no", consent("NO"), 420)
    changed_study(store, tmp_path / "burned", consent("YES", BurnedInAnnotation="YES"), 430)
    told = Told()
    browser = browse(Role.ADMINISTRATOR, of=store, audit=told)
    assert browser.change("/export", consent="all").status_code == 422  # nobody takes responsibility

    def exported(which: str) -> zipfile.ZipFile:
        answer = browser.change("/export", consent=which, responsible="yes")
        assert answer.headers["content-type"] == "application/zip"
        return zipfile.ZipFile(io.BytesIO(answer.content))

    archive = exported("stated")
    labels = [json.loads(archive.read(name)) for name in archive.namelist() if name.endswith(".label.json")]
    assert sorted(one["label"] for one in labels) == ["HEM", "HEM"]
    assert {one["consent"] for one in labels} == {"yes"}
    assert sorted(one["provenance"]["changed"] for one in labels) == [False, True]
    assert len({one["subject"] for one in labels}) == 1
    for name in archive.namelist():
        content = archive.read(name)
        for secret in ("Secret", "SECRET-7", yes, silent, "sam"):
            assert secret not in name
            if name.endswith(".json"):
                assert secret.encode() not in content
    more = exported("all")
    assert len([name for name in more.namelist() if name.endswith(".label.json")]) == 4
    assert {name.split("/")[0] for name in more.namelist()} == {labels[0]["subject"]}  # one subject, two studies

    # … and training reads it.
    more.extractall(tmp_path / "set")
    samples = reviewed.SET.read(tmp_path / "set")
    assert sorted(str(one.label) for one in samples) == ["HEM"] * 4
    assert store.audit.latest(1)[0].event == "cells_exported"
    assert [event for event, *_ in told.messages] == [AuditEvent.EXPORTED] * 2
    store.close()
