"""Receiver and worker killed at random while studies come in: nothing acknowledged is lost, nothing comes twice.

200 kills and 1,000 instances with ALLPACS_FAULTS_LONG set, some of each without.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from allpacs.app import open_store
from allpacs.deliver.c_store import SentFile, send_files
from allpacs.domain.errors import DeliveryRejected, DeliveryUnavailable
from allpacs.store.records import RevisionState
from allpacs.store.scrub import Damage, Scrubbed
from conformance.support.network import wait_until
from faults.worker_process import end_worker, start_worker
from support.hospital import AE_TITLE, SENDER, StubHospital, drawn_study, end_program

pytestmark = pytest.mark.nightly

LONG = "ALLPACS_FAULTS_LONG" in os.environ
KILLS, STUDIES, EACH, PATIENCE_S = (200, 100, 10, 1200) if LONG else (4, 5, 2, 240)
SETTINGS = """
[work]
chunk_instances = 4
poll_s = 0.05
"""


class Killed:
    """Keeps a receiver and a worker running, and kills one of them again and again."""

    def __init__(self, hospital: StubHospital, kills: int, seed: int) -> None:
        self._hospital = hospital
        self._chance = random.Random(seed)
        self._left = kills
        self.kills: Counter[str] = Counter()
        self._stop = threading.Event()
        self._receiver = self._start_receiver()
        self._worker = start_worker(hospital.config)
        self._thread = threading.Thread(target=self._kill, daemon=True)
        self._thread.start()

    def _start_receiver(self) -> subprocess.Popen[bytes]:
        with (self._hospital.folder / "receive.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "allpacs", "receive", "--config", str(self._hospital.config)],
                stdout=log, stderr=log,
            )  # fmt: skip

    def _kill(self) -> None:
        while self._left and not self._stop.is_set():
            self._stop.wait(self._chance.uniform(0.05, 2.0))
            if self._chance.random() < 0.5:
                self._receiver.kill()
                self._receiver.wait(30)
                self._receiver = self._start_receiver()
                self.kills["receiver"] += 1
                # One that is killed before it listens has nothing to lose.
                with contextlib.suppress(DeliveryUnavailable):
                    self._hospital.wait_for_echo(60)
            else:
                assert self._worker.pid is not None
                os.kill(self._worker.pid, signal.SIGKILL)
                self._worker.join(30)
                self._worker = start_worker(self._hospital.config)
                self.kills["worker"] += 1
            self._left -= 1

    @property
    def over(self) -> bool:
        return self._left == 0

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(120)
        end_program(self._receiver)
        end_worker(self._worker)


def _send_until_acknowledged(hospital: StubHospital, files: list[Path], acknowledged: set[str]) -> None:
    """Send a study as a PACS does: what was not acknowledged is sent again."""
    waiting = list(files)
    deadline = time.monotonic() + PATIENCE_S
    together = True
    while waiting:
        assert time.monotonic() < deadline, f"a study could not be sent within {PATIENCE_S} s"
        # Of an association that a kill ends nothing is known: then one by one, or a slow machine would never get on.
        attempt = waiting if together else waiting[:1]
        outcomes: list[SentFile] = []
        try:
            outcomes = send_files(attempt, "127.0.0.1", hospital.port, AE_TITLE, SENDER, timeout_s=10.0)
        except (DeliveryUnavailable, DeliveryRejected):
            together = False
        for one in outcomes:
            if one.stored:
                acknowledged.add(one.sop_instance_uid)
                waiting.remove(one.path)
        if waiting:
            time.sleep(0.2)


def _studies(folder: Path) -> list[list[Path]]:
    """Write studies of the same few drawn cells, each under UIDs of its own: drawing a thousand would take longer."""
    drawn = [dcmread(path) for path in drawn_study(folder / "drawn", range(EACH))]
    studies = []
    for number in range(STUDIES):
        study, series, files = generate_uid(), generate_uid(), []
        (folder / f"study{number}").mkdir()
        for place, dataset in enumerate(drawn):
            dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            files.append(folder / f"study{number}" / f"{place}.dcm")
            dataset.save_as(files[-1], enforce_file_format=True)
        studies.append(files)
    return studies


def test_random_kills_lose_nothing_and_deliver_nothing_twice(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    studies = _studies(tmp_path)
    acknowledged: set[str] = set()
    with StubHospital(tmp_path, quiet_s=1.0, extra=SETTINGS) as hospital:
        killed = Killed(hospital, KILLS, seed=20_26)
        try:
            for files in studies:
                _send_until_acknowledged(hospital, files, acknowledged)
            wait_until(lambda: killed.over, 60 * KILLS, "all kills")
            store = open_store(hospital.settings)
            wait_until(
                lambda: (
                    len(store.studies.latest(limit=1000)) == STUDIES
                    and {one.state for one in store.studies.latest(limit=1000)} == {RevisionState.DELIVERED}
                ),
                PATIENCE_S,
                "all studies delivered",
            )
        finally:
            killed.stop()
        rows = store.studies.latest(limit=1000)
        kept = {one.sop_instance_uid for row in rows for one in store.revisions.instances(row.study_uid, row.revision)}
        assert acknowledged == kept
        assert len(acknowledged) == STUDIES * EACH
        # A file whose row a kill prevented is an orphan until it is sent again, as all were here.
        assert [one for one in store.scrub.run(Scrubbed()) if one.damage is not Damage.ORPHAN] == []

        current: Counter[str] = Counter()
        for path in hospital.reports:
            report = dcmread(path)
            latest = next(row for row in rows if row.study_uid == report.StudyInstanceUID)
            current[latest.study_uid] += report.InstanceNumber == latest.revision
        assert set(current.values()) == {1}
        assert len(current) == STUDIES
        assert len(hospital.ehr.resources("DiagnosticReport")) == STUDIES
        store.close()
    record_property(
        "figure",
        f"{killed.kills['receiver']} kills of the receiver and {killed.kills['worker']} of the worker; "
        f"{len(acknowledged)} of {STUDIES * EACH} instances acknowledged, 0 lost, 0 delivered twice",
    )
