"""The association side: Verification and Storage as SCP.

The bytes of an instance are never decoded here: its header is parsed, the decision taken, and the bytes as they were
sent handed to the sink. 0x0000 is answered only after the sink has returned.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, BinaryIO, Final

import structlog
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification

from allpacs.dicom.commitment import SOP_CLASS_UID as COMMITMENT_SOP_CLASS_UID
from allpacs.dicom.file_meta import file_meta
from allpacs.dicom.network import messages
from allpacs.dicom.network.listener import Listener, SharedListener
from allpacs.dicom.network.reactor import WaitingHandler
from allpacs.dicom.status import OUT_OF_RESOURCES, SUCCESS
from allpacs.dicom.tls import Tls
from allpacs.domain.errors import InstanceRefused, StoreFault
from allpacs.domain.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, is_uid
from allpacs.domain.instance import InstanceIdentity
from allpacs.receive.admit import ACCEPTED_SOP_CLASSES, admit, expected_instances
from allpacs.receive.capacity import Capacity, RateLimit
from allpacs.receive.commitment import CommitmentService
from allpacs.receive.config import ReceiverConfig, SourceRule
from allpacs.receive.header import read_header
from allpacs.receive.large import LargeDataSet
from allpacs.receive.memory import Memory
from allpacs.receive.sink import Sink, TransferAudit
from allpacs.telemetry import metrics, tracing

#: A data set of more goes by disk while it comes; so does one that fills a quarter of the memory for all.
_LARGE_BYTES: Final = 64_000_000

_log = structlog.get_logger("allpacs.receive")


@dataclass(slots=True)
class _Tally:
    """What one association brought."""

    calling_ae: str
    began: float
    stored: int = 0
    same: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    study_uids: set[str] = field(default_factory=set)
    spans: dict[str, tracing.Running] = field(default_factory=dict)  # by study, where they are traced
    message_began: float | None = None


class StorageScp:
    """Accepts associations and hands every admitted instance to the sink.

    Parameters
    ----------
    sink:
        Stores the instances.
    tls:
        Returns the TLS settings for each connection; None: no TLS.
    commitments:
        Answers requests for storage commitment; None: the service is not offered.
    audit:
        Records transfers and refused peers; None: no audit.
    clock:
        Returns UTC seconds since the epoch.
    """

    def __init__(
        self,
        sink: Sink,
        config: ReceiverConfig,
        *,
        tls: Tls | None = None,
        commitments: CommitmentService | None = None,
        audit: TransferAudit | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._sink = sink
        self._config = config
        self._clock = clock
        self._capacity = Capacity(sink, config.limits)
        self._memory = Memory(config.max_memory_bytes)
        self._large_from = min(_LARGE_BYTES, config.max_memory_bytes // 4)
        self._large: dict[Any, LargeDataSet] = {}  # of unfinished messages
        self._rates = {
            ae_title: RateLimit(rule.instances_per_s)
            for ae_title, rule in config.rules.items()
            if rule.instances_per_s is not None
        }
        self._commitments = commitments
        self._audit = audit
        self._tls = tls
        self._server: Any = None
        self._tallies: dict[Any, _Tally] = {}
        self._ae = _application_entity(config)
        if commitments is not None:
            # Senders are the SCU of this service; PACS that allpacs asked are its SCP and say so by role selection.
            # Deflated data sets are not offered: pynetdicom would inflate them without a limit.
            plain = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
            self._ae.add_supported_context(COMMITMENT_SOP_CLASS_UID, plain, scu_role=True, scp_role=True)

    @property
    def port(self) -> int:
        """TCP port that is listened on."""
        if self._server is None:
            return self._config.port
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Begin to listen, and return.

        Raises
        ------
        OSError
            The address cannot be listened on.
        """
        handlers: list[tuple[Any, Any]] = [
            (evt.EVT_ESTABLISHED, self._on_established),
            (evt.EVT_REJECTED, self._on_rejected),
            (evt.EVT_DATA_RECV, self._on_data),
            (evt.EVT_DIMSE_RECV, self._on_message),
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_RELEASED, self._on_released),
            (evt.EVT_ABORTED, self._on_aborted),
            (evt.EVT_CONN_CLOSE, self._on_closed),
        ]
        if self._commitments is not None:
            handlers += [
                (evt.EVT_N_ACTION, self._commitments.on_action),
                (evt.EVT_N_EVENT_REPORT, self._commitments.on_event_report),
            ]
        self._server = self._ae.make_server(
            (self._config.host, self._config.port),
            server_class=SharedListener if self._config.shares_port else Listener,
            evt_handlers=handlers,
            request_handler=WaitingHandler,
        )
        self._server.tls = self._tls
        self._server.allowed_networks = tuple(self._config.allowed_networks)
        if self._audit is not None:
            self._server.on_refused = partial(self._audit.refused, "")
        self._server.handshake_timeout_s = self._ae.acse_timeout
        threading.Thread(target=self._server.serve_forever, name="listener", daemon=True).start()
        if self._commitments is not None:
            self._commitments.start()
        _log.info("receiver_started", ae_title=self._ae.ae_title, host=self._config.host, port=self.port)

    @property
    def listening(self) -> bool:
        """Whether associations are taken."""
        return self._server is not None

    def stop(self, grace_s: float = 5.0) -> None:
        """Take no further associations, give those under way so long to end, abort the rest."""
        if self._server is None:
            return
        self._server.shutdown()
        deadline = time.monotonic() + grace_s
        while self._ae.active_associations and time.monotonic() < deadline:
            time.sleep(0.02)
        if self._commitments is not None:
            self._commitments.stop()
        self._ae.shutdown()
        self._server = None
        _log.info("receiver_stopped", ae_title=self._ae.ae_title)

    def _on_store(self, event: evt.Event) -> int:
        """Answer one C-STORE request; every failure becomes a status, a log line and nothing else."""
        calling_ae = event.assoc.requestor.ae_title
        tally = self._tallies.get(event.assoc) or _Tally(calling_ae, time.monotonic())  # none: aborted meanwhile
        affected_uid = str(event.request.AffectedSOPInstanceUID)
        loggable_uid = affected_uid if is_uid(affected_uid) else None
        began = time.monotonic()
        try:
            self._receive(event, tally, began)
        except InstanceRefused as refused:
            status, reason = refused.status, refused.reason
        except StoreFault as fault:
            status, reason = OUT_OF_RESOURCES, str(fault)
        except Exception as error:  # noqa: BLE001 - the association boundary: the next instance is to be served
            # Only the kind of error: its text may quote the data set.
            status, reason = OUT_OF_RESOURCES, f"internal error ({type(error).__name__})"
        else:
            return SUCCESS
        finally:
            self._memory.give_back(event.assoc)
            metrics.STORE_SECONDS.observe(time.monotonic() - began)
        metrics.REFUSED.labels(f"{status:04X}").inc()
        tally.refused[f"{status:04X}"] += 1
        about = {"calling_ae": calling_ae, "sop_instance_uid": loggable_uid, "reason": reason}
        _log.warning("instance_refused", status=f"{status:04X}", **about)
        if status == OUT_OF_RESOURCES:
            return status  # ours, and the sender will try again: the log line is enough
        try:
            self._sink.note_refusal(at=self._clock(), status=status, **about)
        except StoreFault as fault:
            _log.error("refusal_not_recorded", calling_ae=calling_ae, reason=str(fault))
        return status

    def _receive(self, event: evt.Event, tally: _Tally, began: float) -> None:
        rate = self._rates.get(tally.calling_ae)
        if rate is not None:
            metrics.HELD_BACK_SECONDS.inc(rate.wait())
        now = self._clock()
        large: LargeDataSet | None = messages.spilled_file(event.request)
        encoded: BinaryIO = event.request.DataSet if large is None else large.content()
        transfer_syntax_uid = str(event.context.transfer_syntax)
        header = read_header(encoded, transfer_syntax_uid)
        identity = admit(
            header,
            sop_class_uid=str(event.request.AffectedSOPClassUID),
            sop_instance_uid=str(event.request.AffectedSOPInstanceUID),
            transfer_syntax_uid=transfer_syntax_uid,
        )
        rule = self._config.rules.get(tally.calling_ae, self._config.default_rule)
        size = encoded.seek(0, os.SEEK_END)
        self._capacity.check(size)
        outcome = self._sink.keep_instance(
            identity,
            file_meta(identity),
            encoded,
            calling_ae=tally.calling_ae,
            received_at=now,
            quiet_s=rule.quiet_s,
            max_age_s=rule.max_age_s,
        )
        metrics.RECEIVED_BYTES.inc(size)
        metrics.RECEIVED.labels(outcome).inc()
        tally.study_uids.add(identity.study_uid)
        if tracing.on():
            _trace(tally, identity, began, outcome)
        if outcome == "stored":
            tally.stored += 1
            self._look_at_count(identity.study_uid, header, rule, now)
        else:
            tally.same += 1

    def _look_at_count(self, study_uid: str, header: Dataset, rule: SourceRule, now: float) -> None:
        """Make a study due that has all the instances of which its sender has spoken."""
        expected = (
            None if rule.instance_count_attribute is None else expected_instances(header, rule.instance_count_attribute)
        )
        if expected is None:
            return
        try:
            self._sink.count_reached(study_uid, expected, now)
        except StoreFault as fault:  # the instance is kept: the study is due when it has been quiet
            _log.error("studies_not_closed", study_uid=study_uid, reason=str(fault))

    def _on_established(self, event: evt.Event) -> None:
        self._tallies[event.assoc] = _Tally(event.assoc.requestor.ae_title, time.monotonic())
        metrics.ASSOCIATIONS_OPEN.inc()

    def _on_rejected(self, event: evt.Event) -> None:
        request = event.assoc.requestor.primitive
        metrics.ASSOCIATIONS.labels("rejected").inc()
        if self._audit is not None and len(self._ae.active_associations) < self._ae.maximum_associations:
            address = event.assoc.requestor.address
            self._audit.refused(str(request.calling_ae_title), address, "association rejected")
        _log.warning("association_rejected", calling_ae=request.calling_ae_title, called_ae=request.called_ae_title)

    def _on_released(self, event: evt.Event) -> None:
        tally = self._tallies.get(event.assoc)
        if tally is not None and tally.study_uids:
            rule = self._config.rules.get(tally.calling_ae, self._config.default_rule)
            if rule.close_on_release:
                try:
                    self._sink.association_ended(tally.study_uids, self._clock())
                except StoreFault as fault:
                    _log.error("studies_not_closed", calling_ae=tally.calling_ae, reason=str(fault))
        self._summarise(event, "released")

    def _on_aborted(self, event: evt.Event) -> None:
        self._summarise(event, "aborted")

    def _on_closed(self, event: evt.Event) -> None:
        self._memory.give_back(event.assoc)
        unfinished = self._large.pop(event.assoc, None)
        if unfinished is not None:
            unfinished.close()

    def _on_data(self, event: evt.Event) -> None:
        """Count a PDU's bytes as held until its message is whole; runs in the thread that reads the socket.

        What has come of a large data set goes to a file instead; this PDU is not in the message yet.
        """
        tally = self._tallies.get(event.assoc)
        if tally is None:
            return  # not established yet: PDUs of limited size, and only one
        now = time.monotonic()
        tally.message_began = began = now if tally.message_began is None else tally.message_began
        if self._goes_by_disk(event.assoc):
            self._memory.give_back(event.assoc)
        elif not self._memory.take(event.assoc, len(event.data), self._ae.network_timeout):
            self._cut(event, "larger than half of receive.max_memory_mb, or no room in time")
        if now - began > self._config.message_timeout_s:
            self._cut(event, "a message that took too long")
        if event.assoc not in self._tallies:  # it ended meanwhile
            self._memory.give_back(event.assoc)

    def _goes_by_disk(self, assoc: Any) -> bool:
        if assoc not in self._large and (messages.unfinished_instance_bytes(assoc) or 0) > self._large_from:
            self._large[assoc] = messages.spill(
                assoc, lambda received: LargeDataSet(self._sink.scratch, self._capacity.check, received)
            )
        return assoc in self._large

    def _on_message(self, event: evt.Event) -> None:
        if not messages.is_instance(event.message):  # whose bytes are held until they are kept
            self._memory.give_back(event.assoc)
        self._large.pop(event.assoc, None)  # it is the request's now
        tally = self._tallies.get(event.assoc)
        if tally is not None:
            tally.message_began = None

    def _cut(self, event: evt.Event, reason: str) -> None:
        self._memory.give_back(event.assoc)
        _log.warning("connection_closed", calling_ae=event.assoc.requestor.ae_title, reason=reason)
        messages.close_connection(event.assoc)

    def _summarise(self, event: evt.Event, ended: str) -> None:
        tally = self._tallies.pop(event.assoc, None)
        self._memory.give_back(event.assoc)
        if tally is None:
            return
        for span in tally.spans.values():
            span.tell(ended=ended, stored=tally.stored, same=tally.same, refused=sum(tally.refused.values()))
            span.end()
        metrics.ASSOCIATIONS_OPEN.dec()
        metrics.ASSOCIATIONS.labels(ended).inc()
        if self._audit is not None and (tally.study_uids or tally.refused):
            self._audit.received(
                tally.calling_ae,
                event.assoc.requestor.address,
                sorted(tally.study_uids),
                tally.stored + tally.same,
                sum(tally.refused.values()),
            )
        _log.info(
            "association_ended",
            calling_ae=tally.calling_ae,
            ended=ended,
            stored=tally.stored,
            same=tally.same,
            refused=dict(tally.refused),
            studies=len(tally.study_uids),
            duration_s=round(time.monotonic() - tally.began, 3),
        )


