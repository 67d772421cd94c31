"""Another bundle while studies are read: each study has one model, a bundle that fails changes nothing."""

from __future__ import annotations

import gc
import hashlib
import json
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from allpacs.app import Worker, make_receiver, open_store
from allpacs.classify.bundle import load_bundle
from allpacs.classify.golden import save_golden
from allpacs.settings import SHIPPED_BUNDLE, Settings, load_settings
from allpacs.store.bundles import BundleState
from allpacs.store.records import RevisionState
from allpacs.store.store import Store
from allpacs.study.pipeline import Predict
from conformance.support.network import wait_until
from faults.worker_process import brightness_logits
from support.hospital import StubHospital, drawn_study

pytestmark = pytest.mark.process

ONE_BY_ONE = "[work]\nchunk_instances = 1\npoll_s = 0.05\n"


def another_bundle(folder: Path, version: str) -> Path:
    """Copy the shipped bundle under another version."""
    shutil.copytree(SHIPPED_BUNDLE, folder)
    _rewrite(folder, version=version)
    return folder


def bundle_that_answers_otherwise(folder: Path) -> Path:
    """Copy the shipped bundle with golden cells of which its network says the contrary."""
    shutil.copytree(SHIPPED_BUNDLE, folder)
    inputs, probabilities = load_bundle(folder).golden()
    save_golden(folder, inputs, 1 - probabilities)
    contract = json.loads((folder / "bundle.json").read_text())
    golden = hashlib.sha256((folder / "golden.npz").read_bytes()).hexdigest()
    _rewrite(folder, files={**contract["files"], "golden.npz": golden})
    return folder


def _rewrite(folder: Path, **changed: object) -> None:
    contract = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps({**contract, **changed}))


def _ask(store: Store, settings: Settings, folder: Path) -> int:
    return store.bundles.ask(folder, configured=settings.model.bundle, by="test", now=time.time())


def _settled(store: Store, number: int) -> BundleState:
    wait_until(lambda: store.bundles.get(number).state is not BundleState.ASKED, 60, "an answer of the worker")
    return store.bundles.get(number).state


@contextmanager
def _working(hospital: StubHospital, store: Store, predict: Predict) -> Iterator[Worker]:
    worker = Worker(load_settings(hospital.config), store, predict=predict)
    worker.start()
    try:
        yield worker
    finally:
        worker.stop()


def test_a_study_ends_with_the_bundle_it_began_with_and_the_next_has_the_new_one(
    tmp_path: Path, database_url: str | None, record_property: Callable[[str, object], None]
) -> None:
    held, go_on = threading.Event(), threading.Event()

    def ask(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        held.set()
        assert go_on.wait(120)
        return brightness_logits(crops)

    with StubHospital(tmp_path, quiet_s=0.0, database_url=database_url, extra=ONE_BY_ONE) as hospital:
        store = open_store(hospital.settings)
        receiver = make_receiver(hospital.settings, store)
        receiver.start()
        new = another_bundle(tmp_path / "new", "next")
        with _working(hospital, store, ask) as worker:
            old = weakref.ref(worker._model.reading)
            drawn_study(tmp_path / "first", [1])  # one instance a study: no further revisions
            hospital.send(tmp_path / "first" / "dicom")
            assert held.wait(60)
            (first,) = store.studies.latest()
            assert _settled(store, _ask(store, hospital.settings, new)) is BundleState.IN_USE
            drawn_study(tmp_path / "second", [2])
            hospital.send(tmp_path / "second" / "dicom")
            wait_until(lambda: len(store.studies.latest()) == 2, 60, "the second study")
            second = next(one for one in store.studies.latest() if one.study_uid != first.study_uid)
            wait_until(
                lambda: (
                    (second.study_uid, RevisionState.READING)
                    in [(one.study_uid, one.state) for one in store.studies.latest()]
                ),
                60,
                "it is begun",
            )
            go_on.set()
            wait_until(
                lambda: {one.state for one in store.studies.latest()} == {RevisionState.DELIVERED},
                120,
                "both delivered",
            )
            digests = [store.revisions.get(one.study_uid, 1).bundle_digest for one in (first, second)]
            assert digests == [load_bundle(SHIPPED_BUNDLE).digest, load_bundle(new).digest]
            assert [store.revisions.get(one.study_uid, 1).attempts for one in (first, second)] == [1, 1]
            assert len(hospital.reports) == 2
            wait_until(lambda: gc.collect() >= 0 and old() is None, 30, "the old one's end")
        # A worker that starts later has it from its beginning; one whose settings name another bundle has not.
        assert Worker(hospital.settings, store, predict=brightness_logits)._model.digest == load_bundle(new).digest
        assert store.bundles.wanted(tmp_path) is None
        receiver.stop()
        store.close()
    record_property(
        "figure", "1 swap with a study in progress: 1 report by the old bundle, 1 by the new, none begun again"
    )


def test_a_bundle_whose_network_answers_otherwise_is_refused_and_a_good_one_replaces_the_old_in_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only_openvino = f'{ONE_BY_ONE}[model]\nengine = "openvino"\n'
    with StubHospital(tmp_path, extra=only_openvino) as hospital:
        store = open_store(hospital.settings)
        worker = Worker(hospital.settings, store)  # with its real network
        before = worker._model
        wrong = _ask(store, hospital.settings, bundle_that_answers_otherwise(tmp_path / "wrong"))
        worker._watch.look()
        change = store.bundles.get(wrong)
        assert change.state is BundleState.REFUSED
        assert "golden" in str(change.reason)
        assert worker._model is before
        assert worker.healthy() != "nothing asks the model any more"
        assert capsys.readouterr().out.count("bundle_refused") == 1
        worker._watch.look()
        assert capsys.readouterr().out == ""  # said once

        assert before._batcher is not None
        network, old = weakref.ref(before._batcher.engine), weakref.ref(before)
        del before
        right = _ask(store, hospital.settings, another_bundle(tmp_path / "right", "next"))
        worker._watch.look()
        assert store.bundles.get(right).digest == load_bundle(tmp_path / "right").digest
        wait_until(lambda: gc.collect() >= 0 and network() is None and old() is None, 60, "the old network's end")
        assert worker._model.answers
        worker._model.close()
        store.close()


def test_a_bundle_with_a_damaged_file_is_refused_while_work_goes_on(tmp_path: Path) -> None:
    damaged = another_bundle(tmp_path / "damaged", "next")
    (damaged / "golden.npz").write_bytes(b"cut")
    with StubHospital(tmp_path, quiet_s=0.0, extra=ONE_BY_ONE) as hospital:
        store = open_store(hospital.settings)
        receiver = make_receiver(hospital.settings, store)
        receiver.start()
        with _working(hospital, store, brightness_logits):
            number = _ask(store, hospital.settings, damaged)
            assert _settled(store, number) is BundleState.REFUSED
            assert "golden.npz" in str(store.bundles.get(number).reason)
            assert store.bundles.wanted(hospital.settings.model.bundle) is None
            drawn_study(tmp_path / "drawn", [1])
            hospital.send(tmp_path / "drawn" / "dicom")
            wait_until(lambda: store.studies.latest()[:1], 30, "the study")
            (row,) = store.studies.latest()
            wait_until(lambda: store.studies.latest()[0].state == RevisionState.DELIVERED, 60, "delivered")
            assert store.revisions.get(row.study_uid, 1).bundle_digest == load_bundle(SHIPPED_BUNDLE).digest
        receiver.stop()
        store.close()
