"""One suite, run over every engine found in `allpacs.classify.engines`: a new engine is tested unasked."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import allpacs.classify.engines
from allpacs.classify.aggregate import LABELS, probability_all
from allpacs.classify.batcher import Batcher
from allpacs.classify.bundle import Bundle, load_bundle, write_bundle
from allpacs.classify.engine import Engine, Explainer
from allpacs.classify.engines.openvino import OpenVinoEngine, converted_network
from allpacs.classify.engines.remote import RemoteEngine
from allpacs.classify.engines.tensorflow import TensorFlowEngine
from allpacs.classify.explanation import explaining_layers
from allpacs.classify.golden import save_golden, verify_engine
from allpacs.classify.network import build_network, load_weights, network_of, save_weights, set_state, state_of
from allpacs.classify.preprocess import Preprocessing
from allpacs.classify.saliency import saliency
from allpacs.domain.errors import ModelFault
from conformance.support.network import free_port

pytestmark = pytest.mark.process

SIDE = 64
REPOSITORY = Path(__file__).parents[2]


def engine_classes() -> Iterator[type[Any]]:
    """Yield every class named ``…Engine`` that a module beside the port defines."""
    for found in pkgutil.iter_modules(allpacs.classify.engines.__path__, f"{allpacs.classify.engines.__name__}."):
        module = importlib.import_module(found.name)
        for name, kind in inspect.getmembers(module, inspect.isclass):
            if kind.__module__ == module.__name__ and name.endswith("Engine") and kind is not Engine:
                yield kind


ENGINES = sorted(engine_classes(), key=lambda kind: kind.__name__)
#: Those that load the bundle's weights themselves.
LOCAL = [kind for kind in ENGINES if kind is not RemoteEngine]


def pictures(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return blotches of differing size and colour on black."""
    rng = np.random.default_rng(seed)
    made = np.zeros((count, SIDE, SIDE, 3), np.uint8)
    for picture in made:
        side = int(rng.integers(12, SIDE - 8))
        colour = rng.integers(0, 200, 3)
        picture[4 : 4 + side, 4 : 4 + side] = np.clip(colour + rng.normal(0, 30, (side, side, 3)), 0, 255)
    return made


