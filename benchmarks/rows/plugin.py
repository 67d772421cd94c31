"""The whole plugin: from the first C-STORE of a study to its structured report at the PACS."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from allpacs.classify.bundle import load_bundle
from allpacs.classify.choose import start_engine
from allpacs.demo.archive import Archive
from allpacs.settings import Settings
from benchmarks import instances, receivers
from benchmarks.measure import Row, paired
from benchmarks.rows.classify import bare, best_batch, golden_crops
from benchmarks.scale import Scale

#: Configuration of a plugin that reports to one PACS; a study is complete when its sender releases.
SR_TO = """
[receive.sources.STORESCU]
close_on_release = true
[destinations.pacs]
kind = "c_store"
host = "127.0.0.1"
port = {port}
called_ae = "PACS"
"""
_SR = "1.2.840.10008.5.1.4.1.1.88.34"
_LONGEST_S = 1800.0
#: And at least so long for each instance, seconds: several times what it takes.
_LONGEST_EACH_S = 0.1


def rows(scale: Scale) -> Iterator[Row]:
    """Yield plugin_vs_engine and plugin_vs_peer, in instances a second."""
    settings = Settings()
    bundle = load_bundle(settings.model.bundle)
    engine = start_engine(bundle, cache=settings.model.cache)
    crops = golden_crops(bundle, scale.plugin)
    best = best_batch(engine, crops[: scale.engine_cells])
    setting = f"{scale.plugin} single-cell instances, {engine.name}, {bundle.input_px} px; "
    runs = max(1, scale.runs // 2)
    yield paired(
        "plugin_vs_engine",
        lambda: whole_plugin(scale, scale.plugin),
        lambda: bare(engine, crops, best),
        runs=runs,
        unit="instances/s",
        aim=">= 0.90",
        setting=setting + f"against the bare engine, batches of {best}",
    )
    yield paired(
        "plugin_vs_peer",
        lambda: whole_plugin(scale, scale.plugin),
        lambda: _peer(scale),
        runs=runs,
        unit="instances/s",
        aim=">= 7",
        setting=setting + "against a pynetdicom handler with model.predict and highdicom",
    )


def whole_plugin(scale: Scale, count: int, side_px: int = 450) -> float:
    """Return how many instances a second go through ``allpacs serve``, the model loaded before."""
    with (
        Archive(scale.folder / "pacs", "PACS") as pacs,
        receivers.allpacs(scale.folder / "plugin", "serve", extra=SR_TO.format(port=pacs.port)) as port,
    ):
        timed(scale, port, pacs, 2)  # the first study waits for the model
        return count / timed(scale, port, pacs, count, side_px)


def _peer(scale: Scale) -> float:
    with Archive(scale.folder / "pacs-of-peer", "PACS") as pacs, _straightforward(pacs.port) as port:
        timed(scale, port, pacs, 2)
        return scale.plugin / timed(scale, port, pacs, scale.plugin)


@contextmanager
def _straightforward(pacs_port: int) -> Iterator[int]:
    port = receivers.free_port()
    program = [sys.executable, "-m", "benchmarks.peers.straightforward", str(port), str(pacs_port)]
    process = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        receivers.wait_for_echo(port)
        yield port
    finally:
        receivers.stop(process)


def timed(scale: Scale, port: int, pacs: Archive, count: int, side_px: int = 450) -> float:
    """Send a study; return the seconds from its first C-STORE until its report is at the PACS."""
    files = instances.study(scale.folder, count, side_px)
    study_uid = files[0].parent.name
    try:
        began = time.perf_counter()
        receivers.send_at_once([files], port)
        _until(lambda: any(one.study_uid == study_uid and one.sop_class_uid == _SR for one in pacs.instances), count)
        return time.perf_counter() - began
    finally:
        instances.discard(files)


def _until(there: Callable[[], bool], count: int) -> None:
    longest_s = max(_LONGEST_S, _LONGEST_EACH_S * count)
    until = time.monotonic() + longest_s
    while not there():
        if time.monotonic() > until:
            raise RuntimeError(f"no report within {longest_s:.0f} s")
        time.sleep(0.01)
