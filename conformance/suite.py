"""The conformance suite: one study through one running allpacs among third parties, and everything asked of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

from allpacs.classify import aggregate
from allpacs.classify.bundle import load_bundle
from allpacs.domain.artefacts import Artefact, ArtefactKind
from allpacs.domain.findings import CellLabel
from allpacs.domain.review import CellReview, Decision, Review, Reviewer
from allpacs.report.context import ReportContext
from allpacs.settings import SHIPPED_BUNDLE
from allpacs.study.report_inputs import prior_report
from allpacs.study.signing import signed_results
from conformance import seeded
from conformance.checks import dcmtk, fhir, hl7v2, objects, round_trip, route, viewer
from conformance.hospital import MADE_AT, PeerHospital, crowded, drawn, headers, hospital, study
from conformance.outcome import Check, Outcome
from conformance.peers.programs import NODE_PACKAGES

#: Everything that was written and logged, kept until the next run.
RUN = NODE_PACKAGES / "run"


def main() -> int:
    """Run the suite, write what it found, print it; return the exit status."""
    outcome = Outcome()
    shutil.rmtree(RUN, ignore_errors=True)
    RUN.mkdir(parents=True)
    with hospital(RUN) as running:
        for checks in _all(running, outcome):
            outcome.add(checks)
    outcome.write()
    outcome.print()
    return 0 if outcome.passed else 1


def _all(hospital: PeerHospital, outcome: Outcome) -> Iterator[Iterator[Check]]:
    files = study(hospital.folder / "study", drawn(hospital.folder / "pictures"))
    study_uid = str(headers(files)[0].StudyInstanceUID)
    yield route.checks(hospital, files)
    with hospital.store() as store:
        artefacts = store.artefacts.get(study_uid, 1)
    if not artefacts:
        return  # the checks of the route say why; there is nothing to ask anybody else about
    sr = dcmtk.sr_of(artefacts)
    report = hospital.folder / "report.dcm"
    report.write_bytes(sr.content)
    bundle = next(one for one in artefacts if one.kind is ArtefactKind.FHIR)
    signed = _signed(hospital, files, sr)
    signed_report = hospital.folder / "signed.dcm"
    signed_report.write_bytes(signed[ArtefactKind.SR].content)
    made = {"signed structured report": signed_report, **_results(hospital, files)}
    yield objects.checks(made, files, hospital.folder)
    yield fhir.valid(bundle, sr.uid, "Bundle", hospital.folder)
    yield fhir.valid(signed[ArtefactKind.FHIR], signed[ArtefactKind.SR].uid, "signed Bundle", hospital.folder)
    yield fhir.capability_statement()
    yield hl7v2.checks(next(one for one in artefacts if one.kind is ArtefactKind.HL7V2))
    yield fhir.stored(hospital, bundle, study_uid, sr.uid)
    yield round_trip.checks(hospital, report, study_uid)
    many = study(hospital.folder / "crowded", crowded(hospital.folder / "crowded-pictures"))
    yield route.bulk_annotations(hospital, many)
    yield objects.checks(_results(hospital, many), many, hospital.folder)
    yield viewer.checks(hospital, report)
    yield fhir.signed(hospital, signed[ArtefactKind.FHIR], study_uid)
    yield seeded.checks(outcome, report, bundle.content, files, hospital.folder / "seeded")
    yield dcmtk.transfer_syntaxes(hospital, files[0])
    yield dcmtk.tls(hospital, files[0], sr)
    yield dcmtk.comprehensive(hospital, sr)


def _results(hospital: PeerHospital, files: Sequence[Path]) -> dict[str, Path]:
    """Return the DICOM results of a study as files, by names for the reader."""
    study_uid = str(headers(files)[0].StudyInstanceUID)
    with hospital.store() as store:
        found = [one for one in store.artefacts.get(study_uid, 1) if one.is_dicom]
    summary = any(one.kind is ArtefactKind.ANNOTATIONS for one in found)
    names: dict[str, str] = {ArtefactKind.SR: "summary report" if summary else "structured report"}
    suffix = " of many cells" if summary else ""
    named: dict[str, Path] = {}
    for artefact in found:
        name = f"{names.get(artefact.kind, str(artefact.kind).replace('-', ' '))}{suffix}"
        several = sum(one.startswith(name) for one in named)
        file = hospital.folder / artefact.file_name
        file.write_bytes(artefact.content)
        named[f"{name}, {several + 1}" if several else name] = file
    return named


def _signed(hospital: PeerHospital, files: Sequence[Path], sr: Artefact) -> dict[str, Artefact]:
    """Return what a person's signature under the study's findings makes: one cell accepted, one changed, one out."""
    sources = headers(files)
    study_uid = str(sources[0].StudyInstanceUID)
    with hospital.store() as store:
        instances = store.findings.get(study_uid, 1)
    findings = aggregate.study_findings(
        study_uid, 1, load_bundle(SHIPPED_BUNDLE).identity, "sha256:" + "0" * 64, instances
    )
    first, second, third, *_ = findings.cells
    other = CellLabel.HEM if second.label is CellLabel.ALL else CellLabel.ALL
    review = Review(
        Reviewer("Haddad^Layla", "Conformance PeerHospital", "lhaddad"),
        MADE_AT + timedelta(days=1),
        (
            CellReview(first.tracking_uid, Decision.ACCEPTED),
            CellReview(second.tracking_uid, Decision.RELABELLED, other, "Chromatin."),
            CellReview(third.tracking_uid, Decision.EXCLUDED),
        ),
        "Reviewed for the conformance suite.",
    )
    context = ReportContext(made_at=MADE_AT, predecessor=prior_report(sr), host_name="conformance")
    by_uid = {str(source.SOPInstanceUID): source for source in sources}
    return {one.kind: one for one in signed_results(findings, by_uid, context, review)}
