"""What the suite found: one line a check, printed, and written for people and for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.table import Table

JSON_FILE = Path(__file__).parent / "results.json"
PAGE = Path(__file__).parents[1] / "docs" / "conformance-results.md"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that a third party was asked, and whether its answer was the right one.

    Attributes
    ----------
    faults:
        What was wrong, in a few lines; empty where the check passed.
    """

    peer: str
    version: str
    check: str
    faults: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether nothing was wrong."""
        return not self.faults


@dataclass(slots=True)
class Outcome:
    """The checks in the order in which they were made, and the seeded errors."""

    checks: list[Check] = field(default_factory=list)
    seeded_tried: int = 0
    seeded_missed: list[str] = field(default_factory=list)

    def add(self, checks: Iterable[Check]) -> None:
        """Take up checks, telling each on standard error as it is made: a suite of minutes must not look dead."""
        for check in checks:
            self.checks.append(check)
            print(
                f"  {'ok    ' if check.passed else 'FAILED'} {check.peer}: {check.check}", file=sys.stderr, flush=True
            )
            for fault in check.faults[:8]:
                print(f"           {fault[:400]}", file=sys.stderr, flush=True)

    @property
    def seeded_caught(self) -> int:
        """How many of the seeded errors were noticed."""
        return self.seeded_tried - len(self.seeded_missed)

    @property
    def passed(self) -> bool:
        """Whether every check passed; the seeded errors are one of them."""
        return all(check.passed for check in self.checks)

    def as_json(self) -> dict[str, object]:
        """Return the stable contract of ``conformance/results.json``."""
        return {
            "checks": [
                {"peer": c.peer, "version": c.version, "check": c.check, "passed": c.passed} for c in self.checks
            ],
            "seeded": {"tried": self.seeded_tried, "caught": self.seeded_caught},
        }

    def write(self) -> None:
        """Write both files."""
        JSON_FILE.write_text(json.dumps(self.as_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        PAGE.write_text(self._page(), encoding="utf-8")

    def print(self) -> None:
        """Print the table and the plain closing line."""
        table = Table(box=None, pad_edge=False)
        for heading in ("peer", "version", "check", ""):
            table.add_column(heading, overflow="fold")
        for check in self.checks:
            mark = "[green]passed[/green]" if check.passed else "[red]FAILED[/red]"
            table.add_row(check.peer, check.version, check.check, mark)
        Console(width=160).print(table)
        failed = sum(not check.passed for check in self.checks)
        print(f"seeded errors: {self.seeded_tried} tried, {self.seeded_caught} caught")
        print(f"{len(self.checks) - failed} passed, {failed} failed")

    def _page(self) -> str:
        lines = [
            "# What third parties say of allpacs",
            "",
            "Written by `make conformance`: peers that nobody here wrote take, store, show and judge what it sends.",
            "[conformance/README.md](../conformance/README.md) says how it runs and what the peers are.",
            "",
        ]
        for peer, several in groupby(self.checks, key=lambda check: (check.peer, check.version)):
            lines += [f"## {' '.join(peer)}", "", "| check | |", "|---|---|"]
            lines += [f"| {check.check} | {'passed' if check.passed else '**failed**'} |" for check in several]
            lines.append("")
        lines += [
            "## Seeded errors",
            "",
            f"Errors put into a structured report or a FHIR Bundle, one at a time: {self.seeded_tried}.",
            f"Noticed by at least one of the judges above: {self.seeded_caught}.",
        ]
        if self.seeded_missed:
            lines += ["", "Not noticed:", "", *(f"- {name}" for name in self.seeded_missed)]
        return "\n".join([*lines, ""])
