"""Figures of a bundle on data sets, each cell read and judged as serving does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from allpacs.classify.aggregate import LABELS
from training.datasets import NORMAL
from training.figures import Figures, Judged
from training.gate import false_accepts
from training.limits import other_of
from training.metrics import sigmoid
from training.rows import add_rows

#: Data sets whose pictures are cut from another one's: who has learned from the one has seen the other.
CUT_FROM = {"ALL-IDB2": "ALL-IDB1"}


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
            lymphoid = 1.0 - other[own] if NORMAL in label else np.ones(int(own.sum()))  # see `training.evaluate`
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
        add_rows(figures, judged, said)
    for (source, kind), values in outliers.items():
        on = f"{source} {kind}"
        for share, number in false_accepts({on: values}, bundle.other_at_most).values():
            figures.add(f"{on} ({number}){said.get(source, '')}", "false accept", share)
    return figures
