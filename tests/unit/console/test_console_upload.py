"""Uploads, over HTTP and a real association to a receiver."""

from __future__ import annotations

import html
import io
import os
import re
import stat
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.fileset import FileSet
from pydicom.uid import DeflatedExplicitVRLittleEndian, generate_uid

from allpacs.app import make_receiver
from allpacs.audit.messages import AuditEvent
from allpacs.console.access import Role
from allpacs.console.upload_files import ImageForm, SortedFiles
from allpacs.console.upload_folder import UploadFolder
from allpacs.domain.specimen import PatientAndSpecimen
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


def part10(image: Dataset) -> bytes:
    buffer = io.BytesIO()
    image.save_as(buffer)
    return buffer.getvalue()


def microscopy(folder: Path, **changes: str | None) -> bytes:
    """Return a painted image of a study of its own; a change to None removes the attribute."""
    (file,) = painted_study(folder, [41])
    image = dcmread(file)
    image.StudyInstanceUID, image.SOPInstanceUID = generate_uid(), generate_uid()
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    for keyword, value in changes.items():
        if value is None:
            del image[keyword]
        else:
            setattr(image, keyword, value)
    return part10(image)


def dicomdir(folder: Path) -> bytes:
    files = FileSet()
    (file,) = painted_study(folder, [42])
    image = dcmread(file)
    image.StudyID = "1"
    files.add(image)
    files.write(folder / "medium")
    return (folder / "medium" / "DICOMDIR").read_bytes()


def reasons(answer: object) -> dict[str, str]:
    """Return the reason that the page gives for each file that was not taken."""
    found = re.findall(r'<p class="fault"><bdi>(.*?)</bdi>: <bdi>(.*?)</bdi></p>', answer.text)  # type: ignore[attr-defined]
    return {html.unescape(name): html.unescape(reason) for name, reason in found}


def bad_files(folder: Path) -> dict[str, tuple[bytes, str]]:
    """Return file names with content and the reason why the file is not taken."""
    whole = microscopy(folder)
    return {
        "no_study.dcm": (microscopy(folder, StudyInstanceUID=None), "0xC000 Study Instance UID is missing or empty"),
        "no_instance.dcm": (microscopy(folder, SOPInstanceUID=None), "0xC000 SOP Instance UID is missing or empty"),
        "odd_uid.dcm": (
            microscopy(folder, SeriesInstanceUID="not-a-uid"),
            "0x0117 Series Instance UID is not a valid UID",
        ),
        "no_pixels.dcm": (
            microscopy(folder, PixelData=None), "0xC000 data set ends before its pixel data",
        ),
        "truncated.dcm": (whole[: len(whole) - 100], "0xC000 pixel data is cut short"),
        "cut_header.dcm": (whole[:400], "0xC000 data set ends before its pixel data"),
        "DICOMDIR": (dicomdir(folder), "this is a DICOMDIR, the index of a medium: upload the images that it lists"),
        "Thumbs.db": (b"\xd0\xcf\x11\xe0" + bytes(600), "not a BMP, PNG, JPEG or TIFF picture"),
        "notes.txt": (b"not DICOM", "not a BMP, PNG, JPEG or TIFF picture"),
        "half.png": (png(5)[:-30], "page 1 of the picture cannot be read"),
    }  # fmt: skip


def test_bad_files_cost_only_themselves(reviewer: Browser, store: Store, tmp_path: Path) -> None:
    bad = bad_files(tmp_path)
    good = microscopy(tmp_path)
    answer = upload(
        reviewer, ("good.dcm", good), *((name, content) for name, (content, _) in bad.items()), ("good.png", png(9)),
        family_name="Doe", patient_id="U-9",
    )  # fmt: skip
    assert answer.status_code == 200, answer.text  # type: ignore[attr-defined]
    assert "2 images were taken" in answer.text  # type: ignore[attr-defined]
    assert reasons(answer) == {name: reason for name, (_, reason) in bad.items()}
    assert len(instances(store, dcmread(io.BytesIO(good)).StudyInstanceUID)) == 1


def test_an_upload_of_bad_files_only_names_each_of_them(reviewer: Browser, store: Store, tmp_path: Path) -> None:
    bad, before = bad_files(tmp_path), store.studies.latest()
    answer = upload(reviewer, *((name, content) for name, (content, _) in bad.items()))
    assert answer.status_code == 422  # type: ignore[attr-defined]
    assert reasons(answer) == {name: reason for name, (_, reason) in bad.items()}
    assert store.studies.latest() == before


