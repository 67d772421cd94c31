"""One encoded frame to samples, one function a family of transfer syntaxes.

Every function checks the size that the bytes themselves state before it decodes: a few bytes that claim 60,000 x 60,000
pixels must not allocate them. Whatever a third-party decoder raises is the caller's to turn into `UndecodablePixels`.
"""

from __future__ import annotations

import math
import struct
import warnings
from collections.abc import Callable
from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from allpacs.decode.colour import Decoded, Samples
from allpacs.decode.layout import PixelLayout
from allpacs.domain.errors import UndecodablePixels

#: Encoded frame, layout and transfer syntax UID to samples.
FrameDecoder = Callable[[bytes, PixelLayout, str], Decoded]

#: Transfer syntaxes whose frames come out as they went in: bits that are not stored ones too.
_EXACT = frozenset({JPEG2000Lossless, HTJ2KLossless, HTJ2KLosslessRPCL, JPEGLSLossless})

#: Start of a JPEG 2000 codestream: markers SOC and SIZ (ISO/IEC 15444-1 A.4.1, A.5.1). A JP2 file may be around it.
_START_OF_CODESTREAM = b"\xff\x4f\xff\x51"
#: JPEG markers SOF0 to SOF15 and JPEG-LS's SOF55, less those between that are none: DHT, JPG, DAC.
_START_OF_FRAME = (frozenset(range(0xFFC0, 0xFFD0)) - {0xFFC4, 0xFFC8, 0xFFCC}) | {0xFFF7}


def decode_jpeg(encoded: bytes, layout: PixelLayout, _: str) -> Decoded:
    """Decode JPEG Baseline; the codestream's own colour markers count more than the header's word (PS3.5 8.2.1)."""
    image = Image.open(BytesIO(encoded), formats=("JPEG",))
    _check_size(image.width, image.height, layout)
    if layout.samples == 1:
        if image.mode != "L":
            raise UndecodablePixels(f"JPEG of mode {image.mode} where one sample a pixel was stated")
        return Decoded(np.array(image), layout.photometric, 8, exact=False)
    if image.mode != "RGB":
        raise UndecodablePixels(f"JPEG of mode {image.mode} where colour was stated")
    unmarked = "jfif" not in image.info and "adobe_transform" not in image.info and not _named_rgb(image)
    if layout.photometric == "RGB" and unmarked:
        # libjpeg takes unmarked components for YCbCr; asked for YCbCr it hands them out as they are: RGB.
        image.draft("YCbCr", None)
    return Decoded(np.array(image), "RGB", 8, exact=False)


def decode_rle(encoded: bytes, layout: PixelLayout, _: str) -> Decoded:
    """Decode RLE Lossless: one PackBits segment for each byte of a sample, high bytes first (PS3.5 Annex G).

    Pillow's PackBits decoder stops when a segment is full, so a small input cannot swell beyond the frame.
    """
    bytes_per_sample = layout.bits_allocated // 8
    segments, *offsets = struct.unpack_from("<16L", encoded)
    if bytes_per_sample == 0 or segments != layout.samples * bytes_per_sample:
        raise UndecodablePixels(f"{segments} RLE segments where {layout.samples * bytes_per_sample} were expected")
    pixels = layout.rows * layout.columns
    planes = np.empty((layout.samples, pixels, bytes_per_sample), dtype=np.uint8)
    ends = [*offsets[1:segments], len(encoded)]
    for segment, (start, end) in enumerate(zip(offsets[:segments], ends, strict=True)):
        # As one line of all pixels: rows that share a run, as some encoders write, decode too.
        plane = Image.frombytes("L", (pixels, 1), encoded[start:end], "packbits", "L")
        sample, byte = divmod(segment, bytes_per_sample)
        planes[sample, :, byte] = np.asarray(plane)[0]
    whole = planes.view(f">{'i' if layout.signed else 'u'}{bytes_per_sample}")
    pixelwise = whole.reshape(layout.samples, layout.rows, layout.columns).transpose(1, 2, 0)
    samples = pixelwise[:, :, 0] if layout.samples == 1 else pixelwise
    return Decoded(samples, layout.photometric, layout.bits_allocated)


def decode_jpeg_extended(encoded: bytes, layout: PixelLayout, transfer_syntax: str) -> Decoded:
    """Decode JPEG Extended: of 8 bits as the baseline is, of 12 bits (grey only) with GDCM."""
    if _jpeg_frame(encoded).precision == 8:
        return decode_jpeg(encoded, layout, transfer_syntax)
    if layout.samples != 1:
        raise UndecodablePixels("JPEG Extended of 12 bits is read in grey only")
    return _decode_by_gdcm(encoded, layout, transfer_syntax, most_bits=12)._replace(exact=False)


def decode_jpeg_lossless(encoded: bytes, layout: PixelLayout, transfer_syntax: str) -> Decoded:
    """Decode JPEG Lossless (processes 14 and 14 selection value 1) with GDCM; an Adobe marker of YCbCr counts."""
    return _decode_by_gdcm(encoded, layout, transfer_syntax, most_bits=16)


