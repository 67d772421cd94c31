"""What the answer of a FHIR R4 server to a transaction means; `allpacs.deliver.fhir_rest` has the table.

An answer's free text (OperationOutcome diagnostics, reason phrases) may repeat patient data and is never copied.

Source: HL7 FHIR R4 sections 3.1.0.11 (transaction), 3.1.0.1.9 (what an answer may leave out), 2.36 (Bundle.entry
.response.status), value set issue-type.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from enum import Enum, auto
from http import HTTPStatus
from typing import Any

from allpacs.deliver.http import may_pass
from allpacs.domain.errors import DeliveryRejected, DeliveryUnavailable

#: A resource is locked, or changed at the same time: RFC 9110 15.5.10, RFC 4918 11.3.
_CONFLICTS = frozenset({409, 423})
#: Statuses that the issues of an OperationOutcome may turn into a conflict.
_EXPLAINED = frozenset({400, 412, 422})
#: Issue types that pass: an edit conflict, and "transient" with all below it.
_PASSING_ISSUES = frozenset(
    {"conflict", "transient", "lock-error", "no-store", "exception", "timeout", "incomplete", "throttled"}
)

_CODE = re.compile(r"[a-z][a-z-]{0,31}")
_ENTRY_STATUS = re.compile(r"\s*([1-5][0-9]{2})(?![0-9])")
_NO_LETTERS = re.compile(r"[^a-z]")
#: Statuses by their phrases without blanks, as some servers write them ("Created", "NoContent").
_PHRASES = {_NO_LETTERS.sub("", status.phrase.lower()): status.value for status in HTTPStatus}


class Conflict(DeliveryUnavailable):
    """Another request changed or locked the same resource; a few more attempts settle it, or none will."""


class Verdict(Enum):
    """What a status means for the delivery."""

    DONE = auto()
    CONFLICT = auto()
    LATER = auto()
    NEVER = auto()


def judge(status: int, outcome: Any = None) -> Verdict:
    """Judge the status of an answer or of one entry, with its OperationOutcome."""
    if 200 <= status < 300:
        return Verdict.DONE
    if may_pass(status):
        return Verdict.LATER
    errors = _error_codes(outcome)
    if status in _CONFLICTS or (status in _EXPLAINED and errors and errors <= _PASSING_ISSUES):
        return Verdict.CONFLICT
    return Verdict.NEVER


def check_entries(sent: Sequence[str], answer: dict[str, Any]) -> Counter[int]:
    """Return how often each status occurs in a transaction-response with one success for each entry that was sent.

    Parameters
    ----------
    sent:
        The resource types of the entries.

    Raises
    ------
    Conflict, DeliveryUnavailable, DeliveryRejected
        It is another answer; see the table.
    """
    if answer.get("resourceType") != "Bundle" or answer.get("type") != "transaction-response":
        raise _other_resource(answer)
    entries = answer.get("entry")
    if not isinstance(entries, list) or len(entries) != len(sent):
        count = len(entries) if isinstance(entries, list) else 0
        raise DeliveryRejected(f"the server answered {count} of {len(sent)} entries; look up what it stored")
    statuses: Counter[int] = Counter()
    lines: dict[Verdict, list[str]] = {verdict: [] for verdict in Verdict}
    for number, (resource_type, entry) in enumerate(zip(sent, entries, strict=True), start=1):
        response = entry.get("response") if isinstance(entry, dict) else None
        response = response if isinstance(response, dict) else {}
        status, outcome = _entry_status(response.get("status")), response.get("outcome")
        statuses[status] += 1
        # The transaction as a whole was carried out: what is not modified is what was sent.
        verdict = Verdict.DONE if status == HTTPStatus.NOT_MODIFIED else judge(status, outcome)
        lines[verdict].append(f"entry {number} ({resource_type}): {named(status)}{issues(outcome)}")
    if lines[Verdict.NEVER]:
        raise DeliveryRejected("; ".join(lines[Verdict.NEVER]))
    if lines[Verdict.CONFLICT]:
        raise Conflict("; ".join(lines[Verdict.CONFLICT]))
    if lines[Verdict.LATER]:
        raise DeliveryUnavailable("; ".join(lines[Verdict.LATER]))
    return statuses


def is_good_outcome(answer: dict[str, Any]) -> bool:
    """Whether a resource is an OperationOutcome that tells of no error: hints and warnings only."""
    return answer.get("resourceType") == "OperationOutcome" and bool(_issues(answer)) and not _error_codes(answer)


def named(status: int) -> str:
    """Return a status with its standard phrase."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"status {status}" if status else "no status"


def issues(resource: Any) -> str:
    """Return severity and code of each issue of an OperationOutcome, as `` (error/invalid)``; nothing else of it."""
    pairs = [
        "/".join(filter(_CODE.fullmatch, (str(issue.get("severity", "")), str(issue.get("code", "")))))
        for issue in _issues(resource)
    ]
    listed = ", ".join(dict.fromkeys(pair for pair in pairs if pair))
    return f" ({listed})" if listed else ""


def _other_resource(answer: dict[str, Any]) -> DeliveryRejected | Conflict:
    """Return the fault of a success with something else than a transaction-response."""
    if answer.get("resourceType") == "Bundle" and answer.get("type") == "batch-response":
        return DeliveryRejected(
            "the server processed the transaction as a batch, in which the references between report and cells are not "
            "resolved; enable transactions there, and look up what it stored"
        )
    line = f"the server answered no transaction-response{issues(answer)}"
    errors = _error_codes(answer)
    if errors and errors <= _PASSING_ISSUES:
        return Conflict(line)
    return DeliveryRejected(f"{line}; look up what it stored")


def _entry_status(value: Any) -> int:
    """Return the number of an entry's status: it should start with it, but some servers write the phrase alone."""
    if not isinstance(value, str | int):
        return 0
    match = _ENTRY_STATUS.match(str(value))
    return int(match[1]) if match else _PHRASES.get(_NO_LETTERS.sub("", str(value).lower()), 0)


def _issues(resource: Any) -> list[dict[str, Any]]:
    if not isinstance(resource, dict) or resource.get("resourceType") != "OperationOutcome":
        return []
    found = resource.get("issue")
    return [issue for issue in found if isinstance(issue, dict)] if isinstance(found, list) else []


def _error_codes(resource: Any) -> frozenset[str]:
    """Return the codes of an OperationOutcome's errors; an issue without a known lesser severity counts as one."""
    return frozenset(
        str(issue.get("code", ""))
        for issue in _issues(resource)
        if issue.get("severity") not in ("warning", "information", "success")
    )
