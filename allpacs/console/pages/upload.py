"""Upload: pictures or DICOM files become a study that goes the same way as one from the PACS.

Pictures are made into instances (`allpacs.capture`), and all are sent to our own receiver over an association: what it
refuses, and with which status, is what a PACS would be told.
"""

from __future__ import annotations

import time
from datetime import UTC, date, datetime

import structlog
from pydicom.uid import generate_uid
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from allpacs.audit.messages import AuditEvent
from allpacs.console.numbers import whole_number
from allpacs.console.pages.operations import own_address, own_tls
from allpacs.console.upload_files import ImageForm, SortedFiles, names_of
from allpacs.console.visit import Visit
from allpacs.deliver.c_store import SentFile, send_files
from allpacs.domain.errors import DeliveryUnavailable, InputFault
from allpacs.domain.specimen import PatientAndSpecimen, SpecimenKind, Stain

_log = structlog.get_logger("allpacs.console")

_MOST_FILES = 2000
_MEGABYTE = 1_000_000
#: What a form needs around its files.
_FORM_BYTES = 1_000_000
#: An upload may become this many times its largest size on disk: pictures are stored uncompressed.
_MOST_GROWTH = 4
#: As `allpacs.capture` takes it.
_MOST_SPACING_UM = 1e6


def show(visit: Visit) -> Response:
    """Show the form."""
    return _form(visit)


async def take(visit: Visit) -> Response:
    """Take files, and send them to our own receiver."""
    most = visit.console.settings.console.max_upload_mb * _MEGABYTE + _FORM_BYTES
    length = whole_number(visit.request.headers.get("content-length", ""))
    if length is None:
        return _form(visit, "the upload does not say how large it is", 411)
    if length > most:  # before a byte of it is read
        return _form(visit, f"the upload is larger than {most // _MEGABYTE} MB", 413)
    try:
        form = await visit.request.form(max_files=_MOST_FILES, max_fields=50)
    except (MultiPartException, HTTPException) as wrong:
        reason = wrong.message if isinstance(wrong, MultiPartException) else wrong.detail
        return _form(visit, f"not a form: {reason}", 400)
    except ClientDisconnect:  # half an upload: its parts were temporary files, and nothing was sent
        _log.info("upload_broken_off")
        return Response(status_code=400)
    try:
        return await run_in_threadpool(_take, Visit(visit.request, visit.console, visit.person, form))
    finally:
        await form.close()


def _take(visit: Visit) -> Response:
    files = [file for file in visit.form.getlist("files") if isinstance(file, UploadFile) and file.filename]
    if not files:
        return _form(visit, "choose at least one file", 422)
    try:
        form = ImageForm(
            patient=_patient(visit.form),
            made_at=datetime.now(UTC).astimezone(),
            spacing_um=_spacing(_text(visit.form, "spacing_um")),
            study_uid=generate_uid(prefix=None),
        )
    except InputFault as fault:
        return _form(visit, str(fault), 422)
    max_bytes = visit.console.settings.console.max_upload_mb * _MEGABYTE
    with visit.console.uploads.new() as folder:
        found = SortedFiles(folder, max_inflated_bytes=max_bytes, bytes_left=_MOST_GROWTH * max_bytes)
        for name, file in zip(names_of(file.filename for file in files), files, strict=True):
            found.add(name, file.file, form)
        try:
            sent = _send(visit, found)
        except DeliveryUnavailable as unavailable:
            return _form(visit, f"our own receiver does not take it: {unavailable}", 503)
    refused = found.refused + [(found.instances[file.path].name, file.note) for file in sent if not file.stored]
    stored = [file.path for file in sent if file.stored]
    studies = sorted({found.instances[path].study_uid for path in stored})
    if sent:
        _record(visit, len(stored), len(sent), len(refused), studies)
    return visit.page("upload_done.html", 200 if stored else 422, taken=len(stored), refused=refused, studies=studies)


def _send(visit: Visit, found: SortedFiles) -> list[SentFile]:
    if not found.instances:
        return []
    settings = visit.console.settings
    return send_files(
        found.instances,
        own_address(settings.receive.host),
        settings.receive.port,
        settings.receive.ae_title,
        settings.console.ae_title,
        tls=own_tls(settings),
    )


def _record(visit: Visit, taken: int, sent: int, refused: int, studies: list[str]) -> None:
    visit.store.audit.record(
        "uploaded",
        at=time.time(),
        study_uid=studies[0] if len(studies) == 1 else None,
        reason=f"{taken} of {sent} instances by {visit.someone.identifier}",
    )
    for study_uid in studies:
        visit.tell(AuditEvent.IMPORTED, study_uid=study_uid, failure=f"{refused} refused" if refused else None)
    _log.info("uploaded", instances=taken, count=sent, studies=len(studies))


def _patient(form: FormData) -> PatientAndSpecimen:
    given, family = _text(form, "given_name"), _text(form, "family_name")
    kind, stain = _text(form, "specimen"), _text(form, "stain")
    return PatientAndSpecimen(
        patient_id=_text(form, "patient_id"),
        patient_name=f"{family}^{given}" if given else family,
        birth_date=_date(_text(form, "birth_date")),
        sex=_text(form, "sex"),
        accession_number=_text(form, "accession"),
        container_id=_text(form, "container_id"),
        kind=SpecimenKind(kind) if kind in set(SpecimenKind) else None,
        stain=Stain(stain) if stain in set(Stain) else None,
    )


def _text(form: FormData, name: str) -> str:
    value = form.get(name)
    return value.strip() if isinstance(value, str) else ""


def _date(text: str) -> date | None:
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        raise InputFault("the date of birth is no date") from None


def _spacing(text: str) -> float | None:
    try:
        spacing = float(text.replace(",", ".")) if text else None
    except ValueError:
        raise InputFault("the pixel spacing is no number") from None
    if spacing is not None and not 0 < spacing < _MOST_SPACING_UM:
        raise InputFault("the pixel spacing is not a positive number of micrometres")
    return spacing


def _form(visit: Visit, fault: str = "", status: int = 200) -> Response:
    return visit.page(
        "upload.html",
        status,
        fault=fault,
        kinds=list(SpecimenKind),
        stains=list(Stain),
        most_mb=visit.console.settings.console.max_upload_mb,
        posted=visit.posted,
    )
