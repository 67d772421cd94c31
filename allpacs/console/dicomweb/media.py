"""Which representation a client accepts.

Source: PS3.18 sections 8.3.3.1 (query parameter accept), 8.7.4 (acceptable media types) and 8.7.5 (selection);
RFC 9110 section 12.5.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from starlette.requests import Request

_LIST: Final = re.compile(r'(?:[^,"]|"(?:\\.|[^"\\])*"?)+')
_PARAMETER: Final = re.compile(r'(?:[^;"]|"(?:\\.|[^"\\])*"?)+')
_MULTIPART: Final = "multipart/related"


@dataclass(frozen=True, slots=True)
class Representation:
    """What can be answered with.

    Attributes
    ----------
    media_type:
        Of the content, or of each part.
    multipart:
        Whether it comes as ``multipart/related``.
    transfer_syntaxes:
        UIDs of the content; empty if the media type has none.
    """

    media_type: str
    multipart: bool = False
    transfer_syntaxes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class _Range:
    media_type: str
    parameters: Mapping[str, str] = field(default_factory=dict)

    @property
    def quality(self) -> float:
        try:
            quality = float(self.parameters.get("q", "1"))
        except ValueError:
            return 0.0
        return quality if 0 <= quality <= 1 else 0.0

    def specificity(self, offer: Representation) -> int:
        """Return how closely the range describes a representation; 0 if it does not include it."""
        asked, inner = self.media_type, self.parameters.get("type", "*/*")
        if offer.multipart and asked in (_MULTIPART, "multipart/*"):
            asked = inner
            bonus = 10
        elif offer.multipart:  # leniently: the type of the parts alone
            bonus = 0
        else:
            bonus = 5
        syntax = self.parameters.get("transfer-syntax", "*")
        if syntax != "*" and offer.transfer_syntaxes - {syntax}:
            return 0
        if asked == "*/*":
            return 1 + (bonus == 10)
        if asked == offer.media_type.split("/")[0] + "/*":
            return 3 + bonus
        return 4 + bonus if asked == offer.media_type else 0


def choose(request: Request, offers: Sequence[Representation]) -> Representation | None:
    """Return the representation that the client prefers, or None if it accepts none of them.

    Parameters
    ----------
    offers:
        What can be answered with, the best first.
    """
    asked = ",".join(request.query_params.getlist("accept")) or ",".join(request.headers.getlist("accept")) or "*/*"
    ranges = list(_ranges(asked))

    def preference(offer: Representation) -> tuple[float, int]:
        fitting = [(found, one.quality) for one in ranges if (found := one.specificity(offer))]
        specificity, quality = max(fitting, default=(0, 0.0))
        return quality, specificity

    best = max(offers, key=preference)  # the first of equals
    return best if preference(best)[0] > 0 else None


def _ranges(text: str) -> Iterable[_Range]:
    for part in _LIST.findall(text[:8192]):
        media_type, *parameters = [found.strip() for found in _PARAMETER.findall(part)] or [""]
        named = (parameter.partition("=") for parameter in parameters)
        yield _Range(
            media_type.lower(),
            {name.strip().lower(): _value(name.strip().lower(), value) for name, _, value in named},
        )


def _value(name: str, written: str) -> str:
    value = re.sub(r"\\(.)", r"\1", written.strip().strip('"')).strip()
    # Some clients write the parameters of the parts within the quotes.
    return value.partition(";")[0].strip().lower() if name == "type" else value