def _application_entity(config: ReceiverConfig) -> AE:
    """Return the application entity with the services of the receiver, but for storage commitment."""
    ae = AE(config.ae_title)
    ae.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    ae.require_called_aet = config.require_called_ae
    ae.require_calling_aet = sorted(config.allowed_calling)
    ae.maximum_associations = config.max_associations
    ae.maximum_pdu_size = config.max_pdu_bytes
    ae.acse_timeout = config.acse_timeout_s
    ae.dimse_timeout = config.dimse_timeout_s
    ae.network_timeout = config.network_timeout_s
    ae.add_supported_context(Verification)
    for sop_class_uid in ACCEPTED_SOP_CLASSES:
        ae.add_supported_context(sop_class_uid, list(config.transfer_syntaxes))
    return ae


def _trace(tally: _Tally, identity: InstanceIdentity, began: float, outcome: str) -> None:
    """Tell of an instance that was kept, within its association, within its study."""
    now, study_uid = time.monotonic(), identity.study_uid
    association = tally.spans.get(study_uid)
    if association is None:
        ago_s = now - tally.began
        association = tracing.begin("association", study_uid, ago_s=ago_s, calling_ae=tally.calling_ae)
        tally.spans[study_uid] = association
    tracing.begin(
        "instance",
        study_uid,
        ago_s=now - began,
        within=association,
        sop_instance_uid=identity.sop_instance_uid,
        status=outcome,
    ).end()
