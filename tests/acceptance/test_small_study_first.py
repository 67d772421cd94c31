"""Which study is read next: a single urgent cell while slides hold every place, and a long queue in turn."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from dbos import DBOS
from numpy.typing import NDArray

from allpacs.app import Worker, make_receiver, open_store
from allpacs.store.records import RevisionState
from allpacs.store.store import Store
from allpacs.study.pipeline import Predict
from conformance.support.network import wait_until
from faults.worker_process import brightness_logits
from support.hospital import StubHospital, drawn_study

pytestmark = pytest.mark.process
PATIENCE_S = 60.0


def test_a_single_cell_does_not_wait_for_a_large_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("allpacs.flow.flow.SMALL_STUDY_BYTES", 1_000_000)  # one picture is small, two are large
    reached, go_on = threading.Event(), threading.Event()

    def ask(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        if len(crops) > 1:
            reached.set()
            assert go_on.wait(PATIENCE_S)
        return brightness_logits(crops)

    with _hospital(tmp_path) as (hospital, store), _working(hospital, store, ask, go_on):
        drawn_study(tmp_path / "large", range(2))
        hospital.send(tmp_path / "large" / "dicom")
        assert reached.wait(PATIENCE_S)
        drawn_study(tmp_path / "small", range(1))
        hospital.send(tmp_path / "small" / "dicom")
        wait_until(lambda: len(hospital.reports) == 1, PATIENCE_S, "the small study's report")
        states = {row.state for row in store.studies.latest()}
        assert RevisionState.READING in states, "the large one still has the only place"
        go_on.set()
        wait_until(lambda: len(hospital.reports) == 2, PATIENCE_S, "the large study's report")


def test_of_a_long_queue_the_engine_holds_a_few_and_all_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("allpacs.flow.flow._MOST_READY", 1)
    reached, go_on = threading.Event(), threading.Event()

    def ask(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        reached.set()
        assert go_on.wait(PATIENCE_S)
        return brightness_logits(crops)

    with _hospital(tmp_path) as (hospital, store):
        for number in range(5):
            drawn_study(tmp_path / str(number), range(1))
            hospital.send(tmp_path / str(number) / "dicom")
        with _working(hospital, store, ask, go_on):
            assert reached.wait(PATIENCE_S)
            wait_until(lambda: len(store.revisions.in_state(RevisionState.QUEUED)) == 4, PATIENCE_S, "four that wait")
            time.sleep(1.0)  # twenty looks at what is due
            begun = DBOS.list_workflows(name="read_study", load_input=False, load_output=False)
            assert len(begun) == 2, "the one that is read, and the next"
            go_on.set()
            wait_until(lambda: len(hospital.reports) == 5, PATIENCE_S, "all reports")


@contextmanager
def _hospital(folder: Path) -> Iterator[tuple[StubHospital, Store]]:
    """Run a hospital and its receiver, one study read at a time; yield it and its store."""
    with StubHospital(folder, extra="[work]\nstudies_at_a_time = 1\npoll_s = 0.05\n") as hospital:
        store = open_store(hospital.settings)
        receiver = make_receiver(hospital.settings, store)
        receiver.start()
        try:
            yield hospital, store
        finally:
            receiver.stop()
            store.close()


@contextmanager
def _working(hospital: StubHospital, store: Store, predict: Predict, go_on: threading.Event) -> Iterator[None]:
    """Run a worker; what `predict` waits for is given in the end, whatever happened."""
    worker = Worker(hospital.settings, store, predict=predict)
    worker.start()
    try:
        yield
    finally:
        go_on.set()
        worker.stop()
