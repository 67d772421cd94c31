"""An instance that is read in parts: its findings put together, and what only the whole of it can tell.

A slide is read region by region, an instance of many frames a few frames at a time. What its report says must not
depend on where it was cut, so no part says that there are no cells, how many frames cannot be decoded, or how wide a
pixel is where frames disagree: it keeps what that follows from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from allpacs.domain.findings import InstanceFindings, Remark, RemarkKind
from allpacs.domain.image import Scale, ScaleOrigin, UnreadableFrame

NO_CELLS = Remark(RemarkKind.NO_CELLS, "No white cell was found.")
#: A remark names no more frames than these.
_FRAMES_NAMED = 5
_SUREST_FIRST = list(ScaleOrigin)


def together(parts: Sequence[InstanceFindings]) -> InstanceFindings:
    """Return the findings of one instance from its parts, in order; what several parts say of the whole holds once."""
    if len(parts) == 1:
        return parts[0]
    sampled = any(part.cells_found is not None for part in parts)
    unreadable = {frame.number: frame for part in parts for frame in part.unreadable}
    scales = (part.scale for part in parts if part.scale is not None)
    return replace(
        parts[0],
        frames=max(part.frames for part in parts),
        cells=tuple(cell for part in parts for cell in part.cells),
        fault=next((part.fault for part in parts if part.fault is not None), None),
        scale=min(scales, key=lambda scale: _SUREST_FIRST.index(scale.origin), default=None),
        cells_found=sum(part.found for part in parts) if sampled else None,
        remarks=tuple(dict.fromkeys(remark for part in parts for remark in part.remarks)),
        unreadable=tuple(unreadable[number] for number in sorted(unreadable)),
        measured_um=tuple(spacing for part in parts for spacing in part.measured_um),
    )


def complete(whole: InstanceFindings) -> InstanceFindings:
    """Return the findings of a whole instance with what only the whole can tell; doing so again changes nothing.

    That is: a fault where no frame can be decoded, else one remark on the frames that cannot; the remark that there are
    no cells; and the middle one of the scales that its frames were measured to have.
    """
    fault, remarks, unreadable = whole.fault, whole.remarks, whole.unreadable
    if unreadable:
        remarks = tuple(remark for remark in remarks if remark.kind is not RemarkKind.UNREADABLE_FRAMES)
        if len(unreadable) == whole.frames:
            fault = fault or f"no frame can be decoded: {unreadable[0].reason}"
        else:
            remarks = (_not_judged(unreadable), *remarks)
    told = fault is not None or whole.found > 0 or whole.left_out or NO_CELLS in remarks
    told = told or any(remark.kind is RemarkKind.NOT_ANALYSED for remark in remarks)
    scale = whole.scale
    if whole.measured_um:
        scale = Scale(sorted(whole.measured_um)[len(whole.measured_um) // 2], ScaleOrigin.RED_CELLS)
    return replace(whole, fault=fault, scale=scale, remarks=remarks if told else (*remarks, NO_CELLS))


def _not_judged(frames: Sequence[UnreadableFrame]) -> Remark:
    named = ", ".join(str(frame.number) for frame in frames[:_FRAMES_NAMED])
    more = f" and {len(frames) - _FRAMES_NAMED} more" if len(frames) > _FRAMES_NAMED else ""
    text = f"{len(frames)} of its frames could not be decoded and so not judged: {named}{more}. {frames[0].reason}."
    return Remark(RemarkKind.UNREADABLE_FRAMES, text)
