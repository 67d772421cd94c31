"""What the store promises, over every database it runs on."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from allpacs.domain.artefacts import Artefact, ArtefactKind
from allpacs.domain.errors import InstanceRefused, StoreFault
from allpacs.domain.findings import CellFinding, CellLabel, InstanceFindings, NotAssessable, Remark, RemarkKind
from allpacs.domain.geometry import BoxPx
from allpacs.domain.instance import InstanceIdentity
from allpacs.store.records import RECEIVING, DeliveryRow, DeliveryState, RevisionState
from allpacs.store.scrub import Scrubbed
from allpacs.store.spool import Spool
from allpacs.store.store import Store

STUDY = "1.2.3"
META = b"\0" * 128 + b"DICM"


@pytest.fixture
def store(tmp_path: Path, database_url: str | None) -> Iterator[Store]:
    store = Store.open(tmp_path, database_url)
    yield store
    store.close()


def identity(number: int, *, study: str = STUDY, series: str = "1.2.4") -> InstanceIdentity:
    return InstanceIdentity(
        sop_instance_uid=f"{study}.5.{number}",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.77.1.2",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        study_uid=study,
        series_uid=series,
    )


def keep(store: Store, which: InstanceIdentity, content: bytes = b"pixels", *, at: float = 100.0) -> str:
    return store.receiving.keep_instance(
        which, META, content, calling_ae="PACS", received_at=at, quiet_s=10.0, max_age_s=60.0
    )


def close(store: Store, at: float) -> tuple[str, int]:
    (closed,) = store.revisions.close_due(at)
    return closed


def due_at(store: Store, study: str = STUDY) -> float | None:
    row = store.studies.get(study)
    assert row is not None
    return row.due_at


# --- receiving


def test_an_instance_is_kept_with_the_bytes_it_was_sent_with(store: Store) -> None:
    assert keep(store, identity(1), b"some bytes") == "stored"
    study_uid, revision = close(store, 110.0)
    (row,) = store.revisions.instances(study_uid, revision)
    assert row.path.is_absolute()
    assert row.path.read_bytes() == META + b"some bytes"
    assert row.size_bytes == len(META) + 10
    assert (row.sop_instance_uid, row.calling_ae, row.received_at, row.revision) == ("1.2.3.5.1", "PACS", 100.0, 1)


def test_the_same_bytes_again_change_nothing(store: Store) -> None:
    keep(store, identity(1))
    assert keep(store, identity(1), at=105.0) == "same"
    assert due_at(store) == 110.0
    close(store, 110.0)
    assert keep(store, identity(1), at=200.0) == "same"
    row = store.studies.get(STUDY)
    assert row is not None
    assert row.state == RevisionState.QUEUED


@pytest.mark.parametrize("study", [STUDY, "1.2.99"])
def test_other_bytes_under_a_known_uid_are_refused_and_the_first_stay(store: Store, study: str) -> None:
    keep(store, identity(1), b"first")
    changed = InstanceIdentity(
        sop_instance_uid=identity(1).sop_instance_uid,
        sop_class_uid=identity(1).sop_class_uid,
        transfer_syntax_uid=identity(1).transfer_syntax_uid,
        study_uid=study,
        series_uid="1.2.4",
    )
    with pytest.raises(InstanceRefused) as refused:
        keep(store, changed, b"second")
    assert refused.value.status == 0x0111
    (row,) = store.revisions.instances(*close(store, 110.0))
    assert row.path.read_bytes() == META + b"first"
    assert len(store.studies.latest()) == 1


def test_another_transfer_syntax_is_other_bytes(store: Store) -> None:
    keep(store, identity(1))
    one = identity(1)
    other = InstanceIdentity(
        one.sop_instance_uid, one.sop_class_uid, "1.2.840.10008.1.2", one.study_uid, one.series_uid
    )
    with pytest.raises(InstanceRefused):
        keep(store, other)


def test_a_study_is_due_when_it_has_been_quiet_or_is_too_old(store: Store) -> None:
    keep(store, identity(1), at=100.0)
    assert due_at(store) == 110.0
    keep(store, identity(2), at=108.0)
    assert due_at(store) == 118.0
    for number, at in enumerate((117.0, 126.0, 135.0, 144.0, 153.0), start=3):
        keep(store, identity(number), at=at)
    assert due_at(store) == 160.0  # opened at 100, at most 60 old


def test_clocks_of_two_associations_need_not_agree(store: Store) -> None:
    keep(store, identity(1), at=100.0)
    keep(store, identity(2), at=99.5)
    assert due_at(store) == 110.0


def test_the_end_of_an_association_makes_its_receiving_studies_due(store: Store) -> None:
    keep(store, identity(1))
    keep(store, identity(1, study="1.2.77"))
    store.receiving.association_ended([STUDY, "9.9"], 101.0)
    assert due_at(store) == 101.0
    assert due_at(store, "1.2.77") == 110.0
    close(store, 101.0)
    store.receiving.association_ended([STUDY], 102.0)
    assert due_at(store) is None


def test_a_uid_that_is_no_uid_never_becomes_a_file_name(store: Store, tmp_path: Path) -> None:
    one = identity(1)
    for bad in (
        InstanceIdentity("../../x", one.sop_class_uid, one.transfer_syntax_uid, STUDY, "1.2.4"),
        InstanceIdentity("1.2.3.4", one.sop_class_uid, one.transfer_syntax_uid, "/etc", "1.2.4"),
    ):
        with pytest.raises(StoreFault):
            keep(store, bad)
    assert not list(tmp_path.glob("spool/**/*.dcm"))


def test_refusals_are_recorded_and_found_by_the_study_that_keeps_the_instance(store: Store) -> None:
    keep(store, identity(1))
    store.receiving.note_refusal(
        at=1.0, calling_ae="PACS", sop_instance_uid=identity(1).sop_instance_uid, status=0x0111, reason="other bytes"
    )
    store.audit.record("delivery_revived", at=2.0, study_uid=STUDY)
    store.audit.record("delivery_revived", at=3.0, study_uid="9.9")
    assert [row.event for row in store.audit.of_study(STUDY)] == ["instance_refused", "delivery_revived"]
    assert store.audit.of_study(STUDY)[0].status == 0x0111
    assert [row.at for row in store.audit.latest(2)] == [3.0, 2.0]


# --- revisions


def test_of_small_and_of_large_studies_those_are_ready_that_have_waited_longest(store: Store) -> None:
    sizes = {"1.1": 9_000, "1.2": 8_000, "1.3": 100, "1.4": 7_000, "1.5": 200}
    for at, (study, size) in enumerate(sizes.items()):
        keep(store, identity(1, study=study), bytes(size))
        assert close(store, 1000.0 + at) == (study, 1)

    def ready(most: int) -> list[str]:
        return [row.study_uid for row in store.revisions.ready(most, small_bytes=1_000)]

    assert ready(1) == ["1.1", "1.3"]
    assert ready(2) == ["1.1", "1.2", "1.3", "1.5"]
    assert ready(9) == list(sizes)
    store.revisions.set_state("1.1", 1, RevisionState.READING)
    assert ready(1) == ["1.2", "1.3"]


def test_a_study_closes_once_and_only_when_due(store: Store) -> None:
    keep(store, identity(1))
    assert store.revisions.close_due(109.9) == []
    assert store.revisions.close_due(110.0) == [(STUDY, 1)]
    assert store.revisions.close_due(200.0) == []
    assert [(row.study_uid, row.revision) for row in store.revisions.ready()] == [(STUDY, 1)]
    (row,) = store.revisions.of_study(STUDY)
    assert (row.state, row.created_at, row.finished_at) == (RevisionState.QUEUED, 110.0, None)


def test_a_late_instance_makes_a_new_revision_with_all_instances(store: Store) -> None:
    keep(store, identity(1))
    close(store, 110.0)
    store.revisions.set_state(STUDY, 1, RevisionState.READING)
    keep(store, identity(2), at=500.0)
    assert due_at(store) == 510.0
    store.revisions.set_state(STUDY, 1, RevisionState.DELIVERED, finished_at=505.0)
    row = store.studies.get(STUDY)
    assert row is not None
    assert (row.state, row.revision, row.instances) == (RECEIVING, 1, 2)
    assert close(store, 510.0) == (STUDY, 2)
    assert [i.revision for i in store.revisions.instances(STUDY, 1)] == [1]
    assert [i.revision for i in store.revisions.instances(STUDY, 2)] == [1, 2]
    store.revisions.set_state(STUDY, 1, RevisionState.SUPERSEDED)
    row = store.studies.get(STUDY)
    assert row is not None
    assert row.state == RevisionState.QUEUED


def test_a_revision_waits_until_the_one_before_has_been_read(store: Store) -> None:
    keep(store, identity(1))
    close(store, 110.0)
    keep(store, identity(2), at=200.0)
    close(store, 210.0)
    assert [row.revision for row in store.revisions.ready()] == [1]
    store.revisions.set_state(STUDY, 1, RevisionState.READING)
    assert store.revisions.ready() == []
    store.revisions.set_state(STUDY, 1, RevisionState.REPORTED)
    assert [row.revision for row in store.revisions.ready()] == [2]
    assert store.revisions.get(STUDY, 2) == store.revisions.ready()[0]
    assert [row.revision for row in store.revisions.in_state(RevisionState.REPORTED)] == [1]
    with pytest.raises(StoreFault):
        store.revisions.get(STUDY, 3)


def test_only_the_latest_revision_is_read_again_and_only_if_its_reading_failed(store: Store) -> None:
    keep(store, identity(1))
    close(store, 110.0)
    assert store.revisions.read_again(STUDY) is None
    store.revisions.set_state(STUDY, 1, RevisionState.ATTENTION, reason="no bundle", finished_at=120.0)
    keep(store, identity(2), at=200.0)
    close(store, 210.0)
    store.revisions.set_state(STUDY, 2, RevisionState.ATTENTION, reason="no bundle", finished_at=220.0)
    assert store.revisions.read_again(STUDY) == 2
    assert store.revisions.read_again(STUDY) is None
    first, second = store.revisions.of_study(STUDY)
    assert (first.state, first.attempts) == (RevisionState.ATTENTION, 1)
    assert (second.state, second.attempts, second.reason, second.finished_at) == (RevisionState.QUEUED, 2, None, None)
    store.revisions.set_state(STUDY, 2, RevisionState.ATTENTION, reason="pacs: 0xA900")
    store.deliveries.queue(STUDY, 2, ["pacs"], now=300.0)
    assert store.revisions.read_again(STUDY) is None


def test_instances_come_by_series_and_uid(store: Store) -> None:
    for series in ("1.2.9", "1.2.4"):
        for number in (3, 1, 2):
            keep(
                store, identity(number + 10 * len(store.studies.latest()), series=series, study=STUDY), bytes([number])
            )
            break
    keep(store, identity(30, series="1.2.4"))
    keep(store, identity(20, series="1.2.4"))
    rows = store.revisions.instances(*close(store, 110.0))
    keys = [(row.series_uid, row.sop_instance_uid) for row in rows]
    assert len(keys) == 4
    assert keys == sorted(keys)


def test_the_state_of_a_revision_moves_and_is_kept(store: Store) -> None:
    keep(store, identity(1))
    close(store, 110.0)
    store.revisions.set_state(STUDY, 1, RevisionState.READING, bundle_digest="sha256:00")
    assert store.revisions.ready() == []
    store.revisions.set_state(STUDY, 1, RevisionState.ATTENTION, reason="no bundle", finished_at=120.0)
    (row,) = store.revisions.of_study(STUDY)
    assert row.state is RevisionState.ATTENTION
    assert (row.reason, row.finished_at, row.bundle_digest) == ("no bundle", 120.0, "sha256:00")
    assert [study.study_uid for study in store.studies.latest(state="attention")] == [STUDY]


# --- findings, artefacts, deliveries


def _findings(number: int, series: str = "1.2.4") -> InstanceFindings:
    uid = identity(number).sop_instance_uid
    cells = (
        CellFinding(uid, 1, 1, BoxPx(0, 1, 10, 20), ((0.0, 1.5), (3.25, 4.0), (9.1, 0.1)), CellLabel.ALL, 0.1 + 0.2),
        CellFinding(uid, 2, 1, BoxPx(5, 5, 1, 1), (), None, 0.5, NotAssessable.INDETERMINATE),
    )
    return InstanceFindings(uid, identity(number).sop_class_uid, series, 2, cells)


@pytest.fixture
def closed(store: Store) -> Store:
    """A store with a study of three instances, closed once."""
    for number in (1, 2, 3):
        keep(store, identity(number))
    close(store, 110.0)
    return store


def test_findings_come_back_equal_and_in_order(closed: Store) -> None:
    first, second = _findings(1, series="1.2.9"), _findings(2)
    broken = InstanceFindings(identity(3).sop_instance_uid, "1.2", "1.2.4", 0, (), "cannot be decoded: µ–é")
    closed.findings.put(STUDY, 1, [first, second, broken], stage="classified")
    assert closed.findings.get(STUDY, 1) == [second, broken, first]
    assert closed.findings.get(STUDY, 1, of=[second.sop_instance_uid]) == [second]
    assert closed.findings.get(STUDY, 2) == []
    assert isinstance(closed.findings.get(STUDY, 1)[0].cells[0].outline, tuple)


def test_findings_of_an_earlier_version_still_load(closed: Store) -> None:
    first = replace(_findings(1), remarks=(Remark(RemarkKind.UNREADABLE_FRAMES, "1 of its frames"),))
    closed.findings.put(STUDY, 1, [first], stage="classify")
    with closed.database.writing() as connection:
        for field in ("unreadable", "measured_um"):
            written = f',"{field}":[]'
            assert written in connection.scalar(sa.text("SELECT body FROM findings"))
            connection.execute(sa.text("UPDATE findings SET body = replace(body, :written, '')"), {"written": written})
    assert closed.findings.get(STUDY, 1) == [first]


def test_findings_of_a_later_stage_replace_the_earlier(closed: Store) -> None:
    closed.findings.put(STUDY, 1, [], stage="cells")
    closed.findings.put(STUDY, 1, [_findings(1), _findings(2)], stage="cells")
    closed.findings.put(STUDY, 1, [_findings(1)], stage="classified")
    closed.findings.put(STUDY, 1, [_findings(1)], stage="classified")
    assert closed.findings.get(STUDY, 1, stage="classified") == [_findings(1)]
    assert closed.findings.get(STUDY, 1, stage="cells") == [_findings(2)]
    assert len(closed.findings.get(STUDY, 1)) == 2


def test_parts_of_findings_are_put_together(closed: Store) -> None:
    whole = _findings(1)
    first, second = replace(whole, cells=whole.cells[:1], cells_found=3), replace(whole, cells=whole.cells[1:])
    closed.findings.put(STUDY, 1, [second], stage="cells", part=1)
    closed.findings.put(STUDY, 1, [first], stage="cells")
    assert closed.findings.get(STUDY, 1) == [replace(whole, cells_found=3 + len(second.cells))]
    assert closed.findings.get(STUDY, 1, part=1) == [second]
    closed.findings.clear(STUDY, 1)
    assert closed.findings.get(STUDY, 1) == []


def test_progress_of_a_reading(closed: Store) -> None:
    assert closed.revisions.get(STUDY, 1).pieces is None
    closed.revisions.progress(STUDY, 1, read=3, pieces=8)
    row = closed.revisions.get(STUDY, 1)
    assert (row.pieces_read, row.pieces) == (3, 8)


def test_artefacts_come_back_with_their_bytes(closed: Store) -> None:
    sr = Artefact(ArtefactKind.SR, "2.25.1", "application/dicom", "2.25.1.dcm", b"\x00sr", supersedes="2.25.0")
    html = Artefact(ArtefactKind.HTML, "2.25.2", "text/html", "2.25.2.html", b"<html>")
    path = closed.artefacts.put(STUDY, 1, sr)
    closed.artefacts.put(STUDY, 1, html)
    closed.artefacts.put(STUDY, 1, sr)
    assert path.read_bytes() == b"\x00sr"
    assert closed.artefacts.get(STUDY, 1) == [html, sr]
    assert closed.artefacts.paths(STUDY, 1)[ArtefactKind.SR] == path
    assert closed.artefacts.get(STUDY, 2) == []


def test_several_of_a_kind_stay_apart_until_the_revision_is_reported_anew(closed: Store) -> None:
    def annotations(uid: str, number: int) -> Artefact:
        content = uid.encode()
        return Artefact(ArtefactKind.ANNOTATIONS, uid, "application/dicom", f"{uid}.dcm", content, number=number)

    def put(*several: Artefact) -> list[Artefact]:
        closed.artefacts.put_all(STUDY, 1, several)
        return closed.artefacts.get(STUDY, 1)

    pictures = Artefact(ArtefactKind.KEY_IMAGES, "2.25.8", "application/dicom", "2.25.8.dcm", b"pictures")
    sr = Artefact(ArtefactKind.SR, "2.25.9", "application/dicom", "2.25.9.dcm", b"sr")
    twelve = [annotations(f"2.25.1.{number}", number) for number in range(1, 13)]
    assert put(pictures, *twelve, sr) == [*twelve, pictures, sr]
    assert put(pictures, *twelve, sr) == [*twelve, pictures, sr], "the same again changes nothing"
    paths = closed.artefacts.paths(STUDY, 1)
    assert list(paths)[:3] == ["annotations", "annotations-2", "annotations-3"]
    assert paths["annotations-12"].read_bytes() == b"2.25.1.12"
    assert len(closed.artefacts.dicom_of_study(STUDY)) == 14
    seen = Scrubbed()
    damaged = [one for one in closed.scrub.run(seen) if one.what == "artefact"]
    assert (damaged, seen.artefacts) == ([], 14)

    fewer = [annotations(f"2.25.2.{number}", number) for number in (1, 2)]
    assert put(pictures, *fewer, sr) == [*fewer, pictures, sr]
    assert put(pictures, sr) == [pictures, sr]


def test_an_artefact_changed_on_disk_is_a_fault(closed: Store) -> None:
    path = closed.artefacts.put(STUDY, 1, Artefact(ArtefactKind.SR, "2.25.1", "application/dicom", "a.dcm", b"sr"))
    path.write_bytes(b"rs")
    with pytest.raises(StoreFault):
        closed.artefacts.get(STUDY, 1)
    path.unlink()
    with pytest.raises(StoreFault):
        closed.artefacts.get(STUDY, 1)


def test_an_artefact_stays_within_its_folder(closed: Store) -> None:
    with pytest.raises(ValueError, match="file name"):
        closed.artefacts.put(STUDY, 1, Artefact(ArtefactKind.SR, "2.25.1", "application/dicom", "../a.dcm", b"sr"))


def test_deliveries_move_each_by_itself_and_sent_is_final(closed: Store) -> None:
    closed.deliveries.queue(STUDY, 1, ["pacs", "ehr"], now=1.0)
    closed.deliveries.set_state(
        STUDY, 1, "pacs", DeliveryState.RETRYING, now=2.0, attempts=1, reason="no answer", next_attempt_at=4.0
    )
    closed.deliveries.queue(STUDY, 1, ["pacs", "ehr"], now=3.0)
    ehr, pacs = closed.deliveries.of_study(STUDY)
    assert (ehr.state, ehr.attempts) == (DeliveryState.QUEUED, 0)
    assert (pacs.state, pacs.attempts, pacs.reason, pacs.next_attempt_at) == (
        DeliveryState.RETRYING, 1, "no answer", 4.0,
    )  # fmt: skip
    assert closed.deliveries.set_state(STUDY, 1, "pacs", DeliveryState.SENT, now=5.0, reason="0x0000")
    assert not closed.deliveries.set_state(STUDY, 1, "pacs", DeliveryState.DEAD, now=6.0)
    assert not closed.deliveries.set_state(STUDY, 1, "nobody", DeliveryState.SENT, now=6.0)
    assert [row.destination for row in closed.deliveries.in_state(DeliveryState.SENT)] == ["pacs"]
    assert [row.attempts for row in closed.deliveries.of_revision(STUDY, 1)] == [0, 1]


def _begun(store: Store, destination: str, attempt: int, *, at: float) -> int | None:
    begun = store.deliveries.begin(STUDY, 1, destination, attempt, now=at)
    return None if begun is None else begun.attempts


def test_deliveries_are_due_in_order_of_revision(closed: Store) -> None:
    keep(closed, identity(9), at=200.0)
    close(closed, 210.0)
    for revision in (2, 1):
        closed.deliveries.queue(STUDY, revision, ["ehr", "pacs"], now=220.0)
    assert _begun(closed, "ehr", 1, at=221.0) == 1
    assert closed.deliveries.set_state(STUDY, 1, "ehr", DeliveryState.SENT, now=222.0)
    assert closed.deliveries.begin(STUDY, 1, "ehr", 1, now=223.0) is None
    assert _begun(closed, "pacs", 1, at=221.0) == 1
    closed.deliveries.set_state(STUDY, 1, "pacs", DeliveryState.RETRYING, now=222.0, next_attempt_at=230.0)
    assert [(row.revision, row.destination) for row in closed.deliveries.due(229.0)] == [(2, "ehr")]
    assert [(row.revision, row.destination) for row in closed.deliveries.due(230.0)] == [(1, "pacs"), (2, "ehr")]
    assert _begun(closed, "pacs", 2, at=230.0) == 2
    closed.deliveries.set_state(STUDY, 1, "pacs", DeliveryState.DEAD, now=231.0)
    assert [(row.revision, row.destination) for row in closed.deliveries.due(232.0)] == [(2, "ehr"), (2, "pacs")]


def test_of_each_destination_those_are_due_that_have_waited_longest(closed: Store) -> None:
    keep(closed, identity(1, study="1.9"))
    closed.revisions.close_due(1e12)
    closed.deliveries.queue(STUDY, 1, ["ehr", "pacs"], now=220.0)
    closed.deliveries.queue("1.9", 1, ["ehr"], now=210.0)

    def due(most: int) -> list[tuple[str, str]]:
        return [(row.study_uid, row.destination) for row in closed.deliveries.due(240.0, most)]

    assert due(1) == [(STUDY, "pacs"), ("1.9", "ehr")]
    assert due(2) == [(STUDY, "ehr"), (STUDY, "pacs"), ("1.9", "ehr")]
    closed.deliveries.begin("1.9", 1, "ehr", 1, now=241.0)
    assert due(1) == [(STUDY, "ehr"), (STUDY, "pacs")]


def test_an_attempt_begins_once_however_often_it_is_said(closed: Store) -> None:
    closed.deliveries.queue(STUDY, 1, ["pacs"], now=1.0)
    for _ in range(2):
        begun = closed.deliveries.begin(STUDY, 1, "pacs", 1, now=2.0)
        assert begun is not None
        assert (begun.attempts, begun.state, begun.attempts_forgiven) == (1, DeliveryState.SENDING, 0)
    assert closed.deliveries.begin(STUDY, 1, "pacs", 2, now=2.0) is None  # the first is not over
    closed.deliveries.set_state(STUDY, 1, "pacs", DeliveryState.RETRYING, now=3.0, next_attempt_at=4.0)
    assert closed.deliveries.begin(STUDY, 1, "pacs", 1, now=5.0) is None  # it is now


def test_a_lost_attempt_is_made_again_and_one_that_moved_on_is_left(closed: Store) -> None:
    closed.deliveries.queue(STUDY, 1, ["begun", "never", "ended", "sent"], now=1.0)
    for name in ("begun", "ended", "sent"):
        closed.deliveries.begin(STUDY, 1, name, 1, now=2.0)
    closed.deliveries.set_state(STUDY, 1, "ended", DeliveryState.RETRYING, now=3.0, next_attempt_at=99.0)
    closed.deliveries.set_state(STUDY, 1, "sent", DeliveryState.SENT, now=3.0)
    found = [closed.deliveries.retry_lost(STUDY, 1, name, 1, now=4.0) for name in ("begun", "never", "ended", "sent")]
    assert found == [True, True, False, False]
    assert not closed.deliveries.retry_lost(STUDY, 1, "begun", 1, now=5.0)
    assert [(row.destination, row.attempts) for row in closed.deliveries.due(4.0)] == [("begun", 1), ("never", 1)]


def test_a_reading_that_cannot_be_finished_begins_again_once(store: Store) -> None:
    keep(store, identity(1))
    study, revision = close(store, 1000.0)
    assert store.revisions.begin_again(study, revision, 2) is None  # another attempt than the one being made
    assert store.revisions.begin_again(study, revision, 1) == RevisionState.QUEUED
    assert store.revisions.begin_again(study, revision, 1) is None
    (row,) = store.revisions.ready()
    assert row.attempts == 2
    store.deliveries.queue(study, revision, ["pacs"], now=1001.0)
    assert store.revisions.begin_again(study, revision, 2) == RevisionState.REPORTED
    keep(store, identity(2), at=1100.0)
    _, later = close(store, 2000.0)
    keep(store, identity(3), at=2100.0)
    close(store, 3000.0)
    assert store.revisions.begin_again(study, later, 1) == RevisionState.SUPERSEDED
    store.revisions.set_state(study, revision, RevisionState.ATTENTION)
    assert store.revisions.begin_again(study, revision, 2) is None


def test_what_a_reading_waits_for_is_said_while_it_waits(store: Store) -> None:
    keep(store, identity(1))
    study, revision = close(store, 1000.0)
    store.revisions.note(study, revision, "waiting: not begun")
    assert store.revisions.get(study, revision).reason is None
    store.revisions.set_state(study, revision, RevisionState.READING)
    store.revisions.note(study, revision, "waiting: no space left on device")
    assert store.revisions.get(study, revision).reason == "waiting: no space left on device"
    store.revisions.note(study, revision, None)
    assert store.revisions.get(study, revision).reason is None


def test_the_time_a_revision_was_finished_is_kept(closed: Store) -> None:
    closed.revisions.settle(STUDY, 1, now=300.0)
    closed.revisions.settle(STUDY, 1, now=400.0)
    assert closed.revisions.get(STUDY, 1).finished_at == 300.0  # there is nowhere to deliver to
    closed.deliveries.queue(STUDY, 1, ["pacs"], now=401.0)
    closed.revisions.settle(STUDY, 1, now=402.0)
    assert closed.revisions.get(STUDY, 1).finished_at is None
    closed.deliveries.set_state(STUDY, 1, "pacs", DeliveryState.SENT, now=403.0)
    for now in (403.0, 500.0):
        closed.revisions.settle(STUDY, 1, now=now)
        assert closed.revisions.get(STUDY, 1).finished_at == 403.0


def test_dead_deliveries_can_be_revived_and_only_those(closed: Store) -> None:
    closed.deliveries.queue(STUDY, 1, ["a", "b", "c"], now=1.0)
    closed.deliveries.set_state(STUDY, 1, "a", DeliveryState.DEAD, now=2.0, attempts=7, reason="0xA900")
    closed.deliveries.set_state(STUDY, 1, "b", DeliveryState.SENT, now=2.0, attempts=1)
    assert closed.deliveries.revive(STUDY, now=3.0) == [(1, "a")]
    assert closed.deliveries.revive(STUDY, now=3.0) == []
    a, b, _ = closed.deliveries.of_study(STUDY)
    assert (a.state, a.attempts, a.attempts_forgiven) == (DeliveryState.QUEUED, 7, 7)
    assert b.state is DeliveryState.SENT


# --- studies


def test_studies_are_listed_newest_first_and_found_by_prefix(store: Store) -> None:
    for number, study in enumerate(("1.2.3", "1.2.33", "1.2.4")):
        keep(store, identity(1, study=study), at=100.0 + number)
        keep(store, identity(2, study=study), at=100.0 + number)
    assert [(s.study_uid, s.instances) for s in store.studies.latest()] == [("1.2.4", 2), ("1.2.33", 2), ("1.2.3", 2)]
    assert [s.study_uid for s in store.studies.latest(limit=1)] == ["1.2.4"]
    assert [s.study_uid for s in store.studies.find("1.2.3")] == ["1.2.3"]
    assert [s.study_uid for s in store.studies.find("1.2")] == ["1.2.3", "1.2.33", "1.2.4"]
    assert store.studies.find("%") == []
    assert store.studies.latest(state="delivered") == []


# --- several at once


def test_many_threads_store_at_once(store: Store) -> None:
    uids = [(number % 200, number % 3) for number in range(400)]  # every instance twice, over three studies

    def one(which: tuple[int, int]) -> str:
        number, _ = which
        return keep(store, identity(number, study=f"1.2.{number % 3}"), str(number).encode())

    with ThreadPoolExecutor(8) as threads:
        outcomes = list(threads.map(one, uids))
    assert outcomes.count("stored") == 200
    assert outcomes.count("same") == 200
    closed = store.revisions.close_due(110.0)
    rows = [row for study_uid, revision in closed for row in store.revisions.instances(study_uid, revision)]
    assert len(rows) == 200
    for row in rows:
        number = row.sop_instance_uid.rsplit(".", 1)[1]
        assert row.path.read_bytes() == META + number.encode()
    assert not list((store.spool.folder / "incoming").iterdir())


def test_of_two_senders_of_one_uid_one_wins_with_its_own_bytes(store: Store) -> None:
    def one(content: bytes) -> str:
        try:
            return keep(store, identity(1), content)
        except InstanceRefused as refused:
            return f"{refused.status:04X}"

    contents = [bytes([number]) * 1000 for number in range(8)]
    with ThreadPoolExecutor(8) as threads:
        outcomes = list(threads.map(one, contents))
    assert sorted(outcomes) == ["0111"] * 7 + ["stored"]
    (row,) = store.revisions.instances(*close(store, 110.0))
    assert row.path.read_bytes() == META + contents[outcomes.index("stored")]


def test_of_two_studies_that_are_sent_one_uid_at_once_one_has_it_and_no_file_is_left_over(store: Store) -> None:
    def one(study: int) -> str:
        which = replace(identity(1), study_uid=f"1.2.{study}")
        try:
            return keep(store, which, f"of study {study}".encode())
        except InstanceRefused as refused:
            return f"{refused.status:04X}"

    with ThreadPoolExecutor(8) as threads:
        outcomes = list(threads.map(one, range(8)))
    assert sorted(outcomes) == ["0111"] * 7 + ["stored"]
    (row,) = store.revisions.instances(*close(store, 110.0))
    assert row.path.read_bytes() == META + f"of study {outcomes.index('stored')}".encode()
    assert [path for path in store.spool.folder.rglob("*") if path.is_file()] == [row.path]


def test_a_file_that_a_crash_left_without_a_row_gives_way(store: Store) -> None:
    path = store.spool.instance_path(STUDY, identity(1).sop_instance_uid)
    store.spool.write(path, [b"left over"])
    assert keep(store, identity(1)) == "stored"
    assert (store.spool.folder / path).read_bytes() == META + b"pixels"
    assert list(store.scrub.orphans()) == []


def test_bytes_put_over_ours_by_a_transaction_that_failed_give_way(
    store: Store, tmp_path: Path, database_url: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Store.open(tmp_path, database_url)
    place_new, place = Spool.place_new, Spool.place

    def overtaken(self: Spool, staged: Path, relative: Path) -> bool:
        placed = place_new(self, staged, relative)
        if self is store.spool:
            with pytest.raises(StoreFault, match="the index's disk is full"):
                keep(other, identity(1), b"other bytes")
        return placed

    def fails_afterwards(self: Spool, staged: Path, relative: Path) -> None:
        place(self, staged, relative)
        if self is other.spool:
            raise StoreFault("the index's disk is full")

    monkeypatch.setattr(Spool, "place_new", overtaken)
    monkeypatch.setattr(Spool, "place", fails_afterwards)
    try:
        assert keep(store, identity(1)) == "stored"
    finally:
        other.close()
    (row,) = store.revisions.instances(*close(store, 110.0))
    assert row.path.read_bytes() == META + b"pixels"


def test_a_file_system_without_hard_links_will_do(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    assert keep(store, identity(1)) == "stored"
    (row,) = store.revisions.instances(*close(store, 110.0))
    assert row.path.read_bytes() == META + b"pixels"
    assert [path for path in store.spool.folder.rglob("*") if path.is_file()] == [row.path]


def test_several_workers_never_close_a_study_twice_nor_lose_an_instance(
    tmp_path: Path, database_url: str | None
) -> None:
    stores = [Store.open(tmp_path, database_url) for _ in range(4)]
    try:

        def receive(number: int) -> None:
            keep(stores[0], identity(number, study=f"1.2.{number % 5}"), at=100.0)

        def work(worker: int) -> list[tuple[str, int]]:
            return [closed for _ in range(20) for closed in stores[worker].revisions.close_due(200.0)]

        with ThreadPoolExecutor(8) as threads:
            received = [threads.submit(receive, number) for number in range(60)]
            workers = [threads.submit(work, worker) for worker in (1, 2, 3)]
            for done in received:
                done.result(60)
            closed = [one for worker in workers for one in worker.result(60)]
        closed += stores[1].revisions.close_due(200.0)
        assert len(closed) == len(set(closed))
        assert sorted((r.study_uid, r.revision) for r in stores[2].revisions.in_state(RevisionState.QUEUED)) == sorted(
            closed
        )
        latest = dict(sorted(closed))
        kept = [row for study, revision in latest.items() for row in stores[3].revisions.instances(study, revision)]
        assert len(kept) == 60
    finally:
        for store in stores:
            store.close()


def test_deliveries_that_end_together_leave_the_revision_delivered(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The later of two that end at once must see the other one's end, or the revision waits for it for ever."""
    destinations = [f"d{number}" for number in range(6)]
    keep(store, identity(1))
    study, revision = close(store, 1000.0)
    store.deliveries.queue(study, revision, destinations, now=1000.0)

    def outcome(rows: Sequence[DeliveryRow]) -> tuple[RevisionState, str | None]:
        sent = [row.state == DeliveryState.SENT for row in rows]
        time.sleep(0.02)  # long enough for the others to come between reading and writing
        return (RevisionState.DELIVERED if all(sent) else RevisionState.REPORTED), None

    def end(destination: str) -> None:
        together.wait(30)
        store.deliveries.set_state(study, revision, destination, DeliveryState.SENT, now=1001.0)
        store.revisions.settle(study, revision, now=1001.0)

    monkeypatch.setattr("allpacs.store.revisions.outcome", outcome)
    together = threading.Barrier(len(destinations))
    with ThreadPoolExecutor(len(destinations)) as pool:
        list(pool.map(end, destinations))
    assert store.revisions.get(study, revision).state == RevisionState.DELIVERED
    assert store.studies.get(study).state == RevisionState.DELIVERED


