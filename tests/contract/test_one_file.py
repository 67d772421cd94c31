"""An extension is one file: a destination, a cell finder and an engine that nothing else names do their work.

Each is one module in a folder that is added to its package, as a file in that package would be. A site is run with all
three: its configuration is a file, its worker starts the engine, finds cells, delivers and writes audit messages, and
its console shows the operations page.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from allpacs.app import Worker, make_audit, make_receiver, open_store, start_model
from allpacs.classify.aggregate import probability_all
from allpacs.classify.bundle import Bundle, write_bundle
from allpacs.classify.golden import save_golden
from allpacs.classify.preprocess import Preprocessing
from allpacs.console.access import Role
from allpacs.domain.errors import ConfigFault, ModelFault
from allpacs.domain.findings import CellFinding
from allpacs.settings import Settings, load_settings
from allpacs.store.records import DeliveryState
from conformance.support.network import free_port, wait_until
from support.hospital import SENDER, StubHospital, drawn_study
from unit.console.conftest import browser_of

SIDE = 64
PATIENCE_S = 120.0

DESTINATION = '''
from pathlib import Path
from typing import Literal

from pydantic import Field

from allpacs.audit.messages import AuditEvent
from allpacs.domain.artefacts import Receipt
from allpacs.settings.destinations import DestinationSettings


class Settings(DestinationSettings):
    """A folder that takes pages only."""

    kind: Literal["parcel"]
    shelf: Path = Field(description="where the pages go", examples=["/shelf"])

    @property
    def address(self):
        return f"shelf {self.shelf.name}"

    def make(self, ae_title):
        return Parcel(self.shelf, ae_title)


class Parcel:
    takes = frozenset({"text/html"})
    audit_event = AuditEvent.EXPORTED

    def __init__(self, shelf, ae_title):
        self._shelf, self._ae_title = shelf, ae_title

    def deliver(self, artefacts):
        self._shelf.mkdir(exist_ok=True)
        for artefact in artefacts:
            assert artefact.is_taken_by(self.takes)
            (self._shelf / self._ae_title).write_bytes(artefact.content)
        return Receipt(detail=f"{len(artefacts)} on the shelf")

    def check(self):
        return "there is a shelf"
'''

FINDER = '''
import numpy as np

from allpacs.cells.outline import cell_of


class Middle:
    """Takes the middle of every frame for a cell."""

    name = "middle"
    segmented = True

    def find(self, frame):
        rows, columns = frame.rgb.shape[:2]
        mask = np.zeros((rows, columns), bool)
        mask[rows // 2 - 60 : rows // 2 + 60, columns // 2 - 50 : columns // 2 + 50] = True
        return (cell_of(mask),)

    def find_and_measure(self, frame):
        return self.find(frame), None


FINDER = Middle()
'''

ENGINE = '''
import numpy as np
from pydantic import Field

from allpacs.settings.engines import EngineSettings


class Settings(EngineSettings):
    bright_level: float = Field(60.0, gt=0, description="brightness of a cell that may be either", examples=[60.0])

    def attempts(self, bundle, *, gpu, threads, cache):
        yield "bright", lambda: Bright(self.bright_level)


class Bright:
    """Judges a cell by its brightness."""

    name = "bright"

    def __init__(self, level):
        self._level = level

    def logits(self, batch):
        mean = batch.astype(np.float32).mean(axis=(1, 2, 3))
        return np.stack([(self._level - mean) / 4, (mean - self._level) / 4], axis=1)
'''

MODULES = {
    "allpacs.deliver.destinations": ("parcel", DESTINATION),
    "allpacs.cells.finders": ("middle", FINDER),
    "allpacs.classify.engines": ("bright", ENGINE),
}


@pytest.fixture(scope="module")
def extensions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Add one module to each package of extensions."""
    with pytest.MonkeyPatch.context() as patch:
        for package_name, (kind, text) in MODULES.items():
            folder = tmp_path_factory.mktemp(kind)
            (folder / f"{kind}.py").write_text(text, encoding="utf-8")
            package = importlib.import_module(package_name)
            patch.setattr(package, "__path__", [*package.__path__, str(folder)])
        importlib.invalidate_caches()
        yield
        for package_name, (kind, _) in MODULES.items():
            sys.modules.pop(f"{package_name}.{kind}", None)
            if hasattr(sys.modules[package_name], kind):
                delattr(sys.modules[package_name], kind)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return a bundle whose golden cells are what the engine `bright` says at its default level."""
    folder = tmp_path_factory.mktemp("bundle")
    (folder / "weights.safetensors").write_bytes(b"no weights: the engine has none")
    (folder / "MODEL_CARD.md").write_text("# By brightness\n", encoding="utf-8")
    brightness = np.array([40, 56, 64, 90], np.uint8)
    inputs = np.broadcast_to(brightness[:, None, None, None], (4, SIDE, SIDE, 3)).copy()
    margins = (60.0 - brightness.astype(np.float64)) / 4
    save_golden(folder, inputs, np.array([probability_all(np.array([x, -x]), 1.0) for x in margins]))
    return write_bundle(
        folder,
        {
            "name": "bright",
            "version": "1",
            "network": {"name": "EfficientNetB3", "dense_units": 16, "dropout": 0.45},
            "preprocessing": Preprocessing(input_px=SIDE),
            "calibration": {"temperature": 1.0},
            "thresholds": {"all_at_least": 0.5, "hem_at_most": 0.5},
            "quality": {},
            "metrics": [],
            "training_data": [],
            "licence": "Apache-2.0",
            "model_card": "MODEL_CARD.md",
            "intended_use": "Tests",
        },
    )


@dataclass(frozen=True)
class Site:
    """What a site with the three extensions has done with one study of two images."""

    settings: Settings
    cells: list[CellFinding]
    deliveries: dict[str, tuple[str, str | None]]
    shelf: Path
    events: dict[str, str]
    page: str


@pytest.fixture(scope="module")
def site(extensions: None, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Run the site, whose syslog server is away: its audit messages stay in the spool."""
    folder = tmp_path_factory.mktemp("site")
    shelf = folder / "shelf-7"
    extra = f"""
[destinations.post]
kind = "parcel"
shelf = {json.dumps(str(shelf))}
[receive.sources.{SENDER}]
cell_finder = "middle"
[model]
bundle = {json.dumps(str(bundle.folder))}
engine = "bright"
bright_level = 60.0
[work]
poll_s = 0.05
[audit]
host = "127.0.0.1"
port = {free_port()}
"""
    with StubHospital(folder, quiet_s=1.0, extra=extra) as hospital:
        settings = hospital.settings
        store = open_store(settings)
        receiver = make_receiver(settings, store)
        receiver.start()
        audit = make_audit(settings, "work")
        worker = Worker(settings, store, audit=audit)
        worker.start()
        try:
            drawn_study(folder, range(2))
            hospital.send(folder / "dicom")

            def delivered() -> bool:
                studies = store.studies.latest()
                states = [one.state for study in studies for one in store.deliveries.of_study(study.study_uid)]
                return len(states) == 3 and set(states) <= {DeliveryState.SENT, DeliveryState.COMMITTED}

            wait_until(delivered, PATIENCE_S, "all three deliveries")
            (study,) = store.studies.latest()
            found = store.findings.get(study.study_uid, study.revision, stage="classify")
            deliveries = {
                one.destination: (str(one.state), one.reason) for one in store.deliveries.of_study(study.study_uid)
            }
            page = browser_of(settings, store, Role.ADMINISTRATOR).see("/operations").text
        finally:
            worker.stop()
            receiver.stop()
            audit.stopped("work")
            store.close()
    return Site(
        settings,
        [cell for image in found for cell in image.cells],
        deliveries,
        shelf,
        _events(settings.store.folder / "audit"),
        page,
    )


