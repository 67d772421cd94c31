"""Which parts of a cell spoke for the label it was given: a map of the cell. Pure numpy around an engine.

With an engine that has gradients, the map is LayerCAM's: at each place of a layer's feature maps, the evidence for a
label is the sum over channels of the activation times the positive part of the gradient of that label's score. Unlike
Grad-CAM, which weighs whole channels, it may be taken from earlier, finer layers; the last one alone has 4 × 4 places
for a cell at 128 px. The layers' maps are joined by their maximum, the earlier ones lifted by a hyperbolic tangent.

    Jiang et al. 2021, LayerCAM: Exploring Hierarchical Class Activation Maps for Localization, IEEE Trans. Image
    Process. 30, doi 10.1109/TIP.2021.3089943, equations 6 to 8; Selvaraju et al. 2017, Grad-CAM.

With any other engine, parts of the cell are covered one after another, in the cell's mean colour, and the map is how
far the label's score falls: slower (64 questions a cell), and right by its making.

    Zeiler and Fergus 2014, Visualizing and Understanding Convolutional Networks, section 4.2.

Either shows what moved this network, not what is abnormal: a map of a wrong label looks as convincing as that of a
right one (Adebayo et al. 2018, Sanity Checks for Saliency Maps).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from allpacs.classify.aggregate import LABELS
from allpacs.classify.engine import Explainer, LayerGradients

Maps = NDArray[np.float32]
Crops = NDArray[np.uint8]

#: Crops, and the label to explain for each or None, to maps: `saliency` with a model in it.
Explain = Callable[[Crops, Sequence[int] | None], Maps]

#: Cells a request: the feature maps and gradients of one cell take about a megabyte.
_CELLS_AT_ONCE = 16

#: LayerCAM's scale factor of earlier layers, equation 8.
_LIFT = 2.0

#: Places along a side at which a cell is covered; each cover is this many places wide, so that neighbours overlap.
_PLACES, _COVER = 8, 2


def saliency(
    crops: Crops,
    ask: Callable[[Crops], NDArray[np.float32]],
    explainer: Explainer | None,
    toward: Sequence[int] | None = None,
) -> Maps:
    """Return a map for each cell: 0 where nothing spoke for the label, 1 where most did, 0 outside the cell.

    Parameters
    ----------
    crops:
        Preprocessed cells, ``uint8`` of shape (n, input_px, input_px, 3).
    ask:
        Crops to logits, ``float32`` of shape (n, outputs).
    explainer:
        The engine where it has gradients, or None.
    toward:
        Place of the label to explain among the bundle's labels (0 ALL, 1 HEM), one a cell; without it, the label
        whose score is the higher.

    Returns
    -------
    ndarray
        ``float32`` of shape (n, input_px, input_px), 0 to 1. All 0 where nothing spoke for the label, or where the
        network cannot judge the cell.

    Raises
    ------
    ModelFault
        The engine refuses the crops, or its network failed.
    """
    if not len(crops):
        return np.zeros(crops.shape[:3], np.float32)
    chosen = ask(crops)[:, : len(LABELS)].argmax(axis=1) if toward is None else toward
    labels = np.asarray(chosen, np.int64)
    maps = []
    for start in range(0, len(crops), _CELLS_AT_ONCE):
        part = slice(start, start + _CELLS_AT_ONCE)
        if explainer is None:
            maps += [_covered(crop, int(label), ask) for crop, label in zip(crops[part], labels[part], strict=True)]
        else:
            layers = explainer.layer_gradients(crops[part], labels[part])
            maps += [
                _joined([_evidence(layer, index) for layer in layers], crop) for index, crop in enumerate(crops[part])
            ]
    return np.stack(maps)


def _evidence(layer: LayerGradients, index: int) -> Maps:
    """Return the evidence at each place of one layer for one cell, shape (height, width), 0 and above."""
    weighted = np.maximum(layer.gradients[index], 0.0) * layer.activations[index]
    evidence: Maps = np.maximum(weighted.sum(axis=2), 0.0)
    return evidence


def _covered(crop: Crops, label: int, ask: Callable[[Crops], NDArray[np.float32]]) -> Maps:
    """Return the map of one cell by covering its parts."""
    height, width = crop.shape[:2]
    cell = crop.max(axis=2) > 0
    if not cell.any():
        return np.zeros((height, width), np.float32)
    colour = crop[cell].mean(axis=0).astype(np.uint8)
    step = height / _PLACES
    covers = np.zeros((_PLACES * _PLACES, height, width), bool)
    for place, cover in enumerate(covers):
        top, left = (int((at - (_COVER - 1) / 2) * step) for at in divmod(place, _PLACES))
        cover[max(top, 0) : top + int(_COVER * step), max(left, 0) : left + int(_COVER * step)] = True
    covers &= cell
    pictures = np.where(covers[..., np.newaxis], colour, crop).astype(np.uint8)
    logits = ask(np.concatenate([crop[np.newaxis], pictures])).astype(np.float64)
    score = logits[:, label] - logits[:, 1 - label]
    fall = np.maximum(score[0] - score[1:], 0.0).reshape(_PLACES, _PLACES)
    return _joined([fall.astype(np.float32)], crop)


def _joined(layers: Sequence[Maps], crop: Crops) -> Maps:
    """Return the maximum of the layers' maps, deepest layer last, over the cell's pixels alone."""
    height, width = crop.shape[:2]
    cell = crop.max(axis=2) > 0
    whole = np.zeros((height, width), np.float32)
    for depth, evidence in enumerate(layers, start=1):
        if not np.isfinite(evidence).all():
            return np.zeros((height, width), np.float32)
        fine = np.asarray(Image.fromarray(evidence).resize((width, height), Image.Resampling.BICUBIC))
        fine = np.maximum(fine, 0.0) * cell
        if (most := float(fine.max())) > 0.0:
            scaled = fine / most
            whole = np.maximum(whole, scaled if depth == len(layers) else np.tanh(_LIFT * scaled))
    most = float(whole.max())
    return whole / most if most > 0.0 else whole
