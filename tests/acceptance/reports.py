"""Reads back, with pydicom and plain JSON alone, what the PACS and the EHR received."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread

MEASUREMENT_GROUP, FINDING, PROBABILITY, TRACKING_UID = "125007", "121071", "122157", "112040"
LYMPHOBLAST, HEMATOGONE = "15433008", "HEM"


@dataclass(frozen=True)
class Stated:
    """What a report says of one cell; the probability of its class in per cent, with one decimal."""

    tracking_uid: str
    label: str | None
    probability: float | None


def in_percent(fraction: float) -> float:
    """Return a probability or fraction as reports for people state it."""
    return float(f"{100 * float(fraction):.1f}")


def cells_of_sr(report: Dataset) -> dict[str, Stated]:
    """Return what the measurement groups of a structured report say, by tracking UID."""
    found = {}
    for group in _walk(report):
        if group.ValueType == "CONTAINER" and _name(group) == MEASUREMENT_GROUP:
            items = {_name(item): item for item in group.ContentSequence}
            code = items[FINDING].ConceptCodeSequence[0].CodeValue
            number = items.get(PROBABILITY)
            stated = Stated(
                tracking_uid=str(items[TRACKING_UID].UID),
                label={LYMPHOBLAST: "ALL", HEMATOGONE: "HEM"}.get(code),
                probability=None if number is None else in_percent(number.MeasuredValueSequence[0].NumericValue),
            )
            found[stated.tracking_uid] = stated
    return found


def numbers_of_sr(report: Dataset) -> dict[str, float]:
    """Return the study-level numbers of a structured report by the meaning of their concept names."""
    return {
        item.ConceptNameCodeSequence[0].CodeMeaning: float(item.MeasuredValueSequence[0].NumericValue)
        for item in _walk(report)
        if item.ValueType == "NUM" and _name(item) != PROBABILITY
    }


def cells_of_ehr(ehr: Path) -> dict[str, Stated]:
    """Return what the cell Observations at the EHR say, by tracking UID."""
    found = {}
    for observation in resources(ehr, "Observation"):
        if "xywh=" not in str(observation) or "valueCodeableConcept" not in observation | {
            "valueCodeableConcept": observation.get("dataAbsentReason")
        }:
            continue
        (identifier,) = observation["identifier"]
        if not identifier["value"].startswith("urn:oid:"):
            continue
        codings = observation.get("valueCodeableConcept", {}).get("coding", [])
        label = next(
            (
                {LYMPHOBLAST: "ALL", HEMATOGONE: "HEM"}[c["code"]]
                for c in codings
                if c["code"] in (LYMPHOBLAST, HEMATOGONE)
            ),
            None,
        )
        assert (label is None) == ("dataAbsentReason" in observation)
        stated = {c["code"]["coding"][0]["code"]: c for c in observation["component"] if "valueQuantity" in c}
        probability = stated[PROBABILITY]["valueQuantity"]["value"] if PROBABILITY in stated else None
        uid = identifier["value"].removeprefix("urn:oid:")
        found[uid] = Stated(uid, label, probability)
    return found


def panel_of_ehr(ehr: Path) -> dict[str, Any]:
    """Return the components of the panel Observation by the display of their code."""
    panels = [one for one in resources(ehr, "Observation") if one["code"]["coding"][0]["code"] == "CLASSIFICATION"]
    (panel,) = panels
    return {part["code"]["coding"][0]["display"]: part for part in panel["component"]}


def resources(ehr: Path, kind: str) -> list[dict[str, Any]]:
    """Return the resources of a type that the EHR keeps."""
    return [json.loads(path.read_text()) for path in sorted((ehr / kind).glob("*.json"))]


def read(path: Path) -> Dataset:
    """Return a DICOM file's data set."""
    return dcmread(path)


def _walk(item: Dataset) -> Iterator[Dataset]:
    for child in item.get("ContentSequence", []):
        yield child
        yield from _walk(child)


def _name(item: Dataset) -> str:
    names = item.get("ConceptNameCodeSequence")
    return str(names[0].CodeValue) if names else ""
