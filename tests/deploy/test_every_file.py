"""`deploy/README.md` says of every file which check exercises it, and that check is there and names it."""

from __future__ import annotations

import re
from pathlib import Path

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
ROWS = re.findall(r"^\| `([^`]+)` \| (.+?) \|", (DEPLOY / "README.md").read_text(encoding="utf-8"), re.MULTILINE)


def test_every_file_has_its_check() -> None:
    files = {str(path.relative_to(DEPLOY)) for path in DEPLOY.rglob("*") if path.is_file()} - {"README.md"}
    assert {name for name, _ in ROWS} == files


def test_every_check_is_there_and_reads_the_file() -> None:
    for name, checks in ROWS:
        links = re.findall(r"\]\(([^)]+)\)", checks)
        assert links, name
        text = "".join((DEPLOY / link).read_text(encoding="utf-8") for link in links)
        # Some are read by their folder: the chart, the units.
        by_folder = {"helm": '"helm"', "systemd": '"systemd"'}.get(name.split("/")[0])
        assert (by_folder or Path(name).name) in text, f"{name}: {links} do not name it"
