"""R4 (4.0.1) validators that nobody here wrote: pyrofile with HL7's definitions and fhirkit; medplum's runs in node."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fhirkit

from conformance.peers.programs import NODE_PACKAGES, run

_ENVIRONMENT = NODE_PACKAGES / "pyrofile"
_SCRIPT = Path(__file__).parents[1] / "peers" / "pyrofile.py"
_DEFINITIONS = NODE_PACKAGES / "node_modules" / "@medplum" / "definitions" / "dist" / "fhir" / "r4"

#: Findings of pyrofile that are let pass, each with its reason.
PYROFILE_ALLOWED = {
    "Code 'AIAST' is not valid in code system": "AIAST came to v3-ObservationValue after R4; DEVAST stands beside it",
    "at most 1 value(s) for CapabilityStatement.rest.resource.": "it adds up the values of several repetitions",
    "is not valid in code system http://dicom.nema.org/resources/ontology/DCM": "R4 ships an excerpt of DICOM's codes",
}


def pyrofile(*files: Path) -> dict[Path, list[str]]:
    """Return pyrofile's errors in each file, but for those that are let pass."""
    told = json.loads(run(_ENVIRONMENT / "bin" / "python", _SCRIPT, _DEFINITIONS, *files, timeout_s=300).stdout)
    return {
        file: [line for line in told[str(file)] if not any(known in line for known in PYROFILE_ALLOWED)]
        for file in files
    }


def pyrofile_version() -> str:
    """Return pyrofile's version."""
    (folder,) = _ENVIRONMENT.glob("lib/python*/site-packages/pyrofile_validator-*.dist-info")
    return folder.name.removesuffix(".dist-info").partition("-")[2]


def fhirkit_rs(bundle: dict[str, Any]) -> list[str]:
    """Return fhirkit's errors."""
    return [str(issue) for issue in fhirkit.validate(bundle)]
