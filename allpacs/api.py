"""allpacs for Python programs: classify images, read the findings of a store, build reports from findings.

Everything here is also an attribute of `allpacs`, which loads it when it is first used. Research use only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from allpacs.app import asking, make_pipeline, open_store, start_model
from allpacs.classify import aggregate
from allpacs.commands.files import image_files
from allpacs.decode.part10 import read_header
from allpacs.domain.artefacts import Artefact
from allpacs.domain.errors import ConfigFault, InputFault
from allpacs.domain.findings import InstanceFindings, StudyFindings
from allpacs.domain.identity import derive_uid
from allpacs.domain.image import Frame
from allpacs.domain.parts import complete
from allpacs.report.context import ReportContext
from allpacs.report.headers import check_one_patient
from allpacs.settings import Settings, load_settings
from allpacs.study.images import image_file, label_images
from allpacs.study.pipeline import ImageFile, Pipeline, Predict
from allpacs.study.results import results
from allpacs.study.signing import findings_as_signed

__all__ = [
    "Artefact",
    "ReportContext",
    "Settings",
    "StudyFindings",
    "build_reports",
    "classify_images",
    "load_settings",
    "read_findings",
    "read_headers",
]


def classify_images(
    images: Iterable[Path | str | NDArray[np.uint8]],
    *,
    spacing_um: float | None = None,
    settings: Settings | None = None,
) -> StudyFindings:
    """Find and classify the white cells of images; they are taken for one study.

    Parameters
    ----------
    images:
        Paths of DICOM files, pictures (BMP, PNG, JPEG, TIFF) or folders of these, and arrays: ``uint8`` of shape (rows,
        columns, 3), sRGB.
    spacing_um:
        Pixel size, µm, used when neither the image nor its red cells give one.
    settings:
        Model and engine; the shipped model if there are none.

    Returns
    -------
    Findings with one entry for each image, in the order of `images`. An image that cannot be read has its reason as
    ``fault`` and no cells.

    Raises
    ------
    InputFault
        A path does not exist, an array has another type or shape, there is no image, or files are of several studies.
    ModelFault
        The model cannot be used.
    """
    settings = settings or Settings()
    asked = [entry for image in images for entry in _entries(image, spacing_um)]
    if not asked:
        raise InputFault("there is no image to classify: name files, folders or arrays")
    study_uid = _study_uid([image for image in asked if isinstance(image, ImageFile)]) or derive_uid(
        "study", *(image.sop_instance_uid if isinstance(image, ImageFile) else _array_uid(image) for image in asked)
    )
    pipeline = make_pipeline(settings)
    files = [image for image in asked if isinstance(image, ImageFile)]
    with start_model(settings, pipeline.bundle) as batcher:
        predict = asking(batcher)
        of_files = iter(label_images(pipeline, files, predict))
        found = [
            next(of_files) if isinstance(image, ImageFile) else _of_array(pipeline, image, predict, spacing_um)
            for image in asked
        ]
    digest = pipeline.decision_digest([None])
    return aggregate.study_findings(study_uid, 1, pipeline.bundle.identity, digest, found)


def read_findings(study_uid: str, revision: int | None = None, *, settings: Settings) -> StudyFindings:
    """Return the findings of a study from the store of an allpacs, with what a person has signed.

    Parameters
    ----------
    revision:
        None: the latest.
    settings:
        Their ``[store]`` names the store, see `load_settings`.

    Raises
    ------
    ConfigFault
        There is no store.
    InputFault
        The store does not have the study or revision, or its report is not written yet.
    """
    if settings.store.database_url is None and not settings.store.folder.is_dir():
        raise ConfigFault(f"there is no store in {settings.store.folder}: set store.folder to that of your allpacs")
    with closing(open_store(settings)) as store:
        study = store.studies.get(study_uid)
        if study is None:
            raise InputFault(f"the store has no study {study_uid}: `allpacs studies` lists those that it has")
        number = study.revision if revision is None else revision
        outcome = store.outcomes.get(study_uid, number)
        if outcome is None:
            raise InputFault(
                f"study {study_uid} has no report of revision {number}: `allpacs show {study_uid}` says how far it is"
            )
        found = store.findings.get(study_uid, number)
        findings = aggregate.study_findings(study_uid, number, outcome.model, outcome.decision_digest, found)
        review = store.reviews.signed(study_uid, number)
    return findings if review is None else findings_as_signed(findings, review.of(findings.cells))


def read_headers(paths: Sequence[Path | str]) -> dict[str, Dataset]:
    """Return the headers of DICOM files by SOP Instance UID, as `build_reports` needs them.

    Raises
    ------
    InputFault
        A path does not exist, or is no DICOM file.
    """
    headers = (read_header(path) for path in image_files([Path(path) for path in paths]))
    return {str(header.SOPInstanceUID): header for header in headers}


def build_reports(
    findings: StudyFindings, headers: Mapping[str, Dataset], context: ReportContext | None = None
) -> Iterator[Artefact]:
    """Return the results of findings, in every format: DICOM SR, HTML, FHIR, HL7 v2 and those of your own.

    Parameters
    ----------
    headers:
        Of the study's DICOM files, see `read_headers`. What they do not say is left out of the reports.
    context:
        When and where the report is made; None: now, in this machine's time zone.

    Raises
    ------
    InputFault
        The headers name different patients, or an image is no DICOM object: results refer to images by their UIDs.
    """
    check_one_patient(headers.values())
    for number, instance in enumerate(findings.instances, start=1):
        if not instance.sop_class_uid:
            raise InputFault(
                f"image {number} of the findings is no DICOM object, and a report must refer to one: make DICOM files "
                "of pictures with `allpacs import`, and classify these"
            )
    return results(findings, headers, context or ReportContext(made_at=datetime.now().astimezone()))


def _entries(
    image: Path | str | NDArray[np.uint8], spacing_um: float | None
) -> Iterator[ImageFile | NDArray[np.uint8]]:
    if not isinstance(image, np.ndarray):
        for path in image_files([Path(image)]):
            yield replace(image_file(path), spacing_um=spacing_um)
    elif image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise InputFault(f"an image is an array of uint8 of shape (rows, columns, 3), not {image.dtype} {image.shape}")
    else:
        yield image


def _array_uid(rgb: NDArray[np.uint8]) -> str:
    return derive_uid("array", str(rgb.shape), hashlib.sha256(rgb.tobytes()).hexdigest())


def _of_array(
    pipeline: Pipeline, rgb: NDArray[np.uint8], predict: Predict, spacing_um: float | None
) -> InstanceFindings:
    image = ImageFile(Path(), _array_uid(rgb), "", "", spacing_um=spacing_um)
    found, crops = pipeline.find_among(image, [Frame(1, np.ascontiguousarray(rgb))])
    return pipeline.label(complete(found), crops, predict)


def _study_uid(files: Sequence[ImageFile]) -> str:
    """Return the study that the DICOM files among these name; empty if there is none."""
    named = {str(read_header(file.path).get("StudyInstanceUID", "")) for file in files if file.sop_class_uid}
    if len(named) > 1:
        raise InputFault(f"the files are of {len(named)} studies: classify one study at a time")
    return next(iter(named), "")
