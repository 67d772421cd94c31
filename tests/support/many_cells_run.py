"""``python tests/support/many_cells_run.py``: a study of 50,000 cells, with the memory that it takes.

The study is multi-frame instances whose frames show one synthetic cell on black each, so that finding them is cheap;
with ``--instances 1 --frames 50000`` it is a single one.
Printed, as JSON: what `slide_run.follow` tells. Takes minutes; not part of ``make test``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402
from pydicom import Dataset, dcmread  # noqa: E402
from pydicom.dataset import FileMetaDataset  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.uid import JPEGBaseline8Bit, MultiFrameTrueColorSecondaryCaptureImageStorage  # noqa: E402

from allpacs.classify.bundle import load_bundle  # noqa: E402
from allpacs.demo.synthetic import draw_cell  # noqa: E402
from allpacs.domain.artefacts import ArtefactKind  # noqa: E402
from allpacs.domain.findings import CellFinding, InstanceFindings  # noqa: E402
from allpacs.domain.geometry import BoxPx  # noqa: E402
from allpacs.domain.identity import derive_uid  # noqa: E402
from allpacs.domain.image import Frame, UnreadableFrame  # noqa: E402
from allpacs.domain.instance import InstanceIdentity  # noqa: E402
from allpacs.settings import SHIPPED_BUNDLE  # noqa: E402
from allpacs.store.store import Store  # noqa: E402
from allpacs.study.options import StudyOptions  # noqa: E402
from allpacs.study.pipeline import Crops, ImageFile, Pipeline  # noqa: E402
from allpacs.study.steps import StudySteps  # noqa: E402
from faults.worker_process import brightness_logits  # noqa: E402
from support.slide_run import follow, peak_mb  # noqa: E402

SIDE_PX, KINDS = 80, 40


def write_study(folder: Path, instances: int, frames: int) -> list[Path]:
    """Write so many instances of so many frames, a cell on each, and return their files."""
    folder.mkdir(parents=True)
    encoded = []
    for seed in range(KINDS):
        file = BytesIO()
        picture = Image.fromarray(draw_cell(seed, blast=seed % 2 == 0))
        picture.resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS).save(file, "JPEG", quality=92)
        encoded.append(file.getvalue())
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID = MultiFrameTrueColorSecondaryCaptureImageStorage
    ds.StudyInstanceUID, ds.SeriesInstanceUID = derive_uid("many cells"), derive_uid("many cells", "series")
    ds.PatientName, ds.PatientID, ds.Modality = "Synthetic^Cells", "TEST-1", "OT"
    ds.Rows = ds.Columns = SIDE_PX
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "YBR_FULL_422", 0
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation, ds.NumberOfFrames = 7, 0, frames
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    paths = []
    for number in range(instances):
        ds.SOPInstanceUID, ds.InstanceNumber = derive_uid("many cells", str(number)), number + 1
        pictures = [encoded[(number + frame) % KINDS] for frame in range(frames)]
        ds.add_new("PixelData", "OB", encapsulate(pictures))
        ds["PixelData"].is_undefined_length = True
        paths.append(folder / f"{number:04d}.dcm")
        ds.save_as(paths[-1], enforce_file_format=True)
    assert dcmread(paths[0], stop_before_pixels=True).NumberOfFrames == frames
    return paths


class DrawnCells(Pipeline):
    """A pipeline that decodes images and does not look at them: one drawn cell on every frame, over and over."""

    def find_among(self, image: ImageFile, frames: Iterable[Frame | UnreadableFrame]) -> tuple[InstanceFindings, Crops]:
        """Return as many findings, and inputs of the network, as the real one would of such frames."""
        cells = tuple(
            CellFinding(image.sop_instance_uid, frame.number, 1, BoxPx(12, 12, 56, 56), _OUTLINE) for frame in frames
        )
        side = self.bundle.preprocessing.input_px
        crops = np.empty((len(cells), side, side, 3), np.uint8)
        crops[:] = draw_cell(0, blast=True, size_px=side)
        last = cells[-1].frame_number
        return InstanceFindings(image.sop_instance_uid, image.sop_class_uid, image.series_uid, last, cells), crops


def read_only(files: list[Path], folder: Path, max_cells: int) -> dict[str, object]:
    """Take a study through the store and the steps of a reading in this process, without looking at an image."""
    store = Store.open(folder / "store")
    for path in files:
        header = dcmread(path, stop_before_pixels=True)
        uids = (str(header[name].value) for name in ("SOPInstanceUID", "SOPClassUID"))
        identity = InstanceIdentity(*uids, JPEGBaseline8Bit, header.StudyInstanceUID, header.SeriesInstanceUID)
        with path.open("rb") as data_set:
            store.receiving.keep_instance(
                identity, b"", data_set, calling_ae="X", received_at=1.0, quiet_s=0.0, max_age_s=1.0
            )
    ((study_uid, revision),) = store.revisions.close_due(10.0)
    reading = StudySteps(
        store=store,
        pipeline=DrawnCells(load_bundle(SHIPPED_BUNDLE), max_cells=max_cells),
        predict=brightness_logits,
        work_folder=folder / "work",
        options=StudyOptions(chunk_instances=32, cell_finder={}, host_name="here"),
    )
    chunks = reading.begin(study_uid, revision)
    peaks = {"before": round(peak_mb(os.getpid()))}
    for chunk in range(chunks):
        reading.find_cells(study_uid, revision, chunk)
        reading.classify(study_uid, revision, chunk)
        if (chunk + 1) * 10 // chunks > chunk * 10 // chunks or chunk == 0:
            peaks[f"{chunk + 1} of {chunks}"] = round(peak_mb(os.getpid()))
            print(f"{chunk + 1} of {chunks}", file=sys.stderr, flush=True)  # noqa: T201
    reading.report(study_uid, revision)
    peaks["reported"] = round(peak_mb(os.getpid()))
    found = store.findings.get(study_uid, revision)
    sr = next(one for one in store.artefacts.get(study_uid, revision) if one.kind is ArtefactKind.SR)
    store.close()
    return {
        "cells_found": sum(one.found for one in found),
        "cells_judged": sum(len(one.cells) for one in found),
        "remarks": sorted({remark.text for one in found for remark in one.remarks}),
        "report_mb": round(len(sr.content) / 1e6, 1),
        "peak_mb": peaks,
    }


_OUTLINE = tuple((40 + 28 * math.cos(t * math.pi / 16), 40 + 28 * math.sin(t * math.pi / 16)) for t in range(32))


def main() -> None:
    """Read one study and print the facts."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--instances", type=int, default=50, help="instances of the study")
    parser.add_argument("--frames", type=int, default=1040, help="frames of each instance, a cell on each")
    parser.add_argument("--max-cells", type=int, default=10_000, help="cells judged, at most")
    parser.add_argument("--stand-in", action="store_true", help="judge by brightness, without the network")
    parser.add_argument(
        "--no-images", action="store_true", help="in one process, without network, associations and finding"
    )
    parser.add_argument("--timeout", type=float, default=7200.0, help="seconds")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="many-cells") as folder:
        files = write_study(Path(folder) / "study", options.instances, options.frames)
        how = {"max_cells": options.max_cells, "timeout_s": options.timeout, "stand_in": options.stand_in}
        facts: dict[str, object] = {"instances": options.instances, "cells": options.instances * options.frames}
        if options.no_images:
            print(json.dumps(facts | read_only(files, Path(folder), options.max_cells), indent=1))  # noqa: T201
            return
        facts |= follow(files, Path(folder), **how)
    print(json.dumps(facts, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
