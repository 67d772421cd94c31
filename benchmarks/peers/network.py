"""The bundle's network as a plain Keras model."""

from __future__ import annotations

from typing import Any

from allpacs.classify.bundle import Bundle
from allpacs.classify.engines.network import build_network, load_weights


def keras_network(bundle: Bundle) -> Any:
    """Return the model with its weights: pictures of ``uint8`` in, logits out."""
    network = build_network(
        bundle.outputs,
        input_px=bundle.input_px,
        dense_units=bundle.network.dense_units,
        dropout=bundle.network.dropout,
    )
    load_weights(network, bundle.weights)
    return network
