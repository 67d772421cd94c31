"""A recipe: everything that a run is made of, but the images. One TOML file a study, in ``recipes/``."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from allpacs.classify.aggregate import OTHER, OTHER_OUTPUTS
from allpacs.classify.preprocess import Preprocessing
from allpacs.domain.errors import ConfigFault
from allpacs.domain.findings import NotAssessable
from training.augment import AUGMENTATIONS
from training.splits import Kind

FOLDER = Path(__file__).parent / "recipes"

Share = Annotated[float, Field(ge=0, le=1)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Data(_Section):
    """Which images are shown, and how.

    Attributes
    ----------
    sets:
        Names of data sets (`training.datasets`).
    classes:
        Order of the network's outputs.
    names:
        The data sets' labels that are not classes themselves, to the class they stand for: ``lymphocyte = "HEM"``.
        Images of other labels are left out.
    at_most:
        Label to the largest number of its images, spread evenly over the data set.
    view:
        ``cell``: each cell cut out on black, as in serving; ``field``: the whole picture, scaled.
    filter_px:
        Side of a median filter over the picture, or 0.
    field_um:
        Side of the field of view that a cell's crop shows, µm; 0: the cell fills the crop, whatever its size.
    any_of:
        Label to the classes and gate outputs that it may stand for, where a data set does not say which:
        ``normal = ["HEM", "neutrophil"]``. Such an image teaches only that it is one of them.
    """

    sets: tuple[str, ...]
    classes: tuple[str, ...]
    names: dict[str, str] = {}
    at_most: dict[str, int] = {}
    view: Literal["cell", "field"]
    input_px: Annotated[int, Field(ge=16, le=1024)]
    margin: Share = 0.06
    colour: Literal["as-found", "normalised"] = "as-found"
    filter_px: Literal[0, 3, 5] = 0
    field_um: Annotated[float, Field(ge=0, le=60)] = 0.0
    any_of: dict[str, tuple[str, ...]] = {}

    @property
    def contract(self) -> Preprocessing:
        """The preprocessing of serving."""
        return Preprocessing(
            input_px=self.input_px, margin=self.margin, colour=self.colour, field_um=self.field_um or None
        )


class SplitSection(_Section):
    """Who is trained on; see `training.splits`. With `balance`, larger classes are cut to the smallest, at random."""

    kind: Kind
    folds: Annotated[int, Field(ge=1)] = 5
    test_sources: tuple[str, ...] = ()
    balance: bool = False


class Network(_Section):
    """The network and its start.

    Attributes
    ----------
    weights:
        ``imagenet`` (downloaded by Keras), ``lite2``, ``pbc`` (a run of the recipe `pbc`), ``none``, or a file.
    frozen:
        Beginnings of the names of layers that stay as they are; ``*``: all but the head, which then learns from the
        features of `views` augmented pictures of each cell.
    activation:
        Of EfficientNetB3: ``silu``, or ``relu6``, with which it starts as exactly what EfficientNet-Lite2 is.
    pooling:
        Of EfficientNetB3: ``last``, the average of the last layer, or ``levels`` (decision 0026).
    components:
        With ``frozen = ["*"]``: principal components that the head learns from, whitened (`training.whitening`); 0:
        the features as they are.
    input_dropout:
        Dropout of these components, while the head learns.
    size_path:
        Whether the exported network has a weight for the cell's size, set on the cells of persons that the fold's
        network has not seen; figures are then of network and size together, each fold's weight set on the others.
    skip_rate:
        Chance that the last block of EfficientNet is skipped in training; the earlier a block, the lower. Keras's 0.2
        leaves a network with frozen batch normalisation little to learn from (measured over 5,120 draws: training
        accuracy 0.51 with it, 0.71 without).
    frozen_norms:
        Whether all batch normalisation stays as it is. The head's is first set to the mean and variance of the
        start's features, so that training and serving see the same network.
    """

    name: str
    weights: str
    dense_units: int = 256
    dropout: Share = 0.45
    frozen: tuple[str, ...] = ()
    activation: Literal["silu", "relu6"] = "silu"
    pooling: Literal["last", "levels"] = "last"
    components: Annotated[int, Field(ge=0)] = 0
    input_dropout: Share = 0.0
    size_path: bool = False
    skip_rate: Share = 0.2
    frozen_norms: bool = False
    views: Annotated[int, Field(ge=1)] = 10


class Fit(_Section):
    """How it learns.

    Attributes
    ----------
    per_epoch:
        Pictures drawn in an epoch, or 0 for as many as there are.
    patience:
        Epochs without a lower validation loss after which it stops, the best epoch's weights restored; 0: never.
    draw:
        ``even``: every picture alike; ``class``: classes alike; ``subject``: classes alike, the sources of a class
        by the root of their numbers, and in these subjects by the root of their pictures.
    weights:
        How often a class is drawn in relation to the others, by label; 1 where it is not named.
    source_weights:
        How often a data set is drawn in relation to the others of a class, by its name; 1 where it is not named.
    schedule:
        Of the learning rate: ``constant``, or ``cosine`` (warmed up, then down to a hundredth).
    weight_decay, clip_norm:
        Of AdamW; 0 and 0: plain Adam.
    """

    epochs: Annotated[int, Field(ge=1)]
    batch: Annotated[int, Field(ge=2)] = 32
    per_epoch: Annotated[int, Field(ge=0)] = 0
    learning_rate: Annotated[float, Field(gt=0)]
    schedule: Literal["constant", "cosine"] = "constant"
    patience: Annotated[int, Field(ge=0)] = 0
    label_smoothing: Share = 0.0
    weight_decay: Share = 0.0
    clip_norm: Annotated[float, Field(ge=0)] = 0.0
    draw: Literal["even", "class", "subject"] = "even"
    weights: dict[str, Annotated[float, Field(gt=0)]] = {}
    source_weights: dict[str, Annotated[float, Field(gt=0)]] = {}
    augment: tuple[str, ...] = ()
    mixed_precision: bool = False
    seed: int = 20

    @model_validator(mode="after")
    def _known(self) -> Fit:
        if unknown := set(self.augment) - set(AUGMENTATIONS):
            raise ValueError(f"augment: {sorted(unknown)} are not among {sorted(AUGMENTATIONS)}")
        return self


def gate_outputs(named: Mapping[str, str]) -> tuple[str, ...]:
    """Return the outputs of a gate with these named labels, in order; one for all if none is named."""
    names = set(named.values()) or {OTHER}
    return tuple(name for name in OTHER_OUTPUTS if name in names)


class Gate(_Section):
    """Further outputs for what is neither class.

    Attributes
    ----------
    outliers:
        Labels of data sets that share the output ``OTHER``.
    named:
        Labels of data sets to the output of their own (`allpacs.classify.aggregate.OTHER_OUTPUTS`). Drawn noise goes
        to ``artefact`` if there is such an output, else to ``OTHER``.
    acceptance:
        Share of the validation cells of both classes that the gate accepts.
    """

    outliers: tuple[str, ...] = ()
    named: dict[str, str] = {}
    acceptance: Share = 0.95

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs in order."""
        return gate_outputs(self.named)

    @property
    def drawn(self) -> str:
        """The output of drawn noise."""
        return NotAssessable.ARTEFACT.value if NotAssessable.ARTEFACT.value in self.outputs else OTHER

    @model_validator(mode="after")
    def _known(self) -> Gate:
        if unknown := set(self.named.values()) - set(OTHER_OUTPUTS):
            raise ValueError(f"named: {sorted(unknown)} are not among {sorted(OTHER_OUTPUTS)}")
        if self.named and self.outliers:
            raise ValueError("write either outliers, which share one output, or named")
        return self