def test_a_dead_delivery_that_a_later_revision_overtook_stays_dead(store: Store) -> None:
    keep(store, identity(1))
    study, first = close(store, 1000.0)
    keep(store, identity(2), at=1001.0)
    _, second = close(store, 2000.0)
    for revision, state in ((first, DeliveryState.DEAD), (second, DeliveryState.SENT)):
        store.deliveries.queue(study, revision, ["ehr"], now=2000.0)
        store.deliveries.set_state(study, revision, "ehr", state, now=2001.0)
    store.deliveries.queue(study, first, ["pacs"], now=2000.0)
    store.deliveries.set_state(study, first, "pacs", DeliveryState.DEAD, now=2001.0)
    assert store.deliveries.revive(study, now=2002.0) == [(first, "pacs")]


def test_an_older_report_is_not_put_over_a_newer_one_that_is_on_its_way(store: Store) -> None:
    keep(store, identity(1))
    study, first = close(store, 1000.0)
    keep(store, identity(2), at=1001.0)
    _, second = close(store, 2000.0)
    store.deliveries.queue(study, first, ["ehr"], now=2000.0)
    store.deliveries.set_state(study, first, "ehr", DeliveryState.DEAD, now=2001.0, attempts=1)
    store.deliveries.queue(study, second, ["ehr"], now=2001.0)
    assert store.deliveries.revive(study, now=2002.0) == [(first, "ehr")]
    # Enqueued before the other was revived.
    assert store.deliveries.begin(study, second, "ehr", 1, now=2003.0) is not None
    assert store.deliveries.begin(study, first, "ehr", 2, now=2004.0) is None
    (overtaken, newer) = store.deliveries.of_study(study)
    assert (overtaken.state, newer.state) == (DeliveryState.DEAD, DeliveryState.SENDING)
    assert store.deliveries.revive(study, now=2005.0) == []
    store.deliveries.set_state(study, second, "ehr", DeliveryState.DEAD, now=2006.0)
    assert store.deliveries.revive(study, now=2007.0) == [(first, "ehr"), (second, "ehr")]


