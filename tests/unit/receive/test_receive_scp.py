"""The receiver over real associations: every instance gets its status, and the next one is served."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
import structlog
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import write_file_meta_info

from allpacs.dicom import deflate as inflate
from allpacs.domain.errors import StoreFault
from allpacs.domain.identity import IMPLEMENTATION_CLASS_UID
from allpacs.receive.admit import ACCEPTED_SOP_CLASSES
from allpacs.receive.capacity import CapacityLimits
from allpacs.receive.config import SourceRule
from allpacs.receive.scp import StorageScp
from allpacs.store.store import Store
from receive_peer import MICROSCOPIC, TRANSFER_SYNTAXES, Peer, encoded, make_instance
from support.receivers import make_scp

Start = Callable[..., StorageScp]
Connect = Callable[..., Peer]


def kept(store: Store) -> dict[str, Path]:
    """Close all studies, and return the files of all instances by UID."""
    store.revisions.close_due(1e12)
    return {
        row.sop_instance_uid: row.path
        for study in store.studies.latest()
        for row in store.revisions.instances(study.study_uid, study.revision)
    }


def data_set_bytes(path: Path) -> bytes:
    """Return what follows the File Meta Information of a Part 10 file."""
    content = path.read_bytes()
    assert content[128:132] == b"DICM"
    group_length = pydicom.filereader.read_file_meta_info(path).FileMetaInformationGroupLength
    return content[132 + 12 + group_length :]


def test_echo_is_answered(peer: Peer) -> None:
    assert peer.echo() == 0x0000


@pytest.mark.parametrize("sop_class", ACCEPTED_SOP_CLASSES, ids=list(ACCEPTED_SOP_CLASSES.values()))
def test_every_sop_class_is_taken(peer: Peer, store: Store, sop_class: str) -> None:
    assert peer.send(make_instance(1, sop_class=sop_class)) == 0x0000
    (path,) = kept(store).values()
    read = pydicom.dcmread(path)
    assert read.file_meta.MediaStorageSOPClassUID == sop_class
    assert read.file_meta.MediaStorageSOPInstanceUID == "1.2.3.5.1"
    assert read.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert read.file_meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
    group = BytesIO()
    write_file_meta_info(group, read.file_meta, enforce_standard=True)
    assert path.read_bytes()[128 : 132 + len(group.getvalue())] == b"DICM" + group.getvalue()


@pytest.mark.parametrize("transfer_syntax", TRANSFER_SYNTAXES)
def test_every_transfer_syntax_is_kept_as_sent(peer: Peer, store: Store, transfer_syntax: str) -> None:
    instance = make_instance(1)
    if pydicom.uid.UID(transfer_syntax).is_encapsulated:
        instance.PixelData = encapsulate([b"\xff\xd8one\xff\xd9", b"\xff\xd8two\xff\xd9"])
        instance["PixelData"].is_undefined_length = True
    assert peer.send(instance, transfer_syntax=transfer_syntax) == 0x0000
    (path,) = kept(store).values()
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == transfer_syntax
    assert data_set_bytes(path) == encoded(instance, transfer_syntax)


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        ("ISO_IR 192", "Müller^Łukasz 漢字"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        (["ISO 2022 IR 13", "ISO 2022 IR 87"], "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
        ("ISO_IR 144", "Люкceмбypг^Иван"),
    ],
)
def test_names_of_any_character_set_are_kept_byte_for_byte(
    peer: Peer, store: Store, character_set: Any, name: str
) -> None:
    instance = make_instance(1, SpecificCharacterSet=character_set, PatientName=name)
    sent = encoded(instance)
    assert peer.send(instance) == 0x0000
    (path,) = kept(store).values()
    assert data_set_bytes(path) == sent
    assert str(pydicom.dcmread(path).PatientName) == name


def test_deflated_data_sets_are_looked_into(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    deflated = "1.2.840.10008.1.2.1.99"
    assert peer.send(b"no deflate stream at all", transfer_syntax=deflated) == 0xC000
    assert peer.send(make_instance(1, PixelData=None), transfer_syntax=deflated) == 0xC000
    assert peer.send(encoded(make_instance(1), deflated)[:-60], transfer_syntax=deflated) == 0xC000
    with monkeypatch.context() as patched:
        patched.setattr(inflate, "MAX_INFLATED_BYTES", 1000)
        bomb = make_instance(1, PixelData=bytes(1 << 20))
        assert peer.send(bomb, transfer_syntax=deflated) == 0xC000
    assert peer.send(make_instance(1), transfer_syntax=deflated) == 0x0000


def test_other_sop_classes_and_transfer_syntaxes_are_not_negotiated(receiver: Start, connect: Connect) -> None:
    computed_tomography, report = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.88.34"
    scp = receiver(transfer_syntaxes=TRANSFER_SYNTAXES[:2])
    peer = connect(scp.port, others=(computed_tomography, report))
    assert peer.accepts(MICROSCOPIC, "1.2.840.10008.1.2.1")
    assert not peer.accepts(MICROSCOPIC, "1.2.840.10008.1.2.4.50")
    assert not peer.accepts(computed_tomography, "1.2.840.10008.1.2.1")
    assert not peer.accepts(report, "1.2.840.10008.1.2.1")
    assert peer.send(make_instance(1)) == 0x0000


def _cut(data_set: Dataset, keep: int) -> bytes:
    return encoded(data_set)[:keep]


BAD: dict[str, tuple[int, Callable[[], tuple[Dataset | bytes, dict[str, str]]]]] = {
    "class of a data set not that of the request": (
        0xA900,
        lambda: (make_instance(1), {"sop_class": "1.2.840.10008.5.1.4.1.1.7", "context": "1.2.840.10008.5.1.4.1.1.7"}),
    ),
    "instance UID not that of the request": (0xA900, lambda: (make_instance(1), {"sop_instance": "1.2.3.5.2"})),
    "request for a class that is not ours": (
        0x0122,
        lambda: (make_instance(1), {"sop_class": "1.2.840.10008.5.1.4.1.1.2", "context": MICROSCOPIC}),
    ),
    "no study UID": (0xC000, lambda: (make_instance(1, StudyInstanceUID=None), {})),
    "empty study UID": (0xC000, lambda: (make_instance(1, StudyInstanceUID=""), {})),
    "no series UID": (0xC000, lambda: (make_instance(1, SeriesInstanceUID=None), {})),
    "no instance UID": (0xC000, lambda: (make_instance(1, SOPInstanceUID=None), {})),
    "invalid instance UID": (0x0117, lambda: (encoded(make_instance(1)).replace(b"1.2.3.5.1\0", b"1.2.3.05.1"), {})),
    "study UID that is a path": (0x0117, lambda: (encoded(make_instance(1)).replace(b"1.2.3\0", b"../../"), {})),
    "no pixels": (0xC000, lambda: (make_instance(1, PixelData=None), {})),
    "next to nothing": (0xC000, lambda: (b"\0\0", {})),
    "noise": (0xC000, lambda: (bytes(range(256)) * 20, {})),
    "cut in its header": (0xC000, lambda: (_cut(make_instance(1), 100), {})),
    "cut in its last pixels": (0xC000, lambda: (_cut(make_instance(1), -1), {})),
    "our own result": (
        0x0124,
        lambda: (make_instance(1, Manufacturer="allpacs", ManufacturerModelName="allpacs"), {}),
    ),
}


@pytest.mark.parametrize("case", BAD, ids=list(BAD))
def test_a_bad_instance_gets_its_status_and_the_next_is_served(peer: Peer, store: Store, case: str) -> None:
    status, make = BAD[case]
    data_set, affected = make()
    if isinstance(data_set, bytes):
        affected = {"sop_instance": "1.2.3.5.1", **affected}
    assert f"{peer.send(data_set, **affected):04X}" == f"{status:04X}"
    assert peer.send(make_instance(99)) == 0x0000
    assert list(kept(store)) == ["1.2.3.5.99"]
    if status != 0x0122:  # answered by the association layer already
        (event,) = store.audit.latest()
        assert (event.event, event.status, event.calling_ae) == ("instance_refused", status, "PACS")


def test_encapsulated_pixels_without_their_end_are_refused(peer: Peer) -> None:
    instance = make_instance(1, PixelData=encapsulate([b"\xff\xd8one\xff\xd9"]))
    instance["PixelData"].is_undefined_length = True
    jpeg = "1.2.840.10008.1.2.4.50"
    whole = encoded(instance, jpeg)
    for cut in (1, 8, 12, 20):
        sent = peer.send(whole[:-cut], transfer_syntax=jpeg, sop_instance="1.2.3.5.1")
        assert sent == 0xC000
    assert peer.send(whole, transfer_syntax=jpeg, sop_instance="1.2.3.5.1") == 0x0000


def test_patient_id_may_be_missing_and_pictures_imported_by_us_are_welcome(peer: Peer) -> None:
    assert peer.send(make_instance(1, PatientID=None, PatientName=None)) == 0x0000
    imported = make_instance(2, Manufacturer="allpacs", ManufacturerModelName="allpacs import")
    assert peer.send(imported) == 0x0000


def test_duplicates_are_taken_once_and_conflicts_refused(peer: Peer, store: Store) -> None:
    assert peer.send(make_instance(1)) == 0x0000
    assert peer.send(make_instance(1)) == 0x0000
    assert peer.send(make_instance(1, PatientID="OTHER")) == 0x0111
    assert peer.send(make_instance(2)) == 0x0000
    files = kept(store)
    assert list(files) == ["1.2.3.5.1", "1.2.3.5.2"]
    assert pydicom.dcmread(files["1.2.3.5.1"]).PatientID == "SECRETID77"
    (event,) = store.audit.of_study("1.2.3")
    assert event.status == 0x0111


# --- disk


@pytest.fixture
def small_store(tmp_path: Path) -> Iterator[Store]:
    """A store on a file system of 4 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    store = Store.open(folder)
    yield store
    store.close()
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("memory", [2_000_000_000, 1_000_000], ids=["by memory", "by disk"])
def test_a_full_disk_is_answered_with_a700_and_a_smaller_instance_is_served(
    small_store: Store, receiver: Start, connect: Connect, memory: int
) -> None:
    no_watermark = CapacityLimits(min_free_bytes=-(1 << 40), resume_free_bytes=-(1 << 40))  # the disk itself refuses
    scp = receiver(small_store.receiving, limits=no_watermark, max_memory_bytes=memory)
    peer = connect(scp.port)
    big = make_instance(1)
    big.add_new(0x7FE00010, "OB", bytes(8_000_000))
    assert peer.send(big) == 0xA700
    assert peer.send(make_instance(2)) == 0x0000
    assert list(kept(small_store)) == ["1.2.3.5.2"]


