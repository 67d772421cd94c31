"""DICOMweb for the plugin's own objects: what is searched and fetched is what was sent."""

from __future__ import annotations

import email
import io
from collections.abc import Callable
from datetime import UTC, datetime
from email.message import Message
from pathlib import Path

import numpy as np
import pytest
from httpx import Response
from PIL import Image
from pydicom import Dataset, dcmread

from allpacs.classify import aggregate
from allpacs.console.access import Role
from allpacs.decode.part10 import read_header
from allpacs.report.context import ReportContext
from allpacs.report.sr import structured_report
from allpacs.store.store import Store
from support.console_samples import MODEL, SIDE_PX, keep_file, painted_study, reported_study
from support.console_samples import report as leave_findings
from unit.console.conftest import Browser

Browse = Callable[..., Browser]


def keep_report(store: Store, study: str) -> Dataset:
    headers = {row.sop_instance_uid: read_header(row.path) for row in store.revisions.instances(study, 1)}
    found = store.findings.get(study, 1)
    findings = aggregate.study_findings(study, 1, MODEL, "sha256:" + "cd" * 32, found)
    sr = structured_report(findings, headers, ReportContext(made_at=datetime.now(UTC)))
    store.artefacts.put(study, 1, sr)
    return dcmread(io.BytesIO(sr.content))


@pytest.fixture(scope="module")
def report(store: Store, study: str) -> Dataset:
    """Keep a real structured report of the study."""
    return keep_report(store, study)


def listed(browser: Browser, path: str) -> list[Dataset]:
    answer = browser.get(path)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/dicom+json"
    return [Dataset.from_json(one) for one in answer.json()]


def parts(answer: Response) -> list[Message]:
    """Return the parts of a multipart answer."""
    head = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode()
    return [part for part in email.message_from_bytes(head + answer.content).get_payload() if isinstance(part, Message)]


def content(part: Message) -> bytes:
    payload = part.get_payload(decode=True)
    assert isinstance(payload, bytes)
    return payload


def test_a_report_is_found_and_fetched_as_it_was_sent(
    browse: Browse, store: Store, study: str, report: Dataset
) -> None:
    browser = browse(Role.VIEWER)
    (found,) = listed(browser, f"/dicom-web/studies?StudyInstanceUID={study}&limit=10&includefield=all")
    assert (found.PatientID, found.PatientName) == (report.PatientID, report.PatientName)
    images = len(store.revisions.instances(study, 1))
    assert (found.NumberOfStudyRelatedInstances, set(found.ModalitiesInStudy)) == (1 + images, {"SR", "GM"})
    assert len(listed(browser, f"/dicom-web/studies?00100020={report.PatientID}")) == 1
    assert listed(browser, "/dicom-web/studies?PatientID=nobody") == []
    base = f"/dicom-web/studies/{study}"
    series, of_images = listed(browser, f"{base}/series")
    assert (series.SeriesInstanceUID, series.NumberOfSeriesRelatedInstances) == (report.SeriesInstanceUID, 1)
    assert of_images.NumberOfSeriesRelatedInstances == images
    below = f"{base}/series/{series.SeriesInstanceUID}"
    (instance,) = listed(browser, f"{below}/instances")
    assert (instance.SOPInstanceUID, instance.SOPClassUID) == (report.SOPInstanceUID, report.SOPClassUID)
    assert len(listed(browser, f"{base}/instances")) == 1 + images
    (whole,) = listed(browser, f"{below}/instances/{report.SOPInstanceUID}/metadata")
    assert whole.ContentSequence == report.ContentSequence
    for path in (base, below, f"{below}/instances/{report.SOPInstanceUID}"):
        first, *others = parts(browser.get(path, headers={"accept": 'multipart/related; type="application/dicom"'}))
        assert len(others) == (images if path == base else 0)
        assert first.get_content_type() == "application/dicom"
        assert dcmread(io.BytesIO(content(first))) == report


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("PatientName", "*neil*", True),
        ("00100010", "<b>O'Neil</b>^*", True),
        ("PatientName", "neil", False),
        ("PatientName", "*[a-z]*", False),  # not a range: DICOM has * and ? only
        ("PatientID", "ID-*", True),
        ("AccessionNumber", "A-?", True),
        ("StudyDate", "20000101-", True),
        ("StudyDate", "-20000101", False),
        ("StudyDescription", "*nothing like it*", False),
    ],
)
def test_studies_are_searched_as_viewers_do(browse: Browse, report: Dataset, key: str, value: str, found: bool) -> None:
    answer = browse(Role.VIEWER).get("/dicom-web/studies", params={key: value})
    assert answer.status_code == 200
    assert len(answer.json()) == found


