"""The training loop: augmentation, checkpoints, resuming, and what it refuses."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from allpacs.classify.network import state_of
from allpacs.domain.errors import ModelFault
from support.places import REPOSITORY
from support.training_samples import OPTIONS, cells, tiny
from training.augment import augment
from training.fit import (
    Examples,
    accuracy,
    cross_entropy,
    fit,
    judged,
    logits_of,
    pace,
    reestimate_batch_norm,
    stored_state,
)

pytestmark = pytest.mark.process


def in_a_process(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a Python program that may import what this file does."""
    places = os.pathsep.join((str(REPOSITORY), str(REPOSITORY / "tests"), *sys.path))
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=os.environ | {"PYTHONPATH": places} | environment,
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip


def test_goes_on_after_kill_9_in_mid_epoch_as_if_never_stopped(tmp_path: Path) -> None:
    """The process is killed in the second step of the second epoch, after a checkpoint in that epoch's first."""
    killed = in_a_process(f"""
        from pathlib import Path
        from training.fit import Examples, fit
        from support.training_samples import OPTIONS, Targets, cells, tiny

        pixels, targets, shares = cells()
        examples = Examples(pixels, Targets(targets, OPTIONS.per_epoch // OPTIONS.batch + 1), shares)
        fit(tiny(), examples, None, OPTIONS, Path({str(tmp_path / "stopped")!r}), 0.0)
    """)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with np.load(tmp_path / "stopped" / "state.npz") as stored:
        at = json.loads(str(stored["progress"]))
    assert (at["epoch"], at["step"]) == (1, 1)
    pixels, targets, shares = cells()
    straight = tiny()
    fit(straight, Examples(pixels, targets, shares), None, OPTIONS, tmp_path / "straight")
    resumed = tiny()
    end = fit(resumed, Examples(pixels, targets, shares), None, OPTIONS, tmp_path / "stopped")
    assert end.epoch == OPTIONS.epochs
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


def test_the_loss_of_one_class_is_the_categorical_cross_entropy() -> None:
    import keras

    random = np.random.default_rng(0)
    logits = random.normal(size=(20, 5)).astype(np.float32)
    targets = np.eye(5, dtype=np.float32)[random.integers(0, 5, 20)]
    for smoothing in (0.0, 0.1):
        theirs = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing, reduction=None)
        ours = np.asarray(cross_entropy(smoothing)(targets, logits))
        np.testing.assert_allclose(ours, np.asarray(theirs(targets, logits)), rtol=1e-4)


def test_a_picture_of_one_of_several_classes_asks_nothing_of_their_shares() -> None:
    loss = cross_entropy(0.0)
    targets = np.array([[0, 1, 1]], np.float32)
    for logits in ([0.0, 3.0, 3.0], [0.0, float(np.log(2 * np.exp(3) - 1)), 0.0]):
        value = float(np.asarray(loss(targets, np.array([logits], np.float32)))[0])
        assert value == pytest.approx(-np.log(2 * np.exp(3) / (1 + 2 * np.exp(3))), rel=1e-4)
    assert judged(np.array([[0.0, 3.0, 3.0]], np.float32), targets)[0] == pytest.approx(value, rel=1e-4)
    assert float(np.asarray(accuracy(targets, np.array([[0.0, 0.0, 1.0]], np.float32)))[0]) == 1.0


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


def test_several_devices_share_each_batch(tmp_path: Path) -> None:
    """Two virtual CPUs stand for two GPUs: each learns from half of every batch, and both hold the same weights."""
    ran = in_a_process(f"""
        from pathlib import Path
        import numpy as np
        import tensorflow as tf
        from allpacs.domain.errors import ConfigFault
        from training import devices
        from training.fit import Examples, fit, logits_of
        from support.training_samples import OPTIONS, cells, tiny

        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], two)
        pixels, targets, shares = cells()
        with devices.for_model():
            model = tiny()
            fit(model, Examples(pixels, targets, shares), Examples(pixels, targets), OPTIONS, Path({str(tmp_path)!r}))
        assert devices.count(model) == 2
        kernel = model.get_layer("conv").kernel.value
        assert len(kernel.values) == 2
        np.testing.assert_array_equal(*kernel.values)
        assert logits_of(model, pixels).shape == (len(pixels), 2)
        try:
            devices.train_step(model, pixels[:3].astype("float32"), targets[:3])
        except ConfigFault as fault:
            print(fault)
    """)
    assert ran.returncode == 0, ran.stderr
    assert "fit.batch 3 cannot be shared out to 2 devices: make it a multiple" in ran.stdout
    rows = (tmp_path / "history.csv").read_text().splitlines()
    assert float(rows[-1].split(",")[1]) < float(rows[1].split(",")[1])


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_fit(backend: str, tmp_path: Path) -> None:
    """The command, from the data to the weights, on drawn pictures; JAX on two virtual devices."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed: pip install {backend}")
    random = np.random.default_rng(1)
    (tmp_path / "allidb2").mkdir()
    for number in range(12):
        picture = random.integers(0, 128, (32, 32, 3)).astype(np.uint8) + np.uint8(100 * (number % 2))
        Image.fromarray(picture).save(tmp_path / "allidb2" / f"Im{number:03}_{number % 2}.png")
    ran = in_a_process(f"""
        import sys
        from training import devices
        from training.__main__ import main

        small = ["data.input_px=32", "split.folds=3", "fit.epochs=2", "fit.batch=4", "network.dense_units=8"]
        change = [word for one in small for word in ("--set", one)]
        run = ["--data", {str(tmp_path)!r}, "--out", {str(tmp_path / "run")!r}, "--fold", "0", *change]
        code = main(["fit", "cad-all", *run])
        print("devices", devices.count(None) if {backend!r} == "jax" else 1)
        sys.exit(code)
    """, KERAS_BACKEND=backend, XLA_FLAGS="--xla_force_host_platform_device_count=2")  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert f"devices {2 if backend == 'jax' else 1}" in ran.stdout
    assert json.loads((tmp_path / "run" / "run.json").read_text())["backend"] == backend
    assert (tmp_path / "run" / "fold0" / "weights.safetensors").stat().st_size > 0
    assert len((tmp_path / "run" / "fold0" / "history.csv").read_text().splitlines()) == 3
