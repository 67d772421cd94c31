"""``python tests/many_cells_run.py``: a study of 50,000 cells through the whole plugin, with the memory that it takes.

The study is multi-frame instances whose frames show one synthetic cell on black each, so that finding them is cheap.
Printed, as JSON: what `slide_run.follow` tells. Takes minutes; not part of ``make test``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from io import BytesIO
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

from PIL import Image  # noqa: E402
from pydicom import Dataset, dcmread  # noqa: E402
from pydicom.dataset import FileMetaDataset  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.uid import JPEGBaseline8Bit, MultiFrameTrueColorSecondaryCaptureImageStorage  # noqa: E402

from allpacs.demo.synthetic import draw_cell  # noqa: E402
from allpacs.domain.identity import derive_uid  # noqa: E402
from slide_run import follow  # noqa: E402

SIDE_PX, KINDS, FRAMES = 80, 40, 1040


def write_study(folder: Path, instances: int) -> list[Path]:
    """Write so many instances of `FRAMES` cells each, and return their files."""
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
    ds.HighBit, ds.PixelRepresentation, ds.NumberOfFrames = 7, 0, FRAMES
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    paths = []
    for number in range(instances):
        ds.SOPInstanceUID, ds.InstanceNumber = derive_uid("many cells", str(number)), number + 1
        frames = [encoded[(number + frame) % KINDS] for frame in range(FRAMES)]
        ds.add_new("PixelData", "OB", encapsulate(frames))
        ds["PixelData"].is_undefined_length = True
        paths.append(folder / f"{number:04d}.dcm")
        ds.save_as(paths[-1], enforce_file_format=True)
    assert dcmread(paths[0], stop_before_pixels=True).NumberOfFrames == FRAMES
    return paths


def main() -> None:
    """Read one study and print the facts."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--instances", type=int, default=50, help=f"of {FRAMES} cells each")
    parser.add_argument("--max-cells", type=int, default=10_000, help="cells judged, at most")
    parser.add_argument("--stand-in", action="store_true", help="judge by brightness, without the network")
    parser.add_argument("--timeout", type=float, default=7200.0, help="seconds")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="many-cells") as folder:
        files = write_study(Path(folder) / "study", options.instances)
        how = {"max_cells": options.max_cells, "timeout_s": options.timeout, "stand_in": options.stand_in}
        facts: dict[str, object] = {"instances": options.instances, "cells": options.instances * FRAMES}
        # An instance is as large as thirty usual ones: two of them between checkpoints.
        facts |= follow(files, Path(folder), more="chunk_instances = 2\n", **how)
    print(json.dumps(facts, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
