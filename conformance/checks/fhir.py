"""The EHR takes the report, twice, and holds one; validators of R4 find nothing wrong with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from allpacs.deliver.fhir_rest import FhirRestDestination
from allpacs.domain.artefacts import Artefact
from allpacs.domain.identity import derive_uid
from conformance.hospital import PATIENT, PeerHospital
from conformance.judges import fhir_validators, own_bundle
from conformance.outcome import Check
from conformance.peers.fhir_server import medplum_version, validated

CAPABILITY_STATEMENT = Path(__file__).parents[1] / "capability-statement.json"


def valid(bundle: Artefact, sr_uid: str, what: str, folder: Path) -> Iterator[Check]:
    """Judge one Bundle."""
    content = json.loads(bundle.content)
    file = folder / bundle.file_name
    file.write_bytes(bundle.content)
    judged = (
        ("pyrofile", fhir_validators.pyrofile_version(), fhir_validators.pyrofile(file)[file]),
        ("medplum", medplum_version(), validated(file)[file]),
        ("fhirkit", version("fhirkit-rs"), fhir_validators.fhirkit_rs(content)),
    )
    for name, release, faults in judged:
        yield Check(name, release, f"finds the {what} valid R4 (4.0.1)", tuple(faults))
    yield Check("own", "", f"the {what} is complete to the check-list", tuple(own_bundle.faults(content, sr_uid)))


def capability_statement() -> Iterator[Check]:
    """Judge the statement of what a server needs to offer."""
    content = json.loads(CAPABILITY_STATEMENT.read_text(encoding="utf-8"))
    for name, release, faults in (
        (
            "pyrofile",
            fhir_validators.pyrofile_version(),
            fhir_validators.pyrofile(CAPABILITY_STATEMENT)[CAPABILITY_STATEMENT],
        ),
        ("medplum", medplum_version(), validated(CAPABILITY_STATEMENT)[CAPABILITY_STATEMENT]),
        ("fhirkit", version("fhirkit-rs"), fhir_validators.fhirkit_rs(content)),
    ):
        yield Check(name, release, "finds the CapabilityStatement valid R4 (4.0.1)", tuple(faults))


def stored(hospital: PeerHospital, bundle: Artefact, study_uid: str, sr_uid: str) -> Iterator[Check]:
    """Ask the EHR, which has the report from allpacs already, and send it once more."""
    ehr = hospital.ehr

    def check(what: str, *faults: str) -> Check:
        return Check("medplum", medplum_version(), what, tuple(fault for fault in faults if fault))

    before = {kind: len(ehr.search(kind)) for kind in _kinds(bundle)}
    receipt = FhirRestDestination(ehr.base_url).deliver([bundle])
    after = {kind: len(ehr.search(kind)) for kind in _kinds(bundle)}
    yield check(
        "takes the transaction twice and holds one report",
        "" if before == after and after["DiagnosticReport"] == 1 else f"{before} became {after}",
        "" if "201" not in receipt.detail else f"created again: {receipt.detail}",
    )
    identifier = f"urn:oid:{derive_uid('diagnostic-report', study_uid)}"
    searches: dict[str, tuple[str, dict[str, str]]] = {
        "its own identifier": ("DiagnosticReport", {"identifier": f"urn:ietf:rfc:3986|{identifier}"}),
        "accession number": ("DiagnosticReport", {"accession": PATIENT.accession_number}),
        "patient": ("DiagnosticReport", {"patient-identifier": PATIENT.patient_id}),
        "SOP Instance UID of the structured report": ("DocumentReference", {"identifier": f"urn:oid:{sr_uid}"}),
    }
    for by, (kind, parameters) in searches.items():
        found = ehr.search(kind, **parameters)
        yield check(f"finds the report by {by}", "" if len(found) == 1 else f"{len(found)} found")
    nothing = ehr.search("DiagnosticReport", accession="somebody-else's")
    yield check("finds no report by another accession number", "" if not nothing else f"{len(nothing)} found")


def signed(hospital: PeerHospital, bundle: Artefact, study_uid: str) -> Iterator[Check]:
    """Send the report that a person signed: it takes the place of the preliminary one."""
    FhirRestDestination(hospital.ehr.base_url).deliver([bundle])
    identifier = f"urn:oid:{derive_uid('diagnostic-report', study_uid)}"
    reports = hospital.ehr.search("DiagnosticReport", identifier=f"urn:ietf:rfc:3986|{identifier}")
    states = [one["status"] for one in reports]
    yield Check(
        "medplum", medplum_version(), "holds one report, final, after a person signed",
        () if states == ["final"] else (f"reports: {states}",),
    )  # fmt: skip


def _kinds(bundle: Artefact) -> set[str]:
    return {entry["resource"]["resourceType"] for entry in json.loads(bundle.content)["entry"]}
