"""Every code is pinned, and agrees with pydicom's dictionary where that has it."""

from __future__ import annotations

import pytest
from pydicom.sr._concepts_dict import concepts
from pydicom.sr.coding import Code

from allpacs.domain.findings import CellLabel, NotAssessable
from allpacs.domain.identity import is_uid
from allpacs.report import codes

PINNED = {
    "IMAGING_MEASUREMENT_REPORT": ("126000", "DCM"),
    "IMAGING_MEASUREMENTS": ("126010", "DCM"),
    "DERIVED_IMAGING_MEASUREMENTS": ("126011", "DCM"),
    "QUALITATIVE_EVALUATIONS": ("C0034375", "UMLS"),
    "MEASUREMENT_GROUP": ("125007", "DCM"),
    "LANGUAGE": ("121049", "DCM"),
    "ENGLISH": ("en", "RFC5646"),
    "OBSERVER_TYPE": ("121005", "DCM"),
    "DEVICE": ("121007", "DCM"),
    "DEVICE_OBSERVER_UID": ("121012", "DCM"),
    "DEVICE_OBSERVER_NAME": ("121013", "DCM"),
    "DEVICE_OBSERVER_MANUFACTURER": ("121014", "DCM"),
    "DEVICE_OBSERVER_MODEL_NAME": ("121015", "DCM"),
    "PERSON": ("121006", "DCM"),
    "PERSON_OBSERVER_NAME": ("121008", "DCM"),
    "PERSON_OBSERVER_ORGANIZATION": ("121009", "DCM"),
    "PERSON_OBSERVER_LOGIN": ("128774", "DCM"),
    "REVIEW_DECISION": ("DECISION", "99ALLPACS"),
    "FINDING_BEFORE_REVIEW": ("BEFORE_REVIEW", "99ALLPACS"),
    "PROCEDURE_REPORTED": ("121058", "DCM"),
    "BEST_ILLUSTRATION": ("121080", "DCM"),
    "MODEL_CARD": ("MODEL_CARD", "99ALLPACS"),
    "CELL_ANNOTATIONS": ("ANNOTATIONS", "99ALLPACS"),
    "SUMMARY": ("121111", "DCM"),
    "COMMENT": ("121106", "DCM"),
    "PROCESSING_EQUIPMENT": ("109102", "DCM"),
    "LIGHT_MICROSCOPY": ("104157003", "SCT"),
    "WHOLE_SLIDE_IMAGING": ("112703", "DCM"),
    "TRACKING_IDENTIFIER": ("112039", "DCM"),
    "TRACKING_UNIQUE_IDENTIFIER": ("112040", "DCM"),
    "FINDING": ("121071", "DCM"),
    "FINDING_SITE": ("363698007", "SCT"),
    "SOURCE": ("260753009", "SCT"),
    "IMAGE_REGION": ("111030", "DCM"),
    "PROBABILITY": ("122157", "DCM"),
    "REASON_NOT_ASSESSABLE": ("REASON", "99ALLPACS"),
    "ALGORITHM_NAME": ("111001", "DCM"),
    "ALGORITHM_VERSION": ("111003", "DCM"),
    "ALGORITHM_PARAMETERS": ("111002", "DCM"),
    "ALGORITHM_MANUFACTURER": ("122405", "DCM"),
    "ALGORITHM_FAMILY": ("111000", "DCM"),
    "ARTIFICIAL_INTELLIGENCE": ("123110", "DCM"),
    "LYMPHOBLAST": ("15433008", "SCT"),
    "HEMATOGONE": ("HEM", "99ALLPACS"),
    "LYMPHOID_PRECURSOR": ("127910003", "SCT"),
    "INDETERMINATE": ("82334004", "SCT"),
    "INSUFFICIENT_QUALITY": ("110531", "DCM"),
    "CELLS_FOUND": ("CELLS", "99ALLPACS"),
    "LYMPHOBLASTS": ("N_LYMPHOBLAST", "99ALLPACS"),
    "HEMATOGONES": ("N_HEMATOGONE", "99ALLPACS"),
    "CELLS_NOT_ASSESSABLE": ("N_NOT_ASSESSABLE", "99ALLPACS"),
    "LYMPHOBLAST_FRACTION": ("FRACTION", "99ALLPACS"),
    "INTERVAL": ("CI95", "99ALLPACS"),
    "INTERVAL_LOW": ("CI95_LOW", "99ALLPACS"),
    "INTERVAL_HIGH": ("CI95_HIGH", "99ALLPACS"),
    "UNREADABLE_INSTANCE": ("UNREADABLE", "99ALLPACS"),
    "CLASSIFICATION": ("CLASSIFICATION", "99ALLPACS"),
    "CELL_CLASS": ("CELL_CLASS", "99ALLPACS"),
    "CELL": ("4421005", "SCT"),
    "OUTLINE_ON_TILE": ("ON_TILE", "99ALLPACS"),
    "IMAGE_LIBRARY": ("111028", "DCM"),
    "IMAGE_LIBRARY_GROUP": ("126200", "DCM"),
    "SUBJECT_CLASS": ("121024", "DCM"),
    "SPECIMEN": ("121027", "DCM"),
    "SPECIMEN_UID": ("121039", "DCM"),
    "SPECIMEN_IDENTIFIER": ("121041", "DCM"),
    "SPECIMEN_CONTAINER": ("111700", "DCM"),
    "PERCENT": ("%", "UCUM"),
    "AREA": ("42798000", "SCT"),
    "DIAMETER": ("81827009", "SCT"),
    "MICROMETRE": ("um", "UCUM"),
    "SQUARE_MICROMETRE": ("um2", "UCUM"),
    "UNCERTAIN_PROBABILITY": ("P_UNCERTAIN", "99ALLPACS"),
    "STUDY_INSTANCE_UID": ("110180", "DCM"),
    "REPORT_INSTANCE_UID": ("SR_UID", "99ALLPACS"),
    "NO_UNITS": ("1", "UCUM"),
    "CELLS_UNIT": ("{cells}", "UCUM"),
    "BLOOD": ("87612001", "SCT"),
    "BONE_MARROW": ("14016003", "SCT"),
    "BLOOD_SPECIMEN": ("119297000", "SCT"),
    "BONE_MARROW_SPECIMEN": ("119359002", "SCT"),
    "PATHOLOGY_STUDY": ("11526-1", "LN"),
}
EVERY_CODE = [*codes.TABLE.items(), *((reason.name, code) for reason, code in codes.REASONS.items())]

