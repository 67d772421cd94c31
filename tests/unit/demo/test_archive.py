from __future__ import annotations

import threading

import pytest
from pydicom import dcmread
from pydicom.uid import Comprehensive3DSRStorage, VLMicroscopicImageStorage

from allpacs.deliver.c_store import echo, send_files
from allpacs.demo.archive import Archive
from allpacs.domain.errors import DeliveryUnavailable
from conformance.support.network import free_port
from support.deliver_samples import STUDY, dicom_object, write_file


@pytest.fixture
def archive(tmp_path):
    with Archive(tmp_path / "pacs", "PACS") as running:
        yield running


def send(archive, tmp_path, *datasets):
    source = tmp_path / "in"
    source.mkdir(exist_ok=True)
    paths = [write_file(source, dataset) for dataset in datasets]
    return [file.status for file in send_files(paths, archive.host, archive.port, archive.ae_title, "SENDER")]


def test_instances_are_kept_by_study(archive, tmp_path):
    sent = dicom_object("one")
    assert send(archive, tmp_path, sent, dicom_object("two", VLMicroscopicImageStorage)) == [0x0000, 0x0000]
    one, two = archive.instances
    assert one.path == tmp_path / "pacs" / STUDY / f"{sent.SOPInstanceUID}.dcm"
    assert dcmread(one.path) == sent
    assert (one.study_uid, one.series_uid, one.calling_ae) == (STUDY, sent.SeriesInstanceUID, "SENDER")
    assert two.sop_class_uid == VLMicroscopicImageStorage
    assert sorted(path.suffix for path in (tmp_path / "pacs" / STUDY).iterdir()) == [".dcm", ".dcm"]


def test_the_same_object_twice_is_kept_once(archive, tmp_path):
    assert send(archive, tmp_path, dicom_object("one"), dicom_object("one")) == [0x0000, 0x0000]
    (kept,) = archive.instances
    assert kept.times_received == 2


def test_another_object_under_the_same_uid_is_a_duplicate(archive, tmp_path):
    other = dicom_object("one")
    other.PatientID = "another"
    assert send(archive, tmp_path, dicom_object("one"), other) == [0x0000, 0x0111]
    (kept,) = archive.instances
    assert dcmread(kept.path).PatientID == dicom_object("one").PatientID


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
@pytest.mark.parametrize("study", ["../../outside", "", None])
def test_an_object_that_cannot_be_filed_is_refused(archive, tmp_path, study):
    wrong = dicom_object("one")
    if study is None:
        del wrong.StudyInstanceUID
    else:
        wrong["StudyInstanceUID"].value = study
    assert send(archive, tmp_path, wrong) == [0xC000]
    assert archive.instances == ()
    assert list((tmp_path / "pacs").rglob("*.dcm")) == []


def test_wait_for_a_class_or_a_predicate(archive, tmp_path):
    with pytest.raises(TimeoutError, match="0 of 1 instances"):
        archive.wait_for(Comprehensive3DSRStorage, 0.05)
    later = threading.Timer(0.1, send, (archive, tmp_path, dicom_object("one"), dicom_object("two")))
    later.start()
    assert len(archive.wait_for(Comprehensive3DSRStorage, 10, count=2)) == 2
    later.join(10)
    (one,) = archive.wait_for(lambda kept: kept.sop_instance_uid == dicom_object("one").SOPInstanceUID, 0)
    assert one.times_received == 1


def test_a_file_that_cannot_be_written_is_out_of_resources(archive, tmp_path):
    (tmp_path / "pacs" / STUDY).write_text("in the way")
    assert send(archive, tmp_path, dicom_object("one")) == [0xA700]


def test_it_answers_echo_until_it_is_stopped(tmp_path):
    port = free_port()
    with Archive(tmp_path, "PACS", port) as archive:
        assert archive.port == port
        echo("127.0.0.1", port, "PACS", "ANYONE")
    with pytest.raises(RuntimeError, match="not started"):
        _ = archive.port
    with pytest.raises(DeliveryUnavailable):
        echo("127.0.0.1", port, "PACS", "ANYONE", timeout_s=2)
