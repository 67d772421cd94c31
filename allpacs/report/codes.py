"""Every code that allpacs writes, in one table.

Public codes come from DICOM PS3.16, SNOMED CT, LOINC, UMLS and UCUM. What no public scheme names has a code of the
private scheme 99ALLPACS, which every structured report identifies in its Coding Scheme Identification Sequence.

A cell is a *lymphoblast* or a *hematogone*; the disease is a clinical conclusion and is never coded for a cell.
"""

from __future__ import annotations

from typing import Final

from pydicom.sr.coding import Code

from allpacs.domain.findings import CellLabel, NotAssessable
from allpacs.domain.identity import derive_uid
from allpacs.domain.review import Decision

PRIVATE_SCHEME: Final = "99ALLPACS"
PRIVATE_SCHEME_UID: Final = derive_uid("coding-scheme", PRIVATE_SCHEME)


def _private(value: str, meaning: str) -> Code:
    return Code(value, PRIVATE_SCHEME, meaning)


# --- Containers and context of TID 1500 (PS3.16) ---
IMAGING_MEASUREMENT_REPORT: Final = Code("126000", "DCM", "Imaging Measurement Report")
IMAGING_MEASUREMENTS: Final = Code("126010", "DCM", "Imaging Measurements")
DERIVED_IMAGING_MEASUREMENTS: Final = Code("126011", "DCM", "Derived Imaging Measurements")
QUALITATIVE_EVALUATIONS: Final = Code("C0034375", "UMLS", "Qualitative Evaluations")
MEASUREMENT_GROUP: Final = Code("125007", "DCM", "Measurement Group")
LANGUAGE: Final = Code("121049", "DCM", "Language of Content Item and Descendants")
ENGLISH: Final = Code("en", "RFC5646", "English")
OBSERVER_TYPE: Final = Code("121005", "DCM", "Observer Type")
DEVICE: Final = Code("121007", "DCM", "Device")
DEVICE_OBSERVER_UID: Final = Code("121012", "DCM", "Device Observer UID")
DEVICE_OBSERVER_NAME: Final = Code("121013", "DCM", "Device Observer Name")
DEVICE_OBSERVER_MANUFACTURER: Final = Code("121014", "DCM", "Device Observer Manufacturer")
DEVICE_OBSERVER_MODEL_NAME: Final = Code("121015", "DCM", "Device Observer Model Name")
PERSON: Final = Code("121006", "DCM", "Person")
PERSON_OBSERVER_NAME: Final = Code("121008", "DCM", "Person Observer Name")
PERSON_OBSERVER_ORGANIZATION: Final = Code("121009", "DCM", "Person Observer's Organization Name")
PERSON_OBSERVER_LOGIN: Final = Code("128774", "DCM", "Person Observer's Login Name")
PROCEDURE_REPORTED: Final = Code("121058", "DCM", "Procedure reported")
BEST_ILLUSTRATION: Final = Code("121080", "DCM", "Best illustration of finding")
MODEL_CARD: Final = _private("MODEL_CARD", "What the model is for and how far it can be trusted")
CELL_ANNOTATIONS: Final = _private("ANNOTATIONS", "Annotations of every cell")
SUMMARY: Final = Code("121111", "DCM", "Summary")
COMMENT: Final = Code("121106", "DCM", "Comment")
PROCESSING_EQUIPMENT: Final = Code("109102", "DCM", "Processing Equipment")

# --- Subject context of specimens (TID 1006, TID 1009) ---
SUBJECT_CLASS: Final = Code("121024", "DCM", "Subject Class")
SPECIMEN: Final = Code("121027", "DCM", "Specimen")
SPECIMEN_UID: Final = Code("121039", "DCM", "Specimen UID")
SPECIMEN_IDENTIFIER: Final = Code("121041", "DCM", "Specimen Identifier")
SPECIMEN_CONTAINER: Final = Code("111700", "DCM", "Specimen Container Identifier")

# --- Imaging procedures, where the source does not name its own ---
LIGHT_MICROSCOPY: Final = Code("104157003", "SCT", "Light microscopy")
WHOLE_SLIDE_IMAGING: Final = Code("112703", "DCM", "Whole Slide Imaging")

# --- A cell (TID 1410) ---
TRACKING_IDENTIFIER: Final = Code("112039", "DCM", "Tracking Identifier")
TRACKING_UNIQUE_IDENTIFIER: Final = Code("112040", "DCM", "Tracking Unique Identifier")
FINDING: Final = Code("121071", "DCM", "Finding")
FINDING_SITE: Final = Code("363698007", "SCT", "Finding Site")
IMAGE_LIBRARY: Final = Code("111028", "DCM", "Image Library")
IMAGE_LIBRARY_GROUP: Final = Code("126200", "DCM", "Image Library Group")
SOURCE: Final = Code("260753009", "SCT", "Source")
IMAGE_REGION: Final = Code("111030", "DCM", "Image Region")
PROBABILITY: Final = Code("122157", "DCM", "Probability")
AREA: Final = Code("42798000", "SCT", "Area")
DIAMETER: Final = Code("81827009", "SCT", "Diameter")
REASON_NOT_ASSESSABLE: Final = _private("REASON", "Reason cell is not assessable")

