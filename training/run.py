"""A run: recipe and data to a folder with split, weights and what each fold's model says of the cells it has not seen.

    pictures.json       what is known of every picture, in the order that `places` counts
    run.json            recipe, start, command, seed, environment, git revision, digests of data and split
    split.json          every image's part in every fold
    crops/              the pictures as the network sees them
    features.npz        of a frozen backbone: what it says of every picture; start.safetensors: its weights
    fold0/ …            history.csv, state.npz (resume), weights.safetensors, valid.npz and test.npz (logits), done.json

A finished fold is not trained again; an unfinished one goes on at its last checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from allpacs.classify.aggregate import OTHER
from allpacs.classify.network import build_head, set_state, state_of
from allpacs.domain.errors import ConfigFault, InputFault
from training import devices, networks
from training.augment import augment
from training.controls import simple_features
from training.crops import Crops, joined, read_crops
from training.datasets import read
from training.fit import (
    CHECKPOINT,
    Examples,
    Progress,
    fit,
    freeze,
    logits_of,
    pooled_layer,
    set_head_norm,
    zero_last_layer,
)
from training.gate import drawn_outliers
from training.recipe import Fit, Recipe
from training.splits import TEST, TRAIN, VALID, Split, balanced, group_of, make_split, unit_of
from training.weights import begin
from training.whitening import fit_whitening, folded

WEIGHTS = "weights.safetensors"
START = "start.safetensors"


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """Pictures with labels among the recipe's classes, and who is trained on.

    Attributes
    ----------
    split:
        Of the samples: it does not depend on whether a cell was found in them.
    at:
        Place of each picture's sample in the split.
    kinds:
        Each picture's class, or of an outlier what its data set calls it.
    any_of:
        As `training.recipe.Data` has it.
    """

    cells: Crops
    split: Split
    classes: tuple[str, ...]
    at: NDArray[np.int64]
    kinds: tuple[str, ...]
    any_of: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def places(self, fold: int, part: str) -> NDArray[np.int64]:
        """Return the places of the pictures that a fold gives this part."""
        return np.flatnonzero(np.isin(self.at, self.split.places(fold, part)))

    @property
    def targets(self) -> NDArray[np.float32]:
        """Classes that each picture may be of, 1 for each: one, or several where its data set does not say which."""
        of = {name: (name,) for name in self.classes} | dict(self.any_of)
        rows = {label: np.isin(self.classes, names).astype(np.float32) for label, names in of.items()}
        return np.stack([rows[s.label] for s in self.cells.samples])


def prepare(recipe: Recipe, data: Mapping[str, Path], folder: Path) -> Prepared:
    """Read the recipe's data sets and split them; the split is written into the run's folder.

    Raises
    ------
    ConfigFault, InputFault
        A data set is missing or unknown, a class has no images, or the split cannot be made of them.
    """
    names = {name: name for name in recipe.data.classes} | recipe.data.names
    if recipe.gate is not None:
        names |= dict.fromkeys(recipe.gate.outliers, OTHER) | recipe.gate.named
    names |= {label: label for label in recipe.data.any_of}
    others = () if recipe.gate is None else recipe.gate.outputs
    contract, samples, parts = recipe.data.contract, [], []
    kinds: list[str] = []
    for name in recipe.data.sets:
        own = [s for s in read(name, data) if s.label in names]
        for label, most in recipe.data.at_most.items():
            labelled = [s for s in own if s.label == label]
            kept = set(labelled[:: max(len(labelled) // most, 1)][:most])
            own = [s for s in own if s.label != label or s in kept]
        kinds += [s.label if names[s.label] in others else names[s.label] for s in own]
        own = [replace(s, label=names[s.label]) for s in own]
        parts.append(read_crops(own, recipe.data.view, contract, folder / "crops"))
        samples += own
    if recipe.gate is not None:
        parts.append(drawn_outliers(contract, recipe.fit.seed, recipe.gate.drawn))
        samples += parts[-1].samples
        kinds += [recipe.gate.drawn] * len(parts[-1])
    cells = joined(parts)
    if recipe.data.filter_px:
        cells = Crops(_filtered(cells.pixels, recipe.data.filter_px), cells.samples)
    classes = recipe.data.classes + others
    counted = Counter(s.label for s in cells.samples)
    if empty := [name for name in classes if not counted[name]]:
        raise InputFault(f"class without images: {', '.join(empty)} (in {', '.join(recipe.data.sets)})")
    split = make_split(
        samples, recipe.split.kind, folds=recipe.split.folds, seed=recipe.fit.seed,
        test_sources=recipe.split.test_sources, dealt_by=kinds,
    )  # fmt: skip
    written = folder / "split.json"
    begun = written.is_file() and any(folder.glob("fold*/*"))
    if begun and json.loads(written.read_text())["digest"] != split.digest:
        raise ConfigFault(
            f"{folder} holds folds of another split (other images, or made by an earlier version): choose another --out"
        )
    split.save(written)
    at = {sample: place for place, sample in enumerate(samples)}
    places = np.array([at[s] for s in cells.samples])
    return Prepared(cells, split, classes, places, tuple(kinds[i] for i in places), recipe.data.any_of)


def run(
    recipe: Recipe, data: Mapping[str, Path], folder: Path, *, weights: str | None = None,
    folds: Sequence[int] | None = None, deterministic: bool = False,
) -> Prepared:  # fmt: skip
    """Train every fold of a recipe (or these), and write what each says of its validation and test pictures.

    Raises
    ------
    ConfigFault, InputFault
        The recipe and the data do not go together, or the folder holds a run of another recipe.
    ModelFault
        The loss is no longer finite.
    """
    import keras

    folder.mkdir(parents=True, exist_ok=True)
    start = weights or recipe.network.weights
    _assert_same(recipe, start, folder)
    if deterministic and keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    prepared = prepare(recipe, data, folder)
    _write_facts(recipe, start, prepared, folder)
    print(f"{recipe.name}: {len(prepared.cells)} pictures, split {prepared.split.digest}", flush=True)
    keras.mixed_precision.set_global_policy("mixed_float16" if recipe.fit.mixed_precision else "float32")
    try:
        features = _features(recipe, start, prepared, folder) if recipe.network.frozen == ("*",) else None
        for fold in range(len(prepared.split.folds)) if folds is None else folds:
            if fold >= len(prepared.split.folds):
                raise ConfigFault(f"--fold {fold}: the split has folds 0 to {len(prepared.split.folds) - 1}")
            if not (folder / f"fold{fold}" / "done.json").is_file():
                _train(recipe, start, prepared, features, fold, folder / f"fold{fold}")
    finally:
        keras.mixed_precision.set_global_policy("float32")
    return prepared


def build(recipe: Recipe, classes: int, start: str = "none", *, size_path: bool = False) -> Any:
    """Return the recipe's network: as it is trained, or with the size path that `export` sets."""
    own = recipe.network
    model = networks.build(
        own.name, classes, recipe.data.input_px, dense_units=own.dense_units, dropout=own.dropout,
        imagenet=start == "imagenet", seed=recipe.fit.seed, activation=own.activation, pooling=own.pooling,
        size_path=size_path,
    )  # fmt: skip
    networks.set_skip_rate(model, own.skip_rate)
    return model


