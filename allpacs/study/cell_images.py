"""Crops of the analysed cells, stored with the analysis and shown in its reports.

A report shows each cell as the network saw it. When a person signs, the source images may have been deleted and the
model replaced, and finding the cells of a whole slide again would take as long as the analysis did.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Self

import numpy as np
import structlog
from numpy.typing import NDArray
from PIL import Image

from allpacs.classify import aggregate
from allpacs.classify.saliency import Explain
from allpacs.domain.errors import ModelFault, StoreDamaged
from allpacs.domain.findings import CellFinding, CellLabel, StudyFindings
from allpacs.report.context import CellImage
from allpacs.report.key_images import key_cells
from allpacs.store.store import Store

Crops = NDArray[np.uint8]

_LYMPHOBLAST = aggregate.LABELS.index(CellLabel.ALL)

_log = structlog.get_logger("allpacs.study.cell_images")


@dataclass(frozen=True, slots=True)
class CellImages:
    """CellImages of cells by tracking UID.

    Attributes
    ----------
    thumbnails:
        JPEG of every reported cell.
    key:
        The cells of the key images.
    """

    thumbnails: Mapping[str, bytes]
    key: Mapping[str, CellImage]

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
        return cls(thumbnails, {uid: CellImage(rgb, arrays["evidence"].get(uid)) for uid, rgb in arrays["key"].items()})


class CellImageStore:
    """Makes the images of an analysis, and finds those of an earlier one.

    Parameters
    ----------
    explain:
        Returns saliency maps; None: the model cannot explain itself.
    key_images:
        Largest number of cells on the key images.
    """

    def __init__(self, store: Store, explain: Explain | None, key_images: int) -> None:
        self._store, self._explain, self._key_images = store, explain, key_images

    def of(
        self, findings: StudyFindings, after: StudyFindings, cells: Callable[[], Iterable[tuple[CellFinding, Crops]]]
    ) -> CellImages:
        """Return the images of the cells of a revision. A signed revision uses those stored with its analysis.

        A key cell that became one by a person's decision was stored as JPEG, and is explained from that.

        Parameters
        ----------
        after:
            The findings as reported: of a signed revision, with the person's decisions.
        cells:
            Returns the reported cells with their crops; called only if nothing is stored.
        """
        study_uid, reading = findings.study_uid, findings.revision
        while (made := self._store.reviews.made(study_uid, reading)) is not None:
            reading = made.revision
        chosen = {cell.tracking_uid for cell in key_cells(after.cells, self._key_images)}
        kept = None if reading == findings.revision else self._stored(study_uid, reading)
        if kept is not None:
            known = {uid: picture for uid, picture in kept.key.items() if uid in chosen}
            others = {
                uid: _rgb(kept.thumbnails[uid]) for uid in sorted(chosen - known.keys()) if uid in kept.thumbnails
            }
            return CellImages(kept.thumbnails, known | self._explained(study_uid, others))
        thumbnails, crops = {}, {}
        for cell, crop in cells():
            thumbnails[cell.tracking_uid] = _jpeg(crop)
            if cell.tracking_uid in chosen:
                crops[cell.tracking_uid] = np.array(crop)
        images = CellImages(thumbnails, self._explained(study_uid, crops))
        self._store.artefacts.put_pictures(study_uid, reading, images.packed())
        return images

    def _stored(self, study_uid: str, reading: int) -> CellImages | None:
        kept = self._store.artefacts.pictures(study_uid, reading)
        with suppress(StoreDamaged):
            return None if kept is None else CellImages.unpacked(kept)
        return None

    def _explained(self, study_uid: str, crops: Mapping[str, Crops]) -> dict[str, CellImage]:
        """Return the crops, each with the evidence for a lymphoblast if the model can explain itself."""
        if self._explain is None or not crops:
            return {uid: CellImage(crop) for uid, crop in crops.items()}
        try:
            maps = self._explain(np.stack(list(crops.values())), [_LYMPHOBLAST] * len(crops))
        except ModelFault as fault:  # the cells are judged: their report does not wait for what would be nice to see
            _log.warning("cells_not_explained", study_uid=study_uid, reason=str(fault))
            return {uid: CellImage(crop) for uid, crop in crops.items()}
        return {uid: CellImage(crop, evidence) for (uid, crop), evidence in zip(crops.items(), maps, strict=True)}


def _jpeg(crop: Crops) -> bytes:
    buffer = BytesIO()
    Image.fromarray(crop).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _rgb(jpeg: bytes) -> Crops:
    return np.asarray(Image.open(BytesIO(jpeg)).convert("RGB"))
