"""``allpacs demo``: the whole plugin, real processes and associations, between stand-ins for PACS and EHR."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.table import Table

from allpacs.app import make_pipeline
from allpacs.commands.classify_files import cell_columns
from allpacs.commands.files import dicom_files, image_files, is_dicom
from allpacs.commands.progress import counted, tracked
from allpacs.deliver.c_store import SentFile, echo, send_files
from allpacs.demo.archive import Archive
from allpacs.demo.fhir_endpoint import FhirEndpoint
from allpacs.domain.artefacts import ArtefactKind
from allpacs.domain.errors import AllpacsError, DeliveryRejected, DeliveryUnavailable, InputFault
from allpacs.domain.findings import CellFinding, CellLabel, InstanceFindings
from allpacs.settings import ENV_PREFIX, Settings, load_settings
from allpacs.store.records import RevisionState
from allpacs.store.store import Store

_AE_TITLE = "ALLPACS"
_SENDER = "MICROSCOPE"
#: Cells that are drawn where no images are given: half of them as blasts are, half as hematogones.
_SYNTHETIC_CELLS = 12
_ROWS_SHOWN = 40
#: Comprehensive 3D SR and Comprehensive SR Storage: the PACS gets other results, too.
_STRUCTURED_REPORTS = ("1.2.840.10008.5.1.4.1.1.88.34", "1.2.840.10008.5.1.4.1.1.88.33")
_SETTLED = {RevisionState.DELIVERED, RevisionState.ATTENTION}


class DemoFailed(AllpacsError):
    """The demo did not come to its end; the message says where to look."""


def run_demo(images: Path | None, out: Path, *, timeout_s: float, keep_open: bool = False) -> dict[str, Any]:
    """Send a study through the plugin, print what came of it, write ``summary.json``, and return the summary.

    Parameters
    ----------
    images:
        Folder of pictures (imported as one study) or of DICOM files (sent as they are); None: synthetic cells.
    out:
        Folder for everything that is written: the study, the plugin's store, what PACS and EHR received.
    timeout_s:
        Longest wait for the plugin to start, and for the results to arrive.
    keep_open:
        Go on with the review console until Ctrl-C, so that a person can review the study and sign it off; the summary
        is then of what had come by that time.

    Raises
    ------
    InputFault
        There are no images in the folder, or none that the plugin takes.
    DemoFailed
        Results did not arrive in time or were refused.
    """
    started = time.monotonic()
    console = Console()
    _forget_settings()
    # A demo of its own each time: what earlier ones wrote stays beside it.
    folder = out.resolve() / datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")[:-3]
    folder.mkdir(parents=True)
    with Archive(folder / "pacs", "PACS") as pacs, FhirEndpoint(folder / "ehr") as ehr:
        config = folder / "allpacs.toml"
        port = _free_port()
        config.write_text(_configuration(folder, port, pacs.port, ehr.base_url, keep_open), encoding="utf-8")
        make_pipeline(load_settings(config))  # a bundle that cannot be used is better said now than waited for
        with _plugin(config, folder / "allpacs.log") as plugin:
            study, expected = _study(images, folder)
            _wait_for_echo(port, plugin, timeout_s)
            files = dicom_files([study])
            with counted("sending", len(files)) as advance:
                sent = send_files(files, "127.0.0.1", port, _AE_TITLE, _SENDER, lambda _: advance())
            _tell_refused(console, sent)
            store = Store.open(load_settings(config).store.folder)
            _wait_until_settled(store, plugin, timeout_s, folder / "allpacs.log")
            seconds = time.monotonic() - started
            if keep_open:
                _print_cells(console, _findings(store), expected)
                _review(console, load_settings(config), store, plugin)
        findings = _findings(store)
        summary = _summary(store, pacs, ehr, folder, seconds) | _as_expected(findings, expected)
        store.close()
    text = json.dumps(summary, indent=2) + "\n"
    (folder / "summary.json").write_text(text, encoding="utf-8")
    (out / "summary.json").write_text(text, encoding="utf-8")
    if not keep_open:
        _print_cells(console, findings, expected)
    _print_places(console, summary, out / "summary.json")
    if not keep_open:
        console.print("To review the study and sign it off: allpacs demo --keep-open", highlight=False)
    return summary


def _findings(store: Store) -> dict[str, list[InstanceFindings]]:
    return {row.study_uid: store.findings.get(row.study_uid, row.revision) for row in store.studies.latest()}


def _review(console: Console, settings: Settings, store: Store, plugin: subprocess.Popen[bytes]) -> None:
    """Say where the review console is, and follow what is signed there until Ctrl-C."""
    from allpacs.console.server import address

    console.print(f"\n[bold]Review console:[/bold] {address(settings)}", highlight=False, soft_wrap=True)
    console.print("Open it, review the cells, sign off. Ctrl-C ends the demo.", highlight=False)
    told: set[tuple[str, int]] = set()
    try:
        while plugin.poll() is None:
            for row in store.studies.latest():
                review = store.reviews.made(row.study_uid, row.revision)
                if review is not None and row.state in _SETTLED and (row.study_uid, row.revision) not in told:
                    told.add((row.study_uid, row.revision))
                    console.print(f"signed by {review.signed_by}: verified SR and final FHIR report delivered")
            time.sleep(0.5)
    except KeyboardInterrupt:
        console.print()


def _configuration(folder: Path, port: int, pacs_port: int, fhir_url: str, with_console: bool) -> str:
    return f"""# Written by `allpacs demo`: the plugin between stand-ins for a PACS and an EHR.
