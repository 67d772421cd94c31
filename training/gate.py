"""What is no lymphoid cell: drawn outliers to learn from, others to test on, and the share that slips through.

The network has a third output for them (outlier exposure: Hendrycks et al. 2019, Deep Anomaly Detection with Outlier
Exposure). A cell whose third probability is above the bundle's threshold is out of distribution: not assessable.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from allpacs.classify.aggregate import OTHER
from allpacs.classify.preprocess import Preprocessing, normalised
from training.crops import Crops
from training.datasets import Sample

_DRAWN = 120
_DISC_SHARE = 0.25


def drawn_outliers(contract: Preprocessing, seed: int, label: str = OTHER) -> Crops:
    """Return drawn pictures that hold no cell: black, noise, flat discs, stripes, smears; no real image among them."""
    random = np.random.default_rng([seed, 7])
    pixels = np.stack([_drawn(contract, index, random) for index in range(_DRAWN)])
    samples = tuple(Sample(Path(f"drawn{i:03}.png"), label, None, "drawn", "none") for i in range(_DRAWN))
    return Crops(pixels, samples)


def _drawn(contract: Preprocessing, index: int, random: np.random.Generator) -> NDArray[np.uint8]:
    side = contract.input_px
    if index % 6 == 0:
        return np.full((side, side, 3), random.integers(0, 12), np.uint8)
    low, high = np.sort(random.integers(10, 256, 2))
    picture = random.integers(low, high + 1, (side, side, 3)).astype(np.uint8)
    if index % 6 == 1:
        return picture
    image = Image.fromarray(picture).filter(ImageFilter.GaussianBlur(float(random.uniform(0.5, side / 10))))
    if index % 6 == 3:
        flat = tuple(int(v) for v in random.integers(40, 250, 3))
        image = Image.new("RGB", (side, side), flat)
    if index % 6 == 4:
        stripes = ImageDraw.Draw(image)
        for x in range(0, side, int(random.integers(6, side // 3))):
            stripes.line(
                (x, 0, x + int(random.integers(-side, side)), side), tuple(map(int, random.integers(0, 255, 3))), 4
            )
    mask = Image.new("L", (side, side))
    edge = [float(v) for v in random.uniform(0.03, _DISC_SHARE, 4) * side]
    ImageDraw.Draw(mask).ellipse((edge[0], edge[1], side - edge[2], side - edge[3]), fill=255)
    cut = np.where(np.asarray(mask)[..., np.newaxis] > 0, np.asarray(image), 0).astype(np.uint8)
    return normalised(cut) if contract.colour == "normalised" else cut


def accepted_at(other: NDArray[np.float64], acceptance: float) -> float:
    """Return the threshold of the third probability below which this share of lymphoid cells lies."""
    return float(np.quantile(other, acceptance))


def false_accepts(other: Mapping[str, NDArray[np.float64]], threshold: float) -> dict[str, tuple[float, int]]:
    """Return, for each kind of outlier, the share that a threshold lets pass, and how many there were."""
    return {kind: (float((values <= threshold).mean()), len(values)) for kind, values in other.items() if len(values)}
