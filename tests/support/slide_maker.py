"""Synthetic whole slides: pyramids of any size with known cells, written tile by tile.

A slide is a grid of *stamps* of 1280 x 1280 pixels: either bare glass or 16 synthetic fields of 320 pixels, whose white
cells lie across the borders of tiles and of regions. Only what differs is drawn and encoded, so that a slide of
40,960 x 40,960 pixels takes seconds, and no more memory than one row of tiles.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGBaseline8Bit

from allpacs.demo.synthetic import FIELD_LIGHT, RED_CELL_SHARE, draw_field, place_cells
from allpacs.domain.identity import derive_uid

WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
FIELD_PX, STAMP_PX = 320, 1280
CELLS_IN_A_FIELD = 3
CELLS_IN_A_STAMP = CELLS_IN_A_FIELD * (STAMP_PX // FIELD_PX) ** 2
#: A red cell is 7.2 µm wide.
SPACING_UM = 3.6 / (RED_CELL_SHARE * FIELD_PX)

Tile = NDArray[np.uint8]


@dataclass(frozen=True)
class SyntheticSlide:
    """What is on a slide and how it is cut.

    Attributes
    ----------
    stamps:
        Down and across.
    filled:
        Whether the stamp in a row and column holds fields; the others are glass.
    """

    stamps: tuple[int, int]
    filled: Callable[[int, int], bool] = field(default=lambda _row, _column: True)
    seed: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the finest level."""
        return self.stamps[0] * STAMP_PX, self.stamps[1] * STAMP_PX

    def cells(self) -> list[tuple[float, float]]:
        """Return column and row of the middle of every white cell."""
        one = [
            (x + column * FIELD_PX, y + row * FIELD_PX)
            for row in range(STAMP_PX // FIELD_PX)
            for column in range(STAMP_PX // FIELD_PX)
            for x, y in _cells_of_field(self._seed(row, column))
        ]
        return [
            (x + column * STAMP_PX, y + row * STAMP_PX)
            for row in range(self.stamps[0])
            for column in range(self.stamps[1])
            if self.filled(row, column)
            for x, y in one
        ]

    def region(self, x: int, y: int, width: int, height: int, step: int = 1) -> Tile:
        """Return a region of the level that is `step` times coarser than the finest, in pixels of that level."""
        side = STAMP_PX // step
        glass = np.rint(FIELD_LIGHT).astype(np.uint8)
        rgb = np.broadcast_to(glass, (height, width, 3)).copy()
        stamp = _stamp(self.seed, step)
        for row in range(y // side, min(self.stamps[0], -(-(y + height) // side))):
            for column in range(x // side, min(self.stamps[1], -(-(x + width) // side))):
                if self.filled(row, column):
                    top, left = row * side - y, column * side - x
                    rows, columns = (
                        slice(max(0, top), min(height, top + side)),
                        slice(max(0, left), min(width, left + side)),
                    )
                    rgb[rows, columns] = stamp[
                        rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
                    ]
        return rgb

    def _seed(self, row: int, column: int) -> int:
        return self.seed * 100 + row * 10 + column


@cache
def _cells_of_field(seed: int) -> tuple[tuple[float, float], ...]:
    return tuple((cell.x, cell.y) for cell in place_cells(seed, CELLS_IN_A_FIELD, (FIELD_PX, FIELD_PX)))


@cache
def _stamp(seed: int, step: int) -> Tile:
    if step > 1:
        fine = _stamp(seed, 1).reshape(STAMP_PX // step, step, STAMP_PX // step, step, 3)
        return np.rint(fine.mean((1, 3))).astype(np.uint8)
    side = STAMP_PX // FIELD_PX
    return np.concatenate(
        [
            np.concatenate(
                [
                    draw_field(seed * 100 + row * 10 + column, CELLS_IN_A_FIELD, (FIELD_PX, FIELD_PX))
                    for column in range(side)
                ],
                axis=1,
            )
            for row in range(side)
        ]
    )


def slide_header(
    rows: int,
    columns: int,
    tile_px: int,
    frames: int,
    *,
    uid: str,
    series: str = "1.2.826.1.5",
    study: str = "1.2.826.1",
    flavour: str = "VOLUME",
    resampled: bool = False,
    spacing_um: float | None = SPACING_UM,
    sparse: bool = False,
    pyramid: str | None = "1.2.826.1.6",
    photometric: str = "YBR_FULL_422",
    **more: object,
) -> Dataset:
    """Return the header of a VL Whole Slide Microscopy instance (PS3.3 A.32.8); `more` are further elements."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = ["DERIVED" if resampled else "ORIGINAL", "PRIMARY", flavour, "RESAMPLED" if resampled else "NONE"]
    ds.SOPClassUID, ds.SOPInstanceUID = WHOLE_SLIDE, uid
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study, series
    ds.PatientName, ds.PatientID = "Geheim^Patientin", "GEHEIM-4711"
    ds.PatientBirthDate = ds.PatientSex = ds.StudyDate = ds.StudyTime = ds.AccessionNumber = ds.StudyID = ""
    ds.ReferringPhysicianName = ""
    ds.Modality, ds.SeriesNumber, ds.InstanceNumber = "SM", 1, 1
    ds.Manufacturer, ds.ManufacturerModelName = "Maker", "Synthetic slide: not real cells"
    ds.DeviceSerialNumber, ds.SoftwareVersions = "1", "1"
    ds.ContentDate, ds.ContentTime, ds.AcquisitionDateTime = "20260101", "120000", "20260101120000"
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = "1.2.826.1.7", "SLIDE_CORNER"
    ds.ContainerIdentifier, ds.IssuerOfTheContainerIdentifierSequence = "S-1", []
    ds.ContainerTypeCodeSequence = [_code("433466003", "SCT", "Microscope slide")]
    ds.AcquisitionContextSequence = []
    ds.SpecimenDescriptionSequence = [_specimen()]
    if pyramid:
        ds.PyramidUID = pyramid
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, photometric, 0
    ds.Rows = ds.Columns = tile_px
    ds.NumberOfFrames = frames
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation = 7, 0
    ds.BurnedInAnnotation, ds.LossyImageCompression, ds.VolumetricProperties = "NO", "01", "VOLUME"
    ds.LossyImageCompressionRatio, ds.LossyImageCompressionMethod = 10, "ISO_10918_1"
    ds.SpecimenLabelInImage, ds.FocusMethod, ds.ExtendedDepthOfField = "NO", "AUTO", "NO"
    ds.TotalPixelMatrixRows, ds.TotalPixelMatrixColumns = rows, columns
    origin = Dataset()
    origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem = "20", "50"
    ds.TotalPixelMatrixOriginSequence = [origin]
    ds.ImageOrientationSlide = ["0", "-1", "0", "-1", "0", "0"]
    ds.TotalPixelMatrixFocalPlanes, ds.NumberOfOpticalPaths = 1, 1
    path = Dataset()
    path.OpticalPathIdentifier = "1"
    path.IlluminationTypeCodeSequence = [_code("111744", "DCM", "Brightfield illumination")]
    path.IlluminationColorCodeSequence = [_code("414298005", "SCT", "Full Spectrum")]
    path.ICCProfile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    ds.OpticalPathSequence = [path]
    organization = Dataset()
    organization.DimensionOrganizationUID = derive_uid("dimensions", uid)
    ds.DimensionOrganizationSequence = [organization]
    ds.DimensionOrganizationType = "TILED_SPARSE" if sparse else "TILED_FULL"
    shared, measures = Dataset(), Dataset()
    if spacing_um is not None:
        measures.PixelSpacing = [f"{spacing_um / 1000:.9g}"] * 2
        measures.SliceThickness = "0.001"
        ds.ImagedVolumeWidth, ds.ImagedVolumeHeight = columns * spacing_um / 1000, rows * spacing_um / 1000
        ds.ImagedVolumeDepth = 1.0
        shared.PixelMeasuresSequence = [measures]
    if sparse:
        ds.DimensionIndexSequence = [
            _dimension(organization.DimensionOrganizationUID, axis)
            for axis in ("RowPositionInTotalImagePixelMatrix", "ColumnPositionInTotalImagePixelMatrix")
        ]
    frame_type = Dataset()
    frame_type.FrameType = ds.ImageType
    shared.WholeSlideMicroscopyImageFrameTypeSequence = [frame_type]
    ds.SharedFunctionalGroupsSequence = [shared]
    if flavour in ("LABEL", "OVERVIEW"):
        ds.SpecimenLabelInImage = "YES"
    if flavour == "LABEL":
        ds.BarcodeValue = ds.LabelText = ""
    for keyword, value in more.items():
        setattr(ds, keyword, value)
    return ds


def write_level(
    path: Path,
    slide: SyntheticSlide,
    *,
    step: int = 1,
    tile_px: int = 256,
    tiles: Sequence[int] | None = None,
    copies: int = 1,
    sparse: bool = False,
    header: Callable[[Dataset], None] = lambda _: None,
    **about: object,
) -> Dataset:
    """Write one level as JPEG tiles, one at a time; return its header.

    Parameters
    ----------
    step:
        How much coarser than the finest level.
    tiles:
        Only these, by their number in the matrix: the part of a concatenation, or a sparse level.
    copies:
        How often the whole is written, as focal planes or optical paths are: all but the middle one is glass.
    header:
        Changes the header before it is written.
    """
    rows, columns = (size // step for size in slide.size)
    across, down = -(-columns // tile_px), -(-rows // tile_px)
    numbers = range(across * down) if tiles is None else tiles
    usual = {"uid": derive_uid("slide", path.name), "resampled": step > 1, "spacing_um": SPACING_UM * step}
    stated: dict[str, Any] = usual | about
    ds = slide_header(rows, columns, tile_px, len(numbers) * copies, sparse=sparse, **stated)
    if sparse:
        ds.PerFrameFunctionalGroupsSequence = [
            _place(number % across * tile_px, number // across * tile_px, plane)
            for plane in range(copies)
            for number in numbers
        ]
    header(ds)
    encode = _encoder(slide, step, tile_px, across)

    def frames() -> Iterator[bytes]:
        for plane in range(copies):
            for number in numbers:
                yield encode(number) if plane == copies // 2 else _jpeg(np.full((tile_px, tile_px, 3), 216, np.uint8))

    with path.open("wb") as file:
        write_file(file, ds, frames())
    return ds


def write_pyramid(folder: Path, slide: SyntheticSlide, *, steps: Sequence[int] = (1, 4, 16)) -> list[Path]:
    """Write the levels of a pyramid, a label and an overview; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for step in steps:
        paths.append(folder / f"level-{step}.dcm")
        write_level(paths[-1], slide, step=step)
    for flavour in ("LABEL", "OVERVIEW"):
        paths.append(folder / f"{flavour.lower()}.dcm")
        write_level(paths[-1], SyntheticSlide((1, 1)), step=5, flavour=flavour, pyramid=None, resampled=False)
    return paths


def _encoder(slide: SyntheticSlide, step: int, tile_px: int, across: int) -> Callable[[int], bytes]:
    """Return the encoded tile of a number; tiles that look alike are encoded once."""
    known: dict[bytes, bytes] = {}

    def encode(number: int) -> bytes:
        tile = slide.region(number % across * tile_px, number // across * tile_px, tile_px, tile_px, step)
        content = tile.tobytes()
        if content not in known:
            if len(known) > 400:
                known.clear()
            known[content] = _jpeg(tile)
        return known[content]

    return encode


def _jpeg(rgb: Tile) -> bytes:
    file = BytesIO()
    Image.fromarray(rgb).save(file, "JPEG", quality=90, subsampling=1)
    return file.getvalue()


def write_file(file: BinaryIO, ds: Dataset, frames: Iterator[bytes]) -> None:
    """Write a Part 10 file whose encapsulated frames come one at a time, without an offset table (PS3.5 A.4)."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = UID(WHOLE_SLIDE), ds.SOPInstanceUID
    plain = BytesIO()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian  # pydicom asks for pixels where it is JPEG
    dcmwrite(plain, ds, enforce_file_format=True)
    content = plain.getvalue()
    before, after = (
        uid + b"\0" * (len(uid) % 2) for uid in (ExplicitVRLittleEndian.encode(), JPEGBaseline8Bit.encode())
    )
    length = struct.unpack_from("<L", content, 140)[0] + len(after) - len(before)
    old = struct.pack("<HH2sH", 2, 0x10, b"UI", len(before)) + before
    new = struct.pack("<HH2sH", 2, 0x10, b"UI", len(after)) + after
    content = content[:140] + struct.pack("<L", length) + content[144:].replace(old, new, 1)
    file.write(content)
    file.write(struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF))
    file.write(struct.pack("<HHL", 0xFFFE, 0xE000, 0))
    for frame in frames:
        padded = frame + b"\0" * (len(frame) % 2)
        file.write(struct.pack("<HHL", 0xFFFE, 0xE000, len(padded)))
        file.write(padded)
    file.write(struct.pack("<HHL", 0xFFFE, 0xE0DD, 0))


def _place(x: int, y: int, plane: int) -> Dataset:
    """Return the functional groups of a sparse tile."""
    place = Dataset()
    place.XOffsetInSlideCoordinateSystem, place.YOffsetInSlideCoordinateSystem = "0", "0"
    place.ZOffsetInSlideCoordinateSystem = str(plane)
    place.ColumnPositionInTotalImagePixelMatrix, place.RowPositionInTotalImagePixelMatrix = x + 1, y + 1
    path = Dataset()
    path.OpticalPathIdentifier = "1"
    content = Dataset()
    content.DimensionIndexValues = [y + 1, x + 1]
    groups = Dataset()
    groups.FrameContentSequence = [content]
    groups.PlanePositionSlideSequence, groups.OpticalPathIdentificationSequence = [place], [path]
    return groups


def _dimension(organization_uid: str, axis: str) -> Dataset:
    dimension = Dataset()
    dimension.DimensionOrganizationUID = organization_uid
    dimension.DimensionIndexPointer = Tag(axis)
    dimension.FunctionalGroupPointer = Tag("PlanePositionSlideSequence")
    return dimension


def _specimen() -> Dataset:
    specimen = Dataset()
    specimen.SpecimenIdentifier, specimen.SpecimenUID = "S-1-A", "1.2.826.1.8"
    specimen.IssuerOfTheSpecimenIdentifierSequence, specimen.SpecimenPreparationSequence = [], []
    return specimen


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code
