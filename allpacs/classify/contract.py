"""What ``bundle.json`` states, key by key, and the names of a bundle's files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, field_validator, model_validator

from allpacs.classify.aggregate import LABELS, OTHER, OTHER_OUTPUTS, Thresholds
from allpacs.classify.preprocess import Preprocessing
from allpacs.classify.quality import Quality
from allpacs.domain.errors import ModelFault

CONTRACT_FILE = "bundle.json"
WEIGHTS_FILE = "weights.safetensors"
GOLDEN_FILE = "golden.npz"

#: Largest difference of a probability that another processor or library version may make on the golden cells.
GOLDEN_TOLERANCE = 1e-3

#: What to do about a bundle that is not as its contract says.
AGAIN = "use the bundle folder as it was released, or export it again"


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


def parse_contract(text: str) -> Contract:
    """Return the validated contract of a ``bundle.json``.

    Raises
    ------
    ModelFault
        Naming every problem by its key.
    """
    try:
        return Contract.model_validate_json(text)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(step) for step in problem['loc']) or 'contract'}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_input=False, include_context=False)
        )
        raise ModelFault(f"{CONTRACT_FILE} is not valid: {problems}: {AGAIN}") from error
