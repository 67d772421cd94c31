"""Which process runs which test file: pytest-xdist's ``--dist loadfile``, without its wait for ever.

Where a process dies (killed, out of memory, a hang that is ended), pytest-xdist 3.8 starts another one, runs the test
it died in again and again, and hands out files that are through already; a process that was handed nothing but such
waits for ever, and the whole run with it (its issues 784, 1323, 1327 and 1378). Here another process runs what the dead
one had left, the test it died in once more; where that dies again, the test counts as failed. How a process ended is
said: a negative number is a signal. To be deleted with the release of pytest-xdist that does so by itself.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from typing import Any

from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController


class LoadFileSurvivingCrashes(LoadFileScheduling):
    """Whole files to each process; what one that dies has left is run by another."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._died_in: set[str] = set()

    def remove_node(self, node: WorkerController) -> str | None:
        """Take a process out; return the test in which a second one has died, None where there is none."""
        units = self.assigned_work.pop(node)
        left = {file: {test: False for test, done in unit.items() if not done} for file, unit in units.items()}
        left = {file: unit for file, unit in left.items() if unit}
        if not left:
            return None
        file, unit = next(iter(left.items()))
        died_in = next(iter(unit))
        crashed = died_in if died_in in self._died_in else None
        sys.stderr.write(f"\n{node.gateway.id} ended with {_exit_code(node)} in {died_in}\n")
        if crashed is None:
            self._died_in.add(died_in)
        else:
            del unit[crashed]
            if not unit:
                del left[file]
        self.workqueue.update(left)
        for other in self.assigned_work:
            self._reschedule(other)
        return crashed

    def _reschedule(self, node: WorkerController) -> None:
        """Give a process more where it has little left; where there is no more, let it end when it has done that.

        A process begins a test when it knows the one that follows: it must never have just one and wait. One that is
        only starting is asked about again when it is ready.
        """
        if node not in self.registered_collections:
            return
        while self.workqueue and not node.shutting_down and self._pending_of(self.assigned_work[node]) <= 2:
            self._assign_work_unit(node)
        if not self.workqueue and not node.shutting_down:
            node.shutdown()


def _exit_code(node: WorkerController) -> int | None:
    with suppress(subprocess.TimeoutExpired):
        return int(node.gateway._io.popen.wait(5))
    return None
