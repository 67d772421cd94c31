"""Real cells to train on: each data set is one file, read into the same few facts about each image."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from pathlib import Path

from allpacs.domain.errors import ConfigFault
from training.datasets.dataset import NORMAL, DataSet, Sample

__all__ = ["DATA_SETS", "NORMAL", "DataSet", "Sample", "folder_of", "read"]


def _found() -> dict[str, DataSet]:
    modules = (importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__))
    sets = (getattr(module, "SET", None) for module in modules)
    return {one.name: one for one in sets if isinstance(one, DataSet)}


#: Every data set by the name that recipes use.
DATA_SETS: Mapping[str, DataSet] = _found()


def folder_of(name: str, data: Mapping[str, Path]) -> Path:
    """Return the folder of a data set.

    Parameters
    ----------
    data:
        Folders by data set, from ``--data NAME:DIR``; the empty name, from ``--data DIR``, is the set's own folder or
        the one that holds it.

    Raises
    ------
    ConfigFault
        No folder was given for it.
    """
    if name in data:
        return data[name]
    if "" not in data:
        raise ConfigFault(f"no folder was given for the data set {name}: add --data {name}:DIR")
    return data[""] / name if (data[""] / name).is_dir() else data[""]


def read(name: str, data: Mapping[str, Path]) -> list[Sample]:
    """Return the samples of a data set.

    Raises
    ------
    ConfigFault
        There is no data set of that name, or no folder for it.
    InputFault
        The folder does not hold it.
    """
    if name not in DATA_SETS:
        raise ConfigFault(f"no data set is named {name!r}: write one of {', '.join(sorted(DATA_SETS))}")
    return DATA_SETS[name].read(folder_of(name, data))
