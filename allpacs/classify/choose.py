"""Which engine runs the network: the fastest of this machine that repeats the bundle's golden cells.

Each engine says whether and when it is tried, and in which ways (`allpacs.settings.engines.EngineSettings`). A GPU is
TensorFlow's, in mixed precision where that repeats the golden cells. On a CPU OpenVINO comes first, in bfloat16 where
the processor computes in it, then in float32; TensorFlow is the one that every bundle was exported with. A model server
on another machine is asked only where it is configured. Each must pass `verify_engine` before it judges a cell.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import structlog

from allpacs.classify.bundle import Bundle
from allpacs.classify.engine import Engine
from allpacs.classify.golden import verify_engine
from allpacs.domain.errors import ConfigFault, ModelFault
from allpacs.settings.engines import ENGINES, EngineSettings

_log = structlog.get_logger("allpacs.classify.engines")


def _defaults(kind: str) -> EngineSettings:
    return ENGINES.get(kind)()


def start_engine(
    bundle: Bundle,
    wanted: str = "auto",
    *,
    threads: int | None = None,
    cache: Path | None = None,
    settings_of: Callable[[str], EngineSettings] = _defaults,
) -> Engine:
    """Return the first engine that loads and repeats the golden cells; each that does not is logged with its figures.

    Parameters
    ----------
    wanted:
        The engine, or ``auto``: those that take part in that, in their order.
    threads:
        Number of CPU threads, or None for one a core.
    cache:
        Folder that keeps converted networks; None keeps none.
    settings_of:
        Returns the settings of an engine: `ModelSettings.of_engine`, or the defaults.

    Raises
    ------
    ConfigFault
        There is no engine of that name.
    ModelFault
        No engine can be used; the message is the last one's.
    """
    gpu = gpu_present()
    chosen = _automatic(settings_of, gpu=gpu) if wanted == "auto" else [settings_of(wanted)]
    refusal = ModelFault("no engine can be used on this machine: set model.engine")
    for settings in chosen:
        for name, make in settings.attempts(bundle, gpu=gpu, threads=threads, cache=cache):
            started = time.monotonic()
            try:
                engine: Engine = make()
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


def _automatic(settings_of: Callable[[str], EngineSettings], *, gpu: bool) -> Iterator[EngineSettings]:
    """Yield the engines that are tried unasked, in their order; one that cannot be imported is passed over."""
    ranked: list[tuple[int, str, EngineSettings]] = []
    for kind in ENGINES.kinds():
        try:
            settings = settings_of(kind)
        except ConfigFault as fault:
            _log.warning("engine_refused", engine=kind, reason=str(fault))
            continue
        rank = settings.automatic_rank(gpu=gpu)
        if rank is not None:
            ranked.append((rank, kind, settings))
    for _, _, settings in sorted(ranked, key=lambda entry: entry[:2]):
        yield settings


def gpu_present(devices: Path = Path("/dev")) -> bool:
    """Return whether this machine shows an NVIDIA GPU, asked of the device files: no library has to be loaded."""
    return any(entry.name.removeprefix("nvidia").isdigit() for entry in devices.glob("nvidia*"))
