"""De-identification of what leaves for research: the Basic Application Level Confidentiality Profile, applied strictly.

The actions come from PS3.15 Table E.1-1 (as data, from dicom-anonymizer); what is done for each is said here:

============  =========================================================================================================
action        what is done
============  =========================================================================================================
X             the attribute is removed
Z, X/Z        it stays, empty
D, X/D, …     it stays with a dummy: a pseudonym for text, the first of January 1900 for dates
U             the UID is replaced by one derived from it, the same everywhere; sequences (X/Z/U*) stay
============  =========================================================================================================

Stricter than the profile: private attributes, and whatever it does not list of which the VR is a person's name, free
text (LT, ST, UT) or unknown, are removed, at every depth. Patient ID and name become a pseudonym, so that one
subject's images stay together: a split by subject needs that.

Pixels are not looked at. An instance that says it has names burned in is refused.

Source: PS3.15 Annex E (E.1.1 De-identifier, E.2 Basic Profile), PS3.3 C.12.1.1.7 (how it is told).
"""

from __future__ import annotations

import hashlib
import hmac
from copy import deepcopy
from functools import lru_cache
from types import ModuleType
from typing import Final

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID

from allpacs.domain.errors import InputFault
from allpacs.domain.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

#: A key of this many bytes at least; who has it can find out who a pseudonym stands for.
LEAST_KEY_BYTES: Final = 16

METHOD: Final = "allpacs: PS3.15 Table E.1-1, stricter for text"
#: Basic Application Confidentiality Profile (PS3.16 CID 7050).
_METHOD_CODE: Final = ("113100", "DCM", "Basic Application Confidentiality Profile")

_REMOVED_VRS: Final = frozenset({"PN", "LT", "ST", "UT", "UN"})
_TEXT_VRS: Final = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UT"})
_DUMMIES: Final = {
    "DA": "19000101", "DT": "19000101000000", "TM": "000000", "AS": "000Y", "DS": "0", "IS": "0", "UR": "urn:none",
}  # fmt: skip
#: Their pseudonym is that of the subject, so that both are the same and stay so.
_SUBJECT: Final = (Tag("PatientID"), Tag("PatientName"))
_CURVES, _OVERLAY_DATA, _OVERLAY_COMMENTS = 0x5000, (0x6000, 0x3000), (0x6000, 0x4000)


def deidentified(dataset: Dataset, *, key: bytes) -> FileDataset:
    """Return a copy of an instance without what tells who it is of; the same key gives the same pseudonyms and UIDs.

    Parameters
    ----------
    dataset:
        An image or a report; stays as it is.
    key:
        Secret of at least `LEAST_KEY_BYTES` random bytes. Without it no pseudonym can be led back to a person; with
        another one the same person gets another pseudonym.

    Raises
    ------
    InputFault
        Burned In Annotation is YES: the pixels may name the patient.
    ValueError
        The key is too short.
    """
    if len(key) < LEAST_KEY_BYTES:
        raise ValueError(f"a key has at least {LEAST_KEY_BYTES} bytes")
    if str(dataset.get("BurnedInAnnotation", "")).strip().upper() == "YES":
        raise InputFault("Burned In Annotation is YES: the pixels may name the patient")
    names = Pseudonyms(key)
    subject = names.text("subject", str(dataset.get("PatientID") or dataset.get("StudyInstanceUID", "")))
    clean = deepcopy(dataset)
    _clean(clean, names)
    for tag in _SUBJECT:
        clean.add_new(tag, "LO" if tag == _SUBJECT[0] else "PN", subject)
    clean.PatientIdentityRemoved = "YES"
    clean.DeidentificationMethod = METHOD
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = _METHOD_CODE
    clean.DeidentificationMethodCodeSequence = [code]
    clean.LongitudinalTemporalInformationModified = "REMOVED"
    return FileDataset("", clean, preamble=bytes(128), file_meta=_file_meta(dataset, clean))


class Pseudonyms:
    """Names and UIDs in place of others: derived with a key, so that they agree and cannot be led back without it."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def uid(self, uid: str) -> str:
        """Return the UID that stands for another (PS3.5 B.2)."""
        return f"2.25.{int.from_bytes(self._digest('uid', uid)[:16])}" if uid else uid

    def text(self, kind: str, text: str) -> str:
        """Return what stands for a text: 16 characters at most, as any text attribute takes."""
        return f"{kind[:4].upper()}-{self._digest(kind, text.strip()).hex()[:10].upper()}"

    def _digest(self, kind: str, text: str) -> bytes:
        return hmac.digest(self._key, f"{kind}\x1f{text}".encode(), hashlib.sha256)


def _clean(dataset: Dataset, names: Pseudonyms) -> None:
    for tag in list(dataset.keys()):
        action = _action(tag)
        if action == "X" or tag.is_private:
            del dataset[tag]
            continue
        element = dataset[tag]
        if action is None:
            if element.VR in _REMOVED_VRS:
                del dataset[tag]
            elif element.VR == "SQ":
                _clean_items(element, names)
        elif action == "U":
            _replace_uids(element, names)
        elif action == "Z" or element.VR == "SQ":
            element.value = Sequence() if element.VR == "SQ" else None
        else:
            element.value = _dummy(element, names)


def _replace_uids(element: DataElement, names: Pseudonyms) -> None:
    if element.VR == "SQ":
        _clean_items(element, names)
    elif isinstance(element.value, MultiValue):
        element.value = [names.uid(str(uid)) for uid in element.value]
    else:
        element.value = names.uid(str(element.value or ""))


def _clean_items(element: DataElement, names: Pseudonyms) -> None:
    for item in element.value:
        _clean(item, names)


def _dummy(element: DataElement, names: Pseudonyms) -> object:
    if element.VR == "UI":
        return names.uid(str(element.value or ""))
    if element.VR in _TEXT_VRS:
        return names.text("id", str(element.value))
    return _DUMMIES.get(element.VR)


def _action(tag: BaseTag) -> str | None:
    """Return X, Z, D or U for an attribute of the table, None for one that it does not list."""
    listed = _table().get(int(tag))
    if listed is None and (
        tag.group & 0xFF00 == _CURVES or (tag.group & 0xFF00, tag.element) in (_OVERLAY_DATA, _OVERLAY_COMMENTS)
    ):
        return "X"
    return listed


@lru_cache(maxsize=1)
def _table() -> dict[int, str]:
    # Some hundred lines of data that only an export needs.
    from dicomanonymizer.dicom_anonymization_databases import dicomfields_2026c

    table: ModuleType = dicomfields_2026c
    columns = {
        "X": ("X_TAGS",),
        "Z": ("Z_TAGS", "X_Z_TAGS"),
        "D": ("D_TAGS", "Z_D_TAGS", "X_D_TAGS", "X_Z_D_TAGS"),
        "U": ("U_TAGS", "X_Z_U_STAR_TAGS"),
    }
    return {
        tag[0] << 16 | tag[1]: action
        for action, names in columns.items()
        for name in names
        for tag in getattr(table, name)
        if len(tag) == 2  # repeating groups: see _action
    }


def _file_meta(original: Dataset, clean: Dataset) -> FileMetaDataset:
    """Return File Meta Information of our own: the original's may name the sending station."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = clean.SOPClassUID
    meta.MediaStorageSOPInstanceUID = clean.SOPInstanceUID
    meta.TransferSyntaxUID = original.file_meta.TransferSyntaxUID
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    return meta
