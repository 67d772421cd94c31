"""A model folder and its contract: ``bundle.json`` states what the model is, and every file's SHA-256.

A bundle is refused as a whole (`ModelFault`) when anything in it is not as its contract says: a report must never
be written by a model other than the one it names. Imports no model library: the receiver may read a bundle too.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, field_validator, model_validator

from allpacs.classify.aggregate import LABELS, OTHER, OTHER_OUTPUTS, Thresholds, label, probability_all
from allpacs.classify.engine import Engine
from allpacs.classify.preprocess import Preprocessing
from allpacs.classify.quality import Quality
from allpacs.domain.errors import ModelFault
from allpacs.domain.findings import ModelIdentity

CONTRACT_FILE = "bundle.json"
WEIGHTS_FILE = "weights.safetensors"
GOLDEN_FILE = "golden.npz"

#: Largest difference of a probability that another processor or library version may make on the golden cells.
GOLDEN_TOLERANCE = 1e-3

_AGAIN = "use the bundle folder as it was released, or export it again"


def _preprocessing(written: object) -> Preprocessing:
    if not isinstance(written, Mapping):
        raise ValueError("must be an object")
    return Preprocessing.from_dict(written)


_Text = Annotated[str, Field(pattern=r"\S")]  # not blank: reports would be without it


class _Section(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class Network(_Section):
    """The network that the weights belong to (the paper's head on an EfficientNetB3).

    Attributes
    ----------
    dense_units:
        Units of the hidden dense layer.
    dropout:
        Rate, 0 to 1; only training uses it.
    activation:
        Of the backbone: ``silu``, EfficientNet's own, or ``relu6``.
    pooling:
        What the head sees: the ``last`` layer, averaged, or mean and deviation of several ``levels`` over the cell.
    size_path:
        Whether the cell's size has a weight of its own in each logit.
    """

    name: _Text
    dense_units: Annotated[int, Field(ge=1)]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    activation: Literal["silu", "relu6"] = "silu"
    pooling: Literal["last", "levels"] = "last"
    size_path: bool = False


class Calibration(_Section):
    """Temperature scaling: logits are divided by `temperature` (above 0) before the softmax."""

    temperature: Annotated[float, Field(gt=0)]


class Gate(_Section):
    """What is neither class: the network has further outputs for it.

    Attributes
    ----------
    other_at_most:
        Highest probability of these outputs together, 0 to 1, at which a cell is still judged.
    outputs:
        What they are for, in order: names of `allpacs.classify.aggregate.OTHER_OUTPUTS`.
    """

    other_at_most: Annotated[float, Field(ge=0, le=1)]
    outputs: Annotated[tuple[str, ...], Field(min_length=1)] = (OTHER,)

    @field_validator("outputs")
    @classmethod
    def _known(cls, outputs: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in outputs if name not in OTHER_OUTPUTS]
        if unknown or len(set(outputs)) < len(outputs):
            raise ValueError(f"must be different names out of {', '.join(OTHER_OUTPUTS)}, not {list(outputs)}")
        return outputs


class Metric(_Section):
    """One measured number of the model.

    Attributes
    ----------
    on:
        The cells it was measured on, for example ``cnmc subjects not trained on``.
    low, high:
        Ends of its 95 % interval, or None where none was computed.
    """

    name: _Text
    value: float
    on: _Text
    low: float | None = None
    high: float | None = None


class TrainingData(_Section):
    """One data set the weights were trained on; `subjects` is None where the set does not say."""

    name: _Text
    source: _Text
    licence: _Text
    images: Annotated[int, Field(ge=1)]
    subjects: Annotated[int, Field(ge=1)] | None = None
    note: str = ""


class Contract(_Section):
    """What ``bundle.json`` states, key by key.

    Attributes
    ----------
    labels:
        Order of the network's outputs: always ``ALL``, ``HEM``.
    files:
        SHA-256 (64 hexadecimal digits) of every file of the bundle but ``bundle.json`` itself, by name.
    model_card:
        Name of the model card's file.
    """

    format: Literal[1]
    name: _Text
    version: _Text
    labels: tuple[str, ...]
    network: Network
    preprocessing: Annotated[Preprocessing, PlainValidator(_preprocessing)]
    calibration: Calibration
    thresholds: Thresholds
    quality: Quality
    gate: Gate | None = None
    files: dict[str, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]]
    metrics: tuple[Metric, ...]
    training_data: tuple[TrainingData, ...]
    licence: _Text
    model_card: _Text
    intended_use: _Text

    @field_validator("labels")
    @classmethod
    def _label_order(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        if labels != LABELS:
            raise ValueError(f"must be {list(LABELS)} in this order, not {list(labels)}")
        return labels

    @field_validator("files")
    @classmethod
    def _plain_names(cls, files: dict[str, str]) -> dict[str, str]:
        for name in files:
            if name != Path(name).name or "\\" in name or name in {"", ".", "..", CONTRACT_FILE}:
                raise ValueError(f"{name!r} is not the plain name of a file beside {CONTRACT_FILE}")
        return files

    @model_validator(mode="after")
    def _files_named(self) -> Contract:
        for name in (WEIGHTS_FILE, GOLDEN_FILE, self.model_card):
            if name not in self.files:
                raise ValueError(f"files does not list {name}")
        return self


@dataclasses.dataclass(frozen=True, slots=True)
class Bundle:
    """A verified model folder.

    Attributes
    ----------
    digest:
        ``sha256:`` and 64 hexadecimal digits over the canonical JSON of the contract, which holds every file's digest.
    """

    folder: Path
    contract: Contract
    digest: str

    @property
    def identity(self) -> ModelIdentity:
        """What reports say of the model."""
        return ModelIdentity(
            name=self.contract.name,
            version=self.contract.version,
            digest=self.digest,
            family=self.contract.network.name,
        )

    @property
    def weights(self) -> Path:
        """Path of the weights."""
        return self.folder / WEIGHTS_FILE

    @property
    def network(self) -> Network:
        """The network that the weights belong to."""
        return self.contract.network

    @property
    def preprocessing(self) -> Preprocessing:
        """How a cell becomes the network's input."""
        return self.contract.preprocessing

    @property
    def input_px(self) -> int:
        """Side of the network's square input."""
        return self.contract.preprocessing.input_px

    @property
    def quality(self) -> Quality:
        """What a cell must be for the model to be asked."""
        return self.contract.quality

    @property
    def outputs(self) -> tuple[str, ...]:
        """What the network's outputs are for, in order."""
        gate = self.contract.gate
        return self.contract.labels if gate is None else (*self.contract.labels, *gate.outputs)

    @property
    def other_at_most(self) -> float:
        """Highest probability of being neither class at which a cell is still judged; 1 without a gate."""
        return 1.0 if self.contract.gate is None else self.contract.gate.other_at_most

    @property
    def temperature(self) -> float:
        """Divides the logits before the softmax."""
        return self.contract.calibration.temperature

    @property
    def thresholds(self) -> Thresholds:
        """The operating point."""
        return self.contract.thresholds

    def golden(self) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        """Return the golden cells and what the model said of them where it was exported.

        Returns
        -------
        inputs, probabilities
            ``uint8`` of shape (n, input_px, input_px, 3), preprocessed; calibrated probabilities of ALL, shape (n,).

        Raises
        ------
        ModelFault
            The file does not hold such arrays.
        """
        try:
            with np.load(self.folder / GOLDEN_FILE, allow_pickle=False) as arrays:
                inputs, probabilities = arrays["inputs"], arrays["probabilities"]
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise ModelFault(f"{GOLDEN_FILE} cannot be read ({type(error).__name__}): {_AGAIN}") from error
        side = self.input_px
        if inputs.dtype != np.uint8 or inputs.shape[1:] != (side, side, 3) or len(inputs) == 0:
            raise ModelFault(f"{GOLDEN_FILE}: inputs are {inputs.dtype} {inputs.shape}, not n x {side} x {side} x 3")
        if probabilities.shape != (len(inputs),) or not np.isfinite(probabilities).all():
            raise ModelFault(f"{GOLDEN_FILE}: probabilities are not {len(inputs)} finite numbers: {_AGAIN}")
        return inputs, probabilities.astype(np.float64)

    def golden_scores(self) -> NDArray[np.float64] | None:
        """Return the probability of every output on the golden cells, shape (n, outputs); None in older bundles.

        Raises
        ------
        ModelFault
            The file does not hold as many as there are golden cells and outputs.
        """
        with np.load(self.folder / GOLDEN_FILE, allow_pickle=False) as arrays:
            if "scores" not in arrays.files:
                return None
            scores: NDArray[np.float64] = arrays["scores"].astype(np.float64)
            cells = len(arrays["inputs"])
        if scores.shape != (cells, len(self.outputs)) or not np.isfinite(scores).all():
            raise ModelFault(f"{GOLDEN_FILE}: scores are not {cells} x {len(self.outputs)} finite numbers: {_AGAIN}")
        return scores


def load_bundle(folder: Path) -> Bundle:
    """Return the bundle of a folder, its contract validated and every file's digest verified.

    Raises
    ------
    ModelFault
        The contract or a file is missing or not as it should be; the message names the key or file.
    """
    path = folder / CONTRACT_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelFault(f"{path} cannot be read ({type(error).__name__}): name a folder with a bundle") from error
    contract = _parse(text)
    for name, expected in sorted(contract.files.items()):
        try:
            actual = _sha256(folder / name)
        except OSError as error:
            raise ModelFault(f"{name} of the bundle cannot be read ({type(error).__name__}): {_AGAIN}") from error
        if actual != expected:
            raise ModelFault(f"{name} has SHA-256 {actual}, but {CONTRACT_FILE} says {expected}: {_AGAIN}")
    return Bundle(folder=folder, contract=contract, digest=_canonical_digest(text))


def write_bundle(folder: Path, contract: Mapping[str, Any]) -> Bundle:
    """Write ``bundle.json`` into a folder that already holds the bundle's other files, and return the loaded bundle.

    Parameters
    ----------
    folder:
        Holds the weights (``weights.safetensors``), the golden cells (`save_golden`) and the model card; every file
        in it but hidden ones becomes part of the bundle.
    contract:
        Every key of `Contract` but ``format``, ``labels`` and ``files``; sections as mappings or as the dataclasses
        that they become.

    Raises
    ------
    ModelFault
        The contract is not valid, or a golden cell lies too near a threshold to be repeatable elsewhere.
    """
    files = {
        entry.name: _sha256(entry)
        for entry in sorted(folder.iterdir())
        if entry.is_file() and entry.name != CONTRACT_FILE and not entry.name.startswith(".")
    }
    whole = {"format": 1, "labels": list(LABELS), **contract, "files": files}
    text = json.dumps(whole, indent=2, ensure_ascii=False, default=_plain, allow_nan=False) + "\n"
    unwritten = Bundle(folder=folder, contract=_parse(text), digest=_canonical_digest(text))
    _, probabilities = unwritten.golden()
    thresholds = unwritten.thresholds
    for index, probability in enumerate(probabilities):
        nearest = min(abs(probability - thresholds.all_at_least), abs(probability - thresholds.hem_at_most))
        if nearest <= GOLDEN_TOLERANCE:
            raise ModelFault(f"golden cell {index} lies {nearest:.4f} from a threshold: choose another cell")
    partial = folder / f".{CONTRACT_FILE}.partial"
    partial.write_text(text, encoding="utf-8")
    partial.replace(folder / CONTRACT_FILE)
    return load_bundle(folder)


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


def _parse(text: str) -> Contract:
    """Return the validated contract, every problem of it named by its key."""
    try:
        return Contract.model_validate_json(text)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(step) for step in problem['loc']) or 'contract'}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_input=False, include_context=False)
        )
        raise ModelFault(f"{CONTRACT_FILE} is not valid: {problems}: {_AGAIN}") from error


def _canonical_digest(text: str) -> str:
    """Return the digest of a JSON text, whatever the order of its keys and its white space."""
    canonical = json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()}"


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _plain(section: object) -> object:
    """Return a section of the contract as JSON can hold it."""
    if isinstance(section, Preprocessing):
        return section.to_dict()
    if dataclasses.is_dataclass(section) and not isinstance(section, type):
        return dataclasses.asdict(section)
    raise TypeError(f"a contract cannot hold {type(section).__name__}")
