"""Key images: the cells most like lymphoblasts, each beside what in it spoke for that, on pages any viewer shows.

A Multi-frame True Color Secondary Capture: a frame is a page of up to six cells. Each cell is shown as the network saw
it and, beside it, under its class activation map (DCM 130402) in false colours; under both stand class, probability and
where the cell is. No patient data is burned in.

Source: PS3.3 A.8.5 (IOD), C.8.6.1 (SC Equipment), C.8.6.3 (SC Multi-frame Image), C.8.6.4 (SC Multi-frame Vector),
C.12.2 (Common Instance Reference).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import MultiFrameTrueColorSecondaryCaptureImageStorage

from allpacs.domain.artefacts import DICOM, Artefact, ArtefactKind
from allpacs.domain.findings import CellFinding, CellLabel, NotAssessable, StudyFindings, tracking_id
from allpacs.domain.identity import derive_uid
from allpacs.report import wording
from allpacs.report.context import CellImage, ReportContext, result_uid
from allpacs.report.dicom_object import Series, part_10, result_object
from allpacs.report.format import Format
from allpacs.report.inputs import FormatInputs
from allpacs.report.study_modules import copied

SERIES_NUMBER = 9902
SERIES_DESCRIPTION = "AI key images of white cells (research use only)"

COLUMNS, ROWS = 2, 3  # cells on a page
_SIDE = 256  # pixels of a cell's picture
_GAP, _MARGIN, _CAPTION, _HEAD, _FOOT = 10, 24, 62, 76, 40
_TILE_WIDTH, _TILE_HEIGHT = 2 * _SIDE + _GAP, _SIDE + _CAPTION
PAGE_WIDTH = 2 * _MARGIN + COLUMNS * _TILE_WIDTH + (COLUMNS - 1) * _MARGIN

_PAPER, _INK, _SOFT = (250, 249, 246), (29, 33, 41), (93, 100, 112)
_TINTS = {CellLabel.ALL: (180, 71, 15), CellLabel.HEM: (31, 106, 165), None: (110, 115, 124)}


#: Without a review this is the order of the probabilities, too: classes are told by thresholds.
_RANK = {CellLabel.ALL: 0, None: 1, CellLabel.HEM: 2}


def page_height(cells: int) -> int:
    """Return the height of the pages: all rows where there are several, of a single page those that it needs."""
    rows = -(-cells // COLUMNS)
    return _HEAD + rows * (_TILE_HEIGHT + _GAP) + _FOOT


def key_cells(cells: Iterable[CellFinding], number: int) -> list[CellFinding]:
    """Return the cells that key images show: the most like lymphoblasts first, at most so many.

    A person's word goes before the model's number: what they called a lymphoblast comes first, what they called a
    hematogone last, and what they excluded is not shown.
    """
    judged = [c for c in cells if c.probability_all is not None and c.reason is not NotAssessable.EXCLUDED]
    return sorted(judged, key=lambda cell: (_RANK[cell.label], -(cell.probability_all or 0.0), cell.tracking_uid))[
        :number
    ]


def key_images(inputs: FormatInputs) -> Artefact | None:
    """Return the pages as a Part 10 file; None where the context has no picture of any cell.

    Which cells are shown is what `context.pictures` holds; the order is that of `key_cells`.
    """
    findings, context = inputs.findings, inputs.context
    cells = [cell for cell in key_cells(findings.cells, len(findings.cells)) if cell.tracking_uid in context.pictures]
    if not cells:
        return None
    uid = result_uid("key images", findings, context)
    image = _modules(inputs, uid)
    _add_sources(image, findings, {cell.sop_instance_uid for cell in cells})
    pages = [cells[start : start + COLUMNS * ROWS] for start in range(0, len(cells), COLUMNS * ROWS)]
    _add_pixels(image, [_page(findings, page, number, len(pages), context) for number, page in enumerate(pages, 1)])
    return FORMAT.artefact(uid, part_10(image))


def _modules(inputs: FormatInputs, uid: str) -> Dataset:
    findings = inputs.findings
    series_uid = derive_uid("series", "key images", findings.study_uid, findings.model.digest)
    series = Series(series_uid, SERIES_NUMBER, SERIES_DESCRIPTION, "OT")
    storage = MultiFrameTrueColorSecondaryCaptureImageStorage
    image = result_object(inputs, uid, storage, series)
    image.ConversionType = "WSD"
    image.PatientOrientation = None  # cells on a slide have none
    image.ImageType = ["DERIVED", "SECONDARY"]
    image.BurnedInAnnotation = "NO"  # no patient data
    _add_lossy(image, inputs)
    image.ImageComments = wording.notice(inputs.context.signed)
    image.DerivationDescription = "Cells found by the algorithm, and class activation maps toward lymphoblast over them"
    return image


#: How an image was compressed with loss (PS3.3 C.7.6.1.1.5).
_LOSSY = ("LossyImageCompressionRatio", "LossyImageCompressionMethod")


def _add_lossy(image: Dataset, inputs: FormatInputs) -> None:
    """General Image (PS3.3 C.7.6.1.1.5): what was once compressed with loss stays so, also in derived images."""
    image.LossyImageCompression = "01" if inputs.source.lossy is not None else "00"
    if inputs.source.lossy is not None:
        image.update(copied(inputs.source.lossy, _LOSSY, inputs.character_set))


def _add_sources(image: Dataset, findings: StudyFindings, shown: set[str]) -> None:
    """General Reference (C.12.4) and Common Instance Reference (C.12.2): the images whose cells are shown."""
    image.SourceImageSequence = []
    by_series: dict[str, list[Dataset]] = {}
    for instance in findings.instances:
        if instance.sop_instance_uid in shown:
            reference = Dataset()
            reference.ReferencedSOPClassUID = instance.sop_class_uid
            reference.ReferencedSOPInstanceUID = instance.sop_instance_uid
            image.SourceImageSequence.append(reference)
            by_series.setdefault(instance.series_uid, []).append(reference)
    image.ReferencedSeriesSequence = []
    for series, references in by_series.items():
        of_series = Dataset()
        of_series.SeriesInstanceUID = series
        of_series.ReferencedInstanceSequence = references
        image.ReferencedSeriesSequence.append(of_series)


def _add_pixels(image: Dataset, pages: Sequence[NDArray[np.uint8]]) -> None:
    frames = np.stack(pages)
    image.SamplesPerPixel = 3
    image.PhotometricInterpretation = "RGB"
    image.PlanarConfiguration = 0
    image.NumberOfFrames, image.Rows, image.Columns = frames.shape[:3]
    image.BitsAllocated = image.BitsStored = 8
    image.HighBit = 7
    image.PixelRepresentation = 0
    if len(frames) > 1:
        image.FrameIncrementPointer = Tag("PageNumberVector")
        image.PageNumberVector = list(range(1, len(frames) + 1))
    image.PixelData = frames.tobytes()
    image["PixelData"].VR = "OB"


def _page(
    findings: StudyFindings, cells: Sequence[CellFinding], number: int, pages: int, context: ReportContext
) -> NDArray[np.uint8]:
    """Return one page, ``uint8`` of shape (height, PAGE_WIDTH, 3)."""
    height = page_height(len(cells) if pages == 1 else COLUMNS * ROWS)
    page = Image.new("RGB", (PAGE_WIDTH, height), _PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((_MARGIN, 14), "White cells most like lymphoblasts", _INK, _font(24))
    draw.text((_MARGIN, 42), "left: the cell    right: what spoke for a lymphoblast, weak to strong", _SOFT, _font(14))
    _add_scale(page, (_MARGIN + 424, 46))
    draw.text((PAGE_WIDTH - _MARGIN, 16), f"page {number} of {pages}", _SOFT, _font(16), anchor="ra")
    numbers = findings.image_numbers
    frames = {one.sop_instance_uid: one.frames for one in findings.instances}
    for number_on_page, cell in enumerate(cells):
        row, column = divmod(number_on_page, COLUMNS)
        corner = (_MARGIN + column * (_TILE_WIDTH + _MARGIN), _HEAD + row * (_TILE_HEIGHT + _GAP))
        changed = context.signed is not None and context.signed.changed(cell) is not None
        uid = cell.sop_instance_uid
        place = tracking_id(numbers[uid], frames[uid], cell)
        _add_cell(page, corner, cell, place, context.pictures[cell.tracking_uid], changed=changed)
    model = f"{findings.model.name} {findings.model.version}"
    draw.text((_MARGIN, height - 28), wording.notice(context.signed), _INK, _font(13))
    draw.text((PAGE_WIDTH - _MARGIN, height - 28), model, _SOFT, _font(13), anchor="ra")
    return np.asarray(page)


def _add_cell(
    page: Image.Image,
    corner: tuple[int, int],
    cell: CellFinding,
    place: str,
    picture: CellImage,
    *,
    changed: bool,
) -> None:
    draw = ImageDraw.Draw(page)
    left, top = corner
    plain = Image.fromarray(picture.rgb).resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    page.paste(plain, (left, top))
    beside = (left + _SIDE + _GAP, top)
    if picture.evidence is None:
        draw.rectangle((*beside, beside[0] + _SIDE - 1, top + _SIDE - 1), outline=_SOFT)
        draw.text((beside[0] + _SIDE / 2, top + _SIDE / 2), "no map", _SOFT, _font(16), anchor="mm")
    else:
        page.paste(_overlaid(plain, picture.evidence), beside)
    tint = _TINTS[cell.label]
    draw.rectangle((left, top + _SIDE + 6, left + 5, top + _SIDE + 52), fill=tint)
    draw.text((left + 14, top + _SIDE + 5), wording.outcome(cell), tint, _font(19))
    if changed:
        draw.text((left + _TILE_WIDTH, top + _SIDE + 8), "by review", tint, _font(14), anchor="ra")
    probability = wording.percent(wording.stated(cell.probability_all or 0.0))
    draw.text((left + 14, top + _SIDE + 31), f"probability of a lymphoblast {probability}", _INK, _font(16))
    draw.text((left + _TILE_WIDTH, top + _SIDE + 33), place, _SOFT, _font(14), anchor="ra")


def _overlaid(plain: Image.Image, evidence: NDArray[np.float32]) -> Image.Image:
    """Return the cell in grey under its map: the stronger the evidence, the more of the colour."""
    shades = np.asarray(
        Image.fromarray(np.clip(evidence, 0.0, 1.0).astype(np.float32)).resize(plain.size, Image.Resampling.BILINEAR)
    )
    grey = np.repeat(np.asarray(plain.convert("L"), np.float32)[..., np.newaxis], 3, axis=2)
    weight = np.clip(1.2 * shades, 0.0, 0.75)[..., np.newaxis]
    return Image.fromarray(((1.0 - weight) * grey + weight * _colours(shades)).astype(np.uint8))


def _colours(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return false colours for 0 to 1, blue over yellow to red: shape (..., 3), 0 to 255."""
    stops = np.array([[40, 60, 160], [80, 170, 220], [250, 235, 120], [245, 140, 40], [190, 20, 30]], np.float32)
    places = np.linspace(0.0, 1.0, len(stops))
    return np.stack([np.interp(values, places, stops[:, band]) for band in range(3)], axis=-1).astype(np.float32)


def _add_scale(page: Image.Image, corner: tuple[int, int], width: int = 160, height: int = 12) -> None:
    ramp = np.broadcast_to(np.linspace(0.0, 1.0, width, dtype=np.float32), (height, width))
    page.paste(Image.fromarray(_colours(ramp).astype(np.uint8)), corner)


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return Pillow's own font: nothing has to be installed, and the pages are the same on every machine."""
    return ImageFont.load_default(size)


FORMAT = Format(
    ArtefactKind.KEY_IMAGES,
    DICOM,
    ".dcm",
    key_images,
    wants=lambda context, _findings: bool(context.pictures),
)
