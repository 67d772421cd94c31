"""A PACS that takes Comprehensive SR only: found out by negotiation, and given the same report as what it takes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage, ExplicitVRLittleEndian

from allpacs.deliver.c_store import CStoreDestination
from allpacs.deliver.comprehensive import as_comprehensive
from allpacs.domain.artefacts import Artefact
from allpacs.domain.identity import comprehensive_uid
from allpacs.report.inputs import format_inputs
from allpacs.report.sr import structured_report
from conformance.support.report_samples import CONTEXT, PRIOR, usual_headers, usual_study
from support.deliver_samples import scp

COMPREHENSIVE = (ComprehensiveSRStorage, (ExplicitVRLittleEndian,))
COMPREHENSIVE_3D = (Comprehensive3DSRStorage, (ExplicitVRLittleEndian,))


def report() -> Artefact:
    return structured_report(format_inputs(usual_study(2), usual_headers(), replace(CONTEXT, predecessor=PRIOR)))


def delivered(*contexts: Any) -> Dataset:
    received = []

    def store(event: Any) -> int:
        received.append(event.dataset)
        return 0x0000

    with scp(store, contexts=contexts) as port:
        CStoreDestination("127.0.0.1", port, "PACS", "ALLPACS", commitment="never").deliver([report()])
    (one,) = received
    return one  # type: ignore[no-any-return]


def test_it_gets_a_comprehensive_sr_with_a_uid_of_its_own() -> None:
    received = delivered(COMPREHENSIVE)
    assert received.SOPClassUID == ComprehensiveSRStorage
    assert received.SOPInstanceUID == comprehensive_uid(report().uid)
    original = pydicom.dcmread(BytesIO(report().content))
    assert received.ContentSequence == original.ContentSequence
    prior = received.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert prior.ReferencedSOPClassUID == ComprehensiveSRStorage
    assert prior.ReferencedSOPInstanceUID == comprehensive_uid(PRIOR.sop_instance_uid)


@pytest.mark.parametrize("contexts", [(COMPREHENSIVE_3D,), (COMPREHENSIVE_3D, COMPREHENSIVE)])
def test_one_that_takes_the_3d_report_gets_that(contexts: Any) -> None:
    received = delivered(*contexts)
    assert (received.SOPClassUID, received.SOPInstanceUID) == (Comprehensive3DSRStorage, report().uid)


def test_places_in_space_are_left_out() -> None:
    original = pydicom.dcmread(BytesIO(report().content))
    place = Dataset()
    place.ValueType = "SCOORD3D"
    original.ContentSequence[-1].ContentSequence.append(place)
    kept = as_comprehensive(original).ContentSequence[-1].ContentSequence
    assert [item.ValueType for item in kept] == [i.ValueType for i in original.ContentSequence[-1].ContentSequence[:-1]]


def test_dciodvfy_finds_no_error(tmp_path: Path) -> None:
    program = Path(sys.executable).parent / "dciodvfy"
    if not program.exists():
        pytest.skip("dciodvfy is not installed")
    file = tmp_path / "report.dcm"
    as_comprehensive(pydicom.dcmread(BytesIO(report().content))).save_as(file)
    done = subprocess.run([program, "-new", str(file)], capture_output=True, text=True, errors="replace", check=False)
    told = (done.stdout + done.stderr).splitlines()
    assert any("ComprehensiveSR" in line for line in told)
    assert [line for line in told if line.startswith("Error")] == []
