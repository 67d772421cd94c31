"""What becomes of every kind of input: the tables of ``docs/inputs.md``, made by trying each.

For each SOP Class, transfer syntax and photometric interpretation an instance is made whose picture is known, taken
through admission and decoded as the worker decodes it. *decoded* is written only where the picture is the right one.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom import uid as uids

sys.path.append(str(Path(__file__).parents[1] / "unit" / "decode"))

import decode_samples as samples
from allpacs.app import accepted_transfer_syntaxes
from allpacs.decode.open import read_frames_of
from allpacs.decode.slide import SlideLevel, read_slide_instance
from allpacs.domain.errors import InstanceRefused, UndecodablePixels
from allpacs.domain.image import Frame
from allpacs.domain.slide import Level
from allpacs.receive.admit import ACCEPTED_SOP_CLASSES, admit
from allpacs.receive.header import read_header
from support.slide_maker import WHOLE_SLIDE

PHOTOMETRIC = (
    *("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "PALETTE COLOR", "MONOCHROME1", "MONOCHROME2"),
)
#: Transfer syntaxes and SOP Classes that a PACS may offer beside ours, to show what is answered.
NOT_NEGOTIATED = (uids.JPEG2000MC, uids.MPEG2MPML, uids.MPEG4HP41)
NOT_TAKEN = (
    uids.CTImageStorage,
    uids.Comprehensive3DSRStorage,
    uids.MicroscopyBulkSimpleAnnotationsStorage,
    uids.SegmentationStorage,
)
RGB = samples.smooth_rgb()
ROWS, COLUMNS, _ = RGB.shape
GREY = np.repeat(RGB[..., :1], 3, axis=2)
_CLOSE = 14


def document() -> str:
    """Return ``docs/inputs.md``."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield from _INTRODUCTION.strip().splitlines()
    for sop_class, name in ACCEPTED_SOP_CLASSES.items():
        yield f"\n### {name}\n"
        yield f"`{sop_class}`\n"
        yield "| transfer syntax | " + " | ".join(PHOTOMETRIC) + " |"
        yield "|---" * (len(PHOTOMETRIC) + 1) + "|"
        for syntax in accepted_transfer_syntaxes():
            outcomes = (_outcome(sop_class, syntax, photometric) for photometric in PHOTOMETRIC)
            yield f"| {uids.UID(syntax).name} `{syntax}` | " + " | ".join(outcomes) + " |"
    yield "\n## Not taken\n"
    yield "| offered | answer |\n|---|---|"
    for syntax in NOT_NEGOTIATED:
        assert syntax not in accepted_transfer_syntaxes()
        yield f"| transfer syntax {syntax.name} `{syntax}` | presentation context refused |"
    for sop_class in NOT_TAKEN:
        status = _status(sop_class)
        yield f"| SOP Class {sop_class.name} `{sop_class}` | context refused; sent all the same: {status} |"


def _status(sop_class: str) -> str:
    try:
        admit(
            Dataset(),
            sop_class_uid=sop_class,
            sop_instance_uid="1.2.3",
            transfer_syntax_uid=uids.ExplicitVRLittleEndian,
        )
    except InstanceRefused as refused:
        return f"0x{refused.status:04X}"
    return "0x0000"


def _outcome(sop_class: str, syntax: str, photometric: str) -> str:
    """Return what a table says of one kind of instance."""
    made = _made(sop_class, syntax, photometric)
    if made is None:
        return "–"
    content, wanted = made
    try:
        _admitted(content, sop_class)
    except InstanceRefused as refused:
        return f"refused 0x{refused.status:04X}"
    try:
        found = _decoded(content, sop_class)
    except UndecodablePixels as fault:
        return f"recorded: {fault}".replace("|", "/")
    off = int(np.abs(found.astype(int) - wanted).max())
    return "decoded" if off <= _CLOSE else f"WRONG by {off}"


def _admitted(content: bytes, sop_class: str) -> None:
    """Take the data set through admission, as the receiver does."""
    meta = dcmread(BytesIO(content), stop_before_pixels=True).file_meta
    start = 144 + int.from_bytes(content[140:144], "little")
    syntax = str(meta.TransferSyntaxUID)
    header = read_header(BytesIO(content[start:]), syntax)
    admit(header, sop_class_uid=sop_class, sop_instance_uid="1.2.3.4.5", transfer_syntax_uid=syntax)


def _decoded(content: bytes, sop_class: str) -> NDArray[np.uint8]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.dcm"
        path.write_bytes(content)
        if sop_class == WHOLE_SLIDE:
            with SlideLevel(Level((read_slide_instance(path),)), [path]) as level:
                region = level.region(0, 0, COLUMNS, ROWS)
                for unreadable in level.unreadable.values():
                    raise UndecodablePixels(unreadable.reason)
                return region
        (frame,) = read_frames_of(path)
        assert isinstance(frame, Frame)
        return frame.rgb


