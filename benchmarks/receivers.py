"""What takes instances: allpacs, DCMTK's storescp, Orthanc; and DCMTK's storescu, which sends to each of them.

All at their best settings: ``TCP_NODELAY=1`` (DCMTK waits 40 ms an instance on loopback without it), PDUs of 128 KiB.
storescp writes files and syncs none of them; allpacs answers when an instance is synced and indexed.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PDU_BYTES = 131_072
_ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1"}
_LONGEST_S = 3600.0
_DCMTK = Path("/usr/bin")  # pynetdicom puts programs of the same names into the virtual environment


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def send_at_once(parts: Sequence[Sequence[Path]], port: int, called_ae: str = "ANY") -> None:
    """Send each part over an association of its own, all at the same time.

    Raises
    ------
    RuntimeError
        Not every instance was taken.
    """
    with tempfile.TemporaryDirectory(dir=parts[0][0].parent.parent) as lists:
        processes = [_storescu(part, port, called_ae, Path(lists, str(number))) for number, part in enumerate(parts)]
        for process in processes:
            try:
                _, said = process.communicate(timeout=_LONGEST_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise RuntimeError(f"storescu has not ended within {_LONGEST_S:.0f} s") from None
            if process.returncode:
                raise RuntimeError(f"storescu: {said.decode(errors='replace')[-400:]}")


def _storescu(files: Sequence[Path], port: int, called_ae: str, listed: Path) -> subprocess.Popen[bytes]:
    # 50,000 names are more than a command line holds: DCMTK's programs read further arguments from a file.
    listed.write_text("\n".join(map(str, files)), encoding="utf-8")
    sizes = ["--max-pdu", str(PDU_BYTES), "--max-send-pdu", str(PDU_BYTES)]
    command = [str(_DCMTK / "storescu"), *sizes, "-aec", called_ae, "127.0.0.1", str(port), f"@{listed}"]
    return subprocess.Popen(command, env=_ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


@contextmanager
def allpacs(folder: Path, *verb: str, extra: str = "", quiet_s: float = 3600.0, processes: int = 1) -> Iterator[int]:
    """Run ``allpacs receive`` (or another verb) with a store of its own; yield its DICOM port."""
    port = free_port()
    folder.mkdir(parents=True)
    configuration = folder / "allpacs.toml"
    configuration.write_text(
        f"""
[receive]
port = {port}
processes = {processes}
require_called_ae_title = false
quiet_s = {quiet_s}
min_free_mb = 100
[store]
folder = {json.dumps(str(folder / "store"))}
[console]
enabled = false
[log]
format = "json"
level = "warning"
{extra}
"""
    )
    program = [sys.executable, "-m", "allpacs", *(verb or ("receive",)), "--config", str(configuration)]
    with (folder / "allpacs.log").open("wb") as log, _running(program, log, folder) as _:
        wait_for_echo(port)
        yield port


@contextmanager
def storescp(folder: Path) -> Iterator[int]:
    """Run DCMTK's storescp, one process an association; yield its port. It listens on every address."""
    port = free_port()
    folder.mkdir(parents=True)
    program = [str(_DCMTK / "storescp"), "--fork", "--max-pdu", str(PDU_BYTES), "-od", str(folder), str(port)]
    with (folder.parent / "storescp.log").open("wb") as log, _running(program, log, folder):
        wait_for_echo(port)
        yield port


@contextmanager
def orthanc(folder: Path) -> Iterator[int]:
    """Run Orthanc without plugins; yield its DICOM port. It listens on every address."""
    port = free_port()
    folder.mkdir(parents=True)
    configuration = {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "DicomPort": port,
        "DicomCheckCalledAet": False,
        "HttpServerEnabled": False,
        "MaximumPduLength": PDU_BYTES,
        "UnknownSopClassAccepted": True,
    }
    (folder / "orthanc.json").write_text(json.dumps(configuration))
    program = ["/usr/sbin/Orthanc", str(folder / "orthanc.json")]
    with (folder / "orthanc.log").open("wb") as log, _running(program, log, folder):
        wait_for_echo(port)
        yield port


@contextmanager
def _running(program: list[str], log: object, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(program, env=_ENVIRONMENT, stdout=log, stderr=log)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        stop(process)
        shutil.rmtree(folder, ignore_errors=True)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process; kill it where it does not."""
    process.terminate()
    try:
        process.wait(90)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)


def wait_for_echo(port: int) -> None:
    """Return when a receiver answers C-ECHO."""
    until = time.monotonic() + 60
    while subprocess.run(
        [str(_DCMTK / "echoscu"), "-to", "2", "127.0.0.1", str(port)], capture_output=True, check=False
    ).returncode:
        if time.monotonic() > until:
            raise RuntimeError(f"nobody answers on port {port}")
        time.sleep(0.05)
