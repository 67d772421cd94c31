"""An archive that takes DICOM results over the web: STOW-RS (PS3.18 section 10.5).

How an answer is judged:

==========================================  =======================================================================
answer                                      meaning
==========================================  =======================================================================
200, 202: every object referenced           delivered; a Warning Reason is recorded
200, 202, 409: a Failure Reason             judged as the C-STORE status of that number (`allpacs.deliver.association`)
408, 425, 429, 5xx, no or half an answer    unavailable: tried again, not before Retry-After
3xx, other 4xx, 2xx that is no STOW answer  rejected: a person has to look
==========================================  =======================================================================

An answer's free text may repeat patient data and is never copied.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import httpx

from allpacs.deliver.association import Verdict, judge, status_text
from allpacs.deliver.retry_after import retry_after_s
from allpacs.domain.artefacts import DICOM_KINDS, Artefact, ArtefactKind, Receipt
from allpacs.domain.errors import ConfigFault, DeliveryRejected, DeliveryUnavailable
from allpacs.tls import Tls

_DICOM_JSON = "application/dicom+json"
_LATER = frozenset({408, 425, 429})

# Attributes of the answer (PS3.18 Table 10.5.3-3), as DICOM JSON names them.
_REFERENCED, _FAILED = "00081199", "00081198"
_UID, _FAILURE_REASON, _WARNING_REASON = "00081155", "00081197", "00081196"


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
        try:
            parts = urlsplit(base_url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ConfigFault("base_url: write http://host/path or https://host/path of the DICOMweb service")
            self._name = f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}{parts.path}"
        except ValueError as invalid:
            raise ConfigFault("base_url: not an address; write https://host:port/path of the DICOMweb service") from (
                invalid
            )
        self._base_url = base_url.rstrip("/")
        self._headers = {"Accept": _DICOM_JSON}
        if bearer_token is not None:
            self._headers["Authorization"] = f"Bearer {bearer_token}"
        self._timeout_s = timeout_s
        self._tls = tls
        self._now = now

    @property
    def takes(self) -> frozenset[ArtefactKind]:
        """DICOM objects."""
        return DICOM_KINDS

    def deliver(self, artefacts: Sequence[Artefact]) -> Receipt:
        """Post the artefacts in one request; those of kinds that it does not take are left out.

        Raises
        ------
        DeliveryUnavailable, DeliveryRejected
            See the table above.
        """
        objects = [artefact for artefact in artefacts if artefact.kind in self.takes]
        if not objects:
            return Receipt(detail="nothing sent")
        boundary = uuid.uuid4().hex
        answer = self._request(
            "POST",
            "/studies",
            content=_multipart(boundary, [one.content for one in objects]),
            headers={"Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}'},
        )
        if answer.status_code not in (200, 202, 409):
            raise self._failure(answer)
        return self._receipt(answer, [one.uid for one in objects])

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

    def _receipt(self, answer: httpx.Response, uids: Sequence[str]) -> Receipt:
        """Return the receipt where every object was stored; raise for what was not."""
        if "json" not in answer.headers.get("Content-Type", ""):
            raise DeliveryRejected(f"{self._name}: {answer.status_code}, but no answer of a DICOMweb service")
        try:
            told = json.loads(answer.content)
            stored = {_uid(item): _number(item, _WARNING_REASON) for item in _items(told, _REFERENCED)}
            failed = {_uid(item): _number(item, _FAILURE_REASON) or 0x0110 for item in _items(told, _FAILED)}
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
            raise DeliveryUnavailable(f"{self._name}: its answer is cut off or broken") from None
        warnings = {reason for uid, reason in stored.items() if uid in uids and reason}
        later: list[str] = []
        never: list[str] = []
        for uid in uids:
            reason = failed.get(uid)
            if reason is None:
                if uid not in stored:
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
        return Receipt(detail=f"{answer.status_code}, {len(uids)} stored", warning=told_warning or None)


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
