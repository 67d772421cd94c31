"""DICOM files made for tests: every transfer syntax and photometric interpretation that is read."""

from __future__ import annotations

import struct
import tempfile
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import gdcm
import numpy as np
from jpeg_ls import encode_array
from numpy.typing import NDArray
from PIL import Image, ImageCms
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.filewriter import dcmwrite, write_file_meta_info
from pydicom.pixels.encoders import RLELosslessEncoder
from pydicom.uid import (
    JPEG2000,
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

PATIENT_NAME = "Geheim^Patientin"
MONO = {"photometric": "MONOCHROME2", "samples": 1}
Encoder = Callable[[NDArray[np.generic]], bytes]


def smooth_rgb(rows: int = 22, columns: int = 34, shift: int = 0) -> NDArray[np.uint8]:
    """Return a picture with gentle slopes, different in every channel, that lossy coding hardly changes."""
    y, x = np.mgrid[0:rows, 0:columns]
    return np.stack([20 + 5 * x, 230 - 4 * x - 2 * y, 40 + shift + 6 * y], axis=2).astype(np.uint8)


def to_ybr(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return YBR_FULL by the formula of PS3.3 C.7.6.3.1.2."""
    r, g, b = (rgb[..., channel].astype(float) for channel in range(3))
    y = 0.2990 * r + 0.5870 * g + 0.1140 * b
    cb = -0.1687 * r - 0.3313 * g + 0.5000 * b + 128
    cr = 0.5000 * r - 0.4187 * g - 0.0813 * b + 128
    return np.clip(np.rint(np.stack([y, cb, cr], axis=-1)), 0, 255).astype(np.uint8)


def header(
    rows: int,
    columns: int,
    *,
    photometric: str = "RGB",
    samples: int = 3,
    bits: int = 8,
    stored: int | None = None,
    frames: int | None = None,
    planar: int = 0,
    signed: bool = False,
) -> Dataset:
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.2"
    ds.SOPInstanceUID = "1.2.3.4.5"
    ds.StudyInstanceUID = "1.2.3"
    ds.SeriesInstanceUID = "1.2.3.4"
    ds.PatientName = PATIENT_NAME
    ds.PatientID = "GEHEIM-4711"
    ds.Rows, ds.Columns = rows, columns
    ds.SamplesPerPixel = samples
    ds.PhotometricInterpretation = photometric
    if samples == 3:
        ds.PlanarConfiguration = planar
    ds.BitsAllocated, ds.BitsStored = bits, stored or bits
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(signed)
    if frames is not None:
        ds.NumberOfFrames = frames
    return ds


def part10(ds: Dataset, transfer_syntax: str, pixels: bytes) -> bytes:
    """Return the bytes of the file."""
    syntax = UID(transfer_syntax)
    if syntax.is_compressed and not syntax.is_deflated:
        ds.add_new("PixelData", "OB", pixels)
        ds["PixelData"].is_undefined_length = True
    else:
        ds.add_new("PixelData", "OW", pixels + b"\0" * (len(pixels) % 2))
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    file = BytesIO()
    dcmwrite(file, ds, enforce_file_format=True)
    return file.getvalue()


def native(ds: Dataset, transfer_syntax: str, samples: NDArray[np.generic]) -> bytes:
    """Return a file of uncompressed samples."""
    if transfer_syntax == ExplicitVRBigEndian:
        # 8-bit samples are written as OW: the bytes of every word change places (PS3.5 8.1).
        raw = samples.tobytes()
        content = raw + b"\0" * (len(raw) % 2)
        return part10(ds, transfer_syntax, np.frombuffer(content, "<u2").astype(">u2").tobytes())
    return part10(ds, transfer_syntax, samples.tobytes())


def encapsulated(ds: Dataset, transfer_syntax: str, frames: list[bytes], *, table: bool = False) -> bytes:
    """Return a file of encoded frames."""
    return part10(ds, transfer_syntax, encapsulate(frames, has_bot=table))


def restated(content: bytes, transfer_syntax: str) -> bytes:
    """Return a file whose File Meta Information states another transfer syntax; its data set is left as it is."""
    end = 144 + struct.unpack_from("<L", content, 140)[0]
    meta = dcmread(BytesIO(content[:end]), force=True).file_meta
    meta.TransferSyntaxUID = UID(transfer_syntax)
    file = BytesIO()
    write_file_meta_info(file, meta)
    return content[:132] + file.getvalue() + content[end:]


def jpeg(quality: int = 95, subsampling: int = 2) -> Encoder:
    """Encode as JFIF with YCbCr inside; 2 is 4:2:0, 1 is 4:2:2, 0 is 4:4:4."""

    def encode(rgb: NDArray[np.generic]) -> bytes:
        file = BytesIO()
        Image.fromarray(rgb).save(file, "JPEG", quality=quality, subsampling=subsampling)
        return file.getvalue()

    return encode


def jpeg_without_markers(components: NDArray[np.generic]) -> bytes:
    """Encode three components as they are, no colour transform, with neither a JFIF nor an Adobe marker."""
    file = BytesIO()
    height, width, _ = components.shape
    image = Image.frombytes("YCbCr", (width, height), components.tobytes())
    image.save(file, "JPEG", quality=95, subsampling=0)
    content = file.getvalue()
    if content[2:4] != b"\xff\xe0":
        raise ValueError("expected a JFIF marker to take out")
    return content[:2] + content[4 + struct.unpack(">H", content[4:6])[0] :]


def jpeg_with_adobe_marker(rgb: NDArray[np.generic]) -> bytes:
    """Encode YCbCr inside, said by an Adobe marker with transform 1, without JFIF."""
    content = jpeg_without_markers(to_ybr(rgb))  # type: ignore[arg-type]
    return content[:2] + b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x01" + content[2:]


def jpeg_2000(*, lossless: bool = True, transform: bool = True) -> Encoder:
    """Encode a bare codestream, with the multiple component transform or without."""

    def encode(samples: NDArray[np.generic]) -> bytes:
        file = BytesIO()
        options = {} if lossless else {"quality_mode": "rates", "quality_layers": [4]}
        mct = int(transform and samples.ndim == 3)
        Image.fromarray(samples).save(
            file, "JPEG2000", no_jp2=True, irreversible=not lossless, mct=mct, num_resolutions=3, **options
        )
        return file.getvalue()

    return encode


def jpeg_ls(error: int = 0, interleave: int = 2) -> Encoder:
    def encode(samples: NDArray[np.generic]) -> bytes:
        return bytes(encode_array(samples, lossy_error=error, interleave_mode=interleave if samples.ndim == 3 else 0))

    return encode


def rle(samples: NDArray[np.generic]) -> bytes:
    rows, columns = samples.shape[:2]
    planes = samples.shape[2] if samples.ndim == 3 else 1
    bits = samples.dtype.itemsize * 8
    return RLELosslessEncoder.encode(
        samples,
        rows=rows,
        columns=columns,
        samples_per_pixel=planes,
        photometric_interpretation="RGB" if planes == 3 else "MONOCHROME2",
        bits_allocated=bits,
        bits_stored=bits,
        pixel_representation=0,
        number_of_frames=1,
        planar_configuration=0,
        encoding_plugin="pydicom",
    )


def by_gdcm(transfer_syntax: str, stored: int | None = None) -> Encoder:
    """Encode with GDCM: JPEG lossless of 8 and 16 bits, JPEG Extended of 12."""

    def encode(samples: NDArray[np.generic]) -> bytes:
        rows, columns = samples.shape[:2]
        colour = {"photometric": "RGB", "samples": 3} if samples.ndim == 3 else MONO
        plain = header(rows, columns, bits=samples.dtype.itemsize * 8, stored=stored, **colour)
        with tempfile.TemporaryDirectory() as folder:
            before, after = f"{folder}/before.dcm", f"{folder}/after.dcm"
            Path(before).write_bytes(native(plain, ExplicitVRLittleEndian, samples))
            reader, writer = gdcm.ImageReader(), gdcm.ImageWriter()
            reader.SetFileName(before)
            change = gdcm.ImageChangeTransferSyntax()
            change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(transfer_syntax)))
            if not reader.Read():
                raise ValueError("GDCM does not read what is to be encoded")
            change.SetInput(reader.GetImage())
            if not change.Change():
                raise ValueError(f"GDCM does not encode {transfer_syntax}")
            writer.SetFileName(after)
            writer.SetFile(reader.GetFile())
            writer.SetImage(change.GetOutput())
            writer.Write()
            return next(generate_frames(dcmread(after).PixelData, number_of_frames=1))

    return encode


def linear_profile() -> bytes:
    """Return an ICC profile of sRGB's colours in linear light, made from littleCMS's own of sRGB.

    Each tone curve (rTRC, gTRC, bTRC) becomes that of gamma 1: a ``curv`` of no entries (ICC.1 10.6).
    """
    content = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    (count,) = struct.unpack_from(">L", content, 128)
    for entry in range(count):
        name, offset, _ = struct.unpack_from(">4sLL", content, 132 + 12 * entry)
        if name in (b"rTRC", b"gTRC", b"bTRC"):
            content[offset : offset + 12] = b"curv" + bytes(8)
            struct.pack_into(">L", content, 132 + 12 * entry + 8, 12)
        elif name == b"desc":  # it must not call itself sRGB
            (size,) = struct.unpack_from(">L", content, 132 + 12 * entry + 8)
            text = content[offset : offset + size].replace("sRGB".encode("utf-16-be"), "test".encode("utf-16-be"))
            content[offset : offset + size] = text
    return bytes(content)


def htj2k(name: str) -> bytes:
    """Return a codestream made with OpenJPH: `smooth_rgb`, or 16-bit grey of 900 x + 1500 y, 34 x 22 pixels."""
    return (Path(__file__).parent / "htj2k" / f"{name}.j2c").read_bytes()


def deflate_bomb(rows: int, columns: int, zeros: int) -> bytes:
    """Return a deflated file whose data set swells by `zeros` bytes that its header never mentions."""
    ds = header(rows, columns)
    ds.file_meta = FileMetaDataset()
    plain = native(ds, ExplicitVRLittleEndian, smooth_rgb(rows, columns))
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.1.99")
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    file = BytesIO()
    dcmwrite(file, _only_meta(meta), enforce_file_format=True)
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = plain[plain.index(b"\x08\x00\x05\x00CS") :]
    packed = packer.compress(body)
    for _ in range(zeros >> 20):
        packed += packer.compress(bytes(1 << 20))
    return _meta_part(file.getvalue()) + packed + packer.flush()


def _only_meta(meta: FileMetaDataset) -> Dataset:
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.file_meta = meta
    return ds


def _meta_part(content: bytes) -> bytes:
    length = struct.unpack_from("<L", content, 140)[0]  # (0002,0000) UL: group length
    return content[: 144 + length]


def seeds() -> dict[str, bytes]:
    """Return one small valid file of each kind, for tests that break them."""
    rgb = smooth_rgb()
    rows, columns, _ = rgb.shape
    grey = rgb[..., 0]
    palette = header(rows, columns, photometric="PALETTE COLOR", samples=1)
    for number, colour in enumerate(("Red", "Green", "Blue")):
        setattr(palette, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        table = (np.arange(256, dtype="<u2") * (number + 1)) & 0xFF
        setattr(palette, f"{colour}PaletteColorLookupTableData", (table << 8).astype("<u2").tobytes())
    twelve = grey.astype(np.uint16) * 16
    two = [rgb, smooth_rgb(shift=9)]
    return {
        "explicit": native(header(rows, columns, frames=2), ExplicitVRLittleEndian, np.stack(two)),
        "implicit": native(header(rows, columns), "1.2.840.10008.1.2", rgb),
        "deflated": native(header(rows, columns), "1.2.840.10008.1.2.1.99", rgb),
        "big-endian": native(header(rows, columns), ExplicitVRBigEndian, rgb),
        "palette": native(palette, ExplicitVRLittleEndian, grey),
        "jpeg": encapsulated(
            header(rows, columns, photometric="YBR_FULL_422", frames=2), JPEGBaseline8Bit, [jpeg()(f) for f in two]
        ),
        "jpeg-2000-lossless": encapsulated(
            header(rows, columns, photometric="YBR_RCT"), JPEG2000Lossless, [jpeg_2000()(rgb)]
        ),
        "jpeg-2000": encapsulated(
            header(rows, columns, photometric="YBR_ICT"), JPEG2000, [jpeg_2000(lossless=False)(rgb)]
        ),
        "jpeg-2000-grey": encapsulated(header(rows, columns, **MONO), JPEG2000Lossless, [jpeg_2000()(grey)]),
        "jpeg-ls": encapsulated(
            header(rows, columns, frames=2), JPEGLSLossless, [jpeg_ls()(f) for f in two], table=True
        ),
        "jpeg-ls-near": encapsulated(header(rows, columns, **MONO), JPEGLSNearLossless, [jpeg_ls(2)(grey)]),
        "jpeg-extended": encapsulated(
            header(rows, columns, bits=16, stored=12, **MONO),
            JPEGExtended12Bit,
            [by_gdcm(JPEGExtended12Bit, 12)(twelve)],
        ),
        "jpeg-lossless": encapsulated(header(rows, columns), JPEGLossless, [by_gdcm(JPEGLossless)(rgb)]),
        "jpeg-lossless-sv1": encapsulated(
            header(rows, columns, bits=16, **MONO), JPEGLosslessSV1, [by_gdcm(JPEGLosslessSV1)(twelve)]
        ),
        "htj2k": encapsulated(
            header(rows, columns, photometric="YBR_RCT", frames=2), HTJ2KLossless, [htj2k("rgb-lossless")] * 2
        ),
        "rle": encapsulated(header(rows, columns), RLELossless, [rle(rgb)]),
        "rle-16": encapsulated(
            header(rows, columns, bits=16, **MONO), RLELossless, [rle(grey.astype(np.uint16) * 257)]
        ),
    }
