"""Uploads, over HTTP and a real association to a receiver."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread

from allpacs.app import make_receiver
from allpacs.audit.messages import AuditEvent
from allpacs.console.access import Role
from allpacs.console.pages.upload import sweep_uploads
from allpacs.settings import load_settings
from allpacs.store.store import Store
from support.console_samples import painted_study
from unit.console.conftest import Browser, Told

Browse = Callable[..., Browser]


@pytest.fixture(scope="module")
def port(store: Store) -> Iterator[int]:
    settings = load_settings(store={"folder": store.spool.folder.parent}, receive={"port": 0, "min_free_mb": 0})
    receiver = make_receiver(settings, store)
    receiver.start()
    yield receiver.port
    receiver.stop()


@pytest.fixture
def reviewer(browse: Browse, port: int) -> Browser:
    return browse(Role.REVIEWER, receive={"port": port})


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((64, 64, 3), 40 + seed, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def upload(browser: Browser, *files: tuple[str, bytes], **fields: str) -> object:
    headers = {"x-csrf-token": browser.token, "accept": "text/html"}
    return browser.post("/upload", data=fields, files=[("files", one) for one in files], headers=headers)


def instances(store: Store, study: str) -> list[Path]:
    return [
        path
        for uid in [study]
        for path in (store.spool.folder).rglob("*.dcm")
        if dcmread(path, stop_before_pixels=True).StudyInstanceUID == uid
    ]


def test_pictures_become_a_study_of_the_patient(reviewer: Browser, store: Store) -> None:
    particulars = {
        "family_name": "Иванова", "given_name": "Анна", "patient_id": "U-1", "accession": "A-77", "sex": "F",
        "birth_date": "2016-05-04", "specimen": "bone-marrow", "stain": "giemsa", "spacing_um": "0,12",
    }  # fmt: skip
    answer = upload(reviewer, ("one.png", png(1)), ("../../etc/<b>two</b>.png", png(2)), **particulars)
    assert answer.status_code == 200, answer.text
    assert "2 images were taken" in answer.text
    newest = store.studies.latest(limit=1)[0]
    assert newest.source_ae == "ALLPACS_CONSOLE"
    found = [dcmread(path) for path in instances(store, newest.study_uid)]
    assert len(found) == 2
    for image in found:
        assert (image.PatientName, image.PatientID, image.PatientBirthDate) == ("Иванова^Анна", "U-1", "20160504")
        assert image.AccessionNumber == "A-77"
        assert float(image.PixelSpacing[0]) == pytest.approx(0.00012)
        assert image.SpecimenDescriptionSequence[0].SpecimenTypeCodeSequence[0].CodeValue == "119359002"
    assert store.audit.latest(1)[0].event == "uploaded"
    assert list((store.spool.folder.parent / "uploads").iterdir()) == []


def test_the_audit_trail_is_told_of_an_import(browse: Browse, port: int, store: Store) -> None:
    told = Told()
    reviewer = browse(Role.REVIEWER, identifier="ada", audit=told, receive={"port": port})
    assert upload(reviewer, ("one.png", png(3)), family_name="Doe", patient_id="U-2").status_code == 200
    study = store.studies.latest(limit=1)[0].study_uid
    assert told.messages == [(AuditEvent.IMPORTED, "ada", (study,), None)]


def test_dicom_files_go_as_they_are(reviewer: Browser, store: Store, tmp_path: Path) -> None:
    (file,) = painted_study(tmp_path, [88])
    answer = upload(reviewer, ("IM0001", file.read_bytes()), patient_id="ignored")
    assert "1 image was taken" in answer.text
    study = dcmread(file).StudyInstanceUID
    (kept,) = instances(store, study)
    assert dcmread(kept).PatientID == "TEST-1"


@pytest.mark.parametrize(
    ("files", "fields", "says"),
    [
        ([], {}, "choose at least one file"),
        ([("<img src=x>.png", b"no picture")], {}, "&lt;img src=x&gt;.png"),
        ([("a.png", png(3))], {"patient_id": "x" * 65}, "the patient id is longer than 64 characters"),
        ([("a.png", png(3))], {"birth_date": "never"}, "the date of birth is no date"),
        ([("a.png", png(3))], {"spacing_um": "wide"}, "the pixel spacing is no number"),
        ([("a.png", png(3))], {"spacing_um": "-1"}, "spacing"),
    ],
)
def test_what_cannot_be_is_refused_and_said(
    reviewer: Browser, store: Store, files: list[tuple[str, bytes]], fields: dict[str, str], says: str
) -> None:
    before = len(store.studies.latest())
    headers = {"x-csrf-token": reviewer.token, "accept": "text/html"}
    given = [("files", one) for one in files] or [("nothing", ("", b""))]
    answer = reviewer.post("/upload", data=fields, files=given, headers=headers)
    assert answer.status_code == 422, answer.text
    assert says in answer.text
    assert str(store.spool.folder.parent) not in answer.text
    assert len(store.studies.latest()) == before


def test_a_large_upload_is_refused_before_it_is_read(browse: Browse, port: int) -> None:
    browser = browse(Role.REVIEWER, max_upload_mb=1)
    headers = {"x-csrf-token": browser.token, "content-type": "multipart/form-data; boundary=x"}

    def body() -> Iterator[bytes]:
        yield b"--x"
        raise AssertionError("the body was read")

    answer = browser.post("/upload", content=b"", headers=headers | {"content-length": str(2_000_000_000)})
    assert answer.status_code == 413
    answer = browser.post("/upload", content=body(), headers=headers | {"content-length": str(2_000_000_000)})
    assert answer.status_code == 413


def test_an_upload_that_says_nothing_of_its_size_or_form_is_refused(reviewer: Browser) -> None:
    headers = {"x-csrf-token": reviewer.token}
    assert reviewer.post("/upload", content=iter([b"x"]), headers=headers).status_code == 411
    headers["content-type"] = "multipart/form-data; boundary=x"
    assert reviewer.post("/upload", content=b"--x\r\nbroken", headers=headers).status_code in (400, 422)


def test_a_receiver_that_is_away_is_told(browse: Browse) -> None:
    answer = upload(browse(Role.REVIEWER, receive={"port": 1}), ("a.png", png(1)))
    assert answer.status_code == 503
    assert "our own receiver does not take it" in answer.text


def dicom(path: Path, **changes: str | None) -> bytes:
    """Return the bytes of an instance with some elements changed, or removed where None."""
    image = dcmread(path)
    for keyword, value in changes.items():
        if value is None:
            delattr(image, keyword)
        else:
            setattr(image, keyword, value)
    buffer = io.BytesIO()
    image.save_as(buffer)
    return buffer.getvalue()


def test_good_files_are_taken_and_bad_ones_named(reviewer: Browser, store: Store, tmp_path: Path) -> None:
    (good,) = painted_study(tmp_path, [9])
    before = len(store.studies.latest())
    answer = upload(
        reviewer,
        ("good.dcm", good.read_bytes()),
        ("no_study.dcm", dicom(good, StudyInstanceUID=None)),
        ("no_sop.dcm", dicom(good, SOPInstanceUID=None)),
        ("Thumbs.db", b"\xd0\xcf\x11\xe0" + bytes(600)),
        ("cut.png", png(3)[:60]),
        ("fine.png", png(4)),
    )
    assert answer.status_code == 200, answer.text
    assert "2 images were taken" in answer.text
    for name in ("no_study.dcm", "no_sop.dcm", "Thumbs.db", "cut.png"):
        assert f"<bdi>{name}</bdi>: <bdi>" in answer.text
    assert "0xC000: the Study Instance UID is missing" in answer.text
    assert str(store.spool.folder.parent) not in answer.text
    assert len(store.studies.latest()) == before + 2
    assert not list((store.spool.folder.parent / "uploads").iterdir())


def test_if_nothing_can_be_taken_every_file_is_named(reviewer: Browser) -> None:
    answer = upload(reviewer, ("a.png", b"no picture"), ("b.dcm", b"\0" * 128 + b"DICM" + b"\xff" * 40))
    assert answer.status_code == 422
    assert "<bdi>a.png</bdi>" in answer.text
    assert "<bdi>b.dcm</bdi>" in answer.text


def test_a_small_file_of_many_large_pages_is_stopped(reviewer: Browser, store: Store) -> None:
    buffer = io.BytesIO()
    page = Image.new("RGB", (4000, 4000), (130, 60, 140))
    page.save(buffer, "TIFF", compression="tiff_adobe_deflate", save_all=True, append_images=[page] * 19)
    assert len(buffer.getvalue()) < 4_000_000
    answer = upload(reviewer, ("pages.tif", buffer.getvalue()))
    assert answer.status_code == 422
    assert "MB uncompressed" in answer.text
    assert not list((store.spool.folder.parent / "uploads").iterdir())


def test_what_an_interrupted_upload_left_is_swept(tmp_path: Path) -> None:
    old, new = tmp_path / "uploads" / "old", tmp_path / "uploads" / "new"
    for folder in (old, new):
        folder.mkdir(parents=True)
        (folder / "0000").write_bytes(b"x")
    os.utime(old, (0, 0))
    assert sweep_uploads(tmp_path) == 1
    assert [path.name for path in (tmp_path / "uploads").iterdir()] == ["new"]
