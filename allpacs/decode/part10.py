"""DICOM files to headers and frames.

The invariant, tested with arbitrary bytes: a file decodes, or `UndecodablePixels` is raised with one line that holds no
patient data. What the header promises is checked against the file before anything large is allocated. Frames are read
and decoded one at a time, so that a whole-slide image takes no more memory than one of its frames.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    RLELossless,
)

from allpacs.decode.codecs import FRAME_DECODERS, pydicom_options
from allpacs.decode.colour import Decoded, to_rgb
from allpacs.decode.elements import PIXEL_DATA, UNDEFINED_LENGTH, data_set, read_until_pixels
from allpacs.decode.encapsulation import EncapsulatedFrames
from allpacs.decode.guard import as_input_fault, opened
from allpacs.decode.icc import ToSrgb
from allpacs.decode.layout import PixelLayout, read_layout
from allpacs.decode.scale import stated_scale
from allpacs.dicom.encoding import Encoding
from allpacs.domain.errors import UndecodablePixels
from allpacs.domain.image import Frame, UnreadableFrame

#: Index of a frame, from 0, and what it is to hold, to its samples.
_SamplesOf = Callable[[int, PixelLayout], Decoded]

#: VRs of Pixel Data in explicit VR; UN is what a gateway writes that does not know the element (PS3.5 6.2.2).
_PIXEL_VRS = frozenset({"OB", "OW", "UN"})

_FRAME_TAGS: list[BaseTag | int] = [
    Tag(keyword)
    for keyword in (
        *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration"),
        *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
        *("ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
        *(f"{colour}PaletteColorLookupTableDescriptor" for colour in ("Red", "Green", "Blue")),
        *(f"{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
        *("SharedFunctionalGroupsSequence", "PixelSpacing", "NominalScannedPixelSpacing", "ImagerPixelSpacing"),
        *("OpticalPathSequence", "ICCProfile"),
    )
]


def read_header(path: Path) -> Dataset:
    """Return everything before the pixels, with File Meta Information as ``file_meta``.

    Values are converted under the object's own Specific Character Set. An element whose value cannot be read is left
    out, so that using the header later raises nothing; so are the functional groups of single frames.

    Raises
    ------
    UndecodablePixels
        Not a DICOM data set.
    StoreFault
        The file cannot be opened.
    """
    header = _as_written(path)
    _drop_unreadable(header)
    if not header.get("SOPInstanceUID"):
        raise UndecodablePixels("the header has no SOP Instance UID")
    return header


def read_elements(path: Path, keywords: Iterable[str]) -> Dataset:
    """Return some elements of the header as they are written: a small part of the time of `read_header`.

    Whether one can be read is told by `readable`.

    Raises
    ------
    UndecodablePixels
        Not a DICOM data set.
    StoreFault
        The file cannot be opened.
    """
    return _as_written(path, [Tag(keyword) for keyword in keywords])


def _as_written(path: Path, tags: list[BaseTag | int] | None = None) -> Dataset:
    with opened(path) as file, as_input_fault("the header cannot be read"):
        stream, meta, encoding = data_set(file)
        with stream:
            header = read_until_pixels(stream, encoding, tags)
        header.file_meta = meta
        return header


def read_frames(path: Path, *, max_pixels: int = 100_000_000) -> Iterator[Frame | UnreadableFrame]:
    """Yield the frames as sRGB, one decoded at a time; of several, those that do not decode say why.

    Raises
    ------
    UndecodablePixels
        Corrupt, unsupported, empty, or more than `max_pixels` a frame: what can be told from the header and the lengths
        is raised before the first frame; of a single-frame image also what its decoder finds.
    StoreFault
        The file cannot be opened.
    """
    with open_frames(path, max_pixels=max_pixels) as frames:
        yield from frames.read(range(1, frames.layout.frames + 1))


@contextmanager
def open_frames(path: Path, *, max_pixels: int = 100_000_000, optical_path: int = 0) -> Iterator[OpenFrames]:
    """Open a file to read its frames in any order.

    Parameters
    ----------
    optical_path:
        Index of the optical path (Optical Path Sequence) whose ICC profile counts.

    Raises
    ------
    UndecodablePixels
        As `read_frames` raises before the first frame.
    StoreFault
        The file cannot be opened.
    """
    with opened(path) as file:
        with as_input_fault("the header cannot be read"):
            stream, _, encoding = data_set(file)
        with stream:
            yield OpenFrames(stream, encoding, max_pixels=max_pixels, optical_path=optical_path)


class OpenFrames:
    """The frames of an open file, each read and decoded when it is asked for.

    Attributes
    ----------
    layout:
        The checked shape of the pixels.
    scale:
        Distance of the pixels, where the object states it.
    """

    def __init__(self, stream: BinaryIO, encoding: Encoding, *, max_pixels: int, optical_path: int = 0) -> None:
        with as_input_fault("the header cannot be read"):
            self._header = read_until_pixels(stream, encoding, _FRAME_TAGS)
            self.layout = read_layout(self._header, max_pixels=max_pixels)
            self.scale = stated_scale(self._header)
            vr, length = _enter_pixel_data(stream, encoding)
            self._to_srgb = ToSrgb(self._header, optical_path)
        encapsulated = encoding.transfer_syntax in FRAME_DECODERS
        # RLE does not: what is cut off or broken would be taken for a small frame.
        self._states_its_size = encapsulated and encoding.transfer_syntax != RLELossless
        make = _encapsulated if encapsulated else _native
        self._samples = make(stream, self._header, self.layout, encoding, vr, length)

    def rgb(self, number: int, *, at_least: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """Return a frame, numbered from 1, as an ``uint8`` array of shape (rows, columns, 3), sRGB.

        Parameters
        ----------
        at_least:
            Rows and columns of the frame that matter: a tile at the edge of a slide may be encoded without the rest,
            which then is white. None: all do.

        Raises
        ------
        UndecodablePixels
            It cannot be decoded.
        """
        try:
            return self._rgb(number, self.layout)
        except UndecodablePixels:
            cut = None if at_least is None else self._cut_off(number, *at_least)
            if cut is None:
                raise
            return cut

    def _cut_off(self, number: int, rows: int, columns: int) -> NDArray[np.uint8] | None:
        """Return a frame whose codestream states no more than so many rows and columns, filled up with white."""
        layout = self.layout
        small = replace(layout, rows=min(rows, layout.rows), columns=min(columns, layout.columns))
        if not self._states_its_size or small == layout:
            return None
        try:
            cut = self._rgb(number, small)
        except UndecodablePixels:
            return None
        whole = np.full((layout.rows, layout.columns, 3), 255, np.uint8)
        whole[: small.rows, : small.columns] = cut
        return whole

    def _rgb(self, number: int, layout: PixelLayout) -> NDArray[np.uint8]:
        with as_input_fault(f"frame {number} cannot be decoded"):
            rgb = to_rgb(self._samples(number - 1, layout), layout, self._header)
            if rgb.shape != (layout.rows, layout.columns, 3):
                raise UndecodablePixels(f"frame {number}: the decoded frame has another size than stated")
            return self._to_srgb(rgb)

    def read(self, numbers: Iterable[int]) -> Iterator[Frame | UnreadableFrame]:
        """Yield some frames, numbered from 1, one decoded at a time; of several, those that do not decode say why.

        Raises
        ------
        UndecodablePixels
            The only frame of the file cannot be decoded.
        """
        for number in numbers:
            try:
                rgb = self.rgb(number)
            except UndecodablePixels as fault:
                if self.layout.frames == 1:
                    raise
                yield UnreadableFrame(number, str(fault))
            else:
                yield Frame(number, rgb, self.scale)


def readable(header: Dataset, tag: BaseTag) -> bool:
    """Convert an element and return whether it can be read; what within a sequence cannot be is dropped."""
    try:
        element = header[tag]
        if element.VR == "SQ":
            for part in element.value:
                _drop_unreadable(part)
    except Exception:  # noqa: BLE001 - a value's conversion raises anything; the rest of the header is still good
        return False
    return True


def _drop_unreadable(header: Dataset) -> None:
    for tag in list(header.keys()):
        if not readable(header, tag):
            del header[tag]


def _enter_pixel_data(stream: BinaryIO, encoding: Encoding) -> tuple[str, int]:
    """Move from the Pixel Data element's tag to its value; return VR and length."""
    head = stream.read(8)
    if len(head) < 8:
        raise UndecodablePixels("there is no Pixel Data")
    group, element, length = struct.unpack(f"{encoding.order}HHL", head)
    if (group << 16 | element) != PIXEL_DATA:
        raise UndecodablePixels("there is no Pixel Data of whole numbers")
    if encoding.implicit:
        return "OW", length
    vr = head[4:6].decode("ascii", "replace")
    if vr not in _PIXEL_VRS:
        raise UndecodablePixels("Pixel Data is neither OB nor OW: its length and place cannot be told")
    (length,) = struct.unpack(f"{encoding.order}L", stream.read(4))
    return ("OB" if vr == "UN" else vr), length


