"""Crops of cells and whole fields, as JPEG, decoded from the spool and remembered for a while."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from io import BytesIO
from threading import Lock
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from allpacs.decode.open import read_frame_of
from allpacs.domain.errors import UndecodablePixels
from allpacs.domain.findings import CellFinding
from allpacs.domain.geometry import BoxPx
from allpacs.store.store import Store

Rgb = NDArray[np.uint8]
Key = TypeVar("Key")
Value = TypeVar("Value")

#: Around a cell's box, as a share of its longer side: enough to see its neighbours and the background.
_CONTEXT = 0.25
#: Memory for decoded frames and for finished pictures, bytes.
_FRAMES_BYTES, _PICTURES_BYTES = 256_000_000, 64_000_000
#: Longest side of a field that is sent to a browser, pixels; its outlines are drawn in the field's own pixels.
FIELD_SIDE_PX = 3000
_JPEG_QUALITY = 90
#: What a crop of an image of known scale shows, µm: a large blast and its neighbours.
CROP_UM = 24.0
_OUTLINE = (255, 212, 121)
#: Instances that are decoded at a time, at most.
_DECODERS = 16


class Pictures:
    """Pictures of stored instances."""

    def __init__(self, store: Store, *, max_pixels: int) -> None:
        self._store = store
        self._max_pixels = max_pixels
        self._frames: _Remembered[tuple[str, int], Rgb] = _Remembered(_FRAMES_BYTES, lambda rgb: rgb.nbytes)
        self._made: _Remembered[tuple[object, ...], bytes] = _Remembered(_PICTURES_BYTES, len)
        self._decoding = [Lock() for _ in range(_DECODERS)]

    def crop(self, finding: CellFinding, side_px: int, spacing_um: float | None, *, outlined: bool = False) -> bytes:
        """Return a cell with some context, square, as JPEG, with or without its outline.

        Parameters
        ----------
        spacing_um:
            Distance of the frame's pixels, µm: crops of a known scale show `CROP_UM`, so that sizes can be compared.

        Raises
        ------
        UndecodablePixels
            The instance is not stored any more, or its pixels cannot be read.
        """
        uid, frame_number, box = finding.sop_instance_uid, finding.frame_number, finding.box
        outline = finding.outline if outlined else ()
        key = ("crop", uid, frame_number, finding.cell_number, box, side_px, outlined)
        return self._made.get_or_make(
            key, lambda: _jpeg(_square(self.frame(uid, frame_number), box, side_px, spacing_um, outline))
        )

    def field(self, sop_instance_uid: str, frame_number: int) -> bytes:
        """Return a whole frame as JPEG, shrunk to `FIELD_SIDE_PX` where it is larger.

        Raises
        ------
        UndecodablePixels
            As `crop`.
        """
        return self._made.get_or_make(
            ("field", sop_instance_uid, frame_number),
            lambda: jpeg(self.frame(sop_instance_uid, frame_number), FIELD_SIDE_PX),
        )

    def frame(self, sop_instance_uid: str, frame_number: int) -> Rgb:
        """Return one decoded frame, ``uint8`` of shape (rows, columns, 3).

        Raises
        ------
        UndecodablePixels
            As `crop`.
        """
        # A page asks for all cells of a field at once: it is decoded once.
        with self._decoding[hash(sop_instance_uid) % _DECODERS]:
            return self._frames.get_or_make(
                (sop_instance_uid, frame_number), lambda: self._decoded(sop_instance_uid, frame_number)
            )

    def _decoded(self, sop_instance_uid: str, frame_number: int) -> Rgb:
        path = self._store.worklist.path_of(sop_instance_uid)
        if path is None or not path.is_file():
            raise UndecodablePixels("the image is not in the spool any more")
        return read_frame_of(path, frame_number, max_pixels=self._max_pixels).rgb


def jpeg(rgb: Rgb, side_px: int) -> bytes:
    """Return a frame as JPEG, shrunk where a side is longer than that."""
    picture = Image.fromarray(rgb)
    picture.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    return _jpeg(picture)


def crop_side(box: BoxPx, spacing_um: float | None) -> int:
    """Return the side of a crop in pixels of the frame: `CROP_UM`, or more around a larger cell."""
    around = math.ceil(max(box.width, box.height) * (1 + 2 * _CONTEXT))
    return around if spacing_um is None else max(around, round(CROP_UM / spacing_um))


def square_around(box: BoxPx, shape: tuple[int, ...], spacing_um: float | None = None) -> tuple[int, int, int]:
    """Return column, row and side of the part of a frame that a crop shows, pixels of the frame."""
    side = crop_side(box, spacing_um)
    # At an edge the square moves inwards: a cell that is not in the middle tells more than a black stripe.
    left = max(0, min(box.x + box.width // 2 - side // 2, shape[1] - side))
    top = max(0, min(box.y + box.height // 2 - side // 2, shape[0] - side))
    return left, top, side


def _square(
    rgb: Rgb, box: BoxPx, side_px: int, spacing_um: float | None, outline: Sequence[tuple[float, float]]
) -> Image.Image:
    left, top, side = square_around(box, rgb.shape, spacing_um)
    picture = Image.fromarray(rgb).crop((left, top, left + side, top + side))
    picture = picture.resize((side_px, side_px), Image.Resampling.LANCZOS)
    if len(outline) > 2:
        scale = side_px / side
        points = [((x + 0.5 - left) * scale, (y + 0.5 - top) * scale) for x, y in outline]
        ImageDraw.Draw(picture).line([*points, points[0], points[1]], fill=_OUTLINE, width=2, joint="curve")
    return picture


def _jpeg(picture: Image.Image) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


class _Remembered(Generic[Key, Value]):
    """The most recently used values, up to so many bytes."""

    def __init__(self, most_bytes: int, size: Callable[[Value], int]) -> None:
        self._most_bytes = most_bytes
        self._size = size
        self._bytes = 0
        self._values: OrderedDict[Key, Value] = OrderedDict()
        self._lock = Lock()

    def get_or_make(self, key: Key, make: Callable[[], Value]) -> Value:
        """Return the value of a key, making it where it is not remembered."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        value = make()
        with self._lock:
            if key not in self._values:
                self._values[key] = value
                self._bytes += self._size(value)
            while self._bytes > self._most_bytes and len(self._values) > 1:
                _, dropped = self._values.popitem(last=False)
                self._bytes -= self._size(dropped)
        return value
