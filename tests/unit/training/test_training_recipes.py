"""Every recipe for a few steps on real images, from the data to the report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from allpacs.classify.bundle import load_bundle
from allpacs.classify.choose import start_engine
from allpacs.domain.errors import ConfigFault, InputFault
from training import networks, weights
from training.__main__ import main
from training.recipe import read_recipe, recipe_names
from training.run import run, shares_of, stored_weights
from training.splits import group_of

pytestmark = pytest.mark.process

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
        chosen += [path for paths in subjects.values() for path in paths[:2]]
    chosen += [p for kind in ("all", "normal") for p in sorted((data_dir / "allidb2" / kind).glob("*.png"))[:15]]
    chosen += [p for kind in sorted((data_dir / "pbc").iterdir()) for p in sorted(kind.glob("*.jpg"))[:20]]
    for kind in ("Benign", "Early", "Pre", "Pro"):
        chosen += sorted((data_dir / "taleghani" / kind).glob("*.jpg"))[:20]
    for kind in ("0", "1"):
        fields = sorted((data_dir / "allidb1").glob(f"Im*_{kind}.jpg"))[:6]
        chosen += fields + [path.with_suffix(".csv") for path in fields if path.with_suffix(".csv").is_file()]
    tables = sorted((data_dir / "bccd" / "annotations").glob("*.xml"))[:9]
    chosen += tables + [data_dir / "bccd" / "images" / f"{path.stem}.jpg" for path in tables]
    for path in chosen:
        link = root / path.relative_to(data_dir)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    for number, kind in enumerate(("L1", "L2", "L3", "Normal")):
        (root / "folder" / kind).mkdir(parents=True)
        for path in sorted((data_dir / "allidb2" / "all").glob("*.png"))[number * 20 : number * 20 + 20]:
            (root / "folder" / kind / path.name).symlink_to(path)
    return root


@contextmanager
def operation_by_operation(wanted: bool) -> Iterator[None]:
    """Let TensorFlow put no graph together: for two steps that takes three times as long as to run them."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(wanted)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


def reproduce(name: str, few_images: Path, out: Path, start: str, *changes: str) -> list[str]:
    """Run a recipe from the data to its report; return the command.

    A recipe without validation cells is judged with limits of its other folds, so it needs two; its last fold trains
    on everybody.
    """
    command = ["reproduce", name, "--data", str(few_images), "--out", str(out), "--weights", start]
    for fold in ("0", "1", "3") if read_recipe(name).split.kind == "persons" else ("0",):
        command += ["--fold", fold]
    for change in (*SMALL, *changes):
        command += ["--set", change]
    with operation_by_operation(name != "tusar-cnn"):  # the one that is put together soonest is run as it always is
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


# `cad-all` and `best`: below.
@pytest.mark.parametrize("name", [name for name in recipe_names() if name not in {"cad-all", "best"}])
def test_recipe_runs_to_its_report(name: str, few_images: Path, tmp_path: Path) -> None:
    side = SIDES.get(read_recipe(name).network.name, 32)
    fewer = ("split.folds=3", "network.views=2") if name == "head" else ()
    reproduce(name, few_images, tmp_path, "none", f"data.input_px={side}", *fewer)
    if name == "head":  # the head is new, all else is the start
        start = stored_weights(tmp_path / "start.safetensors")
        weights = stored_weights(tmp_path / "fold0" / "weights.safetensors")
        assert {key for key in weights if not key.startswith("head_")} == start.keys()
        np.testing.assert_array_equal(weights["top_conv/kernel"], start["top_conv/kernel"])
        assert weights["head_logits/kernel"].shape == (16, 3)
        figures = json.loads((tmp_path / "figures.json").read_text())["figures"]
        assert {"auroc by subject", "accepted", "false accept"} <= {row["figure"] for row in figures}


