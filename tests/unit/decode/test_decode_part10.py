"""DICOM files to frames: every transfer syntax and photometric interpretation, and what is refused."""

from __future__ import annotations

import struct
import subprocess
import tracemalloc
import zlib
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
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

import decode_samples as samples
from allpacs.decode import part10
from allpacs.decode.codecs import SUPPORTED_TRANSFER_SYNTAXES
from allpacs.decode.open import read_frame_of
from allpacs.decode.part10 import read_frames, read_header
from allpacs.dicom import deflate as inflate
from allpacs.domain.errors import InputFault, StoreFault, UndecodablePixels
from allpacs.domain.image import Frame, UnreadableFrame

NATIVE = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
RGB = samples.smooth_rgb()
ROWS, COLUMNS, _ = RGB.shape
GREY = RGB[..., 0]


def frames_of(folder: Path, content: bytes) -> list[NDArray[np.uint8]]:
    path = folder / "instance.dcm"
    path.write_bytes(content)
    decoded = [frame for frame in read_frames(path) if isinstance(frame, Frame)]
    assert [frame.number for frame in decoded] == list(range(1, len(decoded) + 1))
    for frame in decoded:
        assert frame.rgb.dtype == np.uint8
        assert frame.rgb.ndim == 3
        assert frame.rgb.shape[2] == 3
        assert frame.rgb.flags.c_contiguous
    return [frame.rgb for frame in decoded]


def refusal(folder: Path, content: bytes) -> str:
    path = folder / "instance.dcm"
    path.write_bytes(content)
    with pytest.raises(UndecodablePixels) as caught:
        list(read_frames(path))
    reason = str(caught.value)
    assert "\n" not in reason
    assert "eheim" not in reason.lower()
    return reason


def close(found: NDArray[np.uint8], wanted: NDArray[np.uint8], tolerance: int) -> bool:
    return found.shape == wanted.shape and int(np.abs(found.astype(int) - wanted.astype(int)).max()) <= tolerance


def header(**options: object) -> Dataset:
    return samples.header(ROWS, COLUMNS, **options)  # type: ignore[arg-type]


class TestUncompressed:
    @pytest.mark.parametrize("syntax", NATIVE)
    @pytest.mark.parametrize("planar", [0, 1])
    def test_rgb(self, tmp_path: Path, syntax: str, planar: int) -> None:
        stored = RGB if planar == 0 else np.ascontiguousarray(RGB.transpose(2, 0, 1))
        (found,) = frames_of(tmp_path, samples.native(header(planar=planar), syntax, stored))
        assert (found == RGB).all()

    @pytest.mark.parametrize("syntax", NATIVE)
    def test_frames_of_odd_length(self, tmp_path: Path, syntax: str) -> None:
        wanted = [samples.smooth_rgb(5, 7, shift) for shift in range(3)]
        ds = samples.header(5, 7, frames=3)
        found = frames_of(tmp_path, samples.native(ds, syntax, np.stack(wanted)))
        assert len(found) == 3
        assert all((one == other).all() for one, other in zip(found, wanted, strict=True))

    @pytest.mark.parametrize("syntax", NATIVE)
    def test_ybr_full(self, tmp_path: Path, syntax: str) -> None:
        stored = samples.to_ybr(RGB)
        (found,) = frames_of(tmp_path, samples.native(header(photometric="YBR_FULL"), syntax, stored))
        assert close(found, RGB, 3)

    @pytest.mark.parametrize("syntax", NATIVE)
    def test_ybr_full_422(self, tmp_path: Path, syntax: str) -> None:
        pairs = RGB.copy()
        pairs[:, 1::2] = pairs[:, ::2]  # both pixels of a pair alike: sub-sampling loses nothing
        ybr = samples.to_ybr(pairs)
        stored = np.stack([ybr[:, ::2, 0], ybr[:, 1::2, 0], ybr[:, ::2, 1], ybr[:, ::2, 2]], axis=2)
        (found,) = frames_of(tmp_path, samples.native(header(photometric="YBR_FULL_422"), syntax, stored))
        assert close(found, pairs, 3)

    def test_full_chrominance_called_422_is_refused(self, tmp_path: Path) -> None:
        content = samples.native(header(photometric="YBR_FULL_422"), ExplicitVRLittleEndian, samples.to_ybr(RGB))
        assert "422" in refusal(tmp_path, content)

    @pytest.mark.parametrize("syntax", NATIVE)
    @pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
    def test_monochrome(self, tmp_path: Path, syntax: str, photometric: str) -> None:
        ds = header(photometric=photometric, samples=1)
        (found,) = frames_of(tmp_path, samples.native(ds, syntax, GREY))
        wanted = GREY if photometric == "MONOCHROME2" else 255 - GREY
        assert all((found[..., channel] == wanted).all() for channel in range(3))

    @pytest.mark.parametrize("syntax", NATIVE)
    @pytest.mark.parametrize("stored", [10, 12, 16])
    def test_sixteen_bits_are_scaled_by_bits_stored(self, tmp_path: Path, syntax: str, stored: int) -> None:
        top = (1 << stored) - 1
        values = np.linspace(0, top, ROWS * COLUMNS).astype(np.uint16).reshape(ROWS, COLUMNS)
        raw = values.astype(">u2") if syntax == ExplicitVRBigEndian else values
        ds = header(photometric="MONOCHROME2", samples=1, bits=16, stored=stored)
        (found,) = frames_of(tmp_path, samples.part10(ds, syntax, raw.tobytes()))
        assert (found[..., 0] == np.rint(values * (255 / top))).all()
        assert found[0, 0, 0] == 0
        assert found[-1, -1, 0] == 255

    def test_signed_values_span_the_range(self, tmp_path: Path) -> None:
        values = np.linspace(-2048, 2047, ROWS * COLUMNS).astype(np.int16).reshape(ROWS, COLUMNS)
        ds = header(photometric="MONOCHROME2", samples=1, bits=16, stored=12, signed=True)
        (found,) = frames_of(tmp_path, samples.native(ds, ExplicitVRLittleEndian, values))
        assert (found[..., 0] == np.rint((values.astype(int) + 2048) * (255 / 4095))).all()

    def test_unused_bits_do_not_count(self, tmp_path: Path) -> None:
        values = (GREY.astype(np.uint16) << 4) | 0xF000
        ds = header(photometric="MONOCHROME2", samples=1, bits=16, stored=12)
        (found,) = frames_of(tmp_path, samples.native(ds, ExplicitVRLittleEndian, values))
        assert close(found[..., 0], GREY, 1)

    def test_sixteen_bit_rgb(self, tmp_path: Path) -> None:
        (found,) = frames_of(
            tmp_path, samples.native(header(bits=16), ExplicitVRLittleEndian, RGB.astype(np.uint16) * 257)
        )
        assert (found == RGB).all()

    def test_one_bit(self, tmp_path: Path) -> None:
        bits = (GREY > 90).astype(np.uint8)
        packed = np.packbits(np.stack([bits, 1 - bits]).ravel(), bitorder="little")
        ds = header(photometric="MONOCHROME2", samples=1, bits=1, frames=2)
        found = frames_of(tmp_path, samples.native(ds, ExplicitVRLittleEndian, packed))
        assert (found[0][..., 0] == bits * 255).all()
        assert (found[1][..., 0] == 255 - bits * 255).all()


#: Data Set Trailing Padding (PS3.10 7.2): a reader that is four bytes late still finds enough bytes of pixels.
PADDING = struct.pack("<HH2sHL", 0xFFFC, 0xFFFC, b"OB", 0, 16) + bytes(16)


