"""The first bundle: Lite2 start → PBC cell types → ALL against HEM, judged on subjects held out."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allpacs.classify.aggregate import LABELS
from allpacs.classify.engines.network import build_network, set_state, state_of
from allpacs.classify.preprocess import Preprocessing
from training.datasets import PBC_TYPES, READERS, Crops, Sample, read_crops
from training.fit import FitOptions, fit, keep, logits_of, reestimate_batch_norm, stored_state
from training.lite2 import lite2_path, read_legacy_pth, start_from_lite2
from training.splits import digest_of, group_of, subject_folds

FOLDS = 4
#: The fold whose cells the shipped weights have never seen; chosen before any result, as it holds out middling
#: subjects (neither the largest, which would leave too little to learn from, nor only the smallest).
SHIPPED_FOLD = 2
SEED = 20
#: Share of ALL-IDB2 among the cells drawn; the rest are of C-NMC.
ALLIDB2_SHARE = 0.4
PRETRAINING = FitOptions(epochs=3, cells_per_epoch=2560, learning_rate=1e-3, seed=SEED)
FINE_TUNING = FitOptions(epochs=6, cells_per_epoch=416, learning_rate=3e-4, seed=SEED)
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
    """Return the cells of C-NMC and ALL-IDB2, and the fold of each."""
    parts = [read_crops(READERS[name](data), contract, work / "crops") for name in ("cnmc", "allidb2")]
    cells = Crops(np.concatenate([p.pixels for p in parts]), tuple(s for p in parts for s in p.samples))
    return cells, subject_folds(cells.samples, FOLDS)


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
    strata = [(s.label, s.subject is None) for s in cells.samples]
    for stratum in set(strata):
        members = np.array([s == stratum for s in strata])
        shares[members] *= (ALLIDB2_SHARE if stratum[1] else 1 - ALLIDB2_SHARE) / shares[members].sum()
    whole: NDArray[np.float64] = shares / shares.sum()
    return whole


def fine_tune(
    cells: Crops, folds: list[int], fold: int, pretrained: Path, work: Path, options: FitOptions = FINE_TUNING
) -> FoldResult:
    """Train ALL against HEM on every fold but one; return what the model says of that one. Reuses a finished run."""
    done = work / f"fold{fold}.result.npz"
    held_out = np.flatnonzero(np.array(folds) == fold)
    if done.is_file():
        with np.load(done) as stored:
            return FoldResult(fold, stored["indices"], stored["logits"])
    training = cells.pick(np.flatnonzero(np.array(folds) != fold))
    started = time.monotonic()
    model = build_network(LABELS, input_px=cells.pixels.shape[1], seed=options.seed)
    head = {name: value for name, value in state_of(model).items() if name.startswith("head_logits/")}
    set_state(model, stored_state(pretrained) | head)
    targets = np.eye(2, dtype=np.float32)[[LABELS.index(s.label) for s in training.samples]]
    print(f"fold {fold}: training on {len(targets)} cells, {len(held_out)} held out", flush=True)
    fit(model, training.pixels, targets, draw_shares(training), options, work / f"fold{fold}.npz")
    mixed = np.random.default_rng(options.seed).permutation(len(targets))
    reestimate_batch_norm(model, training.pixels[mixed])
    keep(model, options.epochs, work / f"fold{fold}.weights.npz")
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
        "fine_tuning": asdict(FINE_TUNING),
        "fold_cells": {
            f: Counter(f"{s.source} {s.label}" for s, own in zip(cells.samples, folds, strict=True) if own == f)
            for f in range(FOLDS)
        },
    }
    work.mkdir(parents=True, exist_ok=True)
    (work / "run.json").write_text(json.dumps(facts, indent=2))
    return facts
