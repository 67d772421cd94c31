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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allpacs.classify.aggregate import LABELS, Thresholds
from allpacs.classify.contract import (
    AGAIN,
    CONTRACT_FILE,
    GOLDEN_FILE,
    GOLDEN_TOLERANCE,
    WEIGHTS_FILE,
    Contract,
    Network,
    parse_contract,
)
from allpacs.classify.preprocess import Preprocessing
from allpacs.classify.quality import Quality
from allpacs.domain.errors import ModelFault
from allpacs.domain.findings import ModelIdentity


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
            raise ModelFault(f"{GOLDEN_FILE} cannot be read ({type(error).__name__}): {AGAIN}") from error
        side = self.input_px
        if inputs.dtype != np.uint8 or inputs.shape[1:] != (side, side, 3) or len(inputs) == 0:
            raise ModelFault(f"{GOLDEN_FILE}: inputs are {inputs.dtype} {inputs.shape}, not n x {side} x {side} x 3")
        if probabilities.shape != (len(inputs),) or not np.isfinite(probabilities).all():
            raise ModelFault(f"{GOLDEN_FILE}: probabilities are not {len(inputs)} finite numbers: {AGAIN}")
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
            raise ModelFault(f"{GOLDEN_FILE}: scores are not {cells} x {len(self.outputs)} finite numbers: {AGAIN}")
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
    contract = parse_contract(text)
    for name, expected in sorted(contract.files.items()):
        try:
            actual = _sha256(folder / name)
        except OSError as error:
            raise ModelFault(f"{name} of the bundle cannot be read ({type(error).__name__}): {AGAIN}") from error
        if actual != expected:
            raise ModelFault(f"{name} has SHA-256 {actual}, but {CONTRACT_FILE} says {expected}: {AGAIN}")
    return Bundle(folder=folder, contract=contract, digest=_canonical_digest(text))


def write_bundle(folder: Path, contract: Mapping[str, Any]) -> Bundle:
    """Write ``bundle.json`` into a folder that already holds the bundle's other files, and return the loaded bundle.

    Parameters
    ----------
    folder:
        Holds the weights (``weights.safetensors``), the golden cells (`allpacs.classify.golden.save_golden`) and the
        model card; every file in it but hidden ones becomes part of the bundle.
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
    unwritten = Bundle(folder=folder, contract=parse_contract(text), digest=_canonical_digest(text))
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