def shares_of(cells: Crops, options: Fit) -> NDArray[np.float64] | None:
    """Return how often each picture is drawn; see `training.recipe.Fit`.

    With every cell alike, a few subjects would dominate; with every subject alike, single cells would be drawn over
    and over. The square root lies between. The sources of a class are drawn by the root of their numbers, too.
    """
    draw = options.draw
    if draw == "even":
        return None
    subjects = Counter(group_of(s) for s in cells.samples)
    shares = np.array([1.0 / np.sqrt(subjects[group_of(s)]) if s.subject else 1.0 for s in cells.samples])
    if draw == "class":
        shares = np.ones(len(cells))
    labels = np.array([s.label for s in cells.samples])
    sources = np.array([s.source for s in cells.samples])
    for label in set(labels):
        mine = labels == label
        if draw == "subject":
            for source in set(sources[mine]):
                members = mine & (sources == source)
                weight = options.source_weights.get(str(source), 1.0)
                shares[members] *= weight * np.sqrt(members.sum()) / shares[members].sum()
        shares[mine] *= options.weights.get(str(label), 1.0) / shares[mine].sum()
    drawn: NDArray[np.float64] = shares / shares.sum()
    return drawn


def _train(recipe: Recipe, start: str, prepared: Prepared, features: _Features | None, fold: int, folder: Path) -> None:
    """Train one fold, and write its weights and answers."""
    started = time.monotonic()
    cells, targets = prepared.cells, prepared.targets
    trained, validated, tested = (prepared.places(fold, part) for part in (TRAIN, VALID, TEST))
    if recipe.split.balance:
        trained = trained[balanced([cells.samples[i].label for i in trained], recipe.fit.seed)]
    if empty := [name for name, n in zip(prepared.classes, targets[trained].sum(axis=0), strict=True) if not n]:
        raise InputFault(f"fold {fold}: no training images of {', '.join(empty)}")
    print(f"fold {fold}: {len(trained)} to train, {len(validated)} to validate, {len(tested)} to test", flush=True)
    parts = (trained, validated)
    learned = (
        _learn_all(recipe, start, prepared, *parts, folder)
        if features is None
        else _learn_head(recipe, prepared, features, *parts, folder)
    )
    _save_weights(learned.state, folder / WEIGHTS)
    for part, places in ((VALID, validated), (TEST, tested)):
        logits = learned.answer(places) if len(places) else np.zeros((0, targets.shape[1]), np.float32)
        np.savez(folder / f"{part}.npz", places=places, logits=logits)
        if part == TEST and len(places):
            _save_errors(prepared, places, logits, folder)
    (folder / CHECKPOINT).unlink(missing_ok=True)
    facts = {"seconds": round(time.monotonic() - started), "epochs": learned.at.epoch,
             "best_epoch": learned.at.best_epoch, "start": learned.start, "trained_on": len(trained)}  # fmt: skip
    (folder / "done.json").write_text(json.dumps(facts))


