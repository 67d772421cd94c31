"""Random and mutated PDUs and data sets, and hundreds of senders at once, against one receiver."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from allpacs.receive.scp import StorageScp
from allpacs.store.store import Store
from conformance.support.network import wait_until
from faults.raw_sender import (
    EXPLICIT,
    MICROSCOPIC,
    RELEASE,
    RawSender,
    associate_request,
    echo_request,
    store_request,
)
from support.receivers import make_scp

pytestmark = pytest.mark.process

LONG = "ALLPACS_FAULTS_LONG" in os.environ
MUTATED = 100_000 if LONG else 1_200
FLOOD = 500


def instance(study: str, number: int) -> Dataset:
    data_set = Dataset()
    data_set.SOPClassUID = MICROSCOPIC
    data_set.SOPInstanceUID = f"{study}.5.{number}"
    data_set.PatientName = "CANARY^NAME"
    data_set.StudyInstanceUID = study
    data_set.SeriesInstanceUID = f"{study}.4"
    data_set.SamplesPerPixel, data_set.PhotometricInterpretation = 3, "RGB"
    data_set.Rows = data_set.Columns = 8
    data_set.BitsAllocated = data_set.BitsStored = 8
    data_set.HighBit, data_set.PixelRepresentation, data_set.PlanarConfiguration = 7, 0, 0
    data_set.add_new(0x7FE00010, "OB", bytes(192))
    return data_set


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path / "store")
    yield store
    store.close()


@pytest.fixture
def receive(store: Store) -> Iterator[Callable[..., StorageScp]]:
    started: list[StorageScp] = []

    def start(**options: object) -> StorageScp:
        scp = make_scp(store.receiving, ae_title="ALLPACS", transfer_syntaxes=[EXPLICIT], **options)  # type: ignore[arg-type]
        scp.start()
        started.append(scp)
        return scp

    yield start
    for scp in started:
        scp.stop(grace_s=0.0)


def echoes(scp: StorageScp) -> bool:
    with RawSender(scp.port) as sender:
        answered = sender.accepted and sender.ask(echo_request()) == 0x0000
        sender.release()
        return answered


def held() -> tuple[int, int]:
    """Return threads and open file descriptors of this process."""
    gc.collect()
    return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))


def mutated(content: bytes, chance: random.Random) -> bytes:
    """Return the bytes with some changed, cut out, doubled or made up."""
    changed = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(changed)) if changed else 0
        match chance.randrange(5):
            case 0 if changed:
                changed[place] = chance.randrange(256)
            case 1 if changed:
                changed[place] ^= 1 << chance.randrange(8)
            case 2:
                del changed[place : place + chance.randint(1, 30)]
            case 3:
                changed[place:place] = changed[place : place + chance.randint(1, 30)]
            case _:
                changed[place:place] = chance.randbytes(chance.randint(1, 30))
    return bytes(changed)


def test_mutated_pdus_and_data_sets_neither_crash_nor_leak(
    receive: Callable[..., StorageScp], store: Store, record_property: Callable[[str, object], None]
) -> None:
    scp = receive(acse_timeout_s=0.5, dimse_timeout_s=0.5, network_timeout_s=0.5, max_associations=64)
    idle = threading.active_count()  # with what earlier tests of this process left running
    assert echoes(scp)
    wait_until(lambda: threading.active_count() <= idle, 10, "the association's end")
    before = held()
    chance = random.Random(20_26)
    whole = store_request(instance("1.2.3", 1))
    sent = 0
    while sent < MUTATED:
        # Half before an association, half on one; several on each, as long as it lives.
        with contextlib.suppress(OSError):
            if chance.random() < 0.3:
                with socket.create_connection(("127.0.0.1", scp.port), timeout=5) as raw:
                    sent += 1
                    raw.sendall(mutated(associate_request("PACS"), chance) if sent % 3 else chance.randbytes(200))
            else:
                with RawSender(scp.port, timeout_s=2.0) as sender:
                    for _ in range(20):
                        sent += 1
                        kind = chance.randrange(4)
                        sender.send(mutated((whole, echo_request(), RELEASE, whole[:400])[kind], chance))
        if sent % 500 < 20:
            wait_until(lambda: echoes(scp), 30, "an answer to C-ECHO")
    wait_until(lambda: held()[0] <= before[0] + 3, 60, "the threads' end")
    after = held()
    assert after[1] <= before[1] + 5
    assert echoes(scp)
    with RawSender(scp.port) as sender:
        assert sender.store(instance("1.2.77", 1)) == 0x0000
    wait_until(lambda: scp._memory.held_bytes == 0 and not scp._tallies, 30, "nothing held")
    record_property(
        "figure", f"{sent} mutated messages; threads {before[0]} → {after[0]}, descriptors {before[1]} → {after[1]}"
    )


def test_hundreds_of_associations_at_once_lose_nothing(
    receive: Callable[..., StorageScp], store: Store, record_property: Callable[[str, object], None]
) -> None:
    """500 from 5 senders; those too many are rejected for now, come back, and every acknowledged instance is there."""
    scp = receive(max_associations=64)
    acknowledged: list[str] = []
    rejected = 0
    lock = threading.Lock()
    start = threading.Barrier(FLOOD)

    def send(number: int) -> None:
        nonlocal rejected
        data_set = instance(f"1.2.{number % 25 + 1}", number)
        start.wait(60)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), RawSender(scp.port, calling=f"SENDER{number % 5}") as sender:
                if sender.accepted and sender.store(data_set) == 0x0000:
                    with lock:
                        acknowledged.append(data_set.SOPInstanceUID)
                    sender.release()
                    return
            with lock:
                rejected += 1
            time.sleep(0.2)

    threading.stack_size(256 * 1024)
    senders = [threading.Thread(target=send, args=(number,), daemon=True) for number in range(FLOOD)]
    threading.stack_size(0)
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join(150)
    kept = {
        row.sop_instance_uid
        for study_uid, revision in store.revisions.close_due(1e12)
        for row in store.revisions.instances(study_uid, revision)
    }
    assert len(acknowledged) == FLOOD
    assert set(acknowledged) == kept
    assert echoes(scp)
    record_property("figure", f"{FLOOD} associations from 5 senders, {rejected} rejections for now, {len(kept)} kept")
