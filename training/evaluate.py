"""Figures of a run: by source, with intervals, before and after calibration; written with their plots."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allpacs.classify.aggregate import LABELS
from allpacs.classify.aggregate import label as decide
from allpacs.domain.errors import InputFault
from training.datasets import NORMAL
from training.figures import FEW, Figures, Floats, Judged, Pictures
from training.limits import Limits, limits_of, other_of, pooled
from training.metrics import (
    interval,
    sigmoid,
)  # fmt: skip
from training.recipe import gate_outputs
from training.rows import add_controls, add_persons, add_rows
from training.seen import Told, kinds_of, per_label, seen_by, seen_said
from training.splits import TEST, VALID


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
        "seen_by_start": seen_said(pictures, tested, mask, keep_seen),
        "outputs": outputs_of(recipe), "size_path": bool(recipe["network"].get("size_path")),
    }  # fmt: skip
    if tuple(classes) == LABELS:
        _two_classes(figures, pictures, answers, (recipe["gate"] or {}).get("acceptance", 1.0), Told(
            per_label(pictures, tested), per_label(pictures, tested[mask[tested]]), keep_seen,
            kinds_of(pictures, {} if seen is None else seen.labels),
        ))  # fmt: skip
    else:
        _many_classes(figures, pictures, answers[TEST])
    return figures


def outputs_of(recipe: Mapping[str, Any]) -> list[str]:
    """Return the outputs that a run's network has beside the two classes, as ``run.json`` states its recipe."""
    gate = recipe.get("gate")
    if gate is None:
        return []
    return list(gate_outputs(gate.get("named") or {}))


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
    figures: Figures, pictures: Pictures, answers: dict[str, list[Any]], acceptance: float, told: Told
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
    add_rows(figures, judged, {source: told.of(source, LABELS) for source in set(judged.source)})
    add_persons(figures, judged)
    if all("simple" in p for p in pictures):
        add_controls(figures, pictures, answers[TEST], judged)
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
