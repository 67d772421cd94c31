"""DICOM files to headers and frames.

The invariant, tested with arbitrary bytes: a file decodes, or `UndecodablePixels` is raised with one line that holds no
patient data. What the header promises is checked against the file before anything large is allocated. Frames are read
and decoded one at a time, so that a whole-slide image takes no more memory than one of its frames.
"""

from __future__ import annotations

import math
import os
import struct
import tempfile
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import generate_frames
from pydicom.filereader import read_dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from allpacs.decode.codecs import FRAME_DECODERS, pydicom_options
from allpacs.decode.colour import Samples, to_rgb
from allpacs.decode.guard import blaming_sender, opened
from allpacs.decode.layout import PixelLayout, read_layout
from allpacs.domain.errors import UndecodablePixels
from allpacs.domain.image import Frame

_NATIVE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian)

#: Transfer syntaxes whose pixels are read, the ones that lose and cost least first.
SUPPORTED_TRANSFER_SYNTAXES: tuple[str, ...] = tuple(str(uid) for uid in (*_NATIVE, *FRAME_DECODERS))

#: A deflated data set may grow to this many bytes; deflate packs zeros a thousandfold.
_MAX_INFLATED_BYTES = 2 * 1024**3
_INFLATE_IN_MEMORY_BYTES = 64 * 1024**2
_UNDEFINED_LENGTH = 0xFFFFFFFF
_PIXEL_DATA = 0x7FE00010
_FLOAT_PIXEL_DATA = (0x7FE00008, 0x7FE00009)
_PER_FRAME_GROUPS = 0x52009230

