"""Kill -9 while storing: what was acknowledged is there afterwards, whole."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from allpacs.domain.instance import InstanceIdentity
from allpacs.store.store import Store

STORING = """
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from allpacs.domain.instance import InstanceIdentity
from allpacs.store.store import Store

store = Store.open(Path(sys.argv[1]))

def keep(number):
    uid = f"1.2.{number}"
    store.receiving.keep_instance(
        InstanceIdentity(uid, "1.2.1", "1.2.2", f"1.3.{number % 3}", "1.4"), b"meta", uid.encode() * 20_000,
        calling_ae="PACS", received_at=100.0, quiet_s=10.0, max_age_s=60.0,
    )
    os.write(1, f"{uid}\\n".encode())  # whole, though four threads write

with ThreadPoolExecutor(4) as threads:
    list(threads.map(keep, range(100_000)))
"""


@pytest.mark.parametrize("acknowledged_before_kill", [1, 40])
def test_every_acknowledged_instance_survives_a_kill(tmp_path: Path, acknowledged_before_kill: int) -> None:
    process = subprocess.Popen([sys.executable, "-c", STORING, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    acknowledged = [process.stdout.readline().strip() for _ in range(acknowledged_before_kill)]
    time.sleep(0.05)
    process.kill()
    acknowledged += [line.strip() for line in process.stdout if line.endswith("\n")]
    assert process.wait(timeout=10) == -9

    store = Store.open(tmp_path)
    closed = store.revisions.close_due(110.0)
    rows = {
        row.sop_instance_uid: row
        for study_uid, revision in closed
        for row in store.revisions.instances(study_uid, revision)
    }
    assert set(acknowledged) <= set(rows)
    for uid, row in rows.items():
        assert row.path.read_bytes() == b"meta" + uid.encode() * 20_000
    # What was not acknowledged is sent again, and taken.
    for number in range(len(rows) + 8):
        uid = f"1.2.{number}"
        outcome = store.receiving.keep_instance(
            InstanceIdentity(uid, "1.2.1", "1.2.2", f"1.3.{number % 3}", "1.4"), b"meta", uid.encode() * 20_000,
            calling_ae="PACS", received_at=200.0, quiet_s=10.0, max_age_s=60.0,
        )  # fmt: skip
        assert outcome == ("same" if uid in rows else "stored")