# --- workers


def test_a_worker_that_beats_is_known_by_its_count(store: Store) -> None:
    store.workers.register("one", "a")
    store.workers.register("two", "b")
    before = store.workers.others("two")["one"]
    assert store.workers.beat("one", "a")
    assert store.workers.others("two") == {"one": before + 1}


def test_a_name_that_another_process_has_taken_is_told_at_the_next_beat(store: Store) -> None:
    store.workers.register("one", "a")
    store.workers.register("one", "b")
    assert not store.workers.beat("one", "a")
    assert store.workers.beat("one", "b")
    store.workers.deregister("one", "a")
    assert store.workers.others("")["one"] > 0
    store.workers.deregister("one", "b")
    assert store.workers.others("") == {"one": 0}


def test_a_dead_worker_is_claimed_by_one_of_all_and_again_if_that_one_dies_too(store: Store) -> None:
    store.workers.register("one", "a")
    seen = store.workers.others("")["one"]
    assert [store.workers.claim("one", seen) for _ in range(3)] == [True, False, False]
    again = store.workers.others("")["one"]
    assert again not in (seen, 0)
    assert store.workers.claim("one", again)
    store.workers.forget("one")
    assert store.workers.others("") == {}


def test_a_worker_that_was_only_slow_goes_on_and_is_not_forgotten(store: Store) -> None:
    store.workers.register("one", "a")
    assert store.workers.claim("one", store.workers.others("")["one"])
    assert store.workers.beat("one", "a")
    store.workers.forget("one")
    assert store.workers.others("")["one"] > 0


