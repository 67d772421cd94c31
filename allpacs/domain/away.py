"""Tell a kept file that is gone from a file system that is away for a while."""

from __future__ import annotations

import errno
from pathlib import Path

from allpacs.domain.errors import StoreDamaged, StoreFault

#: What a mount that is away or overloaded answers, or a process without free descriptors or memory (errno(3)).
_PASSING = frozenset(
    {
        *(errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.ENODEV, errno.ENXIO, errno.EBUSY),
        *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH),
        *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR),
    }
)
#: Folders that a process makes where they are missing, and which hold no study.
_NO_STUDIES = frozenset({"incoming", "quarantine"})


def open_fault(root: Path, error: OSError, what: str) -> StoreFault:
    """Return the fault for a kept file that cannot be opened: `StoreDamaged`, or `StoreFault` if it may come back.

    Parameters
    ----------
    root:
        Folder that holds the studies' folders. If it is missing or holds no study at all (a mount point without its
        file system, in which a process that starts makes its own folders), the files are taken for away and not gone.
    what:
        Which file; the message begins with it.
    """
    if error.errno in _PASSING or (isinstance(error, FileNotFoundError) and _away(root)):
        return StoreFault(f"{what}: {error.strerror or error}")
    return StoreDamaged(f"{what}: {error.strerror or error}")


def _away(root: Path) -> bool:
    try:
        return all(entry.name in _NO_STUDIES for entry in root.iterdir())
    except OSError:
        return True
