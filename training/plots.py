"""The figures of the paper (5, 6 and 7) and those that are missing there: ROC, reliability, the worst errors."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from training.fit import HISTORY

if TYPE_CHECKING:
    from training.figures import Figures, Judged

_INK, _SECOND = "#1b4f72", "#c0392b"


def draw(figures: Figures, folder: Path) -> list[Path]:
    """Draw what there is to draw into a folder; return the files."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update(
        {
            "figure.dpi": 120,
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "savefig.bbox": "tight",
        }
    )
    drawn = []
    if figures.run is not None:
        drawn += _curves(figures.run, folder)
    if figures.confusion:
        drawn.append(_confusion(figures, folder / "confusion.png"))
    if figures.judged is not None:
        drawn += [_roc(figures.judged, folder / "roc.png"), _reliability(figures.judged, folder / "reliability.png")]
    if figures.run is not None and (
        gallery := _gallery(figures.run, [*figures.classes, *figures.facts.get("outputs", [])], folder / "errors.png")
    ):
        drawn.append(gallery)
    return drawn


def _curves(run: Path, folder: Path) -> list[Path]:
    """Loss and accuracy by epoch, a line a fold (paper figures 5 and 6)."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8, 3))
    found = False
    for number, path in enumerate(sorted(run.glob(f"fold*/{HISTORY}"))):
        with path.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        for axis, name in zip(axes, ("loss", "accuracy"), strict=True):
            for column, colour, said in ((name, _INK, "training"), (f"val_{name}", _SECOND, "validation")):
                points = [(int(r["epoch"]), float(r[column])) for r in rows if r[column]]
                if points:
                    found = True
                    axis.plot(
                        *zip(*points, strict=True), color=colour, marker=".", alpha=0.8, label=None if number else said
                    )
            axis.set(xlabel="epoch", ylabel=name)
    axes[0].legend(frameon=False)
    figure.suptitle("Training and validation" + (", one line a fold" if len(list(run.glob("fold*"))) > 1 else ""))
    figure.savefig(folder / "curves.png")
    plt.close(figure)
    return [folder / "curves.png"] if found else []


def _confusion(figures: Figures, path: Path) -> Path:
    """The confusion matrix (paper figure 7)."""
    import matplotlib.pyplot as plt

    counts = np.array(figures.confusion)
    side = 1.2 + 0.55 * len(counts)
    figure, axis = plt.subplots(figsize=(side + 0.6, side))
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        axis.text(
            column, row, f"{count}", ha="center", va="center", color="white" if share[row, column] > 0.5 else "black"
        )
    ticks = range(len(counts))
    axis.set_xticks(
        ticks, figures.classes, rotation=45 if len(counts) > 4 else 0, ha="right" if len(counts) > 4 else "center"
    )
    axis.set_yticks(ticks, figures.classes)
    axis.set(xlabel="called", ylabel="labelled")
    axis.spines[:].set_visible(False)
    figure.savefig(path)
    plt.close(figure)
    return path


def _roc(judged: Judged, path: Path) -> Path:
    """ROC curve of each source with both classes."""
    import matplotlib.pyplot as plt
    from sklearn.metrics import roc_auc_score, roc_curve

    figure, axis = plt.subplots(figsize=(4, 4))
    axis.plot([0, 1], [0, 1], color="0.7", linestyle=":", label="guessing")
    for source in sorted(set(judged.source)):
        own = judged.where(judged.source == source)
        if own.truth.all() or not own.truth.any():
            continue
        wrong, right, _ = roc_curve(own.truth, own.probability)
        axis.plot(wrong, right, label=f"{source}: AUROC {roc_auc_score(own.truth, own.probability):.3f}")
    axis.set(xlabel="1 - specificity", ylabel="sensitivity for ALL", aspect="equal", xlim=(0, 1), ylim=(0, 1.01))
    axis.legend(frameon=False, loc="lower right")
    figure.savefig(path)
    plt.close(figure)
    return path


def _reliability(judged: Judged, path: Path) -> Path:
    """Share of lymphoblasts by probability, before and after temperature scaling."""
    import matplotlib.pyplot as plt
    from sklearn.calibration import calibration_curve

    figure, axis = plt.subplots(figsize=(4, 4))
    axis.plot([0, 1], [0, 1], color="0.7", linestyle=":", label="calibrated")
    for values, colour, said in ((judged.raw, _SECOND, "before"), (judged.probability, _INK, "after")):
        share, mean = calibration_curve(judged.truth, np.clip(values, 0, 1), n_bins=10)
        axis.plot(mean, share, color=colour, marker="o", label=f"{said} temperature scaling")
    axis.set(xlabel="probability of ALL", ylabel="share of ALL", aspect="equal", xlim=(0, 1), ylim=(0, 1))
    axis.legend(frameon=False, loc="upper left")
    figure.savefig(path)
    plt.close(figure)
    return path


def _gallery(run: Path, outputs: list[str], path: Path) -> Path | None:
    """The pictures that the models were most wrong about."""
    import matplotlib.pyplot as plt

    pictures = json.loads((run / "pictures.json").read_text())
    shown: list[tuple[Any, str]] = []
    for errors in sorted(run.glob("fold*/errors.npz")):
        with np.load(errors) as stored:
            for pixels, place, called in zip(stored["pixels"], stored["places"], stored["called"], strict=True):
                told = outputs[int(called)]
                shown.append((pixels, f"{pictures[place]['label']}, called {told}\n{pictures[place]['image']}"))
    if not shown:
        return None
    shown = shown[:: max(len(shown) // 24, 1)][:24]
    columns = min(8, len(shown))
    rows = -(-len(shown) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(1.5 * columns, 1.8 * rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, (pixels, title) in zip(axes.flat, shown, strict=False):
        axis.imshow(pixels)
        axis.set_title(title, fontsize=5)
    figure.savefig(path)
    plt.close(figure)
    return path
