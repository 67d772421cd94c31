"""Errors put into a report or a Bundle, one at a time, and whether any of the judges notices."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid

from conformance.judges import dicom_programs, fhir_validators, own_bundle, own_sr
from conformance.outcome import Check, Outcome
from conformance.peers.fhir_server import validated

#: Fewest errors to try, and to catch.
TRIED, CAUGHT = 100, 97


def _items(report: Dataset, code: str) -> Iterator[Dataset]:
    for item in report.get("ContentSequence", []):
        if _named(item, code):
            yield item
        yield from _items(item, code)


def _named(item: Dataset, code: str) -> bool:
    """Whether an item has this concept name; an image in the library has none."""
    return "ConceptNameCodeSequence" in item and bool(item.ConceptNameCodeSequence[0].CodeValue == code)


def _first(report: Dataset, code: str) -> Dataset:
    return next(_items(report, code))


def _without(report: Dataset, code: str) -> None:
    """Take the first content item of this concept out of its parent."""

    def drop(item: Dataset) -> bool:
        for child in item.get("ContentSequence", []):
            if _named(child, code):
                item.ContentSequence.remove(child)
                return True
            if drop(child):
                return True
        return False

    assert drop(report), f"no {code} to take out"  # noqa: S101 - the seed itself must work


def _image_series(report: Dataset) -> str:
    return str(report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].SeriesInstanceUID)


def _set(item: Dataset, keyword: str, value: object) -> None:
    setattr(item, keyword, value)


def _set_all(items: Iterable[Dataset], keyword: str, value: object) -> None:
    for item in items:
        _set(item, keyword, value)


def _without_any(report: Dataset, wanted: Iterable[str]) -> None:
    """Take out the first content item of one of these concepts."""
    _without(report, next(code for code in wanted if next(_items(report, code), None) is not None))


def _swap_class(report: Dataset) -> None:
    """Call the first cell with a class by the other class."""
    findings = [item.ConceptCodeSequence[0] for item in _items(report, "121071")]
    code = next(code for code in findings if code.CodeValue in {"15433008", "HEM"})
    lymphoblast = code.CodeValue == "HEM"
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = (
        ("15433008", "SCT", "Lymphoblast") if lymphoblast else ("HEM", "99ALLPACS", "Hematogone")
    )


def _changed_by_nobody(report: Dataset) -> None:
    """Say of a cell what it was before review, without a person who observed it."""
    group = _first(report, "125007")
    before = copy.deepcopy(_first(group, "121071"))
    name = before.ConceptNameCodeSequence[0]
    name.CodeValue, name.CodingSchemeDesignator = "BEFORE_REVIEW", "99ALLPACS"
    name.CodeMeaning = "Finding of the algorithm before review"
    group.ContentSequence.append(before)


SR: dict[str, Callable[[Dataset], object]] = {
    "another study": lambda r: _set(r, "StudyInstanceUID", generate_uid()),
    "another patient": lambda r: _set(r, "PatientID", "SOMEBODY-ELSE"),
    "name of another patient": lambda r: _set(r, "PatientName", "Else^Somebody"),
    "another accession number": lambda r: _set(r, "AccessionNumber", "ACC-OTHER"),
    "series of the images": lambda r: _set(r, "SeriesInstanceUID", _image_series(r)),
    "wrong modality": lambda r: _set(r, "Modality", "OT"),
    "no completion flag": lambda r: delattr(r, "CompletionFlag"),
    "verified by nobody": lambda r: _set(r, "VerificationFlag", "VERIFIED"),
    "final though unverified": lambda r: _set(r, "PreliminaryFlag", "FINAL"),
    "no root template": lambda r: delattr(r, "ContentTemplateSequence"),
    "another root template": lambda r: _set(r.ContentTemplateSequence[0], "TemplateIdentifier", "2000"),
    "group without a template": lambda r: delattr(_first(r, "125007"), "ContentTemplateSequence"),
    "group without a tracking UID": lambda r: _without(r, "112040"),
    "group without a tracking identifier": lambda r: _without(r, "112039"),
    "two cells of one tracking UID": lambda r: _set_all(_items(r, "112040"), "UID", "1.2.3"),
    "group without a finding": lambda r: _without(r, "121071"),
    "group without a region": lambda r: _without(r, "111030"),
    "group without an algorithm": lambda r: _without(r, "111001"),
    "no observer type": lambda r: _without(r, "121005"),
    "no device UID": lambda r: _without(r, "121012"),
    "device is not the contributing one": lambda r: _set(_first(r, "121012"), "UID", "1.2.3.4"),
    "no procedure reported": lambda r: _without(r, "121058"),
    "no language": lambda r: _without(r, "121049"),
    "mislabelled code": lambda r: _set(_first(r, "122157").ConceptNameCodeSequence[0], "CodeMeaning", "Certainty"),
    "code of a disease": lambda r: _set(_first(r, "121071").ConceptCodeSequence[0], "CodeValue", "91857003"),
    "code without a scheme": lambda r: delattr(_first(r, "121071").ConceptCodeSequence[0], "CodingSchemeDesignator"),
    "relationship of the finding site": lambda r: _set(_first(r, "363698007"), "RelationshipType", "CONTAINS"),
    "probability above one": lambda r: _set(_first(r, "122157").MeasuredValueSequence[0], "NumericValue", "1.5"),
    "probability of another unit": lambda r: _set(
        _first(r, "122157").MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0], "CodeValue", "%"
    ),
    "probability without a value": lambda r: delattr(_first(r, "122157").MeasuredValueSequence[0], "NumericValue"),
    "probability of another class": lambda r: _set(
        next(iter([*_items(r, "P_LYMPHOBLAST"), *_items(r, "P_HEMATOGONE")])).MeasuredValueSequence[0],
        "NumericValue", "0.123",
    ),
    "count that does not count": lambda r: _set(_first(r, "CELLS").MeasuredValueSequence[0], "NumericValue", "999"),
    "interval that misses the fraction": lambda r: _set(
        _first(r, "CI95_HIGH").MeasuredValueSequence[0], "NumericValue", "0"
    ),
    "open outline": lambda r: _set(_first(r, "111030"), "GraphicData", list(_first(r, "111030").GraphicData[:-2])),
    "odd number of coordinates": lambda r: _set(
        _first(r, "111030"), "GraphicData", list(_first(r, "111030").GraphicData[:-1])
    ),
    "outline of an unknown kind": lambda r: _set(_first(r, "111030"), "GraphicType", "CURVE"),
    "outline on no image": lambda r: delattr(_first(r, "111030"), "ContentSequence"),
    "image that is no evidence": lambda r: _set(
        _first(r, "111030").ContentSequence[0].ReferencedSOPSequence[0], "ReferencedSOPInstanceUID", "1.2.3.4"
    ),
    "no evidence": lambda r: delattr(r, "CurrentRequestedProcedureEvidenceSequence"),
    "no contributing equipment": lambda r: delattr(r, "ContributingEquipmentSequence"),
    "private scheme not identified": lambda r: delattr(r, "CodingSchemeIdentificationSequence"),
    "not said to be research": lambda r: _set_all(_items(r, "121106"), "TextValue", "Fine."),
    "UID that is none": lambda r: _set(_first(r, "112040"), "UID", "1.02.x"),
    "missing type 2 sequence": lambda r: delattr(r, "PerformedProcedureCodeSequence"),
    "specimen of another slide": lambda r: _set(r, "ContainerIdentifier", "SLIDE-2"),
    "no request": lambda r: delattr(r, "ReferencedRequestSequence"),
    "request of another accession number": lambda r: _set(r.ReferencedRequestSequence[0], "AccessionNumber", "ACC-X"),
    "request without a placer number": lambda r: delattr(
        r.ReferencedRequestSequence[0], "PlacerOrderNumberImagingServiceRequest"
    ),
    "request of another study": lambda r: _set(r.ReferencedRequestSequence[0], "StudyInstanceUID", "1.2.3"),
    "no subject class": lambda r: _without(r, "121024"),
    "subject is the patient": lambda r: _set(_first(r, "121024").ConceptCodeSequence[0], "CodeValue", "121025"),
    "no specimen UID": lambda r: _without(r, "121039"),
    "UID of another specimen": lambda r: _set(_first(r, "121039"), "UID", "1.2.3.4"),
    "specimen as content": lambda r: _set(_first(r, "121039"), "RelationshipType", "CONTAINS"),
    "probability of a lymphoblast beside another class": lambda r: _set(
        _first(r, "122157").MeasuredValueSequence[0], "NumericValue", "0.0123"
    ),
    "probability that names no class": lambda r: _without_any(r, ("P_LYMPHOBLAST", "P_HEMATOGONE")),
    "finding of another class": lambda r: _swap_class(r),
    "tracking identifiers alike": lambda r: _set_all(_items(r, "112039"), "TextValue", "cell 1"),
    "person observes though nobody signed": lambda r: _set(
        _first(r, "121005").ConceptCodeSequence[0], "CodeValue", "121006"
    ),
    "device observes nothing": lambda r: _set(_first(r, "121005"), "RelationshipType", "CONTAINS"),
    "changed by nobody": lambda r: _changed_by_nobody(r),
    "no image library": lambda r: _without(r, "111028"),
    "image missing in the library": lambda r: _first(r, "126200").ContentSequence.clear(),
    "no summary": lambda r: _without(r, "121111"),
    "summary after the cells": lambda r: r.ContentSequence.append(
        r.ContentSequence.pop(next(k for k, one in enumerate(r.ContentSequence) if _named(one, "C0034375")))
    ),
    "fraction of other cells": lambda r: _set(_first(r, "FRACTION").MeasuredValueSequence[0], "NumericValue", "0.0101"),
    "interval above the fraction": lambda r: _set(_first(r, "CI95_LOW").MeasuredValueSequence[0], "NumericValue", "1"),
    "lymphoblasts miscounted": lambda r: _set(
        _first(r, "N_LYMPHOBLAST").MeasuredValueSequence[0], "NumericValue", "77"
    ),
    "hematogones miscounted": lambda r: _set(_first(r, "N_HEMATOGONE").MeasuredValueSequence[0], "NumericValue", "77"),
}  # fmt: skip


def _new_patient() -> dict[str, Any]:
    request = {"method": "POST", "url": "Patient"}
    return {"fullUrl": "urn:uuid:1", "resource": {"resourceType": "Patient"}, "request": request}


def _of(bundle: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(e["resource"] for e in bundle["entry"] if e["resource"]["resourceType"] == kind)


def _panel(bundle: dict[str, Any]) -> dict[str, Any]:
    return next(e["resource"] for e in bundle["entry"] if "hasMember" in e["resource"])


def _labelled(bundle: dict[str, Any]) -> dict[str, Any]:
    return next(e["resource"] for e in bundle["entry"] if "valueCodeableConcept" in e["resource"])


def _component(observation: dict[str, Any], code: str) -> dict[str, Any]:
    return next(one for one in observation["component"] if one["code"]["coding"][0]["code"] == code)


BUNDLE: dict[str, Callable[[dict[str, Any]], object]] = {
    "report without a status": lambda b: _of(b, "DiagnosticReport").pop("status"),
    "report of an unknown status": lambda b: _of(b, "DiagnosticReport").update(status="prelim"),
    "final without a person": lambda b: _of(b, "DiagnosticReport").update(status="final"),
    "conclusion before a person": lambda b: _of(b, "DiagnosticReport").update(conclusionCode=[{"text": "Present"}]),
    "report without a code": lambda b: _of(b, "DiagnosticReport").pop("code"),
    "report about another patient": lambda b: _of(b, "DiagnosticReport")["subject"]["identifier"].update(value="X"),
    "report without a result": lambda b: _of(b, "DiagnosticReport").pop("result"),
    "report that would be doubled": lambda b: b["entry"][-2]["request"].update(method="POST", url="DiagnosticReport"),
    "wrong hash of the page": lambda b: _of(b, "DiagnosticReport")["presentedForm"][0].update(hash="AAAA"),
    "page that is no base64": lambda b: _of(b, "DiagnosticReport")["presentedForm"][0].update(data="<html>", size=6),
    "observation with value and reason": lambda b: _labelled(b).update(dataAbsentReason={"text": "unknown"}),
    "observation with neither": lambda b: _labelled(b).pop("valueCodeableConcept"),
    "observation of no device": lambda b: _labelled(b).pop("device"),
    "observation of a device that is not there": lambda b: _labelled(b).update(device={"reference": "urn:uuid:0"}),
    "probability above one": lambda b: _labelled(b)["component"][0]["valueQuantity"].update(value=1.5),
    "probability as text": lambda b: _labelled(b)["component"][0]["valueQuantity"].update(value="high"),
    "count that does not count": lambda b: _panel(b)["component"][0]["valueQuantity"].update(value=-1),
    "member that is missing": lambda b: _panel(b)["hasMember"].pop(),
    "element that FHIR does not have": lambda b: _labelled(b).update(certainty="high"),
    "date that is none": lambda b: _of(b, "DiagnosticReport").update(issued="yesterday"),
    "no security label": lambda b: _labelled(b).pop("meta"),
    "code of a disease": lambda b: _labelled(b)["valueCodeableConcept"]["coding"][0].update(code="91857003"),
    "document that is not the report": lambda b: _of(b, "DocumentReference").pop("masterIdentifier"),
    "document without content": lambda b: _of(b, "DocumentReference").pop("content"),
    "provenance of nobody": lambda b: _of(b, "Provenance").pop("agent"),
    "no transaction": lambda b: b.update(type="batch"),
    "two entries of one address": lambda b: b["entry"][0].update(fullUrl=b["entry"][1]["fullUrl"]),
    "a patient that is created": lambda b: b["entry"].append(_new_patient()),
    "not said to be research": lambda b: _of(b, "DiagnosticReport").update(conclusion="Fine."),
    "amended before it was final": lambda b: _of(b, "DiagnosticReport").update(status="amended"),
    "observation final in a preliminary report": lambda b: _labelled(b).update(status="final"),
    "panel amended in a preliminary report": lambda b: _panel(b).update(status="amended"),
    "order without an identifier": lambda b: _of(b, "DiagnosticReport")["basedOn"][0].pop("identifier"),
    "order of another number": lambda b: _of(b, "DiagnosticReport")["basedOn"][0]["identifier"].update(value="X"),
    "order that is not there": lambda b: _of(b, "DiagnosticReport").pop("contained"),
    "cell of another order": lambda b: _labelled(b)["basedOn"][0]["identifier"].pop("value"),
    "observation of imaging": lambda b: _labelled(b)["category"][0]["coding"][0].update(code="imaging"),
    "report of radiology": lambda b: _of(b, "DiagnosticReport")["category"][0]["coding"][0].update(code="RAD"),
    "fraction without per cent": lambda b: _component(_panel(b), "FRACTION")["valueQuantity"].update(code="1"),
    "fraction of other cells": lambda b: _component(_panel(b), "FRACTION")["valueQuantity"].update(value=1.5),
    "count without a unit": lambda b: _panel(b)["component"][0]["valueQuantity"].pop("code"),
    "probability of the other class": lambda b: _component(_labelled(b), "122157")["valueQuantity"].update(value=1.2),
    "cell of another specimen": lambda b: _labelled(b)["specimen"]["identifier"].update(value="X"),
    "panel of another specimen": lambda b: _panel(b).pop("specimen"),
    "document that is superseded": lambda b: _of(b, "DocumentReference").update(status="superseded"),
    "person beside the device": lambda b: _labelled(b).update(performer=[{"type": "Practitioner", "display": "X"}]),
}  # fmt: skip


def checks(outcome: Outcome, report: Path, bundle: bytes, sources: Sequence[Path], folder: Path) -> Iterator[Check]:
    """Try every error, count those that are noticed, and check that it was not the sound ones that were."""
    folder.mkdir()
    headers = [dcmread(source, stop_before_pixels=True) for source in sources]
    sound = json.loads(bundle)
    missed: list[str] = []
    for name, break_it in SR.items():
        broken = dcmread(report)
        break_it(broken)
        file = folder / f"{len(missed)}-{name.replace(' ', '-')}.dcm"
        broken.save_as(file)
        if not _noticed_in_sr(file, headers):
            missed.append(f"structured report: {name}")
    files = {}
    for name, spoil in BUNDLE.items():
        files[name] = folder / f"{name.replace(' ', '-')}.json"
        spoilt = copy.deepcopy(sound)
        spoil(spoilt)
        files[name].write_text(json.dumps(spoilt, separators=(",", ":")), encoding="utf-8")
    by_medplum = validated(*files.values())
    unnoticed = {
        name: file
        for name, file in files.items()
        if not (by_medplum[file] or _noticed_in_bundle(json.loads(file.read_text(encoding="utf-8"))))
    }
    by_pyrofile = fhir_validators.pyrofile(*unnoticed.values()) if unnoticed else {}
    missed += [f"Bundle: {name}" for name, file in unnoticed.items() if not by_pyrofile[file]]
    outcome.seeded_tried = len(SR) + len(BUNDLE)
    outcome.seeded_missed = missed
    caught = outcome.seeded_caught
    enough = outcome.seeded_tried >= TRIED and caught >= CAUGHT and len(missed) <= TRIED - CAUGHT
    yield Check(
        "all judges", "", f"together notice {caught} of {outcome.seeded_tried} seeded errors",
        () if enough else tuple(missed),
    )  # fmt: skip


def _noticed_in_sr(file: Path, headers: Sequence[Dataset]) -> bool:
    """Whether a judge finds fault; PixelMed's, which takes seconds, is asked last."""
    try:
        faults = own_sr.faults(dcmread(file), headers)
    except Exception:  # noqa: BLE001 - what cannot be read is noticed
        return True
    return bool(
        faults or dicom_programs.dciodvfy(file) or dicom_programs.dsrdump(file) or dicom_programs.pixelmed(file)
    )


def _noticed_in_bundle(bundle: dict[str, Any]) -> bool:
    try:
        faults = own_bundle.faults(bundle)
    except Exception:  # noqa: BLE001 - what cannot be read is noticed
        return True
    return bool(faults or fhir_validators.fhirkit_rs(bundle))
