"""Which engine runs the network: the fastest of this machine that repeats the bundle's golden cells.

A GPU is TensorFlow's, in mixed precision where that repeats them. On a CPU OpenVINO comes first, in bfloat16 where the
processor computes in it, then in float32; TensorFlow is the one that every bundle was exported with. A model server on
another machine is asked only where it is configured. Each must pass `verify_engine` before it judges a cell.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import structlog

from allpacs.classify.bundle import Bundle, verify_engine
from allpacs.classify.engines.engine import Engine
from allpacs.domain.errors import ModelFault

_log = structlog.get_logger("allpacs.classify.engines")

#: Sizes of batches that a GPU runs once before it is asked.
_WARM_UP = (1, 8, 32)

#: What may be configured; ``auto`` is the order above.
EngineName = Literal["auto", "openvino", "tensorflow", "remote"]


@dataclass(frozen=True, slots=True)
class ModelServer:
    """Where ``remote`` asks: see `allpacs.classify.engines.remote.RemoteEngine`."""

    url: str
    model: str
    bearer_token: str | None = None
    timeout_s: float = 60.0


def start_engine(
    bundle: Bundle,
    wanted: EngineName = "auto",
    *,
    threads: int | None = None,
    cache: Path | None = None,
    server: ModelServer | None = None,
) -> Engine:
    """Return the first engine that loads and repeats the golden cells; each that does not is logged with its figures.

    Parameters
    ----------
    threads:
        Number of CPU threads, or None for one a core.
    cache:
        Folder that keeps converted networks; None keeps none.
    server:
        Whom ``remote`` asks.

    Raises
    ------
    ModelFault
        There is none; the message is the last one's.
    """
    refusal = ModelFault("there is no engine")
    for name, make in _candidates(bundle, wanted, threads, cache, server):
        started = time.monotonic()
        try:
            engine = make()
            difference = verify_engine(bundle, engine)
        except ModelFault as fault:
            _log.warning("engine_refused", engine=name, reason=str(fault))
            refusal = fault
        else:
            _log.info(
                "model_loaded",
                engine=engine.name,
                bundle=bundle.contract.name,
                version=bundle.contract.version,
                digest=bundle.digest,
                golden_difference=float(f"{difference:.2g}"),
                seconds=round(time.monotonic() - started, 2),
            )
            return engine
    raise refusal


def _candidates(
    bundle: Bundle, wanted: EngineName, threads: int | None, cache: Path | None, server: ModelServer | None
) -> Iterator[tuple[str, Callable[[], Engine]]]:
    # Each library is imported only where its engine is asked for: TensorFlow alone takes some seconds and 0.5 GB.
    if wanted == "remote":
        from allpacs.classify.engines.remote import RemoteEngine

        if server is None:
            raise ModelFault("model.engine is remote: set model.remote_url")
        yield "remote", lambda: RemoteEngine(bundle, **asdict(server))
    if wanted == "openvino" or (wanted == "auto" and not gpu_present()):
        from allpacs.classify.engines.openvino import OpenVinoEngine

        if OpenVinoEngine.supports("bf16"):
            yield "openvino-bf16", lambda: OpenVinoEngine(bundle, threads=threads, precision="bf16", cache=cache)
        yield "openvino-f32", lambda: OpenVinoEngine(bundle, threads=threads, precision="f32", cache=cache)
    if wanted in ("auto", "tensorflow"):
        from allpacs.classify.engines.tensorflow import TensorFlowEngine

        if gpu_present():
            yield "tensorflow-f16", lambda: TensorFlowEngine(bundle, threads=threads, half=True, warm_up=_WARM_UP)
            yield "tensorflow", lambda: TensorFlowEngine(bundle, threads=threads, warm_up=_WARM_UP)
        else:
            yield "tensorflow", lambda: TensorFlowEngine(bundle, threads=threads)


def gpu_present(devices: Path = Path("/dev")) -> bool:
    """Return whether this machine shows an NVIDIA GPU, asked of the device files: no library has to be loaded."""
    return any(entry.name.removeprefix("nvidia").isdigit() for entry in devices.glob("nvidia*"))
