"""DCMTK sends in every transfer syntax it can, reads the report, and speaks TLS both ways."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
    generate_uid,
)

from allpacs.app import accepted_transfer_syntaxes
from allpacs.deliver.c_store import CStoreDestination
from allpacs.dicom.tls import client_tls
from allpacs.domain.artefacts import Artefact, ArtefactKind
from allpacs.domain.errors import DeliveryUnavailable
from allpacs.domain.identity import derive_uid
from conformance.hospital import PeerHospital, running
from conformance.judges.dicom_programs import dciodvfy, dsrdump
from conformance.outcome import Check
from conformance.peers.programs import dcmtk, debian_version, run
from conformance.support.certificates import Authority
from conformance.support.network import free_port, wait_until

#: How DCMTK's storescu is told to propose a transfer syntax; it has no word for HTJ2K.
_PROPOSED = {
    ExplicitVRLittleEndian: "-xe",
    ExplicitVRBigEndian: "-xb",
    ImplicitVRLittleEndian: "-xi",
    "1.2.840.10008.1.2.4.70": "-xs",
    JPEGBaseline8Bit: "-xy",
    JPEG2000Lossless: "-xv",
    JPEGLSLossless: "-xt",
    JPEGLSNearLossless: "-xu",
    RLELossless: "-xr",
}


def check(what: str, *faults: str) -> Check:
    """Return a check of DCMTK."""
    return Check("DCMTK", debian_version("dcmtk"), what, tuple(fault for fault in faults if fault))


def transfer_syntaxes(hospital: PeerHospital, image: Path) -> Iterator[Check]:
    """Send the same image in each transfer syntax, all in one study, and have it read."""
    folder = hospital.folder / "transfer-syntaxes"
    folder.mkdir()
    study_uid, sent = generate_uid(), 0
    for syntax, proposal in _PROPOSED.items():
        name = UID(syntax).name
        file = folder / f"{syntax}.dcm"
        fault = _converted(image, UID(syntax), file, study_uid)
        if not fault:
            command = [dcmtk("storescu"), "-v", proposal, "-aet", "MODALITY", "-aec", "ALLPACS", "127.0.0.1"]
            done = run(*command, str(hospital.port), file)
            told = done.stdout + done.stderr
            fault = "" if done.returncode == 0 and "(Success)" in told else "; ".join(told.splitlines()[-2:])
            if syntax not in accepted_transfer_syntaxes():
                # It is accepted uncompressed, and storescu does not decompress by itself.
                refused = "change transfer syntax" in told
                yield check(f"storescu is refused {name}, which is not accepted", "" if refused else told[-300:])
                continue
        sent += not fault
        yield check(f"storescu sends {name}", fault)
    try:
        hospital.wait_until_delivered(study_uid)
    except (TimeoutError, AttributeError) as late:
        yield check("what was sent in every transfer syntax is read", str(late))
        return
    with hospital.store() as store:
        findings = store.findings.get(study_uid, 1)
    counts = {len(one.cells) for one in findings}
    yield check(
        "what was sent in every transfer syntax is read, and the same cells are found in it",
        "" if len(findings) == sent else f"{len(findings)} of {sent} instances were read",
        *(one.fault or "" for one in findings),
        "" if counts and max(counts) - min(counts) <= 1 and min(counts) > 0 else f"cells: {sorted(counts)}",
    )


def _converted(image: Path, syntax: UID, file: Path, study_uid: str) -> str:
    """Write the image in a transfer syntax, as an instance of its own; return why that did not work."""
    original = dcmread(image)
    original.SOPInstanceUID = original.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    original.StudyInstanceUID, original.SeriesInstanceUID = study_uid, derive_uid("series", study_uid)
    plain = file.with_suffix(".plain")
    original.save_as(plain)
    options = {
        ExplicitVRLittleEndian: ("dcmconv", "+te"),
        ExplicitVRBigEndian: ("dcmconv", "+tb"),
        ImplicitVRLittleEndian: ("dcmconv", "+ti"),
        "1.2.840.10008.1.2.4.70": ("dcmcjpeg", "+e1"),
        JPEGBaseline8Bit: ("dcmcjpeg", "+eb", "+cy"),
        JPEGLSLossless: ("dcmcjpls", "+el"),
        JPEGLSNearLossless: ("dcmcjpls", "+en"),
        RLELossless: ("dcmcrle",),
    }.get(syntax)
    if options is None:
        _write_jpeg_2000(original, file)
        return ""
    program, *flags = options
    done = run(dcmtk(program), *flags, plain, file)
    return "" if done.returncode == 0 else (done.stderr or done.stdout).strip()


def _write_jpeg_2000(image: Dataset, file: Path) -> None:
    """DCMTK does not write JPEG 2000; Pillow's codec does."""
    stream = BytesIO()
    Image.fromarray(image.pixel_array).save(stream, "JPEG2000", irreversible=False, no_jp2=True, mct=1)
    image.PixelData = encapsulate([stream.getvalue()])
    image["PixelData"].is_undefined_length = True
    image.PhotometricInterpretation = "YBR_RCT"
    image.PlanarConfiguration = 0
    image.file_meta.TransferSyntaxUID = JPEG2000Lossless
    image.save_as(file)


