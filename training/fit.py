"""Training of a Keras 3 model on pictures in memory, on any backend: augmented, resumable at any step, repeatable.

Written as a loop rather than with ``Model.fit``: a run that is killed in the middle of an epoch goes on at its last
checkpoint with the same draws, augmentations and optimiser state, which Keras's own backup does not promise.
"""

from __future__ import annotations

import csv
import json
import math
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allpacs.classify.network import POOLED, set_state, state_of
from allpacs.domain.errors import ModelFault
from training import devices
from training.augment import augment
from training.recipe import Fit

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

CHECKPOINT = "state.npz"
HISTORY = "history.csv"
_COLUMNS = ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "seconds")


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """What is learned from or judged on.

    Attributes
    ----------
    pixels:
        ``uint8`` pictures (n, side, side, 3), which are augmented, or ``float32`` features (n, features), which are
        not.
    targets:
        Classes, ``float32`` (n, classes): 1 for each class that the picture may be of, mostly one.
    shares:
        How often each is drawn; sums to 1. None: each once an epoch.
    """

    pixels: Pixels | Floats
    targets: Floats
    shares: NDArray[np.float64] | None = None


@dataclass(slots=True)
class Progress:
    """How far a run is; `best` is the lowest validation loss, `waited` the epochs since."""

    epoch: int = 0
    step: int = 0
    best: float = math.inf
    best_epoch: int = 0
    waited: int = 0
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0])


def fit(
    model: Any,
    training: Examples,
    validation: Examples | None,
    options: Fit,
    folder: Path,
    save_every_s: float = 120.0,
) -> Progress:
    """Train the model, from the folder's checkpoint on where there is one.

    A model made in the context of `training.devices.for_model` is trained on all devices that are there. With
    `patience` it ends with the best epoch's weights, else with the last's.

    Parameters
    ----------
    validation:
        Judged after each epoch; needed for `patience`.
    save_every_s:
        Longest time between checkpoints in the middle of an epoch.

    Raises
    ------
    ModelFault
        The loss is no longer finite; the folder still holds the last good checkpoint.
    OSError
        The disk is full, or the folder cannot be written; the last checkpoint stands.
    """
    import keras

    folder.mkdir(parents=True, exist_ok=True)
    # On CPUs, XLA compiles for a minute and then trains at half the speed (measured, two cores, TensorFlow).
    compiled: Any = "auto" if _accelerated() else False
    model.compile(
        optimizer=_optimiser(options), loss=cross_entropy(options.label_smoothing), metrics=[accuracy],
        jit_compile=compiled,
    )  # fmt: skip
    model.optimizer.build(model.trainable_variables)
    some = slice(devices.count(model))
    devices.get_ready(model, training.pixels[some].astype(np.float32), training.targets[some])
    at = restore(model, folder / CHECKPOINT) if (folder / CHECKPOINT).is_file() else Progress()
    steps = math.ceil((options.per_epoch or len(training.pixels)) / options.batch)
    logged = _tensorboard(folder)
    while at.epoch < options.epochs and not (options.patience and at.waited >= options.patience):
        started = saved = time.monotonic()
        if at.step == 0:
            keras.utils.set_random_seed(options.seed + at.epoch)
            at.sums = [0.0, 0.0]
        drawn = _drawn(training, steps, options, at.epoch)
        said = _Said(at, steps, options)
        for step, (batch, chosen) in enumerate(_batches(training, drawn, options, at.epoch, at.step), start=at.step):
            if options.schedule == "cosine":
                rate = options.learning_rate * pace(at.epoch * steps + step, options.epochs * steps)
                model.optimizer.learning_rate = rate
            answer = devices.train_step(model, batch, training.targets[chosen])
            if not math.isfinite(float(answer["loss"])):
                raise ModelFault(
                    f"the loss is not finite in epoch {at.epoch + 1}, step {step + 1}: lower fit.learning_rate and run "
                    f"again; {CHECKPOINT} holds the last good weights"
                )
            at.sums[0] += float(answer["loss"])
            at.sums[1] += float(answer["accuracy"])
            at.step = step + 1
            said.step(at)
            if at.step < steps and time.monotonic() - saved > save_every_s:
                keep(model, at, folder / CHECKPOINT)
                saved = time.monotonic()
        _end_epoch(model, at, steps, validation, folder, time.monotonic() - started, logged)
        keep(model, at, folder / CHECKPOINT)
    if options.patience and (folder / "best.npz").is_file():
        set_state(model, stored_state(folder / "best.npz"))
    return at


