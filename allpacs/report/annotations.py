"""Thousands of cells of an image as Microscopy Bulk Simple Annotations (Supplement 222), beside a summary report.

A group of annotations a class, each annotation a cell's outline with its probability. A structured report with as many
groups of content items is slow to load in any viewer; this is what viewers of whole slides read instead.

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

from allpacs.domain.artefacts import Artefact, ArtefactKind
from allpacs.domain.findings import CellFinding, CellLabel, InstanceFindings, StudyFindings
from allpacs.domain.geometry import PointPx
from allpacs.domain.identity import derive_uid
from allpacs.report import codes, wording
from allpacs.report.context import ReportContext, result_uid
from allpacs.report.document import Series, part_10, result_object
from allpacs.report.source import Headers, clean

SERIES_NUMBER = 9903
SERIES_DESCRIPTION = "AI annotations of white cells (research use only)"


def annotated_images(findings: StudyFindings, most: int) -> list[InstanceFindings]:
    """Return the images whose cells are annotations: those with more than `most`, in the order of the findings.

    Only images whose cells' places can be told in one plane: a slide's total pixel matrix, or an image of one frame.
    Cells of other images stay in the report.
    """
    flat = (one for one in findings.instances if one.matrix is not None or one.frames == 1)
    return [one for one in flat if len(one.cells) > most]


def cell_annotations(
    findings: StudyFindings, headers: Headers, context: ReportContext, image: InstanceFindings
) -> Artefact:
    """Return the annotations of an image's cells as a Part 10 file: one object an image, all in one series.

    Parameters
    ----------
    context:
        Its `annotated` says which images of the study have annotations.
    image:
        One of these.
    """
    uid = result_uid("annotations", findings, context, image.sop_instance_uid)
    series_uid = derive_uid("series", "annotations", findings.study_uid, findings.model.digest)
    of = Series(series_uid, SERIES_NUMBER, SERIES_DESCRIPTION, "ANN")
    made = result_object(findings, headers, context, uid, MicroscopyBulkSimpleAnnotationsStorage, of)
    made.InstanceNumber = number = 1 + context.annotated.index(image.sop_instance_uid)
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
    made.AnnotationGroupSequence = list(_groups(findings, image))
    return Artefact(ArtefactKind.ANNOTATIONS, uid, "application/dicom", f"{uid}.dcm", part_10(made), number=number)


def _groups(findings: StudyFindings, image: InstanceFindings) -> Iterator[AnnotationGroup]:
    outcomes: list[tuple[str, Code, list[CellFinding]]] = [
        (wording.LABEL_NAMES[label], codes.LABELS[label], [c for c in image.cells if c.label is label])
        for label in CellLabel
    ]
    outcomes.append(("Not assessable", codes.INDETERMINATE, [c for c in image.cells if c.label is None]))
    number = 0
    for name, code, cells in outcomes:
        if cells:
            number += 1
            yield _group(findings, image, number, name, code, cells)


def _group(
    findings: StudyFindings, image: InstanceFindings, number: int, name: str, code: Code, cells: Sequence[CellFinding]
) -> AnnotationGroup:
    model = findings.model
    probabilities = [math.nan if c.probability_all is None else wording.stated(c.probability_all) for c in cells]
    known = np.array(probabilities, np.float32)
    measured = [Measurements(name=codes.PROBABILITY, values=known, unit=codes.NO_UNITS)]
    return AnnotationGroup(
        number=number,
        uid=derive_uid("annotation group", image.sop_instance_uid, name, findings.model.digest),
        label=name,
        description="Outlines of cells, and the probability that each is a lymphoblast",
        annotated_property_category=codes.CELL,
        annotated_property_type=code,
        graphic_type="POLYGON",
        graphic_data=[np.array(_outline(cell), np.float32) for cell in cells],
        algorithm_type="AUTOMATIC",
        algorithm_identification=AlgorithmIdentificationSequence(
            name=clean(model.name),
            family=codes.ARTIFICIAL_INTELLIGENCE,
            version=clean(model.version),
            source=clean(model.manufacturer),
        ),
        measurements=measured if np.isfinite(known).any() else None,
    )


def _outline(cell: CellFinding) -> tuple[PointPx, ...]:
    """Return at least three points: on the total pixel matrix of a slide, otherwise on the frame."""
    place = cell if cell.on_matrix is None else cell.on_matrix
    return place.outline if len(place.outline) >= 3 else place.box.corners()