class TestEncodedInAnotherFormThanStated:
    """A data set is read as it is encoded, whatever its transfer syntax says (PS3.5 7.1)."""

    @pytest.mark.parametrize("stated", NATIVE[:3])
    @pytest.mark.parametrize("actual", NATIVE[:3])
    @pytest.mark.parametrize("padding", [b"", PADDING])
    def test_uncompressed(self, tmp_path: Path, stated: str, actual: str, padding: bytes) -> None:
        content = samples.restated(samples.native(header(), actual, RGB), stated) + padding
        (found,) = frames_of(tmp_path, content)
        assert (found == RGB).all()
        assert read_header(tmp_path / "instance.dcm").PatientName == samples.PATIENT_NAME

    def test_implicit_vr_and_deflated(self, tmp_path: Path) -> None:
        deflated = samples.native(header(), DeflatedExplicitVRLittleEndian, RGB)
        implicit = samples.native(header(), ImplicitVRLittleEndian, RGB)
        meta, body = (content[: 144 + int.from_bytes(content[140:144], "little")] for content in (deflated, implicit))
        packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        (found,) = frames_of(tmp_path, meta + packer.compress(implicit[len(body) :]) + packer.flush())
        assert (found == RGB).all()

    @pytest.mark.parametrize(
        ("stated", "encode"),
        [(JPEGBaseline8Bit, samples.jpeg()), (RLELossless, samples.rle), (JPEGLSLossless, samples.jpeg_ls())],
    )
    def test_implicit_vr_under_a_compressed_syntax(self, tmp_path: Path, stated: str, encode: samples.Encoder) -> None:
        ds = header()
        ds.add_new("PixelData", "OB", encapsulate([encode(RGB)]))
        ds["PixelData"].is_undefined_length = True
        body = DicomBytesIO()
        body.is_implicit_VR = body.is_little_endian = True
        write_dataset(body, ds)
        explicit = samples.encapsulated(header(), stated, [encode(RGB)])
        meta = explicit[: 144 + int.from_bytes(explicit[140:144], "little")]
        (found,) = frames_of(tmp_path, meta + body.getvalue())
        assert close(found, RGB, 12)

    def test_a_length_that_reads_as_a_vr(self, tmp_path: Path) -> None:
        """The length 0x424F of implicit VR reads as OB."""
        pixels = np.resize(np.arange(251, dtype=np.uint8), (25, 0x424F // 25))
        content = samples.native(samples.header(*pixels.shape, **samples.MONO), ImplicitVRLittleEndian, pixels)
        at = content.rindex(b"\xe0\x7f\x10\x00") + 4
        (found,) = frames_of(tmp_path, content[:at] + struct.pack("<L", 0x424F) + content[at + 4 : -1])
        assert (found[..., 0] == pixels).all()

    def test_no_form_at_all(self, tmp_path: Path) -> None:
        content = samples.native(header(), ExplicitVRLittleEndian, RGB)
        end = 144 + int.from_bytes(content[140:144], "little")
        broken = content[: end + 4] + b"\x01\x02\x03\x7f" + content[end + 8 :]
        assert "neither explicit nor implicit" in refusal(tmp_path, broken)

    def test_pixel_data_of_another_vr(self, tmp_path: Path) -> None:
        content = samples.native(header(), ExplicitVRLittleEndian, RGB)
        at = content.rindex(b"\xe0\x7f\x10\x00OW") + 4
        assert "neither OB nor OW" in refusal(tmp_path, content[:at] + b"\x00\x04" + content[at + 2 :])
        (found,) = frames_of(tmp_path, content[:at] + b"UN" + content[at + 2 :])
        assert (found == RGB).all()


class TestPalette:
    @pytest.mark.parametrize("syntax", NATIVE)
    @pytest.mark.parametrize("entry_bits", [8, 16])
    def test_colours(self, tmp_path: Path, syntax: str, entry_bits: int) -> None:
        table = np.random.default_rng(5).integers(0, 256, (200, 3), dtype=np.uint8)
        ds = header(photometric="PALETTE COLOR", samples=1)
        order = ">" if syntax == ExplicitVRBigEndian else "<"
        for channel, colour in enumerate(("Red", "Green", "Blue")):
            setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [200, 20, entry_bits])
            if entry_bits == 16:
                words = table[:, channel].astype(np.uint16) << 8
            else:
                words = np.ascontiguousarray(table[:, channel]).view("<u2")
            setattr(ds, f"{colour}PaletteColorLookupTableData", words.astype(f"{order}u2").tobytes())
        (found,) = frames_of(tmp_path, samples.native(ds, syntax, GREY))
        # Indices below the first mapped value take the first entry, above the last the last (PS3.3 C.7.6.3.1.5).
        assert (found == table[np.clip(GREY.astype(int) - 20, 0, 199)]).all()

    def test_without_its_table(self, tmp_path: Path) -> None:
        ds = header(photometric="PALETTE COLOR", samples=1)
        assert "palette" in refusal(tmp_path, samples.native(ds, ExplicitVRLittleEndian, GREY))

    def test_with_a_short_table(self, tmp_path: Path) -> None:
        ds = header(photometric="PALETTE COLOR", samples=1)
        for colour in ("Red", "Green", "Blue"):
            setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
            setattr(ds, f"{colour}PaletteColorLookupTableData", bytes(20))
        assert "too short" in refusal(tmp_path, samples.native(ds, ExplicitVRLittleEndian, GREY))


class TestJpegBaseline:
    @pytest.mark.parametrize(
        ("subsampling", "photometric"), [(0, "YBR_FULL"), (1, "YBR_FULL_422"), (2, "YBR_FULL_422")]
    )
    def test_jfif(self, tmp_path: Path, subsampling: int, photometric: str) -> None:
        encoded = samples.jpeg(subsampling=subsampling)(RGB)
        content = samples.encapsulated(header(photometric=photometric), JPEGBaseline8Bit, [encoded])
        (found,) = frames_of(tmp_path, content)
        assert close(found, RGB, 12)

    def test_unmarked_components_follow_the_header(self, tmp_path: Path) -> None:
        as_rgb = samples.encapsulated(header(), JPEGBaseline8Bit, [samples.jpeg_without_markers(RGB)])
        (found,) = frames_of(tmp_path, as_rgb)
        assert close(found, RGB, 8)
        unmarked = samples.jpeg_without_markers(samples.to_ybr(RGB))
        as_ybr = samples.encapsulated(header(photometric="YBR_FULL_422"), JPEGBaseline8Bit, [unmarked])
        (found,) = frames_of(tmp_path, as_ybr)
        assert close(found, RGB, 8)

    @pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL", "YBR_FULL_422"])
    def test_adobe_marker_counts_more_than_the_header(self, tmp_path: Path, photometric: str) -> None:
        encoded = samples.jpeg_with_adobe_marker(RGB)
        content = samples.encapsulated(header(photometric=photometric), JPEGBaseline8Bit, [encoded])
        (found,) = frames_of(tmp_path, content)
        assert close(found, RGB, 8)

    def test_components_named_rgb(self, tmp_path: Path) -> None:
        file = BytesIO()
        Image.fromarray(RGB).save(file, "JPEG", quality=95, keep_rgb=True)
        adobe = file.getvalue()
        named = adobe[:2] + adobe[4 + int.from_bytes(adobe[4:6], "big") :]  # without the Adobe marker
        (found,) = frames_of(tmp_path, samples.encapsulated(header(), JPEGBaseline8Bit, [named]))
        assert close(found, RGB, 8)

    def test_grey(self, tmp_path: Path) -> None:
        content = samples.encapsulated(
            header(photometric="MONOCHROME1", samples=1), JPEGBaseline8Bit, [samples.jpeg()(GREY)]
        )
        (found,) = frames_of(tmp_path, content)
        assert close(found[..., 1], 255 - GREY, 6)

    def test_colour_where_grey_was_stated(self, tmp_path: Path) -> None:
        ds = header(photometric="MONOCHROME2", samples=1)
        assert "one sample" in refusal(tmp_path, samples.encapsulated(ds, JPEGBaseline8Bit, [samples.jpeg()(RGB)]))

    def test_cut_off_inside_the_codestream(self, tmp_path: Path) -> None:
        encoded = samples.jpeg()(RGB)
        content = samples.encapsulated(header(), JPEGBaseline8Bit, [encoded[: len(encoded) * 2 // 3]])
        assert "frame 1" in refusal(tmp_path, content)


class TestJpeg2000:
    @pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEG2000])
    def test_reversible_transform(self, tmp_path: Path, syntax: str) -> None:
        content = samples.encapsulated(header(photometric="YBR_RCT"), syntax, [samples.jpeg_2000()(RGB)])
        (found,) = frames_of(tmp_path, content)
        assert (found == RGB).all()

    def test_irreversible_transform(self, tmp_path: Path) -> None:
        encoded = samples.jpeg_2000(lossless=False)(RGB)
        (found,) = frames_of(tmp_path, samples.encapsulated(header(photometric="YBR_ICT"), JPEG2000, [encoded]))
        assert close(found, RGB, 12)

    def test_rgb_without_transform(self, tmp_path: Path) -> None:
        encoded = samples.jpeg_2000(transform=False)(RGB)
        (found,) = frames_of(tmp_path, samples.encapsulated(header(), JPEG2000Lossless, [encoded]))
        assert (found == RGB).all()

    def test_ybr_full_without_transform(self, tmp_path: Path) -> None:
        encoded = samples.jpeg_2000(transform=False)(samples.to_ybr(RGB))
        (found,) = frames_of(
            tmp_path, samples.encapsulated(header(photometric="YBR_FULL"), JPEG2000Lossless, [encoded])
        )
        assert close(found, RGB, 3)

    def test_grey_of_8_and_16_bits(self, tmp_path: Path) -> None:
        ds = header(photometric="MONOCHROME2", samples=1)
        (found,) = frames_of(tmp_path, samples.encapsulated(ds, JPEG2000Lossless, [samples.jpeg_2000()(GREY)]))
        assert (found[..., 0] == GREY).all()
        ds = header(photometric="MONOCHROME2", samples=1, bits=16)
        encoded = samples.jpeg_2000()(GREY.astype(np.uint16) * 257)
        (found,) = frames_of(tmp_path, samples.encapsulated(ds, JPEG2000Lossless, [encoded]))
        assert (found[..., 0] == GREY).all()

    @pytest.mark.parametrize("syntax", [JPEG2000Lossless, HTJ2KLossless])
    @pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"])
    def test_the_codestream_tells_of_its_transform(self, tmp_path: Path, syntax: str, photometric: str) -> None:
        encoded = samples.htj2k("rgb-lossless") if syntax == HTJ2KLossless else samples.jpeg_2000()(RGB)
        (found,) = frames_of(tmp_path, samples.encapsulated(header(photometric=photometric), syntax, [encoded]))
        assert (found == RGB).all()

    @pytest.mark.parametrize("photometric", ["YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"])
    def test_components_without_a_transform_that_are_called_transformed(self, tmp_path: Path, photometric: str) -> None:
        encoded = samples.jpeg_2000(transform=False)(samples.to_ybr(RGB))
        ds = header(photometric=photometric)
        (found,) = frames_of(tmp_path, samples.encapsulated(ds, JPEG2000, [encoded]))
        assert close(found, RGB, 3)

    def test_the_boxes_of_a_file_around_it_do_not_count(self, tmp_path: Path) -> None:
        file = BytesIO()
        Image.fromarray(RGB).save(file, "JPEG2000", mct=0, irreversible=False)
        box = file.getvalue()
        at = box.index(b"colr\x01\x00\x00") + 7
        as_ybr = box[:at] + (18).to_bytes(4, "big") + box[at + 4 :]  # sYCC (ISO/IEC 15444-1 I.5.3.3)
        (found,) = frames_of(tmp_path, samples.encapsulated(header(), JPEG2000Lossless, [as_ybr]))
        assert (found == RGB).all()

    def test_a_transform_of_the_second_part(self, tmp_path: Path) -> None:
        encoded = bytearray(samples.jpeg_2000()(RGB))
        encoded[encoded.index(b"\xff\x52") + 8] = 2
        content = samples.encapsulated(header(), JPEG2000Lossless, [bytes(encoded)])
        assert "component transform" in refusal(tmp_path, content)


class TestBits:
    """Bits Stored, High Bit and unused bits (PS3.5 8.1.1) of 12-bit samples in words of 16, in every decoder."""

    ENCODERS = (
        *((syntax, None) for syntax in (*NATIVE[:2], NATIVE[3])),
        (RLELossless, samples.rle),
        (JPEGLosslessSV1, samples.by_gdcm(JPEGLosslessSV1)),
        (JPEGLossless, samples.by_gdcm(JPEGLossless)),
        (JPEG2000Lossless, samples.jpeg_2000()),
        (JPEGLSLossless, samples.jpeg_ls()),
    )
    WORDS = GREY.astype(np.uint16) << 4 | GREY >> 4

    def decoded(
        self, folder: Path, syntax: str, encode: samples.Encoder | None, words: NDArray[np.uint16], **bits: int
    ) -> NDArray[np.uint8]:
        ds = header(photometric="MONOCHROME2", samples=1, bits=16, stored=12, signed=bits.get("signed", 0) == 1)
        ds.HighBit = bits["high"]
        if encode is None:
            content = samples.native(ds, syntax, words)
        else:
            content = samples.encapsulated(ds, syntax, [encode(words)])
        (found,) = frames_of(folder, content)
        assert (found == found[..., :1]).all()
        return found[..., 0]

    @pytest.mark.parametrize(("syntax", "encode"), ENCODERS)
    def test_unused_bits_that_are_set(self, tmp_path: Path, syntax: str, encode: samples.Encoder | None) -> None:
        found = self.decoded(tmp_path, syntax, encode, self.WORDS | np.uint16(0xA000), high=11)
        assert (found == GREY).all()

    @pytest.mark.parametrize(("syntax", "encode"), ENCODERS)
    @pytest.mark.parametrize("high", [13, 15])
    def test_a_high_bit_elsewhere(self, tmp_path: Path, syntax: str, encode: samples.Encoder | None, high: int) -> None:
        junk = np.uint16((1 << high - 11) - 1 | (0xFFFF << high + 1 & 0xFFFF))
        found = self.decoded(tmp_path, syntax, encode, self.WORDS << np.uint16(high - 11) | junk, high=high)
        assert (found == GREY).all()

    @pytest.mark.parametrize(("syntax", "encode"), ENCODERS)
    @pytest.mark.parametrize("high", [11, 15])
    def test_signed(self, tmp_path: Path, syntax: str, encode: samples.Encoder | None, high: int) -> None:
        centred = (self.WORDS.astype(np.int16) - 2048).view(np.uint16) << np.uint16(high - 11)
        found = self.decoded(tmp_path, syntax, encode, centred, high=high, signed=1)
        assert (found == GREY).all()

    @pytest.mark.parametrize("high", [3, 16, 200])
    def test_an_absurd_high_bit_does_not_count(self, tmp_path: Path, high: int) -> None:
        found = self.decoded(tmp_path, ExplicitVRLittleEndian, None, self.WORDS, high=high)
        assert (found == GREY).all()

    def test_a_palette_with_unused_bits(self, tmp_path: Path) -> None:
        ds = header(photometric="PALETTE COLOR", samples=1, bits=16, stored=8)
        for colour in ("Red", "Green", "Blue"):
            setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
            setattr(ds, f"{colour}PaletteColorLookupTableData", (np.arange(256, dtype="<u2") << 8).tobytes())
        words = GREY.astype(np.uint16) | np.uint16(0xA500)
        (found,) = frames_of(tmp_path, samples.native(ds, ExplicitVRLittleEndian, words))
        assert (found[..., 0] == GREY).all()

    @pytest.mark.parametrize("bits", [8, 12])
    def test_a_codestream_of_fewer_bits_than_stated(self, tmp_path: Path, bits: int) -> None:
        from openjpeg.utils import encode_array

        words = np.kron(GREY if bits == 8 else self.WORDS, np.ones((4, 4), GREY.dtype if bits == 8 else np.uint16))
        encoded = bytes(encode_array(words, bits_stored=bits, photometric_interpretation=2, use_mct=False))
        ds = samples.header(*words.shape, photometric="MONOCHROME2", samples=1, bits=16)
        (found,) = frames_of(tmp_path, samples.encapsulated(ds, JPEG2000Lossless, [encoded]))
        assert (found[::4, ::4, 0] == GREY).all()

    def test_a_lossy_decoder_that_overshoots_is_cut_not_wrapped(self, tmp_path: Path) -> None:
        words = np.where(self.WORDS > 1500, 4100, 0).astype(np.uint16)  # beyond 12 bits
        ds = header(photometric="MONOCHROME2", samples=1, bits=16, stored=12)
        encoded = samples.jpeg_2000(lossless=False)(words)
        (found,) = frames_of(tmp_path, samples.encapsulated(ds, JPEG2000, [encoded]))
        assert found[words > 0].min() > 200

    @pytest.mark.parametrize(
        ("syntax", "encode"), [(JPEG2000Lossless, samples.jpeg_2000()), (JPEGLSLossless, samples.jpeg_ls())]
    )
    def test_more_bits_than_are_allocated(self, tmp_path: Path, syntax: str, encode: samples.Encoder) -> None:
        content = samples.encapsulated(header(photometric="MONOCHROME2", samples=1), syntax, [encode(self.WORDS)])
        assert "8 allocated bits" in refusal(tmp_path, content)

    @pytest.mark.parametrize("frames", [0, None, ""])
    def test_a_number_of_frames_that_is_none(self, tmp_path: Path, frames: object) -> None:
        ds = header()
        if frames is not None:
            ds.NumberOfFrames = frames
        (found,) = frames_of(tmp_path, samples.native(ds, ExplicitVRLittleEndian, RGB))
        assert (found == RGB).all()


class TestJpegLs:
    @pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
    def test_the_codestream_tells_of_its_transform(self, tmp_path: Path, photometric: str) -> None:
        """HP's transform 1: R - G and B - G beside G, which CharLS undoes."""
        red, green, blue = (RGB[..., channel].astype(int) for channel in range(3))
        transformed = np.stack([red - green + 128, green, blue - green + 128], axis=2).astype(np.uint8)
        encoded = samples.jpeg_ls()(transformed)
        marked = encoded[:2] + b"\xff\xe8\x00\x07mrfx\x01" + encoded[2:]
        ds = header(photometric=photometric)
        (found,) = frames_of(tmp_path, samples.encapsulated(ds, JPEGLSLossless, [marked]))
        assert (found == RGB).all()

    @pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEGLSNearLossless])
    @pytest.mark.parametrize("interleave", [0, 1, 2])
    def test_rgb(self, tmp_path: Path, syntax: str, interleave: int) -> None:
        stored = RGB if interleave else np.ascontiguousarray(RGB.transpose(2, 0, 1))
        encoded = samples.jpeg_ls(interleave=interleave)(stored)
        (found,) = frames_of(tmp_path, samples.encapsulated(header(), syntax, [encoded]))
        assert (found == RGB).all()

    def test_near_lossless(self, tmp_path: Path) -> None:
        encoded = samples.jpeg_ls(error=3)(RGB)
        (found,) = frames_of(tmp_path, samples.encapsulated(header(), JPEGLSNearLossless, [encoded]))
        assert close(found, RGB, 3)

    def test_ybr_full(self, tmp_path: Path) -> None:
        encoded = samples.jpeg_ls()(samples.to_ybr(RGB))
        (found,) = frames_of(tmp_path, samples.encapsulated(header(photometric="YBR_FULL"), JPEGLSLossless, [encoded]))
        assert close(found, RGB, 3)

    def test_grey_of_16_bits(self, tmp_path: Path) -> None:
        ds = header(photometric="MONOCHROME2", samples=1, bits=16)
        encoded = samples.jpeg_ls()(GREY.astype(np.uint16) * 257)
        (found,) = frames_of(tmp_path, samples.encapsulated(ds, JPEGLSLossless, [encoded]))
        assert (found[..., 0] == GREY).all()

    def test_a_comment_before_the_frame_header(self, tmp_path: Path) -> None:
        encoded = samples.jpeg_ls()(RGB)
        commented = encoded[:2] + b"\xff\xfe\x00\x06cell" + encoded[2:]
        (found,) = frames_of(tmp_path, samples.encapsulated(header(), JPEGLSLossless, [commented]))
        assert (found == RGB).all()

    def test_without_a_frame_header(self, tmp_path: Path) -> None:
        refusal(tmp_path, samples.encapsulated(header(), JPEGLSLossless, [b"\xff\xd8" + bytes(40)]))


