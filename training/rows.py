"""The figures of two classes: a table a data set, persons, and the controls beside the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allpacs.classify.aggregate import LABELS
from training.controls import at_matched_size, by_unit, regression
from training.figures import Figures, Floats, Judged, Pictures
from training.metrics import accuracy, auroc, brier, calibration_error, class_weights, interval, report, weighted_f1


def add_rows(figures: Figures, judged: Judged, said: Mapping[str, str]) -> None:
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
        if own.truth.any() and not own.truth.all():
            alike = calibration_error(own.truth, own.probability, weights=class_weights(own.truth))
            figures.add(on, "ECE after calibration, both classes weighing alike", alike)
    called = judged.probability >= 0.5
    names = [LABELS[0], LABELS[1]]
    truth, told = np.where(judged.truth, *names), np.where(called, *names)
    figures.confusion = confusion_matrix(truth, told, labels=names).tolist()
    figures.classification_report = classification_report(truth, told, labels=names, digits=4, zero_division=0)


def add_persons(figures: Figures, judged: Judged) -> None:
    """Note for each person how many cells got an answer, and how many of those are right."""
    own = judged.where(judged.by_subject)
    called_all, called_hem = own.probability >= own.all_at_least, own.probability <= own.hem_at_most
    figures.persons = by_unit(list(own.unit), own.truth, called_all, (called_all | called_hem) & own.passed)


def add_controls(figures: Figures, pictures: Pictures, answers: list[Any], judged: Judged) -> None:
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
