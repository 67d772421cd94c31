"""Two receivers, two workers, a PostgreSQL, each on a machine of its own; one worker is killed in the midst of a study.

A machine here is a network namespace on one bridge. The hospital (PACS, EHR, sender) is at the bridge's own address,
and all machines see one folder, as over NFS. ``python -m deploy.many_machines POSTGRESQL_PROGRAMS SCRATCH`` within a
network namespace; raises where something is otherwise than `docs/scaling.md` says.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import sqlalchemy as sa

from acceptance.reports import cells_of_ehr, cells_of_sr, read
from allpacs.app import open_store
from allpacs.deliver.c_store import echo, send_files
from allpacs.demo import archive, fhir_endpoint
from allpacs.domain.errors import DeliveryUnavailable
from allpacs.settings import load_settings
from allpacs.store.records import RevisionState
from allpacs.store.store import Store
from conformance.support.network import wait_until
from support.hospital import AE_TITLE, COMPREHENSIVE_3D_SR, SENDER, drawn_study

HOSPITAL = "10.77.0.1"
DATABASE = "10.77.0.2"
RECEIVERS = ("10.77.0.11", "10.77.0.12")
WORKERS = {"worker-1": "10.77.0.21", "worker-2": "10.77.0.22"}
TAKEOVER_S = 3.0
CELLS = 6
STUDIES = 4


def ip(*arguments: str) -> None:
    """Run iproute2's ``ip``."""
    subprocess.run(["ip", *arguments], check=True)


class Machine:
    """A network namespace with one address on the bridge."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._keeper = subprocess.Popen(["unshare", "--net", "sleep", "600"])
        number = address.rsplit(".", 1)[1]
        wait_until(lambda: self._namespace("/proc/self/ns/net") != self._namespace(), 10, "a namespace of its own")
        ip("link", "add", f"v{number}", "type", "veth", "peer", "name", "eth0", "netns", str(self._keeper.pid))
        ip("link", "set", f"v{number}", "master", "lan", "up")
        for setting in (["link", "set", "lo", "up"], ["addr", "add", f"{address}/24", "dev", "eth0"]):
            self.run(["ip", *setting]).wait(10)
        self.run(["ip", "link", "set", "eth0", "up"]).wait(10)

    def _namespace(self, path: str | None = None) -> str:
        return str(Path(path or f"/proc/{self._keeper.pid}/ns/net").readlink())

    def run(self, command: Sequence[str], log: Path | None = None, user: str | None = None) -> subprocess.Popen[bytes]:
        """Start a program on the machine."""
        stream = subprocess.DEVNULL if log is None else log.open("ab")
        as_user = [] if user is None else ["setpriv", "--reuid", user, "--clear-groups"]
        into = ["nsenter", "--target", str(self._keeper.pid), "--net", *as_user]
        return subprocess.Popen([*into, *command], stdout=stream, stderr=stream)

    def end(self) -> None:
        """Let go of the namespace."""
        self._keeper.terminate()
        self._keeper.wait(10)


def main(programs: Path, scratch: Path) -> dict[str, object]:
    """Run the layout once; return what was seen."""
    ip("link", "set", "lo", "up")
    ip("link", "add", "lan", "type", "bridge")
    ip("addr", "add", f"{HOSPITAL}/24", "dev", "lan")
    ip("link", "set", "lan", "up")
    archive._HOST = fhir_endpoint._HOST = HOSPITAL  # the stand-ins are for loopback; this network is the test's own
    addresses = (DATABASE, *RECEIVERS, *WORKERS.values())
    machines = {address: Machine(address) for address in addresses}
    running: dict[str, subprocess.Popen[bytes]] = {}
    pacs, ehr = archive.Archive(scratch / "pacs", "PACS"), fhir_endpoint.FhirEndpoint(scratch / "ehr")
    pacs.start()
    ehr.start()
    try:
        running["database"] = _start_database(machines[DATABASE], programs, scratch)
        config = _configure(scratch, pacs.port, ehr.base_url)
        for address in RECEIVERS:
            running[address] = _start(machines[address], "receive", config, scratch / f"{address}.log")
        for address in RECEIVERS:
            wait_until(lambda address=address: _answers(address), 60, f"{address} answers")
        for name, address in WORKERS.items():
            running[name] = _start(machines[address], "work", config, scratch / f"{name}.log", name)
        return _a_day(config, scratch, running, pacs, ehr)
    finally:
        for name, process in reversed(running.items()):
            # PostgreSQL's SIGTERM waits for its clients.
            process.send_signal(signal.SIGINT if name == "database" else signal.SIGTERM)
        for process in running.values():
            process.wait(60)
        for machine in machines.values():
            machine.end()
        pacs.stop()
        ehr.stop()


def _a_day(
    config: Path,
    scratch: Path,
    running: dict[str, subprocess.Popen[bytes]],
    pacs: archive.Archive,
    ehr: fhir_endpoint.FhirEndpoint,
) -> dict[str, object]:
    store = open_store(load_settings(config))
    wait_until(lambda: set(store.workers.others("")) == set(WORKERS), 90, "both workers are there")
    studies = [drawn_study(scratch / f"study-{one}", range(one * CELLS, (one + 1) * CELLS)) for one in range(STUDIES)]
    for files, receiver in zip(studies, RECEIVERS * (STUDIES // 2), strict=True):
        sent = send_files(files, receiver, 11112, AE_TITLE, SENDER)
        assert [one.status for one in sent] == [0] * CELLS
    victim = wait_until(lambda: _reads(store), 60, "a worker reads")
    running[victim].kill()
    killed_at = time.monotonic()
    wait_until(
        lambda: [one.state for one in store.studies.latest()] == [RevisionState.DELIVERED] * STUDIES,
        150,
        "all delivered",
    )
    ended_s = time.monotonic() - killed_at
    reports = [read(one.path) for one in pacs.instances if one.sop_class_uid == COMPREHENSIVE_3D_SR]
    assert len(reports) == len({one.StudyInstanceUID for one in reports}) == STUDIES, "one report a study"
    in_ehr = cells_of_ehr(scratch / "ehr")
    in_pacs = {uid: cell for report in reports for uid, cell in cells_of_sr(report).items()}
    assert in_pacs == in_ehr, "PACS and EHR say the same"
    assert len(in_pacs) >= STUDIES * CELLS
    assert len(ehr.resources("DiagnosticReport")) == STUDIES
    for receiver in RECEIVERS:  # nothing of this was noticed there
        assert _answers(receiver)
    taken_over = sum(store.audit.count("work_taken_over", study.study_uid) for study in store.studies.latest())
    store.close()
    return {
        "studies": 4,
        "cells": len(in_pacs),
        "killed": victim,
        "taken_over": taken_over,
        "all_delivered_s": round(ended_s, 1),
    }


def _reads(store: Store) -> str | None:
    """Return the name of a worker that is in the midst of a study, by the workflow engine's own table."""
    with store.database.reading() as connection:
        rows = connection.execute(
            sa.text("SELECT executor_id FROM dbos.workflow_status WHERE status = 'PENDING' AND name = 'read_study'")
        )
        return rows.scalars().first()


