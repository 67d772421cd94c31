"""``python -m training``: train and export a bundle."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from allpacs.classify.preprocess import Preprocessing
from allpacs.domain.errors import AllpacsError


def main(arguments: list[str] | None = None) -> int:
    """Run one training command; 0 when it succeeded, 1 with one line of what to do where it did not."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    commands = parser.add_subparsers(required=True, dest="command")
    first = commands.add_parser("first-bundle", help="train the first bundle and export it")
    first.add_argument("--data", type=Path, required=True, help="folder that holds cnmc/, allidb2/ and pbc/")
    first.add_argument("--out", type=Path, required=True, help="folder the bundle is written to")
    first.add_argument("--work", type=Path, default=Path("runs/first-bundle"), help="checkpoints and cached crops")
    first.add_argument("--resume", action="store_true", help="continue from the checkpoints of an earlier run")
    first.add_argument("--only-shipped-fold", action="store_true", help="skip the folds that are not shipped")
    options = parser.parse_args(arguments)
    try:
        _first_bundle(options)
    except (AllpacsError, OSError, ValueError) as fault:
        print(f"training: {fault}", file=sys.stderr)
        return 1
    return 0


def _first_bundle(options: argparse.Namespace) -> None:
    """Pre-train, fine-tune every fold (the shipped one first), calibrate, export."""
    from training import first_bundle
    from training.export import export_first

    if not options.resume and options.work.is_dir():
        for stale in options.work.glob("**/*.npz"):  # checkpoints and crops of an earlier run
            stale.unlink()
    contract = Preprocessing()
    cells, folds = first_bundle.read_target_cells(options.data, options.work, contract)
    facts = first_bundle.write_run_facts(cells, folds, options.work)
    print(f"split {facts['split_digest']}", flush=True)
    pretrained = first_bundle.pretrain(options.data, options.work, contract)
    features = first_bundle.features_of(cells, pretrained, options.work)
    others = (
        [] if options.only_shipped_fold else [f for f in range(first_bundle.FOLDS) if f != first_bundle.SHIPPED_FOLD]
    )
    results = [
        first_bundle.fine_tune(cells, features, folds, fold, pretrained, options.work)
        for fold in (first_bundle.SHIPPED_FOLD, *others)
    ]
    export_first(options.data, options.work, options.out, contract, cells, results, facts)


if __name__ == "__main__":
    sys.exit(main())
