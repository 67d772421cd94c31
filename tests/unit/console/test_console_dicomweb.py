"""DICOMweb for the plugin's own objects: what is searched and fetched is what was sent."""

from __future__ import annotations

import email
import io
import json
import struct
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.message import Message
from pathlib import Path

import numpy as np
import pytest
import requests
from dicomweb_client.api import DICOMwebClient
from httpx import Response
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid

from allpacs.classify import aggregate
from allpacs.console.access import Role
from allpacs.console.http_limits import HttpLimits
from allpacs.decode.part10 import read_header
from allpacs.report.context import ReportContext
from allpacs.report.inputs import format_inputs
from allpacs.report.sr import structured_report
from allpacs.store.store import Store
from support.console_samples import MODEL, SIDE_PX, keep_file, painted_study, reported_study
from support.console_samples import report as leave_findings
from unit.console.conftest import Browser
from unit.console.test_console_http_limits import running

Browse = Callable[..., Browser]


def keep_report(store: Store, study: str) -> Dataset:
    headers = {row.sop_instance_uid: read_header(row.path) for row in store.revisions.instances(study, 1)}
    found = store.findings.get(study, 1)
    findings = aggregate.study_findings(study, 1, MODEL, "sha256:" + "cd" * 32, found)
    sr = structured_report(format_inputs(findings, headers, ReportContext(made_at=datetime.now(UTC))))
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


def keep_study(store: Store, folder: Path, at: float, name: str = "Doe^Jane", **changes: str) -> str:
    """Keep a study of one image with some attributes of its own, and a report of it; return its UID."""
    (file,) = painted_study(folder, [int(at) % 97], patient_name=name, study_uid=generate_uid())
    image = dcmread(file)
    for keyword, value in changes.items():
        setattr(image, keyword, value)
    image.save_as(file)
    keep_file(store, file, at=at)
    ((study, _),) = store.revisions.close_due(at + 20)
    leave_findings(store, study, 1)
    keep_report(store, study)
    return study


def image_of(store: Store, study: str) -> Path:
    (row,) = store.revisions.instances(study, 1)
    return row.path


def put_before(path: Path, tag: bytes, element: bytes) -> None:
    """Write an encoded element into a file of Explicit VR Little Endian, before another one."""
    content = path.read_bytes()
    place = content.index(tag)
    path.write_bytes(content[:place] + element + content[place:])


def change_vr(path: Path, tag: bytes, vr: bytes, value: bytes) -> None:
    """Write another VR and value for an element with a length of two bytes."""
    content = path.read_bytes()
    place = content.index(tag)
    (length,) = struct.unpack("<H", content[place + 6 : place + 8])
    element = content[place : place + 4] + vr + struct.pack("<H", len(value)) + value
    path.write_bytes(content[:place] + element + content[place + 8 + length :])


def nested(depth: int) -> bytes:
    """Return a sequence (0040,0555) with sequences within one another."""
    start, end = (
        b"\x40\x00\x55\x05SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff",
        b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0",
    )
    return start * depth + end * depth


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, list[str]]]:
    """Keep three studies, the latest last."""
    folder = tmp_path_factory.mktemp("three")
    store = Store.open(folder / "store")
    studies = [
        keep_study(store, folder / "a", 1000, StudyTime="101500", StudyID="S-1", ReferringPhysicianName="House^Greg"),
        keep_study(
            store, folder / "b", 2000, name="Wang^XiaoDong=王^小东=ワン^シャオドン", StudyTime="115959.5",
            StudyDate="20250102", SeriesNumber="7",
        ),
        keep_study(store, folder / "c", 3000, StudyTime="", StudyDate="20250301", StudyID="S-3"),
    ]  # fmt: skip
    yield store, studies
    store.close()


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", [2, 1, 0]),
        ("limit=2", [2, 1]),
        ("limit=2&offset=2", [0]),
        ("offset=3", []),
        ("limit=0", []),
        ("StudyTime=10", [0]),
        ("00080030=1100-1200", [1]),
        ("StudyTime=", [2, 1, 0]),
        ("StudyID=S-*", [2, 0]),
        ("StudyID=S-3", [2]),
        ("ReferringPhysicianName=house^*", [0]),
        ("ModalitiesInStudy=GM", [2, 1, 0]),
        ("ModalitiesInStudy=CT", []),
        ("PatientName=王^*", [1]),
        ("PatientName=ワン*", [1]),
        ("PatientName=*=王^小东", [1]),
        ("PatientName=xiao&fuzzymatching=true", [1]),
        ("PatientName=xiao", []),
        ("StudyDate=20250101-20250201", [1]),
        ("StudyDate=20250101-20250401&StudyID=*", [2, 1]),
        ("PatientSex=*&PatientBirthDate=", [2, 1, 0]),
    ],
)
def test_studies_are_found_by_every_key(
    browse: Browse, three: tuple[Store, list[str]], query: str, expected: list[int]
) -> None:
    store, studies = three
    found = listed(browse(Role.VIEWER, of=store), f"/dicom-web/studies?{query}")
    assert [str(one.StudyInstanceUID) for one in found] == [studies[number] for number in expected]


