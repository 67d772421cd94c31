"""Frames of a file of any kind that is read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from allpacs.decode.guard import opened
from allpacs.decode.part10 import open_frames, read_frames
from allpacs.decode.picture import read_picture
from allpacs.dicom.encoding import HEAD_BYTES, looks_like_part10
from allpacs.domain.errors import UndecodablePixels
from allpacs.domain.image import Frame, UnreadableFrame


def read_frames_of(path: Path, *, max_pixels: int = 100_000_000) -> Iterator[Frame | UnreadableFrame]:
    """Yield the frames of a DICOM file or a picture, told apart by their first bytes.

    Of several frames, those that cannot be decoded come as `UnreadableFrame`.

    Raises
    ------
    UndecodablePixels
        Neither, or its pixels cannot be read.
    StoreFault
        The file cannot be opened.
    """
    reader = read_frames if _is_part10(path) else read_picture
    yield from reader(path, max_pixels=max_pixels)


def read_frame_of(path: Path, number: int, *, max_pixels: int = 100_000_000) -> Frame:
    """Return one frame, numbered from 1; of a DICOM file no other is decoded.

    Raises
    ------
    UndecodablePixels
        There is no such frame, or it cannot be read.
    StoreFault
        The file cannot be opened.
    """
    if _is_part10(path):
        with open_frames(path, max_pixels=max_pixels) as frames:
            if 1 <= number <= frames.layout.frames:
                return Frame(number, frames.rgb(number), frames.scale)
    else:
        for page in read_picture(path, max_pixels=max_pixels):
            if page.number == number:
                return page
    raise UndecodablePixels(f"the image has no frame {number}")


def _is_part10(path: Path) -> bool:
    with opened(path) as file:
        return looks_like_part10(file.read(HEAD_BYTES))
