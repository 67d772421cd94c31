"""The source headers of a study in little memory: whole of one instance, of the others what reports quote of each.

A header as pydicom holds it takes some 45 kB; a study may have 50,000.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from pydicom.charset import default_encoding
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from allpacs.report.source import CORRUPT, encoded

#: What a report quotes of every instance; all else it takes from the lead.
OF_EACH = ("SpecificCharacterSet", "InstanceNumber", "ContainerIdentifier", "SpecimenDescriptionSequence")


def gathered(headers: Iterable[tuple[str, Dataset]], lead: str) -> dict[str, Dataset]:
    """Return headers as reports need them; elements that instances have in common are there once.

    Parameters
    ----------
    headers:
        SOP Instance UID and header, one after the other.
    lead:
        SOP Instance UID of the one that `allpacs.report.source.lead_header` takes patient and study from.
    """
    shared: dict[object, DataElement] = {}
    return {uid: header if uid == lead else _of_each(header, shared) for uid, header in headers}


def _of_each(header: Dataset, shared: dict[object, DataElement]) -> Dataset:
    """Return the elements of `OF_EACH` that can be read: one that cannot is taken for missing, as everywhere here."""
    kept = Dataset()
    for keyword in OF_EACH:
        with suppress(*CORRUPT):
            if keyword in header:
                written = _written(header, keyword)
                if written not in shared:
                    shared[written] = header[keyword]
                kept.add(shared[written])
    return kept


def _written(header: Dataset, keyword: str) -> object:
    """Return what two elements have in common that say the same: how they are written, and in which character set."""
    tag = Tag(keyword)
    raw: object = header.get_item(tag)
    stated = header.original_character_set or default_encoding
    encodings = [stated] if isinstance(stated, str) else list(stated)
    if isinstance(raw, RawDataElement):
        return tag, raw.VR, raw.value, tuple(encodings)
    return tag, encoded(header[keyword], encodings)
