"""Results and small misbehaving servers for the tests of deliveries."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, Comprehensive3DSRStorage, ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification

from allpacs.domain.artefacts import Artefact, ArtefactKind
from allpacs.domain.identity import derive_uid, derive_uuid

#: Patient data of the samples: must appear in no message.
SECRETS = ("Zebedee", "MRN-4711")

STUDY = derive_uid("study", "sample")


def leaks(text: str) -> bool:
    """Whether the text repeats patient data of the samples."""
    return any(secret.lower() in text.lower() for secret in SECRETS)


def dicom_object(
    name: str, sop_class: str = Comprehensive3DSRStorage, transfer_syntax: str = ExplicitVRLittleEndian
) -> Dataset:
    """Return a small object of the class; its UID is derived from the name."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(transfer_syntax)
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = derive_uid("object", name)
    dataset.StudyInstanceUID = STUDY
    dataset.SeriesInstanceUID = derive_uid("series", "sample")
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName = "Zebedee^Żółć"
    dataset.PatientID = "MRN-4711"
    return dataset


def part10(dataset: Dataset) -> bytes:
    """Return the object as a DICOM file."""
    out = BytesIO()
    dcmwrite(out, dataset, enforce_file_format=True)
    return out.getvalue()


def sr_artefact(name: str = "sr", **kwargs: Any) -> Artefact:
    """Return a structured report as an artefact."""
    dataset = dicom_object(name, **kwargs)
    uid = str(dataset.SOPInstanceUID)
    return Artefact(ArtefactKind.SR, uid, "application/dicom", f"{uid}.dcm", part10(dataset))


def bundle(conclusion: str = "2 of 3 cells") -> dict[str, Any]:
    """Return a transaction: a Device (created once), an Observation and a DiagnosticReport (updated)."""
    system = "urn:dicom:uid"
    device, observation, report = (f"urn:uuid:{derive_uuid(name)}" for name in ("device", "observation", "report"))

    def identifier(name: str) -> dict[str, str]:
        return {"system": system, "value": f"urn:oid:{derive_uid(name)}"}

    def condition(name: str) -> str:
        return f"identifier={system}|urn:oid:{derive_uid(name)}"

    return {
        "resourceType": "Bundle",
        "type": "transaction",
        "entry": [
            {
                "fullUrl": report,
                "resource": {
                    "resourceType": "DiagnosticReport",
                    "identifier": [identifier("report")],
                    "status": "preliminary",
                    "subject": {"display": "Zebedee Żółć", "identifier": {"value": "MRN-4711"}},
                    "result": [{"reference": observation}],
                    "conclusion": conclusion,
                },
                "request": {"method": "PUT", "url": f"DiagnosticReport?{condition('report')}"},
            },
            {
                "fullUrl": observation,
                "resource": {
                    "resourceType": "Observation",
                    "identifier": [identifier("observation")],
                    "device": {"reference": device},
                },
                "request": {"method": "PUT", "url": f"Observation?{condition('observation')}"},
            },
            {
                "fullUrl": device,
                "resource": {"resourceType": "Device", "identifier": [identifier("device")]},
                "request": {"method": "POST", "url": "Device", "ifNoneExist": condition("device")},
            },
        ],
    }


def fhir_artefact(conclusion: str = "2 of 3 cells") -> Artefact:
    """Return the transaction as an artefact."""
    content = json.dumps(bundle(conclusion), ensure_ascii=False).encode()
    return Artefact(ArtefactKind.FHIR, derive_uid("fhir", conclusion), "application/fhir+json", "report.json", content)


def html_artefact() -> Artefact:
    """Return an HTML report as an artefact."""
    return Artefact(
        ArtefactKind.HTML, derive_uid("html"), "text/html", f"{STUDY}/report.html", "<p>Zebedee Żółć</p>".encode()
    )


