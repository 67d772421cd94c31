"""Where things are: this repository, and programs that Debian keeps outside of the path."""

from __future__ import annotations

import shutil
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def postgresql_programs() -> Path | None:
    """Return the folder of PostgreSQL's programs, or None where none is installed."""
    found = shutil.which("initdb") or next(
        (str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)), None
    )
    return None if found is None else Path(found).resolve().parent
