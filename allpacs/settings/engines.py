"""What runs the model: ``model.engine``, and the keys of ``[model]`` that belong to one engine.

An engine is an extension (`allpacs.domain.extensions`): ``model.engine`` names its module. Its keys stand in
``[model]`` beside those of every engine, and each begins with the engine's name: ``remote_url`` is one of ``remote``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from allpacs.domain.extensions import Extensions
from allpacs.settings.common import Section


class EngineSettings(Section):
    """What an engine is configured with, and what it declares about itself.

    A subclass adds its own keys, each beginning with its module's name and an underscore. All need a default: the
    engine may be tried without one of them being set.
    """

    @classmethod
    def automatic_rank(cls, *, gpu: bool) -> int | None:
        """Return this engine's place when ``model.engine`` is ``auto``, the lowest first; None: it is not tried.

        Parameters
        ----------
        gpu:
            Whether this machine shows a GPU.
        """
        del gpu
        return None

    @abstractmethod
    def attempts(
        self, bundle: Any, *, gpu: bool, threads: int | None, cache: Path | None
    ) -> Iterator[tuple[str, Callable[[], Any]]]:
        """Yield the ways to run a bundle's network, the fastest first: a name for the log, and what makes the engine.

        The first that loads and repeats the bundle's golden cells is used. Import the model library here and not at the
        top of the module: TensorFlow alone takes some seconds and 0.5 GB.

        Parameters
        ----------
        bundle:
            The loaded bundle (`allpacs.classify.bundle.Bundle`).
        gpu:
            Whether this machine shows a GPU.
        threads:
            Number of CPU threads, or None for one a core.
        cache:
            Folder that keeps converted networks; None keeps none.

        Raises
        ------
        ModelFault
            A key that is needed is not set. The engine (`allpacs.classify.engine.Engine`) raises it, too, if it cannot
            be made.
        """


#: Every engine; each module declares an `EngineSettings` named ``Settings``.
ENGINES: Extensions[type[EngineSettings]] = Extensions("allpacs.classify.engines", "Settings", "engine")


def engine_of(key: str) -> str | None:
    """Return the engine that a key of ``[model]`` belongs to by its beginning; None: to none."""
    return max((kind for kind in ENGINES.kinds() if key.startswith(f"{kind}_")), key=len, default=None)