@contextmanager
def scp(
    answer: Callable[[Any], int] = lambda _event: 0x0000,
    contexts: tuple[tuple[str, tuple[str, ...]], ...] = (
        (Comprehensive3DSRStorage, (ExplicitVRLittleEndian,)),
        (Verification, ("1.2.840.10008.1.2",)),
    ),
    on_echo: Callable[[Any], int] = lambda _event: 0x0000,
    **settings: Any,
) -> Iterator[int]:
    """Run a Storage SCP that answers as told; yield its port."""
    ae = AE(ae_title="PACS")
    for sop_class, transfer_syntaxes in contexts:
        ae.add_supported_context(sop_class, list(transfer_syntaxes))
    for name, value in settings.items():
        setattr(ae, name, value)
    handlers = [(evt.EVT_C_STORE, answer), (evt.EVT_C_ECHO, on_echo)]
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        yield server.server_address[1]
    finally:
        threading.Thread(target=ae.shutdown, daemon=True).start()  # half a second nobody need wait for


@contextmanager
def tcp_server(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """Accept connections and talk on each; yield the port. The connection is closed when `talk` returns."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                talk(connection)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.close()


@contextmanager
def http_server(
    answer: Callable[[BaseHTTPRequestHandler, bytes], None], tls: ssl.SSLContext | None = None
) -> Iterator[str]:
    """Run an HTTP server whose answers `answer` writes; yield its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            answer(self, self.rfile.read(int(self.headers.get("Content-Length", 0))))

        def do_GET(self) -> None:
            answer(self, b"")

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def stow_server(
    folder: Path, answer: Callable[[str], int] = lambda _uid: 0x0000, status: int | None = None
) -> Iterator[str]:
    """Run a DICOMweb archive that keeps what it is posted; yield its address.

    Parameters
    ----------
    answer:
        Failure or warning reason for a SOP Instance UID; 0: stored.
    status:
        HTTP status of every answer, whatever was posted.
    """

    def respond(request: BaseHTTPRequestHandler, body: bytes) -> None:
        stored, failed = [], []
        kind = request.headers.get("Content-Type", "")
        for part in message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + body).walk():
            if part.get_content_type() == "application/dicom":
                content = part.get_payload(decode=True)
                dataset = dcmread(BytesIO(content))  # type: ignore[arg-type]
                reason = answer(str(dataset.SOPInstanceUID))
                item = {"00081155": {"vr": "UI", "Value": [str(dataset.SOPInstanceUID)]}}
                if reason and reason >> 12 != 0xB:
                    failed.append(item | {"00081197": {"vr": "US", "Value": [reason]}})
                    continue
                if reason:
                    item["00081196"] = {"vr": "US", "Value": [reason]}  # type: ignore[list-item]
                stored.append(item)
                folder.mkdir(exist_ok=True)
                (folder / f"{dataset.SOPInstanceUID}.dcm").write_bytes(content)  # type: ignore[arg-type]
        told = {"00081199": {"vr": "SQ", "Value": stored}, "00081198": {"vr": "SQ", "Value": failed}}
        request.send_response(status or (409 if failed and not stored else 202 if failed else 200))
        request.send_header("Content-Type", "application/dicom+json")
        request.end_headers()
        request.wfile.write(json.dumps({tag: one for tag, one in told.items() if one["Value"]}).encode())

    with http_server(respond) as base_url:
        yield f"{base_url}/dicom-web"


def write_file(folder: Path, dataset: Dataset) -> Path:
    """Write the object into the folder."""
    path = folder / f"{dataset.SOPInstanceUID}-{len(list(folder.iterdir()))}.dcm"
    path.write_bytes(part10(dataset))
    return path


def hl7_artefact() -> Artefact:
    """Return a small ORU^R01."""
    segments = [
        "MSH|^~\\&|ALLPACS||||20260304101112+0000||ORU^R01^ORU_R01|2f0c1d|P|2.5.1|||AL|NE||UNICODE UTF-8",
        "PID|1||MRN-4711^^^HOSP^MR||Zebedee^Żółć",
        "OBR|1||A-1|CLASSIFICATION^White cells^99ALLPACS",
        "OBX|1|NM|CELLS^Number of cells found^99ALLPACS|1|6|{cells}^cells^UCUM||||||P",
    ]
    uid = derive_uid("hl7v2", "sample")
    content = "".join(f"{segment}\r" for segment in segments).encode()
    return Artefact(ArtefactKind.HL7V2, uid, "application/hl7-v2+er7", f"{uid}.hl7", content)
