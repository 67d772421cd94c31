"""A stand-in for the EHR: the small part of a FHIR R4 server that results need. For demonstrations and tests only.

It listens on 127.0.0.1 alone, asks nobody who they are, and does not validate resources: not a FHIR server.

What it can do (HL7 FHIR R4 3.1.0, RESTful API): capabilities; transaction (atomic; POST with ifNoneExist, PUT by id or
``?identifier=``, ``urn:uuid`` references resolved); read; search by ``identifier`` and ``_tag``. A PUT of what it
holds already keeps the version, as widely used servers do; so meta.versionId counts changes.
"""

from __future__ import annotations

import copy
import functools
import json
import os
import re
import threading
import uuid
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

_HOST = "127.0.0.1"
_FHIR_JSON = "application/fhir+json; charset=utf-8"
_TYPE = re.compile(r"[A-Z][A-Za-z]{1,63}")
_ID = re.compile(r"[A-Za-z0-9.-]{1,64}")

Resource = dict[str, Any]

#: Resources by (type, id).
_Held = dict[tuple[str, str], Resource]

#: Keys of resources by (type, search parameter, token).
_Index = dict[tuple[str, str, str], set[tuple[str, str]]]


class RefusedError(Exception):
    """A request that is answered with an OperationOutcome.

    Attributes
    ----------
    code:
        FHIR issue type (HL7 value set issue-type).
    """

    def __init__(self, status: HTTPStatus, code: str, diagnostics: str) -> None:
        super().__init__(diagnostics)
        self.status = status
        self.code = code

    def outcome(self) -> Resource:
        """Return the OperationOutcome."""
        issue = {"severity": "error", "code": self.code, "diagnostics": str(self)}
        return {"resourceType": "OperationOutcome", "issue": [issue]}


