"""Finished results on their way out, and what a destination said of them."""

from __future__ import annotations

import re
from collections.abc import Set
from dataclasses import dataclass
from enum import StrEnum

#: Media type of every result that is a DICOM object (PS3.18 section 8.7.3).
DICOM = "application/dicom"
#: Media type of a FHIR resource in JSON (HL7 FHIR R4, JSON representation of resources).
FHIR_JSON = "application/fhir+json"
#: Media type of an HL7 v2 message in its pipe-delimited encoding (HL7 v2 over HTTP).
HL7_V2 = "application/hl7-v2+er7"
#: In what a destination takes: results of every media type.
EVERY_MEDIA_TYPE = "*/*"

#: A kind is part of file names and addresses; one that ended in a number would read as one of several of a kind.
_KIND = re.compile(r"[a-z][a-z0-9]*(-[a-z][a-z0-9]*)*")


class ArtefactKind(StrEnum):
    """Kinds of result that code outside `allpacs.report` refers to by name.

    A new format needs no entry here: a kind is any word that its module in `allpacs.report` declares.
    """

    SR = "sr"
    FHIR = "fhir"
    KEY_IMAGES = "key-images"
    ANNOTATIONS = "annotations"
    HTML = "html"
    PDF = "pdf"
    HL7V2 = "hl7v2"


@dataclass(frozen=True, slots=True)
class Artefact:
    """One finished result: bytes with their identity.

    Attributes
    ----------
    kind:
        The format's own word, for example ``sr``; see `is_kind`.
    media_type:
        With parameters, for example ``text/html; charset=utf-8``. Destinations choose by it.
    number:
        Which of several of its kind in a revision, from 1 to 9999. Most kinds have one: annotations have one an image.
    uid:
        SOP Instance UID of a DICOM object; otherwise an identifier derived the same way.
    file_name:
        A safe file name, derived from UIDs only.
    supersedes:
        UID of the artefact of the earlier revision that this one replaces, or None.
    """

    kind: str
    uid: str
    media_type: str
    file_name: str
    content: bytes
    supersedes: str | None = None
    number: int = 1

    @property
    def name(self) -> str:
        """What it is called among the results of its revision: its kind, and from the second on its number.

        >>> Artefact(ArtefactKind.KEY_IMAGES, "2.25.1", "application/dicom", "2.25.1.dcm", b"", number=2).name
        'key-images-2'
        """
        return str(self.kind) if self.number == 1 else f"{self.kind}-{self.number}"

    @property
    def is_dicom(self) -> bool:
        """Whether the result is a DICOM object in a Part 10 file."""
        return is_taken(self.media_type, {DICOM})

    def is_taken_by(self, takes: Set[str]) -> bool:
        """Whether a destination that takes these media types takes this result."""
        return is_taken(self.media_type, takes)


def is_kind(word: str) -> bool:
    """Whether a word can name a kind of result: lower-case words with hyphens, none of which begins with a digit.

    >>> is_kind("key-images"), is_kind("csv-2"), is_kind("CSV")
    (True, False, False)
    """
    return _KIND.fullmatch(word) is not None


def is_taken(media_type: str, takes: Set[str]) -> bool:
    """Whether a result of this media type is among the media types that a destination takes.

    >>> is_taken("text/html; charset=utf-8", {"text/html"}), is_taken("text/csv", {EVERY_MEDIA_TYPE})
    (True, True)
    """
    return EVERY_MEDIA_TYPE in takes or media_type.partition(";")[0].strip() in takes


def kind_and_number(name: str) -> tuple[str, int]:
    """Return which kind, and which of its kind, a result of this name is.

    >>> kind_and_number("key-images-2"), kind_and_number("sr")
    (('key-images', 2), ('sr', 1))
    """
    kind, _, number = name.rpartition("-")
    kind, place = (kind, int(number)) if number.isdecimal() else (name, 1)
    return (ArtefactKind(kind) if kind in set(ArtefactKind) else kind), place


@dataclass(frozen=True, slots=True)
class Receipt:
    """A destination's acceptance.

    Attributes
    ----------
    detail:
        One line for the operator, for example ``0x0000`` or ``201 Created x6``; no patient data.
    warning:
        A success with a warning (C-STORE status 0xB000, 0xB006, 0xB007), or None.
    """

    detail: str
    warning: str | None = None


class Asked(StrEnum):
    """What came of asking a destination to vouch for what it has taken."""

    NOT_OFFERED = "not-offered"  # it does not know the service, or does not grant it
    PENDING = "pending"  # the answer will come to the receiver
    COMMITTED = "committed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Commitment:
    """What a destination said to a request for commitment; `reason` is one line for the operator."""

    asked: Asked
    reason: str