class TestRle:
    def test_rgb_and_ybr(self, tmp_path: Path) -> None:
        (found,) = frames_of(tmp_path, samples.encapsulated(header(), RLELossless, [samples.rle(RGB)]))
        assert (found == RGB).all()
        encoded = samples.rle(samples.to_ybr(RGB))
        (found,) = frames_of(tmp_path, samples.encapsulated(header(photometric="YBR_FULL"), RLELossless, [encoded]))
        assert close(found, RGB, 3)

    def test_grey_of_8_and_16_bits(self, tmp_path: Path) -> None:
        ds = header(photometric="MONOCHROME2", samples=1)
        (found,) = frames_of(tmp_path, samples.encapsulated(ds, RLELossless, [samples.rle(GREY)]))
        assert (found[..., 2] == GREY).all()
        values = np.arange(ROWS * COLUMNS, dtype=np.uint16).reshape(ROWS, COLUMNS) * 80
        ds = header(photometric="MONOCHROME2", samples=1, bits=16)
        (found,) = frames_of(tmp_path, samples.encapsulated(ds, RLELossless, [samples.rle(values)]))
        assert (found[..., 0] == np.rint(values / 257)).all()

    def test_runs_across_rows(self, tmp_path: Path) -> None:
        flat = bytes([0x81, 7] * 2 + [256 - (300 - 256) + 1, 7])  # 300 sevens as three runs, rows ignored
        segment_table = (1).to_bytes(4, "little") + (64).to_bytes(4, "little") + bytes(56)
        ds = samples.header(20, 15, photometric="MONOCHROME2", samples=1)
        (found,) = frames_of(tmp_path, samples.encapsulated(ds, RLELossless, [segment_table + flat]))
        assert (found == 7).all()

    def test_a_short_segment(self, tmp_path: Path) -> None:
        encoded = samples.rle(GREY)
        ds = header(photometric="MONOCHROME2", samples=1)
        assert "frame 1" in refusal(tmp_path, samples.encapsulated(ds, RLELossless, [encoded[:80]]))

    def test_other_segments_than_stated(self, tmp_path: Path) -> None:
        assert "segments" in refusal(tmp_path, samples.encapsulated(header(), RLELossless, [samples.rle(GREY)]))

    def test_a_bomb_fills_no_memory(self, tmp_path: Path) -> None:
        swelling = samples.rle(GREY) + b"\x81\x00" * 500_000  # would unpack to 64 MB
        ds = header(photometric="MONOCHROME2", samples=1)
        (tmp_path / "bomb.dcm").write_bytes(samples.encapsulated(ds, RLELossless, [swelling]))
        tracemalloc.start()
        list(read_frames(tmp_path / "bomb.dcm"))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 16_000_000


