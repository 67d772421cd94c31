"""What counts as a result: cells that neither the head nor the start has seen, and that serving would answer for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from allpacs.classify.bundle import Bundle, load_bundle, write_bundle
from allpacs.classify.engines import tensorflow
from allpacs.classify.golden import save_golden
from allpacs.classify.quality import Quality
from allpacs.domain.errors import InputFault
from allpacs.settings import SHIPPED_BUNDLE
from support.training_samples import write_run
from training import evaluate, metrics, rows
from training.__main__ import main
from training.evaluate import evaluate_run
from training.evaluate_bundle import evaluate_bundle
from training.export import _calibrated, restate
from training.figures import Figures
from training.recipe import read_recipe
from training.seen import seen_by

PBC = "PBC Barcelona"
STATE = {"head_logits/kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals are not what is asked here."""
    for module in (metrics, evaluate, rows):
        monkeypatch.setattr(module, "interval", lambda *_, **__: (0.25, 0.75))


def picture(number: int, label: str, source: str, subject: str | None = None) -> dict[str, Any]:
    unit = f"{source}:{subject}" if subject else f"{source}/{label}/{number}.jpg"
    return {"image": f"{number}.jpg", "label": label, "source": source, "unit": unit, "subject": subject}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Return the folder of two runs: `pbc`, a pre-training, and `best`, which begins with its first fold.

    Of 60 lymphocytes and 60 outliers of PBC the pre-training was trained on a third.
    """
    kinds = ["lymphocyte"] * 60 + ["basophil"] * 30 + ["platelet"] * 30
    before = [picture(i, kind, PBC) for i, kind in enumerate(kinds)]
    recipe = read_recipe("pbc")
    pbc = write_run(tmp_path / "pbc", recipe, before, np.zeros((120, 8)), start="lite2", folds=3)
    save_file(STATE, pbc / "fold0" / "weights.safetensors")
    pictures = [picture(i, "HEM" if i < 60 else "OTHER", PBC) for i in range(120)]
    pictures += [picture(i, label, "C-NMC 2019", f"{label[0]}{i % 6}") for label in ("ALL", "HEM") for i in range(30)]
    logits = np.zeros((180, 3))
    logits[:60, 1], logits[120:150, 0], logits[150:, 1] = 2, 3, 3
    logits[60:90, 2] = 9  # basophils are refused, platelets are not
    logits[90:120, 1] = 2
    logits[120:130] = 0, 3, 12  # a third of the lymphoblasts is taken for normal, and refused
    start = pbc / "fold0" / "weights.safetensors"
    best = write_run(
        tmp_path / "best", read_recipe("head", ("gate.acceptance=0.93",)), pictures, logits, start=str(start), folds=5
    )
    for fold in range(5):
        save_file(STATE, best / f"fold{fold}" / "weights.safetensors")
    return tmp_path


def values(figures: Figures, beginning: str) -> dict[str, float]:
    return {row["figure"]: row["value"] for row in figures.rows if row["on"].startswith(beginning)}


def test_what_the_start_was_trained_on_is_no_test(runs: Path) -> None:
    seen = seen_by(str(runs / "pbc" / "fold0" / "weights.safetensors"))
    assert seen is not None
    assert len(seen.images) == 40
    figures = evaluate_run(runs / "best")
    assert "20 of 60 test pictures PBC Barcelona HEM" in figures.facts["seen_by_start"]
    assert figures.facts["start_split"] == "sha256:s"
    on = {row["on"] for row in figures.rows}
    assert f"{PBC}: 0 ALL, 40 HEM, by image, subjects not given, not seen by the pre-training (20 more were)" in on
    assert f"{PBC} OTHER (40), not seen by the pre-training (20 more were)" in on
    assert f"{PBC} OTHER, platelet (20)" in on
    assert not any("pre-training" in one for one in on if one.startswith("C-NMC"))
    few = {row["on"] for row in evaluate_run(runs / "best", folds=[0]).rows if row["on"].startswith(PBC)}
    assert all(one.endswith("too few to judge by") for one in few)


def test_a_run_can_be_judged_on_what_its_start_has_seen_and_by_another_start(runs: Path) -> None:
    kept = evaluate_run(runs / "best", keep_seen=True)
    on = {row["on"] for row in kept.rows}
    assert f"{PBC}: 0 ALL, 60 HEM, by image, subjects not given, 20 of them seen by the pre-training" in on
    assert kept.facts["seen_by_start"].endswith("judged all the same")
    facts = json.loads((runs / "best" / "run.json").read_text())
    (runs / "best" / "run.json").write_text(json.dumps(facts | {"start": "none"}))
    assert values(evaluate_run(runs / "best"), f"{PBC} OTHER (60)").keys() == {"false accept"}
    told = evaluate_run(runs / "best", start_run=runs / "pbc").rows
    assert [row["value"] for row in told if row["on"].startswith(f"{PBC} OTHER (40)")]
    with pytest.raises(InputFault, match="holds no run"):
        evaluate_run(runs / "best", start_run=runs / "nowhere")


def test_a_start_without_a_record_is_said_to_be_unknown(runs: Path) -> None:
    (runs / "pbc" / "split.json").unlink()
    figures = evaluate_run(runs / "best")
    assert figures.facts["start_split"].startswith("not known")
    assert values(figures, f"{PBC} OTHER (60)")


def test_a_cell_that_the_gate_refuses_is_not_answered(runs: Path) -> None:
    figures = values(evaluate_run(runs / "best"), "C-NMC 2019: 30 ALL, 30 HEM")
    assert figures["answered"] == pytest.approx(50 / 60)
    assert figures["sensitivity"] == figures["specificity"] == 1.0
    assert figures["accuracy"] < 1  # of all cells, the refused among them
    rows = evaluate_run(runs / "best").rows
    accepted = {row["on"]: row["value"] for row in rows if row["figure"] in {"accepted", "false accept"}}
    assert accepted["C-NMC 2019 ALL (30)"] == pytest.approx(2 / 3)
    assert accepted[f"{PBC} OTHER, basophil (20)"] == 0
    assert accepted[f"{PBC} OTHER, platelet (20)"] == 1


def test_json_keeps_its_keys(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--run", str(runs / "best"), "--out", str(runs / "out"), "--keep-seen", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told)[:6] == ["what", "classes", "figures", "confusion", "classification_report", "facts"]
    assert {row["unit"] for row in told["persons"]} == {f"C-NMC 2019:{label}{n}" for label in "AH" for n in range(6)}
    assert {"kind": "basophil", "called": "OTHER", "cells": 30} in told["types"]
    assert list(told["figures"][0]) == ["on", "figure", "value", "low", "high"]


def test_a_bundle_is_restated_from_its_run_with_the_same_weights(runs: Path, tmp_path: Path) -> None:
    folder, recipe = tmp_path / "bundle", read_recipe("head", ("gate.acceptance=0.93",))
    folder.mkdir()
    save_file({name: value.astype(np.float16) for name, value in STATE.items()}, folder / "weights.safetensors")
    save_golden(folder, np.zeros((1, 128, 128, 3), np.uint8), np.array([0.001]))
    (folder / "model_card.md").write_text("old")
    pictures = json.loads((runs / "best" / "pictures.json").read_text())
    contract = {
        "name": "few", "version": "1", "network": {"name": "EfficientNetB3", "dense_units": 256, "dropout": 0.45},
        "preprocessing": recipe.data.contract, **_calibrated(pictures, runs / "best" / "fold3", recipe),
        "quality": Quality(), "metrics": [], "training_data": [], "licence": "x", "model_card": "model_card.md",
        "intended_use": "x",
    }  # fmt: skip
    before = write_bundle(folder, contract)
    assert main([
        "export", "--run", str(runs / "best"), "--out", str(folder), "--version", "2", "--fold", "3",
        "--restate", "Figures and card; the same weights.",
    ]) == 0  # fmt: skip
    after = load_bundle(folder)
    assert (after.contract.name, after.contract.version) == ("few", "2")
    for same in ("network", "preprocessing", "calibration", "thresholds", "gate", "quality"):
        assert getattr(after.contract, same) == getattr(before.contract, same)
    assert after.contract.files["weights.safetensors"] == before.contract.files["weights.safetensors"]
    assert after.contract.files["golden.npz"] == before.contract.files["golden.npz"]
    note = {row.name: row.note for row in after.contract.training_data}[PBC]
    assert "OTHER (" in note or "pre-training" in note
    card = (folder / "model_card.md").read_text()
    for said in (
        "the same weights", "not those of an\nuntouched test", "20 of 60 test pictures", "basophil 18 of 30",
        "platelet 18 of 30", "judged by that fold's model",
    ):  # fmt: skip
        assert said in card, said
    save_file({name: value + 1 for name, value in STATE.items()}, runs / "best" / "fold3" / "weights.safetensors")
    with pytest.raises(InputFault, match="does not hold the weights"):
        restate(runs / "best", folder, version="3", fold=3, note="")


class Sure:
    """An engine that says HEM of everything."""

    def __init__(self, bundle: Bundle) -> None:
        del bundle

    def logits(self, cells: Sequence[Any]) -> np.ndarray:
        return np.tile(np.array([[-5.0, 5.0, -5.0]], np.float32), (len(cells), 1))


def test_a_bundle_is_judged_as_serving_does_and_what_it_knows_is_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tensorflow, "TensorFlowEngine", Sure)
    random = np.random.default_rng(1)
    rows, columns = np.ogrid[:120, :120]
    disc = (rows - 60) ** 2 + (columns - 60) ** 2 < 45**2
    for number in range(6):  # the last two are flat: there is nothing to see
        pixels = random.integers(60, 220, (120, 120, 3)) if number < 4 else np.full((120, 120, 3), 130)
        cell = Image.fromarray(np.where(disc[..., np.newaxis], pixels, 0).astype(np.uint8))
        cell.save(tmp_path / f"Im{number:03}_{number % 2}.png")
    figures = evaluate_bundle(SHIPPED_BUNDLE, {"allidb2": tmp_path})
    told = values(figures, "ALL-IDB2: 3 ALL, 3 HEM")
    assert told["answered"] == pytest.approx(4 / 6)
    assert (told["sensitivity"], told["specificity"]) == (0, 1)
    assert figures.facts["refused_by_the_quality_check"] == "ALL-IDB2: 2 of 6"
    assert all(row["on"].endswith("seen in training: not a result") for row in figures.rows)
    assert main(["evaluate", "--bundle", str(SHIPPED_BUNDLE), "--data", f"allidb2:{tmp_path}", "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["facts"]["seen_in_training"] == "ALL-IDB2"
    assert "Not results: the bundle was trained on ALL-IDB2" in said.err
