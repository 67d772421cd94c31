"""The network on OpenVINO, for CPUs: converted from the bundle once, kept by the bundle's digest.

The conversion needs TensorFlow and runs in a process of its own, so that the worker never loads it: a worker on
OpenVINO holds about 0.55 GB where one on TensorFlow holds 1.4 GB (128 px, batches of 32).

Weights are kept as float32: folded with the batch normalisations and rounded to float16 again, they moved
probabilities by up to 0.008, outside of what `allpacs.classify.bundle.verify_engine` lets pass.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from allpacs.classify.bundle import Bundle, load_bundle
from allpacs.classify.engines.port import LayerGradients, OutOfDeviceMemory, checked_batch
from allpacs.domain.errors import ModelFault

if TYPE_CHECKING:
    from allpacs.classify.engines.tensorflow import TensorFlowEngine

#: Of `INFERENCE_PRECISION_HINT`: what the network computes in.
Precision = Literal["f32", "bf16"]

#: Longest time that a conversion may take, seconds; 15 to 30 were seen on two cores.
_CONVERSION_S = 600.0
_INSTALL = "install the package openvino, or set model.engine to tensorflow"


class OpenVinoEngine:
    """Runs a bundle's weights on the CPU.

    Parameters
    ----------
    bundle:
        A loaded bundle.
    threads:
        Number of CPU threads, or None for one a core.
    precision:
        ``bf16`` is faster where the processor has it, and coarser: `supports` tells the first, the bundle's golden
        cells the second.
    cache:
        Folder that keeps the converted network; None converts for this engine alone.

    Raises
    ------
    ModelFault
        OpenVINO is missing, or the network cannot be converted or compiled.
    """

    def __init__(
        self, bundle: Bundle, *, threads: int | None = None, precision: Precision = "f32", cache: Path | None = None
    ) -> None:
        self.name = f"openvino-{precision}"
        self._openvino = openvino = _load_openvino()
        self._side = bundle.input_px
        self._bundle = bundle
        self._threads = threads
        self._explainer_made = threading.Lock()
        self._explainer: TensorFlowEngine | None = None
        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        with tempfile.TemporaryDirectory() as scratch:
            converted = converted_network(bundle, Path(scratch) if cache is None else cache)
            core = openvino.Core()
            try:
                # Not memory-mapped: the folder may be gone, and a cache may be emptied under a running worker.
                core.set_property({"ENABLE_MMAP": False})
                self._compiled = core.compile_model(core.read_model(converted), "CPU", options)
            except RuntimeError as error:
                raise ModelFault(
                    f"OpenVINO cannot load the converted network: delete {converted.name} from the cache of models"
                ) from error

    @staticmethod
    def supports(precision: Precision) -> bool:
        """Return whether this machine's processor computes in a precision itself; False without OpenVINO."""
        try:
            capabilities = _load_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        except (ModelFault, RuntimeError):
            return False
        return {"f32": "FP32", "bf16": "BF16"}[precision] in capabilities

    def logits(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the network's logits, ``float32`` of shape (n, labels); see `allpacs.classify.engines.port.Engine`."""
        checked_batch(batch, self._side)
        try:
            answer: NDArray[np.float32] = self._compiled(batch)[0]
        except MemoryError as error:
            raise OutOfDeviceMemory(f"a batch of {len(batch)} does not fit into memory") from error
        except RuntimeError as error:
            raise ModelFault(f"OpenVINO failed on a batch of {len(batch)}") from error
        return answer.copy()  # the buffer is written again by the next batch

    def layer_gradients(self, batch: NDArray[np.uint8], labels: NDArray[np.int64]) -> tuple[LayerGradients, ...]:
        """Return what some layers say for a label; see `allpacs.classify.engines.port.Explainer`.

        OpenVINO has no gradients (it cannot convert those of depthwise convolutions): the first question loads
        TensorFlow beside it, for some seconds and about a gigabyte. Covering parts of a cell instead, as
        `allpacs.classify.saliency` does without gradients, would take a second for each cell, every time.
        """
        with self._explainer_made:
            if self._explainer is None:
                from allpacs.classify.engines.tensorflow import TensorFlowEngine

                self._explainer = TensorFlowEngine(self._bundle, threads=self._threads)
        return self._explainer.layer_gradients(batch, labels)


def _load_openvino() -> Any:
    """Return the OpenVINO module, its usage reports switched off."""
    # With that package importable, importing openvino reports to its maker over the network. A name set to None cannot
    # be imported, and openvino then takes a stub of its own.
    if "openvino" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        import openvino
    except ImportError as error:
        raise ModelFault(f"OpenVINO cannot be imported: {_INSTALL}") from error
    return openvino


def converted_network(bundle: Bundle, folder: Path) -> Path:
    """Return the ``.xml`` file of the converted network in a folder, converting it where it is not there yet.

    Its name holds the bundle's digest and OpenVINO's version; what it holds is checked by the golden cells.

    Raises
    ------
    ModelFault
        OpenVINO is missing, or the network cannot be converted or kept.
    """
    version = str(_load_openvino().__version__)
    stem = f"{bundle.digest.removeprefix('sha256:')[:32]}-{version.split('-')[0]}"
    target = folder / f"{stem}.xml"
    if target.is_file() and target.with_suffix(".bin").is_file():
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Two workers that start at once both convert, each in a folder of its own; the later one replaces the same.
        with tempfile.TemporaryDirectory(prefix=".converting-", dir=folder) as partial:
            _convert_elsewhere(bundle.folder, Path(partial) / target.name)
            for suffix in (".bin", ".xml"):  # the .xml last: its presence says that both are there
                (Path(partial) / target.name).with_suffix(suffix).replace(target.with_suffix(suffix))
    except OSError as error:
        raise ModelFault(f"the converted network cannot be kept in the cache of models: {error.strerror}") from error
    return target


def _convert_elsewhere(bundle_folder: Path, target: Path) -> None:
    """Convert in a process of its own.

    Raises
    ------
    ModelFault
        It failed; the message holds the last line of what it said.
    """
    command = [sys.executable, "-m", __name__, str(bundle_folder), str(target)]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "-1"}  # the graph is only traced: leave the GPU to others
    try:
        done = subprocess.run(  # noqa: S603 - our own module
            command, env=environment, capture_output=True, text=True, timeout=_CONVERSION_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ModelFault(f"the conversion for OpenVINO took more than {_CONVERSION_S:.0f} s: {_INSTALL}") from error
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
        raise ModelFault(f"the bundle cannot be converted for OpenVINO: {said}")


def _convert(bundle_folder: Path, target: Path) -> None:
    """Write a bundle's network as OpenVINO's ``.xml`` and ``.bin``."""
    openvino = _load_openvino()
    from allpacs.classify.engines.tensorflow import TensorFlowEngine

    graph = openvino.convert_model(TensorFlowEngine(load_bundle(bundle_folder)).graph)
    # Beside the logits the converter keeps one output for every activation with a gradient of its own, and what is an
    # output cannot be fused: with all of them the network runs at less than half the pace.
    (logits,) = (output for output in graph.outputs if "Identity:0" in output.get_names())
    network = openvino.Model([logits.node], graph.get_parameters(), "logits")
    openvino.save_model(network, target, compress_to_fp16=False)


if __name__ == "__main__":
    try:
        _convert(Path(sys.argv[1]), Path(sys.argv[2]))
    except ModelFault as fault:
        sys.exit(str(fault))
