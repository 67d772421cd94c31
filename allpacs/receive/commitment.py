"""Storage Commitment on our port: as SCP for senders, and the answers of those whom we asked.

A sender's request is noted before it is answered with 0x0000, and kept until the sender has been told: on an
association of our own where its address is configured, otherwise on its own while that is open.

Source: PS3.4 Annex J.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import structlog
from pynetdicom import evt
from pynetdicom.association import Association

from allpacs.dicom import commitment as service
from allpacs.dicom import status as status_codes
from allpacs.domain.errors import AllpacsError, InputFault, StoreFault
from allpacs.receive.sink import CommitmentSink, PendingReport

_INVALID_ARGUMENT: Final = 0x0115
_NO_SUCH_CLASS: Final = 0x0118
_NO_SUCH_ACTION: Final = 0x0123

#: A sender often asks for more, or releases, right after its request: its answer can wait for that.
_FIRST_WAIT_S: Final = 0.3
_LONGEST_WAIT_S: Final = 300.0
#: A sender that could not be told for so long asks again, or has forgotten.
_GIVE_UP_S: Final = 86_400.0
_POLL_S: Final = 0.2
_STOP_S: Final = 2.0

_log = structlog.get_logger("allpacs.receive")

#: Tells a sender the answer; raises where it cannot be told now.
ReportBack = Callable[[service.Answer], None]


class CommitmentService:
    """Answers N-ACTION and N-EVENT-REPORT, and tells senders what we commit to, in threads of its own.

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
        self._open: dict[tuple[str, str], Association] = {}  # of senders that have no other address
        self._tellers: dict[str, threading.Thread] = {}  # by calling AE title
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="commitment", daemon=True)

    def start(self) -> None:
        """Begin to tell senders what they have asked."""
        self._thread.start()

    def stop(self) -> None:
        """Leave what has not been told to the next start; whoever is being told has a moment to take it."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        deadline = time.monotonic() + _STOP_S
        for teller in self._tellers.values():
            teller.join(max(0.0, deadline - time.monotonic()))

    def on_action(self, event: evt.Event) -> tuple[int, None]:
        """Take a sender's request."""
        calling_ae = event.assoc.requestor.ae_title
        if not _in_own_context(event):
            return _NO_SUCH_CLASS, None
        if event.request.RequestedSOPInstanceUID != service.SOP_INSTANCE_UID:
            return status_codes.NO_SUCH_SOP_INSTANCE, None
        if event.action_type != service.REQUEST:
            return _NO_SUCH_ACTION, None
        try:
            transaction_uid, references = service.read_action(event.action_information)
        # Whatever the parser raises on bytes a stranger made up is about those bytes.
        except Exception as error:  # noqa: BLE001
            reason = str(error) if isinstance(error, InputFault) else type(error).__name__
            _log.warning("commitment_refused", calling_ae=calling_ae, reason=reason)
            return _INVALID_ARGUMENT, None
        if calling_ae not in self._report_back:
            self._open[calling_ae, transaction_uid] = event.assoc
        now = self._clock()
        instances = [(one.sop_class_uid, one.sop_instance_uid) for one in references]
        try:
            self._sink.schedule(calling_ae, transaction_uid, instances, now=now, due_at=now + _FIRST_WAIT_S)
        except StoreFault as fault:
            self._open.pop((calling_ae, transaction_uid), None)
            _log.error("commitment_refused", calling_ae=calling_ae, reason=str(fault))
            return status_codes.PROCESSING_FAILURE, None
        return status_codes.SUCCESS, None

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
            return status_codes.PROCESSING_FAILURE, None
        if not known:
            _log.warning("commitment_not_asked_for", calling_ae=calling_ae)
            return _INVALID_ARGUMENT, None
        _log.info("commitment_received", calling_ae=calling_ae, detail=answer.reason or "committed")
        return status_codes.SUCCESS, None

    def _run(self) -> None:
        while not self._stop.wait(_POLL_S):
            self._forget_what_ended()
            try:
                self._share_out(self._sink.due(self._clock()))
            except Exception as error:  # noqa: BLE001 - a thread that ended would leave senders without answers
                self._wait_after(error)

    def _forget_what_ended(self) -> None:
        """Let go of associations that have ended: what was asked there may have been told by another receiver."""
        for key, association in list(self._open.items()):
            if not association.is_established:
                self._open.pop(key, None)
        self._tellers = {calling_ae: teller for calling_ae, teller in self._tellers.items() if teller.is_alive()}

    def _share_out(self, due: Sequence[PendingReport]) -> None:
        """Have each sender told by a thread of its own, so that one that cannot be reached holds up no other."""
        by_sender: dict[str, list[tuple[PendingReport, ReportBack]]] = {}
        for pending in due:
            way = self._way_to(pending)
            if way is not None:
                by_sender.setdefault(pending.calling_ae, []).append((pending, way))
            # Its association may be that of another receiver on the same store.
            elif self._clock() - pending.received_at > 60.0:
                self._sink.confirm(pending)
                reason = "its association is gone, and receive.sources names no address for it"
                _log.warning("commitment_not_told", calling_ae=pending.calling_ae, reason=reason)
        for calling_ae, its_due in by_sender.items():
            if calling_ae not in self._tellers or not self._tellers[calling_ae].is_alive():
                teller = threading.Thread(target=self._tell, args=(its_due,), name="commitment-teller", daemon=True)
                self._tellers[calling_ae] = teller
                teller.start()

    def _way_to(self, pending: PendingReport) -> ReportBack | None:
        """Return how to tell a sender; None where it cannot be told from here."""
        report_back = self._report_back.get(pending.calling_ae)
        if report_back is not None:
            return report_back
        association = self._open.get((pending.calling_ae, pending.transaction_uid))
        if association is None or not association.is_established:
            return None
        return partial(_report_on, association)

    def _tell(self, due: Sequence[tuple[PendingReport, ReportBack]]) -> None:
        """Tell one sender, until it cannot be told: what is left comes again in a later turn."""
        try:
            for pending, way in due:
                if self._stop.is_set() or not self._answer(pending, way):
                    break
        except Exception as error:  # noqa: BLE001 - as above
            self._wait_after(error)

    def _wait_after(self, error: Exception) -> None:
        _log.error("commitment_postponed", reason=str(error) if isinstance(error, StoreFault) else type(error).__name__)
        self._stop.wait(1.0)

    def _answer(self, pending: PendingReport, report_back: ReportBack) -> bool:
        """Tell a sender what it asked; return whether there is no reason to leave it alone for now."""
        wait_s = min(_LONGEST_WAIT_S, 2.0**pending.attempts)
        if not self._sink.postpone(pending, self._clock() + wait_s):
            return True  # another receiver is at it
        answer = self._judge(pending)
        try:
            report_back(answer)
        except (AllpacsError, RuntimeError, ValueError) as failure:
            if self._clock() - pending.received_at > _GIVE_UP_S:
                self._sink.confirm(pending)
            reason = str(failure) if isinstance(failure, AllpacsError) else type(failure).__name__
            _log.warning("commitment_postponed", calling_ae=pending.calling_ae, reason=reason, next_attempt_s=wait_s)
            return False
        self._sink.confirm(pending)
        self._open.pop((pending.calling_ae, pending.transaction_uid), None)
        _log.info(
            "commitment_told",
            calling_ae=pending.calling_ae,
            count=len(answer.committed),
            refused=len(answer.failed),
        )
        return True

    def _judge(self, pending: PendingReport) -> service.Answer:
        """Return what we commit to: what is in the index and whole in the spool, under the class it was asked by."""
        held = self._sink.held([uid for _, uid in pending.instances])
        committed, failed = [], {}
        for one in (service.Reference(*pair) for pair in pending.instances):
            kept_as = held.get(one.sop_instance_uid)
            if kept_as == one.sop_class_uid:
                committed.append(one)
            else:
                failed[one] = (
                    status_codes.NO_SUCH_SOP_INSTANCE if kept_as is None else status_codes.CLASS_INSTANCE_CONFLICT
                )
        return service.Answer(pending.transaction_uid, tuple(committed), failed)


def _in_own_context(event: evt.Event) -> bool:
    """Whether a request came in a presentation context of the service.

    The library does not look. In those for images data sets may be deflated, and it would inflate one without bound.
    """
    return bool(event.context.abstract_syntax == service.SOP_CLASS_UID)


def _report_on(association: Any, answer: service.Answer) -> None:
    status, _ = association.send_n_event_report(
        service.event_information(answer), answer.event_type, service.SOP_CLASS_UID, service.SOP_INSTANCE_UID
    )
    if "Status" not in status or status.Status != status_codes.SUCCESS:
        raise RuntimeError("the sender did not take the answer")