def _scores(network: Any, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
    scores: NDArray[np.float32] = np.asarray(network(batch.astype(np.float32), training=False))
    return scores


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return a bundle of the real network at 64 px with random weights that tell the pictures apart."""
    return made_bundle(tmp_path_factory.mktemp("tiny"), "last")


def made_bundle(parent: Path, pooling: str) -> Bundle:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    folder = parent / "bundle"
    folder.mkdir()
    network = build_network(LABELS, input_px=SIDE, dense_units=16, pooling=pooling)
    samples = pictures(16)
    # Random weights answer nearly the same whatever they see: the head is stretched until the samples' answers spread.
    state = state_of(network)
    for layer in ("head_dense", "head_logits", "head_logits"):
        spread = float(_scores(network, samples).std(axis=0).mean())
        state[f"{layer}/kernel"] *= min(2.0 / max(spread, 1e-12), 2e4)
        set_state(network, state)
    state["head_logits/bias"] = -_scores(network, samples).mean(axis=0)
    set_state(network, state)
    save_weights(network, folder / "weights.safetensors")
    load_weights(network, folder / "weights.safetensors")
    shutil.copy(__file__, folder / "MODEL_CARD.md")

    probabilities = np.array([probability_all(row, 1.0) for row in _scores(network, samples)])
    save_golden(folder, samples, probabilities)
    ordered = np.sort(probabilities)
    widest = int(np.diff(ordered).argmax())
    threshold = float(ordered[widest : widest + 2].mean())
    return write_bundle(
        folder,
        {
            "name": "tiny",
            "version": "0",
            "network": {"name": "EfficientNetB3", "dense_units": 16, "dropout": 0.45, "pooling": pooling},
            "preprocessing": Preprocessing(input_px=SIDE),
            "calibration": {"temperature": 1.0},
            "thresholds": {"all_at_least": threshold, "hem_at_most": threshold},
            "quality": {},
            "metrics": [],
            "training_data": [],
            "licence": "Apache-2.0",
            "model_card": "MODEL_CARD.md",
            "intended_use": "Tests",
        },
    )


@pytest.fixture(scope="session", params=ENGINES, ids=[kind.__name__ for kind in ENGINES])
def engine(request: pytest.FixtureRequest, tiny_bundle: Bundle) -> Engine:
    if request.param is RemoteEngine:
        url = request.getfixturevalue("model_server")
        return RemoteEngine(tiny_bundle, url=url, model="allpacs", timeout_s=60.0)
    made: Engine = request.param(tiny_bundle, threads=None, **kept(request.param, tiny_bundle))
    return made


def kept(kind: type[Any], bundle: Bundle) -> dict[str, Path]:
    """Return the options with which an engine that converts the network does so once for all tests."""
    return {"cache": bundle.folder.parent / "converted"} if kind is OpenVinoEngine else {}


@pytest.fixture(scope="session")
def model_server(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run KServe's model server with the tiny bundle's network; yield its address."""
    python = REPOSITORY / "build" / "model-server" / "bin" / "python"
    if not python.exists():
        pytest.skip("no model server: make remote-engine installs one")
    folder = tmp_path_factory.mktemp("model-server")
    converted = converted_network(tiny_bundle, folder)
    port = free_port()
    with (folder / "server.log").open("wb") as log:
        program = [python, REPOSITORY / "tests" / "model_server" / "serve.py", converted, str(port)]
        server = subprocess.Popen(program, stdout=log, stderr=log)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()


@pytest.mark.essential
def test_there_are_engines() -> None:
    assert {"TensorFlowEngine", "OpenVinoEngine", "RemoteEngine"} <= {kind.__name__ for kind in ENGINES}


@pytest.mark.essential
@pytest.mark.parametrize("count", [1, 2, 5])
def test_shape_and_type(engine: Engine, count: int) -> None:
    logits = engine.logits(pictures(count))
    assert logits.shape == (count, len(LABELS))
    assert logits.dtype == np.float32
    assert np.isfinite(logits).all()


@pytest.mark.essential
def test_the_answer_depends_on_the_picture(engine: Engine) -> None:
    logits = engine.logits(pictures(8))
    assert np.ptp(logits[:, 0]) > 0.5


@pytest.mark.essential
def test_the_same_batch_gets_the_same_answer(engine: Engine) -> None:
    batch = pictures(4)
    np.testing.assert_allclose(engine.logits(batch), engine.logits(batch.copy()), rtol=0, atol=1e-5)


@pytest.mark.essential
def test_the_input_is_left_as_it_was(engine: Engine) -> None:
    batch = pictures(3)
    engine.logits(batch)
    np.testing.assert_array_equal(batch, pictures(3))


@pytest.mark.essential
def test_neighbours_make_no_difference(engine: Engine) -> None:
    batch = pictures(9)
    together = engine.logits(batch)
    alone = np.concatenate([engine.logits(batch[i : i + 1]) for i in range(len(batch))])
    np.testing.assert_allclose(together, alone, rtol=0, atol=2e-3)
    np.testing.assert_allclose(together[::-1], engine.logits(batch[::-1]), rtol=0, atol=2e-3)


@pytest.mark.essential
def test_black_and_white_pictures_get_finite_answers(engine: Engine) -> None:
    batch = np.stack([np.full((SIDE, SIDE, 3), value, np.uint8) for value in (0, 255)])
    assert np.isfinite(engine.logits(batch)).all()


@pytest.mark.essential
@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, SIDE + 1, SIDE, 3), np.uint8),
        np.zeros((SIDE, SIDE, 3), np.uint8),
        np.zeros((1, SIDE, SIDE, 1), np.uint8),
        np.zeros((1, SIDE, SIDE, 3), np.float32),
    ],
)
def test_another_kind_of_array_is_a_model_fault(engine: Engine, wrong: NDArray[np.uint8]) -> None:
    with pytest.raises(ModelFault):
        engine.logits(wrong)


@pytest.mark.essential
def test_golden_cells_are_repeated(engine: Engine, tiny_bundle: Bundle) -> None:
    assert verify_engine(tiny_bundle, engine) <= 1e-3


