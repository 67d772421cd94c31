"""Drawing shares, folds' calibration and the drawn golden cells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from allpacs.classify.aggregate import Thresholds
from allpacs.classify.preprocess import Preprocessing
from training.__main__ import main
from training.card import model_card
from training.datasets import PBC_TYPES, Crops, Sample, allidb2, cnmc, find_cell, pbc, read_crops
from training.export import calibrate, drawn_cells
from training.first_bundle import SOURCE_SHARES, FoldResult, draw_shares, pbc_held_out


def cells_of(counts: dict[tuple[str, str, str | None], int]) -> Crops:
    samples = tuple(
        Sample(Path(f"{source}{label}{subject}{i}.png"), label, subject, source, "free")
        for (source, label, subject), number in counts.items()
        for i in range(number)
    )
    return Crops(np.zeros((len(samples), 8, 8, 3), np.uint8), samples)


def test_classes_and_sources_are_drawn_evenly_whatever_their_numbers() -> None:
    cells = cells_of(
        {
            ("C-NMC 2019", "ALL", "4"): 100,
            ("C-NMC 2019", "ALL", "5"): 1,
            ("C-NMC 2019", "HEM", "H12"): 9,
            ("ALL-IDB2", "ALL", None): 7,
            ("ALL-IDB2", "HEM", None): 5,
            ("PBC Barcelona", "HEM", None): 50,
        }
    )
    shares = draw_shares(cells)
    label = np.array([s.label for s in cells.samples])
    source = np.array([s.source for s in cells.samples])
    subject = np.array([s.subject or "" for s in cells.samples])
    assert shares.sum() == pytest.approx(1)
    assert shares[label == "ALL"].sum() == pytest.approx(0.5)
    assert shares[(label == "HEM") & (source == "PBC Barcelona")].sum() == pytest.approx(
        0.5 * SOURCE_SHARES["PBC Barcelona"]
    )
    assert shares[subject == "4"].sum() == pytest.approx(10 * shares[subject == "5"].sum())  # root of 100 to 1


def test_a_fold_is_calibrated_on_the_others_only() -> None:
    cells = cells_of({("ALL-IDB2", "ALL", None): 20, ("ALL-IDB2", "HEM", None): 20})
    truth = np.arange(40) < 20
    logits = np.stack([np.where(truth, 3.0, -3.0), np.zeros(40)], axis=1).astype(np.float32)
    even, odd = np.arange(0, 40, 2), np.arange(1, 40, 2)
    results = [FoldResult(0, even, logits[even]), FoldResult(1, odd, -logits[odd])]
    assert calibrate(cells, results, 1)[0] < 1  # the other fold is always right: sharpen
    assert calibrate(cells, results, 0)[0] > 10  # the other fold is always wrong: flatten


def test_drawn_cells_are_unlike_one_another() -> None:
    drawn = drawn_cells(Preprocessing(input_px=64))
    assert drawn.shape == (8, 64, 64, 3)
    assert drawn.dtype == np.uint8
    assert len({cell.tobytes() for cell in drawn}) == 8
    assert (drawn[:, 0, 0] == 0).all()


def test_card_states_what_matters() -> None:
    written = {
        "name": "n",
        "version": "1",
        "intended_use": "Research use only.",
        "licence": "free",
        "network": {"dense_units": 8, "dropout": 0.45},
        "preprocessing": Preprocessing(),
        "calibration": {"temperature": 1.5},
        "thresholds": Thresholds(all_at_least=0.6, hem_at_most=0.4),
        "metrics": [{"name": "auroc", "value": 0.5, "on": "somewhere", "low": None, "high": None}],
        "training_data": [
            {"name": "d", "source": "s", "licence": "CC BY 3.0", "images": 1200, "subjects": None, "note": "x"}
        ],
    }
    held_out = [Sample(Path("a.bmp"), "HEM", "H10", "C-NMC 2019", "CC BY 3.0")]
    card = model_card(written, held_out, {"split_digest": "sha256:0", "seed": 1}, folds=4)
    for fact in ("Research use only.", "| somewhere | auroc | 0.500 | – |", "1,200", "H10+H3", "0.600", "Apache-2.0"):
        assert fact in card


def test_real_data_sets_are_read(data_dir: Path, tmp_path: Path) -> None:
    contract = Preprocessing(input_px=32)
    for samples, total in ((cnmc(data_dir), 381), (allidb2(data_dir), 200), (pbc(data_dir), 11352)):
        assert len(samples) == total
        some = samples[:: total // 5]
        crops = read_crops(some, contract, tmp_path)
        assert crops.pixels.shape[1:] == (32, 32, 3)
        assert len(crops.samples) >= 4
        again = read_crops(some, contract, tmp_path)  # from the cache
        assert (again.pixels == crops.pixels).all()
        assert again.samples == crops.samples
    assert {s.label for s in cnmc(data_dir)} == {"ALL", "HEM"}
    assert {s.subject for s in cnmc(data_dir)} >= {"4", "H3", "H12"}
    held_out = pbc_held_out(pbc(data_dir))
    assert [sum(s.label == kind for s in held_out) for kind in PBC_TYPES] == [60] * 8


def test_a_black_picture_holds_no_cell() -> None:
    assert find_cell(np.zeros((64, 64, 3), np.uint8)) is None


def test_missing_data_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["first-bundle", "--data", str(tmp_path), "--out", str(tmp_path / "o"), "--work", str(tmp_path / "w")])
    assert code == 1
    assert "data set missing" in capsys.readouterr().err
