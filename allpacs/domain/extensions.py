"""Extensions: parts that are one module each and are found by their file name.

A destination, a cell finder and an engine are extensions. Each sort has a package of its own, in which every module is
an extension: the file name is the kind that a configuration names, and the module declares everything else. A room
below the stages must not import them, so a package is known by its name here and its modules are imported when they are
needed: to list the kinds only looks at file names, and one configured kind imports one module.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import Any, Generic, TypeVar

from allpacs.domain.errors import ConfigFault

_Declared = TypeVar("_Declared")


@dataclass(frozen=True)
class Extensions(Generic[_Declared]):
    """The extensions of one sort.

    Attributes
    ----------
    package:
        Full name of the package whose modules they are.
    attribute:
        Name of what each module declares.
    noun:
        What one of them is called in messages.
    """

    package: str
    attribute: str
    noun: str

    def kinds(self) -> tuple[str, ...]:
        """Return all kinds in alphabetical order; no extension is imported."""
        return tuple(sorted(module.name for module in pkgutil.iter_modules(import_module(self.package).__path__)))

    def get(self, kind: str) -> _Declared:
        """Return what the extension of a kind declares; only its module is imported.

        Raises
        ------
        ConfigFault
            There is no such extension, or its module does not declare one.
        """
        wrong = self.unknown(kind)
        if wrong is not None:
            raise ConfigFault(wrong)
        try:
            module = import_module(f"{self.package}.{kind}")
        except ModuleNotFoundError as missing:
            raise ConfigFault(f"{self.noun} {kind!r} needs the Python package {missing.name}: install it") from missing
        try:
            declared: _Declared = getattr(module, self.attribute)
        except AttributeError:
            raise ConfigFault(
                f"{self.noun} {kind!r}: the module {module.__name__} does not declare {self.attribute}"
            ) from None
        return declared

    def all(self) -> Iterator[tuple[str, _Declared]]:
        """Yield every kind with what its extension declares; all modules are imported."""
        for kind in self.kinds():
            yield kind, self.get(kind)

    def unknown(self, kind: object, also: tuple[str, ...] = ()) -> str | None:
        """Return why this is not a kind, with the known kinds and the nearest of them; None if it is one.

        Parameters
        ----------
        also:
            Words that may stand in place of a kind.
        """
        known = (*also, *self.kinds())
        if kind in known:
            return None
        near = get_close_matches(str(kind), known, n=1)
        return f"unknown {self.noun} {kind!r}: use one of {', '.join(known)}" + (
            f"; did you mean {near[0]!r}?" if near else ""
        )


#: Every way of finding cells; each module declares a `CellFinder` (`allpacs.cells.finder`) named ``FINDER``.
CELL_FINDERS: Extensions[Any] = Extensions("allpacs.cells.finders", "FINDER", "cell finder")