def _start_database(machine: Machine, programs: Path, scratch: Path) -> subprocess.Popen[bytes]:
    folder = scratch / "database"
    folder.mkdir()
    shutil.chown(folder, "nobody")
    log = scratch / "database.log"
    initdb = [str(programs / "initdb"), "-D", f"{folder}/db", "-U", "allpacs", "-A", "trust", "-N"]
    assert machine.run(initdb, log, user="nobody").wait() == 0, log.read_text()
    with (folder / "db" / "pg_hba.conf").open("a") as access:
        access.write("host all all 10.77.0.0/24 trust\n")
    serve = [str(programs / "postgres"), "-D", f"{folder}/db", "-k", str(folder), "-h", DATABASE, "-c", "fsync=off"]
    process = machine.run(serve, log, user="nobody")
    ready = [str(programs / "pg_isready"), "-h", DATABASE, "-U", "allpacs"]
    wait_until(lambda: subprocess.run(ready, capture_output=True).returncode == 0, 60, "the database answers")
    return process


def _configure(scratch: Path, pacs_port: int, ehr: str) -> Path:
    config = scratch / "allpacs.toml"
    config.write_text(
        f"""
[receive]
host = "0.0.0.0"
quiet_s = 2
min_free_mb = 10
[store]
folder = {json.dumps(str(scratch / "shared"))}
database_url = "postgresql+psycopg://allpacs@{DATABASE}/postgres"
[work]
chunk_instances = 1
studies_at_a_time = 2
takeover_after_s = {TAKEOVER_S}
[log]
format = "json"
[destinations.pacs]
kind = "c_store"
host = "{HOSPITAL}"
port = {pacs_port}
called_ae = "PACS"
[destinations.ehr]
kind = "fhir"
base_url = "{ehr}"
""",
        encoding="utf-8",
    )
    return config


def _start(
    machine: Machine, verb: str, config: Path, log: Path, executor_id: str | None = None
) -> subprocess.Popen[bytes]:
    name = [] if executor_id is None else [f"ALLPACS_WORK__EXECUTOR_ID={executor_id}"]
    return machine.run(["env", *name, sys.executable, "-m", "allpacs", verb, "--config", str(config)], log)


def _answers(receiver: str) -> bool:
    try:
        echo(receiver, 11112, AE_TITLE, SENDER, timeout_s=2.0)
    except DeliveryUnavailable:
        return False
    return True


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]))))  # noqa: T201
