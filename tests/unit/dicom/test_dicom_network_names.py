"""Private names of pynetdicom stay in one package, so that an upgrade has one place to check."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

from support.places import REPOSITORY

ADAPTER = REPOSITORY / "allpacs" / "dicom" / "network"
#: What pynetdicom documents for applications, and its association and primitive types.
PUBLIC_MODULES = {
    "pynetdicom", "pynetdicom.association", "pynetdicom.pdu", "pynetdicom.presentation", "pynetdicom.sop_class",
    "pynetdicom.status",
}  # fmt: skip
#: Attributes of pynetdicom's objects that belong to its inside.
INNER_ATTRIBUTES = {
    "_config", "_dataset_file", "_data_set_file", "_reactor_checkpoint", "_serve_request", "_server", "_is_paused",
    "dul", "dimse", "acse", "msg_queue", "to_user_queue",
}  # fmt: skip


def inner_names(source: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "pynetdicom":
            if node.module not in PUBLIC_MODULES:
                yield f"{node.lineno}: from {node.module}"
            yield from (f"{node.lineno}: {alias.name}" for alias in node.names if alias.name.startswith("_"))
        elif isinstance(node, ast.Attribute) and node.attr in INNER_ATTRIBUTES:
            of_self = isinstance(node.value, ast.Name) and node.value.id == "self"
            if not of_self:
                yield f"{node.lineno}: .{node.attr}"


def test_only_the_adapter_uses_private_names_of_pynetdicom() -> None:
    users = {
        path.relative_to(REPOSITORY).as_posix(): names
        for path in sorted((REPOSITORY / "allpacs").rglob("*.py"))
        if ADAPTER not in path.parents and (names := list(inner_names(path)))
    }
    assert users == {}


def test_the_adapter_does_use_them_so_the_check_can_fail() -> None:
    assert any(list(inner_names(path)) for path in ADAPTER.glob("*.py"))


def test_the_minor_version_is_pinned() -> None:
    dependencies = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["dependencies"]
    assert [name for name in dependencies if name.startswith("pynetdicom")] == ["pynetdicom~=3.0.4"]
