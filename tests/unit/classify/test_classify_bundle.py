"""A bundle is loaded whole or refused, and the refusal names what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from allpacs.classify.aggregate import Thresholds
from allpacs.classify.bundle import Bundle, load_bundle, write_bundle
from allpacs.classify.golden import save_golden, verify_engine
from allpacs.classify.preprocess import Preprocessing
from allpacs.classify.quality import Quality
from allpacs.domain.errors import ModelFault

GOLDEN = np.array([0.9, 0.2, 0.5])

CONTRACT: dict[str, Any] = {
    "name": "first",
    "version": "0.1.0",
    "network": {"name": "EfficientNetB3", "dense_units": 256, "dropout": 0.45},
    "preprocessing": Preprocessing(input_px=32),
    "calibration": {"temperature": 1.5},
    "thresholds": Thresholds(all_at_least=0.6, hem_at_most=0.4),
    "quality": Quality(),
    "metrics": [{"name": "auroc", "value": 0.9, "low": 0.8, "high": 0.95, "on": "held-out subjects"}],
    "training_data": [
        {"name": "C-NMC", "source": "doi", "licence": "CC BY 3.0", "images": 381, "subjects": 26},
        {"name": "PBC", "source": "doi", "licence": "CC BY 4.0", "images": 11352, "subjects": None},
    ],
    "licence": "Apache-2.0",
    "model_card": "MODEL_CARD.md",
    "intended_use": "Research use only.",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with everything but ``bundle.json``; no engine opens these weights."""
    (tmp_path / "weights.safetensors").write_bytes(b"weights")
    (tmp_path / "MODEL_CARD.md").write_text("# A card", encoding="utf-8")
    save_golden(tmp_path, np.zeros((3, 32, 32, 3), np.uint8), GOLDEN)
    return tmp_path


@pytest.fixture
def bundle(folder: Path) -> Bundle:
    return write_bundle(folder, CONTRACT)


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "bundle.json"
    contract = json.loads(path.read_text(encoding="utf-8"))
    change(contract)
    path.write_text(json.dumps(contract), encoding="utf-8")


def test_what_is_written_is_loaded(folder: Path, bundle: Bundle) -> None:
    loaded = load_bundle(folder)

    assert loaded == bundle
    assert loaded.input_px == 32
    assert loaded.preprocessing == Preprocessing(input_px=32)
    assert loaded.thresholds == Thresholds(all_at_least=0.6, hem_at_most=0.4)
    assert loaded.quality == Quality()
    assert loaded.temperature == 1.5
    assert loaded.contract.labels == ("ALL", "HEM")
    assert set(loaded.contract.files) == {"weights.safetensors", "golden.npz", "MODEL_CARD.md"}
    assert loaded.contract.training_data[1].subjects is None
    assert (loaded.identity.name, loaded.identity.version, loaded.identity.family) == (
        "first",
        "0.1.0",
        "EfficientNetB3",
    )
    assert loaded.identity.digest == loaded.digest
    assert loaded.digest.startswith("sha256:")
    assert len(loaded.digest) == 71


def test_digest_ignores_key_order_and_white_space_only(folder: Path, bundle: Bundle) -> None:
    path = folder / "bundle.json"
    contract = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(dict(reversed(contract.items()))), encoding="utf-8")
    assert load_bundle(folder).digest == bundle.digest

    rewrite(folder, lambda c: c["thresholds"].update(all_at_least=0.61))
    assert load_bundle(folder).digest != bundle.digest
    assert load_bundle(folder).identity.device_uid != bundle.identity.device_uid


def test_other_weights_make_another_digest(folder: Path, bundle: Bundle) -> None:
    (folder / "weights.safetensors").write_bytes(b"Weights")
    assert write_bundle(folder, CONTRACT).digest != bundle.digest


@pytest.mark.parametrize("name", ["weights.safetensors", "golden.npz", "MODEL_CARD.md"])
def test_a_changed_file_is_refused(folder: Path, bundle: Bundle, name: str) -> None:
    with (folder / name).open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(ModelFault, match=f"{name} has SHA-256 .* export it again"):
        load_bundle(folder)


def test_a_missing_file_is_refused(folder: Path, bundle: Bundle) -> None:
    (folder / "golden.npz").unlink()
    with pytest.raises(ModelFault, match=r"golden\.npz of the bundle cannot be read"):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda c: c.update(labels=["HEM", "ALL"]), "labels: .*in this order"),
        (lambda c: c.update(labels=["ALL", "HEM", "OTHER"]), "labels"),
        (lambda c: c.update(format=2), "format"),
        (lambda c: c.update(colour="red"), "colour: Extra inputs"),
        (lambda c: c.pop("licence"), "licence: Field required"),
        (lambda c: c["calibration"].update(temperature=0), "calibration.temperature"),
        (lambda c: c["calibration"].update(temperature="1.5"), "calibration.temperature"),
        (lambda c: c["calibration"].update(temperature=float("nan")), "calibration.temperature"),
        (lambda c: c["thresholds"].update(hem_at_most=0.7), "thresholds: .*hem_at_most <= all_at_least"),
        (lambda c: c["thresholds"].update(hem_at_most=float("nan")), "thresholds"),
        (lambda c: c["thresholds"].update(middle=0.5), "thresholds.middle"),
        (lambda c: c["network"].update(dense_units=0), "network.dense_units"),
        (lambda c: c["quality"].update(min_side_px=0), "quality"),
        (lambda c: c["quality"].update(min_contrast=float("nan")), "quality"),
        (lambda c: c["preprocessing"].update(stretch=True), "preprocessing"),
        (lambda c: c.update(preprocessing=[]), "preprocessing"),
        (lambda c: c["files"].update({"../secret": "0" * 64}), "files: .*plain name"),
        (lambda c: c["files"].update({"weights.safetensors": "0"}), "files.weights.safetensors"),
        (lambda c: c["files"].pop("weights.safetensors"), "does not list weights.safetensors"),
        (lambda c: c.update(model_card="CARD.md"), "does not list CARD.md"),
    ],
)
def test_a_wrong_contract_is_refused_by_key(
    folder: Path, bundle: Bundle, change: Callable[[dict[str, Any]], None], named: str
) -> None:
    rewrite(folder, change)
    with pytest.raises(ModelFault, match=named):
        load_bundle(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"format": 1}'])
