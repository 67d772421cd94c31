"""The paper's network in Keras 3, and its weights as safetensors. Keras is imported only when a function is called."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from allpacs.classify.bundle import Bundle
from allpacs.domain.errors import ModelFault

FAMILY = "EfficientNetB3"

#: A crop's pixels belong to the cell if they are lighter than this in some channel.
BLACK = 12

#: Smallest share of the crop that a cell is taken to have.
LEAST_SHARE = 1e-4

#: Last layers of blocks 2 to 5, pooled by the head with `pooling` ``levels``.
LEVELS = ("block2c_add", "block3c_add", "block4e_add", "block5e_add")
#: The layers whose output is the head's input, by `pooling`.
POOLED = {"last": "avg_pool", "levels": "levels"}
_NUMBERED = re.compile(r"(?<=^normalization)_\d+$")


def build_network(
    labels: Sequence[str],
    *,
    input_px: int = 128,
    dense_units: int = 256,
    dropout: float = 0.45,
    activation: str = "silu",
    pooling: str = "last",
    size_path: bool = False,
    seed: int | None = None,
    mixed_precision: bool = False,
) -> Any:
    """Return EfficientNetB3 → BatchNormalization → Dense ReLU → Dropout → Dense, with random weights.

    Takes RGB of shape (batch, input_px, input_px, 3), 0 to 255; rescaling and normalisation are inside. Returns
    *logits* of shape (batch, labels): where the paper ends in a softmax layer, softmax is applied outside, because a
    temperature has to divide the logits first and the cross-entropy of logits is the stabler of the two. The
    function computed is the same.

    With the `activation` ``relu6`` the backbone has ReLU6 where EfficientNet has SiLU, as EfficientNet-Lite does
    (R. Liu 2020, Higher accuracy on vision models with EfficientNet-Lite), whose ImageNet filters then fit it exactly.

    With the `pooling` ``levels`` the head sees mean and standard deviation of every channel of `LEVELS` over the cell,
    the logarithm of the cell's share of the crop, and its mean colour. The blocks behind the last level are left out.
    The side of the input must then be a multiple of 16. Textures at several scales, measured over the cell alone, hold
    on persons that were not trained on; the last layers do not (decision 0026).

    With a `size_path` the logarithm of the cell's share of the crop (`BLACK`) has a weight of its own in each logit,
    beside what the backbone sees. It is set after the training, on persons that the backbone has not seen: left to
    itself, the backbone prefers cues that tell the persons apart (decision 0024).

    With `mixed_precision` layers compute in float16, all but the last one, on weights that stay float32.

    Source: paper section IV step 3 (dropout 0.45, two output neurons); the width of the Dense layer, the input size
    and the average pooling are our choice, for the paper does not state them.
    """
    import keras

    if seed is not None:  # seeds the whole process: for training only
        keras.utils.set_random_seed(seed)
    usual = keras.config.dtype_policy()
    if mixed_precision:
        keras.config.set_dtype_policy("mixed_float16")  # of the process: `keras.applications` takes no other
    try:
        backbone = keras.applications.EfficientNetB3(
            weights=None, include_top=False, pooling="avg", input_shape=(input_px, input_px, 3)
        )
        if activation != "silu":
            for layer in backbone.layers:
                if isinstance(layer, keras.layers.Activation):
                    layer.activation = keras.activations.get(activation)
        pooled = _pooled_levels(backbone) if pooling == "levels" else backbone.output
        logits = _head(pooled, len(labels), dense_units, dropout)
        if size_path:
            by_size = keras.layers.Dense(len(labels), use_bias=False, dtype="float32", name="size_logits")
            logits = keras.layers.Add(dtype="float32", name="logits")([logits, by_size(_log_share(backbone.input))])
        return keras.Model(backbone.input, logits, name=FAMILY)
    finally:
        keras.config.set_dtype_policy(usual)


def build_head(
    labels: Sequence[str],
    features: int,
    *,
    dense_units: int = 256,
    dropout: float = 0.45,
    input_dropout: float = 0.0,
    norm: bool = True,
) -> Any:
    """Return the layers behind the backbone alone, by the same names: pooled features (batch, features) to logits.

    Parameters
    ----------
    input_dropout:
        Dropout of the features.
    norm:
        Whether batch normalisation comes first; not where the features are whitened.
    """
    import keras

    pooled = keras.Input((features,))
    dropped = keras.layers.Dropout(input_dropout, name="head_input_dropout")(pooled) if input_dropout else pooled
    return keras.Model(pooled, _head(dropped, len(labels), dense_units, dropout, norm=norm), name="head")


def _head(pooled: Any, labels: int, dense_units: int, dropout: float, *, norm: bool = True) -> Any:
    """Return BatchNormalization → Dense ReLU → Dropout → Dense on pooled features."""
    import keras

    hidden = keras.layers.BatchNormalization(name="head_bn")(pooled) if norm else pooled
    hidden = keras.layers.Dense(dense_units, activation="relu", name="head_dense")(hidden)
    hidden = keras.layers.Dropout(dropout, name="head_dropout")(hidden)
    return keras.layers.Dense(labels, dtype="float32", name="head_logits")(hidden)


def _pooled_levels(backbone: Any) -> Any:
    """Return mean and standard deviation of `LEVELS` over the cell, log share and mean colour, (batch, features).

    Everything is float32: a variance is a small difference of large sums.
    """
    import keras
    from keras import ops

    pixels = ops.cast(backbone.input, "float32")
    side = int(backbone.input.shape[1])
    lit = ops.expand_dims(ops.cast(ops.max(pixels, axis=-1) > BLACK, "float32"), -1)
    share = ops.maximum(ops.mean(lit, axis=(1, 2)), LEAST_SHARE)
    features = []
    for name in LEVELS:
        level = ops.cast(backbone.get_layer(name).output, "float32")
        step = side // int(level.shape[1])
        if step * int(level.shape[1]) != side:
            raise ModelFault(f"pooling of levels: the input side {side} px is not a multiple of 16")
        weight = keras.layers.AveragePooling2D(step, dtype="float32", name=f"{name}_lit")(lit) / ops.reshape(
            share, (-1, 1, 1, 1)
        )
        mean = ops.mean(level * weight, axis=(1, 2))
        variance = ops.mean(level * level * weight, axis=(1, 2)) - mean * mean
        features += [mean, ops.sqrt(ops.relu(variance) + 1e-6)]
    colour = ops.mean(pixels * lit, axis=(1, 2)) / (share * 255.0)
    return keras.layers.Concatenate(dtype="float32", name=POOLED["levels"])([*features, ops.log(share), colour])


def _log_share(pixels: Any) -> Any:
    """Return the logarithm of the share of the crop that is not black, shape (batch, 1), for RGB 0 to 255."""
    import keras

    lit = keras.ops.cast(keras.ops.max(pixels, axis=-1) > BLACK, "float32")
    share = keras.ops.mean(lit, axis=(1, 2))
    return keras.ops.expand_dims(keras.ops.log(keras.ops.maximum(share, LEAST_SHARE)), -1)


def state_of(model: Any) -> dict[str, NDArray[np.float32]]:
    """Return every weight by ``layer/weight`` name; the counters of random generators and adaption are no weights."""
    return {name: np.asarray(variable, dtype=np.float32) for name, variable in _variables(model).items()}


def set_state(model: Any, state: dict[str, NDArray[np.float32]]) -> None:
    """Give the model these weights.

    Raises
    ------
    ModelFault
        A weight is missing, unknown, of another shape, or not finite.
    """
    variables = _variables(model)
    if missing := sorted(variables.keys() - state.keys()):
        raise ModelFault(f"weights: {len(missing)} missing, first {missing[0]}")
    if unknown := sorted(state.keys() - variables.keys()):
        raise ModelFault(f"weights: {len(unknown)} unknown, first {unknown[0]}")
    for name, variable in variables.items():
        if tuple(variable.shape) != state[name].shape:
            raise ModelFault(f"weights: {name} has shape {state[name].shape}, not {tuple(variable.shape)}")
        if not np.isfinite(state[name]).all():
            raise ModelFault(f"weights: {name} is not finite")
    for name, variable in variables.items():
        variable.assign(state[name])
    for layer in model.layers:
        if hasattr(layer, "finalize_state"):  # Normalization keeps constants computed from its weights
            layer.finalize_state()


def network_of(bundle: Bundle, *, mixed_precision: bool = False) -> Any:
    """Return a bundle's network with its weights: as many outputs as the bundle names.

    Raises
    ------
    ModelFault
        The weights cannot be read, or do not fit the network that the bundle names.
    """
    network = build_network(
        bundle.outputs,
        input_px=bundle.input_px,
        dense_units=bundle.network.dense_units,
        dropout=bundle.network.dropout,
        activation=bundle.network.activation,
        pooling=bundle.network.pooling,
        size_path=bundle.network.size_path,
        mixed_precision=mixed_precision,
    )
    load_weights(network, bundle.weights)
    return network


def save_weights(model: Any, path: Path) -> None:
    """Write the weights as float16 safetensors, whole or not at all.

    Raises
    ------
    ModelFault
        A weight is not finite, or does not fit into float16.
    """
    with np.errstate(over="ignore"):
        state = {name: value.astype(np.float16) for name, value in state_of(model).items()}
    for name, value in state.items():
        if not np.isfinite(value).all():
            raise ModelFault(
                f"weights: {name} is not finite in float16, as bundles hold weights (at most 65,504): the training has "
                "not settled; train longer, or at a lower rate"
            )
    partial = path.with_name(f".{path.name}.partial")
    save_file(state, partial, metadata={"format": "allpacs", "network": FAMILY})
    partial.replace(path)


def load_weights(model: Any, path: Path) -> None:
    """Read weights written by `save_weights` into a model of the same architecture, as float32.

    Raises
    ------
    ModelFault
        The file is missing or unreadable, or a name or shape does not match.
    """
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as fault:
        raise ModelFault(f"weights cannot be read: {path.name}: {fault}") from fault
    set_state(model, {name: value.astype(np.float32) for name, value in state.items()})


def _variables(model: Any) -> dict[str, Any]:
    """Return the model's weights by a name that is the same for every model of this architecture.

    Keras numbers layers that `keras.applications` leaves unnamed (``normalization_1`` in a process's second model).
    """
    return {
        f"{_NUMBERED.sub('', layer.name)}/{variable.name}": variable
        for layer in model.layers
        for variable in layer.weights
        if variable.name not in {"count", "seed_generator_state"}
    }