class FhirEndpoint:
    """Keeps each resource as ``folder/<type>/<id>.json``.

    Parameters
    ----------
    folder:
        What lies there from before is held again.
    port:
        0: any free port; `base_url` says which one after `start`.
    """

    def __init__(self, folder: Path, port: int = 0) -> None:
        self._folder = folder
        self._asked_port = port
        self._changed = threading.Condition()
        self._server: ThreadingHTTPServer | None = None
        self._held: _Held = {}

    def start(self) -> Self:
        """Listen; return itself.

        Raises
        ------
        OSError
            The port is taken.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in self._folder.glob("*/*.json"):
            self._held[path.parent.name, path.stem] = json.loads(path.read_text(encoding="utf-8"))
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = ThreadingHTTPServer((_HOST, self._asked_port), handler)
        self._server.daemon_threads = True
        # The poll interval is how long `stop` takes.
        serve = functools.partial(self._server.serve_forever, poll_interval=0.05)
        threading.Thread(target=serve, name="fhir-endpoint", daemon=True).start()
        return self

    def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def base_url(self) -> str:
        """Its FHIR base address."""
        if self._server is None:
            raise RuntimeError("the FHIR endpoint is not started")
        return f"http://{_HOST}:{self._server.server_address[1]}"

    def resources(self, resource_type: str) -> list[Resource]:
        """Return copies of all resources of a type."""
        with self._changed:
            return [copy.deepcopy(r) for (kind, _), r in self._held.items() if kind == resource_type]

    def path_of(self, resource_type: str, resource_id: str) -> Path:
        """Return the file that a resource is kept in."""
        return self._folder / resource_type / f"{resource_id}.json"

    def wait_for(
        self,
        resource_type: str,
        timeout_s: float,
        predicate: Callable[[Resource], bool] = lambda _: True,
        *,
        count: int = 1,
    ) -> list[Resource]:
        """Wait until it holds at least so many resources of a type for which the predicate holds.

        Raises
        ------
        TimeoutError
            They did not come in time.
        """
        found: list[Resource] = []

        def enough() -> bool:
            found[:] = [r for (kind, _), r in self._held.items() if kind == resource_type and predicate(r)]
            return len(found) >= count

        with self._changed:
            if not self._changed.wait_for(enough, timeout_s):
                raise TimeoutError(
                    f"{len(found)} of {count} {resource_type} came to the FHIR endpoint within {timeout_s:g} s"
                )
            return copy.deepcopy(found)

    def get(self, path: str, query: str) -> Resource:
        """Answer a GET: capabilities, read or search."""
        parts = [part for part in path.split("/") if part]
        if parts == ["metadata"]:
            return _capabilities()
        with self._changed:
            if len(parts) == 2:
                found = self._held.get((parts[0], parts[1]))
                if found is None:
                    raise RefusedError(HTTPStatus.NOT_FOUND, "not-found", "no such resource")
                return copy.deepcopy(found)
            if len(parts) == 1 and _TYPE.fullmatch(parts[0]):
                matches = _search(self._held, _index(self._held), parts[0], query)
                entries = [{"resource": copy.deepcopy(match), "search": {"mode": "match"}} for match in matches]
                return {"resourceType": "Bundle", "type": "searchset", "total": len(entries), "entry": entries}
        raise RefusedError(HTTPStatus.NOT_FOUND, "not-found", "metadata, read, search, transaction only")

    def transaction(self, bundle: Any) -> Resource:
        """Answer a transaction: all of it is kept, or nothing."""
        with self._changed:
            held, response, changed = _transact(self._held, bundle)
            for key in changed:
                _write(self.path_of(*key), held[key])
            self._held = held
            self._changed.notify_all()
        return response


def _transact(before: _Held, bundle: Any) -> tuple[_Held, Resource, list[tuple[str, str]]]:
    """Return what is held after the transaction, the answer, and the keys of what changed."""
    if not isinstance(bundle, dict) or bundle.get("resourceType") != "Bundle" or bundle.get("type") != "transaction":
        raise RefusedError(HTTPStatus.BAD_REQUEST, "invalid", "not a Bundle of type transaction")
    held = dict(before)
    index = _index(held)
    targets: dict[tuple[str, str], None] = {}  # in order
    statuses: list[HTTPStatus] = []
    references: dict[str, str] = {}
    entries = bundle.get("entry", [])
    kept_as_is: set[tuple[str, str]] = set()
    for entry in entries:
        key, found = _target(held, index, entry)
        if key in targets:
            raise RefusedError(HTTPStatus.BAD_REQUEST, "duplicate", "two entries mean the same resource")
        targets[key] = None
        statuses.append(HTTPStatus.OK if found else HTTPStatus.CREATED)
        if found and entry["request"]["method"] == "POST":  # conditional create: it is there already
            kept_as_is.add(key)
        if entry.get("fullUrl"):
            references[entry["fullUrl"]] = f"{key[0]}/{key[1]}"
    changed = []
    for key, entry in zip(targets, entries, strict=True):
        if key in kept_as_is:
            continue
        resource = _resolved(entry["resource"], references)
        resource["id"] = key[1]
        old = held.get(key)
        version = int(old["meta"]["versionId"]) if old else 0
        resource["meta"] = {**resource.get("meta", {}), "versionId": str(version)}
        if resource != old:
            resource["meta"]["versionId"] = str(version + 1)
            held[key] = resource
            changed.append(key)
    responses = [
        {
            "response": {
                "status": f"{status.value} {status.phrase}",
                "location": f"{key[0]}/{key[1]}/_history/{held[key]['meta']['versionId']}",
                "etag": f'W/"{held[key]["meta"]["versionId"]}"',
            }
        }
        for key, status in zip(targets, statuses, strict=True)
    ]
    return held, {"resourceType": "Bundle", "type": "transaction-response", "entry": responses}, changed


def _target(held: _Held, index: _Index, entry: Any) -> tuple[tuple[str, str], bool]:
    """Return the key of the resource that an entry means, and whether it is held already."""
    try:
        resource_type = entry["resource"]["resourceType"]
        method, url = entry["request"]["method"], urlsplit(entry["request"]["url"])
    except (KeyError, TypeError):
        raise RefusedError(HTTPStatus.BAD_REQUEST, "required", "an entry lacks resource, method or url") from None
    parts = url.path.strip("/").split("/")
    if parts[0] != resource_type or not _TYPE.fullmatch(resource_type):
        raise RefusedError(HTTPStatus.BAD_REQUEST, "invalid", "the url of an entry does not fit its resource")
    if method == "PUT" and len(parts) == 2 and _ID.fullmatch(parts[1]):
        return (resource_type, parts[1]), (resource_type, parts[1]) in held
    if method == "PUT" and len(parts) == 1 and url.query:
        condition = url.query
    elif method == "POST" and len(parts) == 1 and not url.query:
        condition = entry["request"].get("ifNoneExist", "")
    else:
        raise RefusedError(HTTPStatus.BAD_REQUEST, "not-supported", "POST, or PUT with an id or ?identifier= only")
    matches = _search(held, index, resource_type, condition) if condition else []
    if len(matches) > 1:
        raise RefusedError(HTTPStatus.PRECONDITION_FAILED, "multiple-matches", "a condition matches several resources")
    if matches:
        return (resource_type, matches[0]["id"]), True
    return (resource_type, str(uuid.uuid4())), False


def _index(held: _Held) -> _Index:
    """Return the keys of resources by type, search parameter and token; a token stands with and without its system."""
    index: _Index = {}
    for key, resource in held.items():
        for name, (tokens, field) in _SEARCHABLE.items():
            for token in tokens(resource):
                value = token.get(field, "")
                for written in (value, f"{token.get('system', '')}|{value}"):
                    index.setdefault((key[0], name, written), set()).add(key)
    return index


def _search(held: _Held, index: _Index, resource_type: str, query: str) -> list[Resource]:
    """Return the resources of a type by ``identifier`` and ``_tag`` (``system|value`` or ``value``)."""
    matches = {key for key in held if key[0] == resource_type} if not query else None
    for name, token in parse_qsl(query, keep_blank_values=True):
        if name not in _SEARCHABLE:
            raise RefusedError(HTTPStatus.BAD_REQUEST, "not-supported", "search by identifier or _tag only")
        found = index.get((resource_type, name, token), set())
        matches = found if matches is None else matches & found
    return [held[key] for key in sorted(matches or ())]


def _identifiers(resource: Resource) -> list[Mapping[str, Any]]:
    """Return the resource's identifiers; a DocumentReference is found by its masterIdentifier too (R4 search)."""
    identifiers = resource.get("identifier", [])
    found = list(identifiers) if isinstance(identifiers, list) else [identifiers]
    return [*found, resource["masterIdentifier"]] if "masterIdentifier" in resource else found


