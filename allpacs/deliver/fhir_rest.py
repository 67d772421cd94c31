"""A FHIR R4 server that takes transaction Bundles (HL7 FHIR R4 3.1.0.11, RESTful API: transaction).

How an answer is judged:

=====================================================  ===================================================
answer                                                 meaning
=====================================================  ===================================================
2xx, transaction-response, every entry 2xx             delivered
408, 425, 429, 5xx (also of one entry)                 unavailable: tried again, not before Retry-After
no connection, time-out, answer cut off                unavailable: the transaction may have been committed,
                                                       conditional requests make sending it again harmless
401, 403, 404, 409, 412, 422, other 4xx (or an entry)  rejected
3xx                                                    rejected: the address in the settings has to be mended
2xx but not FHIR, not a transaction-response, or not   rejected: something else than a FHIR server answered,
as many entries as were sent                           and whether anything was stored has to be looked up
=====================================================  ===================================================

An answer's free text (OperationOutcome diagnostics, reason phrases) may repeat patient data and is never copied.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import httpx

from allpacs.deliver.http import address_name, retry_after_s
from allpacs.deliver.smart import BackendServices
from allpacs.dicom.tls import Tls
from allpacs.domain.artefacts import FHIR_JSON, Artefact, Receipt
from allpacs.domain.errors import DeliveryRejected, DeliveryUnavailable

#: 4xx that say "later", not "never" (RFC 9110 15.5.9, RFC 8470, RFC 6585).
_LATER = frozenset({408, 425, 429})

_WHAT_TO_DO = {
    401: "the server wants other credentials: check the bearer token or oauth of this destination",
    403: "the server forbids it: give this account the right to create and update",
    404: "nothing answers there: check the base address of this destination",
    409: "it conflicts with what the server holds",
    412: "a conditional request matched several resources at the server",
    422: "the server's rules refuse a resource",
}

_CODE = re.compile(r"[a-z][a-z-]{0,31}")
_ENTRY_STATUS = re.compile(r"([1-5][0-9]{2})(?![0-9])")


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
        Longest time to connect, and longest silence while sending or receiving, seconds.
    tls:
        Asked for the settings of each connection (own certificate authority, client certificate); None: the platform's.
    now:
        The clock that a Retry-After date is compared with.

    Environment variables for proxies are not looked at: results go where the settings say, and nowhere else.
    """

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
        bundles = [artefact for artefact in artefacts if artefact.is_taken_by(self.takes)]
        statuses: Counter[int] = Counter()
        for bundle in bundles:
            sent = _entries(bundle)
            answer = self._request("POST", content=bundle.content)
            statuses.update(_check_entries(sent, answer))
        return Receipt(
            detail=", ".join(f"{_named(status)} x{n}" for status, n in sorted(statuses.items())) or "nothing sent"
        )

    def check(self) -> str:
        """Read the CapabilityStatement (``GET [base]/metadata``).

        Raises
        ------
        DeliveryUnavailable
            The server does not answer with the CapabilityStatement of a FHIR R4 server that takes transactions.
        """
        try:
            statement = self._request("GET", "/metadata")
        except DeliveryRejected as rejected:
            raise DeliveryUnavailable(rejected.reason) from rejected
        if statement.get("resourceType") != "CapabilityStatement":
            raise DeliveryUnavailable(f"{self._name}: /metadata is no CapabilityStatement; check the base address")
        version = statement.get("fhirVersion")
        if not (isinstance(version, str) and version.startswith("4.0")):
            raise DeliveryUnavailable(f"{self._name}: not a FHIR R4 server; give the address of its R4 base")
        return f"FHIR R4 server at {self._name}"

    def _request(self, method: str, path: str = "", content: bytes | None = None) -> dict[str, Any]:
        """Return the JSON object of a successful answer; raise for every other."""
        answer = self._answer(method, path, content)
        if answer.status_code == HTTPStatus.UNAUTHORIZED and self._tokens is not None:
            self._tokens.forget()  # it may have been withdrawn before its time
            answer = self._answer(method, path, content)
        if not answer.is_success:
            raise self._failure(answer)
        try:
            resource = json.loads(answer.content)
        except (ValueError, RecursionError):
            if "json" in answer.headers.get("Content-Type", ""):
                raise DeliveryUnavailable(f"{self._name}: its JSON answer is cut off or broken") from None
            raise DeliveryRejected(
                f"{self._name}: {answer.status_code}, but not FHIR (a log-in or proxy page?); check the base address"
            ) from None
        if not isinstance(resource, dict):
            raise DeliveryRejected(f"{self._name}: {answer.status_code}, but no FHIR resource; check the base address")
        return resource

    def _answer(self, method: str, path: str, content: bytes | None) -> httpx.Response:
        """Return the answer, whatever its status; raise where there is none."""
        headers = {"Content-Type": f"{FHIR_JSON}; charset=utf-8"} if content is not None else {}
        if self._tokens is not None:
            headers["Authorization"] = f"Bearer {self._tokens.token()}"
        try:
            with httpx.Client(
                timeout=self._timeout_s,
                verify=self._tls() if self._tls is not None else True,
                trust_env=False,
                headers=self._headers,
            ) as client:
                return client.request(method, self._base_url + path, content=content, headers=headers)
        except httpx.TimeoutException as late:
            raise DeliveryUnavailable(f"{self._name}: no answer within {self._timeout_s:g} s") from late
        except httpx.ConnectError as failure:
            raise DeliveryUnavailable(f"{self._name}: no connection ({_cause(failure)})") from failure
        except httpx.RequestError as failure:
            raise DeliveryUnavailable(f"{self._name}: connection lost ({type(failure).__name__})") from failure

    def _failure(self, answer: httpx.Response) -> DeliveryUnavailable | DeliveryRejected:
        status = answer.status_code
        try:
            outcome = _outcome(json.loads(answer.content))
        except (ValueError, RecursionError):
            outcome = ""
        line = f"{self._name}: {_named(status)}{outcome}"
        if _may_pass(status):
            return DeliveryUnavailable(line, retry_after_s(answer.headers.get("Retry-After"), self._now()))
        if answer.is_redirect:
            return DeliveryRejected(f"{line}: it points elsewhere; set base_url to the final address")
        return DeliveryRejected(f"{line}: {_WHAT_TO_DO.get(status, 'sending it again will not help')}")


