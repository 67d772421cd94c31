"""``make faults``: run the tests behind every promise, and write down what held.

Writes ``tests/faults/results.json`` and ``docs/reliability.md``. With ALLPACS_FAULTS_LONG set, only the promises that
have a long half, and it: 200 kills, 100,000 messages, 30 minutes of load. Words after the command choose promises by
their tests' names (``python -m faults soak kills``); what is known of the others stays.
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
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).parent / "results.json"
PAGE = REPOSITORY / "docs" / "reliability.md"
PROMISES = tomllib.loads((Path(__file__).parent / "promises.toml").read_text(encoding="utf-8"))["promise"]

LONG = "ALLPACS_FAULTS_LONG" in os.environ


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


def judged(tests: list[str], outcomes: Outcomes) -> dict[str, object]:
    """Return what came of a promise's tests: it held only where all of them ran and none failed."""
    of = {node: outcome for node, outcome in outcomes.of.items() if node.startswith(tuple(tests))}
    passed = sum(outcome == "passed" for outcome in of.values())
    told = [figure for node in sorted(of) for figure in outcomes.figures.get(node, [])]
    counts = [f"{passed} of {len(of)} cases"]
    skipped = sum(outcome == "skipped" for outcome in of.values())
    if skipped:
        counts.append(f"{skipped} skipped")
    each = all(any(node.startswith(test) for node in of) for test in tests)
    return {
        "figure": "; ".join([*told, *counts]),
        "held": each and passed > 0 and "failed" not in of.values(),
        "at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def merged(known: dict[str, dict[str, Any]], outcomes: Outcomes, chosen: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what is known of every promise, in their order, by this run or an earlier one.

    Each has ``promise``, ``test``, and ``figure``, ``held`` and ``at`` of its last run; under ``long`` those of the
    last run of its long half, if there was one.
    """
    promises = []
    for one in PROMISES:
        before = known.get(one["promise"], {"figure": "not run", "held": False, "at": ""})
        entry = {**before, "promise": one["promise"], "test": ", ".join(one["tests"])}
        if one in chosen and LONG:
            entry["long"] = judged(one["tests"], outcomes)
        elif one in chosen:
            entry |= judged(one["tests"], outcomes)
        promises.append(entry)
    return promises


def page(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    long = {one["promise"] for one in PROMISES if one.get("long", False)}
    lines = [
        "# What is promised, and what showed that it holds",
        "",
        f"Written by `make faults`, last on {results['at']}, {results['machine']}. A promise holds where its tests ran",
        "and none failed; figures are theirs; `tests/faults/promises.toml` names the tests.",
        "",
        "| promise | tests | last figure | held |",
        "|---|---|---|---|",
    ]
    for one in results["promises"]:
        tests = "<br>".join(f"`{test.strip().removeprefix('tests/')}`" for test in one["test"].split(","))
        figures = f"{one['figure']} ({one.get('at', 'earlier')})"
        if "long" in one:
            figures += f"<br>long half: {one['long']['figure']} ({one['long']['at']})"
        elif one["promise"] in long:
            figures += "<br>long half: not run to its end"
        lines.append(f"| {one['promise']} | {tests} | {figures} | {'yes' if _held(one) else '**no**'} |")
    return "\n".join([*lines, ""])


def _held(one: dict[str, Any]) -> bool:
    return bool(one["held"] and one.get("long", one)["held"])


def main() -> int:
    """Run, write, and return 0 where every promise held."""
    os.chdir(REPOSITORY)
    words = sys.argv[1:]
    chosen = [
        one
        for one in PROMISES
        if (one.get("long", False) or not LONG)
        and (not words or any(word in test for word in words for test in one["tests"]))
    ]
    outcomes = Outcomes()
    files = sorted({test.split("::")[0] for one in chosen for test in one["tests"]})
    patience = ["--timeout=7200", "-o", "faulthandler_timeout=0"] if LONG else []
    pytest.main(["-q", "--no-header", "-p", "no:cacheprovider", *patience, *files], plugins=[outcomes])
    known = {one["promise"]: one for one in json.loads(RESULTS.read_text(encoding="utf-8"))["promises"]}
    results: dict[str, Any] = {
        "at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{os.cpu_count()} cores, Python {platform.python_version()}",
        "promises": merged(known, outcomes, chosen),
    }
    RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(page(results), encoding="utf-8")
    broken = [one["promise"] for one in results["promises"] if not _held(one)]
    for promise in broken:
        print(f"not held: {promise}")  # noqa: T201
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