def _events(spools: Path) -> dict[str, str]:
    """Return the Event ID of each delivery's audit message, by destination."""
    events = {}
    for file in spools.rglob("*.xml"):
        message = ET.parse(file).getroot()  # noqa: S314 - written by the code under test
        event = message.find("EventIdentification/EventID")
        assert event is not None
        participants = {one.get("UserID", ""): one.find("RoleIDCode") for one in message.findall("ActiveParticipant")}
        for user, role in participants.items():
            if role is not None and role.get("csd-code") == "110152":  # Destination Role ID
                events[user] = event.get("csd-code", "")
    return events


def test_a_destination_takes_the_kinds_that_it_declares(site: Site) -> None:
    assert site.deliveries["post"] == ("sent", "1 on the shelf")
    page = (site.shelf / site.settings.receive.ae_title).read_text("utf-8")
    assert page.lower().startswith("<!doctype html>")


def test_deliveries_are_audited_as_what_their_destination_declares(site: Site) -> None:
    """PS3.15 A.5.3.6 Export (110106), A.5.3.7 DICOM Instances Transferred (110104)."""
    assert site.events == {"post": "110106", "ehr": "110106", "pacs": "110104"}


def test_the_operations_page_shows_the_address_that_a_destination_declares(site: Site) -> None:
    assert "<bdi>post</bdi>" in site.page
    assert '<bdi class="code">shelf shelf-7</bdi>' in site.page


def test_a_cell_finder_is_used_for_the_sender_that_names_it(site: Site) -> None:
    assert len(site.cells) == 2, "one in each image"
    assert {(cell.box.width, cell.box.height) for cell in site.cells} == {(100, 120)}


def test_an_engine_labels_the_cells(site: Site) -> None:
    assert all(cell.label is not None for cell in site.cells), [cell.reason for cell in site.cells]


def test_an_engine_is_asked_by_the_golden_cells_first(extensions: None, bundle: Bundle) -> None:
    def start(**keys: float) -> str:
        settings = load_settings(model={"bundle": bundle.folder, "engine": "bright", **keys})
        batcher = start_model(settings, bundle)
        batcher.close()
        return batcher.engine.name

    assert start() == "bright"
    with pytest.raises(ModelFault, match="engine bright does not repeat the golden cells"):
        start(bright_level=100.0)


def test_an_engine_that_does_not_ask_for_it_is_never_chosen_by_itself(extensions: None) -> None:
    settings = load_settings().model.of_engine("bright")
    assert settings.automatic_rank(gpu=False) is None
    assert settings.automatic_rank(gpu=True) is None


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"destinations": {"post": {"kind": "parcel"}}}, r"destinations\.post\.shelf is missing"),
        (
            {"destinations": {"post": {"kind": "parcels"}}},
            r"destinations\.post: .*parcel, stow_rs; did you mean 'parcel'",
        ),
        ({"model": {"bright_level": -1}}, r"model\.bright_level: "),
        ({"model": {"bright_levels": 1}}, r"unknown key model\.bright_levels: did you mean model\.bright_level\?"),
        ({"model": {"engine": "brigt"}}, r"model\.engine: .*auto, bright, openvino.*did you mean 'bright'"),
        ({"receive": {"sources": {"A": {"cell_finder": "midle"}}}}, r"cell_finder: .*did you mean 'middle'"),
    ],
)
def test_its_keys_are_checked_as_all_others_are(extensions: None, sections: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigFault, match=said):
        load_settings(**sections)
