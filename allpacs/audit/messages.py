"""Audit messages (PS3.15 section A.5): what happened, who took part, what it was about. Pure: time and names come in.

Patients are not named: a message is about a study by its UID, which the archive can look up, and the patient whom the
schema asks for has ``withheld`` as identifier (`docs/security.md`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Final
from xml.etree.ElementTree import Element, SubElement, tostring

#: Identifier of a patient in every message.
WITHHELD: Final = "withheld"


class AuditEvent(Enum):
    """Event ID, Event Type Code (or None) and Event Action Code of what is told (PS3.15 A.5.3, PS3.16 CID 400, 401)."""

    APPLICATION_STARTED = ("110100", "Application Activity", "110120", "Application Start", "E")
    APPLICATION_STOPPED = ("110100", "Application Activity", "110121", "Application Stop", "E")
    INSTANCES_RECEIVED = ("110104", "DICOM Instances Transferred", None, None, "C")
    INSTANCES_SENT = ("110104", "DICOM Instances Transferred", None, None, "R")
    EXPORTED = ("110106", "Export", None, None, "R")
    IMPORTED = ("110107", "Import", None, None, "C")
    NODE_REFUSED = ("110113", "Security Alert", "110126", "Node Authentication", "E")
    SIGNED_IN = ("110114", "User Authentication", "110122", "Login", "E")
    SIGNED_OUT = ("110114", "User Authentication", "110123", "Logout", "E")
    STUDY_OPENED = ("110103", "DICOM Instances Accessed", None, None, "R")
    STUDY_SIGNED = ("110103", "DICOM Instances Accessed", None, None, "U")
    BUNDLE_ASKED = ("110113", "Security Alert", "110131", "Software Configuration", "E")
    NOT_ALLOWED = ("110113", "Security Alert", "110132", "Use of Restricted Function", "E")


class Outcome(Enum):
    """Event Outcome Indicator."""

    SUCCESS = "0"
    MINOR_FAILURE = "4"
    SERIOUS_FAILURE = "8"


@dataclass(frozen=True, slots=True)
class Participant:
    """Somebody who took part: a person, a process or a machine.

    Attributes
    ----------
    user_id:
        Process or AE title; of a person, what the organisation knows them by.
    role:
        Code and meaning of its role (PS3.16 CID 402), for example ``("110153", "Source Role ID")``; None for people,
        for whom that group has no role.
    address:
        Of its machine, or None.
    requestor:
        Whether it began what happened.
    """

    user_id: str
    role: tuple[str, str] | None
    requestor: bool = False
    address: str | None = None


SOURCE: Final = ("110153", "Source Role ID")
DESTINATION: Final = ("110152", "Destination Role ID")
APPLICATION: Final = ("110150", "Application")


def audit_message(
    event: AuditEvent,
    *,
    at: float,
    source_id: str,
    participants: Sequence[Participant],
    outcome: Outcome = Outcome.SUCCESS,
    studies: Iterable[str] = (),
    detail: str | None = None,
) -> bytes:
    """Return one message as XML.

    Parameters
    ----------
    at:
        UTC seconds since the epoch.
    source_id:
        This installation, as the audit's reader knows it.
    detail:
        One line without patient data.
    """
    event_id, meaning, type_code, type_meaning, action = event.value
    message = Element("AuditMessage")
    identification = SubElement(
        message,
        "EventIdentification",
        EventActionCode=action,
        EventDateTime=datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds"),
        EventOutcomeIndicator=outcome.value,
    )
    _code(identification, "EventID", event_id, meaning)
    if type_code is not None:
        _code(identification, "EventTypeCode", type_code, type_meaning or "")
    if detail is not None:
        SubElement(identification, "EventOutcomeDescription").text = detail
    for one in participants:
        active = SubElement(
            message,
            "ActiveParticipant",
            # A stranger makes up its AE title, and XML has no place for control characters.
            UserID="".join(char if char.isprintable() else "?" for char in one.user_id),
            UserIsRequestor="true" if one.requestor else "false",
        )
        if one.address is not None:
            active.set("NetworkAccessPointID", one.address)
            active.set("NetworkAccessPointTypeCode", "2")  # an IP address
        if one.role is not None:
            _code(active, "RoleIDCode", *one.role)
    source = SubElement(message, "AuditSourceIdentification", AuditSourceID=source_id)
    SubElement(source, "AuditSourceTypeCode", {"csd-code": "4"})  # application server process
    for study_uid in studies:
        _object(message, study_uid, "2", "3", "110180", "Study Instance UID")
        _object(message, WITHHELD, "1", "1", "2", "Patient Number", scheme="RFC-3881")
    xml: bytes = tostring(message, encoding="utf-8", xml_declaration=True)
    return xml


def _object(
    message: Element, identifier: str, kind: str, role: str, code: str, meaning: str, scheme: str = "DCM"
) -> None:
    found = SubElement(
        message,
        "ParticipantObjectIdentification",
        ParticipantObjectID=identifier,
        ParticipantObjectTypeCode=kind,
        ParticipantObjectTypeCodeRole=role,
    )
    _code(found, "ParticipantObjectIDTypeCode", code, meaning, scheme)


def _code(parent: Element, name: str, code: str, meaning: str, scheme: str = "DCM") -> None:
    SubElement(parent, name, {"csd-code": code, "codeSystemName": scheme, "originalText": meaning})