[receive]
port = {port}
ae_title = "{_AE_TITLE}"
min_free_mb = 100

[receive.sources.{_SENDER}]
close_on_release = true

[store]
folder = {json.dumps(str(folder / "store"))}

[console]
enabled = {json.dumps(with_console)}
port = {_free_port()}
reviewer_name = "Reviewer^Demo"
organisation = "Demonstration"

[log]
format = "json"

[destinations.pacs]
kind = "c_store"
host = "127.0.0.1"
port = {pacs_port}
called_ae = "PACS"

[destinations.ehr]
kind = "fhir"
base_url = "{fhir_url}"

[destinations.results]
kind = "folder"
folder = {json.dumps(str(folder / "results"))}
"""


def _forget_settings() -> None:
    """Leave the environment's settings out, which would have the last word over the demo's; but for the model's."""
    for name in [one for one in os.environ if one.startswith(ENV_PREFIX) and "__" in one]:
        if not name.startswith(f"{ENV_PREFIX}MODEL__"):
            del os.environ[name]


@contextmanager
def _plugin(config: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``allpacs serve`` while the block runs; its log goes to a file."""
    with log.open("wb") as stream:
        process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", "allpacs", "serve", "--config", str(config)],
            stderr=stream,
            stdout=stream,
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def _study(images: Path | None, folder: Path) -> tuple[Path, dict[str, CellLabel]]:
    """Return a folder of DICOM files, those given or images made into a study; and what each drawn cell was drawn as.

    The second is by SOP Instance UID, and empty unless the cells are synthetic.
    """
    from allpacs.domain.specimen import PatientAndSpecimen, SpecimenKind, Stain
    from allpacs.study.import_images import import_pictures

    if images is not None and any(is_dicom(path) for path in image_files([images])):
        return images, {}
    if images is None:
        pictures, synthetic = _draw_cells(folder / "synthetic"), True
    else:
        pictures, synthetic = image_files([images]), False
    patient = PatientAndSpecimen(
        patient_id="DEMO-1",
        patient_name="Demonstration^Study",
        accession_number="DEMO-1",
        kind=SpecimenKind.BONE_MARROW,
        stain=Stain.MAY_GRUNWALD_GIEMSA,
    )
    with counted("importing", len(pictures)) as advance:
        made_at = datetime.now(UTC).astimezone()
        written = import_pictures(
            pictures, folder / "study", patient=patient, made_at=made_at, synthetic=synthetic, progress=advance
        )
    if not synthetic:
        return folder / "study", {}
    kinds = [CellLabel.ALL if _is_blast(number) else CellLabel.HEM for number in range(len(written))]
    return folder / "study", {path.stem: kind for path, kind in zip(written, kinds, strict=True)}


def _is_blast(number: int) -> bool:
    """Whether a synthetic cell is drawn as a lymphoblast: every second one is."""
    return number % 2 == 0


def _draw_cells(folder: Path) -> list[Path]:
    """Draw synthetic cells, clearly named so, and return their files."""
    from allpacs.demo.synthetic import draw_cell

    folder.mkdir()
    paths = []
    for number in tracked(range(_SYNTHETIC_CELLS), "drawing synthetic cells"):
        blast = _is_blast(number)
        path = folder / f"synthetic-{number:02d}-{'blast' if blast else 'normal'}.png"
        Image.fromarray(draw_cell(seed=number, blast=blast)).save(path)
        paths.append(path)
    return paths


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for_echo(port: int, plugin: subprocess.Popen[bytes], timeout_s: float) -> None:
    until = time.monotonic() + timeout_s
    while True:
        try:
            echo("127.0.0.1", port, _AE_TITLE, _SENDER, timeout_s=5.0)
        except DeliveryUnavailable as unavailable:
            if plugin.poll() is not None or time.monotonic() > until:
                raise DemoFailed(f"the receiver did not come up: {unavailable}") from unavailable
            time.sleep(0.1)
        else:
            return


def _tell_refused(console: Console, sent: list[SentFile]) -> None:
    refused = [one for one in sent if not one.stored]
    for one in refused:
        console.print(f"[yellow]not taken[/yellow] {one.path.name}: {one.note}", highlight=False)
    if len(refused) == len(sent):
        raise InputFault("allpacs took none of the instances: see above")


def _wait_until_settled(store: Store, plugin: subprocess.Popen[bytes], timeout_s: float, log: Path) -> None:
    """Wait until every study is delivered everywhere."""
    until = time.monotonic() + timeout_s
    while any(row.state not in _SETTLED for row in store.studies.latest()):
        if plugin.poll() is not None or time.monotonic() > until:
            raise DemoFailed(f"the study was not delivered in time: {log} says how far it came")
        time.sleep(0.05)
    for row in store.studies.latest(state=RevisionState.ATTENTION):
        reason = store.revisions.of_study(row.study_uid)[-1].reason
        raise DeliveryRejected(f"study {row.study_uid} needs attention: {reason}")


def _summary(store: Store, pacs: Archive, ehr: FhirEndpoint, folder: Path, seconds: float) -> dict[str, Any]:
    """Return the stable summary; with several studies its numbers are their sums."""
    from allpacs.domain import counting

    rows = store.studies.latest()
    findings = [one for row in rows for one in store.findings.get(row.study_uid, row.revision)]
    counts = counting.counts(cell for instance in findings for cell in instance.cells)
    reports = [ehr.path_of("DiagnosticReport", str(one["id"])) for one in ehr.resources("DiagnosticReport")]
    pages = [store.artefacts.paths(row.study_uid, row.revision)[ArtefactKind.HTML].name for row in rows]
    html = [path for name in pages for path in (folder / "results").rglob(name)]
    return {
        "study_uid": rows[0].study_uid,
        "instances": len(findings),
        "cells": counts.total,
        "all": counts.all,
        "hem": counts.hem,
        "not_assessable": counts.not_assessable,
        "sr": [str(one.path) for one in pacs.instances if one.sop_class_uid in _STRUCTURED_REPORTS],
        "fhir": [str(path) for path in reports],
        "html": str(html[0]),
        "seconds": round(seconds, 2),
    }


def _as_expected(
    findings: Mapping[str, list[InstanceFindings]], expected: Mapping[str, CellLabel]
) -> dict[str, dict[str, int]]:
    """Return, of synthetic cells, how many there are and how many were found to be what they were drawn as."""
    cells = [cell for instances in findings.values() for one in instances for cell in one.cells]
    drawn = [cell for cell in cells if cell.sop_instance_uid in expected]
    right = sum(cell.label is expected[cell.sop_instance_uid] for cell in drawn)
    return {"expected": {"cells": len(expected), "right": right}} if expected else {}


def _print_cells(
    console: Console, findings: Mapping[str, list[InstanceFindings]], expected: Mapping[str, CellLabel]
) -> None:
    cells = [cell for instances in findings.values() for one in instances for cell in one.cells]
    title = "cells, most suspicious first" + (" (synthetic images, not from a patient)" if expected else "")
    table = Table(title=title, title_justify="left")
    for heading in ("SOP Instance", "frame", "cell", *(["expected"] if expected else [])):
        table.add_column(heading)
    for heading in ("found" if expected else "label", "P(ALL)", "not assessable because"):
        table.add_column(heading)
    for cell in sorted(cells, key=_suspicion, reverse=True)[:_ROWS_SHOWN]:
        uid = f"…{cell.sop_instance_uid[-12:]}"
        drawn = [expected[cell.sop_instance_uid].value] if expected else []
        table.add_row(uid, str(cell.frame_number), str(cell.cell_number), *drawn, *cell_columns(cell))
    console.print(table)
    if len(cells) > _ROWS_SHOWN:
        console.print(f"… and {len(cells) - _ROWS_SHOWN} more cells: the HTML report has them all")
    for instances in findings.values():
        for one in instances:
            if one.fault:
                console.print(f"[yellow]unreadable[/yellow] …{one.sop_instance_uid[-12:]}: {one.fault}")


def _suspicion(cell: CellFinding) -> tuple[bool, float]:
    return cell.assessable, -1.0 if cell.probability_all is None else cell.probability_all


def _print_places(console: Console, summary: Mapping[str, Any], file: Path) -> None:
    console.print(
        f"{summary['instances']} instances, {summary['cells']} cells: {summary['all']} lymphoblasts (ALL), "
        f"{summary['hem']} hematogones, {summary['not_assessable']} not assessable, in {summary['seconds']} s",
        highlight=False,
    )
    if told := summary.get("expected"):
        console.print(f"as drawn: {told['right']} of {told['cells']} cells", highlight=False)
    for what, place in (
        ("SR at the PACS", ", ".join(summary["sr"])),
        ("FHIR at the EHR", ", ".join(summary["fhir"])),
        ("HTML report", summary["html"]),
        ("summary", str(file)),
    ):
        console.print(f"{what:>16}: {place}", highlight=False, soft_wrap=True)
    console.print("Research use only: not for diagnosis.", style="bold")
