"""EfficientNetB3 from Lite2's filters."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from allpacs.classify.network import build_network, set_state, state_of
from allpacs.domain.errors import ConfigFault, InputFault
from training.lite2 import _tensor, lite2_path, read_legacy_pth, start_from_lite2

HEADER = pickle.dumps(0x1950A86A20F9469CFC6C) + pickle.dumps(1001) + pickle.dumps({"little_endian": True})


@pytest.fixture(scope="module")
def lite2_file() -> Path:
    try:
        return lite2_path()
    except ConfigFault as fault:
        pytest.skip(str(fault))


@pytest.fixture(scope="module")
def lite2(lite2_file: Path) -> dict[str, Any]:
    return read_legacy_pth(lite2_file)


@pytest.fixture(scope="module")
def network() -> Any:
    return build_network(["a", "b"], input_px=32, dense_units=8, seed=1)


@pytest.fixture(scope="module")
def started(network: Any, lite2: dict[str, Any]) -> dict[str, Any]:
    return start_from_lite2(state_of(network), lite2)


def test_reads_every_tensor(lite2: dict[str, Any]) -> None:
    assert len(lite2) == 386
    assert lite2["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert lite2["_fc.weight"].shape == (1000, 1280)
    assert all(np.isfinite(tensor).all() for tensor in lite2.values())


def test_strides_are_followed() -> None:
    flat = np.arange(6, dtype=np.float32)
    assert _tensor(flat, 0, (2, 3), (1, 2)).tolist() == [[0, 2, 4], [1, 3, 5]]
    assert _tensor(flat, 2, (), ()).tolist() == 2


@pytest.mark.parametrize(("offset", "shape", "stride"), [(1, (2, 3), (3, 1)), (0, (7,), (1,)), (-1, (2,), (1,))])
def test_tensor_outside_its_storage_is_refused(offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> None:
    with pytest.raises(InputFault, match="outside"):
        _tensor(np.arange(6, dtype=np.float32), offset, shape, stride)


def test_code_in_the_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "evil.pth"

    class Evil:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path}/ran",)

    path.write_bytes(HEADER + pickle.dumps(Evil()))
    with pytest.raises(InputFault, match="system"):
        read_legacy_pth(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", pickle.dumps(7), HEADER, HEADER + b"garbage"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.pth"
    path.write_bytes(content)
    with pytest.raises(InputFault):
        read_legacy_pth(path)


def test_short_file_is_refused(lite2_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "short.pth"
    path.write_bytes(lite2_file.read_bytes()[:-1000])
    with pytest.raises(InputFault, match="cut short"):
        read_legacy_pth(path)


def test_filters_stand_in_the_leading_channels(started: dict[str, Any], lite2: dict[str, Any]) -> None:
    stem = started["stem_conv/kernel"]
    np.testing.assert_array_equal(stem[..., :32], lite2["_conv_stem.weight"].transpose(2, 3, 1, 0))
    # Stages 1 to 4 of Lite2 have 1, 3, 3 and 4 blocks: block 12 is the second of stage 5.
    expand = started["block5b_expand_conv/kernel"][0, 0]
    theirs = lite2["_blocks.12._expand_conv.weight"][:, :, 0, 0].T
    inputs, outputs = theirs.shape
    np.testing.assert_array_equal(expand[:inputs, :outputs], theirs)
    assert (expand[inputs:, :outputs] == 0).all()  # new inputs do not disturb old outputs
    assert expand[:, outputs:].std() > 0.01  # new outputs keep their random start
    depthwise = lite2["_blocks.20._depthwise_conv.weight"].transpose(2, 3, 0, 1)
    np.testing.assert_array_equal(started["block7a_dwconv/kernel"][:, :, : depthwise.shape[2]], depthwise)
    np.testing.assert_array_equal(started["top_bn/moving_mean"][:1280], lite2["_bn1.running_mean"])


def test_pixels_are_normalised_as_lite2_expects(started: dict[str, Any]) -> None:
    scaled = (200 / 255 - started["normalization/mean"]) / np.sqrt(started["normalization/variance"])
    np.testing.assert_allclose(scaled, (200 - 127) / 128, rtol=1e-5)


@pytest.mark.process
def test_blocks_that_lite2_lacks_start_near_identity(network: Any, started: dict[str, Any]) -> None:
    import keras

    set_state(network, started)
    for first, extra in (("block1a_project_bn", "block1b_add"), ("block7a_project_bn", "block7b_add")):
        probe = keras.Model(network.input, [network.get_layer(first).output, network.get_layer(extra).output])
        before, after = probe(np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3)).astype(np.float32))
        added = np.asarray(after) - np.asarray(before)
        assert 0 < added.std() < 0.1 * np.asarray(before).std()  # it can learn, and disturbs nothing


@pytest.mark.process
def test_starting_again_keeps_the_statistics_of_new_channels(started: dict[str, Any], lite2: dict[str, Any]) -> None:
    measured = {name: value + 1 if "moving" in name else value for name, value in started.items()}
    again = start_from_lite2(measured, lite2)
    np.testing.assert_array_equal(again["top_bn/moving_mean"][:1280], lite2["_bn1.running_mean"])
    np.testing.assert_array_equal(again["top_bn/moving_mean"][1280:], measured["top_bn/moving_mean"][1280:])
    np.testing.assert_array_equal(again["top_conv/kernel"], started["top_conv/kernel"])