def test_frames_are_what_the_model_was_shown_and_the_metadata_say_so(
    browse: Browse, store: Store, study: str, report: Dataset
) -> None:
    browser, (row, *_) = browse(Role.VIEWER), store.revisions.instances(study, 1)
    path = f"/dicom-web/studies/{study}/series/{row.series_uid}/instances/{row.sop_instance_uid}"
    (described,) = listed(browser, f"{path}/metadata")
    assert (described.PhotometricInterpretation, described.SamplesPerPixel, described.BitsAllocated) == ("RGB", 3, 8)
    assert "BulkDataURI" not in browser.get(f"{path}/metadata").text
    answer = browser.get(
        f"{path}/frames/1", headers={"accept": "multipart/related; type=application/octet-stream; transfer-syntax=*"}
    )
    (part,) = parts(answer)
    assert part["Content-Type"] == "application/octet-stream; transfer-syntax=1.2.840.10008.1.2.1"
    shape = (described.Rows, described.Columns, 3)
    sent = np.frombuffer(content(part), np.uint8).reshape(shape)
    np.testing.assert_array_equal(sent, dcmread(row.path).pixel_array)
    assert len(parts(browser.get(f"{path}/frames/1,1"))) == 2
    for place, side in (("rendered", SIDE_PX), ("frames/1/rendered", SIDE_PX), ("thumbnail", SIDE_PX)):
        picture = browser.get(f"{path}/{place}")
        assert picture.headers["content-type"] == "image/jpeg"
        assert Image.open(io.BytesIO(picture.content)).size == (side, side)
    assert browser.get(f"/dicom-web/studies/{study}/series/{row.series_uid}/thumbnail").status_code == 200


def test_frames_that_are_not_there_are_said(browse: Browse, store: Store, study: str, report: Dataset) -> None:
    browser, (row, *_) = browse(Role.VIEWER), store.revisions.instances(study, 1)
    path = f"/dicom-web/studies/{study}/series/{row.series_uid}/instances/{row.sop_instance_uid}/frames"
    for frames, status in (("2", 404), ("1,2", 404), ("0", 404), ("x", 400), (",".join(["1"] * 65), 400)):
        assert browser.get(f"{path}/{frames}").status_code == status, frames
    assert browser.get(f"{path}/1", headers={"accept": "image/jp2"}).status_code == 406
    of_report = f"/dicom-web/studies/{study}/series/{report.SeriesInstanceUID}/instances/{report.SOPInstanceUID}"
    assert browser.get(f"{of_report}/frames/1").status_code == 404
    assert browser.get(f"{of_report}/rendered").status_code == 404
    assert browse().get(f"{path}/1").status_code == 401


def test_images_that_retention_deleted_are_left_out(browse: Browse, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    study = reported_study(store, tmp_path, cells=2)
    keep_report(store, study)
    browser = browse(Role.VIEWER, of=store)
    assert len(listed(browser, f"/dicom-web/studies/{study}/instances")) == 3
    for row in store.revisions.instances(study, 1):
        row.path.unlink()
    (only,) = listed(browser, f"/dicom-web/studies/{study}/instances")
    assert only.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.34"
    store.close()


def test_an_image_without_modality_hides_no_study(browse: Browse, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    (file,) = painted_study(tmp_path, [1])
    image = dcmread(file)
    del image.Modality
    image.save_as(file)
    keep_file(store, file, at=1000.0)
    ((study, _),) = store.revisions.close_due(1020.0)
    leave_findings(store, study, 1)
    keep_report(store, study)
    browser = browse(Role.VIEWER, of=store)
    (found,) = listed(browser, "/dicom-web/studies")
    assert (found.StudyInstanceUID, found.ModalitiesInStudy, found.NumberOfStudyRelatedSeries) == (study, "SR", 2)
    assert len(listed(browser, f"/dicom-web/studies/{study}/series")) == 2
    store.close()


def test_what_is_not_there_or_not_meant_is_said(browse: Browse, study: str, report: Dataset) -> None:
    browser = browse(Role.VIEWER)
    assert browser.get("/dicom-web/studies/1.2.3").status_code == 404
    assert browser.get(f"/dicom-web/studies/{study}/series/1.2.3/metadata").status_code == 404
    assert browser.get("/dicom-web/studies/..%2f..%2fetc/instances").status_code in (400, 404)
    assert browser.get("/dicom-web/studies?StationName=S").status_code == 400
    assert browser.get(f"/dicom-web/studies/{study}", headers={"accept": "image/jpeg"}).status_code == 406
    assert browse().get("/dicom-web/studies").status_code == 401
    for method in ("post", "put", "delete"):
        assert getattr(browser, method)("/dicom-web/studies").status_code == 405
