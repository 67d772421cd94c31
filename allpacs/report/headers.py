"""The source headers of a study in little memory: whole of one instance, of the others what reports quote of each.

A header as pydicom holds it takes some 45 kB; a study may have 50,000.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress

from pydicom.charset import default_encoding
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

from allpacs.domain.errors import InputFault
from allpacs.report.elements import CORRUPT, encoded, text
from allpacs.report.source import ORDER_ELEMENTS

#: What a report quotes of every instance, and whom each is about; all else it takes from the lead.
OF_EACH = (
    *("SpecificCharacterSet", "PatientID", "IssuerOfPatientID"),
    *("InstanceNumber", "ContainerIdentifier", "SpecimenDescriptionSequence"),
    *("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"),
    *ORDER_ELEMENTS,
)


def gathered(
    headers: Iterable[tuple[str, Dataset]], lead: str, readable: Callable[[Dataset, BaseTag], bool]
) -> dict[str, Dataset]:
    """Return headers as reports need them; elements that instances have in common are there once, and read once.

    Parameters
    ----------
    headers:
        SOP Instance UID and header, one after the other; of all but the lead, `OF_EACH` will do.
    lead:
        SOP Instance UID of the one that `allpacs.report.source.lead_header` takes patient and study from.
    readable:
        Whether an element can be read: one that cannot is taken for missing, as everywhere here.
    """
    shared: dict[object, DataElement | None] = {}
    return {uid: header if uid == lead else _of_each(header, shared, readable) for uid, header in headers}


def check_one_patient(headers: Iterable[Dataset]) -> None:
    """Check that no two instances of a study name different patients: a report gives the cells of all to one.

    An instance without a Patient ID is taken to be of the patient whom the others name.

    Raises
    ------
    InputFault
        Two differ in Patient ID, or in the issuer of the same one. The message holds neither.
    """
    named = {(patient, text(one, "IssuerOfPatientID")) for one in headers if (patient := text(one, "PatientID"))}
    several = len({patient for patient, _ in named}) > 1
    if several or len({issuer for _, issuer in named if issuer}) > 1:
        differs = "Patient ID" if several else "Issuer of Patient ID"
        raise InputFault(
            f"its instances name different patients ({differs} differs), so no report of them is written: correct them "
            "at the PACS, and send them again under new study and instance UIDs, because what came under these stays "
            "as it is"
        )


def _of_each(
    header: Dataset, shared: dict[object, DataElement | None], readable: Callable[[Dataset, BaseTag], bool]
) -> Dataset:
    kept = Dataset()
    for tag in map(Tag, OF_EACH):
        with suppress(*CORRUPT):
            if tag in header:
                written = _written(header, tag)
                if written not in shared:
                    shared[written] = header[tag] if readable(header, tag) else None
                if (element := shared[written]) is not None:
                    kept.add(element)
    return kept


def _written(header: Dataset, tag: BaseTag) -> object:
    """Return what two elements have in common that say the same: how they are written, and in which character set."""
    raw: object = header.get_item(tag)
    stated = header.original_character_set or default_encoding
    encodings = [stated] if isinstance(stated, str) else list(stated)
    if isinstance(raw, RawDataElement):
        return tag, raw.VR, raw.value, tuple(encodings)
    return tag, encoded(header[tag], encodings)
