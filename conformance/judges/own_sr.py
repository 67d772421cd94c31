"""Our own checks of a structured report: what no validator notices, from the check-list of IHE AIR and TID 1500.

Written against the file alone, with pydicom: nothing here calls the code that wrote it, but for the table of codes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from pydicom.dataset import Dataset
from pydicom.sr._concepts_dict import concepts

from allpacs.report import codes
from conformance.judges import sr_context
from conformance.judges.content_items import children, code_of, name_of, number_of, only, walk

_PRIVATE = {code.value: code.meaning for code in codes.TABLE.values() if code.scheme_designator == codes.PRIVATE_SCHEME}
for _table in (codes.REASONS, codes.DECISIONS, codes.CLASS_PROBABILITIES):
    _PRIVATE |= {code.value: code.meaning for code in _table.values()}

#: Relationship that each concept has to its parent wherever it stands (PS3.16 TID 1002, 1204, 1410, 1500, 4019).
_RELATIONSHIPS = {
    "121049": "HAS CONCEPT MOD",
    "121005": "HAS OBS CONTEXT",
    "121012": "HAS OBS CONTEXT",
    "121008": "HAS OBS CONTEXT",
    "121058": "HAS CONCEPT MOD",
    "126010": "CONTAINS",
    "126011": "CONTAINS",
    "125007": "CONTAINS",
    "112039": "HAS OBS CONTEXT",
    "112040": "HAS OBS CONTEXT",
    "121071": "CONTAINS",
    "111001": "HAS CONCEPT MOD",
    "111003": "HAS CONCEPT MOD",
    "111000": "HAS CONCEPT MOD",
    "363698007": "HAS CONCEPT MOD",
    "111030": "CONTAINS",
    "111028": "CONTAINS",
    "121024": "HAS OBS CONTEXT",
    "121039": "HAS OBS CONTEXT",
    "121041": "HAS OBS CONTEXT",
}
_VALUE_TYPES = {
    "112039": "TEXT",
    "112040": "UIDREF",
    "121071": "CODE",
    "122157": "NUM",
    "121005": "CODE",
    "121012": "UIDREF",
    "121008": "PNAME",
    "111001": "TEXT",
    "111003": "TEXT",
    "111000": "CODE",
    "363698007": "CODE",
}
_NEEDED_IN_GROUP = {
    "112039": "tracking identifier",
    "112040": "tracking UID",
    "121071": "finding",
    "111001": "algorithm name",
    "111003": "algorithm version",
    "111030": "image region",
}
_CLASSES = {"15433008": "N_LYMPHOBLAST", "HEM": "N_HEMATOGONE"}
_UNCLASSED = {"110531", "82334004"}
#: The number that names a cell's class: it has to be the probability of the finding (122157).
_CLASS_PROBABILITIES = {"15433008": "P_LYMPHOBLAST", "HEM": "P_HEMATOGONE"}
_COPIED = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "AccessionNumber", "StudyID")
_DISEASES = {"93143009", "91857003", "C3167", "111047", "26446-5", "34922-5"}


def faults(report: Dataset, sources: Sequence[Dataset]) -> list[str]:
    """Return what is wrong with a report about the source instances, one line a fault."""
    return [
        *_header(report, sources),
        *sr_context.orders(report, sources),
        *_observer(report),
        *sr_context.specimens(report, sources),
        *_items(report),
        *_groups(report),
        *_numbers(report),
        *sr_context.library(report),
    ]


def _header(report: Dataset, sources: Sequence[Dataset]) -> Iterator[str]:
    lead = sources[0]
    if report.get("StudyInstanceUID") != lead.StudyInstanceUID:
        yield "it is in another study than its source"
    if report.get("SeriesInstanceUID") in {source.SeriesInstanceUID for source in sources}:
        yield "it is in the series of its source"
    for keyword in _COPIED:
        if str(report.get(keyword) or "") != str(lead.get(keyword) or ""):
            yield f"{keyword} is not that of the source"
    containers = {str(source.get("ContainerIdentifier") or "") for source in sources}
    if len(containers) == 1 and "" not in containers and report.get("ContainerIdentifier") not in containers:
        yield "the specimen's container is not that of the source"
    template = only(report, "ContentTemplateSequence")
    if (template.get("MappingResource"), template.get("TemplateIdentifier")) != ("DCMR", "1500"):
        yield "the root template is not DCMR 1500"
    for keyword in ("ReferencedPerformedProcedureStepSequence", "PerformedProcedureCodeSequence"):
        if keyword not in report:
            yield f"{keyword} is missing"
    evidence = {
        one.ReferencedSOPInstanceUID
        for study in report.get("CurrentRequestedProcedureEvidenceSequence", [])
        for series in study.ReferencedSeriesSequence
        for one in series.ReferencedSOPSequence
    }
    for source in sources:
        if source.SOPInstanceUID not in evidence:
            yield "an input is not in the evidence"
    for item in walk(report):
        for reference in item.get("ReferencedSOPSequence", []):
            if reference.ReferencedSOPInstanceUID not in evidence:
                yield "an image that is pointed at is not in the evidence"
    algorithm = only(report, "ContributingEquipmentSequence")
    purpose = only(algorithm, "PurposeOfReferenceCodeSequence").get("CodeValue")
    if not algorithm.get("DeviceUID") or not algorithm.get("SoftwareVersions") or purpose != "109102":
        yield "the algorithm is not named as contributing equipment with its device UID and version"
    schemes = {s.get("CodingSchemeDesignator") for s in report.get("CodingSchemeIdentificationSequence", [])}
    if codes.PRIVATE_SCHEME not in schemes:
        yield "the private coding scheme is not identified"


def _observer(report: Dataset) -> Iterator[str]:
    observers = [code_of(item) for item in children(report, "121005")]
    if "121007" not in observers:
        yield "no observer is a device"
    device_uids = [item.get("UID") for item in children(report, "121012")]
    equipment = only(report, "ContributingEquipmentSequence").get("DeviceUID")
    if device_uids != [equipment]:
        yield "the device observer is not the contributing algorithm"
    verified = report.get("VerificationFlag") == "VERIFIED"
    signed = bool(report.get("VerifyingObserverSequence"))
    if verified != signed or verified != ("121006" in observers) or verified != bool(children(report, "121008")):
        yield "verification flag, verifying observer and person observer do not agree"
    if report.get("PreliminaryFlag") != ("FINAL" if verified else "PRELIMINARY"):
        yield "the preliminary flag does not agree with the verification"
    if report.get("CompletionFlag") != "COMPLETE":
        yield "the completion flag is not COMPLETE"
    if not children(report, "121049"):
        yield "the language is not stated"
    procedures = [code_of(item) for item in children(report, "121058")]
    if not procedures or procedures[0] in _PRIVATE:
        yield "no imaging procedure is reported"
    evaluations = next(
        (child for child in report.get("ContentSequence", []) if child.get("ValueType") == "CONTAINER"), None
    )
    if evaluations is None or name_of(evaluations) != "C0034375" or not children(evaluations, "121111"):
        yield "notice and summary do not come first"
    comments = [item.get("TextValue", "") for item in walk(report) if name_of(item) == "121106"]
    if not any(text.startswith("Research use only.") for text in comments):
        yield "it does not say that it is for research only"


def _items(report: Dataset) -> Iterator[str]:
    for item in walk(report):
        name = name_of(item)
        expected = _RELATIONSHIPS.get(name)
        if expected is not None and item.get("RelationshipType") != expected:
            yield f"{name} has the relationship {item.get('RelationshipType')}, not {expected}"
        if name in _VALUE_TYPES and item.get("ValueType") != _VALUE_TYPES[name]:
            yield f"{name} is a {item.get('ValueType')}, not a {_VALUE_TYPES[name]}"
        if item.get("ValueType") == "SCOORD":
            image = only(item, "ContentSequence")
            if image.get("RelationshipType") != "SELECTED FROM" or image.get("ValueType") != "IMAGE":
                yield "an outline is not selected from an image"
            points = item.get("GraphicData", [])
            if item.get("GraphicType") != "POLYLINE" or len(points) < 8 or list(points[:2]) != list(points[-2:]):
                yield "an outline is no closed polyline"
            elif min(points) < 0:
                yield "an outline leaves the image"
        for sequence in ("ConceptNameCodeSequence", "ConceptCodeSequence"):
            for code in item.get(sequence, []):
                yield from _pinned(code)
        if name_of(item) == "C0034375" and any(c.get("ValueType") == "NUM" for c in item.get("ContentSequence", [])):
            yield "a number stands among the qualitative evaluations"


def _pinned(code: Dataset) -> Iterator[str]:
    """A code says what its scheme says it means: mislabelled codes are what other reports are known for."""
    scheme, value, meaning = (str(code.get(k, "")) for k in ("CodingSchemeDesignator", "CodeValue", "CodeMeaning"))
    if value in _DISEASES:
        yield f"a disease or a differential is coded: {value}"
    if scheme == codes.PRIVATE_SCHEME:
        if _PRIVATE.get(value) != meaning:
            yield f"{value} is not a code of {scheme} with this meaning"
        return
    own = {(c.scheme_designator, c.value): c.meaning for c in codes.TABLE.values()}
    known = own.get((scheme, value)) or _dictionary().get((scheme, value))
    if known is None and scheme in ("DCM", "UCUM"):
        yield f"{scheme} has no code {value}"
    elif known is not None and known.lower() != meaning.lower():
        yield f"{scheme} {value} does not mean {meaning!r}"


@lru_cache
def _dictionary() -> dict[tuple[str, str], str]:
    known: dict[str, Any] = concepts  # scheme → keyword → value → (meaning, context groups)
    return {
        (scheme, value): meaning
        for scheme, keywords in known.items()
        for several in keywords.values()
        for value, (meaning, *_) in several.items()
    }


def _groups(report: Dataset) -> Iterator[str]:
    uids: Counter[str] = Counter()
    identifiers: Counter[str] = Counter()
    for group in _measurement_groups(report):
        if only(group, "ContentTemplateSequence").get("TemplateIdentifier") != "1410":
            yield "a group's template is not 1410"
        names = {name_of(item) for item in group.get("ContentSequence", [])}
        changed = bool(children(group, "BEFORE_REVIEW"))
        for name, words in _NEEDED_IN_GROUP.items():
            if name not in names and not (changed and name in {"111001", "111003"}):
                yield f"a group has no {words}"
        if changed:
            yield from _changed(group)
        uids.update(str(item.get("UID")) for item in children(group, "112040"))
        finding = next((code_of(item) for item in children(group, "121071")), "")
        if finding not in _CLASSES and finding not in _UNCLASSED:
            yield f"a cell's finding is {finding or 'missing'}"
        if finding in _UNCLASSED and not children(group, "REASON"):
            yield "a cell without a class has no reason"
        for item in children(group, "122157"):
            value = only(item, "MeasuredValueSequence")
            unit = only(value, "MeasurementUnitsCodeSequence").get("CodeValue")
            if unit != "1" or not 0 <= float(value.get("NumericValue", -1)) <= 1:
                yield "a probability is not a number from 0 to 1 of unit 1"
        yield from _class_probability(group, finding)
        if children(group, "BEFORE_REVIEW") and not children(group, "DECISION"):
            yield "a changed cell does not say who changed it"
        identifiers.update(str(item.get("TextValue")) for item in children(group, "112039"))
    if any(count > 1 for count in uids.values()):
        yield "two cells have the same tracking UID"
    if any(count > 1 for count in identifiers.values()):
        yield "two cells have the same tracking identifier"


def _changed(group: Dataset) -> Iterator[str]:
    """A finding of a person: the person observes it, and the algorithm's is told below what it was before."""
    if [code_of(item) for item in children(group, "121005")] != ["121006"] or not children(group, "121008"):
        yield "a finding of a person does not name the person as its observer"
    if children(group, "111001") or children(group, "122157"):
        yield "a finding of a person has the algorithm's name or number"
    (before, *_) = children(group, "BEFORE_REVIEW")
    if not children(before, "111001"):
        yield "what was found before does not name the algorithm"


