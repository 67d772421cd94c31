"""R4 (4.0.1) validators that nobody here wrote: pyrofile with HL7's definitions, medplum, and fhirkit."""

from __future__ import annotations

import json
from contextlib import redirect_stdout
from functools import lru_cache
from io import StringIO
from typing import Any

import fhirkit
from pyrofile_validator import Validator
from pyrofile_validator.config import ValidatorConfig
from pyrofile_validator.models import Severity

from conformance.peers.programs import NODE_PACKAGES

_DEFINITIONS = NODE_PACKAGES / "node_modules" / "@medplum" / "definitions" / "dist" / "fhir" / "r4"
_UNPACKED = NODE_PACKAGES / "r4"
_BUNDLES = ("profiles-types", "profiles-resources", "valuesets", "v3-codesystems")


#: Findings of pyrofile that are let pass, each with its reason.
PYROFILE_ALLOWED = {
    "Code 'AIAST' is not valid in code system": "AIAST came to v3-ObservationValue after R4; DEVAST stands beside it",
    "is not valid in code system http://dicom.nema.org/resources/ontology/DCM": "R4 ships an excerpt of DICOM's codes",
}


@lru_cache(maxsize=1)
def _pyrofile() -> Validator:
    """Return the validator with HL7's definitions, which it reads from single files."""
    if not (_UNPACKED / "complete").exists():
        _UNPACKED.mkdir(exist_ok=True)
        for name in _BUNDLES:
            for entry in json.loads((_DEFINITIONS / f"{name}.json").read_text(encoding="utf-8"))["entry"]:
                resource = entry["resource"]
                file = _UNPACKED / f"{resource['resourceType']}-{resource['id']}.json"
                file.write_text(json.dumps(resource), encoding="utf-8")
        (_UNPACKED / "complete").touch()
    return Validator(ValidatorConfig(local_package_paths=[str(_UNPACKED)]))


def pyrofile(bundle: dict[str, Any]) -> list[str]:
    """Return pyrofile's errors, but for those that are let pass."""
    with redirect_stdout(StringIO()):  # it traces its parser there
        report = _pyrofile().validate_resource(bundle)
    return [
        f"{one.path}: {one.message}"
        for one in report.issues
        if one.severity is Severity.ERROR and not any(known in one.message for known in PYROFILE_ALLOWED)
    ]


def fhirkit_rs(bundle: dict[str, Any]) -> list[str]:
    """Return fhirkit's errors."""
    return [str(issue) for issue in fhirkit.validate(bundle)]
