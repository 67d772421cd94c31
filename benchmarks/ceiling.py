"""How fast a GPU could run the network at best: of each layer, the longer of its arithmetic and its memory traffic.

The roofline model (Williams, Waterman and Patterson 2009): a layer takes at least its operations over the peak of the
tensor cores, and at least the bytes that it reads and writes over the memory's bandwidth. Nothing is measured here, and
no GPU was at hand: convolutions by depth have one operation a few bytes, so most layers are bound by memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from allpacs.classify.bundle import Bundle


@dataclass(frozen=True, slots=True)
class Gpu:
    """What its maker states: half-precision operations on tensor cores (dense), and bytes of memory, a second."""

    name: str
    flops: float
    bandwidth: float


#: From the makers' data sheets; dense figures, where a sheet states those of sparse matrices also.
GPUS = (
    Gpu("NVIDIA T4", 65e12, 320e9),
    Gpu("NVIDIA L4", 121e12, 300e9),
    Gpu("NVIDIA A100 40 GB", 312e12, 1555e9),
    Gpu("NVIDIA H100 SXM", 989e12, 3350e9),
)

#: Bytes of a number in half precision.
_HALF = 2


@dataclass(frozen=True, slots=True)
class Layer:
    """Work of one layer for one cell: operations, bytes of its activations; bytes of its weights, once a batch."""

    flops: float
    activation_bytes: float
    weight_bytes: float


def layers_of(bundle: Bundle) -> list[Layer]:
    """Return the network's layers that cost anything; batch normalisations and activations are taken for fused."""
    from allpacs.classify.network import build_network

    network = build_network(bundle.outputs, input_px=bundle.input_px, dense_units=bundle.network.dense_units)
    return [_work(layer) for layer in network.layers if hasattr(layer, "kernel") or "add" in layer.name]


def _work(layer: Any) -> Layer:
    inputs = layer.input if isinstance(layer.input, list) else [layer.input]
    read = sum(prod(one.shape[1:]) for one in inputs)
    written = prod(layer.output.shape[1:])
    weights = sum(prod(weight.shape) for weight in layer.weights)
    if not hasattr(layer, "kernel"):
        return Layer(written, (read + written) * _HALF, 0)
    # Each output is the sum of so many products; one channel in, where the convolution goes by depth.
    terms = prod(layer.kernel.shape[:-1])
    if type(layer).__name__ == "DepthwiseConv2D":
        terms = prod(layer.kernel.shape[:2])
    return Layer(2 * terms * written, (read + written) * _HALF, weights * _HALF)


def cells_per_s(layers: list[Layer], gpu: Gpu, batch: int) -> float:
    """Return how many cells a second the GPU could judge at best, in batches of so many."""
    seconds = sum(
        max(
            batch * layer.flops / gpu.flops,
            (batch * layer.activation_bytes + layer.weight_bytes) / gpu.bandwidth,
        )
        for layer in layers
    )
    return batch / seconds


def gflops(layers: list[Layer]) -> float:
    """Return the operations of one cell, in 10⁹; a multiplication and an addition are two."""
    return sum(layer.flops for layer in layers) / 1e9
