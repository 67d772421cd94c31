"""How a study is cut into chunks: what is read between two checkpoints, and is in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from pydicom.uid import DeflatedExplicitVRLittleEndian, MultiFrameTrueColorSecondaryCaptureImageStorage

from allpacs.decode.ai_generated import file_made_by_artificial_intelligence
from allpacs.decode.part10 import open_frames
from allpacs.domain.errors import UndecodablePixels
from allpacs.domain.findings import InstanceFindings
from allpacs.domain.geometry import BoxPx
from allpacs.store.records import InstanceRow
from allpacs.study.pipeline import ImageFile, Pipeline
from allpacs.study.slides import WHOLE_SLIDE_IMAGE, SlidePlan, survey

_REGIONS_IN_A_CHUNK = 16
#: Changes whenever the same study is cut another way: a reading that was begun the old way then begins anew.
PARTING = f"regions by {_REGIONS_IN_A_CHUNK}, frames"

#: An object of a class of single frames is looked into, for many frames all the same, only if it is larger than this:
#: asking for its frames takes 0.4 ms, too much for each of 50,000 small ones, and nothing beside decoding a large one.
_SMALL_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class Chunk:
    """Plain images, some frames of one image, slide instances that are left out, or some regions of a slide.

    Attributes
    ----------
    frames:
        Numbers of the frames that are read, where `images` is one image that is read in parts; None: all of all images.
    part:
        Which part of the instances' findings this makes.
    """

    images: tuple[ImageFile, ...] = ()
    frames: range | None = None
    known: tuple[InstanceFindings, ...] = ()
    slide: SlidePlan | None = None
    regions: tuple[BoxPx, ...] = ()
    part: int = 0

    @property
    def uids(self) -> list[str]:
        """SOP Instance UIDs of its findings, in their order."""
        read = self.images if self.slide is None else self.slide.images
        return [*(image.sop_instance_uid for image in read), *(one.sop_instance_uid for one in self.known)]


def plan(pipeline: Pipeline, instances: Sequence[tuple[InstanceRow, ImageFile]], size: int) -> Iterator[Chunk]:
    """Yield the chunks of a study. Doing so again gives the same.

    Parameters
    ----------
    size:
        Frames of plain images in a chunk, at most.
    """
    plain = [(row, image) for row, image in instances if row.sop_class_uid != WHOLE_SLIDE_IMAGE]
    slides = [image for row, image in instances if row.sop_class_uid == WHOLE_SLIDE_IMAGE]
    yield from _of_plain_images(pipeline, plain, size)
    if slides:
        yield from _of_slides(pipeline, slides)


def _of_plain_images(
    pipeline: Pipeline, instances: Sequence[tuple[InstanceRow, ImageFile]], size: int
) -> Iterator[Chunk]:
    gathered: list[ImageFile] = []
    room = size
    for row, image in instances:
        frames = _frames_apart(row, pipeline.max_pixels)
        if frames > size:
            for part, first in enumerate(range(1, frames + 1, size)):
                yield Chunk(images=(image,), frames=range(first, min(first + size, frames + 1)), part=part)
            continue
        if frames > room:
            yield Chunk(images=tuple(gathered))
            gathered, room = [], size
        gathered.append(image)
        room -= frames
    if gathered:
        yield Chunk(images=tuple(gathered))


def _of_slides(pipeline: Pipeline, slides: Sequence[ImageFile]) -> Iterator[Chunk]:
    surveyed = survey(pipeline, slides)
    if surveyed.others:
        yield Chunk(known=surveyed.others)
    for slide in surveyed.slides:
        for part, start in enumerate(range(0, max(1, len(slide.regions)), _REGIONS_IN_A_CHUNK)):
            yield Chunk(slide=slide, regions=slide.regions[start : start + _REGIONS_IN_A_CHUNK], part=part)


def _frames_apart(row: InstanceRow, max_pixels: int) -> int:
    """Return how many frames can be read apart; 1 of what is read, or found to be unreadable, in one piece."""
    may_have_many = (
        row.sop_class_uid == MultiFrameTrueColorSecondaryCaptureImageStorage
        or row.transfer_syntax_uid == DeflatedExplicitVRLittleEndian  # whose size says nothing
        or row.size_bytes > _SMALL_BYTES
    )
    with suppress(UndecodablePixels):
        if may_have_many and not file_made_by_artificial_intelligence(row.path):
            with open_frames(row.path, max_pixels=max_pixels) as frames:  # no more than its pixels are enough for
                return frames.layout.frames
    return 1