class TestJpegLossless:
    @pytest.mark.parametrize("syntax", [JPEGLossless, JPEGLosslessSV1])
    def test_colour(self, tmp_path: Path, syntax: str) -> None:
        content = samples.encapsulated(header(), syntax, [samples.by_gdcm(syntax)(RGB)])
        assert (frames_of(tmp_path, content)[0] == RGB).all()

    @pytest.mark.parametrize("syntax", [JPEGLossless, JPEGLosslessSV1])
    @pytest.mark.parametrize(("bits", "stored"), [(8, 8), (16, 12), (16, 16)])
    def test_grey(self, tmp_path: Path, syntax: str, bits: int, stored: int) -> None:
        grey = np.linspace(0, (1 << stored) - 1, ROWS * COLUMNS).reshape(ROWS, COLUMNS).astype(f"u{bits // 8}")
        ds = samples.header(ROWS, COLUMNS, bits=bits, stored=stored, **samples.MONO)
        content = samples.encapsulated(ds, syntax, [samples.by_gdcm(syntax, stored)(grey)])
        wanted = np.rint(grey / ((1 << stored) - 1) * 255).astype(int)
        assert np.abs(frames_of(tmp_path, content)[0][..., 1].astype(int) - wanted).max() <= 1

    def test_another_encoder(self, tmp_path: Path) -> None:
        """DCMTK's lossless JPEG of colour, and its JPEG Extended of 12 bits."""
        program = Path("/usr/bin/dcmcjpeg")
        if not program.exists():
            pytest.skip("no DCMTK installed")
        (tmp_path / "a.dcm").write_bytes(samples.native(header(), ExplicitVRLittleEndian, RGB))
        subprocess.run([program, "+e1", tmp_path / "a.dcm", tmp_path / "b.dcm"], check=True)
        assert (frames_of(tmp_path, (tmp_path / "b.dcm").read_bytes())[0] == RGB).all()
        ds = samples.header(ROWS, COLUMNS, bits=16, stored=12, **samples.MONO)
        lowest = GREY.min()  # it takes the smallest value off every one
        twelve = (GREY - lowest).astype(np.uint16) * 16
        (tmp_path / "a.dcm").write_bytes(samples.native(ds, ExplicitVRLittleEndian, twelve))
        subprocess.run([program, "+ee", tmp_path / "a.dcm", tmp_path / "b.dcm"], check=True)
        found = frames_of(tmp_path, (tmp_path / "b.dcm").read_bytes())[0][..., 0]
        assert np.abs(found.astype(int) - (GREY - lowest)).max() <= 2

    @pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
    def test_an_adobe_marker_of_ybr_counts_more_than_the_header(self, tmp_path: Path, photometric: str) -> None:
        encoded = samples.by_gdcm(JPEGLosslessSV1)(samples.to_ybr(RGB))
        at = encoded.index(b"Adobe") + 11
        marked = encoded[:at] + b"\x01" + encoded[at + 1 :]
        ds = header(photometric=photometric)
        (found,) = frames_of(tmp_path, samples.encapsulated(ds, JPEGLosslessSV1, [marked]))
        assert close(found, RGB, 3)

    def test_an_adobe_marker_of_no_transform_leaves_it_to_the_header(self, tmp_path: Path) -> None:
        """GDCM writes such a marker into every file."""
        encoded = samples.by_gdcm(JPEGLosslessSV1)(samples.to_ybr(RGB))
        assert encoded[encoded.index(b"Adobe") + 11] == 0
        (found,) = frames_of(tmp_path, samples.encapsulated(header(photometric="YBR_FULL"), JPEGLosslessSV1, [encoded]))
        assert close(found, RGB, 3)


