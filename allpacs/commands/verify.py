"""``allpacs verify``: compare spool, results, index and digests."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from rich.console import Console

from allpacs.flow.recovery import recover
from allpacs.settings import Settings
from allpacs.store.scrub import SETTLED_S, Damage, Scrubbed
from allpacs.store.store import Store


def verify(store: Store, settings: Settings, *, repair: bool) -> dict[str, Any]:
    """Look at everything that is kept, and return what was seen and what is wrong.

    Parameters
    ----------
    repair:
        Take in or put aside files that the index does not know. What is missing or altered cannot be repaired here:
        the sender has to send it again, and the same bytes are then put back.
    """
    adopted, put_aside = (0, 0)
    if repair:
        receive = settings.receive
        adopted, put_aside = recover(store, quiet_s=receive.quiet_s, max_age_s=receive.max_age_s)
    seen = Scrubbed()
    wrong = list(store.scrub.run(seen, not_after=time.time() - SETTLED_S))
    counts = Counter(one.damage for one in wrong)
    return {
        "instances": seen.instances,
        "artefacts": seen.artefacts,
        "bytes": seen.bytes,
        **{str(damage): counts[damage] for damage in Damage},
        "taken_in": adopted,
        "put_aside": put_aside,
        "damaged": [
            {"damage": str(one.damage), "what": one.what, "study_uid": one.study_uid, "path": one.path} for one in wrong
        ],
    }


def print_verified(found: dict[str, Any]) -> None:
    """Print what `verify` returned, for people."""
    console = Console(highlight=False, soft_wrap=True)
    for one in found["damaged"]:
        console.print(f"[red]{one['damage']}[/red] {one['what']} {one['path']}")
    console.print(
        f"{found['instances']} instances and {found['artefacts']} results looked at "
        f"({found['bytes'] / 1e6:.1f} MB): {found['missing']} missing, {found['altered']} altered, "
        f"{found['orphan']} files that the index does not know"
    )
    if found["taken_in"] or found["put_aside"]:
        console.print(f"{found['taken_in']} files taken in, {found['put_aside']} put aside in spool/quarantine")
