"""The report printed: its pages, its place in the FHIR report, and as Encapsulated PDF."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread

from allpacs.domain.artefacts import Artefact, ArtefactKind
from allpacs.domain.errors import ConfigFault
from allpacs.report import pdf
from allpacs.report.inputs import format_inputs
from allpacs.study.results import results
from conformance.support.report_samples import CONTEXT, PRIOR, usual_headers, usual_study

try:
    pdf.check_printing()
except ConfigFault as fault:
    pytest.skip(str(fault), allow_module_level=True)


@pytest.fixture(scope="module")
def made() -> dict[ArtefactKind, Artefact]:
    context = replace(CONTEXT, pdf=True, predecessor=PRIOR)
    return {one.kind: one for one in results(usual_study(2), usual_headers(), context)}


@pytest.fixture(scope="module")
def encapsulated(made: dict[ArtefactKind, Artefact]) -> Dataset:
    return dcmread(BytesIO(made[ArtefactKind.PDF].content))


def test_the_ehr_gets_page_and_pdf(made: dict[ArtefactKind, Artefact], encapsulated: Dataset) -> None:
    entries = [entry["resource"] for entry in json.loads(made[ArtefactKind.FHIR].content)["entry"]]
    (report,) = [one for one in entries if one["resourceType"] == "DiagnosticReport"]
    assert [form["contentType"] for form in report["presentedForm"]] == ["text/html", "application/pdf"]
    printed = base64.b64decode(report["presentedForm"][1]["data"])
    assert printed.startswith(b"%PDF-")
    assert len(printed) == report["presentedForm"][1]["size"] == encapsulated.EncapsulatedDocumentLength
    assert encapsulated.EncapsulatedDocument[: len(printed)] == printed


def test_the_pacs_gets_it_in_the_study_and_it_names_the_report(
    made: dict[ArtefactKind, Artefact], encapsulated: Dataset
) -> None:
    report = dcmread(BytesIO(made[ArtefactKind.SR].content))
    for keyword in ("StudyInstanceUID", "PatientID", "PatientName", "AccessionNumber"):
        assert encapsulated[keyword].value == report[keyword].value
    assert encapsulated.MIMETypeOfEncapsulatedDocument == "application/pdf"
    assert encapsulated.BurnedInAnnotation == "YES", "the pages name the patient"
    assert encapsulated.SourceInstanceSequence[0].ReferencedSOPInstanceUID == report.SOPInstanceUID
    assert encapsulated.SeriesInstanceUID != report.SeriesInstanceUID


def test_the_same_report_is_printed_the_same() -> None:
    context = replace(CONTEXT, pdf=True)
    first, second = (pdf.pdf_report(format_inputs(usual_study(), usual_headers(), context)) for _ in range(2))
    assert first == second


def test_nothing_is_printed_unless_it_is_asked_for() -> None:
    made = [one.kind for one in results(usual_study(), usual_headers(), CONTEXT)]
    assert ArtefactKind.PDF not in made


def test_a_machine_that_cannot_print_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "weasyprint", None)
    with pytest.raises(ConfigFault, match=r"allpacs\[pdf\]"):
        pdf.check_printing()


def test_pictures_that_are_cut_off_are_refused_beside_it() -> None:
    """The library has Pillow read them; this process judges cells."""
    command = (
        "from PIL import ImageFile\nfrom allpacs.report import pdf\npdf.check_printing()\n"
        "import weasyprint\nassert not ImageFile.LOAD_TRUNCATED_IMAGES"
    )
    subprocess.run([sys.executable, "-c", command], check=True, timeout=60)


def test_dciodvfy_finds_no_error(made: dict[ArtefactKind, Artefact], tmp_path: Path) -> None:
    program = Path(sys.executable).parent / "dciodvfy"
    if not program.exists():
        pytest.skip("dciodvfy is not installed")
    file = tmp_path / "report.dcm"
    file.write_bytes(made[ArtefactKind.PDF].content)
    done = subprocess.run([program, "-new", str(file)], capture_output=True, text=True, errors="replace", timeout=60)
    told = (done.stdout + done.stderr).splitlines()
    assert any("EncapsulatedPDF" in line for line in told)
    assert [line for line in told if line.startswith("Error")] == []
