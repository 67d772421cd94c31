"""An archive that takes DICOM results over the web: STOW-RS (PS3.18 section 10.5).

How an answer is judged:

==========================================  =======================================================================
answer                                      meaning
==========================================  =======================================================================
200, 202: every object referenced           delivered; a Warning Reason is recorded
200, 202, 409: a Failure Reason             judged as the C-STORE status of that number (`allpacs.deliver.association`);
                                            0122 (SOP Class not supported) of a Comprehensive 3D SR: the same report is
                                            posted as Comprehensive SR
408, 425, 429, 5xx, no or half an answer    unavailable: tried again, not before Retry-After
3xx, other 4xx, 2xx that is no STOW answer  rejected: a person has to look
==========================================  =======================================================================

An answer's free text may repeat patient data and is never copied.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import httpx
from pydicom import dcmread
from pydicom.uid import Comprehensive3DSRStorage

from allpacs.deliver.association import Verdict, judge, status_text
from allpacs.deliver.comprehensive import as_comprehensive
from allpacs.deliver.http import address_name, retry_after_s
from allpacs.dicom.status import PROCESSING_FAILURE, SOP_CLASS_NOT_SUPPORTED
from allpacs.dicom.tls import Tls
from allpacs.domain.artefacts import DICOM, Artefact, Receipt
from allpacs.domain.errors import DeliveryRejected, DeliveryUnavailable

_DICOM_JSON = "application/dicom+json"
_LATER = frozenset({408, 425, 429})

# Attributes of the answer (PS3.18 Table 10.5.3-3), as DICOM JSON names them.
_REFERENCED, _FAILED = "00081199", "00081198"
_UID, _FAILURE_REASON, _WARNING_REASON = "00081155", "00081197", "00081196"


@dataclass(frozen=True, slots=True)
class _Said:
    """An archive's answer: its HTTP status, and by UID the warning (0: none) of what it stored or why it did not."""

    status: int
    stored: dict[str, int]
    failed: dict[str, int]


