"""The commands that a page shows, as a reader would type them."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"


def commands(page: Path) -> list[str]:
    """Return the commands of a page's ``console`` blocks, in their order."""
    blocks = re.findall(r"^ *```console\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [command for block in blocks for command in re.findall(r"^ *\$ (.+)$", block, re.MULTILINE)]


def pages() -> list[Path]:
    """Return every page of the documentation that shows commands."""
    return [page for page in sorted(DOCS.rglob("*.md")) if commands(page)]
