"""What is wrong with a setting, in words for the person who wrote it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from allpacs.settings.destinations import DESTINATIONS
from allpacs.settings.engines import ENGINES

_UNKNOWN, _MISSING = "Extra inputs are not permitted", "Field required"


def message(error: ErrorDetails, settings: type[BaseModel]) -> str:
    """Return one line: what is wrong with which key and, if there is one, the key that was probably meant.

    It never holds the value: a value can be a secret.

    Parameters
    ----------
    settings:
        The class of all settings, for the names of its keys.
    """
    location = [str(part) for part in error["loc"]]
    key = ".".join(location)
    if error["msg"] == _UNKNOWN:
        near = get_close_matches(location[-1], _keys(settings, location[:-1]), n=1)
        meant = ".".join([*location[:-1], near[0]]) if near else ""
        return f"unknown key {key}" + (f": did you mean {meant}?" if meant else "")
    if error["msg"] == _MISSING:
        return f"{key} is missing"
    said = error["msg"].removeprefix("Value error, ")
    return f"{key}: {said.replace('Input should be', 'must be', 1)}"


def _keys(model: type[BaseModel], location: Sequence[str]) -> list[str]:
    """Return the keys that a section may have, of any kind of destination or engine."""
    if location[:1] == ["destinations"] and len(location) > 1:
        return sorted({key for kind in DESTINATIONS.kinds() for key in DESTINATIONS.get(kind).model_fields})
    found: list[type[BaseModel]] = [model]
    for part in location:
        inner = [one.model_fields[part].annotation for one in found if part in one.model_fields]
        found = [section for annotation in inner for section in _models(annotation)] or found
    keys = {key for one in found for key in one.model_fields}
    if location[:1] == ["model"]:
        keys |= {key for kind in ENGINES.kinds() for key in ENGINES.get(kind).model_fields}
    return sorted(keys)


def _models(annotation: Any) -> Iterable[type[BaseModel]]:
    """Yield the sections that an annotation holds: itself, of a union, or the values of a table."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Union, UnionType):
        for one in get_args(annotation):
            yield from _models(one)
    elif get_origin(annotation) in (dict, Mapping):
        yield from _models(get_args(annotation)[1])
