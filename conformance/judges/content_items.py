"""Ways through the content tree of a structured report."""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.dataset import Dataset


def walk(item: Dataset) -> Iterator[Dataset]:
    """Yield every content item below an item."""
    for child in item.get("ContentSequence", []):
        yield child
        yield from walk(child)


def children(item: Dataset, name: str) -> list[Dataset]:
    """Return the items of this concept that stand directly below an item."""
    return [child for child in item.get("ContentSequence", []) if name_of(child) == name]


def number_of(item: Dataset) -> float:
    """Return the value of a NUM."""
    return float(only(item, "MeasuredValueSequence").get("NumericValue", "nan"))


def only(item: Dataset, sequence: str) -> Dataset:
    """Return the first item of a sequence; an empty one if there is none."""
    return next(iter(item.get(sequence) or []), Dataset())


def name_of(item: Dataset) -> str:
    """Return the value of the concept name."""
    return str(only(item, "ConceptNameCodeSequence").get("CodeValue", ""))


def code_of(item: Dataset) -> str:
    """Return the value of a CODE."""
    return str(only(item, "ConceptCodeSequence").get("CodeValue", ""))
