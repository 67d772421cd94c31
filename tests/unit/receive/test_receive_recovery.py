"""What a crash or a broken disk has done to the store, found and told."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pynetdicom.dsutils import encode

from allpacs.commands.verify import verify
from allpacs.dicom.file_meta import file_meta
from allpacs.domain.artefacts import Artefact, ArtefactKind
from allpacs.domain.instance import InstanceIdentity
from allpacs.flow.recovery import UNKNOWN_AE, recover
from allpacs.settings import Settings
from allpacs.store.store import Store
from receive_peer import MICROSCOPIC, make_instance

STUDY, OLD = "1.2.3", 1000.0


@pytest.fixture
def store(tmp_path: Path, database_url: str | None) -> Iterator[Store]:
    store = Store.open(tmp_path / "store", database_url)
    yield store
    store.close()


def identity(number: int) -> InstanceIdentity:
    return InstanceIdentity(f"{STUDY}.5.{number}", MICROSCOPIC, "1.2.840.10008.1.2.1", STUDY, "1.2.3.4")


def parts(number: int) -> tuple[bytes, bytes]:
    data_set = encode(make_instance(number), False, True)
    assert data_set is not None
    return file_meta(identity(number)), data_set


def keep(store: Store, number: int) -> str:
    meta, data_set = parts(number)
    return store.receiving.keep_instance(
        identity(number), meta, data_set, calling_ae="PACS", received_at=100.0, quiet_s=1.0, max_age_s=60.0
    )


def left_behind(store: Store, path: str, content: bytes) -> None:
    """Write a file as a receiver does that is killed between the file and the row."""
    store.spool.write(Path(path), [content])
    os.utime(store.spool.folder / path, (OLD, OLD))


def test_a_whole_store_is_whole(store: Store) -> None:
    for number in range(3):
        keep(store, number)
    store.revisions.close_due(200.0)
    store.artefacts.put(STUDY, 1, Artefact(ArtefactKind.SR, "2.25.1", "application/dicom", "a.dcm", b"sr"))
    found = verify(store, Settings(), repair=False)
    assert (found["instances"], found["artefacts"]) == (3, 1)
    assert found["damaged"] == []


def test_what_is_missing_cut_changed_or_unknown_is_told(store: Store) -> None:
    for number in range(4):
        keep(store, number)
    store.revisions.close_due(200.0)
    result = store.artefacts.put(STUDY, 1, Artefact(ArtefactKind.SR, "2.25.1", "application/dicom", "a.dcm", b"sr"))
    paths = [row.path for row in store.revisions.instances(STUDY, 1)]
    paths[0].unlink()
    paths[1].write_bytes(paths[1].read_bytes()[:-2])
    one_bit = bytearray(paths[2].read_bytes())
    one_bit[-1] ^= 1
    paths[2].write_bytes(one_bit)
    result.write_bytes(b"rs")
    left_behind(store, f"{STUDY}/{STUDY}.5.9.dcm", b"".join(parts(9)))
    found = verify(store, Settings(), repair=False)
    assert [(one["damage"], Path(one["path"]).name) for one in found["damaged"]] == [
        ("missing", paths[0].name), ("altered", paths[1].name), ("altered", paths[2].name),
        ("altered", "a.dcm"), ("orphan", f"{STUDY}.5.9.dcm"),
    ]  # fmt: skip


def test_a_file_whose_row_may_be_on_its_way_is_no_damage(store: Store) -> None:
    store.spool.write(Path(f"{STUDY}/{STUDY}.5.1.dcm"), [b"".join(parts(1))])
    assert verify(store, Settings(), repair=True)["orphan"] == 0
    assert keep(store, 1) == "stored"


def test_a_file_without_a_row_is_taken_in_once_and_its_sender_is_told_the_same(store: Store) -> None:
    left_behind(store, f"{STUDY}/{STUDY}.5.1.dcm", b"".join(parts(1)))
    assert recover(store, quiet_s=1.0, max_age_s=60.0) == (1, 0)
    assert recover(store, quiet_s=1.0, max_age_s=60.0) == (0, 0)
    assert keep(store, 1) == "same"
    ((study_uid, revision),) = store.revisions.close_due(1e12)
    (row,) = store.revisions.instances(study_uid, revision)
    assert row.calling_ae == UNKNOWN_AE
    assert row.path.read_bytes() == b"".join(parts(1))
    assert verify(store, Settings(), repair=False)["damaged"] == []


@pytest.mark.parametrize(
    ("path", "content"),
    [
        (f"{STUDY}/{STUDY}.5.1.dcm", b"no DICOM"),
        (f"{STUDY}/{STUDY}.5.1.dcm", b"".join(parts(1))[:-50]),
        (f"{STUDY}/{STUDY}.5.1.dcm", b"".join(parts(2))),
        (f"1.2.99/{STUDY}.5.1.dcm", b"".join(parts(1))),
        (f"{STUDY}/notes.txt", b"".join(parts(1))),
    ],
    ids=["noise", "cut short", "another instance", "another study's folder", "no UID"],
)
def test_a_file_that_is_no_instance_is_put_aside(store: Store, path: str, content: bytes) -> None:
    keep(store, 7)
    left_behind(store, path, content)
    assert recover(store, quiet_s=1.0, max_age_s=60.0) == (0, 1)
    (aside,) = (store.spool.folder / "quarantine").iterdir()
    assert aside.read_bytes() == content
    assert [row.event for row in store.audit.latest()] == ["file_put_aside"]
    assert verify(store, Settings(), repair=False)["damaged"] == []


def test_a_file_that_is_just_being_kept_is_left_alone(store: Store) -> None:
    store.spool.write(Path(STUDY, f"{STUDY}.5.1.dcm"), [b"row follows"])
    assert recover(store, quiet_s=1.0, max_age_s=60.0) == (0, 0)


def test_an_instance_that_takes_the_place_of_a_bad_file_meanwhile_is_left_there(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_behind(store, f"{STUDY}/{STUDY}.5.1.dcm", b"no DICOM")
    put_aside = store.scrub.put_aside

    def too_late(path: Path, which: os.stat_result) -> bool:
        assert keep(store, 1) == "stored"
        return put_aside(path, which)

    monkeypatch.setattr(store.scrub, "put_aside", too_late)
    assert recover(store, quiet_s=1.0, max_age_s=60.0) == (0, 0)
    assert keep(store, 1) == "same"
    assert verify(store, Settings(), repair=False)["damaged"] == []


def test_a_file_that_is_not_the_one_meant_goes_back_to_its_place(store: Store) -> None:
    path = Path(f"{STUDY}/{STUDY}.5.1.dcm")
    store.spool.write(path, [b"old"])
    old = (store.spool.folder / path).stat()
    store.spool.write(path, [b"new"])
    assert not store.spool.quarantine(path, old)
    assert (store.spool.folder / path).read_bytes() == b"new"
    assert list((store.spool.folder / "quarantine").iterdir()) == []
    assert store.spool.quarantine(path, (store.spool.folder / path).stat())
