"""Logging: only allow-listed keys reach a log line, and every key that the code logs is on the list."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
import structlog

from allpacs.telemetry.logs import ALLOWED_KEYS, configure_logs

PACKAGE = Path(__file__).resolve().parents[3] / "allpacs"
LOG_CALLS = {"debug", "info", "warning", "error", "critical", "bind"}


def _logged_keys(tree: ast.AST) -> set[str]:
    """Return the keyword names of every call like ``_log.info("event", key=…)``."""
    return {
        keyword.arg
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr in LOG_CALLS
        and isinstance(call.func.value, ast.Name)
        and call.func.value.id in {"_log", "log"}
        for keyword in call.keywords
        if keyword.arg is not None
    }


def test_every_key_that_the_code_logs_is_allowed() -> None:
    found = {path: _logged_keys(ast.parse(path.read_text())) for path in PACKAGE.rglob("*.py")}
    assert any(found.values())
    assert {str(path): keys - ALLOWED_KEYS for path, keys in found.items() if keys - ALLOWED_KEYS} == {}


def test_another_key_is_withheld(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("info", "json")
    structlog.get_logger("test").info("instance_stored", patient_name="Doe^Jane", study_uid="1.2.3")
    line = json.loads(capsys.readouterr().err)
    assert line["patient_name"] == "(withheld)"
    assert line["study_uid"] == "1.2.3"


def test_libraries_that_quote_values_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    import logging
    import warnings

    configure_logs("info", "json")
    logging.getLogger("pydicom").warning("Invalid value for PN: Doe^Jane")
    warnings.warn("Invalid value for PN: Doe^Jane", UserWarning, stacklevel=1)
    assert "Doe" not in capsys.readouterr().err
