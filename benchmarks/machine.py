"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

#: Flags of ``/proc/cpuinfo``, the fastest first.
_VECTORS = (("amx_tile", "AMX"), ("avx512f", "AVX-512"), ("avx2", "AVX2"))
_PACKAGES = ("allpacs", "tensorflow", "openvino", "pynetdicom", "pydicom", "highdicom")


def describe() -> dict[str, Any]:
    """Return processor, cores, memory, versions, and how busy the machine was before it began to measure."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "load_before": round(os.getloadavg()[0], 2),
    }


def _processor() -> str:
    """Return the processor's name and the widest of its vector instructions: the network's pace depends on them."""
    told: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        told.setdefault(name.strip(), value.strip())
    name = told.get("model name") or platform.processor() or "unknown"
    able = told.get("flags", "").split()
    return ", ".join([name, *(said for flag, said in _VECTORS if flag in able)][:2])


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
