"""Images straight to findings, without a store: for the command line and for Python programs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from allpacs.decode.part10 import read_header
from allpacs.dicom.encoding import is_part10
from allpacs.domain.errors import InputFault
from allpacs.domain.findings import InstanceFindings
from allpacs.domain.identity import derive_uid
from allpacs.domain.parts import complete
from allpacs.study.pipeline import ImageFile, Pipeline, Predict
from allpacs.study.slides import WHOLE_SLIDE_IMAGE, Survey, search, survey


def label_images(
    pipeline: Pipeline,
    images: Sequence[ImageFile],
    predict: Predict,
    tracked: Callable[[Sequence[ImageFile]], Iterable[ImageFile]] = iter,
) -> list[InstanceFindings]:
    """Return the labelled findings of images, in their order; an image that cannot be read has a `fault`.

    Parameters
    ----------
    tracked:
        Yields the images, for example while it shows how many are done.
    """
    slides = [image for image in images if image.sop_class_uid == WHOLE_SLIDE_IMAGE]
    surveyed = survey(pipeline, slides) if slides else Survey((), ())
    of_slides = {found.sop_instance_uid: found for found in surveyed.others}
    for plan in surveyed.slides:
        for found, crops in zip(*search(pipeline, plan, plan.regions, with_remarks=True), strict=True):
            of_slides[found.sop_instance_uid] = pipeline.label(complete(found), crops, predict)
    findings = []
    for image in tracked(images):
        if image.sop_class_uid == WHOLE_SLIDE_IMAGE:
            findings.append(of_slides[image.sop_instance_uid])
        else:
            findings.append(pipeline.label(*pipeline.find(image), predict))
    return findings


def image_file(path: Path) -> ImageFile:
    """Return a file with the identity that its header states; a picture gets one that is derived from its path."""
    if is_part10(path):
        try:
            header = read_header(path)
        except InputFault:
            pass  # the same fault is met, and recorded, when its frames are read
        else:
            instance, sop_class, series = (
                str(header.get(name, "")) for name in ("SOPInstanceUID", "SOPClassUID", "SeriesInstanceUID")
            )
            return ImageFile(path, instance, sop_class, series)
    return ImageFile(path, derive_uid("file", str(path)), "", "")