# --- The algorithm (TID 4019) ---
ALGORITHM_NAME: Final = Code("111001", "DCM", "Algorithm Name")
ALGORITHM_VERSION: Final = Code("111003", "DCM", "Algorithm Version")
ALGORITHM_PARAMETERS: Final = Code("111002", "DCM", "Algorithm Parameters")
ALGORITHM_MANUFACTURER: Final = Code("122405", "DCM", "Algorithm Manufacturer")
ALGORITHM_FAMILY: Final = Code("111000", "DCM", "Algorithm Family")
ARTIFICIAL_INTELLIGENCE: Final = Code("123110", "DCM", "Artificial Intelligence")

# --- What a cell is ---
LYMPHOBLAST: Final = Code("15433008", "SCT", "Lymphoblast")
HEMATOGONE: Final = _private("HEM", "Hematogone")
#: Broader than a hematogone, for receivers that know SNOMED CT only (FHIR).
LYMPHOID_PRECURSOR: Final = Code("127910003", "SCT", "Lymphoid precursor cell")
INDETERMINATE: Final = Code("82334004", "SCT", "Indeterminate")
INSUFFICIENT_QUALITY: Final = Code("110531", "DCM", "Insufficient quality for interpretation")

_EXCLUDED: Final = _private("EXCLUDED", "Excluded by the reviewer")

LABELS: Final = {CellLabel.ALL: LYMPHOBLAST, CellLabel.HEM: HEMATOGONE}

#: `PROBABILITY` beside a finding is that of the finding (TID 1410, TID 1419). These name the class of which a number is
#: the probability: viewers that show only the numbers of a group, each with its name, show the class by them.
CLASS_PROBABILITIES: Final = {
    CellLabel.ALL: _private("P_LYMPHOBLAST", "Lymphoblast (probability)"),
    CellLabel.HEM: _private("P_HEMATOGONE", "Hematogone (probability)"),
}

#: The probability of a lymphoblast beside a cell that has no class.
UNCERTAIN_PROBABILITY: Final = _private("P_UNCERTAIN", "Uncertain (probability of a lymphoblast)")

#: The finding that stands in for a class: the picture is not good enough, or it is and the model cannot tell.
NOT_ASSESSABLE: Final = {
    NotAssessable.EMPTY: INSUFFICIENT_QUALITY,
    NotAssessable.BLURRED: INSUFFICIENT_QUALITY,
    NotAssessable.TOO_SMALL: INSUFFICIENT_QUALITY,
    NotAssessable.CUT_OFF: INSUFFICIENT_QUALITY,
    NotAssessable.INDETERMINATE: INDETERMINATE,
    NotAssessable.OUT_OF_DISTRIBUTION: INDETERMINATE,
    NotAssessable.SCALE_UNKNOWN: INSUFFICIENT_QUALITY,
    NotAssessable.NEUTROPHIL: INDETERMINATE,
    NotAssessable.EOSINOPHIL: INDETERMINATE,
    NotAssessable.BASOPHIL: INDETERMINATE,
    NotAssessable.MONOCYTE: INDETERMINATE,
    NotAssessable.IMMATURE_GRANULOCYTE: INDETERMINATE,
    NotAssessable.ERYTHROBLAST: INDETERMINATE,
    NotAssessable.PLATELET: INDETERMINATE,
    NotAssessable.ARTEFACT: INSUFFICIENT_QUALITY,
    NotAssessable.MODEL_FAILED: INDETERMINATE,
    NotAssessable.EXCLUDED: INDETERMINATE,
}

