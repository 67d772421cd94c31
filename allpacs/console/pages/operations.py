"""Operations: what comes in, what waits, what was given up, and how to ask for it again. No patient data."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import structlog
from starlette.responses import RedirectResponse, Response

from allpacs.audit.messages import AuditEvent
from allpacs.classify.bundle import load_bundle
from allpacs.classify.signature import check_signature
from allpacs.console.visit import Visit
from allpacs.deliver.c_store import echo
from allpacs.dicom.tls import Tls, TlsFiles, client_tls
from allpacs.domain.errors import DeliveryUnavailable, InputFault, ModelFault
from allpacs.domain.identity import is_uid
from allpacs.settings import Settings
from allpacs.store.records import DeliveryState, RevisionState
from allpacs.store.retries import retry_study
from allpacs.telemetry.recent_log import recent_lines

_log = structlog.get_logger("allpacs.console")

#: States of deliveries that are shown as columns, in order.
STATES = (
    DeliveryState.QUEUED,
    DeliveryState.SENDING,
    DeliveryState.RETRYING,
    DeliveryState.UNCOMMITTED,
    DeliveryState.SENT,
    DeliveryState.COMMITTED,
    DeliveryState.DEAD,
)
_MOST_LISTED = 100
_ECHO_S = 2.0
_LOG_LINES = 100
_CHANGES_SHOWN = 5
#: Least levels of log lines that a reader chooses from.
_LEVELS_SHOWN = ("info", "warning", "error")


def show(visit: Visit) -> Response:
    """Show the page."""
    store, settings = visit.store, visit.console.settings
    level = visit.query("level") if visit.query("level") in _LEVELS_SHOWN else _LEVELS_SHOWN[0]
    dead = store.deliveries.in_state(DeliveryState.DEAD)
    retrying = store.deliveries.in_state(DeliveryState.RETRYING)
    return visit.page(
        "operations.html",
        receive=settings.receive,
        free_bytes=store.receiving.free_bytes(),
        by_state=store.worklist.by_state(),
        destinations={name: configured.address for name, configured in settings.destinations.items()},
        counts=store.deliveries.counts(),
        unclaimed=Counter(row.destination for row in store.deliveries.unclaimed(settings.destinations)),
        states=STATES,
        attention=store.studies.latest(state=RevisionState.ATTENTION, limit=_MOST_LISTED),
        reasons={row.study_uid: row.reason for row in store.revisions.in_state(RevisionState.ATTENTION)},
        dead=dead[:_MOST_LISTED],
        dead_count=len(dead),
        retrying=retrying[:_MOST_LISTED],
        bundle=visit.console.in_use.bundle,
        changes=store.bundles.latest(_CHANGES_SHOWN),
        folder=settings.store.folder,
        events=store.audit.latest(60),
        asked=visit.query("asked"),
        level=level,
        levels=_LEVELS_SHOWN,
        lines=recent_lines(settings.store.folder, most=_LOG_LINES, least_level=level),
        now=time.time(),
    )


def receiver(visit: Visit) -> Response:
    """Show whether our own receiver answers; apart from the page, which does not wait for it."""
    answer = _receiver_answer(visit.console.settings)
    return visit.page("operations_receiver.html", answer=answer)


def retry(visit: Visit) -> Response:
    """Ask again for a study's reading and deliveries; without a study, for everything that was given up."""
    given = visit.posted("study")
    if given and not is_uid(given):
        return RedirectResponse("/operations", 303)
    wanted = [given] if given else _given_up(visit)
    now = time.time()
    for study_uid in wanted:
        asked = retry_study(visit.store, study_uid, now=now)
        if not asked.nothing:
            visit.store.audit.record(
                "asked_again", at=now, study_uid=study_uid, reason=f"by {visit.someone.identifier}"
            )
    _log.info("asked_again", count=len(wanted))
    return RedirectResponse(f"/operations?asked={len(wanted)}", 303)


def use_model(visit: Visit) -> Response:
    """Ask the workers to read new studies with the bundle of another folder.

    Raises
    ------
    InputFault
        There is no bundle, it is not what it says it is, or not signed by whom `model.trusted_key` trusts.
    """
    model, folder, now = visit.console.settings.model, Path(visit.posted("folder").strip()), time.time()
    if not folder.is_absolute():
        raise InputFault("name the folder of the bundle from the root on, as every worker sees it")
    try:
        bundle = load_bundle(folder)
        if model.trusted_key is not None:
            check_signature(folder, model.trusted_key)
    except ModelFault as fault:
        raise InputFault(f"this bundle cannot be used: {fault}") from None
    who = visit.someone.identifier
    visit.store.bundles.ask(folder, configured=model.bundle, by=who, now=now)
    visit.store.audit.record("bundle_asked", at=now, reason=f"{bundle.digest} by {who}")
    visit.tell(AuditEvent.BUNDLE_ASKED)
    _log.info("bundle_asked", path=str(folder), digest=bundle.digest)
    return RedirectResponse("/operations#bundle", 303)


def _given_up(visit: Visit) -> list[str]:
    dead = {one.study_uid for one in visit.store.deliveries.in_state(DeliveryState.DEAD)}
    return sorted(dead | {row.study_uid for row in visit.store.revisions.in_state(RevisionState.ATTENTION)})


def _receiver_answer(settings: Settings) -> str | None:
    """Return why our own receiver does not answer C-ECHO, or None where it does."""
    receive = settings.receive
    try:
        echo(
            own_address(receive.host), receive.port, receive.ae_title, settings.console.ae_title,
            timeout_s=_ECHO_S, tls=own_tls(settings),
        )  # fmt: skip
    except DeliveryUnavailable as unavailable:
        return str(unavailable)
    return None


def own_address(host: str) -> str:
    """Return where this machine reaches a server of its own that listens there."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - read, not listened on


def own_tls(settings: Settings) -> Tls | None:
    """Return the TLS settings under which our own receiver takes us, or None where it uses none."""
    tls = settings.receive.tls
    if tls is None:
        return None
    password = None if tls.key_password is None else tls.key_password.get_secret_value()
    # The receiver shows our own certificate, which is for the machine's name and not for this address.
    return client_tls(TlsFiles(tls.certificate, tls.key, password, tls.trusted), check_hostname=False)
