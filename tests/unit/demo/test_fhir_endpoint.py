from __future__ import annotations

import copy
import json
import threading

import httpx
import pytest

from allpacs.demo.fhir_endpoint import FhirEndpoint
from support.deliver_samples import bundle

FHIR_JSON = "application/fhir+json"


@pytest.fixture
def endpoint(tmp_path):
    with FhirEndpoint(tmp_path / "ehr") as running:
        yield running


@pytest.fixture
def client(endpoint):
    with httpx.Client(base_url=endpoint.base_url, trust_env=False) as open_client:
        yield open_client


def post(client, body, **kwargs):
    return client.post("/", content=json.dumps(body), headers={"Content-Type": FHIR_JSON}, **kwargs)


def statuses(answer):
    return [entry["response"]["status"] for entry in answer.json()["entry"]]


def test_capabilities(client):
    statement = client.get("/metadata").json()
    assert (statement["resourceType"], statement["fhirVersion"]) == ("CapabilityStatement", "4.0.1")
    assert "Stand-in" in statement["implementation"]["description"]


def test_a_transaction_is_kept_with_its_references_resolved(client, endpoint):
    answer = post(client, bundle())
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith(FHIR_JSON)
    assert answer.json()["type"] == "transaction-response"
    assert statuses(answer) == ["201 Created"] * 3
    (report,) = endpoint.resources("DiagnosticReport")
    (observation,) = endpoint.resources("Observation")
    (device,) = endpoint.resources("Device")
    assert report["result"] == [{"reference": f"Observation/{observation['id']}"}]
    assert observation["device"] == {"reference": f"Device/{device['id']}"}
    assert report["meta"]["versionId"] == "1"
    assert report["subject"]["display"] == "Zebedee Żółć"
    kept = json.loads(endpoint.path_of("DiagnosticReport", report["id"]).read_text(encoding="utf-8"))
    assert kept == report
    location = answer.json()["entry"][0]["response"]["location"]
    assert location == f"DiagnosticReport/{report['id']}/_history/1"


def test_the_same_transaction_again_changes_nothing(client, endpoint):
    post(client, bundle())
    before = endpoint.resources("DiagnosticReport")
    assert statuses(post(client, bundle())) == ["200 OK"] * 3
    assert endpoint.resources("DiagnosticReport") == before
    assert len(endpoint.resources("Device")) == 1


def test_another_content_is_a_new_version_of_the_same_report(client, endpoint):
    post(client, bundle("old"))
    (old,) = endpoint.resources("DiagnosticReport")
    assert statuses(post(client, bundle("new"))) == ["200 OK"] * 3
    (new,) = endpoint.resources("DiagnosticReport")
    assert (new["id"], new["meta"]["versionId"], new["conclusion"]) == (old["id"], "2", "new")
    assert endpoint.resources("Observation")[0]["meta"]["versionId"] == "1"


def test_a_conditional_create_does_not_update(client, endpoint):
    post(client, bundle())
    changed = bundle()
    changed["entry"][2]["resource"]["manufacturer"] = "other"
    post(client, changed)
    assert "manufacturer" not in endpoint.resources("Device")[0]


def _without_url(body):
    del body["entry"][1]["request"]["url"]


def _dangling(body):
    body["entry"][1]["resource"]["device"]["reference"] = "urn:uuid:00000000-0000-0000-0000-000000000000"


def _wrong_type(body):
    body["entry"][1]["request"]["url"] = "Patient?identifier=1"


def _twice(body):
    body["entry"].append(copy.deepcopy(body["entry"][0]))
    body["entry"][0]["request"]["url"] = body["entry"][3]["request"]["url"] = "DiagnosticReport/fixed"


def _unknown_search(body):
    body["entry"][1]["request"]["url"] = "Observation?status=final"


def _delete(body):
    body["entry"][1]["request"]["method"] = "DELETE"


def _path_out(body):
    body["entry"][1]["request"]["url"] = "Observation/..%2Fx"


def _batch(body):
    body["type"] = "batch"


@pytest.mark.parametrize(
    "spoil", [_without_url, _dangling, _wrong_type, _twice, _unknown_search, _delete, _path_out, _batch]
)
def test_a_wrong_entry_refuses_the_whole_transaction(client, endpoint, tmp_path, spoil):
    wrong = bundle()
    spoil(wrong)
    answer = post(client, wrong)
    assert answer.status_code == 400
    assert answer.json()["resourceType"] == "OperationOutcome"
    assert all(endpoint.resources(kind) == [] for kind in ("DiagnosticReport", "Observation", "Device"))
    assert list((tmp_path / "ehr").rglob("*.json")) == []