def cross_entropy(label_smoothing: float) -> Any:
    """Return the loss: minus the logarithm of the probability that a picture is of one of the classes it may be of.

    For one class that is the categorical cross-entropy, with label smoothing as Keras has it. For several it asks
    nothing of how the probability is shared among them (partial labels: Jin and Ghahramani 2002).
    """
    import keras

    def loss(targets: Any, logits: Any) -> Any:
        log = keras.ops.log_softmax(logits, axis=-1)
        allowed = keras.ops.logsumexp(log + keras.ops.log(targets), axis=-1)  # log 0: not allowed
        spread = keras.ops.mean(log, axis=-1)
        return -(1 - label_smoothing) * allowed - label_smoothing * spread

    return loss


def accuracy(targets: Any, logits: Any) -> Any:
    """Return for each picture whether the class with the highest score is one that it may be of."""
    import keras

    called = keras.ops.one_hot(keras.ops.argmax(logits, axis=-1), logits.shape[-1])
    return keras.ops.cast(keras.ops.sum(called * targets, axis=-1) > 0, "float32")


def _optimiser(options: Fit) -> Any:
    """Return Adam, or AdamW with clipped gradients."""
    import keras

    if not options.weight_decay and not options.clip_norm:
        return keras.optimizers.Adam(options.learning_rate)
    return keras.optimizers.AdamW(
        options.learning_rate, weight_decay=options.weight_decay, global_clipnorm=options.clip_norm or None
    )


def pace(step: int, steps: int) -> float:
    """Return the share of the highest learning rate at a step: up within the first twentieth, then down to 0.01."""
    warm = max(steps // 20, 1)
    if step < warm:
        return (step + 1) / warm
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(steps - warm, 1)))


def keep(model: Any, at: Progress, path: Path) -> None:
    """Write weights, optimiser and random generators' state, and how far it is: whole or not at all."""
    arrays: dict[str, Any] = {f"weight:{name}": value for name, value in state_of(model).items()}
    arrays |= {f"optimiser:{i}": np.asarray(v) for i, v in enumerate(model.optimizer.variables)}
    arrays |= {f"random:{i}": np.asarray(v) for i, v in enumerate(_generators(model))}
    _write(path, arrays, at)


def restore(model: Any, path: Path) -> Progress:
    """Give a compiled model the state that `keep` wrote; return how far it was."""
    with np.load(path) as stored:
        for i, variable in enumerate(model.optimizer.variables):
            variable.assign(stored[f"optimiser:{i}"])
        for i, variable in enumerate(_generators(model)):
            variable.assign(stored[f"random:{i}"])
        at = Progress(**json.loads(str(stored["progress"])))
    set_state(model, stored_state(path))
    return at


def stored_state(path: Path) -> dict[str, Floats]:
    """Return the weights of a checkpoint."""
    with np.load(path) as stored:
        return {name.removeprefix("weight:"): stored[name] for name in stored.files if name.startswith("weight:")}


