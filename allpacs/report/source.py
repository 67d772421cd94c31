"""What the source headers say of patient, study and specimen: read once, for every report.

Headers come from anywhere: any element may be missing, empty, of the wrong type or in an unknown character set.
Nothing here raises for that; what cannot be read is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from allpacs.domain.findings import StudyFindings
from allpacs.domain.identity import is_uid
from allpacs.report import codes, order, wording
from allpacs.report.elements import CORRUPT, coded_concepts, items, text
from allpacs.report.order import Order, read_orders

Headers = Mapping[str, Dataset]

#: By what the images name the orders that they answer.
ORDER_ELEMENTS = (
    *("AccessionNumber", "IssuerOfAccessionNumberSequence", "RequestAttributesSequence"),
    *("PlacerOrderNumberImagingServiceRequest", "OrderPlacerIdentifierSequence"),
    *("FillerOrderNumberImagingServiceRequest", "OrderFillerIdentifierSequence"),
)

WHOLE_SLIDE_IMAGE = "1.2.840.10008.5.1.4.1.1.77.1.6"


@dataclass(frozen=True, slots=True)
class Specimen:
    """A specimen as the source names it; never invented.

    Attributes
    ----------
    site:
        Blood or bone marrow if the specimen's type or anatomic structure says so, otherwise None.
    container:
        Identifier of the slide that it is on; may be empty.
    """

    identifier: str
    uid: str
    type: Code | None
    site: Code | None
    container: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """Patient, study and specimens of a study; empty strings where the source does not say.

    Attributes
    ----------
    study_date:
        ``YYYYMMDD`` or empty.
    acquired:
        When the lead was acquired, ``YYYYMMDDHHMMSS``, or ``YYYYMMDD`` if it states no time; the study's date and time
        if it states neither; empty if nothing is stated.
    timezone_offset:
        ``+HHMM`` or ``-HHMM`` as in Timezone Offset From UTC (0008,0201), or empty.
    patient_id_authority:
        Name space, universal ID and its type (``ISO``, ``DNS``, …) of who issued the patient ID, each may be empty
        (PS3.3 C.7.1.1, Issuer of Patient ID and its qualifiers).
    specimens:
        By SOP Instance UID; instances without a specimen are left out.
    instance_numbers:
        Instance Number by SOP Instance UID; instances without one are left out.
    character_sets:
        Specific Character Set of the instances, each of its values once.
    one_container:
        Whether all instances show the same container (slide), so that one Specimen module is true of them all.
    orders:
        The orders that the images answer, the lead's first.
    contradictions:
        What the headers contradict themselves in, one line each, without patient data.
    lossy:
        The header of an image that was compressed with loss at any time; None if none was.
    lead:
        The header that patient and study are taken from; empty if there is none.
    """

    patient_name: str
    patient_id: str
    patient_id_issuer: str
    patient_id_authority: tuple[str, str, str]
    birth_date: str
    sex: str
    study_date: str
    acquired: str
    study_description: str
    timezone_offset: str
    procedure: Code
    specimens: Mapping[str, tuple[Specimen, ...]]
    instance_numbers: Mapping[str, str]
    character_sets: frozenset[str]
    one_container: bool
    orders: tuple[Order, ...]
    contradictions: tuple[str, ...]
    lossy: Dataset | None
    lead: Dataset

    @property
    def all_specimens(self) -> tuple[Specimen, ...]:
        """Return every specimen once, in order of identifier."""
        found = {specimen for several in self.specimens.values() for specimen in several}
        return tuple(sorted(found, key=lambda specimen: (specimen.identifier, specimen.uid)))

    def site(self, sop_instance_uid: str) -> Code | None:
        """Return blood or bone marrow where the instance's specimens all agree on it."""
        sites = {specimen.site for specimen in self.specimens.get(sop_instance_uid, ())}
        return sites.pop() if len(sites) == 1 else None


def lead_header(findings: StudyFindings, headers: Headers) -> Dataset:
    """Return the header that patient and study are taken from: the first instance's that has one, or an empty one."""
    known = (headers[i.sop_instance_uid] for i in findings.instances if i.sop_instance_uid in headers)
    return next(known, Dataset())


