"""The classify stage: against `model.predict` one by one, and against the bare engine in a tight loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import VLMicroscopicImageStorage

from allpacs.classify.batcher import Batcher
from allpacs.classify.bundle import Bundle, load_bundle
from allpacs.classify.choose import start_engine
from allpacs.classify.engine import Engine
from allpacs.classify.network import network_of
from allpacs.settings import Settings
from allpacs.study.pipeline import ImageFile, Pipeline
from benchmarks import instances
from benchmarks.measure import Row, paired
from benchmarks.scale import Scale

_BATCHES = (1, 8, 16, 32, 64, 128)


def rows(scale: Scale) -> Iterator[Row]:
    """Yield classify_vs_predict, classify_vs_engine, preprocess_share, and a point of the plot for each batch size."""
    settings = Settings()
    bundle = load_bundle(settings.model.bundle)
    engine = start_engine(bundle, cache=settings.model.cache)
    crops = golden_crops(bundle, scale.engine_cells)
    pace = by_batch(engine, crops)
    best = max(pace, key=pace.__getitem__)
    for size, cells_per_s in pace.items():
        yield Row(f"batch_{size}", cells_per_s, None, None, "cells/s", 2, cells_per_s, cells_per_s, aim="")
    setting = f"{engine.name}, {bundle.input_px} px; "

    network = network_of(bundle)
    network.predict(crops[:1], verbose=0)
    some = crops[: max(8, len(crops) // 4)]

    def stage() -> float:
        with Batcher(engine, max_batch=best, outputs=len(bundle.outputs)) as batcher, ThreadPoolExecutor(4) as studies:
            began = time.perf_counter()
            # As the flow asks: several studies at once, each for the cells of a chunk of instances.
            chunks = [crops[start : start + 32] for start in range(0, len(crops), 32)]
            for answer in studies.map(lambda chunk: batcher.submit(chunk).result(), chunks):
                if not np.isfinite(answer).all():
                    raise RuntimeError("the network gave no finite answer")
            return len(crops) / (time.perf_counter() - began)

    def one_by_one() -> float:
        began = time.perf_counter()
        for crop in some:
            network.predict(crop[np.newaxis], verbose=0)
        return len(some) / (time.perf_counter() - began)

    yield paired(
        "classify_vs_predict",
        stage,
        one_by_one,
        runs=scale.runs,
        unit="cells/s",
        aim=">= 7",
        setting=setting + "against Keras model.predict, one cell a call",
    )
    yield paired(
        "classify_vs_engine",
        stage,
        lambda: bare(engine, crops, best),
        runs=scale.runs,
        unit="cells/s",
        aim=">= 0.97",
        setting=setting + f"batches of {best}, against the same engine in a loop",
    )
    yield paired(
        "preprocess_share",
        _before_the_model(scale, bundle),
        lambda: _cpu_s(lambda: bare(engine, crops, best)) / len(crops),
        runs=scale.runs,
        unit="CPU s/instance",
        aim="<= 0.10",
        setting=setting + "decode, find cells, judge their quality and preprocess, against the network",
    )


def bare(engine: Engine, crops: NDArray[np.uint8], batch: int) -> float:
    """Return the engine's cells a second in a loop over batches."""
    began = time.perf_counter()
    for start in range(0, len(crops), batch):
        engine.logits(crops[start : start + batch])
    return len(crops) / (time.perf_counter() - began)


def by_batch(engine: Engine, crops: NDArray[np.uint8]) -> dict[int, float]:
    """Return the engine's cells a second by batch size: the better of two runs."""
    return {size: max(bare(engine, crops, size) for _ in range(2)) for size in _BATCHES if size <= len(crops)}


def best_batch(engine: Engine, crops: NDArray[np.uint8]) -> int:
    """Return the batch size at which the engine is fastest."""
    pace = by_batch(engine, crops)
    return max(pace, key=pace.__getitem__)


def golden_crops(bundle: Bundle, count: int) -> NDArray[np.uint8]:
    """Return so many preprocessed cells: the bundle's golden ones, again and again."""
    golden, _ = bundle.golden()
    return np.concatenate([golden] * -(-count // len(golden)))[:count]


def _before_the_model(scale: Scale, bundle: Bundle) -> Callable[[], float]:
    def measured() -> float:
        files = instances.study(scale.folder, 24)
        images = [ImageFile(file, file.stem, VLMicroscopicImageStorage, "1.2") for file in files]
        pipeline = Pipeline(bundle)

        def work() -> None:
            for image in images:
                found, _ = pipeline.find(image)
                if len(found.cells) != 1:
                    raise RuntimeError(f"{image.path.name}: {len(found.cells)} cells, {found.fault}")

        try:
            return _cpu_s(work) / len(files)
        finally:
            instances.discard(files)

    return measured


def _cpu_s(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began
