"""What a reading that was interrupted must go on with."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from structlog.testing import capture_logs

from allpacs.classify.aggregate import study_findings
from allpacs.classify.bundle import Bundle, load_bundle
from allpacs.domain.errors import InputFault, ModelFault
from allpacs.domain.findings import CellFinding, CellLabel, InstanceFindings
from allpacs.domain.geometry import BoxPx
from allpacs.settings import SHIPPED_BUNDLE
from allpacs.store.store import Store
from allpacs.study import steps as reading_module
from allpacs.study.cell_images import CellImageStore
from allpacs.study.options import StudyOptions
from allpacs.study.pipeline import Pipeline
from allpacs.study.steps import StudySteps
from support.console_samples import painted_study
from support.reading_steps import STUDY, read_study, reading_of, stored_study


def _unasked(_crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    raise AssertionError("no step is run here")


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle(SHIPPED_BUNDLE)


def _terms(
    folder: Path, bundle: Bundle, *, chunk: int = 32, pixels: int = 100, cell_finder: Mapping[str, str] | None = None
) -> str:
    store = Store.open(folder)
    reading = StudySteps(
        store=store,
        pipeline=Pipeline(bundle, max_pixels=pixels),
        predict=_unasked,
        work_folder=folder / "work",
        options=StudyOptions(chunk_instances=chunk, cell_finder=cell_finder or {}, host_name="here"),
    )
    store.close()
    return reading.fingerprint


def test_terms_change_with_whatever_may_change_the_answer_or_the_steps(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = _terms(tmp_path, bundle)
    assert _terms(tmp_path, bundle) == usual
    others = [
        _terms(tmp_path, bundle, chunk=8),
        _terms(tmp_path, bundle, pixels=99),
        _terms(tmp_path, bundle, cell_finder={"SCANNER": "nucleus"}),
        _terms(tmp_path, replace(bundle, digest="sha256:other")),
    ]
    monkeypatch.setattr(reading_module, "PARTING", "another way of cutting")
    assert len({usual, *others, _terms(tmp_path, bundle)}) == 6


def test_terms_do_not_depend_on_the_order_of_senders(tmp_path: Path, bundle: Bundle) -> None:
    ways = {"A": "nucleus", "B": "whole_frame"}
    assert _terms(tmp_path, bundle, cell_finder=ways) == _terms(
        tmp_path, bundle, cell_finder=dict(reversed(list(ways.items())))
    )


def test_cells_that_the_model_cannot_explain_are_shown_without(tmp_path: Path, bundle: Bundle) -> None:
    def explain(*_: object) -> NDArray[np.float32]:
        raise ModelFault("no gradients")

    store = Store.open(tmp_path)
    cell = CellFinding("1.2.3", 1, 1, BoxPx(0, 0, 9, 9), (), label=CellLabel.ALL, probability_all=0.9)
    instance = InstanceFindings("1.2.3", "1.2.4", "1.2.5", 1, (cell,))
    findings = study_findings("1.2.6", 1, bundle.identity, "sha256:0", [instance])
    crop = np.full((128, 128, 3), 90, np.uint8)
    with capture_logs() as lines:
        images = CellImageStore(store, explain, key_images=4)
        pictures = images.of(findings, findings, lambda: [(cell, crop) for cell in findings.cells]).key
    store.close()
    assert pictures
    assert all(picture.evidence is None for picture in pictures.values())
    assert [line["event"] for line in lines] == ["cells_not_explained"]


def test_a_study_of_two_patients_is_not_reported_as_one(tmp_path: Path) -> None:
    files = [
        path
        for seed, patient in enumerate(("P-ONE", "P-OTHER"))
        for path in painted_study(tmp_path / patient, [seed], patient_id=patient, study_uid=STUDY)
    ]
    with closing(stored_study(tmp_path, files)) as store:
        with pytest.raises(InputFault, match="name different patients") as told:
            read_study(reading_of(store, tmp_path))
        assert store.artefacts.get(STUDY, 1) == []
    assert "P-O" not in str(told.value)
