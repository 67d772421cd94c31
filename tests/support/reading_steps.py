"""A study of some files, complete in a real store, and the steps of its reading one after the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from allpacs.classify.bundle import load_bundle
from allpacs.decode.part10 import read_header
from allpacs.domain.artefacts import ArtefactKind
from allpacs.domain.instance import InstanceIdentity
from allpacs.settings import SHIPPED_BUNDLE
from allpacs.store.store import Store
from allpacs.study.options import StudyOptions
from allpacs.study.pipeline import Pipeline
from allpacs.study.steps import StudySteps

STUDY = "1.2.826.1"


def ask(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Say something of a cell that depends on the cell alone."""
    score = crops.reshape(len(crops), -1).mean(axis=1) - 20.0
    return np.stack([score, -score], axis=1).astype(np.float32)


def stored_study(folder: Path, paths: list[Path]) -> Store:
    """Return a store whose one study, of these files, is complete."""
    store = Store.open(folder / "store")
    for path in paths:
        receive(store, path, at=1.0)
    assert store.revisions.close_due(10.0) == [(STUDY, 1)]
    return store


def receive(store: Store, path: Path, *, at: float) -> None:
    """Keep a file as an instance of the study."""
    header = read_header(path)
    content = path.read_bytes()
    identity = InstanceIdentity(
        sop_class_uid=str(header.SOPClassUID),
        sop_instance_uid=str(header.SOPInstanceUID),
        transfer_syntax_uid=str(header.file_meta.TransferSyntaxUID),
        study_uid=STUDY,
        series_uid=str(header.SeriesInstanceUID),
    )
    meta = 144 + int.from_bytes(content[140:144], "little")
    with memoryview(content)[meta:] as data_set:
        store.receiving.keep_instance(
            identity, content[:meta], data_set, calling_ae="SCANNER", received_at=at, quiet_s=0.0, max_age_s=1.0
        )


def sr_text(store: Store) -> str:
    (sr,) = (one for one in store.artefacts.get(STUDY, 1) if one.kind is ArtefactKind.SR)
    return sr.content.decode("latin-1")


def reading_of(
    store: Store,
    tmp_path: Path,
    max_cells: int = 10_000,
    key_images: int = 0,
    chunk: int = 2,
    kind: type[Pipeline] = Pipeline,
) -> StudySteps:
    return StudySteps(
        store=store,
        pipeline=kind(load_bundle(SHIPPED_BUNDLE), max_cells=max_cells),
        predict=ask,
        work_folder=tmp_path / "work",
        options=StudyOptions(chunk_instances=chunk, cell_finder={}, host_name="here", key_images=key_images),
    )


def read_study(reading: StudySteps, revision: int = 1) -> int:
    chunks = reading.begin(STUDY, revision)
    for chunk in range(chunks):
        reading.find_cells(STUDY, revision, chunk)
        reading.classify(STUDY, revision, chunk)
    reading.report(STUDY, revision)
    return chunks