def _entries(artefact: Artefact) -> list[str]:
    """Return the resource types of the Bundle's entries, in order."""
    try:
        bundle = json.loads(artefact.content)
        if bundle["resourceType"] != "Bundle" or bundle["type"] != "transaction":
            raise ValueError(bundle["type"])
        return [str(entry["resource"]["resourceType"]) for entry in bundle["entry"]]
    except (ValueError, KeyError, TypeError):
        raise DeliveryRejected(f"artefact {artefact.uid} is not a FHIR transaction Bundle of resources") from None


def _check_entries(sent: Sequence[str], answer: dict[str, Any]) -> list[int]:
    """Return the status of each entry of a transaction-response; raise unless there is one success for each sent."""
    if answer.get("resourceType") != "Bundle" or answer.get("type") != "transaction-response":
        raise DeliveryRejected(f"the server answered no transaction-response{_outcome(answer)}; look up what it stored")
    entries = answer.get("entry")
    if not isinstance(entries, list) or len(entries) != len(sent):
        count = len(entries) if isinstance(entries, list) else 0
        raise DeliveryRejected(f"the server answered {count} of {len(sent)} entries; look up what it stored")
    statuses = []
    later: list[str] = []
    never: list[str] = []
    for number, (resource_type, entry) in enumerate(zip(sent, entries, strict=True), start=1):
        response = entry.get("response") if isinstance(entry, dict) else None
        response = response if isinstance(response, dict) else {}
        match = _ENTRY_STATUS.match(str(response.get("status", "")))
        status = int(match[1]) if match else 0
        statuses.append(status)
        if not 200 <= status < 300:
            line = f"entry {number} ({resource_type}): {_named(status)}{_outcome(response.get('outcome'))}"
            (later if _may_pass(status) else never).append(line)
    if never:
        raise DeliveryRejected("; ".join(never))
    if later:
        raise DeliveryUnavailable("; ".join(later))
    return statuses


def _may_pass(status: int) -> bool:
    return status >= 500 or status in _LATER


def _named(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"status {status}" if status else "no status"


def _outcome(resource: Any) -> str:
    """Return severity and code of each issue of an OperationOutcome, as `` (error/invalid)``; nothing else of it."""
    if not isinstance(resource, dict) or resource.get("resourceType") != "OperationOutcome":
        return ""
    issues = resource.get("issue")
    pairs = [
        "/".join(filter(_CODE.fullmatch, (str(issue.get("severity", "")), str(issue.get("code", "")))))
        for issue in (issues if isinstance(issues, list) else [])
        if isinstance(issue, dict)
    ]
    told = ", ".join(dict.fromkeys(pair for pair in pairs if pair))
    return f" ({told})" if told else ""


def _cause(failure: httpx.ConnectError) -> str:
    """Return why there is no connection; nothing was sent yet, so the text is the system's own."""
    return str(failure) or type(failure).__name__
