"""A FHIR R4 server that takes transaction Bundles (HL7 FHIR R4 3.1.0.11, RESTful API: transaction).

How an answer is judged:

=====================================================  ===================================================
answer                                                 meaning
=====================================================  ===================================================
2xx, transaction-response, every entry 2xx or 304      delivered; an entry's status may be its phrase alone
2xx without a body (204, or a server that returns the  delivered, with a warning, if /metadata there is
minimum), or with an OperationOutcome without errors   that of a FHIR R4 server: a transaction succeeds as
                                                       a whole or fails with 4xx or 5xx
408, 425, 429, 5xx (also of one entry)                 unavailable: tried again, not before Retry-After
409, 423 (also of one entry); 400, 412, 422 of which   conflict: another transaction had the same resource
all errors are conflict, lock-error or other           at the same time. Tried again, but given up after
transient issue types                                  10 conflicts in a row
no connection, time-out, answer cut off                unavailable: the transaction may have been committed,
                                                       conditional requests make sending it again harmless
400, 401, 403, 404, 410, 412, 422, other 4xx (or an    rejected; 412 says that a condition matches several
entry)                                                 resources, which no attempt changes
3xx                                                    rejected: the address in the settings has to be mended
202                                                    rejected: it may be carried out or not, and nobody
                                                       asked for that (FHIR asynchronous pattern)
batch-response                                         rejected: the entries were processed one by one, and
                                                       the references between them lead nowhere
2xx but not FHIR, not a transaction-response, not as   rejected: something else than a FHIR server answered,
many entries as were sent, or too large                and whether anything was stored has to be looked up
=====================================================  ===================================================

An answer's free text (OperationOutcome diagnostics, reason phrases) may repeat patient data and is never copied.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from allpacs.audit.messages import AuditEvent
from allpacs.deliver.fhir_answer import Conflict, Verdict, check_entries, is_good_outcome, issues, judge, named
from allpacs.deliver.fhir_devices import KnownDevices
from allpacs.deliver.http import address_name, ask, retry_after_s, too_large
from allpacs.deliver.smart import BackendServices
from allpacs.dicom.tls import Tls
from allpacs.dicom.web import MAX_ANSWER_BYTES, Answer
from allpacs.domain.artefacts import FHIR_JSON, Artefact, Receipt
from allpacs.domain.errors import DeliveryRejected, DeliveryUnavailable

#: Conflicts of one Bundle in a row after which a person has to look. With the waits of the retry policy this is a
#: quarter of an hour at least: transactions that merely came together have passed by then.
_MOST_CONFLICTS = 10

_WHAT_TO_DO = {
    400: "the server does not understand the transaction",
    401: "the server wants other credentials: check the bearer token or oauth of this destination",
    403: "the server forbids it: give this account the right to create and update",
    404: "nothing answers there: check the base address of this destination",
    410: "what was there has been taken away: check the base address of this destination",
    412: "a conditional request matched several resources at the server",
    413: "the report is larger than the server takes: raise its limit",
    422: "the server's rules refuse a resource",
}


class FhirRestDestination:
    """Posts the transaction Bundle to the server's base address and checks every entry of the answer.

    Parameters
    ----------
    base_url:
        ``http://`` or ``https://`` address of the server's FHIR R4 base.
    headers:
        Further request headers.
    bearer_token:
        Sent as ``Authorization: Bearer``.
    tokens:
        Where tokens come from that are fetched (SMART Backend Services), instead of `bearer_token`.
    timeout_s:
        Longest silence, and longest time for one exchange, seconds; a large Bundle has more for being sent.
    tls:
        Asked for the settings of each connection (own certificate authority, client certificate); None: the platform's.
    now:
        The clock that a Retry-After date is compared with.

    Environment variables for proxies are not looked at: results go where the settings say, and nowhere else.
    """

    audit_event = AuditEvent.EXPORTED

    def __init__(
        self,
        base_url: str,
        *,
        headers: Mapping[str, str] | None = None,
        bearer_token: str | None = None,
        tokens: BackendServices | None = None,
        timeout_s: float = 30.0,
        tls: Tls | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._name = address_name(base_url, "FHIR server")
        self._base_url = base_url.rstrip("/")
        self._headers = {"Accept": FHIR_JSON, **(headers or {})}
        if bearer_token is not None and tokens is None:
            self._headers["Authorization"] = f"Bearer {bearer_token}"
        self._tokens = tokens
        self._timeout_s = timeout_s
        self._tls = tls
        self._now = now
        self._devices = KnownDevices()
        self._conflicts: Counter[str] = Counter()
        self._lock = threading.Lock()

    @property
    def takes(self) -> frozenset[str]:
        """FHIR Bundles."""
        return frozenset({FHIR_JSON})

    def deliver(self, artefacts: Sequence[Artefact]) -> Receipt:
        """Post each Bundle as one transaction; artefacts of kinds that it does not take are left out.

        Raises
        ------
        DeliveryUnavailable, DeliveryRejected
            See the table above.
        """
        statuses: Counter[int] = Counter()
        unlisted = 0
        for bundle in (artefact for artefact in artefacts if artefact.is_taken_by(self.takes)):
            try:
                listed = self._transact(bundle)
            except Conflict as conflict:
                raise self._after_conflict(bundle.uid, conflict) from None
            except (DeliveryUnavailable, DeliveryRejected):
                self._forget_conflicts(bundle.uid)
                raise
            self._forget_conflicts(bundle.uid)
            statuses.update(listed or {})
            unlisted += listed is None
        details = [f"{named(status)} x{n}" for status, n in sorted(statuses.items())]
        details += [f"{unlisted} transaction(s) confirmed as a whole"] * bool(unlisted)
        warning = "the server does not list what it did with each resource" if unlisted else None
        return Receipt(detail=", ".join(details) or "nothing sent", warning=warning)

    def check(self) -> str:
        """Read the CapabilityStatement (``GET [base]/metadata``).

        Raises
        ------
        DeliveryUnavailable
            The server does not answer with the CapabilityStatement of a FHIR R4 server that takes transactions.
        """
        try:
            statement = self._resource(self._request("GET", "/metadata"))
        except DeliveryRejected as rejected:
            raise DeliveryUnavailable(rejected.reason) from rejected
        if statement.get("resourceType") != "CapabilityStatement":
            raise DeliveryUnavailable(f"{self._name}: /metadata is no CapabilityStatement; check the base address")
        version = statement.get("fhirVersion")
        if not (isinstance(version, str) and version.startswith("4.0")):
            raise DeliveryUnavailable(f"{self._name}: not a FHIR R4 server; give the address of its R4 base")
        return f"FHIR R4 server at {self._name}"

    def _transact(self, artefact: Artefact) -> Counter[int] | None:
        """Post one Bundle; return how often each status occurs in the answer, or None if it lists no entries."""
        bundle = _bundle(artefact)
        sent = [str(entry["resource"]["resourceType"]) for entry in bundle["entry"]]
        content = artefact.content
        if self._devices.spare(bundle):
            content = json.dumps(bundle, ensure_ascii=False, separators=(",", ":")).encode()
        answer = self._request("POST", content=content)
        if answer.status == HTTPStatus.ACCEPTED:
            raise DeliveryRejected(
                f"{self._name}: 202 Accepted: the server may carry out the transaction later, or not; "
                "turn asynchronous processing off there, and look up what it stored"
            )
        listed = None
        if answer.content.strip():
            resource = self._resource(answer)
            listed = None if is_good_outcome(resource) else check_entries(sent, resource)
        if listed is None:
            self.check()  # an empty success says nothing of who answered
        self._devices.learn(bundle)
        return listed

    def _after_conflict(self, uid: str, conflict: Conflict) -> DeliveryUnavailable | DeliveryRejected:
        """Count the conflict; return the fault that the delivery ends this attempt with."""
        with self._lock:
            self._conflicts[uid] += 1
            count = self._conflicts[uid]
        if count < _MOST_CONFLICTS:
            return conflict
        self._forget_conflicts(uid)
        return DeliveryRejected(f"{conflict.reason}, {count} times in a row: look at what the server holds")

    def _forget_conflicts(self, uid: str) -> None:
        with self._lock:
            self._conflicts.pop(uid, None)

    def _request(self, method: str, path: str = "", content: bytes | None = None) -> Answer:
        """Return a successful answer; raise for every other."""
        answer = self._answer(method, path, content)
        if answer.status == HTTPStatus.UNAUTHORIZED and self._tokens is not None:
            self._tokens.forget()  # it may have been withdrawn before its time
            answer = self._answer(method, path, content)
        if not answer.is_success:
            raise self._failure(answer)
        if not answer.whole:
            raise DeliveryRejected(too_large(self._name, answer))
        return answer

    def _resource(self, answer: Answer) -> dict[str, Any]:
        """Return the JSON object of an answer."""
        try:
            resource = json.loads(answer.content)
        except (ValueError, RecursionError):
            if "json" in answer.media_type:
                raise DeliveryUnavailable(f"{self._name}: its JSON answer is cut off or broken") from None
            raise DeliveryRejected(
                f"{self._name}: {answer.status}, but not FHIR (a log-in or proxy page?); check the base address"
            ) from None
        if not isinstance(resource, dict):
            raise DeliveryRejected(f"{self._name}: {answer.status}, but no FHIR resource; check the base address")
        return resource

    def _answer(self, method: str, path: str, content: bytes | None) -> Answer:
        """Return the answer, whatever its status; raise where there is none."""
        headers = dict(self._headers)
        if content is not None:
            headers["Content-Type"] = f"{FHIR_JSON}; charset=utf-8"
        if self._tokens is not None:
            headers["Authorization"] = f"Bearer {self._tokens.token()}"
        return ask(
            self._name,
            method,
            self._base_url + path,
            timeout_s=self._timeout_s,
            tls=self._tls,
            headers=headers,
            content=content,
            # Some servers return every resource as they hold it.
            max_bytes=max(MAX_ANSWER_BYTES, 2 * len(content or b"")),
        )

    def _failure(self, answer: Answer) -> DeliveryUnavailable | DeliveryRejected:
        status = answer.status
        try:
            outcome = json.loads(answer.content)
        except (ValueError, RecursionError):
            outcome = None
        line = f"{self._name}: {named(status)}{issues(outcome)}"
        wait_s = retry_after_s(answer.headers.get("Retry-After"), self._now())
        match judge(status, outcome):
            case Verdict.LATER:
                return DeliveryUnavailable(line, wait_s)
            case Verdict.CONFLICT:
                return Conflict(line, wait_s)
        if 300 <= status < 400:
            return DeliveryRejected(f"{line}: it points elsewhere; set base_url to the final address")
        return DeliveryRejected(f"{line}: {_WHAT_TO_DO.get(status, 'sending it again will not help')}")


def _bundle(artefact: Artefact) -> dict[str, Any]:
    """Return the transaction Bundle of an artefact, each entry with a resource."""
    try:
        bundle: dict[str, Any] = json.loads(artefact.content)
        if bundle["resourceType"] != "Bundle" or bundle["type"] != "transaction":
            raise ValueError(bundle["type"])
        for entry in bundle["entry"]:
            str(entry["resource"]["resourceType"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DeliveryRejected(f"artefact {artefact.uid} is not a FHIR transaction Bundle of resources") from None
    return bundle
