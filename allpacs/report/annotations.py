"""Thousands of cells of an image as Microscopy Bulk Simple Annotations (Supplement 222), beside a summary report.

A group of annotations a class, each annotation a cell's outline with its probability. A structured report with as many
groups of content items is slow to load in any viewer; this is what viewers of whole slides read instead.

Of a signed study the cells whose outcome a person changed are groups of their own, without the algorithm's probability,
and the reports list them beside.

Source: PS3.3 A.87 (IOD), C.37.1 (Microscopy Bulk Simple Annotations).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.ann import AnnotationGroup, Measurements
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import MicroscopyBulkSimpleAnnotationsStorage

from allpacs.domain.artefacts import DICOM, Artefact, ArtefactKind
from allpacs.domain.findings import CellFinding, CellLabel, InstanceFindings, ModelIdentity
from allpacs.domain.geometry import PointPx
from allpacs.domain.identity import derive_uid
from allpacs.domain.review import Signed
from allpacs.report import codes, wording
from allpacs.report.context import result_uid
from allpacs.report.dicom_object import Series, part_10, result_object
from allpacs.report.elements import clean
from allpacs.report.format import Format
from allpacs.report.inputs import FormatInputs
from allpacs.report.listing import is_changed

SERIES_NUMBER = 9903
SERIES_DESCRIPTION = "AI annotations of white cells (research use only)"


def study_annotations(inputs: FormatInputs) -> Iterator[Artefact]:
    """Yield the annotations of each image that has any, in the order of `ReportContext.annotated`."""
    images = {image.sop_instance_uid: image for image in inputs.findings.instances}
    for number, uid in enumerate(inputs.context.annotated, start=1):
        yield cell_annotations(inputs, images[uid], number)


def cell_annotations(inputs: FormatInputs, image: InstanceFindings, number: int) -> Artefact:
    """Return the annotations of an image's cells as a Part 10 file: one object an image, all in one series.

    Parameters
    ----------
    image:
        One of the images that have annotations.
    number:
        Which of these it is, from 1.
    """
    findings, context = inputs.findings, inputs.context
    uid = result_uid(FORMAT.kind, findings, context, image.sop_instance_uid)
    series_uid = derive_uid("series", "annotations", findings.study_uid, findings.model.digest)
    of = Series(series_uid, SERIES_NUMBER, SERIES_DESCRIPTION, "ANN")
    made = result_object(inputs, uid, MicroscopyBulkSimpleAnnotationsStorage, of)
    made.InstanceNumber = number
    made.DeviceSerialNumber = findings.model.device_uid[:64]
    made.ContentLabel = "WHITE_CELLS"
    made.ContentDescription = "White cells by class (research use only)"
    made.ContentCreatorName = None
    made.AnnotationCoordinateType = "2D"
    made.PixelOriginInterpretation = "FRAME" if image.matrix is None else "VOLUME"
    reference = Dataset()
    reference.ReferencedSOPClassUID = image.sop_class_uid
    reference.ReferencedSOPInstanceUID = image.sop_instance_uid
    made.ReferencedImageSequence = [reference]
    series = Dataset()
    series.SeriesInstanceUID = image.series_uid
    series.ReferencedInstanceSequence = [reference]
    made.ReferencedSeriesSequence = [series]
    made.AnnotationGroupSequence = list(_groups(findings.model, context.signed, image, uid))
    return FORMAT.artefact(uid, part_10(made), number=number)


def _groups(
    model: ModelIdentity, signed: Signed | None, image: InstanceFindings, object_uid: str
) -> Iterator[AnnotationGroup]:
    outcomes: list[tuple[CellLabel | None, str, Code]] = [
        *((label, wording.LABEL_NAMES[label], codes.LABELS[label]) for label in CellLabel),
        (None, "Not assessable", codes.INDETERMINATE),
    ]
    by_model: list[CellFinding] = []
    by_review: list[CellFinding] = []
    for cell in image.cells:
        (by_review if is_changed(signed, cell) else by_model).append(cell)
    number = 0
    for several, reviewed in ((by_model, False), (by_review, True)):
        for label, name, code in outcomes:
            cells = [cell for cell in several if cell.label is label]
            if cells:
                number += 1
                yield _group(model, object_uid, number, name, code, cells, reviewed)


def _group(
    model: ModelIdentity,
    object_uid: str,
    number: int,
    name: str,
    code: Code,
    cells: Sequence[CellFinding],
    reviewed: bool,
) -> AnnotationGroup:
    label = f"{name}, by review" if reviewed else name
    said = "which a person put into this class" if reviewed else "and the probability of this class for each"
    # As beside a finding of the structured report: the probability of the class that the group is of.
    known = np.array([_probability(cell) for cell in cells], np.float32)
    of_class = codes.UNCERTAIN_PROBABILITY if cells[0].label is None else codes.PROBABILITY
    measured = [Measurements(name=of_class, values=known, unit=codes.NO_UNITS)]
    return AnnotationGroup(
        number=number,
        uid=derive_uid("annotation group", object_uid, label),
        label=label,
        description=f"Outlines of cells, {said}",
        annotated_property_category=codes.CELL,
        annotated_property_type=code,
        graphic_type="POLYGON",
        graphic_data=[np.array(_outline(cell), np.float32) for cell in cells],
        # The algorithm drew the outlines of all: what a person only corrected is semi-automatic (PS3.3 C.37.1.2).
        algorithm_type="SEMIAUTOMATIC" if reviewed else "AUTOMATIC",
        algorithm_identification=AlgorithmIdentificationSequence(
            name=clean(model.name),
            family=codes.ARTIFICIAL_INTELLIGENCE,
            version=clean(model.version),
            source=clean(model.manufacturer),
        ),
        measurements=measured if np.isfinite(known).any() and not reviewed else None,
    )


def _probability(cell: CellFinding) -> float:
    """Return the probability of a cell's class, of a lymphoblast if it has none; NaN if it is not known."""
    if cell.probability_all is None:
        return math.nan
    if cell.label is None:
        return wording.stated(cell.probability_all)
    return wording.class_probability(cell.label, cell.probability_all)


def _outline(cell: CellFinding) -> tuple[PointPx, ...]:
    """Return at least three points: on the total pixel matrix of a slide, otherwise on the frame."""
    place = cell if cell.on_matrix is None else cell.on_matrix
    return place.outline if len(place.outline) >= 3 else place.box.corners()


FORMAT = Format(
    ArtefactKind.ANNOTATIONS,
    DICOM,
    ".dcm",
    study_annotations,
    wants=lambda context, _findings: bool(context.annotated),
)
