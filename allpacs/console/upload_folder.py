"""The folder of files that are being uploaded, readable by its owner only.

An upload holds a lock on its own subfolder while it lives (flock(2)). The kernel releases the lock when the process
ends, however it ends: a subfolder that can be locked is the leftover of an upload that was interrupted, and is deleted.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from allpacs.domain.errors import StoreFault

_log = structlog.get_logger("allpacs.console")

_SWEEP_EVERY_S = 600.0


class UploadFolder:
    """Makes a private folder for each upload, and deletes the leftovers of interrupted ones.

    Parameters
    ----------
    folder:
        Made with mode 0700 where it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stop = threading.Event()

    def start(self) -> None:
        """Delete leftovers now, and then every ten minutes in the background."""
        threading.Thread(target=self._keep_clean, name="upload-sweep", daemon=True).start()

    def stop(self) -> None:
        """Stop the background thread."""
        self._stop.set()

    @contextmanager
    def new(self) -> Iterator[Path]:
        """Make a folder with mode 0700 for one upload; it is deleted at the end.

        Raises
        ------
        StoreFault
            The folder cannot be made.
        """
        try:
            with self._locked(fcntl.LOCK_SH):  # no sweep comes between making the folder and locking it
                path = Path(tempfile.mkdtemp(dir=self._folder))
                held = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
                fcntl.flock(held, fcntl.LOCK_SH)
        except OSError as error:
            raise StoreFault(f"{self._folder}: {error.strerror or error}") from None
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
            os.close(held)

    def sweep(self) -> int:
        """Delete the folders of uploads that were interrupted; return how many.

        Raises
        ------
        StoreFault
            The folder cannot be read or written.
        """
        swept = 0
        try:
            with self._locked(fcntl.LOCK_EX):
                for path in self._folder.iterdir():
                    if path.is_symlink() or not path.is_dir():
                        path.unlink(missing_ok=True)
                    elif not _in_use(path):
                        shutil.rmtree(path)
                    else:
                        continue
                    swept += 1
        except OSError as error:
            raise StoreFault(f"{self._folder}: {error.strerror or error}") from None
        return swept

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder.chmod(0o700)  # one that an administrator made, or made under another umask
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, how)
            yield
        finally:
            os.close(descriptor)

    def _keep_clean(self) -> None:
        while True:
            try:
                if swept := self.sweep():
                    _log.warning("upload_leftovers_deleted", count=swept)
            except StoreFault as fault:
                _log.warning("upload_folder_not_swept", reason=str(fault))
            if self._stop.wait(_SWEEP_EVERY_S):
                return


def private_file(path: Path) -> int:
    """Create a file that only its owner can read (mode 0600, whatever the umask is); return its descriptor.

    Raises
    ------
    OSError
        It exists, or cannot be made.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.fchmod(descriptor, 0o600)
    return descriptor


def _in_use(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
