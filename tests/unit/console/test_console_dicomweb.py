"""DICOMweb for the plugin's own objects: what is searched and fetched is what was sent."""

from __future__ import annotations

import email
import io
from collections.abc import Callable
from datetime import UTC, datetime
from email.message import Message

import pytest
from pydicom import Dataset, dcmread

from allpacs.classify import aggregate
from allpacs.console.access import Role
from allpacs.decode.part10 import read_header
from allpacs.report.context import ReportContext
from allpacs.report.sr import structured_report
from allpacs.store.store import Store
from console_samples import MODEL
from unit.console.conftest import Browser

Browse = Callable[..., Browser]


@pytest.fixture(scope="module")
def report(store: Store, study: str) -> Dataset:
    """Keep a real structured report of the study."""
    headers = {row.sop_instance_uid: read_header(row.path) for row in store.revisions.instances(study, 1)}
    found = store.findings.get(study, 1)
    findings = aggregate.study_findings(study, 1, MODEL, "sha256:" + "cd" * 32, found)
    sr = structured_report(findings, headers, ReportContext(made_at=datetime.now(UTC)))
    store.artefacts.put(study, 1, sr)
    return dcmread(io.BytesIO(sr.content))


def listed(browser: Browser, path: str) -> list[Dataset]:
    answer = browser.get(path)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/dicom+json"
    return [Dataset.from_json(one) for one in answer.json()]


def test_a_report_is_found_and_fetched_as_it_was_sent(browse: Browse, study: str, report: Dataset) -> None:
    browser = browse(Role.VIEWER)
    (found,) = listed(browser, f"/dicom-web/studies?StudyInstanceUID={study}&limit=10&includefield=all")
    assert (found.PatientID, found.PatientName) == (report.PatientID, report.PatientName)
    assert (found.NumberOfStudyRelatedInstances, found.ModalitiesInStudy) == (1, "SR")
    assert len(listed(browser, f"/dicom-web/studies?00100020={report.PatientID}")) == 1
    assert listed(browser, "/dicom-web/studies?PatientID=nobody") == []
    base = f"/dicom-web/studies/{study}"
    (series,) = listed(browser, f"{base}/series")
    assert (series.SeriesInstanceUID, series.NumberOfSeriesRelatedInstances) == (report.SeriesInstanceUID, 1)
    below = f"{base}/series/{series.SeriesInstanceUID}"
    for path in (f"{base}/instances", f"{below}/instances"):
        (instance,) = listed(browser, path)
        assert (instance.SOPInstanceUID, instance.SOPClassUID) == (report.SOPInstanceUID, report.SOPClassUID)
    (whole,) = listed(browser, f"{below}/instances/{report.SOPInstanceUID}/metadata")
    assert whole.ContentSequence == report.ContentSequence
    for path in (base, below, f"{below}/instances/{report.SOPInstanceUID}"):
        answer = browser.get(path, headers={"accept": 'multipart/related; type="application/dicom"'})
        head = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode()
        message = email.message_from_bytes(head + answer.content)
        (part,) = message.get_payload()
        assert isinstance(part, Message)
        assert part.get_content_type() == "application/dicom"
        assert dcmread(io.BytesIO(part.get_payload(decode=True))) == report


def test_what_is_not_there_or_not_meant_is_said(browse: Browse, study: str, report: Dataset) -> None:
    browser = browse(Role.VIEWER)
    assert browser.get("/dicom-web/studies/1.2.3").status_code == 404
    assert browser.get(f"/dicom-web/studies/{study}/series/1.2.3/metadata").status_code == 404
    assert browser.get("/dicom-web/studies/..%2f..%2fetc/instances").status_code in (400, 404)
    assert browser.get("/dicom-web/studies?PatientName=x").status_code == 400
    assert browser.get(f"/dicom-web/studies/{study}", headers={"accept": "image/jpeg"}).status_code == 406
    assert browse().get("/dicom-web/studies").status_code == 401
    for method in ("post", "put", "delete"):
        assert getattr(browser, method)("/dicom-web/studies").status_code == 405
