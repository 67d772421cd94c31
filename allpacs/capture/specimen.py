"""Codes of specimens and stains (DICOM CID 8103, CID 8112; SNOMED CT)."""

from __future__ import annotations

from pydicom.sr.coding import Code

from allpacs.domain.specimen import SpecimenKind, Stain

_WRIGHT = Code("373682001", "SCT", "Wright stain")
_GIEMSA = Code("373646006", "SCT", "Giemsa stain")

#: Substances used; there is no code of its own for Wright-Giemsa, which is both.
STAIN_CODES: dict[Stain, tuple[Code, ...]] = {
    Stain.WRIGHT: (_WRIGHT,),
    Stain.GIEMSA: (_GIEMSA,),
    Stain.WRIGHT_GIEMSA: (_WRIGHT, _GIEMSA),
    Stain.MAY_GRUNWALD_GIEMSA: (Code("255803006", "SCT", "May-Grunwald giemsa stain"),),
    Stain.ROMANOWSKY: (Code("255810000", "SCT", "Romanowsky stain"),),
    Stain.JENNER_GIEMSA: (Code("255801008", "SCT", "Jenner-Giemsa stain"),),
}
SPECIMEN_TYPE_CODES: dict[SpecimenKind, Code] = {
    SpecimenKind.BLOOD: Code("119297000", "SCT", "Blood specimen"),
    SpecimenKind.BONE_MARROW: Code("119359002", "SCT", "Bone marrow specimen"),
}
ANATOMY_CODES: dict[SpecimenKind, Code] = {
    SpecimenKind.BLOOD: Code("87612001", "SCT", "Blood"),
    SpecimenKind.BONE_MARROW: Code("14016003", "SCT", "Bone marrow"),
}
MICROSCOPE_SLIDE = Code("433466003", "SCT", "Microscope slide")
