"""The Python examples of the documentation run, in their order, and the package alone loads no library."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import allpacs
from allpacs.demo.synthetic import draw_cell
from allpacs.domain.errors import ConfigFault, InputFault
from allpacs.domain.findings import CellLabel
from conformance.support.report_samples import usual_headers, usual_study
from support.console_samples import painted_study
from support.doc_commands import DOCS
from support.hospital import drawn_study
from support.reading_steps import STUDY, read_study, reading_of, stored_study

pytestmark = pytest.mark.process

SEEDS = range(2)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder as the page describes it: pictures, DICOM files, and the configuration of a store."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    for seed in SEEDS:
        Image.fromarray(draw_cell(seed=seed, blast=seed % 2 == 0)).save(tmp_path / "pictures" / f"{seed}.png")
    drawn_study(tmp_path / "drawn", SEEDS)
    (tmp_path / "drawn" / "dicom").rename(tmp_path / "dicom")
    store = stored_study(tmp_path, painted_study(tmp_path / "painted", SEEDS, study_uid=STUDY))
    read_study(reading_of(store, tmp_path))
    store.close()
    (tmp_path / "allpacs.toml").write_text(f'[store]\nfolder = "{tmp_path / "store"}"\n', encoding="utf-8")
    return tmp_path


def examples(page: Path) -> list[str]:
    """Return the Python blocks of a page but for whole files, which are run by the tests that they are taken from."""
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert blocks, f"{page.name} shows no Python"
    return blocks


def test_the_examples_of_the_page_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"study_uid": STUDY}
    said = []
    for block in examples(DOCS / "python.md"):
        exec(compile(block, "python.md", "exec"), names)  # noqa: S102 - the page's own examples
        said.append(capsys.readouterr().out)
    assert said[0].splitlines()[-1] == "1 of 2 cells are lymphoblasts"
    assert said[1] == "", "every picture can be read"
    kinds = [line.split()[0] for line in said[3].splitlines() if re.match(r"[a-z0-9-]+ (application|text)/", line)]
    assert kinds == ["sr", "html", "fhir", "hl7v2"]
    assert len(list((folder / "results").iterdir())) == len(kinds)
    assert said[4].startswith("1 Counts(")
    assert names["findings"].study_uid == STUDY


def test_an_array_gives_what_its_picture_gives(folder: Path) -> None:
    with Image.open(folder / "pictures" / "0.png") as picture:
        rgb = np.asarray(picture.convert("RGB"))
    of_file, of_array = allpacs.classify_images([folder / "pictures" / "0.png", rgb]).instances
    assert of_array.cells[0].label is of_file.cells[0].label is CellLabel.ALL
    assert of_array.cells[0].probability_all == pytest.approx(of_file.cells[0].probability_all, abs=1e-6)
    assert of_array.cells[0].box == of_file.cells[0].box


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ([], "there is no image to classify"),
        ([np.zeros((4, 4), np.uint8)], r"uint8 of shape \(rows, columns, 3\), not uint8 \(4, 4\)"),
        ([np.zeros((4, 4, 3), np.float32)], r"not float32 \(4, 4, 3\)"),
        ([Path("nowhere.png")], "nowhere.png"),
    ],
)
def test_what_cannot_be_classified_is_named(images: list[Any], said: str) -> None:
    with pytest.raises(InputFault, match=said):
        allpacs.classify_images(images)


def test_files_of_two_studies_are_refused(folder: Path) -> None:
    drawn_study(folder / "more", range(5, 6), study_uid="1.2.826.77")
    with pytest.raises(InputFault, match="the files are of 2 studies"):
        allpacs.classify_images([folder / "dicom", folder / "more" / "dicom"])


def test_what_a_store_does_not_have_is_named(folder: Path) -> None:
    settings = allpacs.load_settings(store={"folder": folder / "store"})
    assert allpacs.read_findings(STUDY, 1, settings=settings).revision == 1
    with pytest.raises(InputFault, match=r"no study 1\.2\.3"):
        allpacs.read_findings("1.2.3", settings=settings)
    with pytest.raises(InputFault, match="no report of revision 9"):
        allpacs.read_findings(STUDY, 9, settings=settings)
    with pytest.raises(ConfigFault, match="there is no store in"):
        allpacs.read_findings(STUDY, settings=allpacs.load_settings(store={"folder": folder / "elsewhere"}))
    assert not (folder / "elsewhere").exists()


def test_no_report_of_two_patients_or_of_a_picture(folder: Path) -> None:
    headers = usual_headers()
    headers[next(iter(headers))].PatientID = "P-18"
    with pytest.raises(InputFault, match="different patients"):
        allpacs.build_reports(usual_study(), headers)
    with pytest.raises(InputFault, match="image 1 of the findings is no DICOM object"):
        allpacs.build_reports(allpacs.classify_images([folder / "pictures" / "0.png"]), {})


def test_the_package_alone_loads_no_library() -> None:
    command = (
        "import sys, allpacs\n"
        "assert not {'numpy', 'pydicom', 'pydantic', 'allpacs.api'} & set(sys.modules)\n"
        "assert {'classify_images', 'read_findings', 'build_reports', '__version__'} <= set(dir(allpacs))\n"
        "assert all(getattr(allpacs, name) is not None for name in allpacs.__all__)\n"
        "try:\n    allpacs.nothing\nexcept AttributeError as fault:\n    print(fault)"
    )
    told = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True, timeout=120)
    assert told.stdout == "module 'allpacs' has no attribute 'nothing'\n"