def decode_jpeg_2000(encoded: bytes, layout: PixelLayout, transfer_syntax: str) -> Decoded:
    """Decode JPEG 2000, high throughput or not, with OpenJPEG; a component transform in it is undone.

    Whether there is one is told by the codestream, not by Photometric Interpretation: slides exist that call plain
    YCbCr components YBR_ICT, and others that call transformed ones YBR_FULL or RGB.

    Source: ISO/IEC 15444-1 A.5.1 (SIZ), A.6.1 (COD), Annex G; PS3.5 8.2.4.
    """
    import openjpeg.utils

    start = encoded.find(_START_OF_CODESTREAM)
    if start < 0:
        raise UndecodablePixels("JPEG 2000 without a codestream")
    # Image and its offset on the reference grid, tiles, then each component's depth and step.
    right, bottom, left, top = struct.unpack_from(">4L", encoded, start + 8)
    (components,) = struct.unpack_from(">H", encoded, start + 40)
    _check_size(right - left, bottom - top, layout)
    depths = encoded[start + 42 : start + 42 + 3 * components]
    if components != layout.samples or depths != (depths[:1] + b"\1\1") * components:
        raise UndecodablePixels(f"JPEG 2000 of {components} components, or of components unlike one another")
    precision, signed = (depths[0] & 0x7F) + 1, bool(depths[0] & 0x80)
    _check_components("JPEG 2000", components, precision, layout)
    transformed = components == 3 and _component_transform(encoded, start)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Without the boxes of a JP2 file around it, which may speak of colours too.
        content = openjpeg.utils.decode_pixel_data(encoded[start:], version=2)
    samples = np.frombuffer(content, f"<{'i' if signed else 'u'}{1 if precision <= 8 else 2}")
    shape = (layout.rows, layout.columns) if components == 1 else (layout.rows, layout.columns, components)
    photometric = layout.photometric
    if transformed:
        photometric = "RGB"
    elif photometric in ("YBR_ICT", "YBR_RCT"):
        photometric = "YBR_FULL"  # by the formula of the irreversible transform, rounded
    return Decoded(samples.reshape(shape), photometric, precision, exact=transfer_syntax in _EXACT)


def decode_jpeg_ls(encoded: bytes, layout: PixelLayout, transfer_syntax: str) -> Decoded:
    """Decode JPEG-LS, lossless and near-lossless, with CharLS, which undoes the colour transforms of HP."""
    frame = _jpeg_frame(encoded)
    _check_size(frame.columns, frame.rows, layout)
    _check_components("JPEG-LS", frame.components, frame.precision, layout)
    samples = _by_pydicom(encoded, layout, transfer_syntax, "pyjpegls")
    photometric = "RGB" if layout.samples == 3 and frame.hp_transform else layout.photometric
    return Decoded(samples, photometric, frame.precision, exact=transfer_syntax in _EXACT)


#: The encapsulated transfer syntaxes, each with its decoder.
FRAME_DECODERS: dict[str, FrameDecoder] = {
    JPEGBaseline8Bit: decode_jpeg,
    JPEGExtended12Bit: decode_jpeg_extended,
    JPEGLossless: decode_jpeg_lossless,
    JPEGLosslessSV1: decode_jpeg_lossless,
    JPEG2000Lossless: decode_jpeg_2000,
    JPEG2000: decode_jpeg_2000,
    HTJ2KLossless: decode_jpeg_2000,
    HTJ2KLosslessRPCL: decode_jpeg_2000,
    HTJ2K: decode_jpeg_2000,
    JPEGLSLossless: decode_jpeg_ls,
    JPEGLSNearLossless: decode_jpeg_ls,
    RLELossless: decode_rle,
}


_NATIVE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian)

#: Transfer syntaxes whose pixels are read, the ones that lose and cost least first.
SUPPORTED_TRANSFER_SYNTAXES: tuple[str, ...] = tuple(str(uid) for uid in (*_NATIVE, *FRAME_DECODERS))


def pydicom_options(layout: PixelLayout) -> dict[str, object]:
    """Return the layout in the words of pydicom's decoders, for one frame."""
    return {
        "rows": layout.rows,
        "columns": layout.columns,
        "number_of_frames": 1,
        "samples_per_pixel": layout.samples,
        "photometric_interpretation": layout.photometric,
        "bits_allocated": layout.bits_allocated,
        "bits_stored": layout.bits_allocated,  # which of them are stored is ours to tell: pydicom ignores High Bit
        "pixel_representation": int(layout.signed),
        "planar_configuration": layout.planar,
        "pixel_keyword": "PixelData",
    }


def _by_pydicom(encoded: bytes, layout: PixelLayout, transfer_syntax: str, plugin: str) -> Samples:
    samples, _ = get_decoder(transfer_syntax).as_array(
        encapsulate([encoded], has_bot=False),
        index=0,
        raw=True,
        decoding_plugin=plugin,
        **pydicom_options(layout),  # type: ignore[arg-type]
    )
    return samples


