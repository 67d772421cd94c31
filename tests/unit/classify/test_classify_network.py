"""The paper's network and its weights file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from allpacs.classify.network import build_network, load_weights, save_weights, set_state, state_of
from allpacs.domain.errors import ModelFault

pytestmark = pytest.mark.process
SIDE = 32


@pytest.fixture(scope="module")
def network() -> Any:
    return build_network(["ALL", "HEM"], input_px=SIDE, dense_units=16, seed=3)


@pytest.fixture(scope="module")
def weights(network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    save_weights(network, path)
    return path


def test_head_is_the_papers(network: Any) -> None:
    names = [layer.name for layer in network.layers[-4:]]
    assert names == ["head_bn", "head_dense", "head_dropout", "head_logits"]
    assert network.get_layer("head_dropout").rate == 0.45
    assert network.get_layer("head_dense").activation.__name__ == "relu"
    assert network.output_shape == (None, 2)


def test_weights_round_trip(network: Any, weights: Path) -> None:
    other = build_network(["ALL", "HEM"], input_px=SIDE, dense_units=16, seed=4)
    state = state_of(network)
    assert not np.allclose(state_of(other)["stem_conv/kernel"], state["stem_conv/kernel"])
    load_weights(other, weights)
    for name, value in state_of(other).items():
        np.testing.assert_allclose(value, state[name], rtol=1e-3, atol=1e-6, err_msg=name)
    assert {str(v.dtype) for v in other.weights if "seed" not in v.path and "count" not in v.path} == {"float32"}
    assert {a.dtype for a in load_file(weights).values()} == {np.dtype(np.float16)}
    assert sorted(p.name for p in weights.parent.iterdir()) == [weights.name]  # no scratch file left


def test_normalisation_constants_follow_the_weights(network: Any) -> None:
    state = state_of(network)
    normalise = network.get_layer(next(v.name for v in network.layers if v.name.startswith("normalization")))
    half = np.full((1, 1, 1, 3), 0.5, np.float32)
    set_state(network, state | {"normalization/mean": np.full(3, 0.25, np.float32)})
    np.testing.assert_allclose(np.asarray(normalise(half)), 0.25)
    set_state(network, state)
    np.testing.assert_allclose(np.asarray(normalise(half)), 0.5)


def test_wrong_weights_are_refused(network: Any, weights: Path, tmp_path: Path) -> None:
    good = load_file(weights)
    broken = {
        "missing": {k: v for k, v in good.items() if k != "stem_conv/kernel"},
        "unknown": good | {"more/kernel": np.zeros(1, np.float16)},
        "has shape": good | {"stem_conv/kernel": np.zeros((3, 3, 3, 8), np.float16)},
        "not finite": good | {"stem_bn/gamma": np.full_like(good["stem_bn/gamma"], np.nan)},
    }
    for reason, state in broken.items():
        path = tmp_path / "w.safetensors"
        save_file(state, path)
        with pytest.raises(ModelFault, match=reason):
            load_weights(network, path)
    np.testing.assert_array_equal(state_of(network)["stem_conv/kernel"].astype(np.float16), good["stem_conv/kernel"])


def test_unreadable_file_is_refused(network: Any, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with pytest.raises(ModelFault, match="cannot be read"):
        load_weights(network, path)
    path.write_bytes(b"not safetensors")
    with pytest.raises(ModelFault, match="cannot be read"):
        load_weights(network, path)


def test_a_size_path_adds_a_weight_for_the_share_that_is_not_black() -> None:
    network = build_network(["ALL", "HEM", "x"], input_px=SIDE, dense_units=16, size_path=True, seed=3)
    plain = build_network(["ALL", "HEM", "x"], input_px=SIDE, dense_units=16, seed=3)
    state = state_of(network)
    assert state.keys() - state_of(plain).keys() == {"size_logits/kernel"}
    set_state(plain, {name: value for name, value in state.items() if name != "size_logits/kernel"})
    cells = np.zeros((3, SIDE, SIDE, 3), np.float32)
    cells[1, :8] = (0, 13, 0)  # a quarter of the crop; 12 is black still
    cells[1, 8:] = 12
    cells[2] = 200
    set_state(network, state | {"size_logits/kernel": np.array([[2.0, -2.0, 0.0]], np.float32)})
    added = np.asarray(network(cells)) - np.asarray(plain(cells))
    shares = np.log([1e-4, 0.25, 1.0])
    np.testing.assert_allclose(added, shares[:, None] * [2.0, -2.0, 0.0], atol=1e-4)


def test_relu6_takes_the_place_of_silu_in_the_backbone_alone() -> None:
    network = build_network(["ALL", "HEM"], input_px=SIDE, dense_units=16, activation="relu6", seed=3)
    activations = {layer.activation.__name__ for layer in network.layers if type(layer).__name__ == "Activation"}
    assert activations == {"relu6"}
    assert network.get_layer("head_dense").activation.__name__ == "relu"


def test_levels_are_pooled_over_the_cell_alone() -> None:
    network = build_network(["ALL", "HEM"], input_px=64, dense_units=16, pooling="levels", seed=3)
    names = {layer.name for layer in network.layers}
    assert "block5e_add" in names
    assert not any(name.startswith(("block6", "block7", "top")) for name in names)
    cells = np.zeros((1, 64, 64, 3), np.float32)
    cells[0, 16:48, 16:48] = np.random.default_rng(1).integers(13, 255, (32, 32, 3))
    import keras

    pooled = keras.Model(network.input, [network.get_layer("levels").output, network.get_layer("block2c_add").output])
    features, level = (np.asarray(one)[0] for one in pooled(cells))
    inside = level[4:12, 4:12].reshape(-1, level.shape[-1])  # a quarter of the side: every position is all cell or none
    channels = level.shape[-1]
    np.testing.assert_allclose(features[:channels], inside.mean(axis=0), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(features[channels : 2 * channels], inside.std(axis=0), rtol=1e-2, atol=2e-3)
    np.testing.assert_allclose(features[-4], np.log(0.25), atol=1e-5)
    np.testing.assert_allclose(features[-3:], cells[0, 16:48, 16:48].mean(axis=(0, 1)) / 255, atol=1e-4)


def test_a_crop_without_a_cell_has_finite_levels() -> None:
    network = build_network(["ALL", "HEM"], input_px=64, dense_units=16, pooling="levels", seed=3)
    assert np.isfinite(np.asarray(network(np.zeros((1, 64, 64, 3), np.float32)))).all()


def test_levels_need_a_side_that_their_scales_divide() -> None:
    with pytest.raises(ModelFault, match="100 px is not a multiple of 16"):
        build_network(["ALL", "HEM"], input_px=100, dense_units=16, pooling="levels")