class TestJpegExtended:
    def test_twelve_bits(self, tmp_path: Path) -> None:
        found = frames_of(tmp_path, samples.seeds()["jpeg-extended"])[0][..., 0]
        assert np.abs(found.astype(int) - GREY).max() <= 2

    def test_eight_bits_are_as_the_baseline(self, tmp_path: Path) -> None:
        ds = header(photometric="YBR_FULL_422")
        found = frames_of(tmp_path, samples.encapsulated(ds, JPEGExtended12Bit, [samples.jpeg()(RGB)]))[0]
        assert np.abs(found.astype(int) - RGB).max() < 12


class TestHighThroughput:
    @pytest.mark.parametrize(
        ("syntax", "name", "photometric", "error"),
        [
            (HTJ2KLossless, "rgb-lossless", "YBR_RCT", 0),
            (HTJ2KLosslessRPCL, "rgb-lossless-rpcl", "YBR_RCT", 0),
            (HTJ2K, "rgb-lossy", "YBR_ICT", 4),
        ],
    )
    def test_colour(self, tmp_path: Path, syntax: str, name: str, photometric: str, error: int) -> None:
        content = samples.encapsulated(header(photometric=photometric), syntax, [samples.htj2k(name)])
        assert np.abs(frames_of(tmp_path, content)[0].astype(int) - RGB).max() <= error

    def test_sixteen_bits(self, tmp_path: Path) -> None:
        ds = samples.header(ROWS, COLUMNS, bits=16, **samples.MONO)
        found = frames_of(tmp_path, samples.encapsulated(ds, HTJ2KLossless, [samples.htj2k("grey-16-lossless")]))[0]
        y, x = np.mgrid[0:ROWS, 0:COLUMNS]
        assert np.abs(found[..., 0] - (900 * x + 1500 * y) / 257).max() <= 1


