"""The list of runs, and making them one after the other."""

from __future__ import annotations

from pathlib import Path

import pytest

from allpacs.domain.errors import ConfigFault
from training.__main__ import main
from training.recipe import read_recipe
from training.suite import planned, run_all, table


def test_every_run_is_of_a_recipe_and_begins_with_an_earlier_one() -> None:
    done: set[str] = set()
    for one in planned():
        recipe = read_recipe(one.recipe, one.set)
        assert one.name not in done
        assert one.start is None or one.start in done
        assert one.start is None or one.weights is None
        assert recipe.gate is None or one.name != "no-gate"
        done.add(one.name)
    assert len(done) > 15


def test_a_run_begins_with_the_weights_of_the_one_before(tmp_path: Path) -> None:
    by_name = {one.name: one for one in planned()}
    said = by_name["head"].command(["DIR"], tmp_path)
    assert said[said.index("--weights") + 1] == "pbc", "there is no such run: fit says how to make it"
    trained = tmp_path / "pbc" / "fold0" / "weights.safetensors"
    trained.parent.mkdir(parents=True)
    trained.touch()
    said = by_name["head"].command(["DIR"], tmp_path)
    assert said[said.index("--weights") + 1] == str(trained)
    assert "--weights" not in by_name["pbc"].command(["DIR"], tmp_path)
    assert main(["suite", "--data", str(tmp_path), "--out", str(tmp_path), "--only", "best"]) == 1  # no data there


def test_a_run_that_is_not_in_the_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigFault, match="there are pbc, best"):
        run_all(["x"], tmp_path, ["bets"])


SMALL = [
    "data.input_px=32",
    "split.folds=3",
    "fit.epochs=1",
    "fit.per_epoch=16",
    "fit.batch=8",
    "network.dense_units=16",
]
PLAN = f"""
[[run]]
name = "first"
recipe = "cad-all"
about = "a network of its own"
weights = "none"
set = {SMALL}

[[run]]
name = "second"
recipe = "cad-all"
about = "the same again"
weights = "none"
set = {SMALL}

[[run]]
name = "broken"
recipe = "cad-all"
about = "cannot be"
set = ["fit.epochs=none"]

[[run]]
name = "after"
recipe = "cad-all"
about = "begins with what cannot be"
start = "broken"
"""


@pytest.mark.process
def test_runs_follow_one_another_and_one_that_fails_leaves_the_others_alone(
    data_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for kind in ("all", "normal"):
        (tmp_path / "data" / "allidb2" / kind).mkdir(parents=True)
        for path in sorted((data_dir / "allidb2" / kind).glob("*.png"))[:12]:
            (tmp_path / "data" / "allidb2" / kind / path.name).symlink_to(path)
    plan, out = tmp_path / "plan.toml", tmp_path / "runs"
    plan.write_text(PLAN)
    assert run_all([str(tmp_path / "data")], out, plan=plan) == ["broken", "after"]
    assert "left out: broken" in capfd.readouterr().out
    said = table(out, plan)
    assert "| first |" in said
    assert "| second |" in said
    before = (out / "first" / "report.md").stat().st_mtime_ns
    assert run_all([str(tmp_path / "data")], out, ["first"], plan=plan) == []
    assert (out / "first" / "report.md").stat().st_mtime_ns == before