class StowRsDestination:
    """Posts DICOM results to an archive's ``/studies`` and checks what it says of every one.

    Parameters
    ----------
    base_url:
        ``http://`` or ``https://`` address of the DICOMweb service, without ``/studies``.
    bearer_token:
        Sent as ``Authorization: Bearer``.
    timeout_s:
        Longest time to connect, and longest silence while sending or receiving, seconds.
    tls:
        Asked for the settings of each connection; None: the platform's.
    now:
        The clock that a Retry-After date is compared with.
    """

    def __init__(
        self,
        base_url: str,
        *,
        bearer_token: str | None = None,
        timeout_s: float = 30.0,
        tls: Tls | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._name = address_name(base_url, "DICOMweb service")
        self._base_url = base_url.rstrip("/")
        self._headers = {"Accept": _DICOM_JSON}
        if bearer_token is not None:
            self._headers["Authorization"] = f"Bearer {bearer_token}"
        self._timeout_s = timeout_s
        self._tls = tls
        self._now = now

    @property
    def takes(self) -> frozenset[str]:
        """DICOM objects."""
        return frozenset({DICOM})

    def deliver(self, artefacts: Sequence[Artefact]) -> Receipt:
        """Post the artefacts in one request; those of kinds that it does not take are left out.

        A Comprehensive 3D SR that the archive does not know is posted again as what it may know.

        Raises
        ------
        DeliveryUnavailable, DeliveryRejected
            See the table above.
        """
        objects = [artefact for artefact in artefacts if artefact.is_taken_by(self.takes)]
        if not objects:
            return Receipt(detail="nothing sent")
        sent = {one.uid: one.content for one in objects}
        said = self._store(sent)
        unknown = [uid for uid, reason in said.failed.items() if reason == SOP_CLASS_NOT_SUPPORTED and uid in sent]
        instead = {uid: other for uid in unknown if (other := _comprehensive(sent[uid])) is not None}
        if instead:
            sent = {uid: content for uid, content in sent.items() if uid not in instead} | dict(instead.values())
            again = self._store(dict(instead.values()))
            said = _Said(again.status, said.stored | again.stored, said.failed | again.failed)
        return self._receipt(said, list(sent))

    def check(self) -> str:
        """Ask for one study (QIDO-RS, PS3.18 section 10.6).

        Raises
        ------
        DeliveryUnavailable
            There is no DICOMweb service that answers us.
        """
        answer = self._request("GET", "/studies", params={"limit": "1"})
        if not answer.is_success:
            raise DeliveryUnavailable(self._failure(answer).reason)
        return f"DICOMweb service at {self._name}"

    def _store(self, objects: Mapping[str, bytes]) -> _Said:
        """Post objects, by their UIDs, in one request; return what the archive says of each."""
        boundary = uuid.uuid4().hex
        answer = self._request(
            "POST",
            "/studies",
            content=_multipart(boundary, list(objects.values())),
            headers={"Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}'},
        )
        if answer.status_code not in (200, 202, 409):
            raise self._failure(answer)
        if "json" not in answer.headers.get("Content-Type", ""):
            raise DeliveryRejected(f"{self._name}: {answer.status_code}, but no answer of a DICOMweb service")
        try:
            told = json.loads(answer.content)
            stored = {_uid(item): _number(item, _WARNING_REASON) for item in _items(told, _REFERENCED)}
            failed = {
                _uid(item): _number(item, _FAILURE_REASON) or PROCESSING_FAILURE for item in _items(told, _FAILED)
            }
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
            raise DeliveryUnavailable(f"{self._name}: its answer is cut off or broken") from None
        return _Said(answer.status_code, stored, failed)

    def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            with httpx.Client(
                timeout=self._timeout_s,
                verify=self._tls() if self._tls is not None else True,
                trust_env=False,
                headers=self._headers,
            ) as client:
                return client.request(method, self._base_url + path, **options)
        except httpx.TimeoutException as late:
            raise DeliveryUnavailable(f"{self._name}: no answer within {self._timeout_s:g} s") from late
        except httpx.RequestError as failure:
            raise DeliveryUnavailable(f"{self._name}: no connection, or lost ({type(failure).__name__})") from failure

    def _failure(self, answer: httpx.Response) -> DeliveryUnavailable | DeliveryRejected:
        status = answer.status_code
        line = f"{self._name}: HTTP status {status}"
        if status >= 500 or status in _LATER:
            return DeliveryUnavailable(line, retry_after_s(answer.headers.get("Retry-After"), self._now()))
        if status in (401, 403):
            return DeliveryRejected(f"{line}: it wants other credentials, or gives us no right to store")
        return DeliveryRejected(f"{line}: check the address of the DICOMweb service (without /studies)")

    def _receipt(self, said: _Said, uids: Sequence[str]) -> Receipt:
        """Return the receipt where every object was stored; raise for what was not."""
        warnings = {reason for uid, reason in said.stored.items() if uid in uids and reason}
        later: list[str] = []
        never: list[str] = []
        for uid in uids:
            reason = said.failed.get(uid)
            if reason is None:
                if uid not in said.stored:
                    never.append(f"{uid}: the archive says nothing of it")
            elif judge(reason) is Verdict.WARNING:  # it has it already: the same UID is the same object
                warnings.add(reason)
            else:
                (later if judge(reason) is Verdict.LATER else never).append(f"{uid}: {status_text(reason)}")
        if never:
            raise DeliveryRejected(f"{self._name}: {'; '.join(never)}")
        if later:
            raise DeliveryUnavailable(f"{self._name}: {'; '.join(later)}")
        told_warning = "; ".join(status_text(reason) for reason in sorted(warnings))
        return Receipt(detail=f"{said.status}, {len(uids)} stored", warning=told_warning or None)


def _comprehensive(content: bytes) -> tuple[str, bytes] | None:
    """Return a Comprehensive 3D SR as Comprehensive SR, with its UID; None where the object is no such report."""
    report = dcmread(BytesIO(content))
    if report.SOPClassUID != Comprehensive3DSRStorage:
        return None
    other, buffer = as_comprehensive(report), BytesIO()
    other.save_as(buffer, enforce_file_format=True)
    return str(other.SOPInstanceUID), buffer.getvalue()


def _multipart(boundary: str, parts: Sequence[bytes]) -> bytes:
    """Return the parts as multipart/related (RFC 2387), each a DICOM file."""
    head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    return b"".join(head + part + b"\r\n" for part in parts) + f"--{boundary}--\r\n".encode()


def _items(answer: Any, tag: str) -> list[Any]:
    value: list[Any] = answer.get(tag, {}).get("Value", [])
    return value


def _uid(item: Any) -> str:
    return str(item[_UID]["Value"][0])


def _number(item: Any, tag: str) -> int:
    return int(item[tag]["Value"][0]) if tag in item else 0
