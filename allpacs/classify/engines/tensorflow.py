"""The network on TensorFlow: CPU, or a GPU where TensorFlow sees one. TensorFlow is loaded with the first engine.

Measured on two CPU cores at 128 px: XLA (``jit_compile=True``) compiles again for every new batch size, 4 to 27 s
each, and then runs a tenth as fast. Freezing the variables into constants runs 1.2 times (batches of 32 and 64) to 1.7
times (single cells) as fast, but starts 3 s later and keeps 0.7 GB more. Hence neither. On a GPU nothing was measured:
none was at hand.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allpacs.classify.bundle import Bundle
from allpacs.classify.engine import LayerGradients, OutOfDeviceMemory, checked_batch, checked_labels
from allpacs.classify.explanation import explaining_graph, paired_layers, signs
from allpacs.classify.network import FAMILY, network_of
from allpacs.domain.errors import ModelFault
from allpacs.settings.engines import EngineSettings

#: Sizes of batches that a GPU runs once before it is asked.
_WARM_UP = (1, 8, 32)


class Settings(EngineSettings):
    """TensorFlow on a GPU or the CPU; it has no keys of its own."""

    @classmethod
    def automatic_rank(cls, *, gpu: bool) -> int | None:  # noqa: ARG003 - alone on a GPU, the last on a CPU
        """After OpenVINO; see `EngineSettings.automatic_rank`."""
        return 1

    def attempts(
        self,
        bundle: Bundle,
        *,
        gpu: bool,
        threads: int | None,
        cache: Path | None,  # noqa: ARG002 - nothing is converted
    ) -> Iterator[tuple[str, Callable[[], TensorFlowEngine]]]:
        """Yield mixed precision and float32 on a GPU, float32 on a CPU; see `EngineSettings.attempts`."""
        if gpu:
            yield "tensorflow-f16", lambda: TensorFlowEngine(bundle, threads=threads, half=True, warm_up=_WARM_UP)
            yield "tensorflow", lambda: TensorFlowEngine(bundle, threads=threads, warm_up=_WARM_UP)
        else:
            yield "tensorflow", lambda: TensorFlowEngine(bundle, threads=threads)


class TensorFlowEngine:
    """Runs a bundle's weights as one compiled graph.

    Parameters
    ----------
    bundle:
        A loaded bundle.
    threads:
        Number of CPU threads, or None for TensorFlow's choice (one a core). It holds for the whole process, and only
        where no TensorFlow code ran before.
    half:
        Compute in float16 (mixed precision), for GPUs with tensor cores: the bundle's golden cells tell whether that is
        good enough.
    warm_up:
        Sizes of batches that are run once: a GPU's library chooses its algorithms at the first batch of each.

    Raises
    ------
    ModelFault
        TensorFlow is missing, or the weights do not fit the network that the bundle names.
    """

    def __init__(
        self, bundle: Bundle, *, threads: int | None = None, half: bool = False, warm_up: Sequence[int] = (1,)
    ) -> None:
        self.name = "tensorflow-f16" if half else "tensorflow"
        if bundle.network.name != FAMILY:
            raise ModelFault(f"bundle.json: network.name is {bundle.network.name!r}, but only {FAMILY} is known")
        self._tf = tf = _load_tensorflow(threads)
        side = bundle.input_px
        network = network_of(bundle, mixed_precision=half)

        # A fixed signature: one graph for every batch size, never traced again.
        @tf.function(input_signature=[tf.TensorSpec([None, side, side, 3], tf.uint8)])  # type: ignore[untyped-decorator]
        def infer(batch: Any) -> Any:
            return network(tf.cast(batch, tf.float32), training=False)

        #: Cells and `explanation.signs` in, activations and gradients out; traced at the first request.
        self.explaining = explaining_graph(tf, network, side)
        self._outputs = len(bundle.outputs)
        #: The compiled graph: ``uint8`` cells in, logits out.
        self.graph = infer
        self._side = side
        for size in warm_up:  # the first traces and optimises the graph
            self.logits(np.zeros((size, side, side, 3), np.uint8))

    def logits(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the network's logits, ``float32`` of shape (n, labels); see `Engine.logits`."""
        checked_batch(batch, self._side)
        with self._faults(len(batch)):
            answer: NDArray[np.float32] = self.graph(self._tf.constant(batch)).numpy()
        return answer

    def layer_gradients(self, batch: NDArray[np.uint8], labels: NDArray[np.int64]) -> tuple[LayerGradients, ...]:
        """Return what two layers say for a label; see `allpacs.classify.engine.Explainer`."""
        checked_batch(batch, self._side)
        checked_labels(labels, len(batch))
        with self._faults(len(batch)):
            _, *layers = self.explaining(self._tf.constant(batch), self._tf.constant(signs(labels, self._outputs)))
            return paired_layers([one.numpy() for one in layers])

    @contextmanager
    def _faults(self, cells: int) -> Iterator[None]:
        """Raise TensorFlow's errors as the port's."""
        errors = self._tf.errors
        try:
            yield
        except errors.ResourceExhaustedError as error:
            raise OutOfDeviceMemory(f"a batch of {cells} does not fit the device") from error
        except errors.OpError as error:
            raise ModelFault(f"TensorFlow failed on a batch of {cells}: {type(error).__name__}") from error


def _load_tensorflow(threads: int | None) -> Any:
    """Return the TensorFlow module, quiet, taking only as much GPU memory as it needs."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # read when the library is loaded
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    try:
        with _without_start_up_notes():
            import tensorflow as tf

            gpus = tf.config.list_physical_devices("GPU")
    except ImportError as error:
        raise ModelFault("TensorFlow cannot be imported: install the package tensorflow") from error
    try:
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
        if threads is not None:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
    except RuntimeError:
        # TensorFlow already runs in this process: its devices keep the settings it started with.
        pass
    return tf


#: Lines of TensorFlow's libraries that only say which processor they found.
_NOTE = re.compile(rb"WARNING: All log messages before absl::|[IWE]0000 |To enable the following instructions:")


@contextmanager
def _without_start_up_notes() -> Iterator[None]:
    """Leave out what native libraries tell the terminal while they load, before their log level is in force.

    Everything else written to standard error meanwhile is passed on afterwards.
    """
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            held.seek(0)
            for line in held:
                if not _NOTE.match(line):
                    os.write(2, line)
