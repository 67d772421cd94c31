"""Figures of a run or a bundle: by source, with intervals, before and after calibration; written with their plots."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allpacs.classify.aggregate import LABELS, probability_other
from allpacs.domain.errors import InputFault
from training.gate import accepted_at, false_accepts
from training.metrics import (
    abstain_band,
    accuracy,
    auroc,
    brier,
    calibration_error,
    interval,
    report,
    sigmoid,
    temperature_of,
    weighted_f1,
)  # fmt: skip
from training.splits import TEST, VALID

Floats = NDArray[np.float64]
#: Share of the validation cells that the band between the thresholds leaves without an answer.
ABSTAINED = 0.15


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Pictures of the two classes that a model has not seen, one entry a picture.

    Attributes
    ----------
    raw, probability:
        Probability of ALL before and after temperature scaling.
    """

    source: NDArray[np.str_]
    unit: NDArray[np.str_]
    truth: NDArray[np.bool_]
    raw: Floats
    probability: Floats
    all_at_least: Floats
    hem_at_most: Floats
    by_subject: NDArray[np.bool_]

    def where(self, mask: NDArray[np.bool_]) -> Judged:
        """Return these pictures alone."""
        return Judged(*(getattr(self, name)[mask] for name in Judged.__slots__))


@dataclass(slots=True)
class Figures:
    """Everything that was measured; `rows` are of one figure each, with where it was measured and its interval."""

    what: str
    classes: list[str]
    rows: list[dict[str, Any]] = field(default_factory=list)
    confusion: list[list[int]] = field(default_factory=list)
    classification_report: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    judged: Judged | None = None
    multi: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None
    run: Path | None = None

    def add(self, on: str, figure: str, value: float, low: float | None = None, high: float | None = None) -> None:
        """Add one figure."""
        self.rows.append({"on": on, "figure": figure, "value": value, "low": low, "high": high})

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold; figures that are not defined are null."""
        rows = [{k: _number(v) for k, v in row.items()} for row in self.rows]
        return {
            "what": self.what, "classes": self.classes, "figures": rows, "confusion": self.confusion,
            "classification_report": self.classification_report, "facts": self.facts,
        }  # fmt: skip

    def table(self) -> str:
        """Return the figures as a Markdown table."""
        lines = ["| pictures | figure | value | 95 % interval |", "|---|---|---|---|"]
        return "\n".join([*lines, *(f"| {line_of(row)} |" for row in self.rows)])


def line_of(row: Mapping[str, Any]) -> str:
    """Return a figure's cells in a Markdown table: pictures, figure, value, interval; a dash for what is undefined."""
    low, high, value = row.get("low"), row.get("high"), row["value"]
    span = "–" if low is None or not np.isfinite(low) else f"{low:.3f} to {high:.3f}"
    return f"{row['on']} | {row['figure']} | {'–' if value is None else f'{value:.3f}'} | {span}"


def evaluate_run(folder: Path, folds: Sequence[int] | None = None) -> Figures:
    """Return the figures of a run's test pictures, every fold's (or these folds') by its own model.

    Temperature and thresholds of a fold come from its validation pictures.

    Raises
    ------
    InputFault
        The folder holds no finished fold.
    """
    try:
        facts = json.loads((folder / "run.json").read_text())
        pictures = json.loads((folder / "pictures.json").read_text())
    except OSError as fault:
        raise InputFault(f"{folder} holds no run: train one first (python -m training fit ...)") from fault
    done = sorted(path.parent for path in folder.glob("fold*/done.json"))
    if folds is not None:
        done = [path for path in done if int(path.name.removeprefix("fold")) in folds]
    if not done:
        raise InputFault(f"{folder} holds no finished fold: run fit again, it goes on where it stopped")
    recipe = facts["recipe"]
    classes = list(recipe["data"]["classes"])
    answers = {part: [_answers(fold / f"{part}.npz") for fold in done] for part in (VALID, TEST)}
    spent = [json.loads((fold / "done.json").read_text()) for fold in done]
    figures = Figures(recipe["name"], classes, run=folder)
    figures.facts = {
        "split_digest": facts["split_digest"], "data_digest": facts["data_digest"], "seed": recipe["fit"]["seed"],
        "start": facts["start"], "folds": len(done), "seconds": [s["seconds"] for s in spent],
        "epochs": [s["epochs"] for s in spent], "reference": recipe["reference"], "command": facts["command"],
    }  # fmt: skip
    if tuple(classes) == LABELS:
        _two_classes(figures, pictures, answers, (recipe["gate"] or {}).get("acceptance", 1.0))
    else:
        _many_classes(figures, pictures, answers[TEST])
    return figures


