"""Whose cells are in a picture and how they were prepared, as the person at the microscope states it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from enum import StrEnum

from allpacs.domain.errors import InputFault


class SpecimenKind(StrEnum):
    """Where the cells come from."""

    BLOOD = "blood"
    BONE_MARROW = "bone-marrow"


class Stain(StrEnum):
    """Stains of DICOM CID 8112 that blood and marrow smears are made with."""

    WRIGHT = "wright"
    GIEMSA = "giemsa"
    WRIGHT_GIEMSA = "wright-giemsa"
    MAY_GRUNWALD_GIEMSA = "may-grunwald-giemsa"
    ROMANOWSKY = "romanowsky"
    JENNER_GIEMSA = "jenner-giemsa"


@dataclass(frozen=True, slots=True)
class PatientAndSpecimen:
    """What a picture's file does not say. What is left out stays unknown in the instance; nothing is made up.

    Attributes
    ----------
    patient_name:
        DICOM person name: family name, ``^``, given name; any script.
    sex:
        ``M``, ``F``, ``O`` or empty.
    container_id:
        Identifier on the slide; the accession number where empty.
    kind, stain:
        None where not known.

    Raises
    ------
    InputFault
        A value does not fit its DICOM value representation (PS3.5 6.2); the message names it, not its content.
    """

    patient_id: str = ""
    patient_name: str = ""
    birth_date: date | None = None
    sex: str = ""
    accession_number: str = ""
    container_id: str = ""
    kind: SpecimenKind | None = None
    stain: Stain | None = None

    def __post_init__(self) -> None:
        limits = {"patient_id": 64, "accession_number": 16, "container_id": 64, "patient_name": 3 * 64}
        for field, most in limits.items():
            text: str = getattr(self, field)
            if len(text) > most:
                raise InputFault(f"the {field.replace('_', ' ')} is longer than {most} characters")
            if "\\" in text or not text.isprintable():
                raise InputFault(f"the {field.replace('_', ' ')} has a backslash or a control character")
        if self.sex not in ("", "M", "F", "O"):
            raise InputFault("the sex is none of M, F, O")
