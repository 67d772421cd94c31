"""The network on OpenVINO, for CPUs: converted from the bundle once, kept by the bundle's digest.

The conversion needs TensorFlow and runs in a process of its own, so that the worker never loads it: a worker on
OpenVINO holds about 0.55 GB where one on TensorFlow holds 1.4 GB (128 px, batches of 32). What explains an answer
(`allpacs.classify.explanation`) is a second network, converted and loaded at the first question.

Weights are kept as float32: folded with the batch normalisations and rounded to float16 again, they moved
probabilities by up to 0.008, outside of what `allpacs.classify.golden.verify_engine` lets pass.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from allpacs.classify.bundle import Bundle, load_bundle
from allpacs.classify.engine import LayerGradients, OutOfDeviceMemory, checked_batch, checked_labels
from allpacs.classify.explanation import paired_layers, signs
from allpacs.classify.golden import verify_engine
from allpacs.domain.errors import ModelFault
from allpacs.settings.engines import EngineSettings

#: Of `INFERENCE_PRECISION_HINT`: what the network computes in.
Precision = Literal["f32", "bf16"]

#: Of a bundle: the network, or the network with the gradients that explain its answers.
Part = Literal["logits", "explanation"]
_SUFFIXES: dict[Part, str] = {"logits": "", "explanation": "-explanation"}

#: Longest time that a conversion may take, seconds; 15 to 30 were seen on two cores.
_CONVERSION_S = 600.0
_INSTALL = "install the package openvino, or set model.engine to tensorflow"


class Settings(EngineSettings):
    """OpenVINO on the CPU; it has no keys of its own."""

    @classmethod
    def automatic_rank(cls, *, gpu: bool) -> int | None:
        """First on a CPU; see `EngineSettings.automatic_rank`."""
        return None if gpu else 0

    def attempts(
        self,
        bundle: Bundle,
        *,
        gpu: bool,  # noqa: ARG002 - it runs on the CPU wherever it runs
        threads: int | None,
        cache: Path | None,
    ) -> Iterator[tuple[str, Callable[[], OpenVinoEngine]]]:
        """Yield bfloat16 if the processor computes in it, then float32; see `EngineSettings.attempts`."""
        if OpenVinoEngine.supports("bf16"):
            yield "openvino-bf16", lambda: OpenVinoEngine(bundle, threads=threads, precision="bf16", cache=cache)
        yield "openvino-f32", lambda: OpenVinoEngine(bundle, threads=threads, precision="f32", cache=cache)


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
        self._openvino = _load_openvino()
        self._side = bundle.input_px
        self._bundle = bundle
        self._cache = cache
        self._asked = threading.Lock()
        self._explanation: _Explanation | None = None
        self._options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision}
        if threads is not None:
            self._options["INFERENCE_NUM_THREADS"] = threads
        # Streams of a few threads each instead of one of all: those of a stream wait for one another after every layer,
        # and burn the processor while they do as soon as anything else needs a core (docs/performance.md).
        compiled = self._load("logits", self._options | {"PERFORMANCE_HINT": "THROUGHPUT"})
        streams = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        self._requests = [compiled.create_infer_request() for _ in range(streams)]

    def _load(self, part: Part, options: dict[str, Any]) -> Any:
        """Return a part of the bundle, compiled for this machine's CPU."""
        with tempfile.TemporaryDirectory() as scratch:
            converted = converted_network(self._bundle, Path(scratch) if self._cache is None else self._cache, part)
            core = self._openvino.Core()
            try:
                # Not memory-mapped: the folder may be gone, and a cache may be emptied under a running worker.
                core.set_property({"ENABLE_MMAP": False})
                return core.compile_model(core.read_model(converted), "CPU", options)
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
        """Return the network's logits, ``float32`` of shape (n, labels); see `Engine.logits`."""
        checked_batch(batch, self._side)
        parts = np.array_split(batch, min(len(batch), len(self._requests)))
        asked = self._requests[: len(parts)]
        with _faults(len(batch)), ExitStack() as all_have_ended:
            for request, part in zip(asked, parts, strict=True):
                request.start_async([part])
                all_have_ended.callback(request.wait)
        return np.concatenate([request.get_output_tensor(0).data for request in asked])

    def layer_gradients(self, batch: NDArray[np.uint8], labels: NDArray[np.int64]) -> tuple[LayerGradients, ...]:
        """Return what some layers say for a label; see `allpacs.classify.engine.Explainer`."""
        checked_batch(batch, self._side)
        checked_labels(labels, len(batch))
        with self._asked:
            if self._explanation is None:
                # What is shown to a person is computed in float32, whatever the engine's own precision.
                options = self._options | {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
                compiled = self._load("explanation", options)
                explanation = _Explanation(self.name, compiled, len(self._bundle.outputs))
                verify_engine(self._bundle, explanation)
                self._explanation = explanation
            _, *layers = self._explanation.answer(batch, labels)
        return paired_layers(layers)


class _Explanation:
    """The network with its gradients; its logits let the golden cells check what the cache of models holds."""

    def __init__(self, name: str, compiled: Any, outputs: int) -> None:
        self.name = f"{name} (explanation)"
        self._compiled = compiled
        self._outputs = outputs

    def logits(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the logits; see `Engine.logits`."""
        return self.answer(batch, np.zeros(len(batch), np.int64))[0]

    def answer(self, batch: NDArray[np.uint8], labels: NDArray[np.int64]) -> list[NDArray[np.float32]]:
        """Return what `allpacs.classify.explanation.explaining_graph` answers."""
        with _faults(len(batch)):
            answer = self._compiled([batch, signs(labels, self._outputs)])
            return [answer[place].copy() for place in range(len(self._compiled.outputs))]


@contextmanager
def _faults(cells: int) -> Iterator[None]:
    """Raise OpenVINO's errors as the port's."""
    try:
        yield
    except MemoryError as error:
        raise OutOfDeviceMemory(f"a batch of {cells} does not fit into memory") from error
    except RuntimeError as error:
        raise ModelFault(f"OpenVINO failed on a batch of {cells}") from error


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


def converted_network(bundle: Bundle, folder: Path, part: Part = "logits") -> Path:
    """Return the ``.xml`` file of a converted network in a folder, converting it where it is not there yet.

    Its name holds the bundle's digest and OpenVINO's version; what it holds is checked by the golden cells.

    Raises
    ------
    ModelFault
        OpenVINO is missing, or the network cannot be converted or kept.
    """
    version = str(_load_openvino().__version__)
    stem = f"{bundle.digest.removeprefix('sha256:')[:32]}-{version.split('-')[0]}"
    target = folder / f"{stem}{_SUFFIXES[part]}.xml"
    if target.is_file() and target.with_suffix(".bin").is_file():
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (folder / ".converting.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # of workers that start at once one converts, and the others wait for it
            if target.is_file() and target.with_suffix(".bin").is_file():
                return target
            for left in folder.glob(".converting-*"):  # by a worker that was killed: who converts holds the lock
                shutil.rmtree(left, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix=".converting-", dir=folder) as partial:
                _convert_elsewhere(bundle.folder, part, Path(partial) / target.name)
                for suffix in (".bin", ".xml"):  # the .xml last: its presence says that both are there
                    (Path(partial) / target.name).with_suffix(suffix).replace(target.with_suffix(suffix))
    except OSError as error:
        raise ModelFault(f"the converted network cannot be kept in the cache of models: {error.strerror}") from error
    return target


def _convert_elsewhere(bundle_folder: Path, part: Part, target: Path) -> None:
    """Convert in a process of its own.

    Raises
    ------
    ModelFault
        It failed; the message holds the last line of what it said.
    """
    command = [sys.executable, "-m", __name__, str(bundle_folder), part, str(target)]
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


def _convert(bundle_folder: Path, part: Part, target: Path) -> None:
    """Write a part of a bundle as OpenVINO's ``.xml`` and ``.bin``."""
    openvino = _load_openvino()
    from allpacs.classify.engines.tensorflow import TensorFlowEngine

    engine = TensorFlowEngine(load_bundle(bundle_folder), warm_up=())  # only what is converted is traced
    traced = (engine.graph if part == "logits" else engine.explaining).get_concrete_function()
    graph = openvino.convert_model(traced)
    # Beside what is asked for the converter keeps one output for every activation with a gradient of its own, and what
    # is an output cannot be fused: with all of them the network runs at less than half the pace.
    named = {name: output for output in graph.outputs for name in output.get_names()}
    asked = ["Identity:0", *(f"Identity_{place}:0" for place in range(1, len(traced.outputs)))]
    network = openvino.Model([named[name].node for name in asked], graph.get_parameters(), part)
    openvino.save_model(network, target, compress_to_fp16=False)


if __name__ == "__main__":
    try:
        _convert(Path(sys.argv[1]), "explanation" if sys.argv[2] == "explanation" else "logits", Path(sys.argv[3]))
    except ModelFault as fault:
        sys.exit(str(fault))
