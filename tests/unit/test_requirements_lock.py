"""The hashed requirements are those of constraints.txt and of all that the package needs."""

from __future__ import annotations

import re
import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from support.places import REPOSITORY

PIN = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)", re.MULTILINE)


def _pins(name: str) -> dict[str, str]:
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    return {canonicalize_name(package): version for package, version in PIN.findall(text)}


def test_every_locked_version_is_the_pinned_one_and_has_hashes() -> None:
    locked, pinned = _pins("requirements.lock"), _pins("constraints.txt")
    for builder in ("setuptools", "wheel"):  # which constraints.txt, made by pip freeze, leaves out
        locked.pop(builder, None)
    assert {name: pinned.get(name) for name in locked} == locked
    entries = re.split(r"(?m)^(?=\S)", (REPOSITORY / "requirements.lock").read_text(encoding="utf-8"))
    assert [entry.split("==")[0] for entry in entries if entry.strip() and "--hash=sha256:" not in entry] == []


def test_all_that_the_package_needs_is_locked_and_no_registry_is_named() -> None:
    needs = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    assert {canonicalize_name(Requirement(one).name) for one in needs} <= set(_pins("requirements.lock"))
    assert "://" not in (REPOSITORY / "requirements.lock").read_text(encoding="utf-8")