def _native(stream: BinaryIO, _: Dataset, layout: PixelLayout, encoding: Encoding, vr: str, length: int) -> _SamplesOf:
    if layout.photometric in ("YBR_ICT", "YBR_RCT"):
        raise UndecodablePixels(f"{layout.photometric} exists in JPEG 2000 only")
    if layout.photometric == "YBR_FULL_422" and (layout.columns % 2 or layout.planar or layout.bits_allocated != 8):
        raise UndecodablePixels("YBR_FULL_422 needs an even number of columns, 8 bits and colour by pixel")
    expected = (layout.frame_bits * layout.frames + 7) // 8
    available = min(length, _size(stream) - stream.tell())
    if length == UNDEFINED_LENGTH or available < expected:
        raise UndecodablePixels(f"Pixel Data holds {available} bytes where {expected} were expected")
    if layout.photometric == "YBR_FULL_422" and available >= expected // 2 * 3:
        raise UndecodablePixels("Pixel Data holds a full chrominance where YBR_FULL_422 was stated")

    decoder = get_decoder(encoding.native_syntax)
    options = pydicom_options(layout) | {"number_of_frames": layout.frames, "pixel_vr": vr}

    def samples_of(index: int, _: PixelLayout) -> Decoded:
        # pydicom reads this frame's bytes only and puts the stream back to the start of the pixels.
        samples, properties = decoder.as_array(stream, index=index, raw=True, **options)  # type: ignore[arg-type]
        return Decoded(samples, str(properties["photometric_interpretation"]), layout.bits_allocated)

    return samples_of


def _encapsulated(
    stream: BinaryIO, header: Dataset, layout: PixelLayout, encoding: Encoding, _vr: str, length: int
) -> _SamplesOf:
    if length != UNDEFINED_LENGTH:
        raise UndecodablePixels("Pixel Data is not encapsulated as the transfer syntax demands")
    with as_input_fault("the encapsulated frames cannot be found"):
        frames = EncapsulatedFrames(stream, header, layout.frames)
    syntax = encoding.transfer_syntax
    decode = FRAME_DECODERS[syntax]
    return lambda index, layout: decode(frames[index], layout, syntax)


def _size(stream: BinaryIO) -> int:
    here = stream.tell()
    end = stream.seek(0, os.SEEK_END)
    stream.seek(here)
    return end
