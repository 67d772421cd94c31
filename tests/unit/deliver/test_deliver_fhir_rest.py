from __future__ import annotations

import gzip
import json
import time
import tracemalloc
import zlib
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from allpacs.deliver.fhir_rest import FhirRestDestination
from allpacs.deliver.retry import DeadLetter, RetryAfter, RetryPolicy, decide
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


@pytest.mark.parametrize("status", [409, 423])
def test_a_conflict_is_tried_again_but_not_for_ever(status):
    for fault in (
        fault_of(respond(status, OUTCOME), DeliveryUnavailable),
        fault_of(transaction_response("200", f"{status} Zebedee", "201"), DeliveryUnavailable),
    ):
        assert str(status) in str(fault)
        assert isinstance(decide(fault, 9, RetryPolicy(), 0.5), RetryAfter)
        assert isinstance(decide(fault, 10, RetryPolicy(), 0.5), DeadLetter)


def test_an_entry_that_is_away_is_tried_again_without_limit():
    fault = fault_of(transaction_response("409", "503", "201"), DeliveryUnavailable)
    assert isinstance(decide(fault, 1000, RetryPolicy(), 0.5), RetryAfter)


@pytest.mark.parametrize("status", ["Created", "OK", 201, "304 Not Modified", "No Content"])
def test_entry_statuses_in_other_forms_count_as_success(status):
    deliver_to(transaction_response(status, "200 OK", "201"))


@pytest.mark.parametrize(("status", "body"), [(200, b""), (201, b""), (204, b""), (200, b" \n")])
def test_success_without_a_body_is_delivered(status, body):
    assert deliver_to(respond(status, body)).detail == "204 No Content x3"


def test_accepted_but_not_processed_is_tried_again():
    fault = fault_of(respond(202, b"", Content_Location="http://127.0.0.1:1/status/1"), DeliveryUnavailable)
    assert "202" in str(fault)


def test_a_batch_response_says_that_no_transaction_took_place():
    body = {"resourceType": "Bundle", "type": "batch-response", "entry": [{"response": {"status": "201"}}] * 3}
    assert "look up what it stored" in str(fault_of(respond(body=body), DeliveryRejected))


def test_a_byte_order_mark_and_compression_are_read():
    entries = [{"response": {"status": "201"}}] * 3
    body = json.dumps({"resourceType": "Bundle", "type": "transaction-response", "entry": entries}).encode()
    deliver_to(respond(body=b"\xef\xbb\xbf" + body))
    deliver_to(respond(body=gzip.compress(body), Content_Encoding="gzip"))
    deliver_to(respond(body=zlib.compress(body), Content_Encoding="deflate"))


def test_an_answer_that_inflates_without_end_is_left():
    bomb = gzip.compress(bytes(300_000_000), compresslevel=9)
    tracemalloc.start()
    try:
        fault = fault_of(respond(body=bomb, Content_Encoding="gzip"), DeliveryUnavailable)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "more than 20 MB" in str(fault)
    assert most < 80_000_000


@pytest.mark.parametrize("part", ["headers", "body"])
def test_an_answer_that_trickles_is_left_in_time(part):
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/fhir+json\r\nContent-Length: 100000\r\n"

    def talk(connection):
        read_request(connection)
        with suppress(OSError):
            connection.sendall(head if part == "headers" else head + b"\r\n")
            while True:
                connection.sendall(b"X-A: b\r\n" if part == "headers" else b" ")
                time.sleep(0.05)

    began = time.monotonic()
    with tcp_server(talk) as port, pytest.raises(DeliveryUnavailable, match="no answer within 1 s"):
        FhirRestDestination(f"http://127.0.0.1:{port}", timeout_s=1.0).deliver([fhir_artefact()])
    assert time.monotonic() - began < 10


def read_request(connection):
    """Read until the request's body has come; the artefact is small."""
    received = b""
    while b"\r\n\r\n" not in received or not received.rstrip().endswith(b"}"):
        received += connection.recv(65536)


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


@pytest.mark.parametrize("status", ["", "2000", "20", "302 Found", None])
def test_an_entry_without_a_success_status_is_rejected(status):
    fault_of(transaction_response("201", status, "201"), DeliveryRejected)


@pytest.mark.parametrize("statuses", [(), ("201",), ("201",) * 4])
def test_another_number_of_entries_is_rejected(statuses):
    assert f"{len(statuses)} of 3 entries" in str(fault_of(transaction_response(*statuses), DeliveryRejected))


@pytest.mark.parametrize(
    "body",
    [
        OUTCOME,
        {"resourceType": "Bundle", "type": "batch-response", "entry": [{"response": {"status": "200"}}] * 3},
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