def shared_strip(side_px: int, pages: int) -> bytes:
    """Return a TIFF whose pages all show one deflated strip (TIFF 6.0 section 2)."""
    strip = zlib.compress(bytes(side_px * side_px * 3), 9)
    strip += b"\0" * (len(strip) % 2)
    content = bytearray(b"II*\0" + struct.pack("<I", 8 + len(strip)) + strip)
    for page in range(pages):
        entries = [
            (256, 4, 1, side_px), (257, 4, 1, side_px), (258, 3, 3, len(content) + 2 + 12 * 9 + 4), (259, 3, 1, 8),
            (262, 3, 1, 2), (273, 4, 1, 8), (277, 3, 1, 3), (278, 4, 1, side_px), (279, 4, 1, len(strip)),
        ]  # fmt: skip
        following = 0 if page == pages - 1 else len(content) + 2 + 12 * 9 + 4 + 8
        content += struct.pack("<H", 9) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
        content += struct.pack("<IHHHH", following, 8, 8, 8, 0)
    return bytes(content)


def test_an_upload_that_grows_on_disk_is_bounded_and_leaves_nothing(browse: Browse, port: int, store: Store) -> None:
    small = browse(Role.REVIEWER, receive={"port": port}, max_upload_mb=1)
    bomb, many = shared_strip(640, 5), shared_strip(16, 201)
    answer = upload(small, ("bomb.tif", bomb), ("many.tif", many), ("good.png", png(11)), patient_id="U-10")
    assert answer.status_code == 200, answer.text  # type: ignore[attr-defined]
    assert reasons(answer) == {
        "bomb.tif": "the decoded images need too much space: upload fewer files at a time",
        "many.tif": "the file has more than 200 pages: split it",
    }
    assert "1 image was taken" in answer.text  # type: ignore[attr-defined]
    assert list((store.spool.folder.parent / "uploads").iterdir()) == []


def test_a_deflate_bomb_is_refused(browse: Browse, port: int, tmp_path: Path) -> None:
    small = browse(Role.REVIEWER, receive={"port": port}, max_upload_mb=1)
    image = dcmread(io.BytesIO(microscopy(tmp_path)))
    image.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    image.add_new(0x7FDF0010, "LO", "ALLPACS")
    image.add_new(0x7FDF1001, "OB", bytes(3_000_000))
    answer = upload(small, ("bomb.dcm", part10(image)))
    assert answer.status_code == 422  # type: ignore[attr-defined]
    assert reasons(answer) == {"bomb.dcm": "0xC000 the deflated data set is larger than 1000000 bytes"}


def test_what_is_uploaded_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    (tmp_path / "uploads").mkdir(mode=0o755)
    form = ImageForm(PatientAndSpecimen("U-1"), datetime.now(UTC), None, generate_uid())
    image = microscopy(tmp_path)
    umask = os.umask(0)
    try:
        with UploadFolder(tmp_path / "uploads").new() as folder:
            files = SortedFiles(folder, max_inflated_bytes=10**6, bytes_left=10**7)
            files.add("a.png", io.BytesIO(png(1)), form)
            files.add("b.dcm", io.BytesIO(image), form)
            assert len(files.instances) == 2
            paths = [folder.parent, folder, *folder.rglob("*")]
            modes = {(path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in paths}
    finally:
        os.umask(umask)
    assert modes == {(True, 0o700), (False, 0o600)}


def test_leftovers_of_an_interrupted_upload_are_deleted_and_a_running_one_is_not(tmp_path: Path) -> None:
    killed = """
import os, pathlib, sys
from allpacs.console.upload_files import ImageForm, SortedFiles
from allpacs.console.upload_folder import UploadFolder
from allpacs.domain.specimen import PatientAndSpecimen
with UploadFolder(pathlib.Path(sys.argv[1])).new() as folder:
    (folder / "0000").write_bytes(b"pixels")
    os._exit(9)
"""
    folder = tmp_path / "uploads"
    uploads = UploadFolder(folder)
    assert subprocess.run([sys.executable, "-c", killed, str(folder)], check=False).returncode == 9
    with uploads.new() as running:
        assert len(list(folder.iterdir())) == 2
        assert uploads.sweep() == 1
        assert list(folder.iterdir()) == [running]
    assert list(folder.iterdir()) == []


def test_a_console_deletes_leftovers_when_it_starts(browse: Browse, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    left = tmp_path / "store" / "uploads" / "left"
    left.mkdir(parents=True)
    (left / "0000").write_bytes(b"pixels")
    with browse(Role.REVIEWER, of=store) as browser:  # runs the application's start and end
        deadline = threading.Event()
        while left.exists() and not deadline.wait(0.01):
            pass
        assert browser.get("/upload").status_code == 200
    assert not left.exists()
    store.close()


@pytest.mark.parametrize("length", ["9" * 5000, "-1", "1e3"])
def test_a_length_that_is_no_number_is_refused(reviewer: Browser, length: str) -> None:
    answer = reviewer.post("/upload", content=b"", headers={"x-csrf-token": reviewer.token, "content-length": length})
    assert answer.status_code in (400, 411)
