"""The conformance tables are those of the code."""

from __future__ import annotations

from conformance.dicom import FILE, tables


def test_the_tables_are_not_stale() -> None:
    assert FILE.read_text(encoding="utf-8") == tables(), "run `python -m conformance tables`"
