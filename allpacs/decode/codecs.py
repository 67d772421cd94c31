"""One encoded frame to samples, one function a family of transfer syntaxes.

Every function checks the size that the bytes themselves state before it decodes: a few bytes that claim 60,000 x 60,000
pixels must not allocate them. Whatever a third-party decoder raises is the caller's to turn into `UndecodablePixels`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from io import BytesIO

import numpy as np
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    JPEG2000,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from allpacs.decode.colour import Samples
from allpacs.decode.layout import PixelLayout
from allpacs.domain.errors import UndecodablePixels

#: (encoded frame, layout, transfer syntax UID) to (samples, Photometric Interpretation of the samples).
FrameDecoder = Callable[[bytes, PixelLayout, str], tuple[Samples, str]]


def decode_jpeg(encoded: bytes, layout: PixelLayout, _: str) -> tuple[Samples, str]:
    """Decode JPEG Baseline; the codestream's own colour markers count more than the header's word (PS3.5 8.2.1)."""
    image = Image.open(BytesIO(encoded), formats=("JPEG",))
    _check_size(image.width, image.height, layout)
    if layout.samples == 1:
        if image.mode != "L":
            raise UndecodablePixels(f"JPEG of mode {image.mode} where one sample a pixel was stated")
        return np.array(image), layout.photometric
    if image.mode != "RGB":
        raise UndecodablePixels(f"JPEG of mode {image.mode} where colour was stated")
    unmarked = "jfif" not in image.info and "adobe_transform" not in image.info and not _named_rgb(image)
    if layout.photometric == "RGB" and unmarked:
        # libjpeg takes unmarked components for YCbCr; asked for YCbCr it hands them out as they are: RGB.
        image.draft("YCbCr", None)
    return np.array(image), "RGB"


def decode_rle(encoded: bytes, layout: PixelLayout, _: str) -> tuple[Samples, str]:
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
    return (pixelwise[:, :, 0] if layout.samples == 1 else pixelwise), layout.photometric


def decode_jpeg_2000(encoded: bytes, layout: PixelLayout, transfer_syntax: str) -> tuple[Samples, str]:
    """Decode JPEG 2000 with OpenJPEG as Pillow has it: grey up to 16 bits, colour of 8 bits."""
    with Image.open(BytesIO(encoded), formats=("JPEG2000",)) as image:
        _check_size(image.width, image.height, layout)
    return _by_pydicom(encoded, layout, transfer_syntax, "pillow")


def decode_jpeg_ls(encoded: bytes, layout: PixelLayout, transfer_syntax: str) -> tuple[Samples, str]:
    """Decode JPEG-LS, lossless and near-lossless, with CharLS."""
    _check_size(*_jpeg_ls_size(encoded), layout)
    return _by_pydicom(encoded, layout, transfer_syntax, "pyjpegls")


#: The encapsulated transfer syntaxes, each with its decoder.
FRAME_DECODERS: dict[str, FrameDecoder] = {
    JPEGBaseline8Bit: decode_jpeg,
    JPEG2000Lossless: decode_jpeg_2000,
    JPEG2000: decode_jpeg_2000,
    JPEGLSLossless: decode_jpeg_ls,
    JPEGLSNearLossless: decode_jpeg_ls,
    RLELossless: decode_rle,
}


def pydicom_options(layout: PixelLayout) -> dict[str, object]:
    """Return the layout in the words of pydicom's decoders, for one frame."""
    return {
        "rows": layout.rows,
        "columns": layout.columns,
        "number_of_frames": 1,
        "samples_per_pixel": layout.samples,
        "photometric_interpretation": layout.photometric,
        "bits_allocated": layout.bits_allocated,
        "bits_stored": layout.bits_stored,
        "pixel_representation": int(layout.signed),
        "planar_configuration": layout.planar,
        "pixel_keyword": "PixelData",
    }


def _by_pydicom(encoded: bytes, layout: PixelLayout, transfer_syntax: str, plugin: str) -> tuple[Samples, str]:
    samples, properties = get_decoder(transfer_syntax).as_array(
        encapsulate([encoded], has_bot=False),
        index=0,
        raw=True,
        decoding_plugin=plugin,
        **pydicom_options(layout),  # type: ignore[arg-type]
    )
    return samples, str(properties["photometric_interpretation"])


def _check_size(columns: int, rows: int, layout: PixelLayout) -> None:
    if (columns, rows) != (layout.columns, layout.rows):
        raise UndecodablePixels(
            f"the encoded frame is {columns} x {rows} where {layout.columns} x {layout.rows} was stated"
        )


def _named_rgb(image: Image.Image) -> bool:
    """Whether the JPEG's components are called R, G, B."""
    layer: list[tuple[int, int, int, int]] = getattr(image, "layer", [])
    return bytes(component[0] for component in layer) in (b"RGB", b"rgb")


def _jpeg_ls_size(encoded: bytes) -> tuple[int, int]:
    """Return (columns, rows) from the frame header, marker SOF55 (ISO/IEC 14495-1 C.2.2)."""
    offset = 2
    while encoded[offset : offset + 2] != b"\xff\xf7":
        marker, length = struct.unpack_from(">HH", encoded, offset)
        if marker < 0xFF01 or length < 2:
            raise UndecodablePixels("JPEG-LS without a frame header")
        offset += 2 + length
    rows, columns = struct.unpack_from(">HH", encoded, offset + 5)
    return columns, rows
