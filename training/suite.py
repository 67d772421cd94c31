"""All runs of ``suite.toml``, one after the other, each in a process of its own: a long night's work in one command.

A run whose report is written is not made again, one that was stopped goes on; one that fails leaves the others alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Collection, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter

from allpacs.domain.errors import ConfigFault
from training.figures import line_of
from training.run import WEIGHTS

PLAN = Path(__file__).with_name("suite.toml")


class PlannedRun(BaseModel):
    """One run.

    Attributes
    ----------
    name:
        Of its folder.
    start:
        The earlier run whose first fold's weights it begins with (``pbc`` without that run: as shipped); or `weights`,
        as the command line has it.
    set:
        Changes of the recipe.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    recipe: str
    about: str
    start: str | None = None
    weights: str | None = None
    set: tuple[str, ...] = ()

    def command(self, data: Sequence[str], out: Path) -> list[str]:
        """Return the arguments of ``python -m training`` that make it."""
        said = ["reproduce", self.recipe, "--out", str(out / self.name)]
        for folder in data:
            said += ["--data", folder]
        weights = self.weights
        if self.start is not None:
            trained = _weights_of(self.start, out)
            weights = str(trained) if trained.is_file() else self.start
        if weights is not None:
            said += ["--weights", weights]
        for change in self.set:
            said += ["--set", change]
        return said


def planned(plan: Path = PLAN) -> list[PlannedRun]:
    """Return the runs in their order."""
    return TypeAdapter(list[PlannedRun]).validate_python(tomllib.loads(plan.read_text("utf-8"))["run"])


def run_all(data: Sequence[str], out: Path, only: Collection[str] = (), plan: Path = PLAN) -> list[str]:
    """Make the runs, or only these; return the names of those that have no report in the end.

    Raises
    ------
    ConfigFault
        There is no run of that name.
    """
    runs = planned(plan)
    if unknown := set(only) - {one.name for one in runs}:
        raise ConfigFault(f"no run {sorted(unknown)[0]!r}: there are {', '.join(one.name for one in runs)}")
    left = []
    for one in runs:
        if only and one.name not in only:
            continue
        print(f"== {one.name}: {one.about}", flush=True)
        if one.start not in {None, "pbc"} and not _weights_of(one.start, out).is_file():
            print(f"   left out: {one.start}, which it begins with, is not done", flush=True)
        elif not _report(one, out).is_file():
            subprocess.run([sys.executable, "-m", "training", *one.command(data, out)], check=False)  # noqa: S603
        if not _report(one, out).is_file():
            left.append(one.name)
    return left


def table(out: Path, plan: Path = PLAN) -> str:
    """Return the figures of all runs that have a report, as a Markdown table."""
    lines = ["| run | pictures | figure | value | 95 % interval |", "|---|---|---|---|---|"]
    for one in planned(plan):
        if _report(one, out).is_file():
            figures = json.loads((out / one.name / "figures.json").read_text())["figures"]
            lines += [f"| {one.name} | {line_of(row)} |" for row in figures]
    return "\n".join(lines)


def _report(one: PlannedRun, out: Path) -> Path:
    return out / one.name / "report.md"


def _weights_of(name: str, out: Path) -> Path:
    return out / name / "fold0" / WEIGHTS
