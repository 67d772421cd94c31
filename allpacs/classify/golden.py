"""Golden cells: what a bundle's model said of a few cells where it was exported, which every engine has to repeat."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allpacs.classify.aggregate import label, probability_all
from allpacs.classify.bundle import Bundle
from allpacs.classify.contract import GOLDEN_FILE, GOLDEN_TOLERANCE
from allpacs.classify.engine import Engine
from allpacs.domain.errors import ModelFault


def save_golden(
    folder: Path,
    inputs: NDArray[np.uint8],
    probabilities: NDArray[np.floating[Any]],
    logits: NDArray[np.floating[Any]] | None = None,
) -> None:
    """Write the golden cells: preprocessed inputs, shape (n, input_px, input_px, 3), and what the model says of them.

    `probabilities`, shape (n,), are the calibrated ones of ALL, computed from the saved weights (after their rounding
    to float16), so that only the machine can make a difference. With `logits`, shape (n, outputs), every output is
    checked, not only the two classes.
    """
    arrays: dict[str, Any] = {"inputs": inputs, "probabilities": probabilities.astype(np.float64)}
    if logits is not None:
        arrays["scores"] = softmax(logits)
    np.savez_compressed(folder / GOLDEN_FILE, **arrays)


def softmax(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return the probability of every output, shape (n, outputs)."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    scores: NDArray[np.float64] = shifted / shifted.sum(axis=1, keepdims=True)
    return scores


def verify_engine(bundle: Bundle, engine: Engine) -> float:
    """Run the golden cells through the engine and return the largest difference of a probability.

    Raises
    ------
    ModelFault
        A probability differs by more than `GOLDEN_TOLERANCE`, or a label changed.
    """
    inputs, expected = bundle.golden()
    logits = engine.logits(inputs)
    if logits.shape != (len(inputs), len(bundle.outputs)):
        raise ModelFault(f"engine {engine.name} answered {logits.shape} for {len(inputs)} golden cells")
    actual = np.array([probability_all(row, bundle.temperature) for row in logits])
    difference = np.abs(actual - expected)
    scores = bundle.golden_scores()
    apart = np.abs(softmax(logits) - scores).max() if scores is not None else 0.0
    worst = float(np.maximum(np.max(difference), apart))  # NaN where an answer is not finite
    changed = sum(
        label(float(a), bundle.thresholds) != label(float(e), bundle.thresholds)
        for a, e in zip(actual, expected, strict=True)
    )
    if not worst <= GOLDEN_TOLERANCE or changed:
        raise ModelFault(
            f"engine {engine.name} does not repeat the golden cells of {bundle.contract.name} "
            f"{bundle.contract.version}: probabilities differ by up to {worst:.2g} (at most {GOLDEN_TOLERANCE:g}), "
            f"{changed} of {len(inputs)} labels changed: use another engine or another version of its library"
        )
    return worst
