"""``allpacs studies`` and ``allpacs show``: what the index knows, as JSON and as tables; it holds no patient data."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from allpacs.domain import counting
from allpacs.domain.errors import InputFault
from allpacs.store.records import RevisionRow, StudyRow
from allpacs.store.store import Store


def one_study(store: Store, text: str) -> StudyRow:
    """Return the study whose UID is, or begins with, the text.

    Raises
    ------
    InputFault
        There is none, or several begin so.
    """
    found = store.studies.find(text, limit=3)
    if not found:
        raise InputFault(f"no study {text}: `allpacs studies` lists them")
    if len(found) > 1:
        raise InputFault(f"several studies begin with {text}: write more of the UID")
    return found[0]


def studies_json(rows: Sequence[StudyRow]) -> list[dict[str, Any]]:
    """Return the studies as JSON values."""
    return [
        {
            "study_uid": row.study_uid,
            "state": row.state,
            "revision": row.revision,
            "instances": row.instances,
            "source_ae": row.source_ae,
            "last_received_at": _time(row.last_received_at),
        }
        for row in rows
    ]


def studies_table(rows: Sequence[StudyRow]) -> None:
    """Print the studies as a table whose UIDs can be copied."""
    table = Table(box=None, pad_edge=False)
    zone = datetime.now(UTC).astimezone().tzname()
    for heading in ("study UID", "state", "rev", "inst", f"last ({zone})"):
        table.add_column(heading, no_wrap=True)
    for row in rows:
        received = datetime.fromtimestamp(row.last_received_at, UTC).astimezone().strftime("%m-%d %H:%M")
        table.add_row(row.study_uid, str(row.state), str(row.revision), str(row.instances), received)
    Console().print(table if rows else "no studies")


def study_json(store: Store, row: StudyRow) -> dict[str, Any]:
    """Return everything the index knows of a study, as JSON values."""
    revisions = []
    for revision in store.revisions.of_study(row.study_uid):
        findings = store.findings.get(row.study_uid, revision.revision)
        counts = counting.counts(cell for instance in findings for cell in instance.cells)
        paths = store.artefacts.paths(row.study_uid, revision.revision)
        revisions.append(
            {
                "revision": revision.revision,
                "state": revision.state,
                "progress": progress(revision),
                "created_at": _time(revision.created_at),
                "finished_at": None if revision.finished_at is None else _time(revision.finished_at),
                "instances": len(findings),
                "unreadable": [
                    {"sop_instance_uid": one.sop_instance_uid, "fault": one.fault} for one in findings if one.fault
                ],
                "left_out": [
                    {"sop_instance_uid": one.sop_instance_uid, "remark": one.remarks[0].text}
                    for one in findings
                    if one.left_out
                ],
                "cells_found": sum(one.found for one in findings),
                "cells": counts.total,
                "all": counts.all,
                "hem": counts.hem,
                "not_assessable": counts.not_assessable,
                "bundle_digest": revision.bundle_digest,
                "reason": revision.reason,
                "artefacts": {name: str(path) for name, path in paths.items()},
            }
        )
    deliveries = [
        {
            "revision": one.revision,
            "destination": one.destination,
            "state": one.state,
            "attempts": one.attempts,
            "next_attempt_at": None if one.next_attempt_at is None else _time(one.next_attempt_at),
            "detail": one.reason,
        }
        for one in store.deliveries.of_study(row.study_uid)
    ]
    return {**studies_json([row])[0], "revisions": revisions, "deliveries": deliveries}


def progress(revision: RevisionRow) -> str | None:
    """Return how far a reading has come, ``12 of 40 pieces``; None where it has not begun."""
    return None if revision.pieces is None else f"{revision.pieces_read} of {revision.pieces} pieces"


def study_tables(details: dict[str, Any]) -> None:
    """Print what `study_json` returned: a list of facts for the study and each revision, a table of deliveries."""
    _print_facts("study", {key: value for key, value in details.items() if key not in {"revisions", "deliveries"}})
    for revision in details["revisions"]:
        tables = {"revision", "unreadable", "left_out", "artefacts"}
        facts = {key: value for key, value in revision.items() if key not in tables}
        facts |= {f"unreadable …{one['sop_instance_uid'][-12:]}": one["fault"] for one in revision["unreadable"]}
        facts |= {f"left out …{one['sop_instance_uid'][-12:]}": one["remark"] for one in revision["left_out"]}
        _print_facts(f"revision {revision['revision']}", facts | revision["artefacts"])
    if details["deliveries"]:
        _print("deliveries", details["deliveries"])


def _print_facts(title: str, facts: dict[str, Any]) -> None:
    """Print one fact a line; what is unknown is left out, what is long stays on its line, to be copied."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"[bold]{title}[/bold]")
    for name, value in facts.items():
        if value is not None:
            console.print(f"  {name.replace('_', ' '):<18} {value}", markup=False)


def _print(title: str, rows: Sequence[dict[str, Any]]) -> None:
    table = Table(title=title, title_justify="left")
    for heading in rows[0] if rows else ("none",):
        table.add_column(heading.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    Console().print(table)


def _time(seconds: float) -> str:
    """Return a time as this machine's clock shows it, with its offset from UTC."""
    return datetime.fromtimestamp(seconds, UTC).astimezone().isoformat(timespec="seconds")
