"""allpacs: classify white cells of microscopy studies routed by a PACS. Research use only."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

#: The public API. It is loaded when it is first used: `import allpacs` alone loads no library.
_PUBLIC = (
    "Artefact",
    "ReportContext",
    "Settings",
    "StudyFindings",
    "build_reports",
    "classify_images",
    "load_settings",
    "read_findings",
    "read_headers",
)
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        # By name, because the rooms of allpacs import this package for its version and must not import all others.
        return getattr(import_module("allpacs.api"), name)
    raise AttributeError(f"module 'allpacs' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
