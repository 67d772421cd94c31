"""Frames of a file of any kind that is read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from allpacs.decode.guard import opened
from allpacs.decode.part10 import looks_like_part10, read_frames
from allpacs.decode.picture import read_picture
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
    with opened(path) as file:
        head = file.read(132)
    reader = read_frames if looks_like_part10(head) else read_picture
    yield from reader(path, max_pixels=max_pixels)