class TestColourProfile:
    def test_a_profile_is_applied_and_a_broken_one_is_not(self, tmp_path: Path) -> None:
        ds = header()
        plain = frames_of(tmp_path, samples.native(ds, ExplicitVRLittleEndian, RGB))[0]
        ds.ICCProfile = samples.linear_profile()
        lighter = frames_of(tmp_path, samples.native(ds, ExplicitVRLittleEndian, RGB))[0]
        assert (lighter.astype(int) - plain).mean() > 20  # linear light, shown as sRGB
        ds.ICCProfile = samples.linear_profile()[:100]
        assert (frames_of(tmp_path, samples.native(ds, ExplicitVRLittleEndian, RGB))[0] == plain).all()

    @pytest.mark.parametrize(
        "element",
        [
            struct.pack("<HH2sH", 0x0028, 0x2000, b"FD", 6) + b"\0" * 6,
            struct.pack("<HH2sH", 0x0048, 0x0105, b"LO", 4) + b"none",
        ],
        ids=["profile of another type", "optical paths of another type"],
    )
    def test_a_corrupt_one_is_the_instances_fault(self, tmp_path: Path, element: bytes) -> None:
        content = samples.native(header(), ExplicitVRLittleEndian, RGB)
        at = content.index(struct.pack("<HH", 0x7FE0, 0x0010))
        assert "header" in refusal(tmp_path, content[:at] + element + content[at:])

    def test_that_of_the_optical_path_counts(self, tmp_path: Path) -> None:
        ds, path = header(), Dataset()
        path.ICCProfile = samples.linear_profile()
        ds.OpticalPathSequence = [Dataset(), path]
        (tmp_path / "a.dcm").write_bytes(samples.native(ds, ExplicitVRLittleEndian, RGB))
        with (
            part10.open_frames(tmp_path / "a.dcm") as first,
            part10.open_frames(tmp_path / "a.dcm", optical_path=1) as second,
        ):
            assert (first.rgb(1) == RGB).all()
            assert (second.rgb(1).astype(int) - RGB).mean() > 20


class TestMultiFrame:
    @pytest.mark.parametrize("table", [True, False])
    def test_with_and_without_a_basic_offset_table(self, tmp_path: Path, table: bool) -> None:
        wanted = [samples.smooth_rgb(shift=shift) for shift in range(4)]
        encoded = [samples.jpeg_ls()(frame) for frame in wanted]
        found = frames_of(tmp_path, samples.encapsulated(header(frames=4), JPEGLSLossless, encoded, table=table))
        assert all((one == other).all() for one, other in zip(found, wanted, strict=True))

    def test_extended_offset_table(self, tmp_path: Path) -> None:
        wanted = [samples.smooth_rgb(shift=shift) for shift in range(3)]
        ds = header(frames=3)
        pixels, ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths = encapsulate_extended(
            [samples.rle(frame) for frame in wanted]
        )
        found = frames_of(tmp_path, samples.part10(ds, RLELossless, pixels))
        assert all((one == other).all() for one, other in zip(found, wanted, strict=True))

    def test_a_frame_in_several_fragments(self, tmp_path: Path) -> None:
        wanted = [samples.smooth_rgb(shift=shift) for shift in range(2)]
        pixels = encapsulate([samples.jpeg_ls()(frame) for frame in wanted], fragments_per_frame=3, has_bot=True)
        found = frames_of(tmp_path, samples.part10(header(frames=2), JPEGLSLossless, pixels))
        assert all((one == other).all() for one, other in zip(found, wanted, strict=True))

    def test_frames_of_several_fragments_without_a_table(self, tmp_path: Path) -> None:
        wanted = [samples.smooth_rgb(shift=shift) for shift in range(3)]
        pixels = encapsulate([samples.jpeg_ls()(frame) for frame in wanted], fragments_per_frame=2, has_bot=False)
        found = frames_of(tmp_path, samples.part10(header(frames=3), JPEGLSLossless, pixels))
        assert all((one == other).all() for one, other in zip(found, wanted, strict=True))

    @pytest.mark.parametrize("offsets", [[0, 8, 16], [0, 0, 0], [4, 100, 1 << 31], [1 << 31, 0, 2]])
    def test_a_table_that_lies_is_not_believed(self, tmp_path: Path, offsets: list[int]) -> None:
        wanted = [samples.smooth_rgb(shift=shift) for shift in range(3)]
        pixels = bytearray(encapsulate([samples.jpeg_ls()(frame) for frame in wanted], has_bot=True))
        struct.pack_into("<3L", pixels, 8, *offsets)
        found = frames_of(tmp_path, samples.part10(header(frames=3), JPEGLSLossless, bytes(pixels)))
        assert all((one == other).all() for one, other in zip(found, wanted, strict=True))
        ds = header(frames=3)
        plain, _, ds.ExtendedOffsetTableLengths = encapsulate_extended([samples.jpeg_ls()(frame) for frame in wanted])
        ds.ExtendedOffsetTable = struct.pack("<3Q", *offsets)
        found = frames_of(tmp_path, samples.part10(ds, JPEGLSLossless, plain))
        assert all((one == other).all() for one, other in zip(found, wanted, strict=True))

    def test_fragments_that_cannot_be_shared_out(self, tmp_path: Path) -> None:
        pixels = encapsulate([b"nothing that ends", b"nor this", b"nor that"], has_bot=False)
        assert "shared out" in refusal(tmp_path, samples.part10(header(frames=2), JPEGLSLossless, pixels))

    def test_frames_in_any_order(self, tmp_path: Path) -> None:
        wanted = [samples.smooth_rgb(shift=shift) for shift in range(4)]
        encoded = [samples.jpeg_ls()(frame) for frame in wanted]
        content = samples.encapsulated(header(frames=4), JPEGLSLossless, encoded)
        for made in (content, samples.native(header(frames=4), ExplicitVRLittleEndian, np.stack(wanted))):
            (tmp_path / "a.dcm").write_bytes(made)
            with part10.open_frames(tmp_path / "a.dcm") as frames:
                for number in (3, 1, 4, 1):
                    assert (frames.rgb(number) == wanted[number - 1]).all()

    def test_fewer_frames_than_stated(self, tmp_path: Path) -> None:
        content = samples.encapsulated(header(frames=3), JPEGLSLossless, [samples.jpeg_ls()(RGB)] * 2)
        assert "3 frames" in refusal(tmp_path, content)
        content = samples.native(header(frames=3), ExplicitVRLittleEndian, np.stack([RGB, RGB]))
        assert "expected" in refusal(tmp_path, content)

    def test_frames_come_one_at_a_time(self, tmp_path: Path) -> None:
        ds = samples.header(256, 256, frames=60)
        (tmp_path / "slide.dcm").write_bytes(samples.part10(ds, ExplicitVRLittleEndian, bytes(60 * 256 * 256 * 3)))
        tracemalloc.start()
        count = sum(1 for _ in read_frames(tmp_path / "slide.dcm"))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert count == 60
        assert peak < 4_000_000  # one frame is 0.2 MB, all are 12 MB

    def test_a_broken_frame_spares_the_others(self, tmp_path: Path) -> None:
        good, broken = samples.jpeg()(RGB), samples.jpeg()(RGB)[:100]
        ds = header(frames=3, photometric="YBR_FULL_422")
        (tmp_path / "two.dcm").write_bytes(samples.encapsulated(ds, JPEGBaseline8Bit, [good, broken, good]))
        first, second, third = read_frames(tmp_path / "two.dcm")
        assert isinstance(first, Frame)
        assert isinstance(third, Frame)
        assert isinstance(second, UnreadableFrame)
        assert (second.number, "frame 2" in second.reason) == (2, True)

    def test_the_only_frame_is_the_instance(self, tmp_path: Path) -> None:
        ds = header(photometric="YBR_FULL_422")
        content = samples.encapsulated(ds, JPEGBaseline8Bit, [samples.jpeg()(RGB)[:100]])
        assert "frame 1" in refusal(tmp_path, content)


