"""``python tests/support/large_instance_run.py``: send gigabytes in one instance, measure the memory.

The finest level of a whole slide, in tiles of noise that nobody decodes. Printed, as JSON: its size, the answer, and
the receiver's largest resident memory. Not part of ``make test``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from itertools import repeat
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from pydicom.uid import JPEGBaseline8Bit  # noqa: E402
from pynetdicom import AE, _config  # noqa: E402

from support.hospital import AE_TITLE, SENDER, StubHospital  # noqa: E402
from support.slide_maker import WHOLE_SLIDE, slide_header, write_file  # noqa: E402
from support.slide_run import peak_mb  # noqa: E402

SIDE_PX, TILE_BYTES = (80_000, 100_000), 64_000


def send(path: Path, port: int) -> int | None:
    """Send a file without ever having it in memory, and return the answer; None: there was none."""
    _config.STORE_SEND_CHUNKED_DATASET = True
    ae = AE(SENDER)
    ae.add_requested_context(WHOLE_SLIDE, JPEGBaseline8Bit)
    ae.dimse_timeout = ae.network_timeout = 900
    association = ae.associate("127.0.0.1", port, ae_title=AE_TITLE)
    if not association.is_established:
        return None
    status = association.send_c_store(path).get("Status")
    association.release()
    return None if status is None else int(status)


def main() -> None:
    """Send one instance and print the facts."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mb", type=int, default=1500, help="its size")
    options = parser.parse_args()
    tiles = options.mb * 1_000_000 // TILE_BYTES
    with tempfile.TemporaryDirectory(prefix="large-instance") as name:
        folder = Path(name)
        path = folder / "level.dcm"
        with path.open("wb") as file:
            write_file(file, slide_header(*SIDE_PX, 256, tiles, uid="2.25.1"), repeat(os.urandom(TILE_BYTES), tiles))
        with StubHospital(folder) as hospital, hospital.running("receive") as receiver:
            hospital.wait_for_echo(300)
            before, began = peak_mb(receiver.pid), time.monotonic()
            status = send(path, hospital.port)
            facts = {
                "instance_mb": round(path.stat().st_size / 1e6),
                "answer": "none" if status is None else f"{status:04X}",
                "seconds": round(time.monotonic() - began),
                "peak_mb_before": round(before),
                "peak_mb": round(peak_mb(receiver.pid)),
            }
    print(json.dumps(facts, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
