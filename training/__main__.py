"""``python -m training``: verify data, train a recipe, evaluate, export a bundle, or all of it in one."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from allpacs.domain.errors import AllpacsError, ConfigFault, InputFault

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it succeeded, 1 with one line of what to do where it did not."""
    options = _parser().parse_args(arguments)
    try:
        _COMMANDS[options.command](options)
    except (AllpacsError, OSError) as fault:
        print(f"training: {fault}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    commands = parser.add_subparsers(required=True, dest="command")
    data = argparse.ArgumentParser(add_help=False)
    data.add_argument(
        "--data", action="append", required=True, metavar="[NAME:]DIR",
        help="folder of a data set, or the one that holds them all; may be repeated",
    )  # fmt: skip
    verify = commands.add_parser("verify", parents=[data], help="compare C-NMC on disk with the published files")
    verify.add_argument("--json", action="store_true", help="print lists of files as JSON")
    commands.add_parser("recipes", help="list the recipes")
    for name, said in (
        ("fit", "train a recipe; goes on where an earlier run stopped"),
        ("reproduce", "verify the data, train, evaluate and write the report, in one"),
    ):
        one = commands.add_parser(name, parents=[data], help=said)
        one.add_argument("recipe", help="a recipe's name, or a file that ends in .toml")
        one.add_argument("--out", type=Path, help="run folder (default: runs/RECIPE)")
        one.add_argument("--weights", help="start instead of the recipe's: imagenet, lite2, pbc, none, or a file")
        one.add_argument("--fold", type=int, action="append", help="train this fold only; may be repeated")
        one.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="change the recipe")
        one.add_argument("--deterministic", action="store_true", help="slower; equal runs give equal weights")
    suite = commands.add_parser("suite", parents=[data], help="make all runs of suite.toml, one after the other")
    suite.add_argument("--out", type=Path, default=Path("runs"), help="folder of the runs' folders (default: runs)")
    suite.add_argument("--only", action="append", default=[], metavar="RUN", help="this run; may be repeated")
    evaluate = commands.add_parser("evaluate", help="figures and plots of a run, or of a bundle on data")
    evaluate.add_argument("--run", type=Path, help="a run folder: its held-out pictures")
    evaluate.add_argument("--bundle", type=Path, help="a bundle folder; needs --data")
    evaluate.add_argument(
        "--data", action="append", default=[], metavar="NAME:DIR", help="data set to judge; may be repeated"
    )
    evaluate.add_argument("--out", type=Path, help="folder for plots and report")
    evaluate.add_argument(
        "--start-run", type=Path, metavar="RUN", help="of --run: leave out what this run trained on, not its own start"
    )
    evaluate.add_argument("--keep-seen", action="store_true", help="of --run: judge what the start has seen, too")
    evaluate.add_argument("--json", action="store_true", help="print the figures as JSON")
    export = commands.add_parser("export", help="write the bundle of a run")
    export.add_argument("--run", type=Path, required=True, help="a finished run of a recipe with classes ALL and HEM")
    export.add_argument("--out", type=Path, required=True, help="folder the bundle is written to")
    export.add_argument("--name", help="name of the bundle; not with --restate")
    export.add_argument("--version", required=True, help="version of the bundle")
    export.add_argument("--fold", type=int, default=0, help="the fold whose weights ship (default 0)")
    export.add_argument(
        "--restate", metavar="NOTE", help="of a bundle that lies in --out: figures and card alone, the same weights"
    )
    return parser


def _verify(options: argparse.Namespace) -> None:
    from training.datasets import folder_of
    from training.datasets.cnmc import verify

    found = verify(folder_of("cnmc", _folders(options.data)))
    if options.json:
        print(json.dumps({name: getattr(found, name) for name in ("missing", "altered", "recoded", "extra")}))
        return
    print(found.summary())
    for name in ("missing", "altered", "recoded", "extra"):
        for path in getattr(found, name):
            print(f"{name}: {path}")


def _recipes(_: argparse.Namespace) -> None:
    from training.recipe import read_recipe, recipe_names

    for name in recipe_names():
        print(f"{name:20} {read_recipe(name).study}")