def test_studies_are_found_by_a_list_of_uids(browse: Browse, three: tuple[Store, list[str]]) -> None:
    store, studies = three
    browser = browse(Role.VIEWER, of=store)
    for separator in (",", "%5C"):
        path = f"/dicom-web/studies?StudyInstanceUID={studies[0]}{separator}{studies[2]}"
        assert [str(one.StudyInstanceUID) for one in listed(browser, path)] == [studies[2], studies[0]]


@pytest.mark.parametrize(
    ("level", "query", "expected"),
    [
        ("series", "", ["SR", "GM"]),
        ("series", "limit=1", ["SR"]),
        ("series", "limit=1&offset=1", ["GM"]),
        ("series", "offset=2", []),
        ("series", "Modality=GM", ["GM"]),
        ("series", "00080060=?M", ["GM"]),
        ("series", "SeriesNumber=7", ["GM"]),
        ("series", "SeriesInstanceUID=1.2.3", []),
        ("series", "PatientName=王^小东&Modality=SR", ["SR"]),
        ("series", "PatientName=nobody", []),
        ("series", "StudyTime=1200-", []),
        ("instances", "limit=1&offset=1", ["GM"]),
        ("instances", "Modality=SR", ["SR"]),
        ("instances", "SOPClassUID=1.2.840.10008.5.1.4.1.1.77.1.2,1.2.3", ["GM"]),
        ("instances", "InstanceNumber=0001&Modality=GM", ["GM"]),
        ("instances", "InstanceNumber=99", []),
        ("instances", "SOPInstanceUID=*", ["SR", "GM"]),
    ],
)
def test_series_and_instances_are_paged_and_matched(
    browse: Browse, three: tuple[Store, list[str]], level: str, query: str, expected: list[str]
) -> None:
    store, (_, study, _) = three
    path = f"/dicom-web/studies/{study}/{level}?includefield=Modality&{query}"
    assert [str(one.Modality) for one in listed(browse(Role.VIEWER, of=store), path)] == expected


def test_what_is_cut_is_said_and_unknown_keys_are_refused(browse: Browse, three: tuple[Store, list[str]]) -> None:
    store, (study, *_) = three
    browser = browse(Role.VIEWER, of=store)
    base = f"/dicom-web/studies/{study}"
    (image,) = [one for one in listed(browser, f"{base}/instances") if "Rows" in one]
    of_series = f"{base}/series/{image.SeriesInstanceUID}/instances"
    for path in ("/dicom-web/studies", f"{base}/series", f"{base}/instances"):
        assert browser.get(f"{path}?limit=1").headers["warning"] == (
            '299 allpacs "There are additional results that can be requested"'
        )
        assert "warning" not in browser.get(f"{path}?limit=9").headers
        assert browser.get(f"{path}?StationName=x").status_code == 400
        assert browser.get(f"{path}?limit=many").status_code == 400
        assert browser.get(path, headers={"accept": "application/dicom+xml"}).status_code == 406
        assert browser.get(f"{path}?accept=application/json").status_code == 200
    assert len(listed(browser, f"{of_series}?limit=5")) == 1
    assert listed(browser, f"{of_series}?offset=1") == []
    assert listed(browser, f"{of_series}?SOPInstanceUID=1.2.3") == []
    assert browser.get(f"{of_series}?StationName=x").status_code == 400


def test_further_attributes_come_when_they_are_asked_for(browse: Browse, three: tuple[Store, list[str]]) -> None:
    store, (study, *_) = three
    browser, base = browse(Role.VIEWER, of=store), f"/dicom-web/studies/{study}/instances?Modality=GM"
    (plain,) = listed(browser, base)
    assert "ContainerIdentifier" not in plain
    (one,) = listed(browser, f"{base}&includefield=ContainerIdentifier,00080008")
    assert (one.ContainerIdentifier, list(one.ImageType)) == ("A-1", ["DERIVED", "SECONDARY"])
    (whole,) = listed(browser, f"{base}&includefield=all")
    assert whole.SpecimenDescriptionSequence[0].SpecimenIdentifier == "A-1"
    assert "PixelData" not in whole


