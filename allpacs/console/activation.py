"""Where the model looked, drawn over a crop; the model is loaded when somebody first asks.

The map is of the network's own input, the cell alone on black (`allpacs.classify.saliency`), and is laid back to where
the cell is in the frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from io import BytesIO
from threading import Lock

import numpy as np
from PIL import Image, ImageDraw

from allpacs.classify.aggregate import LABELS
from allpacs.classify.bundle import Bundle
from allpacs.classify.preprocess import prepare
from allpacs.classify.saliency import Explain
from allpacs.console.pictures import Pictures, square_around
from allpacs.domain.findings import CellFinding
from allpacs.domain.image import Cell

#: From little to much, red and then yellow: both stand out on stained cells, and grow lighter for who sees no red.
_COLOURS = ((150, 20, 0), (255, 120, 0), (255, 240, 90))
_MOST_OPAQUE = 0.78
_REMEMBERED = 256


class Activation:
    """Maps of the bundle in use."""

    def __init__(self, pictures: Pictures, bundle: Bundle, load: Callable[[], Explain]) -> None:
        self._pictures = pictures
        self._bundle = bundle
        self._load = load
        self._explain: Explain | None = None
        self._lock = Lock()
        self.over_crop = lru_cache(maxsize=_REMEMBERED)(self._over_crop)

    @property
    def digest(self) -> str:
        """The model whose maps these are."""
        return self._bundle.digest

    def _over_crop(self, finding: CellFinding, side_px: int, spacing_um: float | None) -> bytes:
        """Return the map as a PNG that is transparent where nothing spoke for the label, as large as the crop.

        Raises
        ------
        UndecodablePixels
            The frame cannot be read any more.
        ModelFault
            The model cannot be loaded.
        """
        rgb = self._pictures.frame(finding.sop_instance_uid, finding.frame_number)
        box = finding.box
        crop = prepare(rgb, Cell(box, finding.outline, _mask(finding)), self._bundle.preprocessing)
        toward = None if finding.label is None else [LABELS.index(finding.label.value)]
        with self._lock:  # one at a time: it is the same model, and the first loads it
            if self._explain is None:
                self._explain = self._load()
            heat = self._explain(crop[np.newaxis], toward)[0]
        # The network's input is a square around the box with the bundle's margin (allpacs.classify.preprocess).
        longer = max(box.width, box.height)
        side = longer + 2 * math.ceil(longer * self._bundle.preprocessing.margin)
        left, top, shown = square_around(box, rgb.shape, spacing_um)
        scale = side_px / shown
        size = max(1, round(side * scale))
        place = (
            round((box.x - (side - box.width) // 2 - left) * scale),
            round((box.y - (side - box.height) // 2 - top) * scale),
        )
        large = Image.fromarray(heat).resize((size, size), Image.Resampling.BICUBIC)
        whole = Image.new("F", (side_px, side_px))
        whole.paste(large, place)
        return _png(np.clip(np.asarray(whole), 0.0, 1.0))


def _mask(finding: CellFinding) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """Return the pixels within the outline, in the box."""
    box = finding.box
    drawing = Image.new("1", (box.width, box.height))
    points = [(x - box.x, y - box.y) for x, y in finding.outline]
    ImageDraw.Draw(drawing).polygon(points, fill=1, outline=1)
    return np.asarray(drawing, bool)


def _png(heat: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> bytes:
    colours = np.array(_COLOURS, np.float32)
    places = np.linspace(0.0, 1.0, len(colours))
    picture = np.empty((*heat.shape, 4), np.uint8)
    for channel in range(3):
        picture[..., channel] = np.interp(heat, places, colours[:, channel])
    picture[..., 3] = 255 * _MOST_OPAQUE * heat**0.8
    buffer = BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()