def test_below_the_watermark_instances_are_refused_and_echo_is_served(receiver: Start, connect: Connect) -> None:
    peer = connect(receiver(limits=CapacityLimits(min_free_bytes=1 << 60)).port)
    assert peer.send(make_instance(1)) == 0xA700
    assert peer.echo() == 0x0000


class _FailsOnce:
    """A sink whose first instance fails in a way nobody foresaw."""

    def __init__(self, store: Store, error: Exception) -> None:
        self._receiving = store.receiving
        self._error: Exception | None = error

    def keep_instance(self, *arguments: Any, **named: Any) -> str:
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return self._receiving.keep_instance(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._receiving, name)


@pytest.mark.parametrize("error", [StoreFault("index: disk I/O error"), RuntimeError("SECRETNAME")])
def test_any_failure_to_keep_an_instance_is_a700(
    receiver: Start, connect: Connect, store: Store, error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    peer = connect(receiver(_FailsOnce(store, error)).port)
    assert peer.send(make_instance(1)) == 0xA700
    assert peer.send(make_instance(1)) == 0x0000
    printed = capsys.readouterr()
    assert "instance_refused" in printed.out
    assert "SECRETNAME" not in printed.out + printed.err


# --- associations


def test_another_called_ae_title_is_rejected(receiver: Start, connect: Connect) -> None:
    scp = receiver()
    assert not connect(scp.port, called="OTHER").established
    assert connect(scp.port).echo() == 0x0000
    assert connect(receiver(require_called_ae=False).port, called="OTHER").echo() == 0x0000


def test_a_calling_ae_title_that_is_not_allowed_is_rejected(receiver: Start, connect: Connect) -> None:
    scp = receiver(allowed_calling=["PACS", "SCANNER"])
    assert not connect(scp.port, calling="STRANGER").established
    assert connect(scp.port, calling="SCANNER").echo() == 0x0000


def test_one_association_too_many_is_rejected_for_now(receiver: Start, connect: Connect) -> None:
    scp = receiver(max_associations=1)
    first = connect(scp.port)
    second = connect(scp.port)
    assert not second.established
    rejection = second.association.acceptor.primitive
    assert rejection.result == 2  # rejected-transient (PS3.8 section 9.3.4)
    first.release()
    deadline = time.monotonic() + 10
    while not connect(scp.port).established:
        assert time.monotonic() < deadline


def test_studies_are_due_by_the_rule_of_their_source(receiver: Start, connect: Connect, store: Store) -> None:
    scp = receiver(
        rules={"QUICK": SourceRule(quiet_s=500.0, close_on_release=True)},
        default_rule=SourceRule(quiet_s=20.0),
        clock=lambda: 1000.0,
    )
    for number, calling in ((1, "QUICK"), (2, "PACS"), (3, "QUICK")):
        peer = connect(scp.port, calling=calling)
        assert peer.send(make_instance(number, StudyInstanceUID=f"1.2.{number}")) == 0x0000
        if number == 3:
            peer.abort()
        else:
            peer.release()
    deadline = time.monotonic() + 10
    while store.revisions.close_due(1000.0) != [("1.2.1", 1)]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    due = {study.study_uid: study.due_at for study in store.studies.latest()}
    assert due == {"1.2.1": None, "1.2.2": 1020.0, "1.2.3": 1500.0}


@pytest.mark.parametrize(("said", "due_after"), [("3", 3), ("2", 2), ("0", None), ("many", None), (None, None)])
def test_a_study_is_due_when_it_has_as_many_instances_as_its_sender_says(
    receiver: Start, connect: Connect, store: Store, said: str | None, due_after: int | None
) -> None:
    rule = SourceRule(quiet_s=500.0, instance_count_attribute="ImagesInAcquisition")
    peer = connect(receiver(rules={"PACS": rule}, clock=lambda: 1000.0).port)
    for number in (1, 2, 3):
        data_set = make_instance(number)
        if said is not None:
            data_set.add_new(0x00201002, "LO", said)
        assert peer.send(data_set) == 0x0000
        due = store.studies.latest()[0].due_at
        assert due == (1000.0 if due_after is not None and number >= due_after else 1500.0)


def test_stopping_lets_an_association_end_and_frees_the_port(receiver: Start, connect: Connect) -> None:
    scp = receiver()
    port = scp.port
    peer = connect(port)
    assert peer.send(make_instance(1)) == 0x0000
    peer.release()
    scp.stop(grace_s=10.0)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    assert receiver(port=port).port == port


def test_receivers_that_share_a_port_each_take_some_of_the_associations(tmp_path: Path, connect: Connect) -> None:
    stores = [Store.open(tmp_path / name) for name in "ab"]
    first = make_scp(stores[0].receiving, ae_title="ALLPACS", transfer_syntaxes=TRANSFER_SYNTAXES, shares_port=True)
    first.start()
    others = {"port": first.port, "ae_title": "ALLPACS", "transfer_syntaxes": TRANSFER_SYNTAXES, "shares_port": True}
    second = make_scp(stores[1].receiving, **others)  # type: ignore[arg-type]
    second.start()
    try:
        for number in range(24):
            assert connect(first.port).send(make_instance(number)) == 0x0000
    finally:
        first.stop()
        second.stop()
    taken = [len(kept(store)) for store in stores]
    for store in stores:
        store.close()
    assert sum(taken) == 24
    assert min(taken) >= 1, "one in 8 million runs gives all to one of them"


def test_noise_on_the_port_does_not_stop_the_receiver(receiver: Start, connect: Connect) -> None:
    scp = receiver()
    for noise in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\x01\x00\xff\xff\xff\xff", bytes(100)):
        with socket.create_connection(("127.0.0.1", scp.port), timeout=5) as connection:
            connection.sendall(noise)
    assert connect(scp.port).send(make_instance(1)) == 0x0000


# --- logs


def test_one_summary_line_an_association(receiver: Start, connect: Connect) -> None:
    with structlog.testing.capture_logs() as lines:
        scp = receiver()
        peer = connect(scp.port)
        for data_set in (make_instance(1), make_instance(1), make_instance(2), make_instance(3, StudyInstanceUID="")):
            peer.send(data_set)
        peer.release()
        scp.stop(grace_s=10.0)
    (summary,) = [line for line in lines if line["event"] == "association_ended"]
    assert summary.pop("duration_s") > 0
    assert summary == {
        "event": "association_ended", "log_level": "info", "calling_ae": "PACS", "ended": "released",
        "stored": 2, "same": 1, "refused": {"C000": 1}, "studies": 1,
    }  # fmt: skip
    (refusal,) = [line for line in lines if line["event"] == "instance_refused"]
    assert refusal["sop_instance_uid"] == "1.2.3.5.3"


# --- as a process of its own


SERVE = """
import sys
from pathlib import Path
from allpacs.telemetry.logs import configure_logs
from allpacs.receive.config import ReceiverConfig
from allpacs.receive.scp import StorageScp
from allpacs.store.store import Store

configure_logs("debug", "json")
store = Store.open(Path(sys.argv[1]))
scp = StorageScp(store.receiving, ReceiverConfig(ae_title="ALLPACS", transfer_syntaxes=["1.2.840.10008.1.2.1"]))
scp.start()
heavy = {"tensorflow", "keras", "alembic", "highdicom", "fhir", "dbos", "skimage", "scipy", "pydantic"}
print(scp.port, sorted(heavy & set(sys.modules)), flush=True)
sys.stdin.read()
scp.stop()
"""


@pytest.fixture
def process(store: Store) -> Iterator[subprocess.Popen[str]]:
    """A receiver on the store, with logging as configured for service; ends when its input does."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(store.spool.folder.parent)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    yield process
    process.kill()
    process.communicate(timeout=10)


def test_a_receiver_starts_light_and_ends_cleanly(
    process: subprocess.Popen[str], store: Store, connect: Connect
) -> None:
    assert process.stdout is not None
    port, heavy = process.stdout.readline().split(maxsplit=1)
    assert heavy.strip() == "[]"
    peer = connect(int(port))
    assert peer.echo() == 0x0000
    assert peer.send(make_instance(1)) == 0x0000
    peer.release()
    _, logged = process.communicate(timeout=20)
    assert process.returncode == 0
    assert [json.loads(line)["event"] for line in logged.splitlines()] == [
        "receiver_started", "association_ended", "receiver_stopped",
    ]  # fmt: skip
    assert list(kept(store)) == ["1.2.3.5.1"]


def test_no_patient_name_or_id_is_ever_logged(process: subprocess.Popen[str], store: Store, connect: Connect) -> None:
    assert process.stdout is not None
    port = int(process.stdout.readline().split()[0])
    peer = connect(port)
    assert peer.send(make_instance(1)) == 0x0000
    assert peer.send(make_instance(1, Rows=9)) == 0x0111
    for _, make in BAD.values():
        data_set, affected = make()
        peer.send(data_set, **affected)
    # A sender that puts the patient where a UID belongs.
    whole = encoded(make_instance(1))
    assert peer.send(whole.replace(b"1.2.3.4\0", b"SECRETID"), sop_instance="1.2.3.5.1") == 0x0117
    assert peer.send(whole, sop_instance="SECRETID77") == 0xA900
    peer.release()
    assert not connect(port, called="OTHER").established
    printed, logged = process.communicate(timeout=20)
    recorded = [str(row) for row in store.audit.latest(1000)]
    assert logged.count("instance_refused") == len(BAD) + 3
    assert "association_rejected" in logged
    for text in (printed, logged, *recorded):
        assert "SECRETNAME" not in text
        assert "SECRETID" not in text
