"""One supervisor for the processes of one machine: ``allpacs serve``.

A process that ends on its own is started again with a growing wait, and nothing else is disturbed: a worker whose
model cannot load leaves the receiver receiving. SIGTERM stops them all and waits for each to finish or checkpoint.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

import structlog

import allpacs

_log = structlog.get_logger("allpacs.app.supervisor")


class Supervisor:
    """Keeps child processes running until `stop` or a signal.

    Parameters
    ----------
    commands:
        Arguments of ``allpacs`` by process name, for example ``{"receive": ["receive", "--config", "a.toml"]}``.
    first_wait_s, longest_wait_s:
        Wait before a crashed process is started again; doubles with each crash, and starts over once the process
        has lived for the default of `longest_wait_s`.
    longest_waits_s:
        What differs from `longest_wait_s`, by process name.
    grace_s:
        How long a process may take to stop before it is killed.
    """

    def __init__(
        self,
        commands: Mapping[str, Sequence[str]],
        *,
        first_wait_s: float = 0.5,
        longest_wait_s: float = 30.0,
        longest_waits_s: Mapping[str, float] | None = None,
        grace_s: float = 30.0,
    ) -> None:
        self._commands = dict(commands)
        self._first_wait_s = first_wait_s
        self._longest_wait_s = longest_wait_s
        self._longest_waits_s = dict(longest_waits_s or {})
        self._grace_s = grace_s
        self._stopping = threading.Event()
        self._signalled = False
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def run(self) -> None:
        """Start every process and keep it running; return once all have stopped after `stop` or a signal."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        keepers = [threading.Thread(target=self._keep, args=(name,), name=f"keep-{name}") for name in self._commands]
        for keeper in keepers:
            keeper.start()
        for keeper in keepers:
            while keeper.is_alive():  # a plain join() would hold back signal handlers
                keeper.join(timeout=0.5)

    def stop(self) -> None:
        """Ask every process to stop."""
        self._stopping.set()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        # A second signal (Ctrl-C, and SIGTERM from who started us) may come while the first is handled, in the same
        # thread: neither the log's lock nor the event's is taken twice.
        if self._signalled:
            return
        self._signalled = True
        _log.info("stop_requested", reason=signal.Signals(number).name)
        self.stop()

    def _keep(self, name: str) -> None:
        wait_s = self._first_wait_s
        longest_wait_s = self._longest_waits_s.get(name, self._longest_wait_s)
        while not self._stopping.is_set():
            started = time.monotonic()
            try:
                # Its own process group: a terminal's Ctrl-C reaches the supervisor only, which stops all in order.
                process = subprocess.Popen(  # noqa: S603 - our own program with our own arguments
                    [*_program(), *self._commands[name], "--supervisor", str(os.getpid())],
                    start_new_session=True,
                )
            except OSError as error:  # no memory, no process left, or Python is just being installed anew
                _log.error("process_not_started", process=name, reason=error.strerror, next_attempt_s=wait_s)
                self._stopping.wait(wait_s)
                wait_s = min(2 * wait_s, longest_wait_s)
                continue
            self.processes[name] = process
            _log.info("process_started", process=name, pid=process.pid)
            while process.poll() is None and not self._stopping.wait(0.1):
                pass
            if self._stopping.is_set():
                self._end(name, process)
                return
            if time.monotonic() - started >= self._longest_wait_s:
                wait_s = self._first_wait_s
            _log.error("process_ended", process=name, exit_code=process.returncode, next_attempt_s=wait_s)
            self._stopping.wait(wait_s)
            wait_s = min(2 * wait_s, longest_wait_s)

    def _end(self, name: str, process: subprocess.Popen[bytes]) -> None:
        process.terminate()
        try:
            process.wait(self._grace_s)
        except subprocess.TimeoutExpired:
            _log.error("process_killed", process=name, seconds=self._grace_s)
            process.kill()
            process.wait()
        _log.info("process_stopped", process=name, exit_code=process.returncode)


def _program() -> list[str]:
    """Return the command that runs this very package, even if the current folder holds another of its name."""
    from_here = Path(allpacs.__file__).parent.parent == Path.cwd()
    return [sys.executable, *([] if from_here else ["-P"]), "-m", "allpacs"]  # -P: sys.path without the folder


def end_process(exit_code: int = 0) -> NoReturn:
    """End this process without waiting for threads: what they were at is checkpointed."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


class StopSignals:
    """Notes SIGTERM and SIGINT from the moment it is made: make it before anybody can see that the process runs.

    Without it, a signal that comes between the first answer to a client and the wait would end the process at once.
    """

    def __init__(self) -> None:
        self._seen: list[int] = []  # no event, whose lock this thread may hold when the signal comes
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _frame: self._seen.append(number))

    def wait(self, supervisor: int | None = None) -> None:
        """Return once a signal has come, or the supervising process (its id) is no longer our parent."""
        while not self._seen:
            time.sleep(0.1)
            if supervisor is not None and os.getppid() != supervisor:
                _log.error("supervisor_lost", pid=supervisor)
                return
