"""What tests of the training need: a network and cells that are learned in a second, and a run that was not trained."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np

from training.recipe import Fit, Recipe

OPTIONS = Fit(
    epochs=5, per_epoch=96, learning_rate=0.05, batch=16, seed=5, schedule="cosine", augment=("turn", "blur", "restain")
)


def tiny() -> Any:
    import keras

    keras.utils.set_random_seed(1)
    layers = keras.layers
    picture = keras.Input((16, 16, 3))
    hidden = layers.Rescaling(1 / 255)(picture)
    hidden = layers.Conv2D(4, 3, strides=2, name="conv")(hidden)
    hidden = layers.BatchNormalization(name="bn")(hidden)
    hidden = layers.GlobalAveragePooling2D()(layers.ReLU()(hidden))
    return keras.Model(picture, layers.Dense(2, name="out")(hidden))


def cells(number: int = 24) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bright squares are the first class, dark ones the second."""
    bright = np.arange(number) % 2 == 0
    pixels = np.zeros((number, 16, 16, 3), np.uint8)
    pixels[:, 3:13, 3:13] = np.where(bright, 200, 60)[:, None, None, None]
    return pixels, np.eye(2, dtype=np.float32)[np.where(bright, 0, 1)], np.full(number, 1 / number)


class Targets:
    """Targets whose reader is killed (SIGKILL) once it has read so many batches."""

    def __init__(self, targets: np.ndarray, batches: int) -> None:
        self._targets, self._left = targets, batches

    def __getitem__(self, chosen: Any) -> np.ndarray:
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= not isinstance(chosen, slice)  # a slice is looked at before training
        return self._targets[chosen]


def write_run(
    folder: Path, recipe: Recipe, pictures: list[dict[str, Any]], logits: np.ndarray, *, start: str, folds: int = 2
) -> Path:
    """Write a finished run: picture i is tested in fold ``i % folds``, validated in the next, trained on in others."""
    folder.mkdir(parents=True)
    facts = {"recipe": json.loads(recipe.model_dump_json()), "start": start, "command": "fit"}
    facts |= {"split_digest": "sha256:s", "data_digest": "sha256:d"}
    (folder / "run.json").write_text(json.dumps(facts))
    (folder / "pictures.json").write_text(json.dumps(pictures))
    parts: dict[str, list[str]] = {}
    for i, picture in enumerate(pictures):
        name = f"{picture['source']}/{picture['label']}/{picture['image']}"
        parts[name] = [("test", "valid", "train")[min((i - fold) % folds, 2)] for fold in range(folds)]
    (folder / "split.json").write_text(json.dumps({"digest": "sha256:s", "parts": parts}))
    for fold in range(folds):
        (folder / f"fold{fold}").mkdir()
        for number, part in enumerate(("test", "valid")):
            places = np.array([i for i in range(len(pictures)) if (i - fold) % folds == number])
            np.savez(folder / f"fold{fold}" / f"{part}.npz", places=places, logits=logits[places])
        done = {"seconds": 1, "epochs": 1, "trained_on": 1}
        (folder / f"fold{fold}" / "done.json").write_text(json.dumps(done))
    return folder
