"""The port that every model engine implements."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from allpacs.domain.errors import ModelFault


class OutOfDeviceMemory(ModelFault):
    """The device cannot hold this batch; a smaller one may fit."""


class Engine(Protocol):
    """Runs the network of a bundle. A new engine is one new file in this folder."""

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