def _decode_by_gdcm(encoded: bytes, layout: PixelLayout, transfer_syntax: str, *, most_bits: int) -> Decoded:
    frame = _jpeg_frame(encoded)
    _check_size(frame.columns, frame.rows, layout)
    _check_components("JPEG", frame.components, frame.precision, layout)
    precision = min(frame.precision, most_bits)  # GDCM itself states 16 bits of the 12 that it writes
    photometric = layout.photometric
    if layout.samples == 3 and frame.adobe_transform == 1:
        photometric = "YBR_FULL"  # GDCM writes 0 whatever the colours are, so 0 leaves them to the header
    return Decoded(_by_gdcm(encoded, precision, layout, transfer_syntax), photometric, precision)


def _by_gdcm(encoded: bytes, precision: int, layout: PixelLayout, transfer_syntax: str) -> Samples:
    """Decode one frame with GDCM; not by way of pydicom, which never asks it for 12 bits."""
    import gdcm

    for silence in (gdcm.Trace.DebugOff, gdcm.Trace.WarningOff, gdcm.Trace.ErrorOff):
        silence()  # it writes what it finds wrong to standard error
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(encoded)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((layout.columns, layout.rows, 1))
    image.SetDataElement(element)
    photometric = gdcm.PhotometricInterpretation.GetPIType(layout.photometric)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(photometric))
    image.SetPlanarConfiguration(0)
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(transfer_syntax)))
    bits, signed = 8 if precision <= 8 else 16, int(layout.signed)
    image.SetPixelFormat(gdcm.PixelFormat(layout.samples, bits, precision, precision - 1, signed))
    content = image.GetBuffer().encode("utf-8", "surrogateescape")  # its binding hands bytes out as text
    samples = np.frombuffer(content, f"<{'i' if layout.signed else 'u'}{bits // 8}")
    shape = (layout.rows, layout.columns, layout.samples)[: 2 if layout.samples == 1 else 3]
    return samples[: math.prod(shape)].reshape(shape)


def _check_size(columns: int, rows: int, layout: PixelLayout) -> None:
    if (columns, rows) != (layout.columns, layout.rows):
        raise UndecodablePixels(
            f"the encoded frame is {columns} x {rows} where {layout.columns} x {layout.rows} was stated"
        )


def _check_components(kind: str, components: int, precision: int, layout: PixelLayout) -> None:
    if components != layout.samples or not 2 <= precision <= layout.bits_allocated:
        raise UndecodablePixels(
            f"{kind} of {components} components of {precision} bits where {layout.samples} of "
            f"{layout.bits_allocated} allocated bits were stated"
        )


def _named_rgb(image: Image.Image) -> bool:
    """Whether the JPEG's components are called R, G, B."""
    layer: list[tuple[int, int, int, int]] = getattr(image, "layer", [])
    return bytes(component[0] for component in layer) in (b"RGB", b"rgb")


class _JpegFrame(NamedTuple):
    """What a JPEG or JPEG-LS codestream says up to its frame header (ISO/IEC 10918-1 B.2.2, 14495-1 C.2.2).

    Attributes
    ----------
    adobe_transform:
        Colour transform of an Adobe marker (APP14): 0 none, 1 YCbCr; None where there is no such marker.
    hp_transform:
        Colour transform of HP's JPEG-LS (APP8 ``mrfx``): 0 none, else of R, G, B.
    """

    precision: int
    rows: int
    columns: int
    components: int
    adobe_transform: int | None = None
    hp_transform: int = 0


def _jpeg_frame(encoded: bytes) -> _JpegFrame:
    offset, adobe, hewlett_packard = 2, None, 0
    while (marker := struct.unpack_from(">H", encoded, offset)[0]) not in _START_OF_FRAME:
        if marker == 0xFFFF:  # a fill byte
            offset += 1
            continue
        (length,) = struct.unpack_from(">H", encoded, offset + 2)
        if marker < 0xFF01 or length < 2:
            raise UndecodablePixels("JPEG without a frame header")
        content = encoded[offset + 4 : offset + 2 + length]
        if marker == 0xFFEE and content[:5] == b"Adobe" and len(content) >= 12:
            adobe = content[11]
        elif marker == 0xFFE8 and content[:4] == b"mrfx" and len(content) == 5:
            hewlett_packard = content[4]
        offset += 2 + length
    precision, rows, columns, components = struct.unpack_from(">BHHB", encoded, offset + 4)
    return _JpegFrame(precision, rows, columns, components, adobe, hewlett_packard)


def _component_transform(encoded: bytes, start: int) -> bool:
    """Return whether a JPEG 2000 codestream has the multiple component transform (ISO/IEC 15444-1 A.6.1)."""
    offset = start + 2
    while (marker := struct.unpack_from(">H", encoded, offset)[0]) != 0xFF90:  # Start of Tile-part
        (length,) = struct.unpack_from(">H", encoded, offset + 2)
        if marker == 0xFF52:  # COD: style, progression order, two bytes of layers, the transform
            if encoded[offset + 8] > 1:
                raise UndecodablePixels("JPEG 2000 with a component transform of its second part is not read")
            return encoded[offset + 8] == 1
        if marker < 0xFF01 or length < 2:
            break
        offset += 2 + length
    raise UndecodablePixels("JPEG 2000 does not say how it is coded")
