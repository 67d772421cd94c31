"""Data sets as they are on disk, their pictures, and what is wrong with them."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from allpacs.classify.bundle import load_bundle
from allpacs.classify.preprocess import Preprocessing
from allpacs.domain.errors import ConfigFault, InputFault
from allpacs.settings import SHIPPED_BUNDLE
from allpacs.study.pipeline import ImageFile, Pipeline
from training.__main__ import main
from training.crops import read_crops, read_rgb
from training.datasets import DATA_SETS, NORMAL, Sample, read
from training.datasets.cnmc import facts, verify
from training.export import drawn_cells
from training.splits import group_of

CONTRACT = Preprocessing(input_px=32)
BMP = "training_data/fold_0/all/UID_11_10_1_all.bmp"


@pytest.mark.parametrize(
    ("name", "images", "labels"),
    [
        ("cnmc", None, {"ALL", "HEM"}),
        ("allidb2", 200, {"ALL", NORMAL}),
        ("allidb1", 417, {"ALL", NORMAL}),
        ("pbc", 11352, 8),
        ("bccd", 3961, {"WBC", "RBC", "Platelets"}),
    ],
)
def test_real_data_sets_are_read(
    data_dir: Path, tmp_path: Path, name: str, images: int | None, labels: set[str] | int
) -> None:
    samples = read(name, {"": data_dir})
    images = images or len(stated(data_dir))
    assert len(samples) == images
    found = {s.label for s in samples}
    assert labels in (found, len(found))
    some = samples[:: images // 4][:4]
    crops = read_crops(some, "cell", CONTRACT, tmp_path)
    assert crops.pixels.shape[1:] == (32, 32, 3)
    again = read_crops(some, "cell", CONTRACT, tmp_path)  # from the cache
    assert (again.pixels == crops.pixels).all()
    assert again.samples == crops.samples
    assert read("cnmc" if name == "cnmc" else name, {name: data_dir / name}) == samples


def stated(data_dir: Path) -> dict[str, dict[str, str]]:
    """What ``images.csv`` says of each image, by its path."""
    with (data_dir / "cnmc" / "images.csv").open(newline="") as table:
        return {row["path"]: row for row in csv.DictReader(table)}


def test_persons_and_labels_of_cnmc_are_those_that_its_table_states(data_dir: Path) -> None:
    rows = stated(data_dir)
    samples = read("cnmc", {"": data_dir})
    assert {s.image.relative_to(data_dir / "cnmc").as_posix() for s in samples} == rows.keys()
    persons: dict[str, set[str | None]] = {}
    for sample in samples:
        row = rows[sample.image.relative_to(data_dir / "cnmc").as_posix()]
        assert (sample.label, sample.subject) == (row["label"].upper(), row["subject"].upper())
        persons.setdefault(row["person"], set()).add(group_of(sample))
    groups = [group for found in persons.values() for group in found]
    assert all(len(found) == 1 for found in persons.values()), "a person's cells are in several groups"
    assert len(groups) == len(set(groups)), "a group has cells of several persons"


def test_subjects_of_cnmc(data_dir: Path) -> None:
    samples = read("cnmc", {"": data_dir})
    assert {s.subject for s in samples} >= {"4", "H3", "H12"}
    assert {s.part for s in samples} == {"train", "test"}


def test_facts_of_the_full_set() -> None:
    assert len(facts()) == 15_114
    assert sum(f.subset == "final_test" and f.label is None for f in facts()) == 2_586
    assert len({f.subject for f in facts() if f.subset.startswith("fold") and f.label == "all"}) == 47


def test_missing_extra_and_altered_files_are_listed(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / BMP).parent.mkdir(parents=True)
    shutil.copy(data_dir / "cnmc" / BMP, tmp_path / BMP)
    found = verify(tmp_path)
    assert found.intact == (BMP,)
    assert len(found.missing) == 15_114 - 2_586 - 1
    assert not found.complete
    raw = bytearray((tmp_path / BMP).read_bytes())
    raw[-1] ^= 1
    (tmp_path / BMP).write_bytes(raw)
    (tmp_path / "training_data/extra.bmp").write_bytes(b"x")
    (tmp_path / "training_data/fold_0/all/UID_11_11_1_all.jpg").write_bytes(b"x")
    found = verify(tmp_path)
    assert found.altered == (BMP,)
    assert found.extra == ("training_data/extra.bmp",)
    assert found.recoded == ("training_data/fold_0/all/UID_11_11_1_all.jpg",)
    assert "1 altered, 1 in another format, 1 extra" in found.summary()
    assert main(["reproduce", "paper", "--data", f"cnmc:{tmp_path}", "--out", str(tmp_path / "run")]) == 1
    assert f"1 files of C-NMC are not as they were published, first {BMP}: download" in capsys.readouterr().err


def picture(path: Path, mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size)
    image.paste((120, 60, 140), (5, 5, size[0] - 5, size[1] - 5))
    image.convert(mode).save(path)
    return path


def test_a_folder_of_classes_and_its_subjects(tmp_path: Path) -> None:
    for name in ("L1/p1__a.png", "L1/p2__b.png", "Normal/c.png"):
        picture(tmp_path / name)
    samples = read("folder", {"folder": tmp_path})
    assert [(s.label, s.subject) for s in samples] == [("L1", "p1"), ("L1", "p2"), ("Normal", None)]
    (tmp_path / "L2").mkdir()
    with pytest.raises(InputFault, match=r"class without images: .*L2"):
        read("folder", {"folder": tmp_path})


def test_reviewed_cells(tmp_path: Path) -> None:
    picture(tmp_path / "1" / "crop.png")
    label = {"image": "crop.png", "label": "HEM", "subject": "S-1", "consent": True}
    (tmp_path / "1" / "label.json").write_text(json.dumps(label))
    (sample,) = read("reviewed", {"reviewed": tmp_path})
    assert (sample.label, sample.subject) == ("HEM", "S-1")
    (tmp_path / "1" / "label.json").write_text("{}")
    with pytest.raises(InputFault, match=r"label\.json must be an object with image, label and subject"):
        read("reviewed", {"reviewed": tmp_path})


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK", "1", "I;16"])
@pytest.mark.parametrize("size", [(40, 30), (15, 200)])
def test_images_of_any_size_and_mode(tmp_path: Path, mode: str, size: tuple[int, int]) -> None:
    path = picture(tmp_path / "a.tif", "L" if mode == "I;16" else mode, size)
    if mode == "I;16":
        Image.fromarray(np.full(size[::-1], 3000, np.uint16)).save(path)
    assert read_rgb(path).shape == (size[1], size[0], 3)
    crops = read_crops([Sample(path, "ALL", None, "x", "free")], "field", CONTRACT, tmp_path)
    assert crops.pixels.shape == (1, 32, 32, 3)


def test_an_image_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(InputFault, match=r"image cannot be read: .*a\.png"):
        read_crops([Sample(tmp_path / "a.png", "ALL", None, "x", "free")], "field", CONTRACT, tmp_path)


def test_every_data_set_says_where_it_comes_from_and_is_missed_in_one_line(tmp_path: Path) -> None:
    assert set(DATA_SETS) == {"cnmc", "allidb1", "allidb2", "taleghani", "pbc", "bccd", "folder", "reviewed"}
    for name, one in DATA_SETS.items():
        assert one.origin
        assert one.licence
        with pytest.raises(InputFault, match=r"data set (missing|empty)"):
            read(name, {name: tmp_path / "nowhere"})
    with pytest.raises(ConfigFault, match=r"no data set is named .x.: write one of allidb1"):
        read("x", {"": tmp_path})


def test_command_line_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in (
        (["fit", "paper", "--data", str(tmp_path), "--out", str(tmp_path / "o")], "data set empty"),
        (["fit", "nothing", "--data", str(tmp_path)], "no recipe 'nothing'"),
        (["fit", "paper", "--data", str(tmp_path), "--set", "fit.epochs=none"], "fit.epochs"),
        (["fit", "paper", "--data", str(tmp_path), "--set", "epochs=1"], "write section.key=value"),
        (["evaluate", "--run", str(tmp_path)], "holds no run"),
        (["evaluate"], "either --run FOLDER or --bundle"),
        (["export", "--run", str(tmp_path), "--out", str(tmp_path), "--name", "n", "--version", "1"], "holds no run"),
    ):
        assert main(arguments) == 1
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1


@pytest.mark.parametrize("colour", ["as-found", "normalised"])
def test_training_sees_the_very_pixels_that_serving_sees(data_dir: Path, tmp_path: Path, colour: str) -> None:
    contract = Preprocessing(input_px=96, colour=colour)  # type: ignore[arg-type]
    bundle = load_bundle(SHIPPED_BUNDLE)
    contracted = replace(bundle, contract=bundle.contract.model_copy(update={"preprocessing": contract}))
    for sample in (read("cnmc", {"": data_dir})[0], read("allidb1", {"": data_dir})[-1]):
        trained = read_crops([sample], "cell", contract, tmp_path / colour)
        image = ImageFile(sample.image, "1.2.3", "1.2.4", "1.2.5")
        findings, served = Pipeline(contracted).find(image)
        whole = [crop for cell, crop in zip(findings.cells, served, strict=True) if cell.reason != "cut-off"]
        np.testing.assert_array_equal(trained.pixels, whole)


def test_golden_tensor_of_the_preprocessing() -> None:
    """A change of what the network sees must be meant: old bundles would be fed other pictures."""
    drawn = drawn_cells(Preprocessing(input_px=64))
    assert hashlib.sha256(drawn.tobytes()).hexdigest()[:16] == "6d84cdd7c9952328"
    moved = drawn_cells(Preprocessing(input_px=64, colour="normalised"))
    np.testing.assert_allclose(moved[drawn.max(axis=3) > 0].mean(axis=0), [98.9, 56.0, 119.6], atol=0.2)
