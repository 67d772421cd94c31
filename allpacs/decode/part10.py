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
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.filereader import read_dataset, read_sequence_item
from pydicom.pixels.decoders.base import get_decoder
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from allpacs.decode.codecs import FRAME_DECODERS, pydicom_options
from allpacs.decode.colour import Decoded, to_rgb
from allpacs.decode.encapsulation import EncapsulatedFrames
from allpacs.decode.guard import as_input_fault, opened
from allpacs.decode.icc import ToSrgb
from allpacs.decode.layout import PixelLayout, read_layout
from allpacs.decode.scale import stated_scale
from allpacs.dicom.deflate import inflated
from allpacs.dicom.encoding import HEAD_BYTES, Encoding, found_encoding, looks_like_part10
from allpacs.domain.errors import InputFault, UndecodablePixels
from allpacs.domain.image import Frame, UnreadableFrame

#: Index of a frame, from 0, to its samples.
_SamplesOf = Callable[[int], Decoded]

_NATIVE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian)

#: Transfer syntaxes whose pixels are read, the ones that lose and cost least first.
SUPPORTED_TRANSFER_SYNTAXES: tuple[str, ...] = tuple(str(uid) for uid in (*_NATIVE, *FRAME_DECODERS))

_UNDEFINED_LENGTH = 0xFFFFFFFF
_PIXEL_DATA = 0x7FE00010
#: VRs of Pixel Data in explicit VR; UN is what a gateway writes that does not know the element (PS3.5 6.2.2).
_PIXEL_VRS = frozenset({"OB", "OW", "UN"})
_FLOAT_PIXEL_DATA = (0x7FE00008, 0x7FE00009)
PER_FRAME_GROUPS = 0x52009230

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
            header = _read_until_pixels(stream, encoding, tags)
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
            self._header = _read_until_pixels(stream, encoding, _FRAME_TAGS)
            self.layout = read_layout(self._header, max_pixels=max_pixels)
            self.scale = stated_scale(self._header)
            vr, length = _enter_pixel_data(stream, encoding)
            self._to_srgb = ToSrgb(self._header, optical_path)
        make = _encapsulated if encoding.transfer_syntax in FRAME_DECODERS else _native
        self._samples = make(stream, self._header, self.layout, encoding, vr, length)

    def rgb(self, number: int) -> NDArray[np.uint8]:
        """Return a frame, numbered from 1, as an ``uint8`` array of shape (rows, columns, 3), sRGB.

        Raises
        ------
        UndecodablePixels
            It cannot be decoded.
        """
        with as_input_fault(f"frame {number} cannot be decoded"):
            rgb = to_rgb(self._samples(number - 1), self.layout, self._header)
            if rgb.shape != (self.layout.rows, self.layout.columns, 3):
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


def data_set(file: BinaryIO) -> tuple[BinaryIO, FileMetaDataset, Encoding]:
    """Return the stream at the data set's first element, the File Meta Information and how the data set is encoded."""
    head = file.read(HEAD_BYTES)
    if not looks_like_part10(head):
        raise UndecodablePixels("not a DICOM file")
    file.seek(132 if head[128:132] == b"DICM" else 0)
    # File Meta Information is always explicit VR little endian (PS3.10 7.1).
    group_2 = read_dataset(file, False, True, stop_when=lambda tag, _vr, _length: tag.group != 2)
    meta = FileMetaDataset(group_2)
    stated = str(meta.get("TransferSyntaxUID") or "") or None
    if stated is not None and stated not in SUPPORTED_TRANSFER_SYNTAXES:
        raise UndecodablePixels("the transfer syntax is not one that is read")
    stream = file
    try:
        stream = inflated(file) if stated == DeflatedExplicitVRLittleEndian else file
        return stream, meta, found_encoding(stream, stated)
    except InputFault as fault:
        stream.close()
        raise UndecodablePixels(str(fault)) from None


