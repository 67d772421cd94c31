"""``make faults``: run the tests behind every promise, and write down what held.

Writes ``tests/faults/results.json`` and ``docs/reliability.md``. With ALLPACS_FAULTS_LONG set, the long half: 200
kills, 100,000 messages, 30 minutes of load.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tomllib
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).parent / "results.json"
PAGE = REPOSITORY / "docs" / "reliability.md"
PROMISES = tomllib.loads((Path(__file__).parent / "promises.toml").read_text(encoding="utf-8"))["promise"]


class Outcomes:
    """Pytest plug-in: remembers what came of each test, and the figures it told."""

    def __init__(self) -> None:
        self.of: dict[str, str] = {}
        self.figures: dict[str, list[str]] = defaultdict(list)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the worst of setup, call and teardown."""
        says_something = report.when == "call" or report.outcome != "passed"
        if says_something and self.of.get(report.nodeid) != "failed":
            self.of[report.nodeid] = report.outcome
        if report.when == "call":
            for name, value in report.user_properties:
                text = str(value) if name == "figure" else f"{name.replace('_', ' ')} {value}"
                self.figures[report.nodeid].append(text)


def judged(promise: str, tests: list[str], outcomes: Outcomes) -> dict[str, object]:
    """Return what came of a promise: held only where all its tests ran and none failed."""
    of = {node: outcome for node, outcome in outcomes.of.items() if node.startswith(tuple(tests))}
    passed = sum(outcome == "passed" for outcome in of.values())
    told = [figure for node in sorted(of) for figure in outcomes.figures.get(node, [])]
    counts = [f"{passed} of {len(of)} cases"]
    skipped = sum(outcome == "skipped" for outcome in of.values())
    if skipped:
        counts.append(f"{skipped} skipped")
    each = all(any(node.startswith(test) for node in of) for test in tests)
    return {
        "promise": promise,
        "test": ", ".join(tests),
        "figure": "; ".join([*told, *counts]),
        "held": each and passed > 0 and "failed" not in of.values(),
    }


def page(results: dict[str, object]) -> str:
    """Return the results as Markdown."""
    lines = [
        "# What is promised, and what showed that it holds",
        "",
        f"Written by `make faults` ({results['half']} half) on {results['at']}, {results['machine']}. A promise holds",
        "where its tests ran and none failed; figures are theirs; `tests/faults/promises.toml` names the tests.",
        "",
        "| promise | tests | last figure | held |",
        "|---|---|---|---|",
    ]
    for one in results["promises"]:  # type: ignore[attr-defined]
        tests = "<br>".join(f"`{test.strip().removeprefix('tests/')}`" for test in one["test"].split(","))
        lines.append(f"| {one['promise']} | {tests} | {one['figure']} | {_held(one)} |")
    return "\n".join([*lines, ""])


def _held(one: dict[str, object]) -> str:
    if str(one["figure"]).startswith("0 of 0 cases"):
        return "not run"
    return "yes" if one["held"] else "**no**"


def main() -> int:
    """Run, write, and return 0 where every promise held."""
    os.chdir(REPOSITORY)
    outcomes = Outcomes()
    files = sorted({test.split("::")[0] for one in PROMISES for test in one["tests"]})
    pytest.main(["-q", "--no-header", "-p", "no:cacheprovider", *sys.argv[1:], *files], plugins=[outcomes])
    results: dict[str, object] = {
        "at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "half": "long" if "ALLPACS_FAULTS_LONG" in os.environ else "fast",
        "machine": f"{os.cpu_count()} cores, Python {platform.python_version()}",
        "promises": [judged(one["promise"], one["tests"], outcomes) for one in PROMISES],
    }
    RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(page(results), encoding="utf-8")
    broken = [one["promise"] for one in results["promises"] if not one["held"]]  # type: ignore[attr-defined]
    for promise in broken:
        print(f"not held: {promise}")  # noqa: T201
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
