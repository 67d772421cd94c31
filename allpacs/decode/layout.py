"""The shape of an instance's pixels, checked before anything is allocated or decoded."""

from __future__ import annotations

from dataclasses import dataclass

from pydicom import Dataset

from allpacs.domain.errors import UndecodablePixels

MONOCHROME = frozenset({"MONOCHROME1", "MONOCHROME2"})
_ONE_SAMPLE = MONOCHROME | {"PALETTE COLOR"}
_THREE_SAMPLES = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"})


@dataclass(frozen=True, slots=True)
class PixelLayout:
    """The Image Pixel module in plain values (PS3.3 C.7.6.3).

    Attributes
    ----------
    high_bit:
        Where the stored bits end in a word of the allocated ones, counted from 0: usually Bits Stored - 1.
    signed:
        Pixel Representation: two's complement.
    planar:
        Planar Configuration: 0 colour by pixel, 1 colour by plane.
    """

    rows: int
    columns: int
    frames: int
    samples: int
    photometric: str
    bits_allocated: int
    bits_stored: int
    signed: bool
    planar: int
    high_bit: int = -1

    @property
    def shift(self) -> int:
        """Bits below the stored ones in a word of the allocated ones (PS3.5 8.1.1); 0 where High Bit is absurd."""
        return (
            self.high_bit + 1 - self.bits_stored if self.bits_stored <= self.high_bit + 1 <= self.bits_allocated else 0
        )

    @property
    def frame_bits(self) -> int:
        """Bits that one uncompressed frame takes in a native transfer syntax."""
        bits = self.rows * self.columns * self.samples * self.bits_allocated
        # Two pixels share their chrominance: four samples instead of six (PS3.3 C.7.6.3.1.2).
        return bits * 2 // 3 if self.photometric == "YBR_FULL_422" else bits


def read_layout(header: Dataset, *, max_pixels: int) -> PixelLayout:
    """Return the checked layout.

    Raises
    ------
    UndecodablePixels
        An attribute is missing or absurd, or a frame has more than `max_pixels` pixels.
    """
    rows, columns = _whole(header, "Rows"), _whole(header, "Columns")
    # A single-frame image may state no number, an empty one or, by some writers, 0.
    frames = _whole(header, "NumberOfFrames", 1) or 1
    if rows < 1 or columns < 1 or frames < 1:
        raise UndecodablePixels(f"no pixels: {columns} x {rows} in {frames} frames")
    if rows * columns > max_pixels:
        raise UndecodablePixels(f"too large: {columns} x {rows} pixels a frame, at most {max_pixels} are read")

    photometric = header.get("PhotometricInterpretation")
    if photometric not in _ONE_SAMPLE | _THREE_SAMPLES:
        raise UndecodablePixels("Photometric Interpretation is missing or not one that is read")
    samples = _whole(header, "SamplesPerPixel")
    if samples != (1 if photometric in _ONE_SAMPLE else 3):
        raise UndecodablePixels(f"Samples per Pixel is {samples}, which {photometric} cannot have")

    bits_allocated, bits_stored = _whole(header, "BitsAllocated"), _whole(header, "BitsStored")
    if bits_allocated not in (1, 8, 16) or not 1 <= bits_stored <= bits_allocated:
        raise UndecodablePixels(f"{bits_stored} bits stored of {bits_allocated} allocated are not read")
    representation = _whole(header, "PixelRepresentation")
    planar = _whole(header, "PlanarConfiguration", 0)
    if representation not in (0, 1) or planar not in (0, 1):
        raise UndecodablePixels("Pixel Representation or Planar Configuration is neither 0 nor 1")
    return PixelLayout(
        rows,
        columns,
        frames,
        samples,
        str(photometric),
        bits_allocated,
        bits_stored,
        representation == 1,
        planar,
        _whole(header, "HighBit", bits_stored - 1),
    )


def _whole(header: Dataset, keyword: str, default: int | None = None) -> int:
    value = header.get(keyword)
    if value is None and default is not None:
        return default
    if not isinstance(value, int):
        raise UndecodablePixels(f"{keyword} is missing or not a whole number")
    return int(value)
