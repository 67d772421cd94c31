"""The training loop: augmentation, checkpoints, resuming, and what it refuses."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from allpacs.classify.engines.network import state_of
from allpacs.domain.errors import ModelFault
from training.augment import augment
from training.fit import FitOptions, fit, logits_of, pace, reestimate_batch_norm

pytestmark = pytest.mark.slow
OPTIONS = FitOptions(epochs=5, cells_per_epoch=96, learning_rate=0.05, batch=16, label_smoothing=0.0, seed=5)


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


class CutOff(RuntimeError):
    """Stands for a process that is killed."""


class Targets:
    """Targets that fail once so many batches were read."""

    def __init__(self, targets: np.ndarray, batches: int) -> None:
        self.targets, self.left = targets, batches

    def __getitem__(self, chosen: Any) -> np.ndarray:
        if self.left == 0:
            raise CutOff
        self.left -= 1
        return self.targets[chosen]


def test_learns_and_resumes_as_if_never_stopped(tmp_path: Path) -> None:
    pixels, targets, shares = cells()
    straight = tiny()
    fit(straight, pixels, targets, shares, OPTIONS, tmp_path / "straight.npz")
    stopped = tiny()
    with pytest.raises(CutOff):
        fit(stopped, pixels, Targets(targets, 8), shares, OPTIONS, tmp_path / "stopped.npz")  # type: ignore[arg-type]
    resumed = tiny()
    fit(resumed, pixels, targets, shares, OPTIONS, tmp_path / "stopped.npz")
    for name, value in state_of(straight).items():
        np.testing.assert_allclose(state_of(resumed)[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
    reestimate_batch_norm(resumed, pixels, batch=8)
    assert (logits_of(resumed, pixels).argmax(axis=1) == targets.argmax(axis=1)).all()


def test_stops_when_the_loss_is_not_finite(tmp_path: Path) -> None:
    pixels, targets, shares = cells()
    with pytest.raises(ModelFault, match="loss is not finite in epoch 1"):
        fit(tiny(), pixels, targets * np.float32(np.nan), shares, OPTIONS, tmp_path / "c.npz")
    assert not (tmp_path / "c.npz").exists()


def test_batch_norm_becomes_the_mean_over_the_cells() -> None:
    model = tiny()
    pixels = np.random.default_rng(0).integers(0, 256, (32, 16, 16, 3)).astype(np.uint8)
    reestimate_batch_norm(model, pixels, batch=8)
    expected = np.asarray(model.get_layer("conv")(pixels.astype(np.float32) / 255)).mean(axis=(0, 1, 2))
    np.testing.assert_allclose(state_of(model)["bn/moving_mean"], expected, rtol=1e-3, atol=1e-5)
    assert model.get_layer("bn").momentum == 0.99


def test_learning_rate_warms_up_and_falls() -> None:
    rates = [pace(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == 1.0
    assert rates.index(1.0) in {4, 5}
    assert rates[-1] < 0.02
    assert all(a >= b for a, b in itertools.pairwise(rates[5:]))


def test_augmented_cells_stay_on_black_and_repeat_by_seed() -> None:
    crop = cells()[0][0]
    first, again = (augment(crop, np.random.default_rng(7)) for _ in range(2))
    other = augment(crop, np.random.default_rng(8))
    assert first.dtype == np.uint8
    assert first.shape == crop.shape
    assert (first == again).all()
    assert (first != other).any()
    assert (first[0, 0] == 0).all()
    assert first.max() > 0
    assert (augment(np.zeros((16, 16, 3), np.uint8), np.random.default_rng(0)) == 0).all()
