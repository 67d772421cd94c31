"""Third-party programs: where they are, which version they are, and running them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

PIXELMED = Path("/usr/share/java/pixelmed.jar")
NODE_PACKAGES = Path(__file__).parents[2] / "build" / "conformance"

#: Without TCP_NODELAY DCMTK waits 40 ms an instance for the peer's delayed acknowledgement.
_ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1", "DCMDICTPATH": "/usr/share/libdcmtk17/dicom.dic"}


def dcmtk(name: str) -> str:
    """Return the path of one of DCMTK's programs; pynetdicom's namesakes lie in the environment's own folder."""
    return f"/usr/bin/{name}"


def of_environment(name: str) -> str:
    """Return the path of a program that a Python package brings."""
    return str(Path(sys.executable).parent / name)


def run(*command: str | Path, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; its words come back as text whatever their encoding."""
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=timeout_s,
        env=_ENVIRONMENT,
        stdin=subprocess.DEVNULL,
    )


@lru_cache
def debian_version(package: str) -> str:
    """Return the upstream version of an installed Debian package."""
    told = run("dpkg-query", "-W", "-f", "${Version}", package).stdout
    return re.split(r"[+-]", told)[0] or "not installed"
