"""A bundle's stages and its network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from allpacs.settings import Settings

if TYPE_CHECKING:
    from allpacs.classify.batcher import Batcher
    from allpacs.classify.bundle import Bundle
    from allpacs.classify.saliency import Explain
    from allpacs.study.pipeline import Pipeline, Predict


def make_pipeline(settings: Settings, folder: Path | None = None) -> Pipeline:
    """Return the stages with a bundle.

    Parameters
    ----------
    folder:
        Of the bundle; None: the configured one.

    Raises
    ------
    ModelFault
        The bundle is not what it says it is, or not signed by whom `model.trusted_key` trusts.
    """
    from allpacs.classify.bundle import load_bundle
    from allpacs.study.pipeline import Pipeline

    work = settings.work
    folder = settings.model.bundle if folder is None else folder
    if settings.model.trusted_key is not None:
        from allpacs.classify.signature import check_signature

        check_signature(folder, settings.model.trusted_key)
    return Pipeline(load_bundle(folder), max_pixels=work.max_pixels, max_cells=work.max_cells)


def start_model(settings: Settings, bundle: Bundle) -> Batcher:
    """Load the network, check it against the bundle's golden cells, and return its batcher.

    Raises
    ------
    ModelFault
        The network cannot be loaded, or answers otherwise than the bundle says.
    """
    from allpacs.classify.batcher import Batcher
    from allpacs.classify.choose import start_engine

    model = settings.model
    engine = start_engine(bundle, model.engine, threads=model.threads, cache=model.cache, settings_of=model.of_engine)
    return Batcher(engine, max_batch=model.max_batch, max_delay_s=model.max_delay_s, outputs=len(bundle.outputs))


def asking(batcher: Batcher) -> Predict:
    """Return the way to ask a batcher and wait for its answer."""
    return lambda crops: batcher.submit(crops).result()


def explaining(batcher: Batcher) -> Explain:
    """Return the way to ask which parts of cells spoke for their labels."""
    from allpacs.classify.engine import Explainer
    from allpacs.classify.saliency import saliency

    engine = batcher.engine
    explainer = engine if isinstance(engine, Explainer) else None
    return lambda crops, toward: saliency(crops, asking(batcher), explainer, toward)