def _fit(options: argparse.Namespace) -> None:
    from training.recipe import read_recipe
    from training.run import run

    recipe = read_recipe(options.recipe, tuple(options.set))
    run(
        recipe, _folders(options.data), options.out or Path("runs") / recipe.name,
        weights=options.weights, folds=options.fold, deterministic=options.deterministic,
    )  # fmt: skip


def _reproduce(options: argparse.Namespace) -> None:
    from training.datasets import folder_of
    from training.datasets.cnmc import verify
    from training.evaluate import evaluate_run, write_report
    from training.recipe import read_recipe

    recipe = read_recipe(options.recipe, tuple(options.set))
    out = options.out or Path("runs") / recipe.name
    notes = []
    if "cnmc" in recipe.data.sets:
        found = verify(folder_of("cnmc", _folders(options.data)))
        out.mkdir(parents=True, exist_ok=True)
        (out / "missing.txt").write_text("".join(f"{path}\n" for path in found.missing))
        if found.altered:
            raise InputFault(
                f"{len(found.altered)} files of C-NMC are not as they were published, first {found.altered[0]}: "
                "download them again (verify lists all), or train without comparing (python -m training fit)"
            )
        notes.append(f"C-NMC: {found.summary()}." + ("" if found.complete else " The missing ones: missing.txt."))
        if not found.complete:
            notes.append("The data set is not complete: these figures are not comparable with the paper's.")
        print("\n".join(notes), flush=True)
    _fit(options)
    print(write_report(evaluate_run(out), out, notes))


def _suite(options: argparse.Namespace) -> None:
    from training.suite import run_all, table

    left = run_all(options.data, options.out, options.only)
    print(table(options.out))
    if left:
        raise InputFault(f"not done: {', '.join(left)}; what each said stands above, the same command goes on")


def _evaluate(options: argparse.Namespace) -> None:
    from training.evaluate import evaluate_run, write_report
    from training.evaluate_bundle import evaluate_bundle

    if (options.run is None) == (options.bundle is None):
        raise ConfigFault("evaluate either --run FOLDER or --bundle FOLDER --data NAME:DIR")
    if options.run is not None:
        figures = evaluate_run(options.run, start_run=options.start_run, keep_seen=options.keep_seen)
        out = options.out or options.run
    else:
        if not options.data:
            raise ConfigFault("--bundle needs --data NAME:DIR")
        out = options.out
        figures = evaluate_bundle(options.bundle, _folders(options.data))
    notes = []
    if learned := figures.facts.get("seen_in_training"):
        notes.append(f"Not results: the bundle was trained on {learned}, so it is asked for cells that it knows.")
        print(f"training: {notes[0]}", file=sys.stderr)
    if out is not None:
        said = write_report(figures, out, notes)
    if options.json:
        print(json.dumps(figures.to_dict()))
    else:
        print(said if out is not None else figures.table())


def _export(options: argparse.Namespace) -> None:
    from training.export import export, restate

    if (options.restate is None) == (options.name is None):
        raise ConfigFault("export a bundle with --name NAME, or with --restate NOTE one that has its name")
    if options.restate is not None:
        restate(options.run, options.out, version=options.version, fold=options.fold, note=options.restate)
        return
    export(options.run, options.out, name=options.name, version=options.version, fold=options.fold)


def _folders(given: Sequence[str]) -> dict[str, Path]:
    """Return folders by data set; without a name, the empty one."""
    from training.datasets import DATA_SETS

    folders = {}
    for one in given:
        name, colon, folder = one.partition(":")
        if colon and name in DATA_SETS:
            folders[name] = Path(folder)
        else:
            folders[""] = Path(one)
    return folders


_COMMANDS = {
    "verify": _verify,
    "recipes": _recipes,
    "fit": _fit,
    "reproduce": _reproduce,
    "suite": _suite,
    "evaluate": _evaluate,
    "export": _export,
}

if __name__ == "__main__":
    sys.exit(main())
