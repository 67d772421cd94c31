"""Arrays that one step of a study leaves for the next, in a folder of its own for each revision."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allpacs.domain.errors import StoreFault

_SAMPLE_FILE = "sample.npy"


class WorkFiles:
    """Crops of each chunk and the priorities of the sample.

    The files are not synced: after a power cut one may be missing or incomplete, and the caller makes it again.

    Parameters
    ----------
    folder:
        Holds one folder for each revision that is being analysed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save_crops(self, study_uid: str, revision: int, chunk: int, crops: NDArray[np.uint8]) -> None:
        """Store the crops of a chunk.

        Raises
        ------
        StoreFault
            The file cannot be written.
        """
        self._save(study_uid, revision, f"{chunk}.npy", crops)

    def crops(self, study_uid: str, revision: int, chunk: int, count: int) -> NDArray[np.uint8] | None:
        """Return the crops of a chunk, or None if the file is missing, damaged or holds another number of crops."""
        with suppress(OSError, ValueError):
            crops: NDArray[np.uint8] = np.load(self._of(study_uid, revision) / f"{chunk}.npy", mmap_mode="r")
            if len(crops) == count:
                return crops
        return None

    def save_sample(self, study_uid: str, revision: int, priorities: NDArray[np.int64]) -> None:
        """Store the priorities of the cells sampled so far.

        Raises
        ------
        StoreFault
            The file cannot be written.
        """
        self._save(study_uid, revision, _SAMPLE_FILE, priorities)

    def sample(self, study_uid: str, revision: int) -> NDArray[np.int64]:
        """Return the priorities of the sample so far. If they are lost, more cells are judged and the same reported."""
        with suppress(OSError, ValueError):
            priorities: NDArray[np.int64] = np.load(self._of(study_uid, revision) / _SAMPLE_FILE)
            return priorities
        return np.zeros(0, np.int64)

    def discard(self, study_uid: str, revision: int) -> None:
        """Delete the files of a revision."""
        shutil.rmtree(self._of(study_uid, revision), ignore_errors=True)

    def _of(self, study_uid: str, revision: int) -> Path:
        return self._folder / f"{study_uid}@{revision}"

    def _save(self, study_uid: str, revision: int, name: str, content: NDArray[Any]) -> None:
        folder = self._of(study_uid, revision)
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
            partial = folder / f"{name}.partial"
            with open(partial, "wb", opener=_private) as stream:
                np.save(stream, content)
            partial.replace(folder / name)
        except OSError as error:
            raise StoreFault(f"cannot write work files: {error.strerror}: free some disk space") from error


def _private(path: str, flags: int) -> int:
    """Open a file that its owner alone can read, whatever the mode of the store's folder: crops are patient data."""
    return os.open(path, flags, 0o600)
