"""Every recipe for a few steps on real images, from the data to the report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from allpacs.classify.aggregate import OTHER
from allpacs.classify.bundle import load_bundle
from allpacs.domain.errors import ConfigFault, InputFault
from training import networks
from training.__main__ import main
from training.evaluate import evaluate_run
from training.recipe import read_recipe, recipe_names
from training.run import run, shares_of, stored_weights
from training.splits import group_of

pytestmark = pytest.mark.slow

#: A small run of each study: few images, few steps, tiny pictures.
SMALL = ("fit.epochs=1", "fit.per_epoch=16", "fit.batch=8", "network.dense_units=16")
SIDES = {"vgg19": 32, "resnet50": 32, "mobilenetv2": 32, "alexnet": 64}


@pytest.fixture(scope="session")
def few_images(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return real images, a handful of each class, in folders named after the data sets."""
    root = tmp_path_factory.mktemp("data")
    chosen: list[Path] = []
    for kind in ("all", "hem"):
        subjects: dict[str, list[Path]] = {}
        for path in sorted((data_dir / "cnmc").glob(f"training_data/*/{kind}/UID_*")):
            subjects.setdefault(path.stem.split("_")[1], []).append(path)
        chosen += [path for paths in subjects.values() for path in paths[:3]]
    chosen += [p for kind in ("all", "normal") for p in sorted((data_dir / "allidb2" / kind).glob("*.png"))[:15]]
    chosen += [p for kind in sorted((data_dir / "pbc").iterdir()) for p in sorted(kind.glob("*.jpg"))[:20]]
    for kind in ("Benign", "Early", "Pre", "Pro"):
        chosen += sorted((data_dir / "taleghani" / kind).glob("*.jpg"))[:20]
    for path in chosen:
        link = root / path.relative_to(data_dir)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    for number, kind in enumerate(("L1", "L2", "L3", "Normal")):
        (root / "folder" / kind).mkdir(parents=True)
        for path in sorted((data_dir / "allidb2" / "all").glob("*.png"))[number * 20 : number * 20 + 20]:
            (root / "folder" / kind / path.name).symlink_to(path)
    return root


def reproduce(name: str, few_images: Path, out: Path, start: str, *changes: str) -> list[str]:
    """Run a recipe from the data to its report; return the command."""
    command = ["reproduce", name, "--data", str(few_images), "--out", str(out), "--weights", start, "--fold", "0"]
    for change in (*SMALL, *changes):
        command += ["--set", change]
    assert main(command) == 0
    for file in ("run.json", "split.json", "report.md", "figures.json", "confusion.png", "fold0/weights.safetensors"):
        assert (out / file).stat().st_size > 0
    facts = json.loads((out / "run.json").read_text())
    assert facts["split_digest"].startswith("sha256:")
    assert facts["libraries"]["keras"]
    report = (out / "report.md").read_text()
    assert "Research use only" in report
    figures = json.loads((out / "figures.json").read_text())
    assert figures["figures"]
    assert len(figures["confusion"]) == len(read_recipe(name).data.classes)
    if "cnmc" in read_recipe(name).data.sets:
        assert "missing" in report
        assert (out / "missing.txt").read_text().count("\n") > 12_000
    return command


# The other three: below.
@pytest.mark.parametrize("name", [name for name in recipe_names() if name not in {"best", "pbc", "cad-all"}])
def test_recipe_runs_to_its_report(name: str, few_images: Path, tmp_path: Path) -> None:
    side = SIDES.get(read_recipe(name).network.name, 32)
    reproduce(name, few_images, tmp_path, "none", f"data.input_px={side}")


def test_a_finished_run_is_not_run_again(few_images: Path, tmp_path: Path) -> None:
    command = reproduce("cad-all", few_images, tmp_path, "none", "data.input_px=32", "split.folds=3")
    before = (tmp_path / "fold0" / "weights.safetensors").stat().st_mtime_ns
    assert main(command) == 0  # nothing is done twice
    assert (tmp_path / "fold0" / "weights.safetensors").stat().st_mtime_ns == before
    assert main([*command, "--set", "fit.seed=3"]) == 1  # another recipe in the same folder


