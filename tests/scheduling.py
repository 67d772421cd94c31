"""Which process runs which test file: pytest-xdist's ``--dist loadfile``, without its wait for ever.

Where a process dies (killed, out of memory, a hang that is ended), pytest-xdist 3.8 starts another one, runs the test
it died in again and again, and hands out files that are through already; a process that was handed nothing but such
waits for ever, and the whole run with it (its issues 784, 1323, 1327 and 1378). Here the test that a process died in
counts as failed, once, and the others of its file are run by another process. To be deleted with the release of
pytest-xdist that does so by itself.
"""

from __future__ import annotations

from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController


class LoadFileSurvivingCrashes(LoadFileScheduling):
    """Whole files to each process; one that dies costs the test that it died in."""

    def remove_node(self, node: WorkerController) -> str | None:
        """Take a process out; return the test it died in, None where it had ended all it was given."""
        units = self.assigned_work.pop(node)
        left = {file: {test: False for test, done in unit.items() if not done} for file, unit in units.items()}
        left = {file: unit for file, unit in left.items() if unit}
        if not left:
            return None
        file, unit = next(iter(left.items()))
        crashed = next(iter(unit))
        del unit[crashed]
        if not unit:
            del left[file]
        self.workqueue.update(left)
        for other in self.assigned_work:
            self._reschedule(other)
        return crashed

    def _reschedule(self, node: WorkerController) -> None:
        """Give a process more where it has little left; where there is no more, let it end when it has done that.

        A process begins a test when it knows the one that follows: it must never have just one and wait.
        """
        while self.workqueue and not node.shutting_down and self._pending_of(self.assigned_work[node]) <= 2:
            self._assign_work_unit(node)
        if not self.workqueue and not node.shutting_down:
            node.shutdown()