def test_layers_speak_for_one_label_as_much_as_against_the_other(engine: Engine) -> None:
    if not isinstance(engine, Explainer):
        pytest.skip(f"{engine.name} does not explain")
    batch = pictures(4)
    forward = engine.layer_gradients(batch, np.zeros(4, np.int64))
    backward = engine.layer_gradients(batch, np.ones(4, np.int64))
    sides = [layer.activations.shape[1] for layer in forward]
    assert sides == sorted(sides, reverse=True)
    for one, other in zip(forward, backward, strict=True):
        assert one.activations.shape == one.gradients.shape
        assert np.abs(one.gradients).max() > 0
        np.testing.assert_allclose(one.gradients, -other.gradients, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(one.activations, other.activations, rtol=1e-4, atol=1e-5)


def test_saliency_stays_in_the_cell(engine: Engine) -> None:
    explainer = engine if isinstance(engine, Explainer) else None
    batch = np.concatenate([pictures(3), np.zeros((1, SIDE, SIDE, 3), np.uint8)])
    maps = saliency(batch, engine.logits, explainer)
    assert maps.shape == batch.shape[:3]
    assert maps.dtype == np.float32
    assert maps.min() == 0.0
    np.testing.assert_array_equal(maps[:3].max(axis=(1, 2)), 1.0)
    assert not maps[batch.max(axis=3) == 0].any()
    chosen = engine.logits(batch).argmax(axis=1)
    np.testing.assert_allclose(saliency(batch, engine.logits, explainer, chosen.tolist()), maps, atol=1e-3)
    assert np.abs(saliency(batch, engine.logits, explainer, (1 - chosen).tolist()) - maps)[:3].max() > 0.1


@pytest.mark.essential
def test_behind_the_batcher(engine: Engine) -> None:
    batch = pictures(11)
    with Batcher(engine, outputs=len(LABELS), max_batch=4, max_delay_s=0) as batcher:
        logits = batcher.submit(batch).result(60)
    np.testing.assert_allclose(logits, engine.logits(batch), rtol=0, atol=2e-3)


@pytest.mark.essential
@pytest.mark.parametrize("kind", LOCAL, ids=[kind.__name__ for kind in LOCAL])
def test_a_bundle_of_another_network_is_refused(kind: type[Any], tiny_bundle: Bundle, tmp_path: Path) -> None:
    shutil.copytree(tiny_bundle.folder, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "bundle.json"
    path.write_text(path.read_text("utf-8").replace('"EfficientNetB3"', '"EfficientNetB9"'), "utf-8")
    with pytest.raises(ModelFault, match=r"network\.name"):
        kind(load_bundle(tmp_path), threads=None)


@pytest.mark.essential
@pytest.mark.parametrize("kind", LOCAL, ids=[kind.__name__ for kind in LOCAL])
def test_weights_of_another_width_are_refused(kind: type[Any], tiny_bundle: Bundle, tmp_path: Path) -> None:
    shutil.copytree(tiny_bundle.folder, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "bundle.json"
    path.write_text(path.read_text("utf-8").replace('"dense_units": 16', '"dense_units": 17'), "utf-8")
    with pytest.raises(ModelFault, match="weights"):
        kind(load_bundle(tmp_path), threads=None)


@pytest.mark.essential
@pytest.mark.parametrize("kind", LOCAL, ids=[kind.__name__ for kind in LOCAL])
def test_the_engine_starts_quietly(kind: type[Any], tiny_bundle: Bundle) -> None:
    """In a process of its own: nothing on the terminal; and the module alone loads no model library."""
    options = {name: str(at) for name, at in kept(kind, tiny_bundle).items()}
    code = (
        "import sys, pathlib\n"
        f"from {kind.__module__} import {kind.__name__} as Engine\n"
        f"options = {{name: pathlib.Path(at) for name, at in {options!r}.items()}}\n"
        "assert not {'tensorflow', 'keras', 'openvino'} & set(sys.modules)\n"
        "from allpacs.classify.bundle import load_bundle\n"
        "from allpacs.classify.golden import verify_engine\n"
        f"bundle = load_bundle(pathlib.Path({str(tiny_bundle.folder)!r}))\n"
        "print('worst', verify_engine(bundle, Engine(bundle, threads=1, **options)))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    assert ended.stdout.startswith("worst ")


@pytest.mark.essential
def test_mixed_precision_is_near_and_leaves_the_process_as_it_was(tiny_bundle: Bundle) -> None:
    half = TensorFlowEngine(tiny_bundle, half=True, warm_up=(1, 3))
    assert half.name == "tensorflow-f16"
    samples = pictures(4)
    exact = TensorFlowEngine(tiny_bundle).logits(samples)
    answer = half.logits(samples)
    assert answer.dtype == np.float32
    # Processors differ in how they compute float16. What matters is the answer: the probability, and the label where
    # that is not in doubt.
    half_p, exact_p = (np.array([probability_all(row, 1.0) for row in rows]) for rows in (answer, exact))
    np.testing.assert_allclose(half_p, exact_p, atol=0.1)
    sure = abs(exact_p - 0.5) > 0.1
    assert sure.any()
    assert np.array_equal(half_p[sure] > 0.5, exact_p[sure] > 0.5)
    assert not np.array_equal(answer, exact), "it computes in another precision"


@pytest.mark.parametrize("pooling", ["last", "levels"])
def test_engines_explain_alike(pooling: str, tmp_path: Path) -> None:
    """OpenVINO runs the same gradients as TensorFlow; TensorFlow's own, by its tape, are the reference."""
    import tensorflow as tf

    tiny_bundle = made_bundle(tmp_path, pooling)
    batch, labels = pictures(3), np.array([0, 1, 1])
    network = network_of(tiny_bundle)
    layers = [network.get_layer(name).output for name in explaining_layers(network)]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        seen = tf.constant(batch, tf.float32)
        tape.watch(seen)
        *activations, logits = type(network)(network.input, [*layers, network.output])(seen, training=False)
        score = tf.reduce_sum(logits[:, :2] * (2.0 * tf.one_hot(labels, 2) - 1.0))
    gradients = tape.gradient(score, activations)
    for kind in (TensorFlowEngine, OpenVinoEngine):
        explained = kind(tiny_bundle, **kept(kind, tiny_bundle)).layer_gradients(batch, labels)
        assert len(explained) == len(explaining_layers(network))
        for layer, activation, gradient in zip(explained, activations, gradients, strict=True):
            np.testing.assert_allclose(layer.activations, activation.numpy(), rtol=1e-3, atol=1e-4)
            most = np.abs(gradient.numpy()).max()
            np.testing.assert_allclose(layer.gradients / most, gradient.numpy() / most, rtol=0, atol=2e-3)