def _read_until_pixels(stream: BinaryIO, encoding: Encoding, tags: list[BaseTag | int] | None = None) -> Dataset:
    """Return the header without the functional groups of single frames: a slide has those of 100,000."""
    pixels = (_PIXEL_DATA, *_FLOAT_PIXEL_DATA)
    header = read_until(stream, encoding, PER_FRAME_GROUPS, *pixels, tags=tags)
    skipped = sum(1 for _ in per_frame_groups(stream, header, read=False))
    if skipped:
        rest = read_until(stream, encoding, *pixels, tags=tags)
        header.update(rest)
    return header


def read_until(stream: BinaryIO, encoding: Encoding, *stops: int, tags: list[BaseTag | int] | None = None) -> Dataset:
    """Return the elements before the first of some tags, and leave the stream at it or at the end.

    Parameters
    ----------
    tags:
        Only these; all where not given.
    """
    ends = frozenset(stops)  # asked for every element
    header = read_dataset(
        stream,
        encoding.implicit,
        encoding.little,
        stop_when=lambda tag, _vr, _length: tag in ends,
        specific_tags=tags,
        # pydicom looks at the first two bytes of a length again, wherever reading goes on: they may look like a VR.
        at_top_level=not encoding.implicit,
    )
    header.set_original_encoding(encoding.implicit, encoding.little, header._character_set)
    return header


def per_frame_groups(stream: BinaryIO, header: Dataset, *, read: bool = True) -> Iterator[Dataset]:
    """Yield the items of the Per-Frame Functional Groups Sequence one by one; nothing where the stream is not at it.

    Afterwards the stream is behind the sequence.

    Parameters
    ----------
    header:
        What was read of the stream until here.
    read:
        False skips items of a stated length: one empty item comes for all of them.
    """
    implicit, little = (bool(one) for one in header.original_encoding)
    start = stream.tell()
    head = stream.read(8 if implicit else 12)
    group, element = struct.unpack("<HH" if little else ">HH", head[:4]) if len(head) > 4 else (0, 0)
    if group << 16 | element != PER_FRAME_GROUPS:
        stream.seek(start)
        return
    (length,) = struct.unpack("<L" if little else ">L", head[-4:])
    end = None if length == _UNDEFINED_LENGTH else stream.tell() + length
    if end is not None and not read:
        stream.seek(end)
        yield Dataset()
        return
    while end is None or stream.tell() < end:
        item = read_sequence_item(stream, implicit, little, header._character_set)
        if item is None:
            return
        yield item


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
    if (group << 16 | element) != _PIXEL_DATA:
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
    if length == _UNDEFINED_LENGTH or available < expected:
        raise UndecodablePixels(f"Pixel Data holds {available} bytes where {expected} were expected")
    if layout.photometric == "YBR_FULL_422" and available >= expected // 2 * 3:
        raise UndecodablePixels("Pixel Data holds a full chrominance where YBR_FULL_422 was stated")

    decoder = get_decoder(encoding.native_syntax)
    options = pydicom_options(layout) | {"number_of_frames": layout.frames, "pixel_vr": vr}

    def samples_of(index: int) -> Decoded:
        # pydicom reads this frame's bytes only and puts the stream back to the start of the pixels.
        samples, properties = decoder.as_array(stream, index=index, raw=True, **options)  # type: ignore[arg-type]
        return Decoded(samples, str(properties["photometric_interpretation"]), layout.bits_allocated)

    return samples_of


def _encapsulated(
    stream: BinaryIO, header: Dataset, layout: PixelLayout, encoding: Encoding, _vr: str, length: int
) -> _SamplesOf:
    if length != _UNDEFINED_LENGTH:
        raise UndecodablePixels("Pixel Data is not encapsulated as the transfer syntax demands")
    with as_input_fault("the encapsulated frames cannot be found"):
        frames = EncapsulatedFrames(stream, header, layout.frames)
    syntax = encoding.transfer_syntax
    decode = FRAME_DECODERS[syntax]
    return lambda index: decode(frames[index], layout, syntax)


def _size(stream: BinaryIO) -> int:
    here = stream.tell()
    end = stream.seek(0, os.SEEK_END)
    stream.seek(here)
    return end