@dataclass(frozen=True, slots=True, eq=False)
class _Learned:
    """What a fold came to: its weights by name, and the logits it gives for pictures at these places."""

    state: dict[str, NDArray[np.float32]]
    answer: Callable[[NDArray[np.int64]], NDArray[np.float32]]
    at: Progress
    start: str


@dataclass(frozen=True, slots=True, eq=False)
class _Features:
    """What a frozen backbone says of every picture's views, shape (views, n, features); the first view is plain.

    No label enters them, so one array serves all folds. `state` holds the backbone that said so.
    """

    of_views: NDArray[np.float32]
    state: dict[str, NDArray[np.float32]]
    start: str


def _learn_all(
    recipe: Recipe,
    start: str,
    prepared: Prepared,
    trained: NDArray[np.int64],
    validated: NDArray[np.int64],
    folder: Path,
) -> _Learned:
    """Train the network on pictures, but for its frozen layers."""
    cells, targets = prepared.cells, prepared.targets
    with devices.for_model():
        model = build(recipe, len(prepared.classes), start)
        begun = "resumed"
        if not (folder / CHECKPOINT).is_file():
            begun = begin(model, recipe, start, cells.pixels[trained])
        if recipe.network.frozen_norms and not (folder / CHECKPOINT).is_file():
            set_head_norm(model, cells.pixels[trained], recipe.fit.seed)
            zero_last_layer(model)
        freeze(model, recipe.network.frozen, norms=recipe.network.frozen_norms)
        training = Examples(cells.pixels[trained], targets[trained], shares_of(cells.pick(trained), recipe.fit))
        at = fit(model, training, Examples(cells.pixels[validated], targets[validated]), recipe.fit, folder)
    return _Learned(state_of(model), lambda places: logits_of(model, cells.pixels[places]), at, begun)


def _learn_head(
    recipe: Recipe, prepared: Prepared, features: _Features, trained: NDArray[np.int64], validated: NDArray[np.int64],
    folder: Path,
) -> _Learned:  # fmt: skip
    """Train a new head on a frozen backbone's features."""
    import keras

    views, _, width = features.of_views.shape
    cells = prepared.cells
    keras.utils.set_random_seed(recipe.fit.seed)
    whitening, seen = None, features.of_views
    if recipe.network.components:
        samples = [cells.samples[i] for i in trained]
        whitening = fit_whitening(
            features.of_views[0][trained], [s.label for s in samples], [group_of(s) for s in samples],
            recipe.network.components,
        )  # fmt: skip
        seen = whitening.applied(features.of_views)
    of_width = partial(
        build_head, [str(c) for c in range(len(prepared.classes))],
        dense_units=recipe.network.dense_units, dropout=recipe.network.dropout,
    )  # fmt: skip
    head = of_width(seen.shape[2], input_dropout=recipe.network.input_dropout, norm=whitening is None)
    if whitening is not None:
        zero_last_layer(head)
    targets = prepared.targets
    shares = shares_of(cells.pick(trained), recipe.fit)
    training = Examples(
        seen[:, trained].reshape(-1, seen.shape[2]),
        np.tile(targets[trained], (views, 1)),
        None if shares is None else np.tile(shares, views) / views,
    )
    at = fit(head, training, Examples(seen[0][validated], targets[validated]), recipe.fit, folder)
    whole = head
    if whitening is not None:
        whole = of_width(width)
        set_state(whole, folded(state_of(head), whitening))
    plain = features.of_views[0]
    state = features.state | state_of(whole)
    return _Learned(state, lambda places: logits_of(whole, plain[places]), at, features.start)


