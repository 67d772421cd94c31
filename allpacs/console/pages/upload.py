"""Upload: pictures or DICOM files become a study that goes the same way as one from the PACS.

Pictures are made into instances (`allpacs.capture`), and all are sent to our own receiver over an association: what it
refuses, and with which status, is what a PACS would be told.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path

import structlog
from pydicom.uid import MediaStorageDirectoryStorage, generate_uid
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from allpacs.audit.messages import AuditEvent
from allpacs.console.pages.operations import own_address, own_tls
from allpacs.console.visit import Visit
from allpacs.decode.part10 import read_header
from allpacs.deliver.c_store import send_files
from allpacs.dicom.encoding import HEAD_BYTES, looks_like_part10
from allpacs.domain.errors import DeliveryUnavailable, InputFault, StoreFault
from allpacs.domain.identity import is_uid
from allpacs.domain.specimen import PatientAndSpecimen, SpecimenKind, Stain
from allpacs.study.import_images import import_pictures

_log = structlog.get_logger("allpacs.console")

_MOST_FILES = 2000
_MEGABYTE = 1_000_000
#: What a form needs around its files.
_FORM_BYTES = 1_000_000


def show(visit: Visit) -> Response:
    """Show the form."""
    return _form(visit)


async def take(visit: Visit) -> Response:
    """Take files, and send them to our own receiver."""
    most = visit.console.settings.console.max_upload_mb * _MEGABYTE + _FORM_BYTES
    length = visit.request.headers.get("content-length", "")
    if not length.isdecimal():
        return _form(visit, "the upload does not say how large it is", 411)
    if int(length) > most:  # before a byte of it is read
        return _form(visit, f"the upload is larger than {most // _MEGABYTE} MB", 413)
    try:
        form = await visit.request.form(max_files=_MOST_FILES, max_fields=50)
    except MultiPartException as wrong:
        return _form(visit, f"not a form: {wrong.message}", 400)
    except ClientDisconnect:  # half an upload: its parts were temporary files, and nothing was sent
        _log.info("upload_broken_off")
        return Response(status_code=400)
    try:
        return await run_in_threadpool(_take, Visit(visit.request, visit.console, visit.person, form))
    finally:
        await form.close()


def _take(visit: Visit) -> Response:
    files = [one for one in visit.form.getlist("files") if isinstance(one, UploadFile) and one.filename]
    if not files:
        return _form(visit, "choose at least one file", 422)
    parent = visit.console.settings.store.folder / "uploads"
    parent.mkdir(mode=0o700, exist_ok=True)
    parent.chmod(0o700)  # it may have been made by an earlier version
    with tempfile.TemporaryDirectory(dir=parent) as name:
        folder = Path(name)
        try:
            instances, names, studies, bad = _instances(visit.form, files, folder, most_bytes=_most_bytes(files))
            if not instances:
                return visit.page("upload_done.html", 422, taken=0, refused=bad, studies=[])
        except InputFault as fault:
            return _form(visit, _without_path(str(fault), folder), 422)
        receive = visit.console.settings.receive
        try:
            sent = send_files(
                instances,
                own_address(receive.host),
                receive.port,
                receive.ae_title,
                visit.console.settings.console.ae_title,
                tls=own_tls(visit.console.settings),
            )
        except DeliveryUnavailable as unavailable:
            return _form(visit, f"our own receiver does not take it: {unavailable}", 503)
        refused = [(names.get(one.path, one.path.name), one.note) for one in sent if not one.stored]
    taken = len(sent) - len(refused)
    refused = bad + refused
    visit.store.audit.record(
        "uploaded",
        at=time.time(),
        study_uid=studies[0] if len(studies) == 1 else None,
        reason=f"{taken} of {len(sent)} instances by {visit.someone.identifier}",
    )
    for study_uid in studies:
        visit.tell(AuditEvent.IMPORTED, study_uid=study_uid, failure=f"{len(refused)} refused" if refused else None)
    _log.info("uploaded", instances=taken, count=len(files), studies=len(studies))
    return visit.page("upload_done.html", 200 if taken else 422, taken=taken, refused=refused, studies=sorted(studies))


def _instances(
    form: FormData, files: Sequence[UploadFile], folder: Path, most_bytes: int
) -> tuple[list[Path], dict[Path, str], list[str], list[tuple[str, str]]]:
    """Return the DICOM files to send, the person's name for each, their studies, and the names and faults of bad files.

    Raises
    ------
    InputFault
        A field of the form is not valid, or the images have more than `most_bytes` uncompressed.
    """
    bad: list[tuple[str, str]] = []
    studies: set[str] = set()
    pictures: list[Path] = []
    instances: list[Path] = []
    names: dict[Path, str] = {}
    for number, one in enumerate(files):
        # A file's own name is for people only: nothing on disk is called by it.
        path = folder / f"{number:04d}"
        with path.open("wb") as target:
            shutil.copyfileobj(one.file, target)
        with path.open("rb") as stream:
            is_dicom = looks_like_part10(stream.read(HEAD_BYTES))
        names[path] = (one.filename or "").replace("\\", "/").rsplit("/", 1)[-1]
        if not is_dicom:
            pictures.append(path)
            continue
        try:
            studies.add(_study_of(path))
            instances.append(path)
        except InputFault as fault:
            bad.append((names[path], str(fault)))
    if pictures:
        study_uid = generate_uid(prefix=None)
        made = import_pictures(
            pictures,
            folder / "dicom",
            patient=_patient(form),
            made_at=datetime.now(UTC).astimezone(),
            spacing_um=_spacing(_text(form, "spacing_um")),
            study_uid=study_uid,
            on_bad=lambda path, fault: bad.append((names[path], str(fault).removeprefix(f"{path}: "))),
            most_bytes=most_bytes,
        )
        studies |= {study_uid} if made else set()
        instances += made
        for path in made:
            names[path] = path.name
    return instances, names, sorted(studies), bad


def _study_of(path: Path) -> str:
    """Return the Study Instance UID of a DICOM file.

    Raises
    ------
    InputFault
        It has none, is a DICOMDIR, or cannot be parsed: what the receiver would answer with 0xC000.
    """
    try:
        header = read_header(path)
    except StoreFault as fault:
        raise InputFault(str(fault)) from None
    if header.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
        raise InputFault("a DICOMDIR lists files of a medium and holds no image")
    study_uid = str(header.get("StudyInstanceUID", "") or "")
    if not is_uid(study_uid):
        raise InputFault("0xC000: the Study Instance UID is missing or not valid")
    return study_uid


def _most_bytes(files: Sequence[UploadFile]) -> int:
    """Return how many bytes the instances of an upload may have; no photograph compresses a hundred times."""
    return 100 * (sum(file.size or 0 for file in files) + _MEGABYTE)


def sweep_uploads(store: Path, older_than_s: float = 3600.0) -> int:
    """Delete what uploads left that were interrupted by a kill; return how many there were."""
    folders = [path for path in (store / "uploads").glob("*") if path.stat().st_mtime < time.time() - older_than_s]
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    return len(folders)


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
        return float(text.replace(",", ".")) if text else None
    except ValueError:
        raise InputFault("the pixel spacing is no number") from None


def _without_path(text: str, folder: Path) -> str:
    return text.replace(f"{folder}/", "")


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
