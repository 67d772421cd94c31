"""Run the benchmarks: ``python -m benchmarks [--quick] [--only NAME …] [--folder DIR]``.

With ``--only`` the rows that are not measured stay in the file as they are; each row says when it was measured, and on
which processor. What is measured is written subject by subject: a run that was cut off can be gone on with.

``python -m benchmarks scaling`` only writes the capacity model anew, from what was measured.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import machine, page, scale, scaling

_ROOT = Path(__file__).resolve().parents[1]
_SUBJECTS = ("receive", "classify", "plugin", "reports", "ready", "growth", "slide", "console")
#: Measured only where it is asked for.
_ON_DEMAND = ("gpu", "review")
_INSIDE = "ALLPACS_BENCHMARK_NAMESPACE"


def main() -> int:
    """Run what was asked for; return the exit status."""
    if sys.argv[1:] == ["scaling"]:
        scaling.write()
        Console().print("the capacity model is written", highlight=False)
        return 0
    arguments = _arguments()
    if os.environ.get(_INSIDE) != "1":
        return _in_a_namespace()
    console = Console()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=arguments.folder.resolve()))  # a run that was killed leaves its own behind
    size = scale.quick(folder) if arguments.quick else scale.full(folder)
    about = machine.describe()
    if about["load_before"] > 0.5:
        console.print(f"[yellow]the machine is busy (load {about['load_before']}): do not believe the figures[/yellow]")
    rows = _earlier(arguments.out) if arguments.only else {}
    try:
        for subject in arguments.only or _SUBJECTS:
            for row in importlib.import_module(f"benchmarks.rows.{subject}").rows(size):
                at = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
                rows[row.name] = row.to_dict() | {"at": at, "processor": about["processor"]}
                ratio = "" if row.ratio is None else f" ratio {row.ratio:.3f} [{row.low:.3f}, {row.high:.3f}]"
                peer = "" if row.peer is None else f" against {row.peer:.4g}"
                console.print(f"{row.name:20} {row.ours:.4g}{peer} {row.unit}{ratio}  aim {row.aim}", highlight=False)
            _write({"rows": list(rows.values()), "machine": about}, arguments)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _earlier(file: Path) -> dict[str, dict[str, Any]]:
    """Return the rows that were measured before, by name."""
    if not file.is_file():
        return {}
    return {row["name"]: row for row in json.loads(file.read_text(encoding="utf-8"))["rows"]}


def _write(latest: dict[str, Any], arguments: argparse.Namespace) -> None:
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(latest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if arguments.page is not None:
        page.write(latest, arguments.page)
        scaling.write()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small runs that show that everything works")
    subjects = (*_SUBJECTS, *_ON_DEMAND)
    parser.add_argument("--only", nargs="+", choices=subjects, help="subjects to measure; else all but gpu")
    parser.add_argument("--folder", type=Path, default=_ROOT / "build" / "bench", help="where studies and stores lie")
    parser.add_argument("--out", type=Path, default=_ROOT / "benchmarks" / "latest.json", help="file of the figures")
    parser.add_argument("--page", type=Path, help="page whose table and plot are written anew")
    return parser.parse_args()


def _in_a_namespace() -> int:
    """Run in a network namespace with nothing but loopback: storescp and Orthanc listen on every address."""
    unshare = ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-rn"]
    program = [sys.executable, "-m", "benchmarks", *sys.argv[1:]]
    shell = ["sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, _INSIDE: "1", "PYTHONPATH": path}
    return subprocess.run([*unshare, *shell, *program], env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
