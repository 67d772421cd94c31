"""Other pictures of the same cell: turned, scaled, restained, out of focus. Black stays black."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

#: Optical densities of haematoxylin, eosin and their residual. Source: Ruifrok and Johnston 2001.
_STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]], np.float32)
_STAINS /= np.linalg.norm(_STAINS, axis=1, keepdims=True)
_UNMIX = np.linalg.inv(_STAINS)


def augment(crop: NDArray[np.uint8], names: Sequence[str], random: np.random.Generator) -> NDArray[np.uint8]:
    """Return the ``uint8`` picture (side, side, 3) changed at random by the named augmentations, in their order."""
    for name in names:
        crop = AUGMENTATIONS[name](crop, random)
    return crop


def flip(crop: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """Return the picture or its mirror image, left for right (paper section IV step 2, III)."""
    return crop[:, ::-1] if random.random() < 0.5 else crop


def turn(crop: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """Return the picture turned by any angle, mirrored, scaled and shifted a little; what comes in is black."""
    return _moved(crop, random, scales=(0.85, 1.12), shift=0.04)


def pose(crop: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """Return the crop mirrored and turned by any angle, scaled by at most 5 % and shifted by at most 8 %.

    The scale is nearly kept, for the size of a cell tells a lymphoblast from a hematogone. What comes in is black.
    """
    return _moved(crop, random, scales=(0.95, 1.05), shift=0.08)


def light(crop: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """Return the crop up to 10 % lighter or darker, and each channel up to 5 %; black stays black."""
    gains = random.uniform(0.9, 1.1) * random.uniform(0.95, 1.05, 3)
    return np.clip(crop * gains.astype(np.float32), 0, 255).astype(np.uint8)


def coarse(crop: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """Return one crop of three as a camera with pixels up to four times as large would show it."""
    if random.random() >= 0.33:
        return crop
    side = crop.shape[0]
    fewer = max(16, round(side / random.uniform(1.2, 4.0)))
    small = Image.fromarray(np.ascontiguousarray(crop)).resize((fewer, fewer), Image.Resampling.BILINEAR)
    return np.asarray(small.resize((side, side), Image.Resampling.BILINEAR))


def soft(crop: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """Return one crop of two out of focus, by up to 1.8 pixels."""
    return _out_of_focus(crop, random, share=0.5, px=(0.4, 1.8))


def grey(crop: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """Return one crop of five without its colour."""
    if random.random() >= 0.2:
        return crop
    mean = crop.astype(np.float32).mean(axis=2, keepdims=True)
    return np.repeat(mean, 3, axis=2).astype(np.uint8)


def blur(crop: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """Return two pictures of five a little out of focus."""
    return _out_of_focus(crop, random, share=0.4, px=(0.3, 1.2))


def restain(crop: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """Return the crop with its stain concentrations and lamp colour changed at random; black background untouched.

    Source: Tellez et al. 2018 (stain augmentation in haematoxylin-eosin space), with wider ranges, for the sources
    differ in stain and camera more than one laboratory does.
    """
    cell = crop.max(axis=2) > 0
    if not cell.any():
        return crop
    density = -np.log((crop[cell].astype(np.float32) + 1.0) / 256.0)
    amounts = density @ _UNMIX
    amounts *= random.uniform(0.75, 1.25, 3).astype(np.float32)
    amounts += random.uniform(-0.08, 0.08, 3).astype(np.float32)
    density = amounts @ _STAINS * np.float32(random.uniform(0.7, 1.25)) + random.uniform(-0.08, 0.08, 3)
    coloured = np.zeros_like(crop)
    coloured[cell] = np.clip(np.exp(-density) * 256.0 - 1.0, 1, 255).astype(np.uint8)
    return coloured


def _moved(
    crop: NDArray[np.uint8], random: np.random.Generator, *, scales: tuple[float, float], shift: float
) -> NDArray[np.uint8]:
    """Return the crop turned by any angle, mirrored or not, scaled, and shifted by a share of its side."""
    side = crop.shape[0]
    angle, scale = random.uniform(0, 2 * math.pi), random.uniform(*scales)
    mirror = 1 if random.random() < 0.5 else -1
    cos, sin, middle = math.cos(angle) / scale, math.sin(angle) / scale, side / 2
    shift_x, shift_y = random.uniform(-shift, shift, 2) * side + middle
    matrix = (mirror * cos, sin, middle - mirror * cos * shift_x - sin * shift_y,
              -mirror * sin, cos, middle + mirror * sin * shift_x - cos * shift_y)  # fmt: skip
    image = Image.fromarray(np.ascontiguousarray(crop))
    return np.asarray(image.transform((side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR))


def _out_of_focus(
    crop: NDArray[np.uint8], random: np.random.Generator, *, share: float, px: tuple[float, float]
) -> NDArray[np.uint8]:
    """Return this share of the crops blurred by so many pixels, the others as they are."""
    if random.random() >= share:
        return crop
    image = Image.fromarray(np.ascontiguousarray(crop))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(random.uniform(*px))))


#: By the names that recipes use.
AUGMENTATIONS: dict[str, Callable[[NDArray[np.uint8], np.random.Generator], NDArray[np.uint8]]] = {
    "flip": flip,
    "turn": turn,
    "pose": pose,
    "light": light,
    "coarse": coarse,
    "soft": soft,
    "grey": grey,
    "blur": blur,
    "restain": restain,
}