def _features(recipe: Recipe, start: str, prepared: Prepared, folder: Path) -> _Features:
    """Return the backbone's pooled features of every picture's views, kept in the run's folder."""
    import keras

    done = folder / "features.npz"
    if done.is_file():
        with np.load(done) as stored:
            return _Features(stored["features"], stored_weights(folder / START), str(stored["start"]))
    cells = prepared.cells
    model = build(recipe, len(prepared.classes), start)
    begun = begin(model, recipe, start, cells.pixels)
    backbone = keras.Model(model.input, pooled_layer(model).output)
    views = []
    for view in range(recipe.network.views):
        print(f"features: view {view + 1} of {recipe.network.views}", flush=True)
        random = np.random.default_rng([recipe.fit.seed, view])
        changed = cells.pixels
        if view:
            changed = np.stack([augment(picture, recipe.fit.augment, random) for picture in cells.pixels])
        views.append(logits_of(backbone, changed))
    features = _Features(np.stack(views), state_of(backbone), begun)
    _save_weights(features.state, folder / START)
    np.savez(done, features=features.of_views, start=begun)
    return features


def _filtered(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Return the pictures under a median filter (study 1)."""
    from scipy.ndimage import median_filter

    filtered: NDArray[np.uint8] = median_filter(pixels, size=(1, side, side, 1))
    return filtered


def stored_weights(path: Path) -> dict[str, NDArray[np.float32]]:
    """Return the weights that a finished fold holds."""
    return {name: value.astype(np.float32) for name, value in load_file(path).items()}


def _save_weights(state: Mapping[str, NDArray[np.float32]], path: Path) -> None:
    scratch = path.with_name(f".{path.name}.partial")
    save_file({name: np.ascontiguousarray(v) for name, v in state.items()}, scratch)
    scratch.replace(path)


def _assert_same(recipe: Recipe, start: str, folder: Path) -> None:
    """Refuse to go on with a run of another recipe."""
    if not (folder / "run.json").is_file():
        return
    before = json.loads((folder / "run.json").read_text())
    if before["recipe"] != json.loads(recipe.model_dump_json()) or before["start"] != start:
        raise ConfigFault(f"{folder} holds a run of another recipe or start: choose another --out, or delete it")


def _write_facts(recipe: Recipe, start: str, prepared: Prepared, folder: Path) -> None:
    import keras

    data = hashlib.sha256()
    for picture, place in zip(prepared.cells.pixels, prepared.at, strict=True):
        data.update(prepared.split.names[place].encode() + picture.tobytes())
    git = shutil.which("git")
    told = subprocess.run(  # noqa: S603
        [git or "git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, capture_output=True, text=True,
        check=False,
    ) if git else None  # fmt: skip
    facts = {
        "recipe": json.loads(recipe.model_dump_json()),
        "start": start,
        "command": " ".join(sys.argv[1:]),
        "split_digest": prepared.split.digest,
        "data_digest": f"sha256:{data.hexdigest()}",
        "pictures": dict(Counter(f"{s.source} {s.label}" for s in prepared.cells.samples)),
        "git": told.stdout.strip() if told and told.returncode == 0 else None,
        "python": platform.python_version(),
        "backend": keras.backend.backend(),
        "libraries": {
            name: _version(name) for name in ("keras", "tensorflow", "jax", "torch", "numpy", "scikit-learn")
        },
        "processors": os.cpu_count(),
    }
    (folder / "run.json").write_text(json.dumps(facts, indent=1))
    rows = [
        {"image": s.image.name, "label": s.label, "kind": kind, "source": s.source, "unit": unit_of(s),
         "subject": s.subject, "simple": [round(float(v), 4) for v in simple]}
        for s, kind, simple in zip(
            prepared.cells.samples, prepared.kinds, simple_features(prepared.cells.pixels), strict=True
        )
    ]  # fmt: skip
    (folder / "pictures.json").write_text(json.dumps(rows))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _save_errors(
    prepared: Prepared, places: NDArray[np.int64], logits: NDArray[np.float32], folder: Path, most: int = 16
) -> None:
    """Keep the pictures that the model was most wrong about, for the gallery."""
    true = prepared.targets[places].argmax(axis=1)
    over = logits.max(axis=1) - logits[np.arange(len(places)), true]
    worst = [i for i in np.argsort(-over)[:most] if over[i] > 0]
    pixels = prepared.cells.pixels[places[worst]] if worst else np.zeros((0, 1, 1, 3), np.uint8)
    np.savez(folder / "errors.npz", pixels=pixels, places=places[worst], called=logits[worst].argmax(axis=1))
