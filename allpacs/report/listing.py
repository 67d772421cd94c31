"""Which cells a report lists one by one, and which are in annotations only: one rule for all formats."""

from __future__ import annotations

from collections.abc import Iterator

from allpacs.domain.findings import CellFinding, InstanceFindings, StudyFindings
from allpacs.domain.review import Signed
from allpacs.report.context import ReportContext


def annotated_images(findings: StudyFindings, most: int) -> list[InstanceFindings]:
    """Return the images whose cells are annotations: those with more than `most`, in the order of the findings.

    Only images whose cells' places can be told in one plane: a slide's total pixel matrix, or an image of one frame.
    Cells of other images stay in the report.
    """
    flat = (image for image in findings.instances if image.matrix is not None or image.frames == 1)
    return [image for image in flat if len(image.cells) > most]


def listed_cells(findings: StudyFindings, context: ReportContext) -> Iterator[tuple[InstanceFindings, CellFinding]]:
    """Yield the cells that reports list one by one, each with its image.

    Of an image with annotations these are the ones whose outcome the person who signed has changed, excluded ones among
    them: what stands of the thousands is in the annotations alone.
    """
    for instance in findings.instances:
        annotated = instance.sop_instance_uid in context.annotated
        for cell in instance.cells:
            if not annotated or is_changed(context.signed, cell):
                yield instance, cell


def is_changed(signed: Signed | None, cell: CellFinding) -> bool:
    """Whether the person who signed has changed the outcome of a cell."""
    return signed is not None and signed.changed(cell) is not None
