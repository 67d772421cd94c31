from __future__ import annotations

import contextlib
import gzip
import json
import threading
import time
import tracemalloc
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from allpacs.deliver.fhir_rest import FhirRestDestination
from allpacs.demo.fhir_endpoint import FhirEndpoint
from allpacs.domain.errors import ConfigFault, DeliveryRejected, DeliveryUnavailable
from conformance.support.network import free_port
from support.deliver_samples import bundle, fhir_artefact, html_artefact, http_server, leaks, tcp_server

FHIR_JSON = "application/fhir+json"
NOW = datetime(2025, 6, 1, 12, 0, 0, tzinfo=UTC)
OUTCOME = {
    "resourceType": "OperationOutcome",
    "issue": [
        {"severity": "error", "code": "invalid", "diagnostics": "Zebedee MRN-4711", "details": {"text": "Zebedee"}}
    ],
}


def respond(status=200, body=None, content_type=FHIR_JSON, **headers):
    """Return an answer of the misbehaving server: JSON, or bytes as they are."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    def answer(request, _body):
        request.send_response(status, "Zebedee")
        request.send_header("Content-Type", content_type)
        request.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(content)

    return answer


def transaction_response(*statuses, **kwargs):
    entries = [{"response": {"status": status, "outcome": OUTCOME}} for status in statuses]
    return respond(body={"resourceType": "Bundle", "type": "transaction-response", "entry": entries}, **kwargs)


def deliver_to(answer, timeout_s=10.0):
    with http_server(answer) as base_url:
        return FhirRestDestination(base_url, timeout_s=timeout_s, now=lambda: NOW).deliver([fhir_artefact()])


def fault_of(answer, kind, timeout_s=10.0):
    with pytest.raises(kind) as caught:
        deliver_to(answer, timeout_s)
    assert not leaks(str(caught.value))
    return caught.value


def test_every_entry_is_counted():
    receipt = deliver_to(transaction_response("200", "201 Created", "201 Zebedee"))
    assert receipt.detail == "200 OK x1, 201 Created x2"
    assert receipt.warning is None


def test_the_request_is_the_artefact_with_its_headers():
    seen = {}

    def answer(request, body):
        seen.update(body=body, path=request.path, method=request.command, **request.headers)
        transaction_response("200", "200", "200")(request, body)

    with http_server(answer) as base_url:
        destination = FhirRestDestination(f"{base_url}/fhir/R4/", headers={"X-Site": "lab"}, bearer_token="t0ken")  # noqa: S106
        destination.deliver([html_artefact(), fhir_artefact()])
    assert seen["body"] == fhir_artefact().content
    assert (seen["method"], seen["path"]) == ("POST", "/fhir/R4")
    assert seen["Content-Type"].startswith(FHIR_JSON)
    assert seen["Accept"] == FHIR_JSON
    assert (seen["X-Site"], seen["Authorization"]) == ("lab", "Bearer t0ken")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 412, 413, 415, 422, 301, 307])
def test_permanent_answers_are_rejected(status):
    fault = fault_of(respond(status, OUTCOME), DeliveryRejected)
    assert str(status) in str(fault)
    assert "(error/invalid)" in str(fault)


def test_wrong_credentials_say_what_to_do():
    assert "bearer token" in str(fault_of(respond(401, OUTCOME), DeliveryRejected))


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_passing_answers_are_unavailable(status):
    fault = fault_of(respond(status, b"<h1>Zebedee</h1>", "text/html"), DeliveryUnavailable)
    assert fault.retry_after_s is None


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120.0),
        (" 0 ", 0.0),
        ("Sun, 01 Jun 2025 12:01:30 GMT", 90.0),
        ("Sun, 01 Jun 2025 11:00:00 GMT", 0.0),
        ("soon", None),
        ("-5", None),
        ("", None),
    ],
)
def test_retry_after_in_seconds_or_as_a_date(header, seconds):
    fault = fault_of(respond(429, OUTCOME, Retry_After=header), DeliveryUnavailable)
    assert fault.retry_after_s == seconds


def test_a_transaction_that_was_only_half_done_is_rejected():
    fault = fault_of(transaction_response("201 Created", "400 Zebedee", "201 Created"), DeliveryRejected)
    assert "entry 2 (Observation): 400 Bad Request (error/invalid)" in str(fault)


def test_an_entry_that_may_pass_is_tried_again_unless_another_cannot():
    fault = fault_of(transaction_response("201", "503", "201"), DeliveryUnavailable)
    assert "entry 2 (Observation): 503" in str(fault)
    fault_of(transaction_response("201", "503", "422"), DeliveryRejected)


@pytest.mark.parametrize("status", ["", "Zebedee", "2000", "20", "302 Found", "Found", None, True, ["200"], {}])
def test_an_entry_without_a_success_status_is_rejected(status):
    fault_of(transaction_response("201", status, "201"), DeliveryRejected)


@pytest.mark.parametrize("statuses", [(), ("201",), ("201",) * 4])
def test_another_number_of_entries_is_rejected(statuses):
    assert f"{len(statuses)} of 3 entries" in str(fault_of(transaction_response(*statuses), DeliveryRejected))


@pytest.mark.parametrize(
    "body",
    [
        OUTCOME,
        {"resourceType": "Bundle", "type": "transaction-response"},
        {"resourceType": "Bundle", "type": "transaction-response", "entry": {"response": {}}},
        {"resourceType": "Bundle", "type": "transaction-response", "entry": ["Zebedee"] * 3},
        {"resourceType": "Patient", "name": "Zebedee"},
        ["Zebedee"],
        None,
    ],
)
def test_success_with_something_else_than_a_transaction_response_is_rejected(body):
    fault_of(respond(200, body), DeliveryRejected)


def test_a_transaction_processed_as_a_batch_is_rejected():
    entries = [{"response": {"status": "200"}}] * 3
    answer = respond(200, {"resourceType": "Bundle", "type": "batch-response", "entry": entries})
    assert "as a batch" in str(fault_of(answer, DeliveryRejected))


@pytest.mark.parametrize(
    ("statuses", "detail"),
    [
        (("200", 201, " 201"), "200 OK x1, 201 Created x2"),
        (("OK", "Created", "created"), "200 OK x1, 201 Created x2"),
        (("NoContent", "No Content", "204"), "204 No Content x3"),
        (("304 Not Modified", "NotModified", "201"), "201 Created x1, 304 Not Modified x2"),
    ],
)
def test_the_status_of_an_entry_may_be_its_number_or_its_phrase(statuses, detail):
    assert deliver_to(transaction_response(*statuses)).detail == detail


def metadata_and(answer, statement=None):
    """Answer GET with a CapabilityStatement, and POST as told."""
    statement = statement or {"resourceType": "CapabilityStatement", "fhirVersion": "4.0.1"}
    return lambda request, body: (respond(body=statement) if request.command == "GET" else answer)(request, body)


GOOD_OUTCOME = {"resourceType": "OperationOutcome", "issue": [{"severity": "information", "code": "informational"}]}


@pytest.mark.parametrize(
    "answer", [respond(204, b""), respond(200, b""), respond(200, b" \r\n"), respond(200, GOOD_OUTCOME)]
)
def test_a_fhir_server_that_lists_no_entries_has_taken_the_transaction(answer):
    receipt = deliver_to(metadata_and(answer))
    assert receipt.detail == "1 transaction(s) confirmed as a whole"
    assert "does not list" in receipt.warning


@pytest.mark.parametrize("answer", [respond(204, b""), respond(200, b""), respond(200, GOOD_OUTCOME)])
def test_what_is_no_fhir_server_has_taken_nothing(answer):
    fault_of(metadata_and(answer, {"swagger": "2.0"}), DeliveryUnavailable)


def test_accepted_for_later_is_for_a_person():
    answer = metadata_and(respond(202, b"", Content_Location="http://127.0.0.1/status/1"))
    assert "asynchronous" in str(fault_of(answer, DeliveryRejected))


def outcome(*codes, severity="error"):
    return {"resourceType": "OperationOutcome", "issue": [{"severity": severity, "code": code} for code in codes]}


CONFLICTS = [
    respond(409, b""),
    respond(409, outcome("conflict")),
    respond(409, outcome("duplicate")),
    respond(423, outcome("lock-error")),
    respond(412, outcome("conflict")),
    respond(400, outcome("lock-error", "conflict")),
    respond(400, outcome("transient")),
    respond(200, outcome("lock-error")),
    transaction_response("201", "409 Conflict", "503"),
    transaction_response("201", "Conflict", "201"),
    transaction_response("423", "201", "201"),
]


@pytest.mark.parametrize("answer", CONFLICTS)
def test_a_conflict_is_tried_again_and_given_up_when_it_stays(answer):
    with http_server(answer) as base_url:
        destination = FhirRestDestination(base_url)
        for _ in range(2):  # once it was given up, a person may have it sent again
            for _ in range(9):
                with pytest.raises(DeliveryUnavailable):
                    destination.deliver([fhir_artefact()])
            with pytest.raises(DeliveryRejected, match="10 times in a row"):
                destination.deliver([fhir_artefact()])


def test_conflicts_of_different_reports_and_around_an_outage_are_not_added_up():
    answers = iter([*[CONFLICTS[0]] * 9, respond(503, b""), *[CONFLICTS[0]] * 12])
    with http_server(lambda request, body: next(answers)(request, body)) as base_url:
        destination = FhirRestDestination(base_url)
        for _ in range(16):
            with pytest.raises(DeliveryUnavailable):
                destination.deliver([fhir_artefact()])
        for _ in range(6):
            with pytest.raises(DeliveryUnavailable):
                destination.deliver([fhir_artefact("another report")])


def test_a_conflict_says_when_to_come_back():
    assert fault_of(respond(409, OUTCOME, Retry_After="4"), DeliveryUnavailable).retry_after_s == 4.0


@pytest.mark.parametrize(
    "answer",
    [
        respond(412, outcome("multiple-matches")),
        respond(412, outcome("conflict", severity="warning")),
        respond(400, outcome("lock-error", "invalid")),
        respond(422, outcome("processing")),
        respond(403, outcome("exception")),
        respond(200, outcome("processing")),
        transaction_response("409", "422", "201"),
    ],
)
def test_what_no_attempt_changes_is_no_conflict(answer):
    fault_of(answer, DeliveryRejected)


def device_bundle(version="1"):
    """Return the sample with its Device as a conditional update, as an artefact; and the condition."""
    content = bundle()
    entry = content["entry"][2]
    condition = entry["request"]["ifNoneExist"]
    entry["request"] = {"method": "PUT", "url": f"Device?{condition}"}
    entry["resource"]["version"] = [{"value": version}]
    return replace(fhir_artefact(), content=json.dumps(content, ensure_ascii=False).encode()), condition


def test_a_device_that_the_server_has_is_not_written_again(tmp_path):
    posted = []
    with FhirEndpoint(tmp_path) as endpoint:

        def answer(request, body):
            posted.append(json.loads(body))
            respond(body=endpoint.transaction(posted[-1]))(request, body)

        with http_server(answer) as base_url:
            destination = FhirRestDestination(base_url)
            (old, condition), (new, _) = device_bundle("1"), device_bundle("2")
            for artefact in (old, old, new, new):
                assert destination.deliver([artefact]).warning is None
        requests = [entries["entry"][2]["request"] for entries in posted]
        update = {"method": "PUT", "url": f"Device?{condition}"}
        create = {"method": "POST", "url": "Device", "ifNoneExist": condition}
        assert requests == [update, create, update, create]
        (device,) = endpoint.resources("Device")
        assert device["version"] == [{"value": "2"}]
        (observation,) = endpoint.resources("Observation")
        assert observation["device"]["reference"] == f"Device/{device['id']}"


def test_a_device_of_a_transaction_that_failed_is_written_again():
    posted = []
    answers = iter([respond(409, b""), transaction_response("201", "503", "201"), transaction_response(*["201"] * 3)])

    def answer(request, body):
        posted.append(json.loads(body)["entry"][2]["request"]["method"])
        next(answers)(request, body)

    with http_server(answer) as base_url:
        destination = FhirRestDestination(base_url)
        for _ in range(2):
            with pytest.raises(DeliveryUnavailable):
                destination.deliver([device_bundle()[0]])
        destination.deliver([device_bundle()[0]])
    assert posted == ["PUT"] * 3


def test_transactions_that_share_a_device_stop_conflicting(tmp_path):
    """A server that refuses two transactions which write one resource at the same time takes both in the end."""
    with FhirEndpoint(tmp_path) as endpoint:
        writing, lock, together = Counter(), threading.Lock(), threading.Barrier(2)

        def answer(request, body):
            transaction = json.loads(body)
            written = transaction["entry"][2]["request"]["method"] == "PUT"
            with lock:
                writing["device"] += written
                refused = written and writing["device"] == 2
            respond(409, b"")(request, body) if refused else respond(body=endpoint.transaction(transaction))(
                request, body
            )

        def send(destination):
            together.wait(10)
            try:
                destination.deliver([device_bundle()[0]])
            except DeliveryUnavailable:
                destination.deliver([device_bundle()[0]])
            return destination.deliver([device_bundle()[0]]).detail

        with http_server(answer) as base_url, ThreadPoolExecutor(2) as pool:
            details = list(pool.map(send, [FhirRestDestination(base_url) for _ in range(2)]))
    assert details == ["200 OK x3"] * 2
    assert writing["device"] == 3, "each sender writes it once, one of them again after the conflict"


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "deflate"])
def test_a_compressed_answer_is_read(coding):
    content = json.dumps(
        {"resourceType": "Bundle", "type": "transaction-response", "entry": [{"response": {"status": "201"}}] * 3}
    ).encode()
    packed = zlib.compress(content) if coding == "deflate" else gzip.compress(content)
    assert deliver_to(respond(body=packed, Content_Encoding=coding)).detail == "201 Created x3"
    fault_of(respond(body=packed[:-9], Content_Encoding=coding), DeliveryUnavailable)
    fault_of(respond(body=content, Content_Encoding=coding), DeliveryUnavailable)


def test_an_encoding_that_was_not_offered_is_not_unpacked():
    fault = fault_of(respond(body=b"\x0b\x02\x80{}\x03", Content_Encoding="br"), DeliveryUnavailable)
    assert "not offered" in str(fault)


def gzip_bomb(megabytes):
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    start = packer.compress(b'{"resourceType": "Bundle", "type": "transaction-response", "x": "')
    return start + b"".join(packer.compress(b"a" * 2**20) for _ in range(megabytes)) + packer.flush()


def endless(request, _body):
    request.send_response(200)
    request.send_header("Content-Type", FHIR_JSON)
    request.end_headers()
    with contextlib.suppress(OSError):
        while True:
            request.wfile.write(b"a" * 2**20)


@pytest.mark.parametrize("bomb", [True, False])
def test_an_answer_without_end_is_not_taken_into_memory(bomb):
    answer = respond(body=gzip_bomb(256), Content_Encoding="gzip") if bomb else endless
    tracemalloc.start()
    try:
        fault = fault_of(answer, DeliveryRejected)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "more than 4 MiB" in str(fault)
    assert peak_bytes < 64 * 2**20


def test_an_error_with_a_bomb_is_judged_by_its_status():
    fault_of(respond(503, gzip_bomb(64), Content_Encoding="gzip"), DeliveryUnavailable)
    fault_of(respond(422, gzip_bomb(64), Content_Encoding="gzip"), DeliveryRejected)


def test_a_large_report_may_be_answered_with_all_of_it():
    """A server that returns every resource answers with more than it was sent."""
    response = {"response": {"status": "200"}, "resource": {"text": "a" * 3_000_000}}
    answer = respond(body={"resourceType": "Bundle", "type": "transaction-response", "entry": [response] * 3})
    with http_server(answer) as base_url:
        assert FhirRestDestination(base_url).deliver([fhir_artefact("a" * 6_000_000)]).detail == "200 OK x3"


def trickle(start, step):
    """Send the start, and then a step every 50 ms without end: never silent for long."""

    def talk(connection):
        connection.recv(65536)
        connection.sendall(start)
        with contextlib.suppress(OSError):
            while True:
                time.sleep(0.05)
                connection.sendall(step)

    return talk


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nX-Header: ",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/fhir+json\r\nContent-Length: 1000000\r\n\r\n",
        b"HTTP/1.1 409 Conflict\r\nContent-Type: application/fhir+json\r\n\r\n",
    ],
)
def test_a_server_that_trickles_is_left_in_time(start):
    started = time.monotonic()
    with tcp_server(trickle(start, b" " if start else b"\r\n")) as port:
        with pytest.raises(DeliveryUnavailable, match=r"127\.0\.0\.1"):
            FhirRestDestination(f"http://127.0.0.1:{port}", timeout_s=1).deliver([fhir_artefact()])
        with pytest.raises(DeliveryUnavailable):
            FhirRestDestination(f"http://127.0.0.1:{port}", timeout_s=1).check()
    assert time.monotonic() - started < 10


def test_a_log_in_page_is_rejected():
    fault = fault_of(respond(200, b"<html>Zebedee, please log in</html>", "text/html"), DeliveryRejected)
    assert "check the base address" in str(fault)


@pytest.mark.parametrize("body", [b'{"resourceType": "Bun', b"[" * 200_000, b"\xff\xfe"])
def test_broken_json_is_tried_again(body):
    fault_of(respond(200, body), DeliveryUnavailable)


def test_no_answer_in_time():
    started = time.monotonic()
    fault = fault_of(lambda _request, _body: time.sleep(1.5), DeliveryUnavailable, timeout_s=0.3)
    assert "no answer within 0.3 s" in str(fault)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("answer", [b"", b"Zebedee\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n{"])
def test_a_connection_that_breaks_is_tried_again(answer):
    def talk(connection):
        connection.recv(65536)
        connection.sendall(answer)

    with tcp_server(talk) as port, pytest.raises(DeliveryUnavailable, match="connection lost") as caught:
        FhirRestDestination(f"http://127.0.0.1:{port}").deliver([fhir_artefact()])
    assert not leaks(str(caught.value))


def test_connection_refused_names_the_server_without_credentials():
    port = free_port()
    destination = FhirRestDestination(f"http://user:geheim@127.0.0.1:{port}/fhir?key=geheim")
    with pytest.raises(DeliveryUnavailable, match=f"127.0.0.1:{port}/fhir: no connection") as caught:
        destination.deliver([fhir_artefact()])
    assert "geheim" not in str(caught.value)


def test_an_answer_lost_after_the_commit_leaves_one_report(tmp_path):
    with FhirEndpoint(tmp_path) as endpoint:

        def commit_then_hang_up(request, body):
            endpoint.transaction(json.loads(body))
            request.close_connection = True

        with http_server(commit_then_hang_up) as base_url, pytest.raises(DeliveryUnavailable):
            FhirRestDestination(base_url).deliver([fhir_artefact()])
        receipt = FhirRestDestination(endpoint.base_url).deliver([fhir_artefact()])
        assert receipt.detail == "200 OK x3"
        (report,) = endpoint.resources("DiagnosticReport")
        assert report["meta"]["versionId"] == "1"
        assert len(endpoint.resources("Device")) == len(endpoint.resources("Observation")) == 1


@pytest.mark.parametrize(
    "content", [b"", b"Zebedee", b"[]", b"{}", json.dumps(bundle() | {"type": "batch"}).encode(), b'{"entry": 1}']
)
def test_an_artefact_that_is_no_transaction_is_rejected_before_any_connection(content):
    destination = FhirRestDestination(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(DeliveryRejected, match="not a FHIR transaction") as caught:
        destination.deliver([replace(fhir_artefact(), content=content)])
    assert not leaks(str(caught.value))


@pytest.mark.parametrize(
    "base_url", ["fhir.example.org", "ftp://host/fhir", "http://", "http://host:port", "", "http://[::1"]
)
def test_a_wrong_address_is_the_operators_fault(base_url):
    with pytest.raises(ConfigFault, match="base_url"):
        FhirRestDestination(base_url)


def test_proxy_variables_are_not_looked_at(tmp_path, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    with FhirEndpoint(tmp_path) as endpoint:
        FhirRestDestination(endpoint.base_url).deliver([fhir_artefact()])


def test_check(tmp_path):
    with FhirEndpoint(tmp_path) as endpoint:
        assert FhirRestDestination(endpoint.base_url).check().startswith("FHIR R4 server at 127.0.0.1:")


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (respond(401, OUTCOME), "bearer token"),
        (respond(200, OUTCOME), "no CapabilityStatement"),
        (respond(200, {"resourceType": "CapabilityStatement", "fhirVersion": "3.0.2"}), "R4"),
        (respond(200, {"resourceType": "CapabilityStatement"}), "R4"),
        (respond(503, b""), "503"),
    ],
)
def test_check_says_what_is_wrong(answer, text):
    with http_server(answer) as base_url, pytest.raises(DeliveryUnavailable, match=text):
        FhirRestDestination(base_url).check()