def test_a_run_becomes_a_bundle_that_serves_and_is_judged(
    few_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_folder, bundle_folder = tmp_path / "run", tmp_path / "bundle"
    monkeypatch.setattr(weights, "_FOR_STATISTICS", 64)
    reproduce("best", few_images, run_folder, "lite2", "data.input_px=32", "split.folds=3", "fit.per_epoch=256")
    found = json.loads((run_folder / "figures.json").read_text())
    rows = {row["figure"] for row in found["figures"]}
    assert {"auroc of the cell's area", "auroc of area and mean colour", "auroc by subject", "false accept"} <= rows
    assert {row["label"] for row in found["persons"]} == {"ALL", "HEM"}
    assert {row["kind"] for row in found["types"]} >= {"neutrophil", "platelet", "ALL"}
    named = ["--name", "few", "--version", "0.0.1", "--fold", "3"]
    assert main(["export", "--run", str(run_folder), "--out", str(bundle_folder), *named]) == 0
    card = (bundle_folder / "model_card.md").read_text()
    assert "research" in card.lower()
    assert "C-NMC" in card
    bundle = load_bundle(bundle_folder)
    assert bundle.outputs[:3] == ("ALL", "HEM", "neutrophil")
    assert len(bundle.outputs) == 10
    assert bundle.preprocessing.needs_scale
    assert bundle.network.size_path
    assert bundle.network.pooling == "levels"
    assert bundle.golden_scores() is not None
    assert "Of 100 lymphoblasts" in card
    assert start_engine(bundle, "tensorflow").name == "tensorflow"  # the golden cells come out as they were exported
    capsys.readouterr()
    judged = ["evaluate", "--bundle", str(bundle_folder), "--data", f"allidb2:{few_images / 'allidb2'}", "--json"]
    assert main(judged) == 0
    figures = json.loads(capsys.readouterr().out)
    assert {row["figure"] for row in figures["figures"]} >= {"auroc", "answered", "weighted F1"}
    assert figures["facts"]["bundle"] == bundle.digest


def test_a_finished_run_is_not_run_again(few_images: Path, tmp_path: Path) -> None:
    command = reproduce("cad-all", few_images, tmp_path, "none", "data.input_px=32", "split.folds=3")
    before = (tmp_path / "fold0" / "weights.safetensors").stat().st_mtime_ns
    assert main(command) == 0  # nothing is done twice
    assert (tmp_path / "fold0" / "weights.safetensors").stat().st_mtime_ns == before
    assert main([*command, "--set", "fit.seed=3"]) == 1  # another recipe in the same folder


def test_classes_and_sources_are_drawn_evenly_whatever_their_numbers(few_images: Path, tmp_path: Path) -> None:
    from training.run import prepare

    recipe = read_recipe("head", ("data.input_px=32", "split.folds=3"))
    cells = prepare(recipe, {"": few_images}, tmp_path).cells
    options = recipe.fit
    shares = shares_of(cells, options)
    assert shares is not None
    label, source = (np.array([getattr(s, name) for s in cells.samples]) for name in ("label", "source"))
    assert shares.sum() == pytest.approx(1)
    assert shares[label == "ALL"].sum() == pytest.approx(1 / 3)
    hem = label == "HEM"
    roots = {name: np.sqrt((hem & (source == name)).sum()) for name in set(source[hem])}
    expected = roots["PBC Barcelona"] / sum(roots.values()) / 3
    assert shares[hem & (source == "PBC Barcelona")].sum() == pytest.approx(expected)
    weighed = shares_of(cells, options.model_copy(update={"weights": {"ALL": 4.0}}))
    assert weighed is not None
    assert weighed[label == "ALL"].sum() == pytest.approx(4 / 6)
    more = shares_of(cells, options.model_copy(update={"source_weights": {"PBC Barcelona": 3.0}}))
    assert more is not None
    expected = 3 * roots["PBC Barcelona"] / (sum(roots.values()) + 2 * roots["PBC Barcelona"]) / 3
    assert more[hem & (source == "PBC Barcelona")].sum() == pytest.approx(expected)
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


def test_pbc_without_a_run_of_it_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(weights, "PBC_WEIGHTS", tmp_path / "none")
    recipe = read_recipe("best", ("data.input_px=32",))
    model = networks.build("efficientnetb3", 3, 32, dense_units=256, dropout=0.45, seed=1)
    with pytest.raises(InputFault, match="python -m training fit pbc"):
        weights.begin(model, recipe, "pbc", np.zeros((1, 32, 32, 3), np.uint8))


def test_a_network_from_nothing_is_judged_by_the_pictures_it_has_seen() -> None:
    """MobileNetV2's own averages would have come 3 % of the way after these steps."""
    import keras

    model = networks.build("mobilenetv2", 2, 32, dense_units=8, dropout=0.1)
    pictures = np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3)).astype(np.float32)
    first = next(layer for layer in model.get_layer(index=2).layers if "bn" in layer.name.casefold())
    seen = keras.Model(model.get_layer(index=2).inputs, first.input)([pictures / 127.5 - 1])
    for _ in range(30):
        model(pictures, training=True)
    np.testing.assert_allclose(first.moving_variance, np.var(seen, (0, 1, 2)), rtol=0.1, atol=0.05)


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