class TestOneFrame:
    def test_of_a_file_or_a_picture(self, tmp_path: Path) -> None:
        wanted = [samples.smooth_rgb(shift=shift) for shift in range(3)]
        broken = samples.encapsulated(
            header(frames=3), JPEGLSLossless, [samples.jpeg_ls()(wanted[0]), b"no", samples.jpeg_ls()(wanted[2])]
        )
        (tmp_path / "a.dcm").write_bytes(broken)
        assert (read_frame_of(tmp_path / "a.dcm", 3).rgb == wanted[2]).all()  # the second is not decoded
        with pytest.raises(UndecodablePixels, match="frame 2"):
            read_frame_of(tmp_path / "a.dcm", 2)
        for number in (0, 4):
            with pytest.raises(UndecodablePixels, match="no frame"):
                read_frame_of(tmp_path / "a.dcm", number)
        Image.fromarray(RGB).save(tmp_path / "a.png")
        assert (read_frame_of(tmp_path / "a.png", 1).rgb == RGB).all()
        with pytest.raises(UndecodablePixels, match="no frame 2"):
            read_frame_of(tmp_path / "a.png", 2)


class TestSpacing:
    @staticmethod
    def spacing_of(folder: Path, ds: Dataset) -> float | None:
        (folder / "spaced.dcm").write_bytes(samples.native(ds, ExplicitVRLittleEndian, RGB))
        (frame,) = read_frames(folder / "spaced.dcm")
        return frame.spacing_um

    def test_unknown(self, tmp_path: Path) -> None:
        assert self.spacing_of(tmp_path, header()) is None

    def test_pixel_spacing(self, tmp_path: Path) -> None:
        ds = header()
        ds.PixelSpacing = ["0.000065", "0.000065"]
        assert self.spacing_of(tmp_path, ds) == pytest.approx(0.065)

    def test_shared_functional_groups_count_most(self, tmp_path: Path) -> None:
        ds, shared, measures = header(), Dataset(), Dataset()
        ds.PixelSpacing = ["0.5", "0.5"]
        measures.PixelSpacing = ["0.00025", "0.00025"]
        shared.PixelMeasuresSequence = [measures]
        ds.SharedFunctionalGroupsSequence = [shared]
        assert self.spacing_of(tmp_path, ds) == pytest.approx(0.25)

    def test_nominal_scanned_pixel_spacing(self, tmp_path: Path) -> None:
        ds = header()
        ds.NominalScannedPixelSpacing = ["0.0001", "0.0001"]
        assert self.spacing_of(tmp_path, ds) == pytest.approx(0.1)

    @pytest.mark.parametrize("value", [["0", "0"], ["0.1", "0.3"], ["-1", "-1"], ["1e400", "1e400"], "0.1", None])
    def test_useless_values_are_no_spacing(self, tmp_path: Path, value: object) -> None:
        ds = header()
        ds.PixelSpacing = value
        assert self.spacing_of(tmp_path, ds) is None

    def test_the_pitch_of_the_camera_is_no_spacing(self, tmp_path: Path) -> None:
        ds = header()
        ds.ImagerPixelSpacing = ["0.00345", "0.00345"]
        assert self.spacing_of(tmp_path, ds) is None


