"""Writes the measured part of ``docs/performance.md``: between two marks, so that what people wrote there stays."""

from __future__ import annotations

import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
_RELATIONS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def write(latest: dict[str, Any], page: Path) -> None:
    """Replace the table, and the plot beside the page.

    Parameters
    ----------
    latest:
        What ``latest.json`` holds.
    page:
        An existing page with both marks.
    """
    text = page.read_text(encoding="utf-8")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    picture = page.with_suffix(".svg")
    shown = f"\n![Cost an instance, cells a second]({picture.name})\n" if plot(latest, picture) else ""
    page.write_text(f"{before}{BEGIN}\n\n{table(latest)}{shown}\n{END}{after}", encoding="utf-8")


def table(latest: dict[str, Any]) -> str:
    """Return the figures as tables of Markdown, those that have an aim first, and what they were measured on."""
    aimed = [row for row in latest["rows"] if row["aim"]]
    others = [row for row in latest["rows"] if not row["aim"]]
    lines = []
    if aimed:
        lines += ["| row | ours | peer | unit | ratio [runs] | runs | aim | reached | how |"]
        lines += ["|---|---|---|---|---|---|---|---|---|"]
        lines += [_line(row, row["aim"], "yes" if reached(row) else "**no**", row["setting"]) for row in aimed] + [""]
    if others:
        lines += ["Without an aim: points of the plots, and what explains a row above.", ""]
        lines += ["| row | ours | peer | unit | ratio [runs] | runs | how |", "|---|---|---|---|---|---|---|"]
        lines += [_line(row, row["setting"]) for row in others] + [""]
    about = latest["machine"]
    packages = ", ".join(f"{name} {number}" for name, number in about["packages"].items())
    hardware = f"{about['cores']} cores, {about['memory_gb']} GB"
    software = f"{about['system']}, Python {about['python']}; {packages}"
    times = sorted(row["at"] for row in latest["rows"] if "at" in row)
    when = f"from {times[0]} to {times[-1]}" if times else "at a time not noted"
    lines += [f"Measured {when} on {hardware}, {software}; load before the last: {about['load_before']}."]
    lines += ["", _processors(latest)]
    return "\n".join(lines) + "\n"


def reached(row: dict[str, Any]) -> bool:
    """Return whether a row is as its aim wants it: its ratio, or where it has none its figure, against a bound.

    Parameters
    ----------
    row:
        A row of ``latest.json`` with an aim such as ``>= 7`` or ``<= 1.1``; what follows a comma is not looked at.
    """
    relation, bound = row["aim"].split(",")[0].split()
    figure = row["ours"] if row["ratio"] is None else row["ratio"]
    return bool(_RELATIONS[relation](figure, float(bound)))


def _line(row: dict[str, Any], *ends: str) -> str:
    peer = "" if row["peer"] is None else f"{row['peer']:.4g}"
    spread = f"[{row['low']:.3g}, {row['high']:.3g}]"
    ratio = spread if row["ratio"] is None else f"**{row['ratio']:.3g}** {spread}"
    cells = [f"`{row['name']}`", f"{row['ours']:.4g}", peer, row["unit"], ratio, str(row["runs"])]
    return "| " + " | ".join([*cells, *ends]) + " |"


def _processors(latest: dict[str, Any]) -> str:
    """Return which rows were measured on which processor; those of the one that has most are not named."""
    on: dict[str, list[str]] = {}
    for row in latest["rows"]:
        on.setdefault(row.get("processor", "one that was not noted"), []).append(f"`{row['name']}`")
    most = max(on, key=lambda processor: len(on[processor]))
    others = [f"{', '.join(names)} on {processor};" for processor, names in on.items() if processor != most]
    return " ".join(["Processor:", *others, f"all others on {most}." if others else f"{most}."])


def plot(latest: dict[str, Any], file: Path) -> bool:
    """Draw the cost of an instance over the size of its study, and the engine's pace over the size of batches.

    Returns whether there is a plot: nothing is drawn where neither was measured.
    """
    studies = _points(latest, "scaling_", 1000.0)
    batches = _points(latest, "batch_", 1.0)
    drawn = [
        (studies, 10, "instances in the study", "ms an instance", "From the first C-STORE to the report at the PACS"),
        (batches, 2, "cells in a batch", "cells a second", "The bare engine"),
    ]
    drawn = [one for one in drawn if one[0]]
    if not drawn:
        return False
    from matplotlib import pyplot as plt

    figure, row = plt.subplots(1, len(drawn), figsize=(5 * len(drawn), 3.2), layout="constrained", squeeze=False)
    for axes, (points, base, across, up, title) in zip(row[0], drawn, strict=True):
        axes.plot(*zip(*points, strict=True), marker="o", color="#1f5fa8")
        axes.set_xscale("log", base=base)
        axes.set(xlabel=across, ylabel=up, ylim=(0, None))
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3)
    with plt.rc_context({"svg.hashsalt": file.name}):  # else a plot of the same figures is another file each time
        figure.savefig(file, metadata={"Date": None})
    plt.close(figure)
    return True


def _points(latest: dict[str, Any], prefix: str, times: float) -> list[tuple[int, float]]:
    """Return size and figure of the rows that are points of a plot, by size."""
    return sorted(
        (int(row["name"].removeprefix(prefix)), row["ours"] * times)
        for row in latest["rows"]
        if row["name"].startswith(prefix)
    )