def test_a_condition_that_matches_several_is_refused(client, endpoint):
    for resource_id in "ab":
        body = bundle()
        body["entry"] = body["entry"][2:]
        body["entry"][0]["request"] = {"method": "PUT", "url": f"Device/{resource_id}"}
        assert statuses(post(client, body)) == ["201 Created"]
    answer = post(client, bundle())
    assert answer.status_code == 412
    assert answer.json()["issue"][0]["code"] == "multiple-matches"
    assert endpoint.resources("DiagnosticReport") == []


@pytest.mark.parametrize(
    ("content", "content_type", "path", "status"),
    [
        (b"{", FHIR_JSON, "/", 400),
        (b"[]", FHIR_JSON, "/", 400),
        (b"<Bundle/>", "application/fhir+xml", "/", 415),
        (b"{}", FHIR_JSON, "/DiagnosticReport", 404),
    ],
)
def test_other_posts_are_refused(client, content, content_type, path, status):
    answer = client.post(path, content=content, headers={"Content-Type": content_type})
    assert answer.status_code == status
    assert answer.json()["resourceType"] == "OperationOutcome"


def test_read_and_search(client, endpoint):
    post(client, bundle())
    (report,) = endpoint.resources("DiagnosticReport")
    assert client.get(f"/DiagnosticReport/{report['id']}").json() == report
    value = report["identifier"][0]["value"]
    for token, total in ((f"urn:dicom:uid|{value}", 1), (value, 1), (f"other|{value}", 0), (f"|{value}", 0), ("x", 0)):
        found = client.get("/DiagnosticReport", params={"identifier": token}).json()
        assert (found["type"], found["total"], len(found["entry"])) == ("searchset", total, total)
    assert client.get("/Observation").json()["total"] == 1
    assert client.get("/DiagnosticReport/none").status_code == 404
    assert client.get("/DiagnosticReport?status=final").status_code == 400
    assert client.get("/no/such/thing").status_code == 404


def test_a_document_is_found_by_its_master_identifier(client):
    identifier = {"system": "urn:ietf:rfc:3986", "value": "urn:oid:1.2.3"}
    entry = {
        "resource": {"resourceType": "DocumentReference", "masterIdentifier": identifier},
        "request": {"method": "PUT", "url": "DocumentReference?identifier=urn:ietf:rfc:3986|urn:oid:1.2.3"},
    }
    body = {"resourceType": "Bundle", "type": "transaction", "entry": [entry]}
    assert statuses(post(client, body)) == ["201 Created"]
    assert statuses(post(client, body)) == ["200 OK"]


def test_what_has_no_identifier_is_created_once_by_its_tag(client, endpoint):
    tag = {"system": "urn:example", "code": "sr-1"}
    entry = {
        "resource": {"resourceType": "Provenance", "meta": {"tag": [tag]}},
        "request": {"method": "POST", "url": "Provenance", "ifNoneExist": "_tag=urn:example|sr-1"},
    }
    body = {"resourceType": "Bundle", "type": "transaction", "entry": [entry]}
    assert statuses(post(client, body)) == ["201 Created"]
    assert statuses(post(client, body)) == ["200 OK"]
    (kept,) = endpoint.resources("Provenance")
    assert kept["meta"] == {"tag": [tag], "versionId": "1"}
    assert client.get("/Provenance", params={"_tag": "other|sr-1"}).json()["total"] == 0


def test_what_is_kept_is_there_after_a_restart(tmp_path):
    for version in ("1", "2"):
        with FhirEndpoint(tmp_path) as endpoint:
            endpoint.transaction(bundle(version))
            (report,) = endpoint.resources("DiagnosticReport")
            assert report["meta"]["versionId"] == version


def test_wait_for(endpoint):
    with pytest.raises(TimeoutError, match="0 of 1 DiagnosticReport"):
        endpoint.wait_for("DiagnosticReport", 0.05)
    later = threading.Timer(0.1, endpoint.transaction, [bundle("late")])
    later.start()
    (report,) = endpoint.wait_for("DiagnosticReport", 5, lambda resource: resource["conclusion"] == "late")
    assert report["status"] == "preliminary"
    later.join(10)


def test_only_this_machine_can_reach_it(endpoint):
    assert endpoint.base_url.startswith("http://127.0.0.1:")
    endpoint.stop()
    with pytest.raises(RuntimeError, match="not started"):
        _ = endpoint.base_url
