"""Storage Commitment on our port: as SCP for senders, and the answers of those whom we asked.

A sender's request is noted before it is answered with 0x0000, and kept until the sender has been told: on an
association of our own where its address is configured, otherwise on its own while that is open.

Source: PS3.4 Annex J.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import structlog
from pynetdicom import evt
from pynetdicom.association import Association

from allpacs import commitment as service
from allpacs.domain.errors import AllpacsError, InputFault, StoreFault
from allpacs.receive.port import CommitmentSink, Owed

_SUCCESS: Final = 0x0000
_PROCESSING_FAILURE: Final = 0x0110
_NO_SUCH_OBJECT: Final = 0x0112
_INVALID_ARGUMENT: Final = 0x0115
_NO_SUCH_CLASS: Final = 0x0118
_NO_SUCH_ACTION: Final = 0x0123

#: A sender often asks for more, or releases, right after its request: its answer can wait for that.
_FIRST_WAIT_S: Final = 0.3
_LONGEST_WAIT_S: Final = 300.0
#: A sender that could not be told for so long asks again, or has forgotten.
_GIVE_UP_S: Final = 86_400.0
_POLL_S: Final = 0.2

_log = structlog.get_logger("allpacs.receive")

#: Tells a sender the answer; raises where it cannot be told now.
ReportBack = Callable[[service.Answer], None]


class CommitmentService:
    """Answers N-ACTION and N-EVENT-REPORT, and tells senders what we commit to, in a thread of its own.

    Parameters
    ----------
    report_back:
        By calling AE title: how to reach those senders that take the answer on an association of our own.
    """

    def __init__(
        self,
        sink: CommitmentSink,
        *,
        report_back: Mapping[str, ReportBack] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._sink = sink
        self._report_back = dict(report_back or {})
        self._clock = clock
        self._open: dict[tuple[str, str], Association] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="commitment", daemon=True)

    def start(self) -> None:
        """Begin to tell senders what they have asked."""
        self._thread.start()

    def stop(self) -> None:
        """Leave what has not been told to the next start."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def on_action(self, event: evt.Event) -> tuple[int, None]:
        """Take a sender's request."""
        calling_ae = event.assoc.requestor.ae_title
        if not _in_own_context(event):
            return _NO_SUCH_CLASS, None
        if event.request.RequestedSOPInstanceUID != service.SOP_INSTANCE_UID:
            return _NO_SUCH_OBJECT, None
        if event.action_type != service.REQUEST:
            return _NO_SUCH_ACTION, None
        try:
            transaction_uid, references = service.read_action(event.action_information)
        # Whatever the parser raises on bytes a stranger made up is about those bytes.
        except Exception as error:  # noqa: BLE001
            reason = str(error) if isinstance(error, InputFault) else type(error).__name__
            _log.warning("commitment_refused", calling_ae=calling_ae, reason=reason)
            return _INVALID_ARGUMENT, None
        self._open[calling_ae, transaction_uid] = event.assoc
        now = self._clock()
        instances = [(one.sop_class_uid, one.sop_instance_uid) for one in references]
        try:
            self._sink.owe(calling_ae, transaction_uid, instances, now=now, due_at=now + _FIRST_WAIT_S)
        except StoreFault as fault:
            _log.error("commitment_refused", calling_ae=calling_ae, reason=str(fault))
            return _PROCESSING_FAILURE, None
        return _SUCCESS, None

    def on_event_report(self, event: evt.Event) -> tuple[int, None]:
        """Take the answer of a peer that we asked."""
        calling_ae = event.assoc.requestor.ae_title
        if not _in_own_context(event):
            return _NO_SUCH_CLASS, None
        try:
            answer = service.read_event(event.event_information)
        except Exception as error:  # noqa: BLE001 - as above
            _log.warning("commitment_not_understood", calling_ae=calling_ae, reason=type(error).__name__)
            return _INVALID_ARGUMENT, None
        committed = {one.sop_instance_uid for one in answer.committed}
        try:
            known = self._sink.answered(answer.transaction_uid, committed, answer.reason)
        except StoreFault as fault:  # the peer may tell us again; otherwise it is asked again
            _log.error("commitment_not_noted", calling_ae=calling_ae, reason=str(fault))
            return _PROCESSING_FAILURE, None
        if not known:
            _log.warning("commitment_not_asked_for", calling_ae=calling_ae)
            return _INVALID_ARGUMENT, None
        _log.info("commitment_received", calling_ae=calling_ae, detail=answer.reason or "committed")
        return _SUCCESS, None

    def _run(self) -> None:
        while not self._stop.wait(_POLL_S):
            try:
                for owed in self._sink.owed(self._clock()):
                    self._answer(owed)
            except StoreFault as fault:
                _log.error("commitment_postponed", reason=str(fault))
                self._stop.wait(1.0)
            except Exception as error:  # noqa: BLE001 - a thread that ended would leave senders without answers
                _log.error("commitment_postponed", reason=type(error).__name__)
                self._stop.wait(1.0)

    def _answer(self, owed: Owed) -> None:
        key = (owed.calling_ae, owed.transaction_uid)
        association = self._open.get(key)
        report_back = self._report_back.get(owed.calling_ae)
        if report_back is None and (association is None or not association.is_established):
            self._open.pop(key, None)
            # Its association may be that of another receiver on the same store.
            if self._clock() - owed.received_at > 60.0:
                self._sink.paid(owed)
                reason = "its association is gone, and receive.sources names no address for it"
                _log.warning("commitment_not_told", calling_ae=owed.calling_ae, reason=reason)
            return
        wait_s = min(_LONGEST_WAIT_S, 2.0**owed.attempts)
        if not self._sink.postpone(owed, self._clock() + wait_s):
            return  # another receiver is at it
        answer = self._judge(owed)
        try:
            if report_back is not None:
                report_back(answer)
            else:
                _report_on(association, answer)
        except (AllpacsError, RuntimeError, ValueError) as failure:
            if self._clock() - owed.received_at > _GIVE_UP_S:
                self._sink.paid(owed)
            reason = str(failure) if isinstance(failure, AllpacsError) else type(failure).__name__
            _log.warning("commitment_postponed", calling_ae=owed.calling_ae, reason=reason, next_attempt_s=wait_s)
            return
        self._sink.paid(owed)
        self._open.pop(key, None)
        _log.info(
            "commitment_told",
            calling_ae=owed.calling_ae,
            count=len(answer.committed),
            refused=len(answer.failed),
        )

    def _judge(self, owed: Owed) -> service.Answer:
        """Return what we commit to: what is in the index and whole in the spool, under the class it was asked by."""
        held = self._sink.held([uid for _, uid in owed.instances])
        committed, failed = [], {}
        for one in (service.Reference(*pair) for pair in owed.instances):
            kept_as = held.get(one.sop_instance_uid)
            if kept_as == one.sop_class_uid:
                committed.append(one)
            else:
                failed[one] = service.NO_SUCH_INSTANCE if kept_as is None else service.CLASS_INSTANCE_CONFLICT
        return service.Answer(owed.transaction_uid, tuple(committed), failed)


def _in_own_context(event: evt.Event) -> bool:
    """Whether a request came in a presentation context of the service.

    The library does not look. In those for images data sets may be deflated, and it would inflate one without bound.
    """
    return bool(event.context.abstract_syntax == service.SOP_CLASS_UID)


def _report_on(association: Any, answer: service.Answer) -> None:
    status, _ = association.send_n_event_report(
        service.event_information(answer), answer.event_type, service.SOP_CLASS_UID, service.SOP_INSTANCE_UID
    )
    if "Status" not in status or status.Status != _SUCCESS:
        raise RuntimeError("the sender did not take the answer")
