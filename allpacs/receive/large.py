"""Instances too large for memory: what has come of one goes to a file on the spool's disk while the rest comes.

The base level of a whole slide is one instance of gigabytes. pynetdicom can write every data set to a file instead of
memory (its STORE_RECV_CHUNKED_DATASET), or none. A `LargeDataSet` takes the place of that file for large data sets only
(`allpacs.dicom.network.messages.spill`), so small ones are not written twice.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO, Self

from allpacs.domain.errors import StoreFault

#: Bytes between two looks whether the disk has room.
_LOOK_BYTES = 64_000_000


class LargeDataSet:
    """The data set of an unfinished message, as far as it has come.

    A disk that fails does not end the association: what comes is passed over, and `content` tells why, so that the
    sender is answered.

    Parameters
    ----------
    scratch:
        Opens a file without a name, to write and to read.
    look_for_room:
        Raises `StoreFault` where so many further bytes may not come.
    begun:
        What has come already.
    """

    #: pynetdicom deletes the file of this name after the message; ours has none.
    name = ""

    def __init__(
        self, scratch: Callable[[], BinaryIO], look_for_room: Callable[[int], None], begun: memoryview
    ) -> None:
        self._look_for_room = look_for_room
        self._fault: StoreFault | None = None
        self._file: BinaryIO | None = None
        self._written = self._looked = 0
        try:
            self._file = scratch()
        except StoreFault as fault:
            self._fault = fault
        self.write(begun)

    @property
    def file(self) -> Self:
        """What pynetdicom flushes after every part."""
        return self

    def flush(self) -> None:
        """Nothing: the file is synced when it is kept."""

    def write(self, part: bytes | memoryview) -> None:
        """Add what has come; once there has been a fault, nothing."""
        if self._file is None:
            return
        try:
            if self._written >= self._looked:
                self._look_for_room(_LOOK_BYTES)
                self._looked += _LOOK_BYTES
            self._file.write(part)
            self._written += len(part)
        except StoreFault as fault:
            self._give_up(fault)
        except OSError as error:
            self._give_up(StoreFault(f"spool: {error.strerror or error}"))

    def content(self) -> BinaryIO:
        """Return the whole data set, at its beginning.

        Raises
        ------
        StoreFault
            The disk had no room for it.
        """
        if self._file is None:
            raise self._fault or StoreFault("spool: the file of a message was closed")
        try:
            self._file.flush()
        except OSError as error:
            raise StoreFault(f"spool: {error.strerror or error}") from error
        self._file.seek(0, os.SEEK_SET)
        return self._file

    def close(self) -> None:
        """Let go of the file; it is gone then."""
        if self._file is not None:
            with suppress(OSError):  # what could not be flushed is not wanted any more
                self._file.close()
            self._file = None

    def _give_up(self, fault: StoreFault) -> None:
        self._fault = fault
        self.close()
