"""Finished results on their way out, and what a destination said of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ArtefactKind(StrEnum):
    """Kinds of result; a destination says which kinds it takes."""

    SR = "sr"
    FHIR = "fhir"
    KEY_IMAGES = "key-images"
    ANNOTATIONS = "annotations"
    HTML = "html"
    PDF = "pdf"
    HL7V2 = "hl7v2"


#: Results that are DICOM objects.
DICOM_KINDS = frozenset({ArtefactKind.SR, ArtefactKind.KEY_IMAGES, ArtefactKind.ANNOTATIONS, ArtefactKind.PDF})


@dataclass(frozen=True, slots=True)
class Artefact:
    """One finished result: bytes with their identity.

    Attributes
    ----------
    number:
        Which of several of its kind in a revision, from 1 to 9999. Most kinds have one: annotations have one an image.
    uid:
        SOP Instance UID of a DICOM object; otherwise an identifier derived the same way.
    file_name:
        A safe file name, derived from UIDs only.
    supersedes:
        UID of the artefact of the earlier revision that this one replaces, or None.
    """

    kind: ArtefactKind
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


def kind_and_number(name: str) -> tuple[ArtefactKind, int]:
    """Return which kind, and which of its kind, a result of this name is.

    Raises
    ------
    ValueError
        There is no such kind.
    """
    kind, _, number = name.rpartition("-")
    return (ArtefactKind(kind), int(number)) if number.isdecimal() else (ArtefactKind(name), 1)


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
