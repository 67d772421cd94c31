"""The supervisor: what it starts it starts again, stops in order, and does not outlive."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from allpacs.app import supervisor as supervise
from allpacs.app.supervisor import Supervisor
from conformance.support.network import wait_until
from support.hospital import StubHospital, drawn_study

pytestmark = pytest.mark.process


def _running(pid: int) -> bool:
    """Whether a process runs (a zombie that nobody has waited for does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _handles(pid: int, *numbers: signal.Signals) -> bool:
    """Whether a process has handlers of its own for these signals."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
    return all(caught & 1 << (number - 1) for number in numbers)


def test_a_signal_that_comes_while_another_is_handled_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    supervisor = Supervisor({})
    handled = threading.Event()
    log_info = supervise._log.info

    def interrupted(*arguments: str, **values: str) -> None:
        supervisor._on_signal(signal.SIGTERM, None)  # as Python does between two lines of the same thread
        log_info(*arguments, **values)

    def first() -> None:
        supervisor._on_signal(signal.SIGINT, None)
        handled.set()

    monkeypatch.setattr(supervise, "_log", SimpleNamespace(info=interrupted))
    threading.Thread(target=first, daemon=True).start()
    assert handled.wait(10), "the two wait for one another"
    assert supervisor._stopping.is_set()


def test_a_burst_of_signals_stops_a_supervisor() -> None:
    program = "from allpacs.app.supervisor import Supervisor; Supervisor({'help': ['--help']}, first_wait_s=60).run()"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: _handles(process.pid, signal.SIGTERM, signal.SIGINT), 60, "a supervisor that takes signals")
        for number in [signal.SIGINT, signal.SIGTERM] * 50:
            if process.poll() is None:
                process.send_signal(number)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait(10)


def test_a_worker_that_cannot_start_leaves_the_receiver_receiving(tmp_path: Path) -> None:
    with (
        StubHospital(tmp_path, extra=f'[model]\nbundle = "{tmp_path}"\n') as hospital,
        hospital.running("serve") as serve,
    ):
        hospital.wait_for_echo()
        log = tmp_path / "serve.log"
        wait_until(lambda: log.read_text().count('"process": "work", "exit_code": 4') >= 2, 60, "two restarts")
        hospital.wait_for_echo(1)
        serve.send_signal(signal.SIGTERM)
        assert serve.wait(30) == 0


def test_a_killed_receiver_is_back_at_once(tmp_path: Path) -> None:
    with StubHospital(tmp_path, extra=f'[model]\nbundle = "{tmp_path}"\n') as hospital, hospital.running("serve"):
        hospital.wait_for_echo()
        os.kill(hospital.pid_of("receive"), signal.SIGKILL)
        wait_until(lambda: (tmp_path / "serve.log").read_text().count("receiver_started") == 2, 30, "started again")
        hospital.wait_for_echo(5)


def test_processes_do_not_outlive_a_killed_supervisor(tmp_path: Path) -> None:
    with (
        StubHospital(tmp_path, extra=f'[model]\nbundle = "{tmp_path}"\n') as hospital,
        hospital.running("serve") as serve,
    ):
        hospital.wait_for_echo()
        receiver = hospital.pid_of("receive")
        serve.kill()
        serve.wait(10)
        wait_until(lambda: not _running(receiver), 20, "the receiver's end")


@pytest.mark.parametrize(("command", "first_line"), [("receive", "receiver_started"), ("work", "monitor_started")])
def test_a_stop_just_after_the_start_is_an_orderly_one(tmp_path: Path, command: str, first_line: str) -> None:
    """Whoever can see that a process runs may stop it: from then on a signal is no sudden end."""
    extra = f'[model]\nbundle = "{tmp_path}"\n' if command == "receive" else ""
    with StubHospital(tmp_path, extra=extra) as hospital, hospital.running(command) as process:
        log = tmp_path / f"{command}.log"
        wait_until(lambda: first_line in log.read_text(), 60, "the first line")
        assert _handles(process.pid, signal.SIGTERM, signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, log.read_text()


def test_a_receiver_of_its_own_does_not_stop_with_its_parent(tmp_path: Path) -> None:
    """Started by hand in the background of a shell that then ends, it goes on."""
    with StubHospital(tmp_path) as hospital:
        command = f"exec '{sys.executable}' -m allpacs receive --config '{hospital.config}' & echo $!"
        with (tmp_path / "receive.log").open("wb") as log:
            outer = subprocess.Popen(["sh", "-c", command], stdout=subprocess.PIPE, stderr=log, text=True)
            assert outer.stdout is not None
            pid = int(outer.stdout.readline())
            outer.wait(10)
        try:
            hospital.wait_for_echo()
            time.sleep(1.2)
            hospital.wait_for_echo(1)
        finally:
            os.kill(pid, signal.SIGTERM)
            wait_until(lambda: not _running(pid), 20, "the receiver's end")


def test_several_receivers_share_the_port_and_one_that_is_killed_stops_none(tmp_path: Path) -> None:
    with StubHospital(tmp_path) as hospital:
        hospital.config.write_text(hospital.config.read_text().replace("[receive]\n", "[receive]\nprocesses = 2\n", 1))
        with hospital.running("receive"):
            log = tmp_path / "receive.log"
            wait_until(lambda: log.read_text().count("receiver_started") == 2, 60, "two receivers")
            lines = [json.loads(line) for line in log.read_text().splitlines() if line[:1] == "{"]
            pids = {one["process"]: one["pid"] for one in lines if one["event"] == "process_started"}
            assert set(pids) == {"receive", "receive-2"}
            sent = hospital.send(drawn_study(tmp_path / "drawn", range(2))[0].parent)
            assert [one.status for one in sent] == [0x0000, 0x0000]
            os.kill(pids["receive-2"], signal.SIGKILL)
            wait_until(lambda: log.read_text().count("receiver_started") == 3, 60, "started again")
            hospital.wait_for_echo()


def _serve(config: Path) -> subprocess.CompletedProcess[str]:
    """Run ``allpacs serve`` that is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "allpacs", "serve", "--config", str(config)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_second_serve_on_the_same_store_ends_at_once_and_disturbs_nothing(tmp_path: Path) -> None:
    with StubHospital(tmp_path, extra=f'[model]\nbundle = "{tmp_path}"\n') as hospital, hospital.running("serve"):
        hospital.wait_for_echo()
        second = _serve(hospital.config)
        assert second.returncode == 3
        assert second.stderr.count("\n") == 1, second.stderr
        assert "another allpacs serve already uses the store" in second.stderr
        hospital.wait_for_echo(2)
        assert (tmp_path / "serve.log").read_text().count("receiver_started") == 1


def test_a_serve_whose_port_is_in_use_names_it_and_ends(tmp_path: Path) -> None:
    with StubHospital(tmp_path) as hospital, socket.create_server(("127.0.0.1", hospital.port)):
        refused = _serve(hospital.config)
    assert refused.returncode == 3
    assert refused.stderr.count("\n") == 1, refused.stderr
    assert f":{hospital.port}, the port is in use" in refused.stderr
    assert "receive.port" in refused.stderr


def test_serve_starts_again_at_once_after_its_supervisor_was_killed(tmp_path: Path) -> None:
    with StubHospital(tmp_path, extra=f'[model]\nbundle = "{tmp_path}"\n') as hospital:
        with hospital.running("serve") as serve:
            hospital.wait_for_echo()
            serve.kill()
            serve.wait(10)
        with hospital.running("serve") as again:
            log = tmp_path / "serve.log"
            wait_until(lambda: log.read_text().count("receiver_started") == 2, 60, "started again")
            hospital.wait_for_echo(5)
            assert again.poll() is None


def test_processes_are_of_the_installed_package_whatever_the_current_folder_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "allpacs"
    other.mkdir()
    (other / "__init__.py").write_text("raise SystemExit('this is another allpacs')\n")
    monkeypatch.chdir(tmp_path)
    shown = subprocess.run(
        [*supervise._program(), "--version"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (shown.returncode, shown.stdout[:7]) == (0, "allpacs"), shown.stderr
