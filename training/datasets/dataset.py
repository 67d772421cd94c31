"""What every data set of real cells is read into."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from allpacs.domain.errors import InputFault

#: A white cell of a healthy person whose type is not stated: any type but a lymphoblast.
NORMAL = "normal"


@dataclass(frozen=True, slots=True)
class Sample:
    """One image and what is known of it.

    Attributes
    ----------
    label:
        ``ALL``, ``HEM``, `NORMAL`, or a class of the data set's own.
    subject:
        Whose cells they are, or None where the data set does not say.
    shows:
        ``cell``: one cell, on black or in the middle; ``cells``: a field in which every cell has the label; a point
        (column, row): the cell there; a box (column, row, width, height): whatever the ellipse in it holds.
    part:
        The official part it belongs to (``train``, ``test``), or None where there is none.
    spacing_um:
        Pixel size of the data set's images, µm, as estimated; used for an image whose red cells give none, or one
        that differs from it too much. None: not known.
    """

    image: Path
    label: str
    subject: str | None
    source: str
    licence: str
    shows: str | tuple[float, ...] = "cell"
    part: str | None = None
    spacing_um: float | None = None


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set. Adding one is adding one file to this folder that holds a `DataSet` named ``SET``.

    Attributes
    ----------
    name:
        What recipes and the command line call it, and its folder's name.
    title, origin, licence:
        For reports and model cards: what it is called, where it comes from, on what terms.
    read:
        Folder to samples, ordered by path. Raises `InputFault` where it does not hold the data set.
    """

    name: str
    title: str
    origin: str
    licence: str
    read: Callable[[Path], list[Sample]]


def images_in(folder: Path, pattern: str) -> list[Path]:
    """Return the images of a folder, ordered by path.

    Raises
    ------
    InputFault
        The folder is missing, or holds none.
    """
    if not folder.is_dir():
        raise InputFault(f"data set missing: {folder} is not a folder (--data names the one that holds it)")
    found = sorted(folder.glob(pattern))
    if not found:
        raise InputFault(f"data set empty: nothing in {folder} is named {pattern}")
    return found
