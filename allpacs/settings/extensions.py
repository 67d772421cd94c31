"""Keys that name an extension by its kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from allpacs.domain.extensions import Extensions


@dataclass(frozen=True, slots=True)
class OneOf:
    """Annotation of a key that names an extension by its kind: ``Annotated[str, OneOf(ENGINES)]``.

    Attributes
    ----------
    also:
        Words that may stand in place of a kind, for example ``auto``.
    """

    extensions: Extensions[Any]
    also: tuple[str, ...] = ()

    @property
    def choices(self) -> tuple[str, ...]:
        """Everything that the key may be."""
        return (*self.also, *self.extensions.kinds())

    def check(self, kind: str) -> str:
        """Return a kind that is known.

        Raises
        ------
        ValueError
            It is not; the message lists the known kinds.
        """
        wrong = self.extensions.unknown(kind, self.also)
        if wrong is not None:
            raise ValueError(wrong)
        return kind

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))
