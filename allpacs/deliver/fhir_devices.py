"""The Devices that all transactions share are written once, not with every report.

Each Bundle holds the Devices of the model and of the computer, as conditional updates. Two transactions that update
one resource at the same time conflict (409), so a server that takes several at once would refuse most of them, report
after report. A Device that this server has taken before, with the same content, is therefore sent as a conditional
create: where it exists, the server leaves it alone, and the references of the transaction lead to it all the same.

Source: HL7 FHIR R4 sections 3.1.0.8.1 (conditional create), 3.1.0.11.2 (references in a transaction).
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from typing import Any

#: A site has a handful of models and computers; a server is told again when there are more.
_MOST = 256


class KnownDevices:
    """Remembers what a server holds of the Devices. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._digests: dict[str, str] = {}

    def spare(self, bundle: dict[str, Any]) -> bool:
        """Turn the update of each Device that the server holds as it is into a conditional create.

        Returns
        -------
        bool
            Whether the Bundle was changed.
        """
        changed = False
        for entry, condition, digest in _updates(bundle):
            with self._lock:
                known = self._digests.get(condition) == digest
            if known:
                entry["request"] = {"method": "POST", "url": "Device", "ifNoneExist": condition}
                changed = True
        return changed

    def learn(self, bundle: dict[str, Any]) -> None:
        """Remember the Devices of a Bundle that the server has taken."""
        for _, condition, digest in _updates(bundle):
            with self._lock:
                if len(self._digests) >= _MOST:
                    self._digests.clear()
                self._digests[condition] = digest


def _updates(bundle: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str, str]]:
    """Yield each conditional update of a Device: its entry, condition and the digest of the resource."""
    for entry in bundle["entry"]:
        request = entry.get("request")
        if entry["resource"]["resourceType"] != "Device" or not isinstance(request, dict):
            continue
        path, _, condition = str(request.get("url", "")).partition("?")
        if request.get("method") == "PUT" and path == "Device" and condition:
            content = json.dumps(entry["resource"], sort_keys=True).encode()
            yield entry, condition, hashlib.sha256(content).hexdigest()