REASONS: Final = {
    NotAssessable.EMPTY: _private("EMPTY", "Nothing but background"),
    NotAssessable.BLURRED: _private("BLURRED", "Out of focus"),
    NotAssessable.TOO_SMALL: _private("TOO_SMALL", "Too few pixels to judge"),
    NotAssessable.CUT_OFF: _private("CUT_OFF", "Cut off by the edge of the image"),
    NotAssessable.INDETERMINATE: _private("BETWEEN", "Probability between the two thresholds"),
    NotAssessable.OUT_OF_DISTRIBUTION: _private("UNFAMILIAR", "Unlike the cells the model was trained on"),
    NotAssessable.SCALE_UNKNOWN: _private("SCALE_UNKNOWN", "Pixel size unknown"),
    NotAssessable.NEUTROPHIL: _private("NEUTROPHIL", "Neutrophil"),
    NotAssessable.EOSINOPHIL: _private("EOSINOPHIL", "Eosinophil"),
    NotAssessable.BASOPHIL: _private("BASOPHIL", "Basophil"),
    NotAssessable.MONOCYTE: _private("MONOCYTE", "Monocyte"),
    NotAssessable.IMMATURE_GRANULOCYTE: _private("IMMATURE_GRAN", "Immature granulocyte"),
    NotAssessable.ERYTHROBLAST: _private("ERYTHROBLAST", "Erythroblast"),
    NotAssessable.PLATELET: _private("PLATELET", "Platelet"),
    NotAssessable.ARTEFACT: _private("ARTEFACT", "Artefact, smudge cell or debris"),
    NotAssessable.MODEL_FAILED: _private("NO_ANSWER", "The model gave no valid answer"),
    NotAssessable.EXCLUDED: _EXCLUDED,
}

# --- What a person made of it: a signed report only ---
REVIEW_DECISION: Final = _private("DECISION", "Decision of the reviewer")
FINDING_BEFORE_REVIEW: Final = _private("BEFORE_REVIEW", "Finding of the algorithm before review")
DECISIONS: Final = {
    Decision.ACCEPTED: _private("ACCEPTED", "Accepted by the reviewer"),
    Decision.RELABELLED: _private("RELABELLED", "Changed by the reviewer"),
    Decision.EXCLUDED: _EXCLUDED,
}

# --- The study (TID 1420): no public code counts cells of a *set of images*. LOINC's differential counts have another
# denominator (all leukocytes of a specimen) and are therefore never used. ---
CELLS_FOUND: Final = _private("CELLS", "Number of cells found")
LYMPHOBLASTS: Final = _private("N_LYMPHOBLAST", "Number of lymphoblasts")
HEMATOGONES: Final = _private("N_HEMATOGONE", "Number of hematogones")
CELLS_NOT_ASSESSABLE: Final = _private("N_NOT_ASSESSABLE", "Number of cells not assessable")
LYMPHOBLAST_FRACTION: Final = _private("FRACTION", "Lymphoblasts as fraction of assessable cells")
INTERVAL: Final = _private("CI95", "95 % interval of the fraction (Wilson)")
INTERVAL_LOW: Final = _private("CI95_LOW", "Lower limit of the 95 % interval (Wilson)")
INTERVAL_HIGH: Final = _private("CI95_HIGH", "Upper limit of the 95 % interval (Wilson)")
UNREADABLE_INSTANCE: Final = _private("UNREADABLE", "Instance that could not be read")
CLASSIFICATION: Final = _private("CLASSIFICATION", "White cell classification by artificial intelligence")
CELL_CLASS: Final = _private("CELL_CLASS", "White cell class")

CELL: Final = Code("4421005", "SCT", "Cell")
OUTLINE_ON_TILE: Final = _private("ON_TILE", "Outline on the tile of the slide")

# --- Where it is in the archive (HL7 v2) ---
STUDY_INSTANCE_UID: Final = Code("110180", "DCM", "Study Instance UID")
REPORT_INSTANCE_UID: Final = _private("SR_UID", "SOP Instance UID of the structured report")

# --- Units (UCUM) ---
NO_UNITS: Final = Code("1", "UCUM", "no units")
CELLS_UNIT: Final = Code("{cells}", "UCUM", "cells")
MICROMETRE: Final = Code("um", "UCUM", "micrometer")
SQUARE_MICROMETRE: Final = Code("um2", "UCUM", "square micrometer")
PERCENT: Final = Code("%", "UCUM", "percent")

# --- Where the cells come from ---
BLOOD: Final = Code("87612001", "SCT", "Blood")
BONE_MARROW: Final = Code("14016003", "SCT", "Bone marrow")
BLOOD_SPECIMEN: Final = Code("119297000", "SCT", "Blood specimen")
BONE_MARROW_SPECIMEN: Final = Code("119359002", "SCT", "Bone marrow specimen")

#: What a specimen's type or anatomic structure says of the finding site. pydicom compares the older SRT values of the
#: same concepts (PS3.16 annex L) as equal.
FINDING_SITES: Final = {
    BLOOD_SPECIMEN: BLOOD,
    BONE_MARROW_SPECIMEN: BONE_MARROW,
    BLOOD: BLOOD,
    BONE_MARROW: BONE_MARROW,
}

# --- Documents (FHIR) ---
PATHOLOGY_STUDY: Final = Code("11526-1", "LN", "Pathology study")

#: Every code of this module, by name: pinned one by one in the unit test.
TABLE: Final = {
    name: value for name, value in dict(vars()).items() if isinstance(value, Code) and not name.startswith("_")
}