class Recipe(_Section):
    """One study.

    Attributes
    ----------
    study:
        What it repeats, with its source.
    reference:
        The figure that was published, or empty.
    choices:
        What the source leaves open and is our choice.
    """

    name: str
    study: str
    reference: str = ""
    choices: tuple[str, ...] = ()
    data: Data
    split: SplitSection
    network: Network
    fit: Fit
    gate: Gate | None = None


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the project."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read_recipe(name_or_path: str, overrides: tuple[str, ...] = ()) -> Recipe:
    """Return a recipe by its name or file.

    Parameters
    ----------
    overrides:
        ``section.key=value`` each, the value as TOML has it (a bare word is a text): a smaller run of the same study.
        ``section=none`` leaves a section out: ``gate=none``.

    Raises
    ------
    ConfigFault
        There is no such recipe, or something in it cannot be.
    """
    path = Path(name_or_path) if name_or_path.endswith(".toml") else FOLDER / f"{name_or_path}.toml"
    try:
        written = tomllib.loads(path.read_text("utf-8"))
    except OSError as fault:
        known = ", ".join(recipe_names())
        raise ConfigFault(f"no recipe {name_or_path!r}: write a file that ends in .toml, or one of {known}") from fault
    except tomllib.TOMLDecodeError as fault:
        raise ConfigFault(f"recipe {path.name} is not TOML: {fault}") from fault
    for override in overrides:
        key, equals, value = override.partition("=")
        section, _, name = key.partition(".")
        if override == f"{section}=none":
            written.pop(section, None)
            continue
        if not equals or not name:
            raise ConfigFault(f"--set {override}: write section.key=value, for example fit.epochs=3")
        try:
            parsed = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            parsed = value
        written.setdefault(section, {})[name] = parsed
    try:
        return Recipe.model_validate(written)
    except ValidationError as fault:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in fault.errors(include_url=False))
        raise ConfigFault(f"recipe {path.name}: {problems}") from fault
