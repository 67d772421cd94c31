"""Export of reviewed cells, without what tells whose they are, as a data set that ``training/`` reads."""

from __future__ import annotations

import json
import tempfile
import time
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from io import BytesIO
from typing import IO

import structlog
from PIL import Image
from pydicom import Dataset
from starlette.responses import Response, StreamingResponse

import allpacs
from allpacs.audit.messages import AuditEvent
from allpacs.console import access
from allpacs.console.cells import Cell, is_change, label_after
from allpacs.console.pictures import square_around
from allpacs.console.visit import Visit
from allpacs.decode.part10 import read_header
from allpacs.dicom.deidentify import Pseudonyms
from allpacs.domain.errors import AllpacsError
from allpacs.report.elements import items, text
from allpacs.store.reviews import ReviewRow

_log = structlog.get_logger("allpacs.console")

#: What the header says of consent (PS3.3 C.7.2.3, Consent for Clinical Trial Use Sequence).
YES, NO, NOT_STATED = "yes", "no", "not-stated"


def show(visit: Visit) -> Response:
    """Show what would be exported."""
    return visit.page("export.html", signed=visit.store.reviews.count_signed(), fault="")


def send(visit: Visit) -> Response:
    """Send the archive: a folder a subject, a PNG and a ``.label.json`` a cell."""
    if visit.posted("responsible") != "yes":
        fault = "confirm that these cells may be used"
        return visit.page("export.html", 422, signed=visit.store.reviews.count_signed(), fault=fault)
    only_consented = visit.posted("consent") != "all"
    archive = tempfile.TemporaryFile(dir=visit.console.settings.store.folder)  # noqa: SIM115 - closed when it is sent
    cells = _write(visit, archive, only_consented)
    archive.seek(0)
    visit.store.audit.record(
        "cells_exported", at=time.time(), reason=f"{cells} cells by {visit.someone.identifier}, de-identified"
    )
    visit.tell(AuditEvent.EXPORTED)
    _log.info("cells_exported", cells=cells)
    name = f"reviewed-cells-{datetime.now(UTC):%Y%m%d}.zip"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(_parts(archive), 200, headers, "application/zip")


def _write(visit: Visit, archive: IO[bytes], only_consented: bool) -> int:
    key = access.secret_of(visit.console.settings.store.folder / "pseudonyms.secret").encode()
    names = Pseudonyms(key)
    count = 0
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as written:
        for review in visit.store.reviews.all_signed():
            for path, content in _cells(visit, review, names, only_consented):
                written.writestr(path, content)
                count += path.endswith(".label.json")
    return count


def _cells(visit: Visit, review: ReviewRow, names: Pseudonyms, only_consented: bool) -> Iterator[tuple[str, bytes]]:
    """Yield the files of one signed review; what cannot be read any more, or must not leave, is left out."""
    decisions = visit.store.reviews.signed_decisions(review.study_uid, review.revision)
    everything = visit.console.cells.of(review.study_uid, review.revision)
    outcome = visit.store.outcomes.get(review.study_uid, review.revision)
    headers: dict[str, tuple[str, str] | None] = {}
    for cell in everything.cells:
        decision = decisions.get(cell.tracking_uid)
        label = label_after(cell.finding, decision)
        if decision is None or label is None:  # not looked at by itself, or no class to learn
            continue
        uid = cell.finding.sop_instance_uid
        if uid not in headers:
            headers[uid] = _subject_and_consent(visit, uid, names)
        found = headers[uid]
        if found is None or found[1] == NO or (only_consented and found[1] != YES):
            continue
        try:
            picture = _picture(visit, cell)
        except AllpacsError:
            continue
        subject, consent = found
        name = names.uid(cell.tracking_uid)
        described = {
            "image": f"{name}.png",
            "label": label.value,
            "subject": subject,
            "study": names.uid(review.study_uid),
            "consent": consent,
            "provenance": {
                "reviewer": names.text("reviewer", review.signed_by or ""),
                "signed": datetime.fromtimestamp(review.signed_at or 0, UTC).strftime("%Y-%m"),
                "decision": decision.decision,
                "changed": is_change(cell.finding, decision),
                "model": None if outcome is None else outcome.model.digest,
                "model_label": cell.finding.label,
                "model_probability_all": cell.finding.probability_all,
                "software": f"allpacs {allpacs.__version__}",
            },
        }
        yield f"{subject}/{name}.png", picture
        yield f"{subject}/{name}.label.json", (json.dumps(described, indent=1) + "\n").encode()


def _subject_and_consent(visit: Visit, sop_instance_uid: str, names: Pseudonyms) -> tuple[str, str] | None:
    """Return the subject's pseudonym and what the header says of consent; None where the instance must not leave."""
    path = visit.store.worklist.path_of(sop_instance_uid)
    try:
        if path is None:
            return None
        header = read_header(path)
    except AllpacsError:
        return None
    if text(header, "BurnedInAnnotation").upper() == "YES":
        return None
    # Without a patient ID the cells of different studies cannot be known to be one subject's.
    who = text(header, "PatientID") or text(header, "StudyInstanceUID")
    return names.text("subject", f"{text(header, 'IssuerOfPatientID')}\x1f{who}"), _consent(header)


def _consent(header: Dataset) -> str:
    flags = {
        text(one, "ConsentForDistributionFlag").upper() for one in items(header, "ConsentForClinicalTrialUseSequence")
    }
    if flags & {"NO", "WITHDRAWN"}:
        return NO
    return YES if "YES" in flags else NOT_STATED


def _picture(visit: Visit, cell: Cell) -> bytes:
    """Return the cell with its surroundings, in the frame's own pixels, as PNG: without loss and without metadata."""
    finding = cell.finding
    rgb = visit.console.pictures.frame(finding.sop_instance_uid, finding.frame_number)
    left, top, side = square_around(finding.box, rgb.shape)
    part = rgb[max(top, 0) : top + side, max(left, 0) : left + side]
    buffer = BytesIO()
    Image.fromarray(part).save(buffer, "PNG")
    return buffer.getvalue()


def _parts(archive: IO[bytes]) -> Iterator[bytes]:
    with archive:
        while part := archive.read(1 << 18):
            yield part