def read_source(findings: StudyFindings, headers: Headers) -> Source:
    """Return what the headers say: each is read once, and only the lead is kept."""
    lead = lead_header(findings, headers)
    uids = [instance.sop_instance_uid for instance in findings.instances if instance.sop_instance_uid in headers]
    # Instances of one order share these elements: each combination is read once.
    distinct = list({_order_key(header): header for header in (lead, *(headers[uid] for uid in uids))}.values())
    containers = {text(headers[uid], "ContainerIdentifier") for uid in uids}
    shared: dict[tuple[Specimen, ...], tuple[Specimen, ...]] = {}  # of a large study most instances name the same
    patient_qualifiers = next(items(lead, "IssuerOfPatientIDQualifiersSequence"), Dataset())
    specimens = {uid: shared.setdefault(found, found) for uid in uids if (found := tuple(_specimens(headers[uid])))}
    slides = all(instance.sop_class_uid == WHOLE_SLIDE_IMAGE for instance in findings.instances)
    return Source(
        patient_name=person_name(lead),
        patient_id=text(lead, "PatientID"),
        patient_id_issuer=text(patient_qualifiers, "UniversalEntityID") or text(lead, "IssuerOfPatientID"),
        patient_id_authority=(
            text(lead, "IssuerOfPatientID"),
            text(patient_qualifiers, "UniversalEntityID"),
            text(patient_qualifiers, "UniversalEntityIDType"),
        ),
        birth_date=_date(lead, "PatientBirthDate"),
        sex=text(lead, "PatientSex"),
        orders=read_orders(distinct),
        contradictions=tuple(order.contradictions(distinct)),
        lossy=next((headers[uid] for uid in uids if text(headers[uid], "LossyImageCompression") == "01"), None),
        study_date=_date(lead, "StudyDate"),
        acquired=_acquired(lead),
        study_description=text(lead, "StudyDescription"),
        timezone_offset=_timezone_offset(lead),
        procedure=next(
            coded_concepts(lead, "ProcedureCodeSequence"),
            codes.WHOLE_SLIDE_IMAGING if slides else codes.LIGHT_MICROSCOPY,
        ),
        specimens=specimens,
        instance_numbers={uid: number for uid in uids if (number := text(headers[uid], "InstanceNumber"))},
        character_sets=frozenset(text(headers[uid], "SpecificCharacterSet") for uid in uids),
        one_container=len(containers) == 1 and "" not in containers,
        lead=lead,
    )


def _order_key(header: Dataset) -> tuple[object, ...]:
    """Return what two headers that name the same orders have in common: the same element objects, or none."""
    key: list[object] = []
    for keyword in ORDER_ELEMENTS:
        try:
            key.append(id(header.get_item(keyword)) if keyword in header else None)
        except CORRUPT:
            key.append(None)  # reading it gives nothing, either
    return tuple(key)


def person_name(header: Dataset) -> str:
    """Return the patient's name for a reader: component groups with spaces for carets, one after the other."""
    return wording.person(text(header, "PatientName"))


def _date(header: Dataset, keyword: str) -> str:
    value = text(header, keyword)
    return value if _is_date(value) else ""


def _is_date(value: str) -> bool:
    if not (len(value) == 8 and value.isascii() and value.isdigit()):
        return False
    try:
        date.fromisoformat(value)
    except ValueError:  # 00000000, 20250229: not a day, and not a date for FHIR
        return False
    return True


def _acquired(header: Dataset) -> str:
    moment = text(header, "AcquisitionDateTime")
    stated = [(moment[:8], moment[8:14])] if moment else []
    kinds = ("Acquisition", "Content", "Study")
    stated += [(text(header, f"{kind}Date"), text(header, f"{kind}Time")) for kind in kinds]
    for day, time in stated:
        if _is_date(day):
            return day + (time[:6] if _is_time(time[:6]) else "")
    return ""


def _is_time(value: str) -> bool:
    digits = len(value) == 6 and value.isascii() and value.isdigit()
    return digits and int(value[:2]) < 24 and int(value[2:4]) < 60 and int(value[4:]) < 60


def _timezone_offset(header: Dataset) -> str:
    value = text(header, "TimezoneOffsetFromUTC")
    valid = len(value) == 5 and value[0] in "+-" and value[1:].isascii() and value[1:].isdigit()
    return value if valid and int(value[1:3]) <= 14 and int(value[3:]) < 60 else ""


def _specimens(header: Dataset) -> Iterator[Specimen]:
    for item in items(header, "SpecimenDescriptionSequence"):
        types = list(coded_concepts(item, "SpecimenTypeCodeSequence"))
        structures = list(coded_concepts(item, "PrimaryAnatomicStructureSequence"))
        uid = text(item, "SpecimenUID")
        specimen = Specimen(
            identifier=text(item, "SpecimenIdentifier"),
            uid=uid if is_uid(uid) else "",
            type=types[0] if types else None,
            site=_site([*structures, *types]),
            container=text(header, "ContainerIdentifier"),
        )
        if specimen.identifier or specimen.uid:
            yield specimen


def _site(given: Iterable[Code]) -> Code | None:
    for concept in given:
        for known, site in codes.FINDING_SITES.items():
            if known == concept:
                return site
    return None
