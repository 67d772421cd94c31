"""Which engine is taken, and what happens to one that cannot repeat the golden cells."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from structlog.testing import capture_logs

from allpacs.classify.bundle import Bundle, load_bundle
from allpacs.classify.choose import gpu_present, start_engine
from allpacs.classify.engines import openvino as openvino_module
from allpacs.classify.engines.openvino import OpenVinoEngine, Part, converted_network
from allpacs.classify.engines.tensorflow import TensorFlowEngine
from allpacs.domain.errors import ModelFault
from allpacs.settings import SHIPPED_BUNDLE

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle(SHIPPED_BUNDLE)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle) -> Path:
    """Return a cache that holds the shipped network, both parts of it and nothing else."""
    folder = tmp_path_factory.mktemp("cache")
    shared = Path(os.environ["ALLPACS_MODEL__CACHE"])
    for part in get_args(Part):
        network = converted_network(bundle, shared, part)
        for file in (network, network.with_suffix(".bin")):
            shutil.copy(file, folder)
    return folder


class _Broken:
    """Answers as no bundle would."""

    def __init__(self, bundle: Bundle, **options: Any) -> None:
        self.name = f"broken-{options.get('precision', 'tensorflow')}"
        self._outputs = len(bundle.outputs)

    @staticmethod
    def supports(_: str) -> bool:
        return True

    def logits(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits = np.zeros((len(batch), self._outputs), np.float32)
        logits[:, :2] = 9.0, -9.0
        return logits


def test_a_cpu_gets_openvino_without_loading_tensorflow(cache: Path) -> None:
    program = (
        "import json, sys\n"
        "import numpy as np\n"
        "from pathlib import Path\n"
        "from allpacs.classify.bundle import load_bundle\n"
        "from allpacs.classify.choose import start_engine\n"
        f"bundle = load_bundle(Path({str(SHIPPED_BUNDLE)!r}))\n"
        f"engine = start_engine(bundle, cache=Path({str(cache)!r}))\n"
        "engine.layer_gradients(bundle.golden()[0][:1], np.zeros(1, np.int64))\n"
        "print(json.dumps([engine.name, sorted({'tensorflow', 'openvino_telemetry.main'} & set(sys.modules))]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    name, loaded = json.loads(done.stdout.splitlines()[-1])
    assert name in {"openvino-bf16", "openvino-f32"}
    assert loaded == []


def test_the_converted_network_is_kept(cache: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_module, "_convert_elsewhere", lambda *_: pytest.fail("converted again"))
    engine = OpenVinoEngine(bundle, cache=cache)
    assert np.isfinite(engine.logits(bundle.golden()[0])).all()
    engine.layer_gradients(bundle.golden()[0][:1], np.zeros(1, np.int64))
    assert [file.suffix for file in sorted(cache.glob("[!.]*"))] == [".bin", ".xml", ".bin", ".xml"]


def test_what_a_killed_worker_left_in_the_cache_is_deleted(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(_: Path, __: str, target: Path) -> None:
        target.touch()
        target.with_suffix(".bin").touch()

    monkeypatch.setattr(openvino_module, "_convert_elsewhere", convert)
    left = tmp_path / ".converting-left"
    (left / "part").mkdir(parents=True)
    assert converted_network(bundle, tmp_path).is_file()
    assert not left.exists()


def test_of_workers_that_start_at_once_one_converts(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversions: list[Path] = []

    def convert(_: Path, __: str, target: Path) -> None:
        conversions.append(target)
        time.sleep(0.5)
        target.touch()
        target.with_suffix(".bin").touch()

    monkeypatch.setattr(openvino_module, "_convert_elsewhere", convert)
    with ThreadPoolExecutor(4) as workers:
        made = list(workers.map(lambda _: converted_network(bundle, tmp_path), range(4)))
    assert len(conversions) == 1
    assert len(set(made)) == 1


def test_a_spoilt_cache_is_refused(cache: Path, bundle: Bundle, tmp_path: Path) -> None:
    for file in cache.glob("[!.]*"):
        (tmp_path / file.name).write_bytes(file.read_bytes() if file.suffix == ".bin" else b"<net/>")
    with pytest.raises(ModelFault, match=r"delete .*\.xml from the cache"):
        OpenVinoEngine(bundle, cache=tmp_path)


def test_altered_weights_in_the_cache_do_not_judge_cells(cache: Path, bundle: Bundle, tmp_path: Path) -> None:
    _spoil(cache, tmp_path, "logits")
    with pytest.raises(ModelFault, match="golden cells"):
        start_engine(bundle, "openvino", cache=tmp_path)


def test_nor_do_they_explain_them(cache: Path, bundle: Bundle, tmp_path: Path) -> None:
    _spoil(cache, tmp_path, "explanation")
    engine = start_engine(bundle, "openvino", cache=tmp_path)
    assert isinstance(engine, OpenVinoEngine)
    with pytest.raises(ModelFault, match=r"\(explanation\) does not repeat the golden cells"):
        engine.layer_gradients(bundle.golden()[0][:1], np.zeros(1, np.int64))


def _spoil(cache: Path, target: Path, part: str) -> None:
    """Copy a cache, the weights of one of its networks altered."""
    for file in cache.glob("[!.]*"):
        content = bytearray(file.read_bytes())
        if file.suffix == ".bin" and file.stem.endswith("-explanation") == (part == "explanation"):
            weights = np.frombuffer(content, np.float32, offset=len(content) // 2 // 4 * 4)
            shapes = np.abs(weights) < 1e-6  # whole numbers of the graph, seen as float32
            weights[:] = np.where(np.isfinite(weights) & ~shapes, weights * 1.5, weights)
        (target / file.name).write_bytes(content)


def test_an_engine_that_fails_the_golden_cells_is_passed_over(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("allpacs.classify.choose.gpu_present", lambda: False)
    monkeypatch.setattr("allpacs.classify.engines.openvino.OpenVinoEngine", _Broken)
    with capture_logs() as logs:
        engine = start_engine(bundle)
    assert isinstance(engine, TensorFlowEngine)
    refused = [entry for entry in logs if entry["event"] == "engine_refused"]
    assert [entry["engine"] for entry in refused] == ["openvino-bf16", "openvino-f32"]
    assert all("probabilities differ by up to" in entry["reason"] for entry in refused)


def test_where_none_is_left_the_last_one_says_why(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("allpacs.classify.engines.openvino.OpenVinoEngine", _Broken)
    with pytest.raises(ModelFault, match="engine broken-f32 does not repeat"):
        start_engine(bundle, "openvino")


def test_a_gpu_gets_tensorflow_in_mixed_precision_where_the_golden_cells_let_it(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Coarse(_Broken):
        def __init__(self, bundle: Bundle, *, half: bool = False, **options: object) -> None:
            assert options["warm_up"]
            super().__init__(bundle, precision="f16" if half else "f32")

    monkeypatch.setattr("allpacs.classify.choose.gpu_present", lambda: True)
    monkeypatch.setattr("allpacs.classify.engines.openvino.OpenVinoEngine", lambda *_, **__: pytest.fail("not asked"))
    monkeypatch.setattr("allpacs.classify.engines.tensorflow.TensorFlowEngine", Coarse)
    with capture_logs() as logs, pytest.raises(ModelFault, match="engine broken-f32 does not repeat"):
        start_engine(bundle)
    assert [entry["engine"] for entry in logs] == ["tensorflow-f16", "tensorflow"]


def test_a_bundle_that_cannot_be_converted_says_why(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ModelFault, match=r"cannot be converted for OpenVINO: .*bundle\.json"):
        openvino_module._convert_elsewhere(tmp_path / "nothing", "logits", tmp_path / "network.xml")


def test_a_cache_that_cannot_be_written_is_a_model_fault(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelFault, match="cache of models: Not a directory"):
        OpenVinoEngine(bundle, cache=tmp_path / "file" / "cache")


@pytest.mark.parametrize(
    ("names", "present"), [((), False), (("nvidiactl", "nvidia-uvm"), False), (("nvidiactl", "nvidia0"), True)]
)
def test_a_gpu_is_told_by_its_device_file(tmp_path: Path, names: tuple[str, ...], present: bool) -> None:
    for name in names:
        (tmp_path / name).touch()
    assert gpu_present(tmp_path) is present
