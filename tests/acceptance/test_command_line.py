"""The verbs of the command line: contracts, one-line errors, exit statuses."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread

from allpacs.app import open_store
from allpacs.cli import peer
from allpacs.demo.synthetic import draw_cell, draw_field
from allpacs.domain.artefacts import Artefact, ArtefactKind
from allpacs.domain.errors import ConfigFault
from allpacs.store.records import DeliveryState, RevisionState
from support.deliver_samples import scp
from support.hospital import StubHospital, drawn_study

MICROSCOPY = "1.2.840.10008.5.1.4.1.1.77.1.2"


def allpacs(*arguments: str | Path, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    """Run the command line as a person would."""
    command = [sys.executable, "-m", "allpacs", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)


def one_line(result: subprocess.CompletedProcess[str]) -> str:
    """Return the only line on standard error, which is our own."""
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("allpacs: ")
    assert "Traceback" not in result.stdout
    return line


def test_help_loads_no_model_library() -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom allpacs.cli import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & "
        "{'tensorflow', 'keras', 'pydicom', 'pynetdicom', 'dbos', 'skimage', 'scipy'}))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_receiver_loads_no_model_library() -> None:
    code = (
        "import sys\nimport allpacs.receive.scp, allpacs.store.store, allpacs.app, allpacs.decode.part10\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & "
        "{'tensorflow', 'keras', 'dbos', 'skimage', 'scipy', 'highdicom', 'fhir'}))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_every_verb_explains_itself() -> None:
    for verb in ("demo", "serve", "receive", "work", "import", "send", "echo", "classify", "studies", "show", "retry"):
        result = allpacs(verb, "--help")
        assert result.returncode == 0
        assert len(result.stdout.splitlines()) > 4


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["studies", "--config", "missing.toml"], 3, "missing.toml"),
        (["echo", "nobody"], 3, "AE@host:port"),
        (["echo", "PACS@127.0.0.1:9"], 6, "127.0.0.1:9"),
        (["send", "missing", "--to", "PACS@127.0.0.1:9"], 1, "missing"),
        (["import", "missing", "--out", "out"], 1, "missing"),
        (["classify", "missing"], 1, "missing"),
    ],
)
def test_an_error_is_one_line_and_a_status(arguments: list[str], status: int, said: str) -> None:
    result = allpacs(*arguments)
    assert result.returncode == status
    assert said in one_line(result)


def test_a_port_that_is_taken_is_status_3(tmp_path: Path) -> None:
    with StubHospital(tmp_path) as hospital, socket.socket() as taken:
        taken.bind(("127.0.0.1", hospital.port))
        taken.listen()
        result = allpacs("receive", "--config", hospital.config)
    assert result.returncode == 3
    assert "receive.port" in one_line(result)


def test_a_folder_that_cannot_be_written_is_status_5(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    result = allpacs("demo", "--out", tmp_path / "file")
    assert result.returncode == 5
    assert str(tmp_path / "file") in one_line(result)


def test_a_wrong_command_line_is_status_2() -> None:
    assert allpacs("send").returncode == 2


def test_a_broken_bundle_is_status_4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(draw_cell(seed=1, blast=True)).save(tmp_path / "cell.png")
    monkeypatch.setenv("ALLPACS_MODEL__BUNDLE", str(tmp_path))
    result = allpacs("classify", tmp_path / "cell.png")
    assert result.returncode == 4
    assert "bundle" in one_line(result)


@pytest.mark.parametrize("text", ["PACS", "PACS@host", "@host:1", "PACS@host:0", "PACS@host:x", "A" * 17 + "@host:1"])
def test_an_address_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ConfigFault, match="AE@host:port"):
        peer(text)


def test_an_address_is_read() -> None:
    assert peer("PACS@host.example:104") == ("PACS", "host.example", 104)


@pytest.mark.process
def test_classify_keeps_its_contract(tmp_path: Path) -> None:
    Image.fromarray(draw_cell(seed=1, blast=True)).save(tmp_path / "a.png")
    Image.fromarray(draw_field(seed=2, cells=4)).save(tmp_path / "b.png")
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "c.png")
    (tmp_path / "d.png").write_bytes(b"no picture")
    drawn_study(tmp_path / "study", [5])

    result = allpacs("classify", tmp_path / "a.png", tmp_path / "b.png", tmp_path, "--json")

    assert result.returncode == 1  # one file could not be read; the others were answered all the same
    answer = json.loads(result.stdout)
    assert set(answer) == {"bundle", "images"}
    assert set(answer["bundle"]) == {"name", "version", "digest"}
    by_name = {Path(one["path"]).name: one for one in answer["images"]}
    assert by_name["d.png"]["frame"] is None
    assert by_name["d.png"]["error"]
    assert by_name["c.png"]["cells"] == []
    assert len(by_name["a.png"]["cells"]) == 1
    assert len(by_name["b.png"]["cells"]) >= 3
    assert any(name.endswith(".dcm") for name in by_name)
    for image in answer["images"]:
        for cell in image["cells"]:
            assert set(cell) == {"box_px", "label", "probability_all", "assessable", "reason"}
            assert len(cell["box_px"]) == 4
            assert (cell["label"] in ("ALL", "HEM")) == cell["assessable"] == (cell["reason"] is None)
            assert cell["probability_all"] is None or 0 <= cell["probability_all"] <= 1


def test_import_writes_a_study(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for seed in range(2):
        Image.fromarray(draw_cell(seed=seed, blast=True)).save(pictures / f"{seed}.bmp")
    patient = ["--patient-id", "P1", "--accession", "A7", "--specimen", "bone-marrow", "--stain", "Giemsa"]
    result = allpacs("import", pictures, "--out", tmp_path / "study", *patient, "--spacing-um", "0.1")
    assert result.returncode == 0, result.stderr
    files = [dcmread(path) for path in (tmp_path / "study").iterdir()]
    assert [(one.PatientID, one.AccessionNumber) for one in files] == [("P1", "A7")] * 2
    assert len({one.StudyInstanceUID for one in files}) == 1
    specimens = [one.SpecimenDescriptionSequence[0].SpecimenTypeCodeSequence[0].CodeValue for one in files]
    assert specimens == ["119359002"] * 2


def test_check_config_says_what_to_fix(tmp_path: Path) -> None:
    with StubHospital(tmp_path) as hospital:
        good = allpacs("check-config", "--config", hospital.config)
        assert good.returncode == 0, good.stdout + good.stderr
        hospital.ehr.stop()
        nowhere = '[destinations.nowhere]\nkind = "c_store"\nhost = ""\nport = 104\ncalled_ae = "PACS"\n'
        hospital.config.write_text(hospital.config.read_text(encoding="utf-8") + nowhere, encoding="utf-8")
        bad = allpacs("check-config", "--config", hospital.config)
    assert bad.returncode == 3
    assert "failed destinations.ehr" in bad.stdout
    assert "failed destinations.nowhere: PACS: the host is missing" in bad.stdout
    assert "ok     destinations.pacs" in bad.stdout


def test_send_tells_warnings_and_takes_a_known_uid_for_what_it_is(tmp_path: Path) -> None:
    drawn_study(tmp_path / "drawn", range(3))
    statuses = iter([0x0000, 0xB006, 0x0111])
    contexts = ((MICROSCOPY, ("1.2.840.10008.1.2.1",)),)
    with scp(lambda _event: next(statuses), contexts) as port:
        result = allpacs("send", tmp_path / "drawn" / "dicom", "--to", f"PACS@127.0.0.1:{port}")
    assert result.returncode == 6
    assert "2 of 3 instances stored" in result.stdout
    told = result.stderr.splitlines()
    assert [line.rsplit(": ", 1)[1][:6] for line in told[:2]] == ["0xB006", "0x0111"]
    assert told[2].startswith("allpacs: PACS did not store 1 of 3 instances")


@pytest.mark.parametrize("option", [["--state", "lost"], ["--limit", "-1"]])
def test_studies_refuses_what_it_does_not_know(tmp_path: Path, option: list[str]) -> None:
    (tmp_path / "allpacs.toml").write_text(f'[store]\nfolder = "{tmp_path / "store"}"\n', encoding="utf-8")
    result = allpacs("studies", "--config", tmp_path / "allpacs.toml", *option)
    assert result.returncode == 2
    assert option[0] in result.stderr


def test_show_and_retry(tmp_path: Path) -> None:
    """A revision whose delivery was given up, and one whose reading failed, are both repeated on request."""
    with StubHospital(tmp_path) as hospital:
        store = open_store(hospital.settings)
        from allpacs.app import make_receiver

        receiver = make_receiver(hospital.settings, store)
        receiver.start()
        drawn_study(tmp_path / "drawn", [1])
        hospital.send(tmp_path / "drawn")
        receiver.stop()
        ((study_uid, revision),) = store.revisions.close_due(time.time() + 60)
        store.revisions.set_state(study_uid, revision, RevisionState.ATTENTION, reason="ModelFault: broken")

        shown = allpacs("show", study_uid[:20], "--config", hospital.config)
        assert "ModelFault: broken" in " ".join(shown.stdout.split())
        again = allpacs("retry", study_uid, "--config", hospital.config)
        assert "will be read again" in again.stdout
        assert store.revisions.get(study_uid, revision).state == RevisionState.QUEUED
        assert store.revisions.get(study_uid, revision).attempts == 2

        store.artefacts.put(study_uid, revision, Artefact(ArtefactKind.HTML, "1.2", "text/html", "1.2.html", b""))
        store.deliveries.queue(study_uid, revision, ["pacs"], now=1.0)
        store.deliveries.set_state(study_uid, revision, "pacs", DeliveryState.DEAD, now=2.0, reason="refused")
        store.revisions.set_state(study_uid, revision, RevisionState.ATTENTION, reason="pacs: refused")
        details = json.loads(allpacs("show", study_uid, "--json", "--config", hospital.config).stdout)
        assert details["deliveries"][0]["detail"] == "refused"
        again = allpacs("retry", study_uid, "--config", hospital.config)
        assert "delivered to pacs again" in again.stdout
        assert store.deliveries.of_study(study_uid)[0].state == DeliveryState.QUEUED
        assert allpacs("studies", "--json", "--config", hospital.config).stdout.count(study_uid) == 1
        store.close()
