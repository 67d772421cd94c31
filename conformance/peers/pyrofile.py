"""pyrofile, a validator of FHIR resources, with HL7's definitions of R4 (4.0.1).

What it needs of other packages does not go with what allpacs needs, so it has an environment of its own, and this file
is run there: ``python pyrofile.py DEFINITIONS FILE…`` prints its errors by file as JSON.
"""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

_BUNDLES = ("profiles-types", "profiles-resources", "valuesets", "v3-codesystems")


def main(definitions: Path, *files: Path) -> dict[str, list[str]]:
    """Return the errors in each file."""
    from pyrofile_validator import Validator
    from pyrofile_validator.config import ValidatorConfig
    from pyrofile_validator.models import Severity

    validator = Validator(ValidatorConfig(local_package_paths=[str(_unpacked(definitions))]))
    told = {}
    for file in files:
        with redirect_stdout(StringIO()):  # it traces its parser there
            issues = validator.validate_resource(json.loads(file.read_text(encoding="utf-8"))).issues
        told[str(file)] = [f"{one.path}: {one.message}" for one in issues if one.severity is Severity.ERROR]
    return told


def _unpacked(definitions: Path) -> Path:
    """Return a folder of single definitions, as the validator wants them, made of HL7's bundles of them."""
    folder = Path(sys.prefix) / "definitions"
    if not (folder / "complete").exists():
        folder.mkdir(exist_ok=True)
        for name in _BUNDLES:
            for entry in json.loads((definitions / f"{name}.json").read_text(encoding="utf-8"))["entry"]:
                resource = entry["resource"]
                file = folder / f"{resource['resourceType']}-{resource['id']}.json"
                file.write_text(json.dumps(resource), encoding="utf-8")
        (folder / "complete").touch()
    return folder


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(*map(Path, sys.argv[1:]))))