def test_a_bundle_json_that_is_none_is_refused(folder: Path, content: bytes) -> None:
    (folder / "bundle.json").write_bytes(content)
    with pytest.raises(ModelFault, match=r"bundle\.json"):
        load_bundle(folder)


def test_a_folder_without_a_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFault, match="name a folder with a bundle"):
        load_bundle(tmp_path / "none")


def test_a_refused_contract_is_not_written(folder: Path) -> None:
    with pytest.raises(ModelFault, match="thresholds"):
        write_bundle(folder, CONTRACT | {"thresholds": {"all_at_least": 0.1, "hem_at_most": 0.4}})
    assert not (folder / "bundle.json").exists()


def test_a_golden_cell_near_a_threshold_is_not_exported(folder: Path) -> None:
    save_golden(folder, np.zeros((2, 32, 32, 3), np.uint8), np.array([0.9, 0.4008]))
    with pytest.raises(ModelFault, match=r"golden cell 1 lies 0\.0008 from a threshold"):
        write_bundle(folder, CONTRACT)


@pytest.mark.parametrize(
    ("inputs", "probabilities"),
    [
        (np.zeros((3, 16, 16, 3), np.uint8), GOLDEN),
        (np.zeros((3, 32, 32, 3), np.float32), GOLDEN),
        (np.zeros((0, 32, 32, 3), np.uint8), GOLDEN[:0]),
        (np.zeros((2, 32, 32, 3), np.uint8), GOLDEN),
        (np.zeros((3, 32, 32, 3), np.uint8), np.array([0.9, np.nan, 0.5])),
    ],
)
def test_golden_cells_of_another_shape_are_refused(
    folder: Path, inputs: NDArray[Any], probabilities: NDArray[np.float64]
) -> None:
    save_golden(folder, inputs, probabilities)
    with pytest.raises(ModelFault, match=r"golden\.npz"):
        write_bundle(folder, CONTRACT)


class Repeating:
    """An engine that answers given probabilities."""

    name = "repeating"

    def __init__(self, probabilities: NDArray[np.float64], temperature: float) -> None:
        with np.errstate(invalid="ignore"):
            margin = temperature * np.log(probabilities / (1 - probabilities))
        self._logits = np.stack([margin / 2, -margin / 2], axis=1).astype(np.float32)

    def logits(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._logits[: len(batch)]


def test_an_engine_that_repeats_the_golden_cells_is_taken(bundle: Bundle) -> None:
    worst = verify_engine(bundle, Repeating(GOLDEN + np.array([0.0008, 0, -0.0005]), bundle.temperature))
    assert worst == pytest.approx(0.0008, abs=1e-5)


@pytest.mark.parametrize("off", [0.0015, -0.05, np.nan])
def test_an_engine_that_differs_is_refused_with_the_figures(bundle: Bundle, off: float) -> None:
    with pytest.raises(ModelFault, match=r"engine repeating .* first 0\.1\.0.* of 3 labels changed"):
        verify_engine(bundle, Repeating(GOLDEN + np.array([0, off, 0]), bundle.temperature))


def test_an_engine_that_changes_a_label_is_refused(bundle: Bundle) -> None:
    # Not what write_bundle would let through: a threshold within the tolerance of a golden cell.
    thresholds = Thresholds(all_at_least=0.8995, hem_at_most=0.4)
    edged = replace(bundle, contract=bundle.contract.model_copy(update={"thresholds": thresholds}))
    with pytest.raises(ModelFault, match="1 of 3 labels changed"):
        verify_engine(edged, Repeating(GOLDEN - np.array([0.0008, 0, 0]), bundle.temperature))


def test_an_engine_of_another_shape_is_refused(bundle: Bundle) -> None:
    with pytest.raises(ModelFault, match=r"answered \(2, 2\) for 3 golden cells"):
        verify_engine(bundle, Repeating(GOLDEN[:2], bundle.temperature))


def test_no_model_library_is_loaded() -> None:
    names = "allpacs.classify.bundle, allpacs.classify.batcher, allpacs.classify.aggregate, allpacs.classify.quality"
    code = f"import sys, {names}; sys.exit(bool({{'tensorflow', 'keras', 'scipy.stats'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