class TestRefused:
    def test_an_unknown_transfer_syntax(self, tmp_path: Path) -> None:
        content = samples.encapsulated(header(), "1.2.840.10008.1.2.4.100", [samples.jpeg()(RGB)])
        assert "transfer syntax" in refusal(tmp_path, content)

    @pytest.mark.parametrize(("rows", "columns"), [(0, 0), (0, 34), (22, 0)])
    def test_zero_size(self, tmp_path: Path, rows: int, columns: int) -> None:
        ds = samples.header(rows, columns)
        assert "no pixels" in refusal(tmp_path, samples.native(ds, ExplicitVRLittleEndian, RGB))

    @pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEGBaseline8Bit])
    def test_sixty_thousand_by_sixty_thousand(self, tmp_path: Path, syntax: str) -> None:
        ds = samples.header(60_000, 60_000)
        reason = refusal(
            tmp_path, samples.part10(ds, syntax, encapsulate([b"\0" * 10]) if syntax != NATIVE[1] else b"")
        )
        assert "too large: 60000 x 60000" in reason

    def test_the_limit_is_the_callers(self, tmp_path: Path) -> None:
        (tmp_path / "a.dcm").write_bytes(samples.native(header(), ExplicitVRLittleEndian, RGB))
        assert len(list(read_frames(tmp_path / "a.dcm", max_pixels=ROWS * COLUMNS))) == 1
        with pytest.raises(UndecodablePixels, match="too large"):
            list(read_frames(tmp_path / "a.dcm", max_pixels=ROWS * COLUMNS - 1))

    @pytest.mark.parametrize(
        ("syntax", "encode"),
        [
            (JPEGBaseline8Bit, samples.jpeg()),
            (JPEG2000Lossless, samples.jpeg_2000()),
            (JPEGLSLossless, samples.jpeg_ls()),
        ],
    )
    def test_a_codestream_larger_than_stated(self, tmp_path: Path, syntax: str, encode: samples.Encoder) -> None:
        content = samples.encapsulated(samples.header(4, 4), syntax, [encode(RGB)])
        assert "where 4 x 4 was stated" in refusal(tmp_path, content)

    @pytest.mark.parametrize(
        "keyword",
        [
            *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored"),
            "PixelRepresentation",
        ],
    )
    @pytest.mark.parametrize("kind", ["native", "encapsulated"])
    def test_a_missing_attribute(self, tmp_path: Path, keyword: str, kind: str) -> None:
        ds = header()
        del ds[keyword]
        if kind == "native":
            content = samples.native(ds, ExplicitVRLittleEndian, RGB)
        else:
            content = samples.encapsulated(ds, JPEGLSLossless, [samples.jpeg_ls()(RGB)])
        assert "missing" in refusal(tmp_path, content)

    @pytest.mark.parametrize(
        ("keyword", "value"),
        [
            ("BitsAllocated", 32),
            ("BitsAllocated", 12),
            ("BitsStored", 0),
            ("BitsStored", 9),
            ("SamplesPerPixel", 1),
            ("SamplesPerPixel", 4),
            ("PhotometricInterpretation", "CMYK"),
            ("PhotometricInterpretation", "YBR_RCT"),
            ("PixelRepresentation", 2),
            ("PlanarConfiguration", 2),
            ("NumberOfFrames", -3),
            ("NumberOfFrames", 2_000_000_000),
        ],
    )
    def test_an_absurd_attribute(self, tmp_path: Path, keyword: str, value: object) -> None:
        ds = header()
        setattr(ds, keyword, value)
        refusal(tmp_path, samples.native(ds, ExplicitVRLittleEndian, RGB))

    def test_no_pixel_data(self, tmp_path: Path) -> None:
        content = samples.native(header(), ExplicitVRLittleEndian, RGB)
        cut = content.rindex(b"\xe0\x7f\x10\x00")
        assert "no Pixel Data" in refusal(tmp_path, content[:cut])
        assert "float" not in refusal(tmp_path, content[:cut] + b"\xe0\x7f\x08\x00OF\0\0\0\0\0\0")

    @pytest.mark.parametrize("kind", sorted(samples.seeds()))
    def test_cut_off_anywhere(self, tmp_path: Path, kind: str) -> None:
        content = samples.seeds()[kind]
        for first, second in pairwise(range(0, len(content) - 9, 37)):
            refusal(tmp_path, content[: (first + second) // 2])

    def test_wrong_length_of_the_element(self, tmp_path: Path) -> None:
        content = samples.native(header(), ExplicitVRLittleEndian, RGB)
        start = content.rindex(b"\xe0\x7f\x10\x00") + 8
        for length in (0, 10, RGB.size - 2):
            wrong = content[:start] + length.to_bytes(4, "little") + content[start + 4 :]
            assert f"holds {length} bytes" in refusal(tmp_path, wrong)
        undefined = content[:start] + b"\xff\xff\xff\xff" + content[start + 4 :]
        refusal(tmp_path, undefined)

    def test_encapsulated_syntax_with_native_pixels(self, tmp_path: Path) -> None:
        content = samples.encapsulated(header(), JPEGBaseline8Bit, [samples.jpeg()(RGB)])
        start = content.rindex(b"\xe0\x7f\x10\x00") + 8
        assert "not encapsulated" in refusal(tmp_path, content[:start] + bytes(4) + content[start + 4 :])

    def test_a_deflate_bomb(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(inflate, "MAX_INFLATED_BYTES", 8 << 20)
        monkeypatch.setattr(inflate, "_IN_MEMORY_BYTES", 1 << 20)
        small = samples.deflate_bomb(ROWS, COLUMNS, 2 << 20)
        assert (frames_of(tmp_path, small)[0] == RGB).all()
        bomb = samples.deflate_bomb(ROWS, COLUMNS, 64 << 20)
        assert len(bomb) < 100_000
        assert "deflated" in refusal(tmp_path, bomb)

    @pytest.mark.parametrize("content", [b"", b"BM", b"DICM", bytes(200), b"\x08\x00" + bytes(200), b"GIF89a" * 50])
    def test_something_else(self, tmp_path: Path, content: bytes) -> None:
        refusal(tmp_path, content)
        with pytest.raises(InputFault):
            read_header(tmp_path / "instance.dcm")

    def test_a_missing_file_is_not_the_senders_fault(self, tmp_path: Path) -> None:
        with pytest.raises(StoreFault):
            list(read_frames(tmp_path / "none.dcm"))
        with pytest.raises(StoreFault):
            read_header(tmp_path / "none.dcm")


class TestHeader:
    def test_everything_but_the_pixels(self, tmp_path: Path) -> None:
        for kind, content in samples.seeds().items():
            (tmp_path / kind).write_bytes(content)
            ds = read_header(tmp_path / kind)
            assert "PixelData" not in ds
            assert ds.SOPInstanceUID == "1.2.3.4.5"
            assert ds.PatientName == samples.PATIENT_NAME
            assert ds.file_meta.TransferSyntaxUID in SUPPORTED_TRANSFER_SYNTAXES

    @pytest.mark.parametrize(
        ("character_set", "name"),
        [
            ("ISO_IR 192", "Wang^XiaoDong=王^小東"),
            ("ISO_IR 144", "Люкceмбypг"),
            (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"),
            ("ISO_IR 13", "ﾔﾏﾀﾞ^ﾀﾛｳ"),
            (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
        ],
    )
    def test_names_in_their_own_characters(self, tmp_path: Path, character_set: object, name: str) -> None:
        ds = header()
        ds.SpecificCharacterSet = character_set
        ds.PatientName = name
        (tmp_path / "a.dcm").write_bytes(samples.native(ds, ExplicitVRLittleEndian, RGB))
        found = read_header(tmp_path / "a.dcm")
        assert found.PatientName == name
        assert found.SpecificCharacterSet == ds.SpecificCharacterSet

    def test_an_unreadable_value_is_left_out(self, tmp_path: Path) -> None:
        content = samples.native(header(), ExplicitVRLittleEndian, RGB)
        at = content.index(b"\x28\x00\x02\x00US")
        odd = b"\x18\x00\x10\x50US\x03\x00abc"  # Transducer Data: three bytes are no number of US
        (tmp_path / "a.dcm").write_bytes(content[:at] + odd + content[at:])
        found = read_header(tmp_path / "a.dcm")
        assert "TransducerData" not in found
        assert found.Rows == ROWS
        assert found.PatientID == "GEHEIM-4711"

    @pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
    def test_a_bare_data_set(self, tmp_path: Path, syntax: str) -> None:
        content = samples.native(header(), syntax, RGB)
        first = b"\x00\x08\x00\x05" if syntax == ExplicitVRBigEndian else b"\x08\x00\x05\x00"
        (tmp_path / "bare").write_bytes(content[content.index(first) :])
        assert read_header(tmp_path / "bare").PatientID == "GEHEIM-4711"
        (frame,) = read_frames(tmp_path / "bare")
        assert (frame.rgb == RGB).all()

    def test_meta_information_without_a_preamble(self, tmp_path: Path) -> None:
        (tmp_path / "short").write_bytes(samples.native(header(), ExplicitVRLittleEndian, RGB)[132:])
        (frame,) = read_frames(tmp_path / "short")
        assert (frame.rgb == RGB).all()


def test_supported_transfer_syntaxes_are_pinned() -> None:
    """The receiver offers exactly these."""
    assert SUPPORTED_TRANSFER_SYNTAXES == (
        "1.2.840.10008.1.2.1",
        "1.2.840.10008.1.2",
        "1.2.840.10008.1.2.1.99",
        "1.2.840.10008.1.2.2",
        "1.2.840.10008.1.2.4.50",
        "1.2.840.10008.1.2.4.51",
        "1.2.840.10008.1.2.4.57",
        "1.2.840.10008.1.2.4.70",
        "1.2.840.10008.1.2.4.90",
        "1.2.840.10008.1.2.4.91",
        "1.2.840.10008.1.2.4.201",
        "1.2.840.10008.1.2.4.202",
        "1.2.840.10008.1.2.4.203",
        "1.2.840.10008.1.2.4.80",
        "1.2.840.10008.1.2.4.81",
        "1.2.840.10008.1.2.5",
    )


def test_files_of_other_makers(data_dir: Path) -> None:
    """Real whole-slide files: uncompressed, JPEG-LS and JPEG baseline, one and many frames."""
    expected = {
        "data__test_files__sm_image.dcm": (25, 10, 10, 0.499),
        "data__test_files__sm_image_grayscale.dcm": (25, 10, 10, 0.499),
        "data__test_files__sm_image_jpegls.dcm": (25, 10, 10, 0.499),
        "data__test_files__sm_image_jpegls_nobot.dcm": (25, 10, 10, 0.499),
        "ez_wsi_dicomweb__testdata__multiframe_camelyon_challenge_image.dcm": (15, 256, 256, 28.968),
        "ez_wsi_dicomweb__testdata__test.dcm": (1, 117, 234, 100.0),
    }
    for name, (count, rows, columns, spacing_um) in expected.items():
        frames = list(read_frames(data_dir / "dicom" / name))
        assert len(frames) == count
        assert all(frame.rgb.shape == (rows, columns, 3) for frame in frames)
        assert frames[0].spacing_um == pytest.approx(spacing_um, rel=1e-3)
        assert read_header(data_dir / "dicom" / name).Rows == rows
    plain = list(read_frames(data_dir / "dicom" / "data__test_files__sm_image.dcm"))
    packed = list(read_frames(data_dir / "dicom" / "data__test_files__sm_image_jpegls.dcm"))
    assert all((one.rgb == other.rgb).all() for one, other in zip(plain, packed, strict=True))


def test_a_haematoxylin_slide_is_pink_not_green(data_dir: Path) -> None:
    """A wrong colour transform shows at once: stained tissue has more red and blue than green."""
    name = "ez_wsi_dicomweb__testdata__multiframe_camelyon_challenge_image.dcm"
    mean = np.mean([frame.rgb.mean((0, 1)) for frame in read_frames(data_dir / "dicom" / name)], axis=0)
    assert mean[0] > mean[1] + 5
    assert mean[2] > mean[1] + 5


def test_annotations_have_no_pixels(data_dir: Path) -> None:
    with pytest.raises(UndecodablePixels):
        list(read_frames(data_dir / "dicom" / "data__test_files__sm_annotations.dcm"))
