"""The tables of DICOM network services, made from what the code accepts and answers (PS3.2 Annex N)."""

from __future__ import annotations

from pathlib import Path

from pydicom.uid import UID, Comprehensive3DSRStorage

from allpacs.app import accepted_transfer_syntaxes
from allpacs.deliver.association import Verdict, judge, status_text
from allpacs.domain.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from allpacs.receive import admit
from allpacs.settings import ReceiveSettings

FILE = Path(__file__).parent / "dicom.md"

_REFUSED = {
    0x0111: "other bytes are kept under this SOP Instance UID; the first ones stay",
    admit.INVALID_UID: "a UID is not a valid UID",
    admit.SOP_CLASS_NOT_SUPPORTED: "the SOP Class is not one of those above",
    admit.NOT_AUTHORISED: "the instance is a result of allpacs: no result becomes an input",
    0xA700: "the disk is below `receive.min_free_mb`, or spool or index cannot be written: send again later",
    admit.DOES_NOT_MATCH: "SOP Class or SOP Instance UID of the data set are not those of the request",
    admit.CANNOT_UNDERSTAND: "not parsable, cut short, without pixel data, or a UID missing",
}
_THEN = {
    Verdict.STORED: "delivered",
    Verdict.WARNING: "delivered, the warning recorded",
    Verdict.LATER: "tried again with growing waits",
    Verdict.NEVER: "given up: a person has to look",
}
_ANSWERS = (0x0000, 0x0111, 0x0122, 0x0124, 0xA700, 0xA900, 0xB000, 0xB006, 0xB007, 0xC000)


def tables() -> str:
    """Return the tables as Markdown."""
    defaults = ReceiveSettings()
    lines = [
        "# DICOM network services of allpacs",
        "",
        "Made by `python -m conformance tables`; a test fails when it is stale. Not yet a full Conformance Statement:",
        "query/retrieve is not there.",
        "",
        f"Implementation Class UID `{IMPLEMENTATION_CLASS_UID}`, version name `{IMPLEMENTATION_VERSION_NAME}`.",
        "",
        "## As SCP",
        "",
        (
            f"AE title `{defaults.ae_title}`, port {defaults.port}, up to {defaults.max_associations} associations, "
            f"maximum PDU {defaults.max_pdu} bytes (all by configuration). Verification, and Storage of:"
        ),
        "",
        "| SOP Class | UID |",
        "|---|---|",
        *(f"| {name} | `{uid}` |" for uid, name in admit.ACCEPTED_SOP_CLASSES.items()),
        "",
        "in each of these transfer syntaxes:",
        "",
        "| transfer syntax | UID |",
        "|---|---|",
        *(f"| {UID(uid).name} | `{uid}` |" for uid in accepted_transfer_syntaxes()),
        "",
        "C-STORE-RSP:",
        "",
        "| status | when |",
        "|---|---|",
        "| 0x0000 | bytes and index row are on disk; also for the same bytes again |",
        *(f"| 0x{status:04X} | {when} |" for status, when in sorted(_REFUSED.items())),
        "",
        "## As SCU",
        "",
        f"Verification, and Storage of {UID(Comprehensive3DSRStorage).name} (`{Comprehensive3DSRStorage}`).",
        "What follows an answer:",
        "",
        "| answer | then |",
        "|---|---|",
        *(f"| {status_text(status)} | {_THEN[judge(status)]} |" for status in _ANSWERS),
        "",
    ]
    return "\n".join(lines)
