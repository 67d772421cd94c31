"""ICC profile to sRGB."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms
from pydicom import Dataset

#: Larger profiles are not read: those of scanners have some kilobytes, with large tables a few megabytes.
_MAX_PROFILE_BYTES = 16 * 1024**2


class ToSrgb:
    """Turns RGB under an instance's ICC profile into sRGB.

    A profile that is missing, broken, not of RGB or that of sRGB itself changes nothing: the pixels are then what they
    would be taken for without one.

    Parameters
    ----------
    header:
        With its ICC Profile, or its Optical Path Sequence.
    optical_path:
        Index of the item of the Optical Path Sequence whose profile counts.

    Source: PS3.3 C.11.15 (ICC Profile), C.8.12.5 (Optical Path).
    """

    def __init__(self, header: Dataset, optical_path: int = 0) -> None:
        self._transform: ImageCms.ImageCmsTransform | None = None
        content = _profile(header, optical_path)
        if content is None:
            return
        try:
            profile = ImageCms.ImageCmsProfile(BytesIO(content))
            name = (profile.profile.profile_description or "").lower()
            if profile.profile.xcolor_space.strip() == "RGB" and "srgb" not in name:
                self._transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), "RGB", "RGB")
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            self._transform = None

    def __call__(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return an ``uint8`` array of shape (rows, columns, 3) in sRGB."""
        if self._transform is None:
            return rgb
        image = ImageCms.applyTransform(Image.fromarray(rgb), self._transform)
        return rgb if image is None else np.array(image)


def _profile(header: Dataset, optical_path: int) -> bytes | None:
    paths = header.get("OpticalPathSequence") or ()
    places = [header, *([paths[optical_path]] if optical_path < len(paths) else [])]
    for place in places:
        content = place.get("ICCProfile")
        if isinstance(content, bytes) and 0 < len(content) <= _MAX_PROFILE_BYTES:
            return content
    return None
