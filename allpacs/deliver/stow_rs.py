"""An archive that takes DICOM results over the web: STOW-RS (PS3.18 section 10.5).

How an answer is judged:

==========================================  =======================================================================
answer                                      meaning
==========================================  =======================================================================
200, 201, 202, 409, and 400 with failures:  what it says of each object counts, whatever the status
a data set, or a list of them, as DICOM
JSON or XML
an object that is referenced                delivered; a Warning Reason is recorded
an object with a Failure Reason, or one     judged as the C-STORE status of that number (`allpacs.deliver.association`);
that is not named where there are Other     0122 (SOP Class not supported) of a Comprehensive 3D SR: the same report is
Failures                                    posted as Comprehensive SR
an object of which nothing is said          rejected
200, 201, 204 without a body                delivered, with a warning, if the address answers QIDO-RS: 200 says that all
                                            objects were stored
202, 409 without a body                     rejected: some objects, or all, were not stored
408, 425, 429, 5xx, no or half an answer    unavailable: tried again, not before Retry-After
3xx, other 4xx, 2xx that is no STOW         rejected: a person has to look
answer, or is too large
==========================================  =======================================================================

An answer's free text may repeat patient data and is never copied.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from io import BytesIO
from typing import Any

from pydicom import dcmread
from pydicom.uid import Comprehensive3DSRStorage

from allpacs.audit.messages import AuditEvent
from allpacs.deliver.association import Verdict, judge, status_text
from allpacs.deliver.comprehensive import as_comprehensive
from allpacs.deliver.http import address_name, ask, may_pass, retry_after_s, too_large
from allpacs.deliver.stow_answer import BrokenAnswer, StoreAnswer, read_answer
from allpacs.dicom.status import SOP_CLASS_NOT_SUPPORTED
from allpacs.dicom.tls import Tls
from allpacs.dicom.web import Answer
from allpacs.domain.artefacts import DICOM, Artefact, Receipt
from allpacs.domain.errors import DeliveryRejected, DeliveryUnavailable

_DICOM_JSON = "application/dicom+json"
#: Statuses whose body says what became of each object (PS3.18 Table 10.5.3-1; 201 is some servers' 200).
_TELLING = frozenset({200, 201, 202, 400, 409})
#: Statuses that say without a body that every object was stored.
_ALL_STORED = frozenset({200, 201, 204})

#: Stands for the Warning Reason of an object that the archive does not list: no status has this number.
_NOT_LISTED = -1
_UNLISTED_TEXT = "the archive does not list what it stored"

_WHAT_TO_DO = {
    401: "it wants other credentials, or gives us no right to store",
    403: "it wants other credentials, or gives us no right to store",
    413: "the results are larger than it takes: raise its limit",
    415: "it does not take these objects as application/dicom",
}


class StowRsDestination:
    """Posts DICOM results to an archive's ``/studies`` and checks what it says of every one.

    Parameters
    ----------
    base_url:
        ``http://`` or ``https://`` address of the DICOMweb service, without ``/studies``.
    bearer_token:
        Sent as ``Authorization: Bearer``.
    timeout_s:
        Longest silence, and longest time for one exchange, seconds; large results have more for being sent.
    tls:
        Asked for the settings of each connection; None: the platform's.
    now:
        The clock that a Retry-After date is compared with.
    """

    audit_event = AuditEvent.INSTANCES_SENT

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
        answer = self._store(sent)
        unknown = [uid for uid, reason in answer.failed.items() if reason == SOP_CLASS_NOT_SUPPORTED and uid in sent]
        instead = {uid: other for uid in unknown if (other := _comprehensive(sent[uid])) is not None}
        if instead:
            sent = {uid: content for uid, content in sent.items() if uid not in instead} | dict(instead.values())
            answer |= self._store(dict(instead.values()))
        return self._receipt(answer, list(sent))

    def check(self) -> str:
        """Ask for one study (QIDO-RS, PS3.18 section 10.6).

        Raises
        ------
        DeliveryUnavailable
            There is no DICOMweb service that answers us.
        """
        answer = self._ask("GET", "/studies", params={"limit": "1"})
        if not answer.is_success:
            raise DeliveryUnavailable(self._failure(answer).reason)
        return f"DICOMweb service at {self._name}"

    def _store(self, objects: Mapping[str, bytes]) -> StoreAnswer:
        """Post objects, by their UIDs, in one request; return what the archive says of each."""
        boundary = uuid.uuid4().hex
        answer = self._ask(
            "POST",
            "/studies",
            content=_multipart(boundary, list(objects.values())),
            headers={"Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}'},
        )
        if answer.status in _ALL_STORED and answer.whole and not answer.content.strip():
            self.check()  # an empty success says nothing of who answered
            return StoreAnswer(answer.status, dict.fromkeys(objects, _NOT_LISTED))
        if answer.status not in _TELLING:
            raise self._failure(answer)
        if not answer.whole:
            raise DeliveryRejected(too_large(self._name, answer))
        try:
            told = read_answer(answer)
        except BrokenAnswer as broken:
            if answer.status == HTTPStatus.BAD_REQUEST:
                raise self._failure(answer) from None
            raise DeliveryUnavailable(f"{self._name}: {broken}") from None
        if answer.status == HTTPStatus.BAD_REQUEST and (told is None or not told.has_failures):
            raise self._failure(answer)
        if told is None:
            raise DeliveryRejected(f"{self._name}: {answer.status}, but no answer of a DICOMweb service")
        return told

    def _ask(self, method: str, path: str, headers: Mapping[str, str] | None = None, **options: Any) -> Answer:
        """Return the answer, whatever its status."""
        return ask(
            self._name,
            method,
            self._base_url + path,
            timeout_s=self._timeout_s,
            tls=self._tls,
            headers={**self._headers, **(headers or {})},
            **options,
        )

    def _failure(self, answer: Answer) -> DeliveryUnavailable | DeliveryRejected:
        status = answer.status
        line = f"{self._name}: HTTP status {status}"
        if may_pass(status):
            return DeliveryUnavailable(line, retry_after_s(answer.headers.get("Retry-After"), self._now()))
        what = _WHAT_TO_DO.get(status, "check the address of the DICOMweb service (without /studies)")
        return DeliveryRejected(f"{line}: {what}")

    def _receipt(self, answer: StoreAnswer, uids: Sequence[str]) -> Receipt:
        """Return the receipt where every object was stored; raise for what was not."""
        warnings = {reason for uid, reason in answer.stored.items() if uid in uids and reason}
        later: list[str] = []
        never: list[str] = []
        for uid in uids:
            if uid in answer.failed and judge(answer.failed[uid]) is Verdict.WARNING:
                warnings.add(answer.failed[uid])  # it has it already: the same UID is the same object
            elif uid in answer.failed or uid not in answer.stored:
                reasons = [answer.failed[uid]] if uid in answer.failed else list(answer.other_failures)
                text = ", ".join(map(status_text, reasons)) or "the archive says nothing of it"
                passing = bool(reasons) and all(judge(reason) is Verdict.LATER for reason in reasons)
                (later if passing else never).append(f"{uid}: {text}")
        if never:
            raise DeliveryRejected(f"{self._name}: {'; '.join(never)}")
        if later:
            raise DeliveryUnavailable(f"{self._name}: {'; '.join(later)}")
        texts = [_UNLISTED_TEXT if reason == _NOT_LISTED else status_text(reason) for reason in sorted(warnings)]
        return Receipt(detail=f"{answer.status}, {len(uids)} stored", warning="; ".join(texts) or None)


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