# --- retention


def delivered(store: Store, at: float) -> list[Path]:
    """Deliver the study's latest revision; return the files of its instances."""
    study_uid, revision = close(store, at)
    store.revisions.set_state(study_uid, revision, RevisionState.READING)
    store.deliveries.queue(study_uid, revision, ["pacs"], now=at)
    store.deliveries.set_state(study_uid, revision, "pacs", DeliveryState.SENT, now=at)
    store.revisions.settle(study_uid, revision, now=at)
    return [row.path for row in store.revisions.instances(study_uid, revision)]


def test_source_bytes_go_only_when_delivered_for_long_enough(store: Store) -> None:
    keep(store, identity(1))
    keep(store, identity(2))
    files = delivered(store, 200.0)
    assert store.retention.purge(199.0, now=900.0) == []
    assert all(file.exists() for file in files)
    assert store.retention.purge(200.0, now=900.0) == [STUDY]
    assert not any(file.exists() for file in files)
    assert store.retention.purge(800.0, now=900.0) == []
    assert store.retention.deleted(STUDY, 1) == 2
    assert list(store.scrub.run(Scrubbed())) == []
    assert store.commitments.held([identity(1).sop_instance_uid]) == {}


@pytest.mark.parametrize("state", [RevisionState.READING, RevisionState.REPORTED, RevisionState.ATTENTION])
def test_what_is_not_delivered_is_never_deleted(store: Store, state: RevisionState) -> None:
    keep(store, identity(1))
    delivered(store, 200.0)
    store.revisions.set_state(STUDY, 1, state)
    assert store.retention.purge(1e9, now=1e9) == []