def reestimate_batch_norm(model: Any, pixels: Pixels, batch: int = 32) -> None:
    """Replace the running statistics of batch normalisation by the means over these unlabelled cells."""
    import keras

    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [layer.momentum for layer in norms]
    for done in range(max(len(pixels) // batch, 1)):
        for layer in norms:
            layer.momentum = done / (done + 1)  # the running value becomes the plain mean of all batches
        model(pixels[done * batch : (done + 1) * batch].astype(np.float32), training=True)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum


def set_head_norm(model: Any, pixels: Pixels, seed: int, pictures: int = 1024) -> None:
    """Set the head's batch normalisation to the mean and variance of the features of some unlabelled cells."""
    import keras

    some = np.random.default_rng(seed).permutation(len(pixels))[:pictures]
    features = logits_of(keras.Model(model.input, pooled_layer(model).output), pixels[some])
    norm = model.get_layer("head_bn")
    norm.moving_mean.assign(features.mean(axis=0))
    norm.moving_variance.assign(features.var(axis=0))


def pooled_layer(model: Any) -> Any:
    """Return the layer that the head begins at."""
    names = {layer.name for layer in model.layers}
    return model.get_layer(next(name for name in POOLED.values() if name in names))


def zero_last_layer(model: Any) -> None:
    """Let the last layer start at zero, so that the loss starts at that of guessing and not far above it."""
    import keras

    last = model.get_layer("head_logits")
    last.kernel.assign(keras.ops.zeros_like(last.kernel))


def freeze(model: Any, beginnings: tuple[str, ...], *, norms: bool) -> None:
    """Freeze the layers whose names begin so and, with `norms`, all batch normalisation."""
    import keras

    for layer in model.layers:
        if (beginnings and layer.name.startswith(beginnings)) or (
            norms and isinstance(layer, keras.layers.BatchNormalization)
        ):
            layer.trainable = False


def logits_of(model: Any, pixels: Pixels | Floats, batch: int = 64) -> Floats:
    """Return the model's answers, shape (n, outputs)."""
    if not _accelerated():
        model.jit_compile = False  # see `fit`
    answers = []
    for start in range(0, len(pixels), batch):
        one = pixels[start : start + batch].astype(np.float32)
        filled = np.concatenate([one, np.repeat(one[:1], -len(one) % devices.count(model), axis=0)])
        # Of TensorFlow's devices each answers for the whole batch, one after the other.
        answers.append(_array(model.predict_on_batch(filled))[: len(one)])
    return np.concatenate(answers)


def _end_epoch(
    model: Any, at: Progress, steps: int, validation: Examples | None, folder: Path, seconds: float, logged: Any
) -> None:
    """Judge the epoch, keep its weights if they are the best yet, and write it into the history."""
    row = {"epoch": at.epoch + 1, "loss": at.sums[0] / steps, "accuracy": at.sums[1] / steps, "seconds": seconds}
    if validation is not None and len(validation.targets):
        row["val_loss"], row["val_accuracy"] = judged(logits_of(model, validation.pixels), validation.targets)
        at.waited += 1
        if row["val_loss"] < at.best:
            at.best, at.best_epoch, at.waited = row["val_loss"], at.epoch + 1, 0
            _write(folder / "best.npz", {f"weight:{n}": v for n, v in state_of(model).items()}, at)
    at.epoch, at.step = at.epoch + 1, 0
    new = not (folder / HISTORY).is_file()
    with (folder / HISTORY).open("a", newline="") as stream:
        table = csv.DictWriter(stream, _COLUMNS, lineterminator="\n")
        if new:
            table.writeheader()
        table.writerow({name: f"{value:.6g}" for name, value in row.items()})
    if logged is not None:
        logged(at.epoch, {name: value for name, value in row.items() if name not in {"epoch"}})
    print(f"  epoch {at.epoch}: " + ", ".join(f"{n} {v:.4g}" for n, v in row.items() if n != "epoch"), flush=True)


def judged(logits: Floats, targets: Floats) -> tuple[float, float]:
    """Return the cross-entropy, every class weighing the same, and the share right."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    each = -np.log(np.maximum((np.exp(log) * targets).sum(axis=1), 1e-12))
    shares = targets / targets.sum(axis=1, keepdims=True)
    present = shares.sum(axis=0) > 0
    by_class = (each[:, np.newaxis] * shares).sum(axis=0)[present] / shares.sum(axis=0)[present]
    return float(by_class.mean()), float(targets[np.arange(len(targets)), logits.argmax(axis=1)].mean())


def _drawn(training: Examples, steps: int, options: Fit, epoch: int) -> NDArray[np.int64]:
    """Return which examples an epoch shows, in order."""
    random = np.random.default_rng([options.seed, epoch])
    wanted, there = steps * options.batch, len(training.pixels)
    if training.shares is not None:
        return random.choice(there, wanted, p=training.shares)
    return np.concatenate([random.permutation(there) for _ in range(math.ceil(wanted / there))])[:wanted]


def _batches(
    training: Examples, drawn: NDArray[np.int64], options: Fit, epoch: int, first: int
) -> Iterator[tuple[Floats, NDArray[np.int64]]]:
    """Yield augmented batches from a step on, and which examples they hold; made two batches ahead of the model."""

    def make(step: int) -> tuple[Floats, NDArray[np.int64]]:
        chosen = drawn[step * options.batch : (step + 1) * options.batch]
        if training.pixels.ndim == 2:
            return training.pixels[chosen].astype(np.float32), chosen
        random = np.random.default_rng([options.seed, epoch, step])
        pictures = [augment(training.pixels[i].astype(np.uint8), options.augment, random) for i in chosen]
        return np.stack(pictures).astype(np.float32), chosen

    steps = range(first, len(drawn) // options.batch)
    with ThreadPoolExecutor(2) as makers:
        waiting = [makers.submit(make, step) for step in steps[:2]]
        for step in steps:
            ready = waiting.pop(0).result()
            if step + 2 in steps:
                waiting.append(makers.submit(make, step + 2))
            yield ready


def _write(path: Path, arrays: dict[str, Any], at: Progress) -> None:
    scratch = path.with_suffix(".part.npz")
    try:
        facts = {name: getattr(at, name) for name in Progress.__slots__}
        np.savez(scratch, progress=json.dumps(facts), **arrays)
        scratch.replace(path)
    except OSError as fault:
        scratch.unlink(missing_ok=True)
        raise OSError(
            f"{path} cannot be written ({fault}): the last checkpoint stands; free space and run again"
        ) from fault


def _generators(model: Any) -> list[Any]:
    """Return the states of the model's random generators (dropout)."""
    return [v for layer in model.layers for v in layer.variables if v.name == "seed_generator_state"]


def _array(tensor: Any) -> Floats:
    import keras

    return np.asarray(keras.ops.convert_to_numpy(tensor), np.float32)


def _accelerated() -> bool:
    """Whether the backend computes on something else than the CPU."""
    import keras

    return (
        any("cpu" not in str(device).lower() for device in keras.distribution.list_devices())
        if (keras.backend.backend() != "torch")
        else False
    )


def _tensorboard(folder: Path) -> Any:
    """Return a function that logs an epoch's figures for TensorBoard; None with a backend that cannot."""
    import keras

    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    writer = tf.summary.create_file_writer(str(folder / "tensorboard"))

    def log(epoch: int, figures: dict[str, float]) -> None:
        with writer.as_default(step=epoch):
            for name, value in figures.items():
                tf.summary.scalar(name, value)
        writer.flush()

    return log


class _Said:
    """How far an epoch is: a bar on a terminal, else a line now and then, for a log."""

    def __init__(self, at: Progress, steps: int, options: Fit, every_s: float = 30.0) -> None:
        import keras

        self._epoch, self._steps, self._every_s = f"{at.epoch + 1}/{options.epochs}", steps, every_s
        self._started = self._last = time.monotonic()
        self._bar = None
        if sys.stdout.isatty():
            print(f"  epoch {self._epoch}", flush=True)
            self._bar = keras.utils.Progbar(steps, stateful_metrics=["loss"])

    def step(self, at: Progress) -> None:
        """Say that a step is done."""
        mean, now = at.sums[0] / at.step, time.monotonic()
        if self._bar is not None:
            self._bar.update(at.step, [("loss", mean)])
        elif now - self._last > self._every_s:
            seconds = now - self._started
            print(
                f"  epoch {self._epoch} step {at.step}/{self._steps} mean loss {mean:.4f} after {seconds:.0f} s",
                flush=True,
            )
            self._last = now
