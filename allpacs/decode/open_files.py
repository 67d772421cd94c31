"""Files of many frames that are read a few frames at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from allpacs.decode.part10 import OpenFrames, open_frames
from allpacs.domain.image import Frame, UnreadableFrame


class KeptOpen:
    """Keeps files open from one call to the next; may be used from any thread.

    Opening a file means a walk over all its frames (0.24 s for 50,000), and inflating it where it is deflated: done
    anew for every few frames, that would take as long as judging them. A file is closed after its last frame, after a
    fault, and when others push it out.

    Parameters
    ----------
    most:
        How many files are kept open, besides those being read.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        # The longest unused first. Who reads a file takes it out meanwhile: two threads never share one.
        self._idle: OrderedDict[Path, tuple[OpenFrames, ExitStack]] = OrderedDict()

    def read(self, path: Path, numbers: range, *, max_pixels: int) -> Iterator[Frame | UnreadableFrame]:
        """Yield some frames, numbered from 1, one decoded at a time.

        Raises
        ------
        UndecodablePixels, StoreFault
            As `part10.read_frames`.
        """
        with self._lock:
            kept = self._idle.pop(path, None)
        frames, file = kept or _opened(path, max_pixels)
        with file:
            yield from frames.read(numbers)
            if numbers.stop <= frames.layout.frames:
                self._keep(path, frames, file.pop_all())

    def _keep(self, path: Path, frames: OpenFrames, file: ExitStack) -> None:
        with self._lock:
            pushed_out = [self._idle.pop(path)] if path in self._idle else []
            self._idle[path] = frames, file
            if len(self._idle) > self._most:
                pushed_out.append(self._idle.popitem(last=False)[1])
        for _, other in pushed_out:
            other.close()


def _opened(path: Path, max_pixels: int) -> tuple[OpenFrames, ExitStack]:
    with ExitStack() as file:
        frames = file.enter_context(open_frames(path, max_pixels=max_pixels))
        return frames, file.pop_all()
