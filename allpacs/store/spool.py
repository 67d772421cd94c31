"""Files that survive a power cut: written aside, synced, renamed into place, the folder synced."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO

from allpacs.domain.errors import StoreFault
from allpacs.domain.identity import is_uid

#: Bytes in memory, copied nowhere on their way to the disk.
Buffer = bytes | bytearray | memoryview
#: The same, or a file of them, copied from its beginning.
Content = Buffer | BinaryIO

_INCOMING = "incoming"  # no UID: never the folder of a study
#: Where files go that belong to no study; no UID either.
QUARANTINE = "quarantine"
_KNOWN_FOLDERS = 4096
#: What link(2) answers on file systems without hard links (some network and removable ones).
_NO_SECOND_NAME = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS)
_PIECE_BYTES = 1 << 20


class Spool:
    """A folder of files, one subfolder a study; a file is there with all its bytes or not at all.

    Parameters
    ----------
    folder:
        Made where it is missing, readable by its owner only: what is spooled holds patient data.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self._incoming = self.folder / _INCOMING
        self._known: set[Path] = set()
        with _faults():
            self._incoming.mkdir(mode=0o700, parents=True, exist_ok=True)

    def instance_path(self, study_uid: str, sop_instance_uid: str) -> Path:
        """Return the path of an instance's file, relative to the folder.

        Raises
        ------
        StoreFault
            A UID is not valid, and so cannot be trusted as a file name.
        """
        if not (is_uid(study_uid) and is_uid(sop_instance_uid)):
            raise StoreFault("not a UID, so not a file name")
        return Path(study_uid, f"{sop_instance_uid}.dcm")

    def scratch(self) -> BinaryIO:
        """Return a new file without a name, to write and to read; closed, it is gone.

        Raises
        ------
        StoreFault
            The disk is full or broken.
        """
        with _faults():
            return tempfile.TemporaryFile(dir=self._incoming)

    def stage(self, content: Sequence[Content]) -> Path:
        """Write the contents, one after the other, to a synced file aside, and return its path.

        Raises
        ------
        StoreFault
            The disk is full or broken; nothing is left behind.
        """
        with _faults():
            descriptor, name = tempfile.mkstemp(dir=self._incoming)
            try:
                with os.fdopen(descriptor, "wb", buffering=0) as file:
                    for part in content:
                        _write_all(file, part)
                    os.fsync(file.fileno())
            except BaseException:
                self.discard(Path(name))
                raise
        return Path(name)

    def place(self, staged: Path, relative: Path) -> None:
        """Move a staged file to its place, over any file there, and sync the folder.

        Raises
        ------
        StoreFault
            The disk is full or broken.
        """
        with _faults():
            self._into_folder(staged.rename, self.folder / relative)

    def place_new(self, staged: Path, relative: Path) -> bool:
        """Give a staged file its place, too, where there is none, and sync the folder; return whether it has it.

        It may be refused where there is none, too: not every file system knows files of two names.

        Raises
        ------
        StoreFault
            The disk is full or broken.
        """
        with _faults():
            try:
                self._into_folder(partial(os.link, staged), self.folder / relative)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno in _NO_SECOND_NAME:
                    return False
                raise
        return True

    def in_place(self, staged: Path, relative: Path) -> bool:
        """Return whether a staged file is the one that lies there; what `place_new` did may have been undone."""
        with _faults():
            try:
                return staged.samefile(self.folder / relative)
            except FileNotFoundError:
                return False

    def holds(self, relative: Path, size_bytes: int, ending_bytes: int, sha256: str) -> bool:
        """Return whether a file is in its place, of this size, and ends with so many bytes of this SHA-256."""
        with _faults():
            try:
                with (self.folder / relative).open("rb", buffering=0) as file:
                    if file.seek(0, os.SEEK_END) != size_bytes:
                        return False
                    file.seek(size_bytes - ending_bytes)
                    return hashlib.file_digest(file, "sha256").hexdigest() == sha256
            except FileNotFoundError:
                return False

    def discard(self, staged: Path) -> None:
        """Remove a staged file that is not needed."""
        with _faults():
            staged.unlink(missing_ok=True)

    def write(self, relative: Path, content: Sequence[Buffer]) -> None:
        """Stage the buffers and place them.

        Raises
        ------
        StoreFault
            The disk is full or broken.
        """
        staged = self.stage(content)
        try:
            self.place(staged, relative)
        except StoreFault:
            self.discard(staged)
            raise

    def remove(self, relative: Path) -> None:
        """Delete a file, and its study's folder where it was the last; one that is gone already is no fault."""
        path = self.folder / relative
        with _faults():
            path.unlink(missing_ok=True)
            with suppress(OSError):  # there are others in it, or it is gone
                path.parent.rmdir()
                self._known.discard(path.parent)

    def files(self) -> Iterator[Path]:
        """Yield the path, relative to the folder, of every file that is in its place."""
        with _faults():
            for folder in sorted(self.folder.iterdir()):
                if folder.is_dir() and folder.name not in (_INCOMING, QUARANTINE):
                    for file in sorted(folder.iterdir()):
                        yield file.relative_to(self.folder)

    def quarantine(self, relative: Path, which: os.stat_result) -> bool:
        """Move a file out of the way, where a person can look at it; return False where another has taken its place.

        Parameters
        ----------
        which:
            The file that is meant.
        """
        target = self.folder / QUARANTINE / "-".join(relative.parts)
        with _faults():
            target.parent.mkdir(mode=0o700, exist_ok=True)
            try:
                (self.folder / relative).rename(target)
            except FileNotFoundError:
                return False
            if os.path.samestat(target.stat(), which):
                return True
            with suppress(FileExistsError):  # still another has come to its place
                os.link(target, self.folder / relative)
            target.unlink()
        return False

    def sweep(self, before: float) -> int:
        """Remove staged files last written before that time (left by a killed process); return how many."""
        swept = 0
        with _faults():
            for path in self._incoming.iterdir():
                try:
                    if path.stat().st_mtime < before:
                        path.unlink()
                        swept += 1
                except FileNotFoundError:
                    continue  # placed or discarded meanwhile
        return swept

    def free_bytes(self) -> int:
        """Return how many bytes the file system of the folder has left for us."""
        with _faults():
            return shutil.disk_usage(self.folder).free

    def _into_folder(self, put: Callable[[Path], object], target: Path) -> None:
        self._make_folder(target.parent)
        try:
            put(target)
        except FileNotFoundError:  # another process has removed the last file of the study, and the folder with it
            self._known.discard(target.parent)
            self._make_folder(target.parent)
            put(target)
        _sync_folder(target.parent)

    def _make_folder(self, folder: Path) -> None:
        if folder in self._known:
            return
        if folder != self.folder:
            self._make_folder(folder.parent)
            folder.mkdir(mode=0o700, exist_ok=True)
        # Synced even where it was there already: whoever made it may not have come that far.
        _sync_folder(folder.parent)
        if len(self._known) >= _KNOWN_FOLDERS:
            self._known.clear()
        self._known.add(folder)


def _write_all(file: io.FileIO, part: Content) -> None:
    if isinstance(part, io.BytesIO):
        with part.getbuffer() as view:
            _write_all(file, view)
    elif isinstance(part, Buffer):
        view = memoryview(part).cast("B")
        while view:
            view = view[file.write(view) or 0 :]
    else:
        part.seek(0)
        while piece := part.read(_PIECE_BYTES):
            _write_all(file, piece)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _faults() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreFault(f"spool: {error.strerror or error}") from error
