"""What an object says of the distance between its pixels."""

from __future__ import annotations

import math
from collections.abc import Iterator

from pydicom import Dataset

from allpacs.domain.image import Scale, ScaleOrigin


def stated_scale(header: Dataset) -> Scale | None:
    """Return the distance between pixels on the object, from the surest source that states one.

    Pixel Spacing (of the shared functional groups, else of the data set), else Nominal Scanned Pixel Spacing, else
    Imager Pixel Spacing over the power of the objective: behind an objective it is the pitch of the camera, so without
    one it says nothing. A spacing whose rows and columns differ by more than 1 % is passed over.

    Source: PS3.3 10.7.1.3 (Pixel Spacing), C.8.11.3.1.2 (Imager Pixel Spacing), C.8.12.5 (Objective Lens Power).
    """
    places = [header]
    for shared in header.get("SharedFunctionalGroupsSequence") or ():
        places[:0] = shared.get("PixelMeasuresSequence") or ()
    for keyword, origin in (
        ("PixelSpacing", ScaleOrigin.PIXEL_SPACING),
        ("NominalScannedPixelSpacing", ScaleOrigin.NOMINAL),
    ):
        for place in places:
            spacing = _micrometres(place, keyword)
            if spacing is not None:
                return Scale(spacing, origin)
    pitch, power = _micrometres(header, "ImagerPixelSpacing"), next(_objectives(header), None)
    if pitch is not None and power is not None:
        return Scale(pitch / power, ScaleOrigin.OBJECTIVE)
    return None


def _objectives(header: Dataset) -> Iterator[float]:
    for path in header.get("OpticalPathSequence") or ():
        try:
            power = float(path.ObjectiveLensPower)
        except (AttributeError, TypeError, ValueError):
            continue
        if math.isfinite(power) and power > 0:
            yield power


def _micrometres(place: Dataset, keyword: str) -> float | None:
    try:
        between_rows, between_columns = (float(value) * 1000 for value in place[keyword].value)
    except (KeyError, TypeError, ValueError):
        return None  # a wrong spacing is not worth losing the pixels for
    usable = all(math.isfinite(value) and value > 0 for value in (between_rows, between_columns))
    return between_rows if usable and math.isclose(between_rows, between_columns, rel_tol=0.01) else None
