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
from training.fit import Examples, fit, logits_of, pace, reestimate_batch_norm, stored_state
from training.recipe import Fit

pytestmark = pytest.mark.slow
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


def test_goes_on_in_mid_epoch_as_if_never_stopped(tmp_path: Path) -> None:
    pixels, targets, shares = cells()
    straight = tiny()
    fit(straight, Examples(pixels, targets, shares), None, OPTIONS, tmp_path / "straight")
    stopped = tiny()
    with pytest.raises(CutOff):  # in the second step of the second epoch, after a checkpoint in its first
        fit(stopped, Examples(pixels, Targets(targets, 8), shares), None, OPTIONS, tmp_path / "stopped", 0.0)  # type: ignore[arg-type]
    resumed = tiny()
    at = fit(resumed, Examples(pixels, targets, shares), None, OPTIONS, tmp_path / "stopped")
    assert at.epoch == OPTIONS.epochs
    for name, value in state_of(straight).items():
        np.testing.assert_allclose(state_of(resumed)[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
    reestimate_batch_norm(resumed, pixels, batch=8)
    assert (logits_of(resumed, pixels).argmax(axis=1) == targets.argmax(axis=1)).all()
    rows = (tmp_path / "stopped" / "history.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["epoch", "1", "2", "3", "4", "5"]


def test_stops_early_with_the_best_weights(tmp_path: Path) -> None:
    """What is validated is the opposite of what is learned: the first epoch is the best."""
    pixels, targets, shares = cells()
    options = OPTIONS.model_copy(update={"epochs": 20, "patience": 2, "schedule": "constant"})
    model = tiny()
    at = fit(model, Examples(pixels, targets, shares), Examples(pixels, targets[:, ::-1]), options, tmp_path)
    assert at.epoch == at.best_epoch + 2 < 20
    best = stored_state(tmp_path / "best.npz")
    for name, value in state_of(model).items():
        np.testing.assert_array_equal(value, best[name])


def test_stops_when_the_loss_is_not_finite(tmp_path: Path) -> None:
    pixels, targets, shares = cells()
    with pytest.raises(ModelFault, match=r"loss is not finite in epoch 1.*learning_rate"):
        fit(tiny(), Examples(pixels, targets * np.float32(np.nan), shares), None, OPTIONS, tmp_path / "c")
    assert not (tmp_path / "c" / "state.npz").exists()


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, targets, shares = cells()
    examples = Examples(pixels, targets, shares)
    fit(tiny(), examples, None, OPTIONS.model_copy(update={"epochs": 1}), tmp_path)
    before = (tmp_path / "state.npz").read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match=r"state\.npz cannot be written.*No space left.*the last checkpoint stands"):
        fit(tiny(), examples, None, OPTIONS.model_copy(update={"epochs": 2}), tmp_path)
    assert (tmp_path / "state.npz").read_bytes() == before
    assert not list(tmp_path.glob("*.part*"))


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
    first, again = (augment(crop, OPTIONS.augment, np.random.default_rng(7)) for _ in range(2))
    other = augment(crop, OPTIONS.augment, np.random.default_rng(8))
    assert first.dtype == np.uint8
    assert first.shape == crop.shape
    assert (first == again).all()
    assert (first != other).any()
    assert (first[0, 0] == 0).all()
    assert first.max() > 0
    assert (augment(np.zeros((16, 16, 3), np.uint8), OPTIONS.augment, np.random.default_rng(0)) == 0).all()
