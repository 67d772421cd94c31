"""A single urgent cell is read while slides hold every place of the worker."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from allpacs.app import Worker, make_receiver, open_store
from allpacs.store.records import RevisionState
from faults.worker_process import brightness_logits
from hospital import Hospital, drawn_study, wait_until

pytestmark = pytest.mark.slow
PATIENCE_S = 60.0


def test_a_single_cell_does_not_wait_for_a_large_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("allpacs.flow.SMALL_STUDY_BYTES", 1_000_000)  # one picture is small, two are large
    reached, go_on = threading.Event(), threading.Event()

    def ask(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        if len(crops) > 1:
            reached.set()
            assert go_on.wait(PATIENCE_S)
        return brightness_logits(crops)

    with Hospital(tmp_path, quiet_s=0.0, extra="[work]\nstudies_at_a_time = 1\npoll_s = 0.05\n") as hospital:
        store = open_store(hospital.settings)
        receiver = make_receiver(hospital.settings, store)
        receiver.start()
        worker = Worker(hospital.settings, store, ask=ask)
        worker.start()
        try:
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
        finally:
            go_on.set()
            worker.stop()
            receiver.stop()
            store.close()