def _made(sop_class: str, syntax: str, photometric: str) -> tuple[bytes, NDArray[np.uint8]] | None:
    """Return a file and the picture in it; None where nothing can be encoded so."""
    one_sample = photometric in ("PALETTE COLOR", "MONOCHROME1", "MONOCHROME2")
    ds = samples.header(ROWS, COLUMNS, photometric=photometric, samples=1 if one_sample else 3)
    ds.SOPClassUID = sop_class
    if sop_class == WHOLE_SLIDE:
        ds.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
        ds.TotalPixelMatrixRows, ds.TotalPixelMatrixColumns, ds.NumberOfFrames = ROWS, COLUMNS, 1
        ds.DimensionOrganizationType = "TILED_FULL"
    if photometric == "PALETTE COLOR":
        _grey_palette(ds, syntax)
    wanted = 255 - GREY if photometric == "MONOCHROME1" else GREY if one_sample else RGB
    pixels = RGB[..., 0] if one_sample else samples.to_ybr(RGB) if photometric.startswith("YBR_FULL") else RGB
    if uids.UID(syntax).is_encapsulated:
        encode = _encoder(syntax, photometric)
        if encode is None:
            return None
        return samples.encapsulated(ds, syntax, [encode(pixels)]), wanted
    if photometric == "YBR_FULL_422":
        pixels = _subsampled(pixels)
    return samples.native(ds, syntax, pixels), wanted


def _encoder(syntax: str, photometric: str) -> Callable[[NDArray[np.generic]], bytes] | None:
    in_jpeg_2000_only = photometric in ("YBR_ICT", "YBR_RCT")
    if syntax in (uids.JPEGBaseline8Bit, uids.JPEGExtended12Bit):
        if in_jpeg_2000_only:
            return None
        if photometric in ("YBR_FULL", "YBR_FULL_422"):
            return lambda _: samples.jpeg(subsampling=0 if photometric == "YBR_FULL" else 1)(RGB)
        return samples.jpeg_without_markers if photometric == "RGB" else samples.jpeg()
    if photometric == "YBR_FULL_422":
        return None  # PS3.5 8.2: only JPEG keeps fewer chrominance samples when encapsulated
    if syntax in (uids.JPEG2000Lossless, uids.JPEG2000):
        if photometric == "YBR_ICT" and syntax == uids.JPEG2000Lossless:
            return None  # irreversible
        lossless = photometric != "YBR_ICT"
        return samples.jpeg_2000(lossless=lossless, transform=in_jpeg_2000_only)
    if syntax in (uids.HTJ2KLossless, uids.HTJ2KLosslessRPCL, uids.HTJ2K):
        name = {
            "RGB": "rgb-plain", "YBR_FULL": "ybr-plain", "YBR_RCT": "rgb-lossless-rpcl",
            "YBR_ICT": "rgb-lossy" if syntax == uids.HTJ2K else None,
        }.get(photometric, "grey-8")  # fmt: skip
        return None if name is None else lambda _: samples.htj2k(name)
    if in_jpeg_2000_only:
        return None
    if syntax in (uids.JPEGLossless, uids.JPEGLosslessSV1):
        return samples.by_gdcm(syntax)
    if syntax == uids.RLELossless:
        return samples.rle
    return samples.jpeg_ls(2 if syntax == uids.JPEGLSNearLossless else 0)


def _grey_palette(ds: Dataset, syntax: str) -> None:
    order = ">" if syntax == uids.ExplicitVRBigEndian else "<"
    table = (np.arange(256) << 8).astype(f"{order}u2").tobytes()
    for colour in ("Red", "Green", "Blue"):
        setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(ds, f"{colour}PaletteColorLookupTableData", table)


def _subsampled(ybr: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return YBR_FULL_422 as it lies in native pixel data: Y Y CB CR for each two pixels (PS3.3 C.7.6.3.1.2)."""
    pairs = ybr.reshape(ROWS, COLUMNS // 2, 2, 3)
    packed = np.concatenate([pairs[..., 0], pairs[:, :, :1, 1], pairs[:, :, :1, 2]], axis=2)
    return np.ascontiguousarray(packed)


_INTRODUCTION = """
# What can be sent, and what becomes of it

This page is written by a test run that makes one instance of each kind, takes it through admission and decodes it
(`ALLPACS_WRITE_DOCS=1 .venv/bin/pytest tests/unit/test_inputs_table.py`); `make test` fails where it is stale.

- **decoded**: admitted (C-STORE status 0x0000), and the decoded picture is the right one.
- **recorded**: admitted, but not decoded; the reason goes into the report as an unreadable instance.
- **refused**: not admitted, with the C-STORE status.
- **–**: the standard has no such combination, or nothing encodes it.

Pixels are 8 or 16 bits, signed or not, colour by pixel or by plane; an ICC profile (of the instance or of the optical
path) is applied. Frames of encapsulated pixel data are found by the extended or the basic offset table, or without one;
a table that does not fit the fragments is not believed. Whole slides are read as [docs/slides.md](slides.md) says.

## What is wrong with an instance, and what the report says

| input | outcome |
|---|---|
| fragments or pixel data cut short | refused 0xC000; from a file: unreadable instance |
| an offset table that lies | passed over; frames are told by their fragments |
| one frame of several does not decode | the frame is named in a remark, the others are judged |
| Rows or Columns other than the codestream's | unreadable, before anything is allocated |
| more pixels a frame than `work.max_pixels`, a deflated data set of more than 2 GiB | unreadable; refused 0xC000 |
| no spacing | scale from red cells, else from `receive.sources.NAME.spacing_um`, else unknown; the report says which |
| parts of a concatenation, tiles or the finest level of a pyramid missing | a remark; what is there is judged |
| label, overview, thumbnail, other levels, images made by artificial intelligence | left out, each with a remark |
| nothing on the glass or in the field | a remark: no white cell was found |
| more cells than `work.max_cells` | a seeded random sample is judged, and a remark says so |

Real files of several makers, changed at random, are tried by `tests/property/test_mutated_real_files.py`: they decode,
or one `InputFault` comes out. `make test` tries 500; 20,000 (`ALLPACS_MUTATIONS=20000`) were tried on 2026-11-24.

## Images
"""
