"""Training of a Keras 3 model on crops in memory: augmented, checkpointed after each epoch, resumable, repeatable."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allpacs.classify.engines.network import set_state, state_of
from allpacs.domain.errors import ModelFault
from training.augment import augment

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class FitOptions:
    """How long and how fast to learn.

    Attributes
    ----------
    cells_per_epoch:
        Cells drawn in an epoch, each one augmented anew.
    learning_rate:
        Adam's, at its highest: warmed up over the first steps, then lowered along a cosine to a hundredth.
    """

    epochs: int
    cells_per_epoch: int
    learning_rate: float
    batch: int = 32
    label_smoothing: float = 0.05
    seed: int = 20


def fit(
    model: Any,
    pixels: Pixels | Floats,
    targets: Floats,
    shares: NDArray[np.float64],
    options: FitOptions,
    checkpoint: Path,
) -> None:
    """Train the model, from the checkpoint on where there is one.

    Parameters
    ----------
    pixels, targets:
        ``uint8`` crops (n, side, side, 3), which are augmented, or ``float32`` features (n, features), which are not;
        one-hot classes (n, classes).
    shares:
        How often each cell is drawn; sums to 1.

    Raises
    ------
    ModelFault
        The loss is no longer finite; the checkpoint still holds the last epoch's weights.
    """
    import keras

    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=options.label_smoothing)
    model.compile(optimizer=keras.optimizers.Adam(options.learning_rate), loss=loss)
    model.optimizer.build(model.trainable_variables)
    first = restore(model, checkpoint) if checkpoint.is_file() else 0
    steps = math.ceil(options.cells_per_epoch / options.batch)
    for epoch in range(first, options.epochs):
        started = time.monotonic()
        keras.utils.set_random_seed(options.seed + epoch)
        random = np.random.default_rng([options.seed, epoch])
        drawn = random.choice(len(pixels), steps * options.batch, p=shares)
        losses: list[float] = []
        for step, (batch, chosen) in enumerate(_augmented(pixels, drawn, options, epoch)):
            model.optimizer.learning_rate = options.learning_rate * pace(epoch * steps + step, options.epochs * steps)
            losses.append(float(model.train_on_batch(batch, targets[chosen])))
            if not math.isfinite(losses[-1]):
                raise ModelFault(f"loss is not finite in epoch {epoch + 1}, step {step + 1}: lower the learning rate")
            model.reset_metrics()  # each step's own loss, not the mean since the start
            if step % (20 if pixels.ndim > 2 else 1000) == 0:
                speed = (step + 1) * options.batch / (time.monotonic() - started)
                print(
                    f"  epoch {epoch + 1} step {step + 1}/{steps} loss {losses[-1]:.4f} {speed:.1f} cells/s", flush=True
                )
        keep(model, epoch + 1, checkpoint)
        _say(
            f"epoch {epoch + 1}/{options.epochs} mean loss {np.mean(losses):.4f} in {time.monotonic() - started:.0f} s"
        )


def pace(step: int, steps: int) -> float:
    """Return the share of the highest learning rate at a step: up within the first twentieth, then down to 0.01."""
    warm = max(steps // 20, 1)
    if step < warm:
        return (step + 1) / warm
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(steps - warm, 1)))


def keep(model: Any, epochs_done: int, path: Path) -> None:
    """Write weights, optimiser state and epochs done, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {f"weight:{name}": value for name, value in state_of(model).items()}
    arrays |= {f"optimiser:{i}": np.asarray(v) for i, v in enumerate(model.optimizer.variables)}
    scratch = path.with_suffix(".part.npz")
    np.savez(scratch, epochs_done=epochs_done, **arrays)
    scratch.replace(path)


def restore(model: Any, path: Path) -> int:
    """Give a compiled model the state that `keep` wrote; return the epochs done."""
    with np.load(path) as stored:
        for i, variable in enumerate(model.optimizer.variables):
            variable.assign(stored[f"optimiser:{i}"])
        epochs_done = int(stored["epochs_done"])
    set_state(model, stored_state(path))
    return epochs_done


def stored_state(path: Path) -> dict[str, Floats]:
    """Return the weights of a checkpoint."""
    with np.load(path) as stored:
        return {name.removeprefix("weight:"): stored[name] for name in stored.files if name.startswith("weight:")}


def reestimate_batch_norm(model: Any, pixels: Pixels, batch: int = 32) -> None:
    """Replace the running statistics of batch normalisation by the means over these unlabelled cells."""
    import keras

    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [layer.momentum for layer in norms]
    for done in range(len(pixels) // batch):
        for layer in norms:
            layer.momentum = done / (done + 1)  # the running value becomes the plain mean of all batches
        model(pixels[done * batch : (done + 1) * batch].astype(np.float32), training=True)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum


def logits_of(model: Any, pixels: Pixels, batch: int = 64) -> Floats:
    """Return the model's logits for crops, shape (n, classes)."""
    parts = [
        np.asarray(model.predict_on_batch(pixels[start : start + batch].astype(np.float32)))
        for start in range(0, len(pixels), batch)
    ]
    return np.concatenate(parts)


def _augmented(
    pixels: Pixels | Floats, drawn: NDArray[np.int64], options: FitOptions, epoch: int
) -> Iterator[tuple[Floats, NDArray[np.int64]]]:
    """Yield augmented batches and which cells they hold, one batch ahead of the model."""

    def make(step: int) -> tuple[Floats, NDArray[np.int64]]:
        chosen = drawn[step * options.batch : (step + 1) * options.batch]
        if pixels.ndim == 2:
            return pixels[chosen].astype(np.float32), chosen
        random = np.random.default_rng([options.seed, epoch, step])
        return np.stack([augment(pixels[i].astype(np.uint8), random) for i in chosen]).astype(np.float32), chosen

    steps = len(drawn) // options.batch
    with ThreadPoolExecutor(1) as maker:
        waiting = maker.submit(make, 0)
        for step in range(steps):
            ready = waiting.result()
            if step + 1 < steps:
                waiting = maker.submit(make, step + 1)
            yield ready


def _say(line: str) -> None:
    """Print a line of progress at once, also into a log."""
    print(f"  {line}", flush=True)
