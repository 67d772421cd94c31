"""Figures of a run or a bundle: by source, with intervals, before and after calibration; written with their plots."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allpacs.classify.aggregate import LABELS
from allpacs.classify.aggregate import label as decide
from allpacs.domain.errors import InputFault
from training.controls import at_matched_size, by_unit, regression
from training.datasets import NORMAL
from training.gate import false_accepts
from training.limits import Limits, limits_of, other_of, pooled
from training.metrics import (
    accuracy,
    auroc,
    brier,
    calibration_error,
    interval,
    report,
    sigmoid,
    weighted_f1,
)  # fmt: skip
from training.recipe import gate_outputs
from training.splits import TEST, TRAIN, VALID, image_of

Floats = NDArray[np.float64]
Pictures = list[dict[str, Any]]
#: Fewer pictures than this are said to be too few.
FEW = 20
#: Data sets whose pictures are cut from another one's: who has learned from the one has seen the other.
CUT_FROM = {"ALL-IDB2": "ALL-IDB1"}


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Pictures of the two classes that a model has not seen, one entry a picture.

    Attributes
    ----------
    raw, probability:
        Probability of ALL before and after temperature scaling.
    passed:
        Which of them the gate lets pass, and the quality check where it was asked: the others get no answer.
    """

    source: NDArray[np.str_]
    unit: NDArray[np.str_]
    truth: NDArray[np.bool_]
    raw: Floats
    probability: Floats
    all_at_least: Floats
    hem_at_most: Floats
    by_subject: NDArray[np.bool_]
    passed: NDArray[np.bool_]

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
    types: Counter[tuple[str, str]] = field(default_factory=Counter)
    persons: list[dict[str, Any]] = field(default_factory=list)

    def add(self, on: str, figure: str, value: float, low: float | None = None, high: float | None = None) -> None:
        """Add one figure."""
        self.rows.append({"on": on, "figure": figure, "value": value, "low": low, "high": high})

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold; figures that are not defined are null."""
        rows = [{k: _number(v) for k, v in row.items()} for row in self.rows]
        return {
            "what": self.what, "classes": self.classes, "figures": rows, "confusion": self.confusion,
            "classification_report": self.classification_report, "facts": self.facts,
            "types": [{"kind": kind, "called": name, "cells": n} for (kind, name), n in sorted(self.types.items())],
            "persons": self.persons,
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


@dataclass(frozen=True, slots=True)
class Seen:
    """What a run's start was trained on.

    Attributes
    ----------
    images, labels:
        Source and file name of each image that it was trained on, and of each that its run knew, to its label there.
    digest:
        Of the split that says so; empty for a start that has seen none of our data sets.
    """

    images: Mapping[tuple[str, str], str] = field(default_factory=dict)
    labels: Mapping[tuple[str, str], str] = field(default_factory=dict)
    digest: str = ""

    def mask(self, pictures: Pictures) -> NDArray[np.bool_]:
        """Return which pictures are of images that it has seen."""
        return np.array([(p["source"], p["image"]) in self.images for p in pictures], bool)


def seen_by(start: str) -> Seen | None:
    """Return what a start was trained on, by the split of the run that made it; None where no record lies beside it.

    Parameters
    ----------
    start:
        As ``run.json`` has it: ``none``, ``imagenet``, ``lite2``, ``pbc``, or the file of a run's fold.
    """
    from training.weights import weights_file

    if start in {"none", "imagenet", "lite2"}:
        return Seen()
    fold = weights_file(start).parent
    try:
        split = json.loads((fold.parent / "split.json").read_text())
        before = json.loads((fold.parent / "run.json").read_text())["start"]
        number = int(fold.name.removeprefix("fold"))
    except (OSError, ValueError):
        return None
    earlier = seen_by(before)
    if earlier is None:
        return None
    images, labels = dict(earlier.images), dict(earlier.labels)
    for name, parts in split["parts"].items():
        source, label, image = image_of(name)
        labels[source, image] = label
        if parts[number] == TRAIN:
            images[source, image] = label
    return Seen(images, labels, split["digest"])


def evaluate_run(
    folder: Path, folds: Sequence[int] | None = None, *, start_run: Path | None = None, keep_seen: bool = False
) -> Figures:
    """Return the figures of a run's test pictures, every fold's (or these folds') by its own model.

    Temperature and thresholds of a fold come from its validation pictures. Test pictures of images that the start was
    trained on are left out: to hold them out from the rest makes them no test.

    Parameters
    ----------
    start_run:
        The first fold of this run is taken for the start: for comparing, of the same cells, a run with another start.
    keep_seen:
        Judge what the start has seen, too; the rows say so.

    Raises
    ------
    InputFault
        The folder holds no finished fold, or the start has seen every test picture.
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
    answers = {part: [answers_of(fold / f"{part}.npz") for fold in done] for part in (VALID, TEST)}
    spent = [json.loads((fold / "done.json").read_text()) for fold in done]
    seen = seen_by(facts["start"] if start_run is None else str(start_run / "fold0" / "weights.safetensors"))
    if seen is None and start_run is not None:
        raise InputFault(f"{start_run} holds no run: --start-run names the folder of the run that the start is of")
    mask = np.zeros(len(pictures), bool) if seen is None else seen.mask(pictures)
    tested = np.concatenate([places for places, _ in answers[TEST]])
    if not keep_seen:
        answers[TEST] = [(places[~mask[places]], logits[~mask[places]]) for places, logits in answers[TEST]]
        if len(tested) and mask[tested].all():
            raise InputFault("the start was trained on every test picture: --keep-seen judges them all the same")
    figures = Figures(recipe["name"], classes, run=folder)
    figures.facts = {
        "split_digest": facts["split_digest"], "data_digest": facts["data_digest"], "seed": recipe["fit"]["seed"],
        "start": facts["start"], "folds": sum(len(places) > 0 for places, _ in answers[TEST]),
        "seconds": [s["seconds"] for s in spent],
        "epochs": [s["epochs"] for s in spent], "reference": recipe["reference"], "command": facts["command"],
        "start_split": "not known: no run lies beside the start's weights" if seen is None else seen.digest,
        "seen_by_start": _seen_said(pictures, tested, mask, keep_seen),
        "outputs": outputs_of(recipe), "size_path": bool(recipe["network"].get("size_path")),
    }  # fmt: skip
    if tuple(classes) == LABELS:
        _two_classes(figures, pictures, answers, (recipe["gate"] or {}).get("acceptance", 1.0), _Told(
            _per(pictures, tested), _per(pictures, tested[mask[tested]]), keep_seen,
            kinds_of(pictures, {} if seen is None else seen.labels),
        ))  # fmt: skip
    else:
        _many_classes(figures, pictures, answers[TEST])
    return figures


@dataclass(frozen=True, slots=True)
class _Told:
    """What rows say of the start.

    Attributes
    ----------
    tested, seen:
        Number of test pictures of a source and label, and of those that the start has seen.
    kept:
        Whether these are judged all the same.
    kinds:
        What each picture shows.
    """

    tested: Mapping[tuple[str, str], int]
    seen: Mapping[tuple[str, str], int]
    kept: bool
    kinds: Sequence[str]

    def of(self, source: str, labels: Sequence[str]) -> str:
        """Return what is added to a row of this source and these labels; nothing where the start has seen none."""
        tested = sum(self.tested.get((source, label), 0) for label in labels)
        seen = sum(self.seen.get((source, label), 0) for label in labels)
        if not seen:
            return ""
        if self.kept:
            return f", {seen} of them seen by the pre-training"
        few = ", too few to judge by" if tested - seen < FEW else ""
        return f", not seen by the pre-training ({seen} more were){few}"


def _per(pictures: Pictures, places: NDArray[np.int64]) -> Counter[tuple[str, str]]:
    return Counter((pictures[i]["source"], pictures[i]["label"]) for i in places)


def kinds_of(pictures: Pictures, labels: Mapping[tuple[str, str], str]) -> list[str]:
    """Return what each picture shows: as the run recorded it, or as the start's run calls the same image."""
    return [p.get("kind") or labels.get((p["source"], p["image"]), p["label"]) for p in pictures]


def _seen_said(pictures: Pictures, tested: NDArray[np.int64], mask: NDArray[np.bool_], kept: bool) -> str:
    per, seen = _per(pictures, tested), _per(pictures, tested[mask[tested]])
    said = ", ".join(f"{number} of {per[key]} test pictures {' '.join(key)}" for key, number in sorted(seen.items()))
    return f"{said}; {'judged all the same' if kept else 'left out'}" if said else ""


def outputs_of(recipe: Mapping[str, Any]) -> list[str]:
    """Return the outputs that a run's network has beside the two classes, as ``run.json`` states its recipe."""
    gate = recipe.get("gate")
    if gate is None:
        return []
    return list(gate_outputs(gate.get("named") or {}))


def evaluate_bundle(folder: Path, data: Mapping[str, Path]) -> Figures:
    """Return the figures of a bundle on data sets, each cell read and judged as serving does.

    A cell that does not pass the quality check or the gate gets no answer. *accepted* and *false accept* are of the
    gate alone. Cells of other labels than ALL, HEM and lymphocyte (taken for HEM) are outliers: the share that the gate
    lets pass. Rows of a data set that the bundle was trained on say that they are not a result.

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
    learned = {one.name for one in bundle.contract.training_data}
    learned |= {CUT_FROM[name] for name in learned & CUT_FROM.keys()}
    said: dict[str, str] = {}
    parts, outliers, refused = [], {}, []
    for name in data:
        with tempfile.TemporaryDirectory() as cache:
            cells = read_crops(read(name, data), "cell", bundle.preprocessing, Path(cache), bundle.quality)
        logits = np.concatenate([engine.logits(cells.pixels[i : i + 64]) for i in range(0, len(cells), 64)])
        label = np.array([{"lymphocyte": "HEM"}.get(s.label, s.label) for s in cells.samples])
        other = other_of(logits)
        fit = np.ones(len(cells), bool) if cells.fit is None else cells.fit
        source = cells.samples[0].source
        refused.append(f"{source}: {int((~fit).sum())} of {len(cells)}")
        said |= {source: ", seen in training: not a result"} if source in learned else {}
        for kind in sorted(set(label) - {*LABELS, NORMAL}):
            outliers[source, kind] = other[label == kind]
        own = np.isin(label, [*LABELS, NORMAL])
        if own.any():
            margin = (logits[:, 0] - logits[:, 1]).astype(np.float64)[own]
            lymphoid = 1.0 - other[own] if NORMAL in label else np.ones(int(own.sum()))  # see `_two_classes`
            samples = [s for s, kept in zip(cells.samples, own, strict=True) if kept]
            passed = other[own] <= bundle.other_at_most
            figures.add(f"{name}{said.get(source, '')}", "accepted", float(passed.mean()))
            thresholds = bundle.thresholds
            parts.append((
                np.array([s.source for s in samples]), np.array([unit_of(s) for s in samples]),
                label[own] == LABELS[0], sigmoid(margin) * lymphoid, sigmoid(margin / bundle.temperature) * lymphoid,
                np.full(len(samples), thresholds.all_at_least), np.full(len(samples), thresholds.hem_at_most),
                np.array([s.subject is not None for s in samples]), passed & fit[own],
            ))  # fmt: skip
    figures.facts = {
        "bundle": bundle.digest, "seen_in_training": ", ".join(sorted(said)),
        "refused_by_the_quality_check": ", ".join(refused),
    }  # fmt: skip
    if parts:
        judged = Judged(*(np.concatenate(column) for column in zip(*parts, strict=True)))
        _rows_of(figures, judged, said)
    for (source, kind), values in outliers.items():
        on = f"{source} {kind}"
        for share, number in false_accepts({on: values}, bundle.other_at_most).values():
            figures.add(f"{on} ({number}){said.get(source, '')}", "false accept", share)
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


def answers_of(path: Path) -> tuple[NDArray[np.int64], Floats]:
    """Return which pictures a fold's model was asked about, and its logits."""
    with np.load(path) as stored:
        return stored["places"], stored["logits"].astype(np.float64)


def _two_classes(
    figures: Figures, pictures: Pictures, answers: dict[str, list[Any]], acceptance: float, told: _Told
) -> None:
    """Add the figures of ALL against HEM, and those of the gate where the network has one."""
    label = np.array([p["label"] for p in pictures])
    parts, temperatures, thresholds = [], [], []
    accepted: dict[tuple[str, str], list[bool]] = {}
    of_kind: dict[tuple[str, str, str], list[bool]] = {}
    called: Counter[tuple[str, str]] = Counter()
    outputs = [*LABELS, *figures.facts["outputs"]]
    untyped = sorted({p["source"] for p in pictures if p["label"] == NORMAL})
    for fold, (test, test_logits) in enumerate(answers[TEST]):
        if not len(test):
            continue  # the fold that trains on everybody
        limits = limits_of(pictures, *_calibrated_on(answers, fold), acceptance, size_path=figures.facts["size_path"])
        test_logits = limits.applied(test_logits, pictures, test)
        temperatures.append(limits.temperature)
        other = other_of(test_logits)
        passed = other <= limits.other_at_most
        margin = test_logits[:, 0] - test_logits[:, 1]
        if len(outputs) > len(LABELS):
            thresholds.append(limits.other_at_most)
            for place, good, row in zip(test, passed, test_logits, strict=True):
                key = (pictures[place]["source"], str(label[place]))
                accepted.setdefault(key, []).append(bool(good))
                if told.kinds[place] != label[place] and label[place] not in LABELS:
                    of_kind.setdefault((*key, told.kinds[place]), []).append(bool(good))
                called[told.kinds[place], _called(row, bool(good), limits, outputs)] += 1
        own = np.isin(label[test], [*LABELS, NORMAL])
        places = test[own]
        # A cell of a healthy person may be of any type: what speaks for a lymphoblast is the whole network.
        whole = np.isin([pictures[i]["source"] for i in places], untyped)
        share = np.where(whole, 1.0 - other[own], 1.0)
        parts.append((
            np.array([pictures[i]["source"] for i in places]), np.array([pictures[i]["unit"] for i in places]),
            label[places] == LABELS[0], sigmoid(margin[own]) * share, sigmoid(margin[own] / limits.temperature) * share,
            np.full(len(places), limits.thresholds.all_at_least), np.full(len(places), limits.thresholds.hem_at_most),
            np.array([pictures[i]["subject"] is not None for i in places], bool), passed[own],
        ))  # fmt: skip
    figures.facts |= {"temperature": temperatures}
    judged = Judged(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    _rows_of(figures, judged, {source: told.of(source, LABELS) for source in set(judged.source)})
    _persons(figures, judged)
    if all("simple" in p for p in pictures):
        _controls(figures, pictures, answers[TEST], judged)
    for (source, name), passes in sorted(accepted.items()):
        if name == NORMAL:
            continue  # of any type: right both where it is accepted and where it is not
        figure = "false accept" if name not in LABELS else "accepted"
        figures.add(f"{source} {name} ({len(passes)}){told.of(source, [name])}", figure, float(np.mean(passes)))
        for (of_source, of_name, kind), own_passes in sorted(of_kind.items()):
            if (of_source, of_name) == (source, name) and len(own_passes) >= FEW:
                figures.add(f"{source} {name}, {kind} ({len(own_passes)})", figure, float(np.mean(own_passes)))
    if thresholds:
        figures.facts |= {"other_at_most": thresholds}
        figures.types = called


def _calibrated_on(answers: dict[str, list[Any]], fold: int) -> tuple[NDArray[np.int64], Floats]:
    """Return a fold's validation pictures; where it has none, the test pictures of the other folds (cross-fitting)."""
    if len(answers[VALID][fold][0]):
        places, logits = answers[VALID][fold]
        return places, logits
    others = [answer for number, answer in enumerate(answers[TEST]) if number != fold and len(answer[0])]
    if not others:
        raise InputFault("a fold without validation pictures needs another finished fold: train at least two")
    return pooled(others)


def _called(row: Floats, passed: bool, limits: Limits, outputs: Sequence[str]) -> str:
    """Return what serving would call a cell: a class, ``indeterminate``, or another type."""
    if not passed:
        return str(outputs[len(LABELS) + int(row[len(LABELS) :].argmax())])
    found, reason = decide(float(sigmoid((row[0] - row[1]) / limits.temperature)), limits.thresholds)
    return str(found or reason)


def _rows_of(figures: Figures, judged: Judged, said: Mapping[str, str]) -> None:
    """Add a table of figures for each source; `said`: what its rows say beside."""
    from sklearn.metrics import classification_report, confusion_matrix

    figures.judged = judged
    for source in sorted(set(judged.source)):
        own = judged.where(judged.source == source)
        by = f"{len(set(own.unit))} subjects" if own.by_subject.all() else "by image, subjects not given"
        on = f"{source}: {int(own.truth.sum())} ALL, {int((~own.truth).sum())} HEM, {by}{said.get(source, '')}"
        units, band = list(own.unit), {"all_at_least": own.all_at_least, "hem_at_most": own.hem_at_most}
        for row in report(own.truth, own.probability, units, judgeable=own.passed, **band):
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


def _persons(figures: Figures, judged: Judged) -> None:
    """Note for each person how many cells got an answer, and how many of those are right."""
    own = judged.where(judged.by_subject)
    called_all, called_hem = own.probability >= own.all_at_least, own.probability <= own.hem_at_most
    figures.persons = by_unit(list(own.unit), own.truth, called_all, (called_all | called_hem) & own.passed)


def _controls(figures: Figures, pictures: Pictures, answers: list[Any], judged: Judged) -> None:
    """Add what the size and the colour of a cell tell by themselves, and the network among cells of one size."""
    label, simple = np.array([p["label"] for p in pictures]), np.array([p["simple"] for p in pictures])
    truth, source = label == LABELS[0], np.array([p["source"] for p in pictures])
    for name in sorted(set(judged.source[judged.by_subject])):
        mine = (source == name) & np.isin(label, LABELS)
        tested = [places[mine[places]] for places, _ in answers if len(places)]
        everywhere = np.concatenate(tested)
        if not truth[everywhere].any() or truth[everywhere].all():
            continue
        regressed = np.concatenate([
            regression(simple, truth, np.setdiff1d(np.flatnonzero(mine), places), places) for places in tested
        ])  # fmt: skip
        size, units = simple[everywhere, 0], [pictures[i]["unit"] for i in everywhere]
        own = judged.where(judged.source == name)
        on, facts = f"{name}: {len(everywhere)} cells, control", truth[everywhere]
        for figure, score in (("auroc of the cell's area", size), ("auroc of area and mean colour", regressed)):
            figures.add(on, figure, auroc(facts, score), *_auroc_interval(facts, score, units))
        figures.add(on, "auroc of the network at matched area", at_matched_size(own.truth, own.probability, size))


def _auroc_interval(truth: NDArray[np.bool_], score: Floats, units: list[str]) -> tuple[float, float]:
    return interval(lambda i: auroc(truth[i], score[i]), units, draws=500)


def _interval(figure: Callable[..., float], own: Judged, units: list[str]) -> tuple[float, float]:
    """Return the interval of a figure of truth and probability."""
    return interval(lambda i: figure(own.truth[i], own.probability[i]), units, draws=500)


def _by_subject(own: Judged) -> tuple[float, float, float]:
    """Return the AUROC of subjects, by the mean probability of their cells, with its interval."""
    names = np.unique(own.unit)
    mean = np.array([own.probability[own.unit == name].mean() for name in names])
    ill = np.array([bool(own.truth[own.unit == name].any()) for name in names])
    return auroc(ill, mean), *interval(lambda i: auroc(ill[i], mean[i]), list(names))


def _many_classes(figures: Figures, pictures: Pictures, answers: list[Any]) -> None:
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
