"""PostgreSQL is stopped hard and started again while studies come in, are read and delivered."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from allpacs.app import make_receiver, open_store
from allpacs.domain.errors import DeliveryRejected, DeliveryUnavailable, StoreFault
from allpacs.store.records import RevisionState
from conformance.support.network import wait_until
from faults.worker_process import slow_logits, start_worker
from support.hospital import StubHospital, drawn_study

pytestmark = pytest.mark.process


@pytest.fixture
def empty_database(postgresql: sa.URL) -> str:
    engine = sa.create_engine(postgresql, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql("DROP DATABASE IF EXISTS restarted WITH (FORCE)")
        connection.exec_driver_sql("CREATE DATABASE restarted")
    return postgresql.set(database="restarted").render_as_string(hide_password=False)


def _restart(postgresql: sa.URL, away_s: float) -> None:
    folder = Path(str(postgresql.query["host"]))
    program = shutil.which("pg_ctl") or str(max(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl")))
    user = pwd.getpwuid(folder.stat().st_uid).pw_name if os.geteuid() == 0 else None
    quiet = {"check": True, "user": user, "cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([program, "-D", f"{folder}/db", "-m", "immediate", "stop"], **quiet)  # type: ignore[call-overload]
    time.sleep(away_s)
    options = f"-k {folder} -c listen_addresses= -c fsync=off"
    start = [program, "-D", f"{folder}/db", "-w", "-o", options, "-l", f"{folder}/log", "start"]
    subprocess.run(start, **quiet)  # type: ignore[call-overload]


def test_studies_come_in_and_are_delivered_all_the_same(
    tmp_path: Path, postgresql: sa.URL, empty_database: str, record_property: Callable[[str, object], None]
) -> None:
    work = "[work]\nchunk_instances = 1\npoll_s = 0.05\n"
    with StubHospital(tmp_path, quiet_s=0.2, database_url=empty_database, extra=work) as hospital:
        store = open_store(hospital.settings)
        receiver = make_receiver(hospital.settings, store)
        receiver.start()
        worker = start_worker(hospital.config, predict=slow_logits)
        refused = 0
        try:
            for number in range(3):
                files = drawn_study(tmp_path / str(number), [number, number + 10])
                restart = threading.Thread(target=_restart, args=(postgresql, 1.0), daemon=True)
                restart.start()
                acknowledged: set[str] = set()
                deadline = time.monotonic() + 60
                while len(acknowledged) < len(files):
                    assert time.monotonic() < deadline
                    try:
                        sent = hospital.send(tmp_path / str(number) / "dicom")
                    except (DeliveryUnavailable, DeliveryRejected):
                        continue
                    acknowledged |= {one.sop_instance_uid for one in sent if one.stored}
                    refused += sum(one.status == 0xA700 for one in sent)
                restart.join(60)
                assert not restart.is_alive()
                if not worker.is_alive():  # the engine's database went: the supervisor starts it again
                    worker = start_worker(hospital.config, predict=slow_logits)

            def delivered() -> bool:
                nonlocal worker
                if not worker.is_alive():
                    worker = start_worker(hospital.config, predict=slow_logits)
                try:
                    states = [one.state for one in store.studies.latest()]
                except StoreFault:
                    return False
                return states == [RevisionState.DELIVERED] * 3

            wait_until(delivered, 120, "all delivered")
        finally:
            receiver.stop()
            worker.terminate()
            worker.join(30)
        assert len(hospital.ehr.resources("DiagnosticReport")) == 3
        assert {len(store.revisions.instances(one.study_uid, one.revision)) for one in store.studies.latest()} == {2}
        store.close()
    record_property("figure", f"3 restarts of a second; {refused} instances refused with 0xA700 and sent again, 0 lost")
