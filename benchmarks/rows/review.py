"""A review by keyboard in Chromium: how soon a key is answered and saved, and whether any is lost.

First at the pace that a specialist is to keep, 200 cells a minute; then as fast as keys can be pressed. The times are
from the key to what is seen, with the driver's own round trips in them. Every decision is then looked for in the store.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import cycle, islice

from PIL import Image
from playwright.sync_api import Page, sync_playwright
from pydicom import dcmread

from allpacs.classify import aggregate
from allpacs.demo.synthetic import draw_field
from allpacs.domain.findings import CellFinding, CellLabel, InstanceFindings
from allpacs.domain.geometry import BoxPx
from allpacs.domain.instance import InstanceIdentity
from allpacs.domain.review import Decision
from allpacs.domain.specimen import PatientAndSpecimen
from allpacs.store.records import RevisionState
from allpacs.store.store import Store
from allpacs.study.import_images import import_pictures
from benchmarks.measure import Row, measured
from benchmarks.rows.console import MODEL, serving
from benchmarks.scale import Scale

#: Cells of the review, on so many fields.
_CELLS, _FIELDS = 200, 10
_PACE_S = 60 / 200
#: Cells are accepted, relabelled (or accepted, by what the model had said) and excluded in turn.
_KEYS = ("Enter", "a", "h", "x")


def rows(scale: Scale) -> Iterator[Row]:
    """Yield review_key_shown, review_key_saved and review_cells_per_minute."""
    chromium = shutil.which("chromium")
    if chromium is None:
        raise RuntimeError("no Chromium installed")
    for paced in (True, False):
        store = Store.open(scale.folder / f"review-{paced}" / "store")
        study = _study(store, scale)
        with serving(store) as address, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page(viewport={"width": 1366, "height": 768})
            page.goto(address)
            page.wait_for_selector("table.studies")
            page.goto(f"{address.partition('/sign-in')[0]}/studies/{study}/revisions/1")
            page.wait_for_selector('.cell[aria-current="true"]')
            page.wait_for_timeout(3000)  # the first crops
            setting = f"{_CELLS} cells, Chromium at 1366 x 768"
            if paced:
                shown, saved = _at_a_pace(page)
                yield measured(
                    "review_key_shown", shown, unit="ms", aim="<= 100", setting=f"{setting}, 200 keys a minute"
                )
                yield measured(
                    "review_key_saved",
                    saved,
                    unit="ms",
                    aim=f"<= {1000 * _PACE_S:.0f}",
                    setting=f"{setting}, 200 keys a minute",
                )
            else:
                yield measured(
                    "review_cells_per_minute",
                    [_at_once(page)],
                    unit="/min",
                    aim=">= 200",
                    setting=f"{setting}, key after key",
                )
            browser.close()
        _check_nothing_lost(store, study)
        store.close()


def _at_a_pace(page: Page) -> tuple[list[float], list[float]]:
    """Press a key every 300 ms; return the times until each was shown and until it was saved, milliseconds."""
    shown, saved = [], []
    for key in islice(cycle(_KEYS), _CELLS):
        uid = page.get_attribute('.cell[aria-current="true"]', "data-uid")
        began = time.perf_counter()
        page.keyboard.press(key)
        page.wait_for_function("uid => document.querySelector(`.cell[data-uid='${uid}']`).dataset.decision", arg=uid)
        shown.append(1000 * (time.perf_counter() - began))
        page.wait_for_function("uid => !document.querySelector(`.cell[data-uid='${uid}'].unsaved`)", arg=uid)
        saved.append(1000 * (time.perf_counter() - began))
        time.sleep(max(0.0, began + _PACE_S - time.perf_counter()))
    return shown, saved


def _at_once(page: Page) -> float:
    """Press key after key, wait until all is saved, and return how many cells a minute that is."""
    began = time.perf_counter()
    for key in islice(cycle(_KEYS), _CELLS):
        page.keyboard.press(key)
    page.wait_for_function(
        f"() => document.querySelectorAll('.cell:not(.unsaved):not([data-decision=\"\"])').length === {_CELLS}"
    )
    return 60 * _CELLS / (time.perf_counter() - began)


def _check_nothing_lost(store: Store, study: str) -> None:
    """The gallery shows the cells by probability; the decision on each must be that of its key."""
    (found,) = [store.findings.get(study, 1)]
    cells = sorted((cell for one in found for cell in one.cells), key=lambda cell: -(cell.probability_all or 0.0))
    kept = store.reviews.decisions(study)
    for cell, key in zip(cells, cycle(_KEYS), strict=False):
        given = {"a": CellLabel.ALL, "h": CellLabel.HEM}.get(key)
        expected = (
            Decision.EXCLUDED
            if key == "x"
            else Decision.ACCEPTED
            if given in (None, cell.label)
            else Decision.RELABELLED
        )
        one = kept.get(cell.tracking_uid)
        if one is None or one.decision is not expected:
            raise RuntimeError(f"a key was lost: {key} of {cell.tracking_uid} is {one}")


def _study(store: Store, scale: Scale) -> str:
    """Keep a study of drawn fields with cells on a grid, as if it had been read; return its UID."""
    folder = scale.folder / "review-fields"
    folder.mkdir(parents=True, exist_ok=True)
    pictures = [folder / f"{number}.png" for number in range(_FIELDS)]
    for number, path in enumerate(pictures):
        if not path.exists():
            Image.fromarray(draw_field(number, cells=10, size=(1200, 900))).save(path)
    patient = PatientAndSpecimen(patient_id="B-1", patient_name="Bench^Review")
    files = import_pictures(pictures, store.spool.folder.parent / "made", patient=patient, made_at=datetime.now(UTC))
    for file in files:
        header = dcmread(file, stop_before_pixels=True)
        content, start = file.read_bytes(), 132 + 12 + header.file_meta.FileMetaInformationGroupLength
        identity = InstanceIdentity(
            sop_instance_uid=header.SOPInstanceUID,
            sop_class_uid=header.SOPClassUID,
            transfer_syntax_uid=header.file_meta.TransferSyntaxUID,
            study_uid=header.StudyInstanceUID,
            series_uid=header.SeriesInstanceUID,
        )
        store.receiving.keep_instance(
            identity, content[:start], content[start:], calling_ae="BENCH", received_at=time.time(), quiet_s=0,
            max_age_s=0,
        )  # fmt: skip
    ((study, revision),) = store.revisions.close_due(time.time() + 1)
    found = [
        InstanceFindings(
            row.sop_instance_uid, row.sop_class_uid, row.series_uid, 1, _cells(row.sop_instance_uid, place)
        )
        for place, row in enumerate(store.revisions.instances(study, revision))
    ]
    store.findings.put(study, revision, found, stage="classify")
    store.outcomes.put(aggregate.study_findings(study, revision, MODEL, "sha256:" + "cd" * 32, found))
    store.revisions.set_state(study, revision, RevisionState.DELIVERED, bundle_digest=MODEL.digest)
    return study


def _cells(sop_instance_uid: str, place: int) -> tuple[CellFinding, ...]:
    each = _CELLS // _FIELDS
    cells = []
    for number in range(each):
        box = BoxPx(40 + 220 * (number % 5), 40 + 210 * (number // 5), 120, 120)
        probability = (place * each + number + 0.5) / _CELLS
        label = CellLabel.ALL if probability > 0.5 else CellLabel.HEM
        cells.append(CellFinding(sop_instance_uid, 1, number + 1, box, box.corners(), label, probability, None))
    return tuple(cells)