def test_a_public_client_pages_to_the_end(browse: Browse, three: tuple[Store, list[str]]) -> None:
    store, studies = three
    session = requests.Session()
    with running(store, HttpLimits(), browse(Role.VIEWER, of=store).app) as console:  # type: ignore[arg-type]
        base = f"http://127.0.0.1:{console.port}"
        session.get(f"{base}/test-enter")
        client = DICOMwebClient(f"{base}/dicom-web", session=session)
        found = client.search_for_studies(limit=1, get_remaining=True)
        assert [one["0020000D"]["Value"][0] for one in found] == studies[::-1]
        series = client.search_for_series(studies[0], limit=1, get_remaining=True)
        assert [one["00080060"]["Value"][0] for one in series] == ["SR", "GM"]
        instances = client.search_for_instances(studies[0], limit=1, get_remaining=True)
        assert len(instances) == 2
        of_image = [instances[1][tag]["Value"][0] for tag in ("0020000D", "0020000E", "00080018")]
        assert client.retrieve_instance(*of_image).Modality == "GM"
        (frame,) = client.retrieve_instance_frames(*of_image, frame_numbers=[1])
        assert len(frame) == SIDE_PX * SIDE_PX * 3


@pytest.mark.parametrize(
    ("kind", "spoil"),
    [
        ("nested 200 deep", lambda path: put_before(path, b"\x40\x00\x60\x05SQ", nested(200))),
        ("nested 3000 deep", lambda path: put_before(path, b"\x40\x00\x60\x05SQ", nested(3000))),
        (
            "a million items",
            lambda path: put_before(
                path, b"\x40\x00\x60\x05SQ",
                b"\x40\x00\x55\x05SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\0\0\0\0" * 10**6
                + b"\xfe\xff\xdd\xe0\0\0\0\0",
            ),
        ),
        ("Modality as FD", lambda path: change_vr(path, b"\x08\x00\x60\x00CS", b"FD", b"CANARY^A")),
        ("Modality as FD of 12 bytes", lambda path: change_vr(path, b"\x08\x00\x60\x00CS", b"FD", b"CANARY^NAME ")),
        ("a VR that is none", lambda path: change_vr(path, b"\x08\x00\x60\x00CS", b"XX", b"GM")),
        ("a name as a number", lambda path: change_vr(path, b"\x20\x00\x11\x00IS", b"IS", b"CANARY^NAME ")),
        ("5,000 digits", lambda path: change_vr(path, b"\x20\x00\x13\x00IS", b"IS", b"9" * 5000)),
        ("not a number", lambda path: change_vr(path, b"\x20\x00\x11\x00IS", b"FD", struct.pack("<d", float("nan")))),
        ("infinity", lambda path: change_vr(path, b"\x20\x00\x11\x00IS", b"DS", b"1e400 ")),
        ("patient's name as FD", lambda path: change_vr(path, b"\x10\x00\x10\x00PN", b"FD", b"CANARY^A")),
        ("not DICOM", lambda path: path.write_bytes(b"CANARY" * 100)),
        ("empty", lambda path: path.write_bytes(b"")),
        ("cut within the header", lambda path: path.write_bytes(path.read_bytes()[:700])),
    ],
)  # fmt: skip
def test_one_bad_object_never_breaks_a_list(
    browse: Browse, tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str, spoil: Callable[[Path], None]
) -> None:
    store = Store.open(tmp_path / "store")
    good, bad = keep_study(store, tmp_path / "a", 1000), keep_study(store, tmp_path / "b", 2000)
    spoil(image_of(store, bad))
    browser = browse(Role.VIEWER, of=store)
    for path in (
        "/dicom-web/studies",
        "/dicom-web/studies?includefield=all",
        "/dicom-web/studies?ModalitiesInStudy=SR",
    ):
        found = {str(one.StudyInstanceUID) for one in listed(browser, path)}
        assert found == {good, bad}, (kind, path)
    base = f"/dicom-web/studies/{bad}"
    uids = {row.sop_instance_uid for row in store.revisions.instances(bad, 1)}
    for query in ("", "?includefield=all"):
        answer = browser.get(f"{base}/instances{query}")
        assert answer.status_code == 200
        shown = {one["00080018"]["Value"][0] for one in strictly(answer)}
        assert uids <= shown or "left out" in answer.headers["warning"], (kind, query)
    assert len(listed(browser, f"{base}/series")) == 2
    answer = browser.get(f"{base}/metadata")
    assert answer.status_code == 200
    assert len(strictly(answer)) == 2 or "left out" in answer.headers["warning"]
    assert browser.see("/").status_code == 200
    assert browser.see(f"/studies/{bad}/revisions/1").status_code == 200
    written = "".join(capfd.readouterr())
    assert "CANARY" not in written
    assert "Traceback" not in written
    store.close()


def strictly(answer: Response) -> list[dict[str, dict[str, list[str]]]]:
    """Return JSON that has no NaN and no infinity (RFC 8259)."""

    def refuse(constant: str) -> float:
        raise AssertionError(constant)

    found = json.loads(answer.content, parse_constant=refuse)
    assert isinstance(found, list)
    return found