def test_from_pre_training_to_a_bundle_with_a_gate(
    few_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`pbc`, then `best` on its filters, then the bundle, which is judged as serving would."""
    reproduce("pbc", few_images, tmp_path / "pbc", "lite2", "data.input_px=64", "fit.learning_rate=1e-5")
    start = tmp_path / "pbc" / "fold0" / "weights.safetensors"
    few = ("data.input_px=64", "split.folds=3", "network.views=2", "fit.per_epoch=256", "fit.batch=64")
    reproduce("best", few_images, tmp_path / "best", str(start), *few, "fit.epochs=4", "fit.learning_rate=5e-3")
    before, after = stored_weights(start), stored_weights(tmp_path / "best" / "fold0" / "weights.safetensors")
    np.testing.assert_array_equal(before["top_conv/kernel"], after["top_conv/kernel"])
    assert after["head_logits/kernel"].shape == (16, 3)

    figures = evaluate_run(tmp_path / "best")
    named = {row["figure"] for row in figures.rows}
    assert {"auroc", "sensitivity", "specificity", "answered", "auroc by subject", "ECE after calibration"} <= named
    assert {"accepted", "false accept"} <= named
    out = tmp_path / "bundle"
    command = ["export", "--run", str(tmp_path / "best"), "--out", str(out), "--name", "n", "--version", "1"]
    assert main(command) == 0
    bundle = load_bundle(out)
    assert bundle.outputs == ("ALL", "HEM", OTHER)
    assert 0 < bundle.other_at_most < 1
    assert {d.name for d in bundle.contract.training_data} >= {"C-NMC 2019", "ALL-IDB2", "PBC Barcelona", "drawn"}
    card = (out / "model_card.md").read_text()
    for fact in ("Research use only", "Apache-2.0", figures.facts["split_digest"], "hematogone"):
        assert fact in card
    capsys.readouterr()
    assert main(["evaluate", "--bundle", str(out), "--data", f"pbc:{few_images / 'pbc'}", "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {row["figure"] for row in told["figures"]} >= {"specificity", "accepted", "false accept"}


def test_classes_and_sources_are_drawn_evenly_whatever_their_numbers(few_images: Path, tmp_path: Path) -> None:
    from training.run import prepare

    recipe = read_recipe("best", ("data.input_px=32", "split.folds=3"))
    cells = prepare(recipe, {"": few_images}, tmp_path).cells
    shares = shares_of(cells, "subject")
    assert shares is not None
    label, source = (np.array([getattr(s, name) for s in cells.samples]) for name in ("label", "source"))
    assert shares.sum() == pytest.approx(1)
    assert shares[label == "ALL"].sum() == pytest.approx(1 / 3)
    assert shares[(label == "HEM") & (source == "PBC Barcelona")].sum() == pytest.approx(1 / 9)
    unit = np.array([group_of(s) or "" for s in cells.samples])
    one, three = shares[unit == "C-NMC 2019:H10+H3"].sum(), (unit == "C-NMC 2019:H10+H3").sum()
    other, number = shares[unit == "C-NMC 2019:H12"].sum(), (unit == "C-NMC 2019:H12").sum()
    assert one / other == pytest.approx(np.sqrt(three / number))


def test_weights_that_cannot_be_had_name_the_others(few_images: Path, tmp_path: Path) -> None:
    recipe = read_recipe("cad-all", (*SMALL, "data.input_px=32", "split.folds=3"))
    for start, said, fault in (
        ("lite2", "lite2 starts EfficientNetB3 only", ConfigFault),
        ("imagenet", "has no ImageNet weights", ConfigFault),
        ("nowhere.safetensors", "weights are missing: .*start from lite2, none or imagenet", InputFault),
    ):
        with pytest.raises(fault, match=said):
            run(recipe, {"": few_images}, tmp_path / start, weights=start)


def test_a_download_that_fails_names_the_alternatives(monkeypatch: pytest.MonkeyPatch) -> None:
    import keras

    def away(**_: object) -> None:
        raise OSError("URL fetch failure")

    monkeypatch.setattr(keras.applications, "MobileNetV2", away)
    with pytest.raises(ConfigFault, match=r"mobilenetv2 cannot be had .URL fetch failure.*--weights FILE"):
        networks.build("mobilenetv2", 2, 32, dense_units=8, dropout=0.1, imagenet=True)


def test_a_class_without_images_is_one_error(few_images: Path, tmp_path: Path) -> None:
    recipe = read_recipe("cad-all", ('data.classes=["ALL", "HEM", "XYZ"]', "data.input_px=32"))
    with pytest.raises(InputFault, match="class without images: XYZ"):
        run(recipe, {"": few_images}, tmp_path)
