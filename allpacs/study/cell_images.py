"""What the network saw of the cells of a reading, kept for the report that a person's signature makes of it.

The report shows each cell as it was judged. At signing the study may have been read months ago, its source deleted, the
model replaced; and to find the cells of a whole slide again would take as long as the reading did.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from allpacs.domain.errors import StoreDamaged
from allpacs.report.context import CellPicture


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures of cells by tracking UID.

    Attributes
    ----------
    thumbnails:
        JPEG of every reported cell.
    key:
        The cells of the key images.
    """

    thumbnails: Mapping[str, bytes]
    key: Mapping[str, CellPicture]

    def packed(self) -> bytes:
        """Return them as a NumPy archive; the same ones give the same bytes."""
        arrays: dict[str, NDArray[np.uint8] | NDArray[np.float32]] = {
            f"thumbnail/{uid}": np.frombuffer(jpeg, np.uint8) for uid, jpeg in self.thumbnails.items()
        }
        for uid, picture in self.key.items():
            arrays[f"key/{uid}"] = picture.rgb
            if picture.evidence is not None:
                arrays[f"evidence/{uid}"] = picture.evidence
        file = BytesIO()
        np.savez(file, allow_pickle=False, **arrays)
        return file.getvalue()

    @classmethod
    def unpacked(cls, content: bytes) -> Self:
        """Return what was packed.

        Raises
        ------
        StoreDamaged
            The bytes are not what was packed.
        """
        thumbnails: dict[str, bytes] = {}
        arrays: dict[str, dict[str, Any]] = {"key": {}, "evidence": {}}
        try:
            with np.load(BytesIO(content), allow_pickle=False) as archive:
                for name in archive.files:
                    kind, _, uid = name.partition("/")
                    if kind == "thumbnail":
                        thumbnails[uid] = archive[name].tobytes()
                    else:
                        arrays[kind][uid] = archive[name]
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise StoreDamaged(f"pictures of cells cannot be read ({type(error).__name__})") from error
        return cls(
            thumbnails, {uid: CellPicture(rgb, arrays["evidence"].get(uid)) for uid, rgb in arrays["key"].items()}
        )
