"""Patient, study and specimen modules of every DICOM result: copied from the source, in a character set that fits.

Source: PS3.3 C.7.1, C.7.2, C.7.6.22 (modules), C.12.1.1.2 (Specific Character Set).
"""

from __future__ import annotations

from pydicom.charset import convert_encodings, python_encoding
from pydicom.config import RAISE
from pydicom.datadict import dictionary_VM, dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.valuerep import validate_value

from allpacs.domain.findings import StudyFindings
from allpacs.report import wording
from allpacs.report.context import ReportContext
from allpacs.report.elements import CORRUPT, encoded
from allpacs.report.source import Source

#: Copied unchanged from the source: Patient, Clinical Trial Subject, General Study and Patient Study modules
#: (PS3.3 C.7.1.1, C.7.1.3, C.7.2.1, C.7.2.2).
COPIED = (
    *("PatientName", "PatientID", "IssuerOfPatientID", "IssuerOfPatientIDQualifiersSequence"),
    *("OtherPatientIDsSequence", "PatientBirthDate", "PatientBirthTime", "PatientSex", "OtherPatientNames"),
    *("EthnicGroup", "PatientComments", "QualityControlSubject", "PatientSpeciesDescription"),
    *("PatientSpeciesCodeSequence", "PatientBreedDescription", "PatientBreedCodeSequence", "ResponsiblePerson"),
    *("ResponsiblePersonRole", "ResponsibleOrganization", "PatientIdentityRemoved", "DeidentificationMethod"),
    *("DeidentificationMethodCodeSequence", "ClinicalTrialSponsorName", "ClinicalTrialProtocolID"),
    *("ClinicalTrialProtocolName", "ClinicalTrialSiteID", "ClinicalTrialSiteName", "ClinicalTrialSubjectID"),
    *("ClinicalTrialSubjectReadingID", "StudyInstanceUID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
    *("StudyID", "AccessionNumber", "IssuerOfAccessionNumberSequence", "StudyDescription", "PhysiciansOfRecord"),
    *("ConsultingPhysicianName", "ProcedureCodeSequence", "PatientAge", "PatientSize", "PatientWeight"),
    *("Occupation", "AdditionalPatientHistory", "AdmissionID", "IssuerOfAdmissionIDSequence", "ServiceEpisodeID"),
    *("ServiceEpisodeDescription", "TimezoneOffsetFromUTC"),
)

#: Specimen module (PS3.3 C.7.6.22); copied where every instance names the same container.
SPECIMEN = (
    *("ContainerIdentifier", "IssuerOfTheContainerIdentifierSequence", "ContainerTypeCodeSequence"),
    *("ContainerDescription", "ContainerComponentSequence", "SpecimenDescriptionSequence"),
)

#: Value representations whose values have a form that says what they are.
_FORMED = frozenset({"AS", "CS", "DA", "DS", "DT", "IS", "TM"})

#: Attributes of type 2: present, empty where the source does not have them.
_TYPE_2 = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"),
    *("ReferringPhysicianName", "StudyID", "AccessionNumber"),
)


def study_modules(source: Source, character_set: list[str]) -> Dataset:
    """Return the modules of patient, study and specimen as the source has them, for a character set."""
    keywords = (*COPIED, *SPECIMEN) if source.one_container else COPIED
    modules = copied(source.lead, keywords, character_set)
    for keyword in _TYPE_2:
        if keyword not in modules:
            setattr(modules, keyword, None)
    if character_set != [""]:
        modules.SpecificCharacterSet = character_set if len(character_set) > 1 else character_set[0]
    return modules


def copied(header: Dataset, keywords: tuple[str, ...], character_set: list[str]) -> Dataset:
    """Return the named elements, decoded, so that they can be written in another character set.

    A corrupt element is left out: one that cannot be read, has the wrong value representation, or cannot be written
    (pydicom reads some corrupt values that it cannot write). So is a date, time, number or code string that is none: a
    PACS may refuse the report for it. What names the patient stays as it came, since the archive knows it so.
    """
    copy = Dataset()
    encodings = convert_encodings(character_set)
    for keyword in keywords:
        try:
            if keyword in header and dictionary_VR(keyword) == header[keyword].VR:
                element = _decoded(header[keyword])
                _check_form(element)
                encoded(element, encodings)  # raises where it cannot be written
                copy.add(element)
        except CORRUPT:
            continue
    return copy


def _check_form(element: DataElement) -> None:
    """Raise ValueError where a value that has a form (PS3.5 section 6.2) does not have it, or there are too many."""
    if element.VR in _FORMED and element.value is not None:
        if isinstance(element.value, MultiValue) and dictionary_VM(element.tag) == "1":
            raise ValueError("several values of an attribute that has one")
        for value in element.value if isinstance(element.value, MultiValue) else [element.value]:
            validate_value(element.VR, str(value), RAISE)


def _decoded(found: DataElement) -> DataElement:
    if found.VR != "SQ":
        return DataElement(found.tag, found.VR, found.value, already_converted=True)
    decoded = []
    for nested in found.value:
        copy = Dataset()
        for inner in nested:
            if inner.keyword != "SpecificCharacterSet":
                copy.add(_decoded(inner))
        decoded.append(copy)
    return DataElement(found.tag, "SQ", Sequence(decoded))


def own_text(findings: StudyFindings, source: Source, context: ReportContext) -> str:
    """Return all text of the report that may be other than ASCII and is not copied from the header as it is.

    `allpacs.report.content` encodes text in UTF-8, which says the same in any character set as long as it is ASCII.
    """
    model = findings.model
    faults = [line for one in findings.instances for line in (one.fault or "", *wording.remarks(one))]
    named = [model.name, model.version, model.digest, model.family, model.manufacturer, findings.decision_digest]
    if context.signed is not None:
        review = context.signed.review
        named += [review.reviewer.name, review.reviewer.organisation, review.reviewer.identifier, review.comment]
        named += [one.comment for one in review.cells]
    return "".join([*named, *faults, context.host_name, context.model_card, *source.procedure[:3]])


def character_set_of(source: Source, own_text: str) -> list[str]:
    """Return the source's character set; Unicode where sources differ, it is unknown, or our own text needs it.

    Source: PS3.3 C.12.1.1.2.
    """
    if len(source.character_sets) > 1:
        return ["ISO_IR 192"]
    terms = "".join(source.character_sets).split("\\")
    known = all((term or "ISO_IR 6") in python_encoding for term in terms)
    return terms if own_text.isascii() and known else ["ISO_IR 192"]
