"""Two readers that nobody here wrote take cells and numbers out of the report; both must say what the store says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import highdicom

from allpacs.domain import counting
from allpacs.domain.findings import CellFinding, CellLabel
from conformance.hospital import PeerHospital
from conformance.outcome import Check
from conformance.peers.fhir_server import medplum_version
from conformance.peers.programs import dcmtk, debian_version, run

_CLASSES = {"15433008": CellLabel.ALL, "HEM": CellLabel.HEM}

#: Left, top, right and bottom of a cell's outline or box, in pixels.
Place = tuple[int, int, int, int]
#: What is compared of one cell: class, probability of this class, place.
Cell = tuple[CellLabel | None, float | None, Place]


def checks(hospital: PeerHospital, report: Path, study_uid: str) -> Iterator[Check]:
    """Compare findings in the store, the report by two readers, and the EHR's Observations."""
    with hospital.store() as store:
        instances = store.findings.get(study_uid, 1)
    found = [cell for instance in instances for cell in instance.cells]
    stored = {cell.tracking_uid: _stored(cell, _around(cell.outline)) for cell in found}
    boxes = {c.tracking_uid: _stored(c, (c.box.x, c.box.y, c.box.right, c.box.bottom)) for c in found}
    counts = counting.counts(found)
    numbers = {"CELLS": counts.total, "N_LYMPHOBLAST": counts.all, "N_HEMATOGONE": counts.hem}
    numbers["N_NOT_ASSESSABLE"] = counts.not_assessable

    yield Check(
        "highdicom", highdicom.__version__, "reads from the report the cells that are in the store",
        tuple(_differences(stored, _by_highdicom(report))),
    )  # fmt: skip
    document = ET.fromstring(run(dcmtk("dsr2xml"), report).stdout)  # noqa: S314 - DCMTK's output of our own file
    yield Check(
        "DCMTK", debian_version("dcmtk"), "dsr2xml reads from the report the cells that are in the store",
        tuple(_differences(stored, _by_dcmtk(document))),
    )  # fmt: skip
    told = _numbers_by_dcmtk(document)
    yield Check(
        "DCMTK", debian_version("dcmtk"), "dsr2xml reads from the report the counts that are in the store",
        tuple(f"{name}: {told.get(name)}, not {n}" for name, n in numbers.items() if told.get(name) != n),
    )  # fmt: skip
    observations = hospital.ehr.search("Observation")
    yield Check(
        "medplum", medplum_version(), "holds Observations of the cells that are in the store",
        tuple(_differences({uid: _in_percent(cell) for uid, cell in boxes.items()}, _by_ehr(observations, study_uid))),
    )  # fmt: skip


def _stored(cell: CellFinding, place: Place) -> Cell:
    """Return a cell of the store: the probability is that of its class, None if it has no class."""
    if cell.label is None or cell.probability_all is None:
        return cell.label, None, place
    lymphoblast = round(cell.probability_all, 6)
    return cell.label, round(lymphoblast if cell.label is CellLabel.ALL else 1 - lymphoblast, 6), place


def _in_percent(cell: Cell) -> Cell:
    """Return a cell with its probability as the EHR has it: in per cent, with one decimal."""
    label, probability, place = cell
    return label, None if probability is None else float(f"{100 * probability:.1f}"), place


def _around(points: Sequence[tuple[float, float]]) -> Place:
    columns, rows = [round(x) for x, _ in points], [round(y) for _, y in points]
    return min(columns), min(rows), max(columns), max(rows)


def _differences(stored: dict[str, Cell], read: dict[str, Cell]) -> Iterator[str]:
    if not stored:
        yield "the store has no cell: nothing was compared"
    if stored.keys() != read.keys():
        yield f"{len(read)} cells instead of {len(stored)}"
    for uid in stored.keys() & read.keys():
        if stored[uid] != read[uid]:
            yield f"…{uid[-12:]}: {read[uid]}, not {stored[uid]}"


def _by_highdicom(report: Path) -> dict[str, Cell]:
    read = {}
    content: Any = highdicom.sr.srread(report).content  # of TID 1500
    for group in content.get_planar_roi_measurement_groups():
        numbers = [item.value for item in group.get_measurements() if item.name.value == "122157"]
        points = [(float(x), float(y)) for x, y in group.roi.value]
        probability = float(numbers[0]) if numbers else None
        read[group.tracking_uid] = (_CLASSES.get(group.finding_type.value), probability, _around(points))
    return read


def _by_dcmtk(document: ET.Element) -> dict[str, Cell]:
    read = {}
    for group in document.iter("container"):
        if group.findtext("concept/value") != "125007":
            continue
        uid = next(one.findtext("value", "") for one in group.findall("uidref") if _concept(one) == "112040")
        # dsr2xml writes the code of a CODE item as its own value, after its concept name.
        label = next(one.findtext("value", "") for one in group.findall("code") if _concept(one) == "121071")
        number = [one.findtext("value", "") for one in group.findall("num") if _concept(one) == "122157"]
        points = [
            tuple(float(part) for part in pair.split("/"))
            for pair in (group.findtext("scoord/data") or "").replace(",", " ").split()
        ]
        corners = _around([(x, y) for x, y in points])
        read[uid] = (_CLASSES.get(label), float(number[0]) if number else None, corners)
    return read


def _numbers_by_dcmtk(document: ET.Element) -> dict[str, float]:
    return {_concept(one): float(one.findtext("value", "nan")) for one in document.iter("num")}


def _concept(item: ET.Element) -> str:
    return item.findtext("concept/value", "")


def _by_ehr(observations: list[dict[str, Any]], study_uid: str) -> dict[str, Cell]:
    read = {}
    for one in observations:
        of_study = any(
            ref.get("identifier", {}).get("value") == f"urn:oid:{study_uid}" for ref in one.get("derivedFrom", [])
        )
        regions = [part["valueString"] for part in one.get("component", []) if "xywh=" in part.get("valueString", "")]
        if not of_study or not regions:
            continue
        codings = one.get("valueCodeableConcept", {}).get("coding", [])
        label = next((_CLASSES[c["code"]] for c in codings if c["code"] in _CLASSES), None)
        numbers = [
            part["valueQuantity"]["value"]
            for part in one["component"]
            if "valueQuantity" in part and part["code"]["coding"][0]["code"] == "122157"
        ]
        x, y, width, height = map(int, regions[0].split("xywh=")[1].split(","))
        uid = one["identifier"][0]["value"].removeprefix("urn:oid:")
        read[uid] = (label, numbers[0] if numbers else None, (x, y, x + width, y + height))
    return read
