"""Studies without end: memory and file descriptors of receiver and worker stay flat.

30 minutes with ALLPACS_FAULTS_LONG set, one minute without.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from allpacs.app import open_store
from allpacs.store.records import DeliveryState, RevisionState
from allpacs.store.store import Store
from conformance.support.network import wait_until
from faults.raw_sender import RawSender
from faults.test_hostile_senders import instance
from faults.worker_process import end_worker, start_worker
from support.hospital import StubHospital, end_program

pytestmark = pytest.mark.nightly

SECONDS = 1800 if "ALLPACS_FAULTS_LONG" in os.environ else 60
SETTINGS = "[work]\npoll_s = 0.1\n"
#: What a process may grow by in the second half: caches fill, the allocator keeps what it has.
MOST_GROWTH_MB = 40


def _memory_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _undelivered(store: Store) -> int:
    deliveries = store.backlog.now().deliveries
    return sum(count for (_, state), count in deliveries.items() if state == DeliveryState.QUEUED)


def test_memory_and_descriptors_stay_flat(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    with StubHospital(tmp_path, quiet_s=0.2, extra=SETTINGS) as hospital:
        with (tmp_path / "receive.log").open("ab") as log:
            receiver = subprocess.Popen(
                [sys.executable, "-m", "allpacs", "receive", "--config", str(hospital.config)], stdout=log, stderr=log
            )
        worker = start_worker(hospital.config)
        assert worker.pid is not None
        processes = {"receiver": receiver.pid, "worker": worker.pid}
        store = open_store(hospital.settings)
        sent = studies = 0
        middle: dict[str, tuple[float, int]] = {}
        try:
            hospital.wait_for_echo(60)
            began = time.monotonic()
            while (elapsed := time.monotonic() - began) < SECONDS:
                study = f"1.2.826.{studies + 1}"
                with RawSender(hospital.port, calling="SOAK") as sender:
                    for number in range(5):
                        assert sender.store(instance(study, number)) == 0x0000
                        sent += 1
                    sender.release()
                studies += 1
                # No faster than the worker reads and delivers: a queue that grows is not what is measured here.
                wait_until(lambda: store.receiving.waiting() < 10 and _undelivered(store) < 20, 120, "short queues")
                if not middle and elapsed > SECONDS / 2:
                    middle = {name: (_memory_mb(pid), _descriptors(pid)) for name, pid in processes.items()}
            wait_until(lambda: store.backlog.now().studies == {RevisionState.DELIVERED: studies}, 300, "all delivered")
            told = []
            for name, pid in processes.items():
                memory, descriptors = _memory_mb(pid), _descriptors(pid)
                assert memory - middle[name][0] < MOST_GROWTH_MB, name
                assert descriptors - middle[name][1] < 20, name
                told.append(
                    f"{name} {middle[name][0]:.0f} → {memory:.0f} MB, {middle[name][1]} → {descriptors} descriptors"
                )
        finally:
            end_program(receiver)
            end_worker(worker)
            store.close()
        # Instances that come slowly make further revisions: one folder a study.
        assert len({path.parent for path in hospital.reports}) == studies
    record_property("figure", f"{SECONDS} s, {sent} instances, {studies} studies delivered; " + "; ".join(told))
