"""The first bundle: Lite2 start → PBC cell types → ALL against HEM, judged on subjects held out."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allpacs.classify.aggregate import LABELS
from allpacs.classify.engines.network import build_head, build_network, set_state, state_of
from allpacs.classify.preprocess import Preprocessing
from training.augment import augment
from training.datasets import PBC_TYPES, READERS, Crops, Sample, read_crops
from training.fit import FitOptions, fit, logits_of, reestimate_batch_norm, stored_state
from training.lite2 import lite2_path, read_legacy_pth, start_from_lite2
from training.splits import digest_of, group_of, subject_folds

FOLDS = 4
#: The fold whose cells the shipped weights have never seen; chosen before any result, as it holds out middling
#: subjects (neither the largest, which would leave too little to learn from, nor only the smallest).
SHIPPED_FOLD = 2
SEED = 20
#: How often each source is drawn within a class, where it holds that class.
SOURCE_SHARES = {"C-NMC 2019": 0.5, "ALL-IDB2": 0.35, "PBC Barcelona": 0.15}
#: Normal lymphocytes of PBC that stand on the HEM side. They are no hematogones; without them the model takes nearly
#: every lymphocyte of a laboratory it does not know for a lymphoblast.
PBC_LYMPHOCYTES = 240
#: Augmented views of each cell whose features the head learns from; the first is the cell itself.
VIEWS = 10
PRETRAINING = FitOptions(epochs=3, cells_per_epoch=2560, learning_rate=1e-3, seed=SEED)
HEAD = FitOptions(epochs=12, cells_per_epoch=8192, learning_rate=5e-4, batch=128, seed=SEED)
FINE_TUNING = FitOptions(epochs=3, cells_per_epoch=416, learning_rate=1e-4, seed=SEED)
PBC_HELD_OUT_PER_TYPE = 60


@dataclass(frozen=True, slots=True, eq=False)
class FoldResult:
    """What the model of one fold says of the cells it has not seen.

    Attributes
    ----------
    indices:
        Places of these cells among all cells.
    logits:
        ``float32`` (cells, 2), uncalibrated.
    """

    fold: int
    indices: NDArray[np.int64]
    logits: NDArray[np.float32]


def read_target_cells(data: Path, work: Path, contract: Preprocessing) -> tuple[Crops, list[int]]:
    """Return the cells of C-NMC, ALL-IDB2 and PBC's lymphocytes (as HEM), and the fold of each."""
    pbc = READERS["pbc"](data)
    unseen = set(pbc_held_out(pbc))
    lymphocytes = [s for s in pbc if s.label == "lymphocyte" and s not in unseen]
    parts = [read_crops(READERS[name](data), contract, work / "crops") for name in ("cnmc", "allidb2")]
    parts.append(
        read_crops(lymphocytes[:: len(lymphocytes) // PBC_LYMPHOCYTES][:PBC_LYMPHOCYTES], contract, work / "crops")
    )
    samples = tuple(replace(s, label="HEM") if s.label == "lymphocyte" else s for p in parts for s in p.samples)
    return Crops(np.concatenate([p.pixels for p in parts]), samples), subject_folds(samples, FOLDS)


def pretrain(data: Path, work: Path, contract: Preprocessing, options: FitOptions = PRETRAINING) -> Path:
    """Train on PBC's eight types from Lite2's filters; return the checkpoint. Continues from one that is there."""
    checkpoint = work / "pretraining.npz"
    samples = READERS["pbc"](data)
    unseen = set(pbc_held_out(samples))
    cells = read_crops(samples, contract, work / "crops")
    labels = np.array([PBC_TYPES.index(s.label) for s in cells.samples])
    held_out = np.array([s in unseen for s in cells.samples])
    training = np.flatnonzero(~held_out)
    model = build_network(PBC_TYPES, input_px=contract.input_px, seed=options.seed)
    if not checkpoint.is_file():
        print("starting from Lite2", flush=True)
        set_state(model, start_from_lite2(state_of(model), read_legacy_pth(lite2_path())))
        some = np.random.default_rng(options.seed).choice(training, 1024, replace=False)
        reestimate_batch_norm(model, cells.pixels[some])
    counts = np.bincount(labels[training])
    shares = 1.0 / counts[labels[training]] / len(counts)
    print(f"pre-training on {len(training)} cells of PBC", flush=True)
    targets = np.eye(len(PBC_TYPES), dtype=np.float32)[labels[training]]
    fit(model, cells.pixels[training], targets, shares, options, checkpoint)
    right = logits_of(model, cells.pixels[held_out]).argmax(axis=1) == labels[held_out]
    facts = {"accuracy": float(right.mean()), "cells": len(right), "trained_on": len(training)}
    (work / "pretraining.json").write_text(json.dumps(facts, indent=2))
    print(f"PBC, {len(right)} cells held out: accuracy {right.mean():.3f}", flush=True)
    return checkpoint


def pbc_held_out(samples: Sequence[Sample]) -> list[Sample]:
    """Return the PBC cells that pre-training never sees: the same number of each type."""
    labels = np.array([s.label for s in samples])
    random = np.random.default_rng(SEED)
    chosen = [random.choice(np.flatnonzero(labels == kind), PBC_HELD_OUT_PER_TYPE, replace=False) for kind in PBC_TYPES]
    return [samples[int(i)] for i in np.sort(np.concatenate(chosen))]


def draw_shares(cells: Crops) -> NDArray[np.float64]:
    """Return how often each cell is drawn: classes alike; sources in fixed shares; subjects by the root of their cells.

    With every cell alike, a few subjects would dominate; with every subject alike, single cells would be drawn over
    and over. The square root lies between.
    """
    subjects = Counter(group_of(s) for s in cells.samples)
    shares = np.array([1.0 / np.sqrt(subjects[group_of(s)]) if s.subject else 1.0 for s in cells.samples])
    strata = [(s.label, s.source) for s in cells.samples]
    for label in LABELS:
        whole = sum(SOURCE_SHARES[source] for own, source in set(strata) if own == label)
        for source in SOURCE_SHARES:
            members = np.array([stratum == (label, source) for stratum in strata])
            if members.any():
                shares[members] *= 0.5 * SOURCE_SHARES[source] / whole / shares[members].sum()
    return shares


def features_of(cells: Crops, pretrained: Path, work: Path) -> NDArray[np.float32]:
    """Return the pooled features of every cell's augmented views, shape (views, cells, features).

    No label enters them, so one array serves all folds.
    """
    import keras

    done = work / "features.npz"
    if done.is_file():
        with np.load(done) as stored:
            known: NDArray[np.float32] = stored["features"]
            return known
    model = build_network(PBC_TYPES, input_px=cells.pixels.shape[1])
    set_state(model, stored_state(pretrained))
    backbone = keras.Model(model.input, model.get_layer("avg_pool").output)
    views = []
    for view in range(VIEWS):
        print(f"features: view {view + 1} of {VIEWS}", flush=True)
        random = np.random.default_rng([SEED, view])
        pixels = cells.pixels if view == 0 else np.stack([augment(crop, random) for crop in cells.pixels])
        views.append(logits_of(backbone, pixels))
    features = np.stack(views)
    np.savez(done, features=features)
    return features


def fine_tune(
    cells: Crops, features: NDArray[np.float32], folds: list[int], fold: int, pretrained: Path, work: Path
) -> FoldResult:
    """Train ALL against HEM on every fold but one; return what the model says of that one. Reuses a finished run.

    First the head alone on the features, then everything but the backbone's batch normalisation, slowly: a random head
    would otherwise spoil the backbone before it has learned.

    Source: Kumar et al. 2022, Fine-Tuning Can Distort Pretrained Features and Underperform Out-of-Distribution.
    """
    import keras

    done = work / f"fold{fold}.result.npz"
    held_out = np.flatnonzero(np.array(folds) == fold)
    if done.is_file():
        with np.load(done) as stored:
            return FoldResult(fold, stored["indices"], stored["logits"])
    learned = np.flatnonzero(np.array(folds) != fold)
    training = cells.pick(learned)
    shares = draw_shares(training)
    targets = np.eye(2, dtype=np.float32)[[LABELS.index(s.label) for s in training.samples]]
    started = time.monotonic()
    print(f"fold {fold}: training on {len(targets)} cells, {len(held_out)} held out", flush=True)

    keras.utils.set_random_seed(SEED)
    head = build_head(LABELS, features.shape[2])
    seen = features[:, learned].reshape(-1, features.shape[2])
    fit(head, seen, np.tile(targets, (VIEWS, 1)), np.tile(shares, VIEWS) / VIEWS, HEAD, work / f"fold{fold}.head.npz")

    model = build_network(LABELS, input_px=cells.pixels.shape[1], seed=SEED)
    backbone = {name: value for name, value in stored_state(pretrained).items() if not name.startswith("head_")}
    set_state(model, backbone | state_of(head))
    np.savez(work / f"fold{fold}.head-result.npz", indices=held_out, logits=logits_of(model, cells.pixels[held_out]))
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False  # keeps its statistics: batches of a few hundred cells would make poor ones
    fit(model, training.pixels, targets, shares, FINE_TUNING, work / f"fold{fold}.npz")
    logits = logits_of(model, cells.pixels[held_out])
    np.savez(done, indices=held_out, logits=logits)
    print(f"fold {fold}: done in {time.monotonic() - started:.0f} s", flush=True)
    return FoldResult(fold, held_out, logits)


def write_run_facts(cells: Crops, folds: list[int], work: Path) -> dict[str, Any]:
    """Write and return what identifies the run: options, seed, digest of the split, cells of each fold."""
    facts = {
        "seed": SEED,
        "folds": FOLDS,
        "shipped_fold": SHIPPED_FOLD,
        "split_digest": digest_of(cells.samples, folds),
        "pretraining": asdict(PRETRAINING),
        "head": asdict(HEAD),
        "fine_tuning": asdict(FINE_TUNING),
        "fold_cells": {
            f: Counter(f"{s.source} {s.label}" for s, own in zip(cells.samples, folds, strict=True) if own == f)
            for f in range(FOLDS)
        },
    }
    work.mkdir(parents=True, exist_ok=True)
    (work / "run.json").write_text(json.dumps(facts, indent=2))
    return facts
