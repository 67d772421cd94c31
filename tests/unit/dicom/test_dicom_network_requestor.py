"""Who holds an association's own thread holds it."""

from __future__ import annotations

import sys
import threading
import time

from pynetdicom import AE
from pynetdicom.sop_class import Verification

from allpacs.dicom.network.requestor import Checkpoint, hold_at_checkpoint


class _Reactor(threading.Thread):
    """Goes round as an association's own thread does, and notes when it was at work while somebody held it."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.checkpoint = Checkpoint(self)  # type: ignore[arg-type]
        self.held = False
        self.rounds = self.faults = 0
        self.ends = False

    def run(self) -> None:
        while not self.ends:
            self.checkpoint.wait()
            self.rounds += 1
            for _ in range(20):
                self.faults += self.held


def test_it_never_works_while_it_is_held() -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # so that threads take turns at any place
    reactor = _Reactor()
    reactor.start()
    try:
        until = time.monotonic() + 60
        for _ in range(2000):
            reactor.checkpoint.clear()
            reactor.held = True
            time.sleep(0)
            reactor.held = False
            reactor.checkpoint.set()
            assert time.monotonic() < until
    finally:
        sys.setswitchinterval(interval)
        reactor.ends = True
        reactor.checkpoint.set()
        reactor.join(10)
    assert reactor.faults == 0
    assert reactor.rounds > 0


def test_a_thread_that_has_ended_is_not_waited_for() -> None:
    reactor = _Reactor()
    reactor.ends = True
    reactor.start()
    reactor.join(10)
    began = time.monotonic()
    reactor.checkpoint.clear()
    assert time.monotonic() - began < 5


def test_a_release_does_not_ask_the_library_whether_the_thread_is_held() -> None:
    scp = AE("SCP")
    scp.add_supported_context(Verification)
    server = scp.start_server(("127.0.0.1", 0), block=False)
    try:
        scu = AE("SCU")
        scu.add_requested_context(Verification)
        association = scu.associate("127.0.0.1", server.server_address[1])
        assert association.is_established
        hold_at_checkpoint(association)
        association._reactor_checkpoint.clear()
        association._is_paused = False  # as the thread does that has served a request of the peer
        release = threading.Thread(target=association.release, daemon=True)
        release.start()
        release.join(20)
        assert association.is_released
    finally:
        server.shutdown()