def test_a_study_that_receives_again_is_not_deleted(store: Store) -> None:
    keep(store, identity(1))
    delivered(store, 200.0)
    keep(store, identity(2), at=300.0)
    assert store.retention.purge(1e9, now=1e9) == []


def test_deleted_bytes_that_are_sent_again_are_back_and_other_bytes_are_refused(store: Store) -> None:
    keep(store, identity(1))
    (file,) = delivered(store, 200.0)
    store.retention.purge(200.0, now=900.0)
    with pytest.raises(InstanceRefused):
        keep(store, identity(1), b"other", at=950.0)
    assert keep(store, identity(1), at=1000.0) == "stored"
    assert file.read_bytes() == META + b"pixels"
    assert store.retention.deleted(STUDY, 1) == 0
    assert keep(store, identity(1), at=1001.0) == "same"
    assert close(store, 1100.0) == (STUDY, 2)
    assert len(store.revisions.instances(STUDY, 2)) == 1


@pytest.mark.parametrize(
    "damage", [Path.unlink, lambda file: file.write_bytes(META + b"PIXELS")], ids=["lost", "altered"]
)
def test_bytes_that_the_disk_has_lost_or_altered_are_put_back(store: Store, damage: Callable[[Path], object]) -> None:
    keep(store, identity(1))
    (row,) = store.revisions.instances(*close(store, 110.0))
    damage(row.path)
    assert keep(store, identity(1), at=200.0) == "stored"
    assert row.path.read_bytes() == META + b"pixels"
    assert keep(store, identity(1), at=201.0) == "same"
    damage(row.path)
    with pytest.raises(InstanceRefused):
        keep(store, identity(1), b"other bytes", at=202.0)


