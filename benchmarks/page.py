"""Writes the measured part of ``docs/performance.md``: between two marks, so that what people wrote there stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


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
    plot(latest, page.with_suffix(".svg"))
    page.write_text(f"{before}{BEGIN}\n\n{table(latest)}\n{END}{after}", encoding="utf-8")


def table(latest: dict[str, Any]) -> str:
    """Return the figures as a table of Markdown, and what they were measured on."""
    lines = ["| row | ours | peer | unit | ratio [runs] | runs | aim | how |", "|---|---|---|---|---|---|---|---|"]
    for row in latest["rows"]:
        peer = "" if row["peer"] is None else f"{row['peer']:.4g}"
        spread = f"[{row['low']:.3g}, {row['high']:.3g}]"
        ratio = spread if row["ratio"] is None else f"**{row['ratio']:.3g}** {spread}"
        cells = [f"`{row['name']}`", f"{row['ours']:.4g}", peer, row["unit"], ratio, str(row["runs"])]
        lines.append("| " + " | ".join([*cells, row["aim"], row["setting"]]) + " |")
    about = latest["machine"]
    packages = ", ".join(f"{name} {number}" for name, number in about["packages"].items())
    hardware = f"{about['processor']}, {about['cores']} cores, {about['memory_gb']} GB"
    software = f"{about['system']}, Python {about['python']}; {packages}"
    lines += ["", f"Measured on {hardware}, {software}; load before: {about['load_before']}."]
    return "\n".join(lines) + "\n"


def plot(latest: dict[str, Any], file: Path) -> None:
    """Draw the cost of an instance over the size of its study; nothing where that was not measured."""
    points = sorted(
        (int(row["name"].removeprefix("scaling_")), row["ours"] * 1000)
        for row in latest["rows"]
        if row["name"].startswith("scaling_")
    )
    if not points:
        return
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
    axes.plot(*zip(*points, strict=True), marker="o", color="#1f5fa8")
    axes.set(xscale="log", xlabel="instances in the study", ylabel="ms an instance", ylim=(0, None))
    axes.set_title("From the first C-STORE to the report at the PACS", fontsize=10)
    axes.grid(alpha=0.3)
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)