def evaluate_bundle(folder: Path, data: Mapping[str, Path]) -> Figures:
    """Return the figures of a bundle on data sets, read and judged as serving does.

    Cells of other labels than ALL, HEM and lymphocyte (taken for HEM) are outliers: the share that the gate lets pass.

    Raises
    ------
    ModelFault
        The bundle is not what it says it is.
    InputFault, ConfigFault
        A data set is missing or unknown.
    """
    import tempfile

    from allpacs.classify.bundle import load_bundle
    from allpacs.classify.engines.tensorflow import TensorFlowEngine
    from training.crops import read_crops
    from training.datasets import read
    from training.splits import unit_of

    bundle = load_bundle(folder)
    engine = TensorFlowEngine(bundle)
    figures = Figures(f"{bundle.contract.name} {bundle.contract.version}", list(LABELS))
    figures.facts = {"bundle": bundle.digest}
    parts, outliers = [], {}
    for name in data:
        with tempfile.TemporaryDirectory() as cache:
            cells = read_crops(read(name, data), "cell", bundle.preprocessing, Path(cache))
        logits = np.concatenate([engine.logits(cells.pixels[i : i + 64]) for i in range(0, len(cells), 64)])
        label = np.array([{"lymphocyte": "HEM"}.get(s.label, s.label) for s in cells.samples])
        other = np.array([probability_other(row) for row in logits])
        for kind in sorted(set(label) - set(LABELS)):
            outliers[f"{cells.samples[0].source} {kind}"] = other[label == kind]
        own = np.isin(label, LABELS)
        if own.any():
            margin = (logits[:, 0] - logits[:, 1]).astype(np.float64)[own]
            samples = [s for s, kept in zip(cells.samples, own, strict=True) if kept]
            passed = other[own] <= bundle.other_at_most
            figures.add(name, "accepted", float(passed.mean()))
            thresholds = bundle.thresholds
            parts.append((
                np.array([s.source for s in samples]), np.array([unit_of(s) for s in samples]),
                label[own] == LABELS[0], sigmoid(margin), sigmoid(margin / bundle.temperature),
                np.full(len(samples), thresholds.all_at_least), np.full(len(samples), thresholds.hem_at_most),
                np.array([s.subject is not None for s in samples]),
            ))  # fmt: skip
    if parts:
        judged = Judged(*(np.concatenate(column) for column in zip(*parts, strict=True)))
        _rows_of(figures, judged)
    for kind, (share, number) in false_accepts(outliers, bundle.other_at_most).items():
        figures.add(f"{kind} ({number})", "false accept", share)
    return figures


def write_report(figures: Figures, folder: Path, notes: Sequence[str]) -> str:
    """Write ``report.md``, ``figures.json`` and the plots into a folder; return the report."""
    from training.plots import draw

    folder.mkdir(parents=True, exist_ok=True)
    plots = draw(figures, folder)
    facts = "\n".join(f"- {name}: {value}" for name, value in figures.facts.items() if value not in ("", None))
    said = f"# {figures.what}\n\nResearch use only; not a medical device.\n\n"
    said += "".join(f"{note}\n\n" for note in notes) + f"{figures.table()}\n\n{facts}\n\n"
    if figures.classification_report:
        said += f"```\n{figures.classification_report}```\n\n"
    said += "\n".join(f"![{path.stem}]({path.name})" for path in plots) + "\n"
    (folder / "report.md").write_text(said, encoding="utf-8")
    (folder / "figures.json").write_text(json.dumps(figures.to_dict(), indent=1))
    return said


def _answers(path: Path) -> tuple[NDArray[np.int64], Floats]:
    with np.load(path) as stored:
        return stored["places"], stored["logits"].astype(np.float64)


