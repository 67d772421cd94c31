"""``allpacs use-model``: ask the workers for another bundle, wait for their answer, and show what was asked."""

from __future__ import annotations

import getpass
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from allpacs.app import make_pipeline
from allpacs.domain.errors import ModelFault
from allpacs.settings import Settings
from allpacs.store.bundles import BundleChange, BundleState
from allpacs.store.store import Store

#: Between two looks for the answer, seconds.
_LOOK_S = 0.2


def ask_for(store: Store, settings: Settings, folder: Path, *, wait_s: float) -> str:
    """Ask for a bundle, and return what a worker said within the time, or that none has said anything yet.

    Raises
    ------
    ModelFault
        The bundle is not whole or not signed, which is seen before anybody is asked, or a worker has refused it.
    """
    folder = folder.resolve()
    bundle = make_pipeline(settings, folder).bundle
    number = store.bundles.ask(folder, configured=settings.model.bundle, by=getpass.getuser(), now=time.time())
    until = time.monotonic() + wait_s
    while (change := store.bundles.get(number)).state is BundleState.ASKED and time.monotonic() < until:
        time.sleep(_LOOK_S)
    name = f"{bundle.contract.name} {bundle.contract.version}"
    if change.state is BundleState.REFUSED:
        raise ModelFault(f"{name} is refused, the bundle in service stays: {change.reason}")
    if change.state is BundleState.ASKED:
        return f"{name} is asked for; no worker has answered yet: see allpacs use-model"
    return f"new studies are read with {name} ({change.digest})"


def changes_json(changes: Sequence[BundleChange]) -> list[dict[str, object]]:
    """Return requests as they are printed with ``--json``, newest first."""
    return [
        {**asdict(one), "folder": str(one.folder), "configured": str(one.configured), "state": str(one.state)}
        for one in changes
    ]


def changes_lines(changes: Sequence[BundleChange]) -> list[str]:
    """Return requests as lines to read, newest first; whole paths, so that they can be copied."""
    lines = []
    for one in changes:
        at = datetime.fromtimestamp(one.asked_at, UTC).astimezone().strftime("%Y-%m-%d %H:%M")
        outcome = f"{one.state}: {one.digest or one.reason}" if one.digest or one.reason else str(one.state)
        lines.append(f"{at}  {one.folder}  asked by {one.asked_by}  {outcome}")
    return lines or ["no other bundle than the configured one was asked for"]