_FRAME_TAGS: list[BaseTag | int] = [
    Tag(keyword)
    for keyword in (
        *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration"),
        *("BitsAllocated", "BitsStored", "PixelRepresentation", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
        *(f"{colour}PaletteColorLookupTableDescriptor" for colour in ("Red", "Green", "Blue")),
        *(f"{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
        *("SharedFunctionalGroupsSequence", "PixelSpacing", "NominalScannedPixelSpacing"),
    )
]


def looks_like_part10(head: bytes) -> bool:
    """Whether the first bytes (132 suffice) are those of a DICOM file, with a preamble or without.

    Without one, the data set starts with File Meta Information or with group 0008 (PS3.10 7.1, older files).
    """
    return head[128:132] == b"DICM" or head[:2] in (b"\x02\x00", b"\x08\x00") or head[:4] == b"\x00\x08\x00\x05"


def read_header(path: Path) -> Dataset:
    """Return everything before the pixels, with File Meta Information as ``file_meta``.

    Values are converted under the object's own Specific Character Set. An element whose value cannot be read is left
    out, so that using the header later raises nothing; functional groups of single frames stay as they are.

    Raises
    ------
    UndecodablePixels
        Not a DICOM data set.
    StoreFault
        The file cannot be opened.
    """
    with opened(path) as file, blaming_sender("the header cannot be read"):
        stream, meta, syntax = _data_set(file)
        with stream:
            header = _read_until_pixels(stream, syntax)
        header.file_meta = meta
        _drop_unreadable(header)
        if not header.get("SOPInstanceUID"):
            raise UndecodablePixels("the header has no SOP Instance UID")
        return header


def read_frames(path: Path, *, max_pixels: int = 100_000_000) -> Iterator[Frame]:
    """Yield the frames as RGB, one decoded at a time.

    Spacing is Pixel Spacing (of the shared functional groups, else of the data set), else Nominal Scanned Pixel
    Spacing, else None; also None where rows and columns differ by more than 1 %. Imager Pixel Spacing is not used:
    behind a microscope's objective it is the pitch of the camera, not of the object.

    Raises
    ------
    UndecodablePixels
        Corrupt, unsupported, empty, or more than `max_pixels` a frame. What can be told from the header and the lengths
        is raised before the first frame, the rest at the frame concerned.
    StoreFault
        The file cannot be opened.

    Source: PS3.3 C.7.6.3 (Image Pixel), PS3.5 section 8 and Annex A.4 (encapsulation).
    """
    with opened(path) as file:
        with blaming_sender("the header cannot be read"):
            stream, _, syntax = _data_set(file)
        with stream:
            with blaming_sender("the header cannot be read"):
                header = _read_until_pixels(stream, syntax, _FRAME_TAGS)
                layout = read_layout(header, max_pixels=max_pixels)
                spacing_um = _spacing_um(header)
                vr, length = _enter_pixel_data(stream, syntax)
            decoder = _encapsulated if syntax in FRAME_DECODERS else _native
            number = 0
            for number, rgb in enumerate(decoder(stream, header, layout, syntax, vr, length), start=1):
                yield Frame(number, rgb, spacing_um)
            if number < layout.frames:
                raise UndecodablePixels(f"{layout.frames} frames were stated, {number} are there")


def _data_set(file: BinaryIO) -> tuple[BinaryIO, FileMetaDataset, str]:
    """Return the stream at the data set's first element, the File Meta Information and the transfer syntax UID."""
    head = file.read(132)
    if not looks_like_part10(head):
        raise UndecodablePixels("not a DICOM file")
    file.seek(132 if head[128:] == b"DICM" else 0)
    # File Meta Information is always explicit VR little endian (PS3.10 7.1).
    group_2 = read_dataset(file, False, True, stop_when=lambda tag, _vr, _length: tag.group != 2)
    meta = FileMetaDataset(group_2)
    syntax = str(meta.get("TransferSyntaxUID") or _guessed_syntax(file))
    if syntax not in SUPPORTED_TRANSFER_SYNTAXES:
        raise UndecodablePixels("the transfer syntax is not one that is read")
    if syntax == DeflatedExplicitVRLittleEndian:
        return _inflated(file), meta, syntax
    return file, meta, syntax


def _guessed_syntax(file: BinaryIO) -> str:
    """Tell the encoding of a bare data set by its first element's group and VR."""
    first = file.read(6)
    file.seek(-len(first), os.SEEK_CUR)
    if not (first[4:6].isalpha() and first[4:6].isupper()):
        return ImplicitVRLittleEndian
    return ExplicitVRBigEndian if first[:1] == b"\x00" else ExplicitVRLittleEndian


def _inflated(file: BinaryIO) -> BinaryIO:
    """Return the deflated data set as a plain stream, on disk where it is large (PS3.5 A.5)."""
    plain = tempfile.SpooledTemporaryFile(max_size=_INFLATE_IN_MEMORY_BYTES)  # noqa: SIM115 - the caller closes it
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    while not inflater.eof and (packed := inflater.unconsumed_tail or file.read(1 << 16)):
        plain.write(inflater.decompress(packed, 1 << 20))
        if plain.tell() > _MAX_INFLATED_BYTES:
            plain.close()
            raise UndecodablePixels(f"the deflated data set is larger than {_MAX_INFLATED_BYTES} bytes")
    plain.write(inflater.flush())  # less than one match: all input has been consumed
    plain.seek(0)
    return cast(BinaryIO, plain)


def _read_until_pixels(stream: BinaryIO, syntax: str, tags: list[BaseTag | int] | None = None) -> Dataset:
    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    header = read_dataset(
        stream,
        implicit,
        little,
        stop_when=lambda tag, _vr, _length: tag in (_PIXEL_DATA, *_FLOAT_PIXEL_DATA),
        specific_tags=tags,
    )
    header.set_original_encoding(implicit, little, header._character_set)
    return header


def _drop_unreadable(header: Dataset) -> None:
    for tag in list(header.keys()):
        if tag == _PER_FRAME_GROUPS:
            continue
        try:
            element = header[tag]
            if element.VR == "SQ":
                for part in element.value:
                    _drop_unreadable(part)
        except Exception:  # noqa: BLE001 - a value's conversion raises anything; the rest of the header is still good
            del header[tag]


def _enter_pixel_data(stream: BinaryIO, syntax: str) -> tuple[str, int]:
    """Move from the Pixel Data element's tag to its value; return VR and length."""
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    head = stream.read(8 if syntax == ImplicitVRLittleEndian else 12)
    if not head:
        raise UndecodablePixels("there is no Pixel Data")
    if syntax == ImplicitVRLittleEndian:
        group, element, length = struct.unpack(f"{order}HHL", head)
        vr = "OW"
    else:
        group, element, raw_vr, length = struct.unpack(f"{order}HH2s2xL", head)
        vr = raw_vr.decode("ascii", "replace")
    if (group << 16 | element) != _PIXEL_DATA:
        raise UndecodablePixels("there is no Pixel Data of whole numbers")
    return vr, length


def _native(
    stream: BinaryIO, header: Dataset, layout: PixelLayout, syntax: str, vr: str, length: int
) -> Iterator[NDArray[np.uint8]]:
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

    decoder = get_decoder(ExplicitVRLittleEndian if syntax == DeflatedExplicitVRLittleEndian else syntax)
    options = pydicom_options(layout) | {"number_of_frames": layout.frames, "pixel_vr": vr}
    for index in range(layout.frames):
        with blaming_sender(f"frame {index + 1} cannot be read"):
            # pydicom reads this frame's bytes only and puts the stream back to the start of the pixels.
            samples, properties = decoder.as_array(stream, index=index, raw=True, **options)  # type: ignore[arg-type]
            rgb = _checked(samples, str(properties["photometric_interpretation"]), layout, header)
        yield rgb


def _encapsulated(
    stream: BinaryIO, header: Dataset, layout: PixelLayout, syntax: str, _vr: str, length: int
) -> Iterator[NDArray[np.uint8]]:
    if length != _UNDEFINED_LENGTH:
        raise UndecodablePixels("Pixel Data is not encapsulated as the transfer syntax demands")
    with blaming_sender("the encapsulated frames cannot be found"):
        _check_fragments(stream, layout.frames)
        offsets = None
        if "ExtendedOffsetTable" in header and "ExtendedOffsetTableLengths" in header:
            offsets = (header.ExtendedOffsetTable, header.ExtendedOffsetTableLengths)
        encoded_frames = generate_frames(stream, number_of_frames=layout.frames, extended_offsets=offsets)
    decode = FRAME_DECODERS[syntax]
    # Without offset tables more frames than stated may come out; the stated ones count.
    encoded_frames = islice(encoded_frames, layout.frames)
    for number in range(1, layout.frames + 1):
        with blaming_sender(f"frame {number} cannot be decoded"):
            encoded = next(encoded_frames, None)
            if encoded is None:
                return
            samples, photometric = decode(encoded, layout, syntax)
            rgb = _checked(samples, photometric, layout, header)
        yield rgb


def _checked(samples: Samples, photometric: str, layout: PixelLayout, header: Dataset) -> NDArray[np.uint8]:
    rgb = to_rgb(samples, photometric, layout, header)
    if rgb.shape != (layout.rows, layout.columns, 3):
        raise UndecodablePixels("the decoded frame has another size than stated")
    return rgb


def _check_fragments(stream: BinaryIO, frames: int) -> None:
    """Walk over the items of encapsulated Pixel Data, and put the stream back (PS3.5 A.4).

    A frame takes at least one fragment; every fragment must lie within the file.
    """
    start, end = stream.tell(), _size(stream)
    items = 0
    while len(item := stream.read(8)) == 8:
        group, element, length = struct.unpack("<HHL", item)
        if (group, element) == (0xFFFE, 0xE0DD):
            break
        if (group, element) != (0xFFFE, 0xE000) or length > end - stream.tell():
            raise UndecodablePixels(f"the encapsulated Pixel Data is cut off or broken after {items} items")
        stream.seek(length, os.SEEK_CUR)
        items += 1
    if items < frames + 1:  # the first item is the offset table
        raise UndecodablePixels(f"{frames} frames were stated, {max(items - 1, 0)} fragments are there")
    stream.seek(start)


def _size(stream: BinaryIO) -> int:
    here = stream.tell()
    end = stream.seek(0, os.SEEK_END)
    stream.seek(here)
    return end


def _spacing_um(header: Dataset) -> float | None:
    places = [header]
    for shared in header.get("SharedFunctionalGroupsSequence") or ():
        places[:0] = shared.get("PixelMeasuresSequence") or ()
    for keyword in ("PixelSpacing", "NominalScannedPixelSpacing"):
        for place in places:
            spacing = _micrometres(place, keyword)
            if spacing is not None:
                return spacing
    return None


def _micrometres(place: Dataset, keyword: str) -> float | None:
    try:
        between_rows, between_columns = (float(value) * 1000 for value in place[keyword].value)
    except (KeyError, TypeError, ValueError):
        return None  # a wrong spacing is not worth losing the pixels for
    usable = all(math.isfinite(value) and value > 0 for value in (between_rows, between_columns))
    return between_rows if usable and math.isclose(between_rows, between_columns, rel_tol=0.01) else None