def _two_classes(
    figures: Figures, pictures: list[dict[str, Any]], answers: dict[str, list[Any]], acceptance: float
) -> None:
    """Add the figures of ALL against HEM, and those of the gate where the network has one."""
    label = np.array([p["label"] for p in pictures])
    parts, temperatures, thresholds = [], [], []
    other: dict[str, list[bool]] = {}
    for (valid, valid_logits), (test, test_logits) in zip(answers[VALID], answers[TEST], strict=True):
        known = np.isin(label[valid], LABELS)
        truth = label[valid][known] == LABELS[0]
        margin = (valid_logits[:, 0] - valid_logits[:, 1])[known]
        temperature = round(temperature_of(truth, margin), 6) if known.any() else 1.0
        all_at_least, hem_at_most = abstain_band(sigmoid(margin / temperature), ABSTAINED)
        temperatures.append(temperature)
        own = np.isin(label[test], LABELS)
        places = test[own]
        margin = (test_logits[:, 0] - test_logits[:, 1])[own]
        parts.append((
            np.array([pictures[i]["source"] for i in places]), np.array([pictures[i]["unit"] for i in places]),
            label[places] == LABELS[0], sigmoid(margin), sigmoid(margin / temperature),
            np.full(len(places), all_at_least), np.full(len(places), hem_at_most),
            np.array([pictures[i]["subject"] is not None for i in places], bool),
        ))  # fmt: skip
        if test_logits.shape[1] > len(LABELS):
            threshold = accepted_at(_other(valid_logits)[known], acceptance)
            thresholds.append(threshold)
            passed = _other(test_logits) <= threshold
            for place, good in zip(test, passed, strict=True):
                kind = f"{pictures[place]['source']} {label[place]}"
                other.setdefault(kind, []).append(bool(good))
    figures.facts |= {"temperature": temperatures}
    judged = Judged(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    _rows_of(figures, judged)
    for kind, passes in sorted(other.items()):
        name = "false accept" if kind.split()[-1] not in LABELS else "accepted"
        figures.add(f"{kind} ({len(passes)})", name, float(np.mean(passes)))
    if thresholds:
        figures.facts |= {"other_at_most": thresholds}


def _other(logits: Floats) -> Floats:
    return np.array([probability_other(row) for row in logits])


def _rows_of(figures: Figures, judged: Judged) -> None:
    """Add a table of figures for each source."""
    from sklearn.metrics import classification_report, confusion_matrix

    figures.judged = judged
    for source in sorted(set(judged.source)):
        own = judged.where(judged.source == source)
        by = f"{len(set(own.unit))} subjects" if own.by_subject.all() else "by image, subjects not given"
        on = f"{source}: {int(own.truth.sum())} ALL, {int((~own.truth).sum())} HEM, {by}"
        units, band = list(own.unit), {"all_at_least": own.all_at_least, "hem_at_most": own.hem_at_most}
        for row in report(own.truth, own.probability, units, **band):
            if np.isfinite(row["value"]):
                figures.add(on, row["figure"], row["value"], row["low"], row["high"])
        for name, figure in (("weighted F1", weighted_f1), ("accuracy", accuracy)):
            low, high = _interval(figure, own, units)
            figures.add(on, name, figure(own.truth, own.probability), low, high)
        if own.by_subject.all() and own.truth.any() and not own.truth.all():
            figures.add(on, "auroc by subject", *_by_subject(own))
        for name, figure in (("ECE", calibration_error), ("Brier", brier)):
            figures.add(on, f"{name} before calibration", figure(own.truth, own.raw))
            figures.add(on, f"{name} after calibration", figure(own.truth, own.probability))
    called = judged.probability >= 0.5
    names = [LABELS[0], LABELS[1]]
    truth, told = np.where(judged.truth, *names), np.where(called, *names)
    figures.confusion = confusion_matrix(truth, told, labels=names).tolist()
    figures.classification_report = classification_report(truth, told, labels=names, digits=4, zero_division=0)


def _interval(figure: Callable[..., float], own: Judged, units: list[str]) -> tuple[float, float]:
    """Return the interval of a figure of truth and probability."""
    return interval(lambda i: figure(own.truth[i], own.probability[i]), units, draws=500)


def _by_subject(own: Judged) -> tuple[float, float, float]:
    """Return the AUROC of subjects, by the mean probability of their cells, with its interval."""
    names = np.unique(own.unit)
    mean = np.array([own.probability[own.unit == name].mean() for name in names])
    ill = np.array([bool(own.truth[own.unit == name][0]) for name in names])
    return auroc(ill, mean), *interval(lambda i: auroc(ill[i], mean[i]), list(names))


def _many_classes(figures: Figures, pictures: list[dict[str, Any]], answers: list[Any]) -> None:
    """Add the figures of a study with other classes."""
    from sklearn.metrics import classification_report, confusion_matrix, f1_score

    places = np.concatenate([places for places, _ in answers])
    called = np.concatenate([logits.argmax(axis=1) for _, logits in answers])
    truth = np.array([figures.classes.index(pictures[i]["label"]) for i in places])
    units = [pictures[i]["unit"] for i in places]
    on = f"{pictures[0]['source']}: {len(places)} pictures, {len(figures.classes)} classes"
    right = (called == truth).astype(float)
    macro = f1_score(truth, called, average="macro", zero_division=0)
    low, high = interval(lambda i: float(right[i].mean()), units)
    figures.add(on, "accuracy", float(right.mean()), low, high)
    figures.add(on, "macro F1", float(macro))
    labels = list(range(len(figures.classes)))
    figures.confusion = confusion_matrix(truth, called, labels=labels).tolist()
    figures.classification_report = classification_report(
        truth, called, labels=labels, target_names=figures.classes, digits=4, zero_division=0
    )
    figures.multi = (truth, called)


def _number(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4) if np.isfinite(value) else None
    return value
