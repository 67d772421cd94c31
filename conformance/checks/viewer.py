"""OHIF shows the image with every cell's outline, class and number where the report says they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from playwright.sync_api import Error, Page
from pydicom import Dataset, dcmread

from allpacs.console import server as console
from conformance.hospital import PeerHospital
from conformance.outcome import Check
from conformance.peers import ohif

SCREENSHOT = Path(__file__).parents[2] / "docs" / "conformance-ohif.png"
SERIES = "AI white cell classification"
#: What the names of a cell's numbers have in them.
_NUMBERS = ("robability", "Area", "Diameter")
_CLASSES = ("Lymphoblast", "Hematogone")
_OUTLINES = "() => [...document.querySelectorAll('svg.svg-layer polyline')].map((one) => one.getAttribute('points'))"
_LABELS = """() => [...document.querySelectorAll('svg.svg-layer text')].map(
    (one) => [...one.querySelectorAll('tspan')].map((line) => line.textContent))"""
#: Farthest that a drawn corner may lie from where the report has it, in pixels of the screen.
_TOLERANCE_PX = 3.0


@dataclass(frozen=True)
class _Cell:
    """What the report says of a cell: its outline (points, 2), its class, and its numbers as OHIF writes them."""

    outline: NDArray[np.float64]
    label: str
    numbers: tuple[str, ...]


def checks(hospital: PeerHospital, report: Path) -> Iterator[Check]:
    """Open the study and its report as a clinician does, from the PACS and then from allpacs's own DICOMweb."""
    yield from _checks(report, "", SCREENSHOT, hospital.pacs.base_url)
    settings = hospital.settings
    own = console.address(settings, with_token=False).rstrip("/")
    shot = hospital.folder / "ohif-console.png"
    yield from _checks(report, "from allpacs's own DICOMweb, signed in: ", shot, own, console.address(settings))


def _checks(
    report: Path, prefix: str, screenshot: Path, dicomweb: str, sign_in_at: str | None = None
) -> Iterator[Check]:
    """Compare what is drawn with the report."""
    sr = dcmread(report)
    cells = _most_cells_on_an_image(sr)

    def check(what: str, *faults: str) -> Check:
        return Check("OHIF", ohif.version(), prefix + what, tuple(fault for fault in faults if fault))

    try:
        with ohif.viewer(dicomweb, sign_in_at=sign_in_at) as (page, address):
            _open(page, f"{address}/viewer?StudyInstanceUIDs={sr.StudyInstanceUID}")
            outlines, labels = _drawn(page, len(cells))
            page.screenshot(path=screenshot)
    except (Error, AssertionError) as failure:
        yield check("shows the image and the report", str(failure).splitlines()[0])
        return
    yield check(
        "draws the outline of every cell on the image",
        "" if len(outlines) == len(cells) else f"{len(outlines)} outlines for {len(cells)} cells",
    )
    yield check("draws each outline where the report has it", *_misplaced(outlines, [cell.outline for cell in cells]))
    # It writes the numbers of a group, by their names, and its finding site.
    expected = sorted(cell.numbers for cell in cells)
    found = sorted(tuple(line for line in label if any(name in line for name in _NUMBERS)) for label in labels)
    yield check(
        "writes each cell's probability and size beside it", "" if found == expected else f"{found}, not {expected}"
    )
    # What a cell without a class has is its probability; which cells these are the own checks look at.
    classes = sorted(cell.label for cell in cells if cell.label in _CLASSES)
    written = sorted(
        line.partition(" (probability)")[0] for label in labels for line in label if "(probability)" in line
    )
    yield check(
        "writes each cell's class beside it", "" if written == classes and classes else f"{written}, not {classes}"
    )


def _open(page: Page, address: str) -> None:
    page.goto(address)
    series = page.get_by_text(SERIES).first
    series.wait_for(timeout=60_000)
    tour = page.get_by_text("Skip all")
    tour.or_(page.locator("svg.svg-layer").first).first.wait_for(timeout=30_000)
    page.wait_for_timeout(2_000)
    if tour.is_visible():
        tour.click()
    series.dblclick()


def _drawn(page: Page, cells: int) -> tuple[list[NDArray[np.float64]], list[list[str]]]:
    """Go through the measurements to an image with as many cells; return outlines (points on the screen) and labels.

    A label is the lines that are written beside an outline.
    """
    forward = page.locator("svg.rotate-180").filter(has_text="arrow-left")
    forward.wait_for(timeout=30_000)
    outlines: list[str] = []
    for _ in range(60):
        page.wait_for_timeout(500)
        outlines = page.evaluate(_OUTLINES)
        if len(outlines) == cells:
            break
        forward.click()
    page.wait_for_timeout(2_000)  # the image itself, which is decoded beside its outlines
    outlines = page.evaluate(_OUTLINES)
    return [_points(text) for text in outlines], page.evaluate(_LABELS)


def _points(text: str) -> NDArray[np.float64]:
    return np.array(text.replace(",", " ").split(), dtype=np.float64).reshape(-1, 2)


def _most_cells_on_an_image(sr: Dataset) -> list[_Cell]:
    """Return the cells of the image that has most."""
    by_image: dict[str, list[_Cell]] = {}
    (measurements,) = [item for item in sr.ContentSequence if _name(item) == "126010"]
    for group in measurements.ContentSequence:
        items = {_name(item): item for item in group.ContentSequence}
        region = items["111030"]
        image = region.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        numbers = tuple(_as_written(item) for item in group.ContentSequence if item.ValueType == "NUM")
        label = str(items["121071"].ConceptCodeSequence[0].CodeMeaning)
        outline = np.array(region.GraphicData).reshape(-1, 2)
        by_image.setdefault(image, []).append(_Cell(outline, label, numbers))
    return max(by_image.values(), key=len)


def _as_written(number: Dataset) -> str:
    (value,) = number.MeasuredValueSequence
    unit = value.MeasurementUnitsCodeSequence[0].CodeValue
    return f"{number.ConceptNameCodeSequence[0].CodeMeaning}: {float(value.NumericValue):.2f} {unit}"


def _misplaced(drawn: list[NDArray[np.float64]], stated: list[NDArray[np.float64]]) -> Iterator[str]:
    """One scale and one shift must bring all stated outlines onto the drawn ones."""
    if len(drawn) != len(stated) or len(stated) < 2:
        yield "nothing to compare"
        return
    screen = np.array(sorted((*one.min(axis=0), *one.max(axis=0)) for one in drawn))
    image = np.array(sorted((*one.min(axis=0), *one.max(axis=0)) for one in stated))
    for axis, name in ((0, "columns"), (1, "rows")):
        of_image, of_screen = image[:, axis::2].ravel(), screen[:, axis::2].ravel()
        scale, shift = np.polyfit(of_image, of_screen, 1)
        farthest = float(np.abs(scale * of_image + shift - of_screen).max())
        if scale <= 0 or farthest > _TOLERANCE_PX:
            yield f"{name}: up to {farthest:.1f} px away, scale {scale:.2f}"


def _name(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeValue)
