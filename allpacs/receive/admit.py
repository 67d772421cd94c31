"""Whether an instance is admitted: a pure decision on its header.

Statuses (PS3.4 Table B.2-1; PS3.7 section 9.1.1.1.9 and Annex C):

====== ============================================================================================
0x0117 A UID is not a valid UID
0x0122 The SOP Class is not one we take
0x0124 The instance is our own result: what the model drew never becomes its input
0xA900 SOP Class or SOP Instance UID of the data set are not those of the request
0xC000 The data set cannot be understood: not parsable, cut short, no pixels, a UID missing or empty
====== ============================================================================================

A missing patient identifier is no reason to refuse. Nothing here reads, decodes or repeats patient data.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

from allpacs.dicom.status import (
    CANNOT_UNDERSTAND,
    DATA_SET_DOES_NOT_MATCH,
    INVALID_SOP_INSTANCE,
    NOT_AUTHORISED,
    SOP_CLASS_NOT_SUPPORTED,
)
from allpacs.domain.errors import InstanceRefused
from allpacs.domain.identity import MANUFACTURER, is_uid
from allpacs.domain.instance import InstanceIdentity

#: SOP Classes we take, by UID (PS3.4 Table B.5-1).
ACCEPTED_SOP_CLASSES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "1.2.840.10008.5.1.4.1.1.77.1.2": "VL Microscopic Image Storage",
        "1.2.840.10008.5.1.4.1.1.77.1.3": "VL Slide-Coordinates Microscopic Image Storage",
        "1.2.840.10008.5.1.4.1.1.77.1.4": "VL Photographic Image Storage",
        "1.2.840.10008.5.1.4.1.1.77.1.6": "VL Whole Slide Microscopy Image Storage",
        "1.2.840.10008.5.1.4.1.1.7": "Secondary Capture Image Storage",
        "1.2.840.10008.5.1.4.1.1.7.4": "Multi-frame True Color Secondary Capture Image Storage",
    }
)

#: Manufacturer's Model Name of our results. What `allpacs import` makes of microscope pictures is named otherwise.
OWN_MODEL_NAME: Final = "allpacs"

_SOP_CLASS_UID = Tag(0x0008, 0x0016)
_SOP_INSTANCE_UID = Tag(0x0008, 0x0018)
_MANUFACTURER = Tag(0x0008, 0x0070)
_MODEL_NAME = Tag(0x0008, 0x1090)
_STUDY_UID = Tag(0x0020, 0x000D)
_SERIES_UID = Tag(0x0020, 0x000E)

#: Attributes in which senders say how many instances a study has, by keyword.
COUNT_TAGS: Final[Mapping[str, BaseTag]] = MappingProxyType(
    {
        "NumberOfStudyRelatedInstances": Tag(0x0020, 0x1208),
        "ImagesInAcquisition": Tag(0x0020, 0x1002),
    }
)

#: The elements that decide; nothing else of a header needs to be read.
DECIDING_TAGS: Final = (_SOP_CLASS_UID, _SOP_INSTANCE_UID, _MANUFACTURER, _MODEL_NAME, _STUDY_UID, _SERIES_UID)


def admit(header: Dataset, *, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> InstanceIdentity:
    """Return the identity of an instance that is admitted.

    Parameters
    ----------
    header:
        The instance's data set, of which `DECIDING_TAGS` are looked at.
    sop_class_uid, sop_instance_uid:
        Affected SOP Class and SOP Instance UID of the C-STORE request.
    transfer_syntax_uid:
        Of the presentation context.

    Raises
    ------
    InstanceRefused
        It is not admitted; carries the status.
    """
    if sop_class_uid not in ACCEPTED_SOP_CLASSES:
        raise InstanceRefused(SOP_CLASS_NOT_SUPPORTED, "SOP Class not supported")
    identity = InstanceIdentity(
        sop_instance_uid=_uid(header, _SOP_INSTANCE_UID, "SOP Instance UID"),
        sop_class_uid=_uid(header, _SOP_CLASS_UID, "SOP Class UID"),
        transfer_syntax_uid=transfer_syntax_uid,
        study_uid=_uid(header, _STUDY_UID, "Study Instance UID"),
        series_uid=_uid(header, _SERIES_UID, "Series Instance UID"),
    )
    if identity.sop_class_uid != sop_class_uid:
        raise InstanceRefused(DATA_SET_DOES_NOT_MATCH, "SOP Class UID of the data set is not that of the request")
    if identity.sop_instance_uid != sop_instance_uid:
        raise InstanceRefused(DATA_SET_DOES_NOT_MATCH, "SOP Instance UID of the data set is not that of the request")
    if _text(header, _MANUFACTURER) == MANUFACTURER and _text(header, _MODEL_NAME) == OWN_MODEL_NAME:
        raise InstanceRefused(NOT_AUTHORISED, "a result of allpacs is not taken as input")
    return identity


def expected_instances(header: Dataset, keyword: str) -> int | None:
    """Return how many instances a study has by one of `COUNT_TAGS`, or None where the sender does not say."""
    text = _text(header, COUNT_TAGS[keyword])
    return (int(text) or None) if text.isdecimal() and len(text) <= 6 else None


def _uid(header: Dataset, tag: BaseTag, name: str) -> str:
    text = _text(header, tag)
    if not text:
        raise InstanceRefused(CANNOT_UNDERSTAND, f"{name} is missing or empty")
    if not is_uid(text):
        raise InstanceRefused(INVALID_SOP_INSTANCE, f"{name} is not a valid UID")
    return text


def _text(header: Dataset, tag: BaseTag) -> str:
    """Return an element's value as it was sent, without padding, or an empty text where there is none.

    Read raw: pydicom's conversion warns, and repeats the value when it does.
    """
    element: Any = header.get_item(tag)
    value = None if element is None else element.value
    if isinstance(element, RawDataElement) and isinstance(value, bytes):
        value = value.decode("latin-1")
    return "" if value is None else str(value).strip("\0 ")