def test_bytes_that_come_again_while_files_are_deleted_stay(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(store, identity(1))
    (file,) = delivered(store, 200.0)
    remove = Spool.remove

    with ThreadPoolExecutor(1) as sender, monkeypatch.context() as patched:
        sent: list[Future[str]] = []

        def slow(self: Spool, relative: Path) -> None:
            sent.append(sender.submit(keep, store, identity(1), at=950.0))
            wait(sent, 0.3)
            remove(self, relative)

        patched.setattr(Spool, "remove", slow)
        assert store.retention.purge(200.0, now=900.0) == [STUDY]
        assert sent[0].result(30) == "stored"
    assert file.read_bytes() == META + b"pixels"


def test_a_study_that_another_process_has_deleted_comes_again(
    store: Store, tmp_path: Path, database_url: str | None
) -> None:
    keep(store, identity(1))
    (file,) = delivered(store, 200.0)
    worker = Store.open(tmp_path, database_url)
    try:
        worker.retention.purge(200.0, now=900.0)
    finally:
        worker.close()
    assert not file.parent.exists()
    assert keep(store, identity(2), at=950.0) == "stored"
    assert keep(store, identity(1), at=951.0) == "stored"
    assert file.read_bytes() == META + b"pixels"
    assert len(list(file.parent.iterdir())) == 2


def test_files_left_by_a_crash_between_index_and_spool_are_deleted_at_the_next_call(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(store, identity(1))
    (file,) = delivered(store, 200.0)

    def killed(self: Spool, relative: Path) -> None:
        raise StoreFault("killed")

    with monkeypatch.context() as patched:
        patched.setattr(Spool, "remove", killed)
        with pytest.raises(StoreFault):
            store.retention.purge(200.0, now=900.0)
    assert file.exists()
    store.retention.purge(200.0, now=901.0)
    assert not file.exists()


# --- clocks that are set


def test_a_clock_set_back_or_forward_holds_up_no_study_and_no_delivery(store: Store) -> None:
    keep(store, identity(1), at=100_000.0)
    assert store.revisions.close_due(50_000.0) == [(STUDY, 1)]  # set back by half a day
    keep(store, identity(1, study="1.2.9"), at=100.0)
    assert store.revisions.close_due(1e9) == [("1.2.9", 1)]  # set forward by years
    store.deliveries.queue(STUDY, 1, ["pacs"], now=100_000.0)
    store.deliveries.set_state(
        STUDY, 1, "pacs", DeliveryState.RETRYING, now=100_000.0, attempts=1, next_attempt_at=100_060.0
    )
    assert store.deliveries.due(100_000.0) == []
    assert [row.destination for row in store.deliveries.due(50_000.0)] == ["pacs"]


def test_clocks_of_two_machines_that_differ_a_little_change_nothing(store: Store) -> None:
    keep(store, identity(1), at=1000.0)
    assert store.revisions.close_due(900.0) == []


# --- storage commitment


def test_old_questions_are_forgotten_and_their_answers_no_longer_known(store: Store) -> None:
    for transaction, at in (("1.1", 100.0), ("1.2", 200.0)):
        store.commitments.ask(transaction, STUDY, 1, "pacs", 1, ["2.25.1"], now=at)
    store.commitments.forget(150.0)
    assert not store.commitments.answered("1.1", ["2.25.1"], None)
    assert store.commitments.answered("1.2", ["2.25.1"], None)


def test_what_is_owed_is_answered_by_one_of_several_receivers(store: Store) -> None:
    store.commitments.schedule("PACS", "1.1", [("1.2", "1.3")], now=100.0, due_at=101.0)
    store.commitments.schedule("PACS", "1.1", [("1.2", "1.3")], now=100.0, due_at=101.0)
    assert store.commitments.due(100.5) == []
    (owed,) = store.commitments.due(101.0)
    assert [store.commitments.postpone(owed, 105.0) for _ in range(2)] == [True, False]
    assert store.commitments.due(104.0) == []
    (again,) = store.commitments.due(105.0)
    assert (again.attempts, again.instances) == (1, (("1.2", "1.3"),))
    store.commitments.confirm(again)
    assert store.commitments.due(1e9) == []


def test_a_revision_says_how_large_its_study_was_when_it_closed(store: Store) -> None:
    keep(store, identity(1), b"12345")
    keep(store, identity(2), b"123")
    keep(store, identity(3, study="1.2.826.9"), b"123456789")
    store.revisions.close_due(1000.0)
    assert store.revisions.get(STUDY, 1).size_bytes == 2 * len(META) + 8
    keep(store, identity(4), b"1", at=1100.0)
    close(store, 1200.0)
    assert store.revisions.get(STUDY, 2).size_bytes == 3 * len(META) + 9
    assert store.revisions.get(STUDY, 1).size_bytes == 2 * len(META) + 8
