"""Several GPUs of one machine: each trains on its share of every batch. Without them nothing here does anything.

TensorFlow: `tf.distribute.MirroredStrategy`; JAX: `keras.distribution.DataParallel`; PyTorch: one device. Batch
normalisation then counts each share by itself, so weights differ a little from those of one device.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allpacs.domain.errors import ConfigFault


def for_model() -> AbstractContextManager[Any]:
    """Return the context in which a model, and all that is compiled with it, must be made."""
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # The virtual CPUs of a test are several, too; a machine's own are one.
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        if len(devices) > 1:
            scope: AbstractContextManager[Any] = tf.distribute.MirroredStrategy([d.name for d in devices]).scope()
            return scope
    elif keras.backend.backend() == "jax" and len(keras.distribution.list_devices()) > 1:
        keras.distribution.set_distribution(keras.distribution.DataParallel())
    return nullcontext()


def count(model: Any) -> int:
    """Return how many devices train this model."""
    import keras

    if keras.backend.backend() == "tensorflow":
        return int(model.distribute_strategy.num_replicas_in_sync)
    distribution = keras.distribution.distribution()
    return 1 if distribution is None else int(np.prod(distribution.device_mesh.shape))


def get_ready(model: Any, pictures: NDArray[np.float32], targets: NDArray[np.float32]) -> None:
    """Let a compiled model see a batch: Keras makes its metrics from the first, which may not be shared out."""
    if count(model) > 1:
        model.test_on_batch(pictures, targets)
        model.reset_metrics()


def train_step(model: Any, pictures: NDArray[np.float32], targets: NDArray[np.float32]) -> dict[str, float]:
    """Train on one batch, a share of it on each device, and return loss and accuracy.

    Raises
    ------
    ConfigFault
        The batch cannot be shared out evenly.
    """
    devices = count(model)
    if len(pictures) % devices:
        raise ConfigFault(f"fit.batch {len(pictures)} cannot be shared out to {devices} devices: make it a multiple")
    answer: dict[str, float]
    if devices > 1 and hasattr(model, "distribute_strategy"):
        answer = model.train_on_batch(_shared(model, pictures), _shared(model, targets), return_dict=True)
    else:
        answer = model.train_on_batch(pictures, targets, return_dict=True)
    model.reset_metrics()  # each step's own figures, not the mean since the start
    return answer


def _shared(model: Any, batch: NDArray[np.float32]) -> Any:
    import tensorflow as tf

    strategy = model.distribute_strategy
    shares = np.split(batch, strategy.num_replicas_in_sync)
    return strategy.experimental_distribute_values_from_function(
        lambda context: tf.convert_to_tensor(shares[context.replica_id_in_sync_group])
    )
