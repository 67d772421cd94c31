"""A worker killed at any boundary of the flow, and started again: one structured report, one FHIR report."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from allpacs.app import make_receiver, open_store
from allpacs.store.records import DeliveryState, RevisionState
from conformance.support.network import wait_until
from faults.worker_process import MOMENTS, STEPS, worker
from support.hospital import StubHospital, drawn_study

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    drawn_study(folder, range(3))
    return folder / "dicom"


#: In every tier: in the first step, in the middle of the analysis, and while results are delivered.
ESSENTIAL = {1, 10, len(STEPS) * len(MOMENTS) - 2}


@pytest.mark.parametrize(
    "point",
    [
        pytest.param(point, marks=pytest.mark.essential if point in ESSENTIAL else ())
        for point in range(len(STEPS) * len(MOMENTS))
    ],
    ids=lambda n: f"{STEPS[n // 3]}{n // 3}-{MOMENTS[n % 3]}",
)
def test_killed_there_the_study_is_delivered_once(point: int, study: Path, tmp_path: Path) -> None:
    with StubHospital(tmp_path, quiet_s=0.0, extra="[work]\nchunk_instances = 8\npoll_s = 0.05\n") as hospital:
        store = open_store(hospital.settings)
        receiver = make_receiver(hospital.settings, store)
        receiver.start()
        assert all(one.status == 0 for one in hospital.send(study))
        receiver.stop()

        with worker(hospital.config, die_at=point) as first:
            first.join(60)
            assert first.exitcode == -signal.SIGKILL

        (row,) = store.studies.latest()
        with worker(hospital.config):
            wait_until(lambda: store.studies.latest()[0].state == RevisionState.DELIVERED, what="delivered")
        (report,) = hospital.reports
        assert report.is_file()
        assert len(hospital.ehr.resources("DiagnosticReport")) == 1
        assert len(store.revisions.of_study(row.study_uid)) == 1
        assert {one.state for one in store.deliveries.of_study(row.study_uid)} == {DeliveryState.SENT}
        store.close()