def test_sequences_beyond_a_depth_are_left_out_and_the_rest_is_answered(browse: Browse, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    study = keep_study(store, tmp_path / "a", 1000)
    put_before(image_of(store, study), b"\x40\x00\x60\x05SQ", nested(100))
    (one,) = [
        found
        for found in listed(browse(Role.VIEWER, of=store), f"/dicom-web/studies/{study}/metadata")
        if "Rows" in found
    ]
    assert one.SpecimenDescriptionSequence[0].SpecimenIdentifier == "A-1"  # behind the deep one
    depth, level = 0, one
    while "AcquisitionContextSequence" in level and level.AcquisitionContextSequence:
        depth, level = depth + 1, level.AcquisitionContextSequence[0]
    assert depth == 16
    store.close()


@pytest.mark.parametrize(
    ("declared", "name", "shown"),
    [
        (b"\\ISO 2022 IR 58 ", "Wang^XiaoDong=\x1b$)A王^\x1b$)A小东".encode("gb2312"), "王^小东"),
        (b"GB18030 ", "Wang^XiaoDong=王^小东".encode(), "王^小东"),
        (b"", "Wang^XiaoDong=王^小东".encode(), "王^小东"),
    ],
)  # fmt: skip
def test_names_of_any_character_set_are_shown_and_found(
    browse: Browse, tmp_path: Path, declared: bytes, name: bytes, shown: str
) -> None:
    store = Store.open(tmp_path / "store")
    study = keep_study(store, tmp_path / "a", 1000)
    path = image_of(store, study)
    change_vr(path, b"\x08\x00\x05\x00CS", b"CS", declared)
    change_vr(path, b"\x10\x00\x10\x00PN", b"PN", name + b" " * (len(name) % 2))
    browser = browse(Role.VIEWER, of=store)
    assert len(listed(browser, f"/dicom-web/studies?PatientName={shown}")) == 1
    answer = browser.get(f"/dicom-web/studies/{study}/instances?Modality=GM&includefield=PatientName")
    (found,) = answer.json()
    assert found["00100010"]["Value"] == [{"Alphabetic": "Wang^XiaoDong", "Ideographic": shown}]
    assert found["00080005"]["Value"] == ["ISO_IR 192"]
    page = browser.see("/").text
    assert shown.replace("^", " ") in page
    assert "\x1b" not in page + answer.text
    store.close()


def test_frames_are_bounded_before_any_is_decoded(browse: Browse, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    study = keep_study(store, tmp_path / "a", 1000)
    (row,) = store.revisions.instances(study, 1)
    content = row.path.read_bytes()
    for tag, side in ((b"\x28\x00\x10\x00US\x02\x00", 4000), (b"\x28\x00\x11\x00US\x02\x00", 4000)):
        place = content.index(tag) + len(tag)
        content = content[:place] + struct.pack("<H", side) + content[place + 2 :]
    place = content.index(b"\xe0\x7f\x10\x00OB\0\0") + 8
    pixels = 4000 * 4000 * 3
    row.path.write_bytes(content[:place] + struct.pack("<L", pixels) + bytes(pixels))
    frames = f"/dicom-web/studies/{study}/series/{row.series_uid}/instances/{row.sop_instance_uid}/frames"
    browser = browse(Role.VIEWER, of=store)
    answer = browser.get(f"{frames}/{','.join(['1'] * 11)}")  # 11 x 48 MB
    assert answer.status_code == 413
    assert "at most 512000000" in answer.text
    assert browser.get(f"{frames}/{'9' * 5000}").status_code == 400
    assert browser.get(f"{frames}/{'9' * 5000}/rendered").status_code == 400
    single = browser.get(f"{frames}/1", headers={"accept": "application/octet-stream"})
    assert (single.status_code, len(single.content)) == (200, pixels)
    assert single.headers["content-type"] == "application/octet-stream; transfer-syntax=1.2.840.10008.1.2.1"
    store.close()


def test_an_instance_comes_alone_if_that_is_accepted(browse: Browse, store: Store, study: str, report: Dataset) -> None:
    browser, (row, *_) = browse(Role.VIEWER), store.revisions.instances(study, 1)
    path = f"/dicom-web/studies/{study}/series/{row.series_uid}/instances/{row.sop_instance_uid}"
    alone = browser.get(path, headers={"accept": "application/dicom; transfer-syntax=*"})
    assert alone.headers["content-type"] == "application/dicom"
    assert alone.content == row.path.read_bytes()
    jpeg_only = 'multipart/related; type="application/dicom"; transfer-syntax=1.2.840.10008.1.2.4.50'
    assert browser.get(path, headers={"accept": jpeg_only}).status_code == 406
