"""The receiver and what goes on beside it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from allpacs.dicom.certificates import make_tls
from allpacs.domain.errors import StoreFault
from allpacs.settings import Settings
from allpacs.store.store import Store

if TYPE_CHECKING:
    from allpacs.audit.trail import AuditTrail
    from allpacs.dicom.commitment import Answer
    from allpacs.receive.scp import StorageScp

_log = structlog.get_logger("allpacs.app")

#: A file staged for longer than this was left by a receiver that was killed, seconds.
_STAGED_FOR_S = 86_400.0


def accepted_transfer_syntaxes() -> tuple[str, ...]:
    """Return the UIDs of the transfer syntaxes that the receiver accepts: those that can be decoded."""
    from allpacs.decode.codecs import SUPPORTED_TRANSFER_SYNTAXES

    return SUPPORTED_TRANSFER_SYNTAXES


def make_receiver(settings: Settings, store: Store, audit: AuditTrail | None = None) -> StorageScp:
    """Return the Storage SCP, not yet started."""
    from allpacs.receive.capacity import CapacityLimits
    from allpacs.receive.commitment import CommitmentService
    from allpacs.receive.config import ReceiverConfig, SourceRule
    from allpacs.receive.scp import StorageScp

    store.spool.sweep(time.time() - _STAGED_FOR_S)
    receive = settings.receive
    rules = {
        ae_title: SourceRule(
            quiet_s=receive.quiet_s if source.quiet_s is None else source.quiet_s,
            max_age_s=receive.max_age_s,
            close_on_release=source.close_on_release,
            instances_per_s=source.instances_per_s,
            instance_count_attribute=source.instance_count_attribute,
        )
        for ae_title, source in receive.sources.items()
    }
    config = ReceiverConfig(
        host=receive.host,
        port=receive.port,
        ae_title=receive.ae_title,
        transfer_syntaxes=accepted_transfer_syntaxes(),
        default_rule=SourceRule(quiet_s=receive.quiet_s, max_age_s=receive.max_age_s),
        rules=rules,
        require_called_ae=receive.require_called_ae_title,
        allowed_calling=receive.allowed_calling,
        allowed_networks=receive.allowed_networks,
        max_associations=receive.max_associations,
        max_pdu_bytes=receive.max_pdu,
        max_memory_bytes=receive.max_memory_mb * 1_000_000,
        limits=CapacityLimits(
            min_free_bytes=receive.min_free_mb * 1_000_000,
            resume_free_bytes=int(
                1_000_000 * (1.1 * receive.min_free_mb if receive.resume_free_mb is None else receive.resume_free_mb)
            ),
            max_waiting=receive.max_waiting,
        ),
        shares_port=receive.processes > 1,
    )
    return StorageScp(
        store.receiving,
        config,
        tls=make_tls(receive.tls, "receive.tls"),
        commitments=CommitmentService(store.commitments, report_back=_report_back(settings)),
        audit=audit,
    )


def recover_in_background(settings: Settings, store: Store) -> threading.Thread:
    """Begin to look for files that a crash left without a row in the index; senders are served meanwhile."""
    from allpacs.flow.recovery import recover

    def run() -> None:
        try:
            recover(store, quiet_s=settings.receive.quiet_s, max_age_s=settings.receive.max_age_s)
        except StoreFault as fault:  # looked for again at the next start
            _log.error("recovery_failed", reason=str(fault))

    thread = threading.Thread(target=run, name="recovery", daemon=True)
    thread.start()
    return thread


def _report_back(settings: Settings) -> dict[str, Callable[[Answer], None]]:
    """Return how senders are told what we commit to, by calling AE title."""
    from functools import partial

    from allpacs.deliver.association import Peer
    from allpacs.deliver.commitment import report_commitment

    made: dict[str, Callable[[Answer], None]] = {}
    for ae_title, source in settings.receive.sources.items():
        if (peer := source.commitment) is not None:
            section = f"receive.sources.{ae_title}.commitment.tls"
            tls = make_tls(peer.tls, section)
            to = Peer(peer.host, peer.port, ae_title, settings.receive.ae_title, peer.timeout_s, tls)
            made[ae_title] = partial(report_commitment, to)
    return made
