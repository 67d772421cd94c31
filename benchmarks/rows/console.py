"""Pages of the review console with thousands of studies in the store: the time from request to last byte.

``…_cpu`` is the processor's time for the same, server and client together: what else the machine does is not in it.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import httpx
import numpy as np
import uvicorn
from PIL import Image
from pydantic import TypeAdapter
from pydicom import dcmread

from allpacs.console.app import make_console
from allpacs.domain.findings import CellFinding, CellLabel, InstanceFindings, ModelIdentity, NotAssessable
from allpacs.domain.geometry import BoxPx
from allpacs.domain.specimen import PatientAndSpecimen
from allpacs.settings import load_settings
from allpacs.store import schema
from allpacs.store.outcomes import SCORE_BINS
from allpacs.store.store import Store
from allpacs.study.import_images import import_pictures
from benchmarks.measure import Row, alone
from benchmarks.scale import Scale

_AIM = "<= 300"
_CELLS_EACH = 40
#: One study among the others has so many cells.
_LARGE = 5000
MODEL = ModelIdentity("bench", "1", "sha256:" + "ab" * 32, "EfficientNetB3")
_DAY_S = 86_400


def rows(scale: Scale) -> Iterator[Row]:
    """Yield one row a page: console_worklist, console_search, console_study and so on."""
    folder = scale.folder / "console"
    store = Store.open(folder / "store")
    studies = _fill(store, folder, scale.console_studies)
    setting = f"{scale.console_studies} studies, {_CELLS_EACH * (scale.console_studies - 1) + _LARGE} cells, SQLite"
    with serving(store) as address, _signed_in(address) as client:
        # The headers of all studies are being read.
        _wait_for(lambda: "Bench 0" in client.get("/?q=bench+0").text, "the patients of all studies")
        pages = {
            "worklist": "/",
            "worklist_sorted": "/?sort=fraction&dir=up&page=40",
            "worklist_state": "/?state=delivered&review=to-review&source=AE7",
            "search": "/?q=bench+17",
            "study": f"/studies/{studies[1]}/revisions/1",
            "large_study": f"/studies/{studies[0]}/revisions/1",
            "large_study_more": f"/studies/{studies[0]}/revisions/1/cells?from=2400&sort=uncertainty",
            "study_status": f"/studies/{studies[0]}/revisions/1/status",
            "sign_off": f"/studies/{studies[1]}/revisions/1/sign-off",
            "operations": "/operations",
            "drift": "/drift?weeks=52",
        }
        for name, path in pages.items():
            for clock, suffix, aim in ((time.perf_counter, "", _AIM), (time.process_time, "_cpu", "")):
                yield alone(
                    f"console_{name}{suffix}", _timed(client, path, clock),
                    runs=scale.runs * 4, unit="ms", aim=aim, setting=setting,
                )  # fmt: skip
    store.close()


def _timed(client: httpx.Client, path: str, clock: Callable[[], float]) -> Callable[[], float]:
    def ask() -> float:
        began = clock()
        answer = client.get(path)
        taken = 1000 * (clock() - began)
        if answer.status_code != 200:
            raise RuntimeError(f"{path} answered {answer.status_code}")
        return taken

    return ask


@contextmanager
def serving(store: Store) -> Iterator[str]:
    """Run the console over the store; yield the address that signs in."""
    folder = store.spool.folder.parent
    settings = load_settings(store={"folder": folder}, receive={"port": 1})
    server = uvicorn.Server(uvicorn.Config(make_console(settings, store), port=0, log_config=None))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    _wait_for(lambda: server.started, "the console")
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}/sign-in#{(folder / 'console.token').read_text().strip()}"
    finally:
        server.should_exit = True
        thread.join(30)


@contextmanager
def _signed_in(address: str) -> Iterator[httpx.Client]:
    base, _, token = address.partition("/sign-in#")
    with httpx.Client(base_url=base, headers={"accept": "text/html"}, follow_redirects=True, timeout=60) as client:
        page = client.get("/sign-in").text
        (csrf,) = re.findall(r'name="csrf" content="([^"]+)"', page)
        client.post("/sign-in", data={"csrf": csrf, "token": token, "next": "/drift"})
        yield client


def _wait_for(condition: Callable[[], bool], what: str, within_s: float = 120.0) -> None:
    until = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > until:
            raise RuntimeError(f"{what}: not within {within_s:.0f} s")
        time.sleep(0.1)


def _fill(store: Store, folder: Path, count: int) -> list[str]:
    """Put studies with findings straight into the index; return their UIDs, the large one first."""
    files = _headers(folder, min(count, 50))
    rng = np.random.default_rng(1)
    adapter = TypeAdapter(InstanceFindings)
    now = time.time()
    uids = [f"2.25.{10**30 + number}" for number in range(count)]
    tables: dict[str, list[dict[str, object]]] = {}

    def add(table: str, **values: object) -> None:
        tables.setdefault(table, []).append(values)

    for number, uid in enumerate(uids):
        at = now - rng.random() * 360 * _DAY_S
        state = "delivered" if number % 20 else "attention"
        cells = _LARGE if number == 0 else _CELLS_EACH
        sop = f"{uid}.1"
        found = _findings(sop, uid, rng, cells)
        labels = [cell.label for cell in found.cells]
        positive, negative = labels.count(CellLabel.ALL), labels.count(CellLabel.HEM)
        scores = np.histogram(np.array([cell.probability_all for cell in found.cells], float), SCORE_BINS, (0, 1))[0]
        add(
            "studies",
            study_uid=uid,
            source_ae=f"AE{number % 9}",
            state=state,
            revision=1,
            opened_at=at,
            last_received_at=at,
        )
        add(
            "instances", sop_instance_uid=sop, study_uid=uid, series_uid=f"{uid}.2", sop_class_uid=found.sop_class_uid,
            transfer_syntax_uid="1.2.840.10008.1.2.1", calling_ae="AE", received_at=at, path=files[number % len(files)],
            size_bytes=1, sha256="0" * 64, revision=1,
        )  # fmt: skip
        add("revisions", study_uid=uid, revision=1, state=state, created_at=at, attempts=1, bundle_digest=MODEL.digest)
        body = adapter.dump_json(found).decode()
        add("findings", study_uid=uid, revision=1, sop_instance_uid=sop, stage="classify", body=body)
        add(
            "outcomes", study_uid=uid, revision=1, model=json.dumps(asdict(MODEL)), bundle_digest=MODEL.digest,
            decision_digest="d", cells=cells, cells_all=positive, cells_hem=negative, unreadable=0,
            fraction=positive / max(1, positive + negative), fraction_low=0.1, fraction_high=0.9,
            scores=json.dumps(scores.tolist()), reasons="{}",
        )  # fmt: skip
        for destination in ("pacs", "ehr"):
            add(
                "deliveries", study_uid=uid, revision=1, destination=destination, attempts=1, updated_at=at,
                state="sent" if state == "delivered" else "dead", reason="0x0000",
            )  # fmt: skip
        for event in ("study_opened", "cells_decided"):
            add("audit", at=at, event=event, study_uid=uid, reason="by bench")
    with store.database.writing() as connection:
        for name, values in tables.items():
            connection.execute(schema.metadata.tables[name].insert(), values)
    return uids


def _headers(folder: Path, count: int) -> list[str]:
    """Write small instances whose headers the studies share; return their paths in the spool."""
    picture = folder / "picture.png"
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(picture)
    paths = []
    for number in range(count):
        patient = PatientAndSpecimen(
            patient_id=f"P{number}", patient_name=f"Bench^{number}", accession_number=str(number)
        )
        (made,) = import_pictures(
            [picture], folder / "store" / "spool" / "bench", patient=patient, made_at=datetime.now(UTC)
        )
        paths.append(f"bench/{dcmread(made, stop_before_pixels=True).SOPInstanceUID}.dcm")
    return paths


def _findings(sop: str, uid: str, rng: np.random.Generator, cells: int) -> InstanceFindings:
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    found = []
    for number, probability in enumerate(rng.random(cells), start=1):
        x, y = int(rng.integers(0, 4000)), int(rng.integers(0, 4000))
        outline = tuple((x + 30 + 28 * float(np.cos(a)), y + 30 + 28 * float(np.sin(a))) for a in angles)
        label = CellLabel.ALL if probability > 0.55 else CellLabel.HEM if probability < 0.45 else None
        reason = None if label else NotAssessable.INDETERMINATE
        found.append(CellFinding(sop, 1, number, BoxPx(x, y, 60, 60), outline, label, float(probability), reason))
    return InstanceFindings(sop, "1.2.840.10008.5.1.4.1.1.77.1.2", f"{uid}.2", 1, tuple(found))