#: Public codes that pydicom's dictionary does not have; all come from the project's standards list.
NOT_IN_PYDICOM = {
    "PATHOLOGY_STUDY": "LN",
    "QUALITATIVE_EVALUATIONS": "UMLS",
    "ENGLISH": "RFC5646",
    "LYMPHOBLAST": "SCT",
    "LYMPHOID_PRECURSOR": "SCT",
    "CELLS_UNIT": "UCUM",
    "BLOOD_SPECIMEN": "SCT",
    "BONE_MARROW_SPECIMEN": "SCT",
}


def test_table_is_pinned() -> None:
    assert {name: (code.value, code.scheme_designator) for name, code in codes.TABLE.items()} == PINNED


def test_public_codes_agree_with_pydicom() -> None:
    known = {
        (scheme, value): meaning
        for scheme, keywords in concepts.items()
        for several in keywords.values()
        for value, (meaning, *_) in several.items()
    }
    missing = {
        name: code.scheme_designator
        for name, code in codes.TABLE.items()
        if code.scheme_designator != "99ALLPACS" and (code.scheme_designator, code.value) not in known
    }
    assert missing == NOT_IN_PYDICOM
    for name in ("FINDING", "PROBABILITY", "INSUFFICIENT_QUALITY", "WHOLE_SLIDE_IMAGING", "IMAGE_REGION"):
        code = codes.TABLE[name]
        assert code.meaning == known[code.scheme_designator, code.value]


@pytest.mark.parametrize(("name", "code"), EVERY_CODE)
def test_code_fits_its_elements(name: str, code: Code) -> None:
    assert len(code.value) <= 16, "Code Value is SH"
    assert len(code.scheme_designator) <= 16
    assert len(code.meaning) <= 64, "Code Meaning is LO"
    assert code.meaning.isascii()


def test_every_outcome_has_a_code() -> None:
    assert set(codes.LABELS) == set(CellLabel)
    assert set(codes.NOT_ASSESSABLE) == set(NotAssessable) == set(codes.REASONS)
    assert len({code.value for code in codes.REASONS.values()}) == len(NotAssessable)
    assert {label: (code.value, code.meaning) for label, code in codes.CLASS_PROBABILITIES.items()} == {
        CellLabel.ALL: ("P_LYMPHOBLAST", "Lymphoblast (probability)"),
        CellLabel.HEM: ("P_HEMATOGONE", "Hematogone (probability)"),
    }


def test_private_codes_are_unique() -> None:
    private = [code.value for _, code in EVERY_CODE if code.scheme_designator == "99ALLPACS"]
    assert len(private) == len(set(private))
    assert is_uid(codes.PRIVATE_SCHEME_UID)


def test_a_cell_is_never_coded_as_the_disease() -> None:
    said = " ".join(code.meaning.lower() for _, code in EVERY_CODE)
    assert "leuk" not in said
    assert {code.value for _, code in EVERY_CODE}.isdisjoint({"93143009", "91857003", "C3167", "111047", "26446-5"})
