"""The port that every model engine implements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from allpacs.domain.errors import ModelFault


class OutOfDeviceMemory(ModelFault):
    """The device cannot hold this batch; a smaller one may fit."""


class Engine(Protocol):
    """Runs the network of a bundle. A new engine is one new module in `allpacs.classify.engines`."""

    name: str

    def logits(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the network's logits.

        Parameters
        ----------
        batch:
            Preprocessed cells, shape (n, input_px, input_px, 3), ``uint8``, n at least 1.

        Returns
        -------
        ndarray
            ``float32`` of shape (n, labels), uncalibrated; rows may be non-finite for an input the network cannot
            judge (the batcher isolates them).

        Raises
        ------
        OutOfDeviceMemory
            The batch does not fit the device.
        ModelFault
            The network failed otherwise.
        """


@dataclass(frozen=True, slots=True, eq=False)
class LayerGradients:
    """What one layer answered, and how a label's score would rise with it.

    Attributes
    ----------
    activations, gradients:
        ``float32`` of shape (n, height, width, channels).
    """

    activations: NDArray[np.float32]
    gradients: NDArray[np.float32]


@runtime_checkable
class Explainer(Engine, Protocol):
    """An engine that also has gradients, and so can say what moved its answer."""

    def layer_gradients(self, batch: NDArray[np.uint8], labels: NDArray[np.int64]) -> tuple[LayerGradients, ...]:
        """Return activations and gradients of some layers, from the finest to the deepest.

        May be called from any thread, also while `logits` runs in another.

        Parameters
        ----------
        batch:
            As in `logits`.
        labels:
            Shape (n,): place of the label whose score is explained, against the other label's.

        Raises
        ------
        OutOfDeviceMemory
            The batch does not fit the device.
        ModelFault
            The network failed otherwise.
        """


def checked_batch(batch: NDArray[np.uint8], side_px: int) -> None:
    """Check that a batch is what the network of a bundle takes.

    Raises
    ------
    ModelFault
        It is of another type or shape.
    """
    if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[1:] != (side_px, side_px, 3):
        raise ModelFault(f"the network takes uint8 n x {side_px} x {side_px} x 3, not {batch.dtype} {batch.shape}")


def checked_labels(labels: NDArray[np.int64], cells: int) -> None:
    """Check that there is one label a cell.

    Raises
    ------
    ModelFault
        There is not.
    """
    if labels.shape != (cells,):
        raise ModelFault(f"one label a cell: {cells} cells, but labels of shape {labels.shape}")