def _tags(resource: Resource) -> list[Mapping[str, Any]]:
    return list(resource.get("meta", {}).get("tag", []))


#: Search parameters: where their tokens stand in a resource, and the field of the value.
_SEARCHABLE: dict[str, tuple[Callable[[Resource], list[Mapping[str, Any]]], str]] = {
    "identifier": (_identifiers, "value"),
    "_tag": (_tags, "code"),
}


def _resolved(value: Any, references: Mapping[str, str]) -> Any:
    """Return a copy in which references to the transaction's own entries name what they became."""
    if isinstance(value, list):
        return [_resolved(part, references) for part in value]
    if not isinstance(value, dict):
        return value
    resolved = {name: _resolved(part, references) for name, part in value.items()}
    target = value.get("reference")
    if isinstance(target, str):
        if target.startswith("urn:uuid:") and target not in references:
            raise RefusedError(HTTPStatus.BAD_REQUEST, "not-found", "a reference leads to no entry of the transaction")
        resolved["reference"] = references.get(target, target)
    return resolved


def _capabilities() -> Resource:
    return {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": "2025-01-01",
        "kind": "instance",
        "implementation": {"description": "Stand-in for an EHR: for demonstrations and tests of allpacs only"},
        "fhirVersion": "4.0.1",
        "format": ["json"],
        "rest": [{"mode": "server", "interaction": [{"code": "transaction"}]}],
    }


def _write(path: Path, resource: Resource) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}.part")
    draft.write_text(json.dumps(resource, ensure_ascii=False, indent=2), encoding="utf-8")
    draft.replace(path)


class _Handler(BaseHTTPRequestHandler):
    """HTTP around the endpoint."""

    owner: FhirEndpoint
    protocol_version = "HTTP/1.1"
    server_version = "allpacs-stand-in"

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        self._answer(lambda: self.owner.get(url.path, url.query))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(lambda: self._post(body))

    def _post(self, body: bytes) -> Resource:
        if urlsplit(self.path).path != "/":
            raise RefusedError(HTTPStatus.NOT_FOUND, "not-supported", "post transactions to the base address")
        if "json" not in self.headers.get("Content-Type", ""):
            raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "not-supported", "application/fhir+json only")
        try:
            bundle = json.loads(body)
        except ValueError:
            raise RefusedError(HTTPStatus.BAD_REQUEST, "structure", "not JSON") from None
        return self.owner.transaction(bundle)

    def _answer(self, act: Callable[[], Resource]) -> None:
        try:
            status, resource = HTTPStatus.OK, act()
        except RefusedError as refused:
            status, resource = refused.status, refused.outcome()
        content = json.dumps(resource, ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", _FHIR_JSON)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        """Log nothing: an address may hold an identifier."""
