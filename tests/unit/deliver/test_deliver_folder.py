from __future__ import annotations

import os
from dataclasses import replace

import pytest

from allpacs.deliver.destinations.folder import FolderDestination
from allpacs.domain.errors import DeliveryRejected, DeliveryUnavailable
from support.deliver_samples import STUDY, fhir_artefact, html_artefact, leaks, sr_artefact


def test_every_artefact_becomes_a_file(tmp_path):
    artefacts = [sr_artefact(), fhir_artefact(), html_artefact()]
    receipt = FolderDestination(tmp_path / "out").deliver(artefacts)
    for artefact in artefacts:
        assert (tmp_path / "out" / artefact.file_name).read_bytes() == artefact.content
    assert (tmp_path / "out" / STUDY / "report.html").is_file()
    assert receipt.detail == "3 files written, 0 already there"


def test_the_same_again_touches_nothing(tmp_path):
    destination = FolderDestination(tmp_path)
    destination.deliver([html_artefact()])
    file = tmp_path / html_artefact().file_name
    before = file.stat()
    assert destination.deliver([html_artefact()]).detail == "0 files written, 1 already there"
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert file.stat().st_ino == before.st_ino


def test_a_superseded_file_stays_beside_the_new_one(tmp_path):
    destination = FolderDestination(tmp_path)
    destination.deliver([fhir_artefact("old")])
    destination.deliver([fhir_artefact("new")])
    destination.deliver([fhir_artefact("new")])
    (kept,) = tmp_path.glob("report.superseded-*.json")
    assert kept.read_bytes() == fhir_artefact("old").content
    assert (tmp_path / "report.json").read_bytes() == fhir_artefact("new").content
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/b/c", "", ".", "..", "a/..", ".hidden", "a b", "x\n", "a\\b"])
def test_a_file_name_that_could_leave_the_folder_is_rejected(tmp_path, name):
    out = tmp_path / "out"
    with pytest.raises(DeliveryRejected):
        FolderDestination(out).deliver([replace(html_artefact(), file_name=name)])
    assert not out.exists()


def test_a_failed_write_leaves_no_half_file(tmp_path, monkeypatch):
    def full_disk(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(DeliveryUnavailable, match="No space left"):
        FolderDestination(tmp_path).deliver([fhir_artefact()])
    assert list(tmp_path.iterdir()) == []


def test_a_share_that_is_not_mounted_is_unavailable_and_not_created(tmp_path):
    destination = FolderDestination(tmp_path / "Zebedee" / "results")
    with pytest.raises(DeliveryUnavailable) as caught:
        destination.deliver([html_artefact()])
    assert not leaks(str(caught.value))
    assert not (tmp_path / "Zebedee").exists()
    with pytest.raises(DeliveryUnavailable):
        destination.check()


def test_check_leaves_nothing(tmp_path):
    assert FolderDestination(tmp_path).check() == "folder is writable"
    assert list(tmp_path.iterdir()) == []