def _class_probability(group: Dataset, finding: str) -> Iterator[str]:
    numbers = {
        name_of(item): number_of(item) for item in group.get("ContentSequence", []) if item.get("ValueType") == "NUM"
    }
    sizes = [numbers.pop(name) for name in ("42798000", "81827009") if name in numbers]
    if any(not 0 < size < 10_000 for size in sizes) or len(sizes) == 1:
        yield "a cell's size is not one of a cell"
    probability = numbers.pop("122157", None)
    if finding in _CLASS_PROBABILITIES:
        expected = {} if probability is None else {_CLASS_PROBABILITIES[finding]: probability}
    else:  # there is no class that it could be of
        expected = {name: number for name, number in numbers.items() if name == "P_UNCERTAIN"}
        if probability is not None:
            yield "a probability is stated of a cell without a class"
    if numbers.keys() != expected.keys() or any(abs(numbers[name] - expected[name]) > 1e-6 for name in expected):
        yield "the probability of its class is not that of the cell"


def _numbers(report: Dataset) -> Iterator[str]:
    derived = children(report, "126011")
    stated: Counter[str] = Counter()
    for container in derived:
        own = {name_of(item): number_of(item) for item in walk(container) if item.get("ValueType") == "NUM"}
        yield from _fraction(own)
        stated.update({name: number for name, number in own.items() if name == "CELLS" or name.startswith("N_")})
    groups = list(_measurement_groups(report))
    classes = Counter(next((code_of(item) for item in children(group, "121071")), "") for group in groups)
    counted = {name: float(classes[code]) for code, name in _CLASSES.items()}
    counted["N_NOT_ASSESSABLE"] = float(len(groups) - sum(counted.values()))
    if children(report, "ANNOTATIONS"):  # a summary: most cells are annotations, so its groups count at most as many
        if any(stated.get(name, -1.0) < number for name, number in counted.items()):
            yield "there are more groups than cells"
        counted = {name: stated.get(name, -1.0) for name in counted}
    for name, number in counted.items():
        if stated.get(name) != number:
            yield f"{name} does not count the groups"
    if stated.get("CELLS") != sum(counted.values()):
        yield "CELLS does not count the cells"


def _fraction(stated: Mapping[str, float]) -> Iterator[str]:
    """Check the fraction of one specimen against its own counts."""
    lymphoblasts = stated.get("N_LYMPHOBLAST", 0.0)
    assessable = lymphoblasts + stated.get("N_HEMATOGONE", 0.0)
    if assessable:
        fraction, low, high = (stated.get(name, -1.0) for name in ("FRACTION", "CI95_LOW", "CI95_HIGH"))
        if abs(fraction - lymphoblasts / assessable) > 1e-6:
            yield "the fraction is not that of the cells"
        if not 0 <= low <= fraction <= high <= 1:
            yield "the interval does not hold the fraction"
    elif "FRACTION" in stated:
        yield "a fraction of no cells is stated"


def _measurement_groups(report: Dataset) -> Iterator[Dataset]:
    for container in children(report, "126010"):
        yield from children(container, "125007")
