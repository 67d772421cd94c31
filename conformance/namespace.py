"""A network namespace with nothing but loopback: some peers listen on every address, and here nobody reaches them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_MARK = "ALLPACS_CONFORMANCE_NAMESPACE"


def inside() -> bool:
    """Whether this process is in a namespace that `enter` made."""
    return os.environ.get(_MARK) == "1" and [name for _, name in socket.if_nameindex()] == ["lo"]


def enter() -> int:
    """Run the suite in a namespace of its own; return its exit status."""
    unshare = ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-rn"]
    command = f'ip link set lo up && exec "{sys.executable}" -m conformance'
    environment = {**os.environ, _MARK: "1", "PYTHONPATH": str(_ROOT)}
    return subprocess.run([*unshare, "sh", "-c", command], env=environment, cwd=_ROOT, check=False).returncode
