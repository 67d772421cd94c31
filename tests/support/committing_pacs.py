"""A stand-in for a PACS that offers storage commitment and answers as a test wants it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Self

from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import Comprehensive3DSRStorage, StorageCommitmentPushModel, Verification

from allpacs.dicom.commitment import Answer, event_information, read_action
from allpacs.dicom.network.requestor import hold_at_checkpoint

_INSTANCE = "1.2.840.10008.1.20.1.1"

#: Answers a request, on the association it came on or by `CommittingPacs.report`, or says nothing.
Answering = Callable[["CommittingPacs", Any, Answer], None]


def on_an_association_of_its_own(pacs: CommittingPacs, _association: Any, answer: Answer) -> None:
    pacs.report(answer)


def on_the_same_association(_pacs: CommittingPacs, association: Any, answer: Answer) -> None:
    association.send_n_event_report(event_information(answer), answer.event_type, StorageCommitmentPushModel, _INSTANCE)


def not_at_all(_pacs: CommittingPacs, _association: Any, _answer: Answer) -> None:
    """Lose the answer."""


class CommittingPacs:
    """Takes structured reports and commits to them; what it does with each request in turn is given.

    Parameters
    ----------
    answering:
        For the first request, the second, …; the last one for all further ones.
    forgets:
        Requests (from 1) at which it has lost what it was sent: it answers with failure reason 0x0112.
    """

    def __init__(
        self, port: int, plugin_port: int, answering: list[Answering], *, forgets: tuple[int, ...] = (), grants: int = 0
    ) -> None:
        self._plugin_port = plugin_port
        self._answering = answering
        self._forgets = forgets
        self._grants = grants
        self.stored: list[str] = []
        self.requests: list[str] = []
        self.reported: list[int] = []
        self._ae = AE("PACS")
        self._ae.add_supported_context(Verification)
        self._ae.add_supported_context(Comprehensive3DSRStorage)
        self._ae.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=False)
        self._port = port
        self._server: Any = None

    def __enter__(self) -> Self:
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_N_ACTION, self._asked)]
        self._server = self._ae.start_server(("127.0.0.1", self._port), block=False, evt_handlers=handlers)
        return self

    def __exit__(self, *_: object) -> None:
        threading.Thread(target=self._ae.shutdown, daemon=True).start()

    def _store(self, event: evt.Event) -> int:
        self.stored.append(str(event.request.AffectedSOPInstanceUID))
        return 0x0000

    def _asked(self, event: evt.Event) -> tuple[int, None]:
        if self._grants:
            return self._grants, None
        transaction_uid, references = read_action(event.action_information)
        self.requests.append(transaction_uid)
        number = len(self.requests)
        lost = number in self._forgets
        answer = Answer(transaction_uid, () if lost else references, dict.fromkeys(references, 0x0112) if lost else {})
        answering = self._answering[min(number, len(self._answering)) - 1]
        threading.Thread(target=self._answer, args=(answering, event.assoc, answer), daemon=True).start()
        return 0x0000, None

    def _answer(self, answering: Answering, association: Any, answer: Answer) -> None:
        time.sleep(0.05)  # the request is acknowledged first
        answering(self, association, answer)

    def report(self, answer: Answer) -> None:
        """Tell the plugin, on an association of the PACS's own."""
        ae = AE("PACS")
        ae.add_requested_context(StorageCommitmentPushModel)
        role = build_role(StorageCommitmentPushModel, scp_role=True)
        association = ae.associate("127.0.0.1", self._plugin_port, ae_title="ALLPACS", ext_neg=[role])
        if not association.is_established:
            self.reported.append(-1)
            return
        hold_at_checkpoint(association)  # pynetdicom waits for its own without end
        status, _ = association.send_n_event_report(
            event_information(answer), answer.event_type, StorageCommitmentPushModel, _INSTANCE
        )
        self.reported.append(int(status.get("Status", -1)))
        association.release()
