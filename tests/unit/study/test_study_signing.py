"""A signed review as PACS, EHR and reader get it: verified, final, changes marked, judged by third parties."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from allpacs.domain.artefacts import Artefact, ArtefactKind
from allpacs.domain.findings import CellLabel, StudyFindings
from allpacs.domain.review import CellReview, Decision, Review, Reviewer
from allpacs.report.context import CellImage, ReportContext
from allpacs.report.inputs import format_inputs
from allpacs.report.sr import structured_report
from allpacs.study.results import results as write_results
from allpacs.study.signing import findings_as_signed, signed_results
from conformance.support.report_samples import CONTEXT, PRIOR, inputs_after, usual_headers, usual_study

BEFORE = usual_study()
CELLS = BEFORE.cells  # lymphoblast, hematogone, those without one, lymphoblast
REVIEW = Review(
    Reviewer("Haddad^Layla=ليلى", "Taleb Hospital", "lhaddad"),
    datetime(2026, 3, 5, 9, 30, tzinfo=UTC),
    (
        CellReview(CELLS[0].tracking_uid, Decision.ACCEPTED),
        CellReview(CELLS[1].tracking_uid, Decision.RELABELLED, CellLabel.ALL, "Coarse chromatin."),
        CellReview(CELLS[-1].tracking_uid, Decision.EXCLUDED, comment="<b>smudge</b>"),
    ),
    "Cells at the edge are thick.",
)
ON_UNSIGNED = replace(CONTEXT, predecessor=PRIOR)


def results(context: ReportContext = ON_UNSIGNED, review: Review = REVIEW) -> dict[ArtefactKind, Artefact]:
    return {one.kind: one for one in signed_results(BEFORE, usual_headers(), context, review)}


@pytest.fixture(scope="module")
def report() -> Dataset:
    return pydicom.dcmread(BytesIO(results()[ArtefactKind.SR].content))


@pytest.fixture(scope="module")
def bundle() -> list[dict]:  # type: ignore[type-arg]
    return [entry["resource"] for entry in json.loads(results()[ArtefactKind.FHIR].content)["entry"]]


def walk(item: Dataset) -> Iterator[Dataset]:
    for child in item.get("ContentSequence", []):
        yield child
        yield from walk(child)


def value(item: Dataset) -> str:
    if "ConceptCodeSequence" in item:
        return str(item.ConceptCodeSequence[0].CodeValue)
    return str(item.get("TextValue") or item.get("PersonName") or item.get("UID"))


def name(item: Dataset) -> str:
    """Return the concept name; empty of an image in the library."""
    return str(item.ConceptNameCodeSequence[0].CodeValue) if "ConceptNameCodeSequence" in item else ""


def said(item: Dataset, code: str) -> list[str]:
    return [value(c) for c in item.get("ContentSequence", []) if name(c) == code]


def groups(report: Dataset) -> list[Dataset]:
    return [item for item in walk(report) if name(item) == "125007"]


def test_counts_and_fraction_are_those_of_the_reviewed_cells() -> None:
    after = findings_as_signed(BEFORE, REVIEW)
    assert (after.counts.all, after.counts.hem, after.counts.total) == (2, 0, BEFORE.counts.total)
    assert after.counts.not_assessable == BEFORE.counts.not_assessable + 1
    assert after.fraction is not None
    assert after.fraction.value == 1.0


def test_report_is_verified_by_the_person_who_signed(report: Dataset) -> None:
    assert (report.VerificationFlag, report.CompletionFlag, report.PreliminaryFlag) == ("VERIFIED", "COMPLETE", "FINAL")
    (observer,) = report.VerifyingObserverSequence
    assert observer.VerifyingObserverName == "Haddad^Layla=ليلى"
    assert observer.VerifyingOrganization == "Taleb Hospital"
    assert observer.VerificationDateTime == "20260305093000+0000"
    assert report.ContentDate == "20260305"
    assert report.ContributingEquipmentSequence[0].ContributionDateTime == "20260304150607+0330"


def test_person_is_an_observer_beside_the_device(report: Dataset) -> None:
    assert said(report, "121005") == ["121007", "121006"]
    assert said(report, "121008") == ["Haddad^Layla=ليلى"]
    assert said(report, "121009") == ["Taleb Hospital"]
    assert said(report, "128774") == ["lhaddad"]


def test_changed_cells_are_marked_with_what_the_algorithm_had_said(report: Dataset) -> None:
    first, second, *rest, last = groups(report)
    assert (said(first, "DECISION"), said(first, "BEFORE_REVIEW"), said(first, "121071")) == (
        ["ACCEPTED"],
        [],
        ["15433008"],
    )
    assert (said(second, "DECISION"), said(second, "BEFORE_REVIEW"), said(second, "121071")) == (
        ["RELABELLED"],
        ["HEM"],
        ["15433008"],
    )
    assert said(second, "121106") == ["Coarse chromatin."]
    assert (said(last, "DECISION"), said(last, "BEFORE_REVIEW")) == (["EXCLUDED"], ["15433008"])
    assert said(last, "121071") == ["82334004"]
    assert said(last, "REASON") == ["EXCLUDED"]
    assert all(said(group, "DECISION") == [] for group in rest)


def test_tracking_uids_are_those_of_the_unsigned_report(report: Dataset) -> None:
    unsigned = pydicom.dcmread(BytesIO(structured_report(format_inputs(BEFORE, usual_headers(), CONTEXT)).content))
    assert [said(g, "112040") for g in groups(report)] == [said(g, "112040") for g in groups(unsigned)]
    assert report.SeriesInstanceUID == unsigned.SeriesInstanceUID


def test_report_is_a_new_object_that_replaces_the_unsigned_one(report: Dataset) -> None:
    unsigned = structured_report(format_inputs(BEFORE, usual_headers(), CONTEXT))
    later = replace(REVIEW, signed_at=REVIEW.signed_at.replace(hour=10))
    uids = {unsigned.uid, results()[ArtefactKind.SR].uid, results(review=later)[ArtefactKind.SR].uid}
    assert len(uids) == 3
    assert results()[ArtefactKind.SR] == results()[ArtefactKind.SR], "the same signature gives the same bytes"
    assert results()[ArtefactKind.SR].supersedes == PRIOR.sop_instance_uid
    prior = report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert prior.ReferencedSOPInstanceUID == PRIOR.sop_instance_uid


def of_type(bundle: list[dict], kind: str) -> list[dict]:  # type: ignore[type-arg]
    return [one for one in bundle if one["resourceType"] == kind]


def test_fhir_report_is_final(bundle: list[dict]) -> None:  # type: ignore[type-arg]
    (diagnostic,) = of_type(bundle, "DiagnosticReport")
    assert diagnostic["status"] == "final"
    assert "conclusionCode" not in diagnostic, "nobody chose one"
    assert diagnostic["resultsInterpreter"][0]["identifier"]["value"] == "lhaddad"
    assert diagnostic["issued"] == "2026-03-05T09:30:00+00:00"
    document, replaced = of_type(bundle, "DocumentReference")
    assert (document["status"], document["docStatus"]) == ("current", "final")
    assert replaced["status"] == "superseded"
    assert replaced["masterIdentifier"]["value"] == f"urn:oid:{PRIOR.sop_instance_uid}"
    assert document["relatesTo"][0]["target"]["identifier"]["value"] == f"urn:oid:{PRIOR.sop_instance_uid}"


def test_signing_again_amends() -> None:
    earlier = replace(REVIEW, cells=tuple(one for one in REVIEW.cells if one.tracking_uid != CELLS[1].tracking_uid))
    again = results(replace(CONTEXT, signed_earlier=earlier))
    entries = [entry["resource"] for entry in json.loads(again[ArtefactKind.FHIR].content)["entry"]]
    assert of_type(entries, "DiagnosticReport")[0]["status"] == "amended"
    status = {
        one["identifier"][0]["value"].removeprefix("urn:oid:"): one["status"] for one in of_type(entries, "Observation")
    }
    assert status.pop(CELLS[1].tracking_uid) == "amended", "decided otherwise than before"
    assert {status[cell.tracking_uid] for cell in CELLS if cell.tracking_uid in status} == {"final"}
    (panel,) = [one for one in of_type(entries, "Observation") if "hasMember" in one]
    assert panel["status"] == "amended"
    request = again[ArtefactKind.HL7V2].content.decode().split("\rOBR|")[1].split("\r")[0]
    assert request.split("|")[24] == "C"


def test_what_nobody_has_signed_does_not_replace_a_signed_report_in_the_ehr() -> None:
    late = {one.kind for one in write_results(BEFORE, usual_headers(), replace(CONTEXT, signed_earlier=REVIEW))}
    first = {one.kind for one in write_results(BEFORE, usual_headers(), CONTEXT)}
    assert first - late == {ArtefactKind.FHIR, ArtefactKind.HL7V2}
    assert {ArtefactKind.SR, ArtefactKind.HTML} <= late


def test_no_conclusion_is_coded_before_a_person_signed() -> None:
    from allpacs.report.fhir import fhir_bundle

    entries = json.loads(fhir_bundle(inputs_after("2.25.1", BEFORE, usual_headers(), CONTEXT)).content)["entry"]
    for entry in entries:
        resource = entry["resource"]
        assert "conclusionCode" not in resource
        assert "resultsInterpreter" not in resource
        assert resource.get("status") not in ("final", "amended")


def test_observations_say_which_were_changed_and_by_whom(bundle: list[dict]) -> None:  # type: ignore[type-arg]
    by_uid = {one["identifier"][0]["value"].removeprefix("urn:oid:"): one for one in of_type(bundle, "Observation")}
    changed = {CELLS[1].tracking_uid, CELLS[-1].tracking_uid}
    for cell in CELLS:
        observation = by_uid[cell.tracking_uid]
        assert observation["status"] == "final", "it was never final before"
        labels = [label["code"] for label in observation["meta"]["security"]]
        if cell.tracking_uid in changed:
            assert labels == ["CLINAST"]
            assert observation["performer"][0]["identifier"]["value"] == "lhaddad"
            assert "device" not in observation
            assert not [one for one in observation["component"] if "valueQuantity" in one]
        else:
            assert labels == ["AIAST", "DEVAST", "CLINAST"]
    note = by_uid[CELLS[1].tracking_uid]["note"]
    assert note[0]["text"] == "Changed by the reviewer; by the algorithm: Hematogone."
    assert note[1]["text"] == "Coarse chromatin."
    assert note[0]["authorReference"]["identifier"]["value"] == "lhaddad"
    assert "dataAbsentReason" in by_uid[CELLS[-1].tracking_uid]


def test_provenance_names_the_person_beside_the_device(bundle: list[dict]) -> None:  # type: ignore[type-arg]
    (provenance,) = of_type(bundle, "Provenance")
    assembler, verifier = provenance["agent"]
    assert assembler["type"]["coding"][0]["code"] == "assembler"
    assert verifier["type"]["coding"][0]["code"] == "verifier"
    assert verifier["who"]["type"] == "Practitioner"


def test_the_same_report_is_updated_at_the_ehr(bundle: list[dict]) -> None:  # type: ignore[type-arg]
    from allpacs.report.fhir import fhir_bundle

    unsigned = json.loads(fhir_bundle(inputs_after("2.25.1", BEFORE, usual_headers(), CONTEXT)).content)["entry"]
    signed = json.loads(results()[ArtefactKind.FHIR].content)["entry"]

    def updated(entries: list[dict], kind: str) -> set[str]:  # type: ignore[type-arg]
        return {e["request"]["url"] for e in entries if e["resource"]["resourceType"] == kind}

    for kind in ("DiagnosticReport", "Observation", "Device"):
        assert updated(signed, kind) == updated(unsigned, kind)
    assert len(updated(signed, "DocumentReference")) == 2, "the report, and the one that it replaces"


def test_page_says_who_signed_and_what_was_changed() -> None:
    page = results()[ArtefactKind.HTML].content.decode()
    assert "<b>Haddad Layla / ليلى</b>, Taleb Hospital, 2026-03-05 09:30 +0000" in page
    assert "not verified by a person" not in page
    assert "Changed by the reviewer; by the model: Hematogone" in page
    assert "&lt;b&gt;smudge&lt;/b&gt;" in page
    assert "Cells at the edge are thick." in page
    assert page.count("Research use only.") == 2


def test_everything_says_research_use_and_that_a_person_signed(report: Dataset, bundle: list[dict]) -> None:  # type: ignore[type-arg]
    texts = [item.TextValue for item in walk(report) if "TextValue" in item]
    assert any(text.startswith("Research use only.") and "signed by a person" in text for text in texts)
    assert not any("not verified" in text for text in texts)
    assert "not verified by a person" not in json.dumps([one for one in bundle if one["resourceType"] != "Device"])


def test_nothing_reviewed_one_by_one_can_be_signed_too() -> None:
    unread = results(review=replace(REVIEW, cells=(), comment=""))
    report = pydicom.dcmread(BytesIO(unread[ArtefactKind.SR].content))
    assert report.VerificationFlag == "VERIFIED"
    texts = [item.TextValue for item in walk(report) if "TextValue" in item]
    assert f"Reviewed one by one: 0 cells (0 accepted, 0 changed, 0 excluded); {len(CELLS)} cells not looked at " in (
        " ".join(texts)
    )


def test_highdicom_reads_the_signed_report() -> None:
    content = highdicom.sr.srread(BytesIO(results()[ArtefactKind.SR].content)).content
    read = content.get_planar_roi_measurement_groups()
    assert [group.tracking_uid for group in read] == [cell.tracking_uid for cell in CELLS]
    assert [str(observer.observer_type.value) for observer in content.get_observer_contexts()] == ["121007", "121006"]


def few_cells() -> tuple[StudyFindings, Review]:
    """Return what PixelMed judges in a few seconds."""
    instances = (replace(BEFORE.instances[0]),)
    findings = findings_as_signed(replace(BEFORE, instances=instances), Review(REVIEW.reviewer, REVIEW.signed_at))
    return findings, replace(REVIEW, cells=REVIEW.cells[:2])


def test_dciodvfy_finds_no_error(tmp_path: Path) -> None:
    program = Path(sys.executable).parent / "dciodvfy"
    if not program.exists():
        pytest.skip("dciodvfy is not installed")
    file = tmp_path / "report.dcm"
    file.write_bytes(results()[ArtefactKind.SR].content)
    done = subprocess.run([program, "-new", str(file)], capture_output=True, text=True, errors="replace", check=False)
    told = (done.stdout + done.stderr).splitlines()
    assert any("Comprehensive3DSR" in line for line in told)
    assert [line for line in told if line.startswith("Error")] == []


@pytest.mark.process
def test_pixelmed_finds_no_template_error(tmp_path: Path) -> None:
    jar = Path("/usr/share/java/pixelmed.jar")
    if not jar.exists() or shutil.which("java") is None:
        pytest.skip("PixelMed's validator is not installed (libpixelmed-java)")
    findings, review = few_cells()
    (sr, *_) = signed_results(findings, usual_headers(), ON_UNSIGNED, review)
    file = tmp_path / "report.dcm"
    file.write_bytes(sr.content)
    limits = [f"-Djdk.xml.xpath{name}Limit=0" for name in ("TotalOp", "ExprOp", "ExprGrp")]
    done = subprocess.run(
        ["java", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true", *limits, "-cp", str(jar),
         "com.pixelmed.validate.DicomSRValidator", str(file)],
        capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    told = (done.stdout + done.stderr).splitlines()
    assert "Found Root Template TID_1500 (MeasurementReport)" in told
    known = "not found in context group 100"  # its own strictness: the group is extensible
    assert [line for line in told if line.startswith("Error") and known not in line] == []


def test_key_images_of_a_signed_report_follow_the_person() -> None:
    shades = {cell.tracking_uid: 20 * place for place, cell in enumerate(CELLS, start=1)}
    pictures = {uid: CellImage(np.full((8, 8, 3), shade, np.uint8)) for uid, shade in shades.items()}
    reviewed, signed = (
        {one.kind: one for one in made}
        for made in (
            write_results(BEFORE, usual_headers(), replace(CONTEXT, pictures=pictures)),
            signed_results(BEFORE, usual_headers(), replace(ON_UNSIGNED, pictures=pictures), REVIEW),
        )
    )
    before, after = (shown(one[ArtefactKind.KEY_IMAGES]) for one in (reviewed, signed))
    # The model's first is the one that the person excluded; its hematogone is a lymphoblast now.
    assert before[0] == shades[CELLS[-1].tracking_uid]
    assert after[:2] == [shades[CELLS[0].tracking_uid], shades[CELLS[1].tracking_uid]]
    assert set(after) == set(before) - {shades[CELLS[-1].tracking_uid]}
    # Each report points to the pictures of its own revision.
    assert signed[ArtefactKind.KEY_IMAGES].uid != reviewed[ArtefactKind.KEY_IMAGES].uid
    for results_of in (reviewed, signed):
        sr = pydicom.dcmread(BytesIO(results_of[ArtefactKind.SR].content))
        (item,) = [one for one in sr.ContentSequence if one.ConceptNameCodeSequence[0].CodeValue == "121080"]
        assert item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == results_of[ArtefactKind.KEY_IMAGES].uid
    # Cells that are not shown any more are no reason to name their image.
    image = pydicom.dcmread(BytesIO(signed[ArtefactKind.KEY_IMAGES].content))
    still = {cell.sop_instance_uid for cell in CELLS[:-1] if shades[cell.tracking_uid] in after}
    assert {one.ReferencedSOPInstanceUID for one in image.SourceImageSequence} == still


def shown(artefact: Artefact) -> list[int]:
    """Return the grey of each cell on the first page, in its order; 250 is paper."""
    image = pydicom.dcmread(BytesIO(artefact.content))
    page = image.pixel_array if image.pixel_array.ndim == 3 else image.pixel_array[0]
    places = (
        (76 + 100 + row * (256 + 62 + 10), 24 + 100 + column * (2 * 256 + 10 + 24))
        for row in range(3)
        for column in range(2)
    )
    return [int(page[y, x, 0]) for y, x in places if y < page.shape[0] and page[y, x, 0] != 250]