def tls(hospital: PeerHospital, image: Path, report: Artefact) -> Iterator[Check]:
    """DCMTK as TLS client of the receiver, and as TLS server of a destination; each wants the other's certificate."""
    folder = hospital.folder / "tls"
    folder.mkdir()
    authority, stranger = Authority(folder, "hospital"), Authority(folder, "stranger")
    ours, theirs, unknown = authority.issue("allpacs"), authority.issue("dcmtk"), stranger.issue("stranger")
    port = free_port()
    config = folder / "allpacs.toml"
    config.write_text(
        f"""
[receive]
port = {port}
min_free_mb = 10
[receive.tls]
certificate = {json.dumps(str(ours.certificate))}
key = {json.dumps(str(ours.key))}
trusted = {json.dumps(str(authority.trusted))}
[store]
folder = {json.dumps(str(folder / "store"))}
"""
    )

    def storescu(*options: str | Path) -> subprocess.CompletedProcess[str]:
        return run(
            dcmtk("storescu"),
            "-v",
            "-R",
            *options,
            "-aet",
            "MODALITY",
            "-aec",
            "ALLPACS",
            "127.0.0.1",
            str(port),
            image,
        )

    def client(files: object, trusted: Path) -> tuple[str | Path, ...]:
        return ("+tls", files.key, files.certificate, "+cf", trusted)  # type: ignore[attr-defined]

    with running(folder, "receive", "--config", str(config)):
        wait_until(
            lambda: (
                run(
                    dcmtk("echoscu"), *client(theirs, authority.trusted), "-aec", "ALLPACS", "127.0.0.1", str(port)
                ).returncode
                == 0
            ),
            30,
            "a receiver that answers C-ECHO over TLS",
        )
        good = storescu(*client(theirs, authority.trusted))
        yield check(
            "storescu sends over TLS with a certificate that is trusted",
            "" if good.returncode == 0 and "(Success)" in good.stdout + good.stderr else good.stderr[-300:],
        )
        yield check(
            "the receiver turns away a certificate that it does not trust",
            "" if storescu(*client(unknown, authority.trusted)).returncode else "it was let in",
        )
        yield check("the receiver turns away a sender without TLS", "" if storescu().returncode else "it was let in")

    received = folder / "received"
    received.mkdir()
    server_port = free_port()
    server = subprocess.Popen(
        [dcmtk("storescp"), "+tls", str(theirs.key), str(theirs.certificate), "+cf", str(authority.trusted),
         "-rc", "-aet", "STORESCP", "-od", str(received), str(server_port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        trusting = CStoreDestination(
            "127.0.0.1", server_port, "STORESCP", "ALLPACS", timeout_s=10.0, tls=client_tls(ours, check_hostname=True)
        )
        wait_until(lambda: not _unavailable(trusting), 30, "a storescp that answers")
        receipt = trusting.deliver([report])
        kept = [path for path in received.iterdir() if report.uid in path.name]
        yield check(
            "storescp takes the report over TLS, each side showing its certificate",
            "" if receipt.detail == "0x0000" else receipt.detail,
            "" if kept and dcmread(kept[0]).SOPInstanceUID == report.uid else "it did not arrive",
        )
        distrusting = CStoreDestination(
            "127.0.0.1", server_port, "STORESCP", "ALLPACS", timeout_s=10.0,
            tls=client_tls(stranger.issue("other"), check_hostname=True),
        )  # fmt: skip
        yield check(
            "nothing is sent to a storescp whose certificate is not trusted",
            "" if "TLS" in _unavailable(distrusting) else "it was sent",
        )
    finally:
        server.terminate()
        server.wait(10)


#: A storescp that takes Comprehensive SR, and no Comprehensive 3D SR.
_COMPREHENSIVE_ONLY = """
[[TransferSyntaxes]]
[Plain]
TransferSyntax1 = LittleEndianExplicit
TransferSyntax2 = LittleEndianImplicit
[[PresentationContexts]]
[Reports]
PresentationContext1 = ComprehensiveSRStorage\\Plain
PresentationContext2 = VerificationSOPClass\\Plain
[[Profiles]]
[Old]
PresentationContexts = Reports
"""


def comprehensive(hospital: PeerHospital, report: Artefact) -> Iterator[Check]:
    """A PACS that refuses Comprehensive 3D SR in negotiation gets the report as Comprehensive SR."""
    folder = hospital.folder / "comprehensive"
    folder.mkdir()
    (folder / "profile.cfg").write_text(_COMPREHENSIVE_ONLY)
    port = free_port()
    server = subprocess.Popen(
        [dcmtk("storescp"), "-xf", str(folder / "profile.cfg"), "Old", "-od", str(folder), str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        destination = CStoreDestination("127.0.0.1", port, "STORESCP", "ALLPACS", timeout_s=10.0, commitment="never")
        wait_until(lambda: not _unavailable(destination), 30, "a storescp that answers")
        destination.deliver([report])
    finally:
        server.terminate()
        server.wait(10)
    kept = [path for path in folder.iterdir() if path.suffix != ".cfg"]
    what = "storescp that takes no Comprehensive 3D SR gets the report as Comprehensive SR, without fault"
    if len(kept) != 1:
        yield check(what, f"{len(kept)} objects arrived")
        return
    told = dcmread(kept[0]).SOPClassUID.name
    yield check(what, "" if told == "Comprehensive SR Storage" else told, *dciodvfy(kept[0]), *dsrdump(kept[0]))


def _unavailable(destination: CStoreDestination) -> str:
    try:
        destination.check()
    except DeliveryUnavailable as away:
        return away.reason
    return ""


def sr_of(artefacts: list[Artefact]) -> Artefact:
    """Return the structured report among a study's artefacts."""
    return next(one for one in artefacts if one.kind is ArtefactKind.SR)
