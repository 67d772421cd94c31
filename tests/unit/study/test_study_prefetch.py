"""What is begun ahead is worked out once, handed out once, and no different."""

from __future__ import annotations

import threading

import pytest

from allpacs.study.prefetch import Prefetcher

PATIENCE_S = 20.0


def test_what_was_begun_is_taken_and_not_worked_out_again() -> None:
    ahead: Prefetcher[int, str] = Prefetcher(1)
    begun = threading.Event()

    def work() -> str:
        begun.set()
        return "ahead"

    ahead.begin(1, work)
    assert begun.wait(PATIENCE_S)
    ahead.begin(1, lambda: "begun twice")
    assert ahead.take(1, lambda: "here") == "ahead"
    assert ahead.take(1, lambda: "here") == "here", "it is handed out once"


def test_what_waits_for_a_thread_is_done_by_who_needs_it() -> None:
    ahead: Prefetcher[int, str] = Prefetcher(1)
    busy = threading.Event()
    ahead.begin(1, lambda: str(busy.wait(PATIENCE_S)))
    ahead.begin(2, lambda: "ahead")
    assert ahead.take(2, lambda: "here") == "here"
    busy.set()
    assert ahead.take(1, lambda: "here") == "True"


def test_a_failure_reaches_who_takes_it() -> None:
    ahead: Prefetcher[int, str] = Prefetcher(1)
    begun = threading.Event()

    def fail() -> str:
        begun.set()
        raise OSError("no such file")

    ahead.begin(1, fail)
    assert begun.wait(PATIENCE_S)
    with pytest.raises(OSError, match="no such file"):
        ahead.take(1, lambda: "here")


def test_what_is_forgotten_is_worked_out_anew() -> None:
    ahead: Prefetcher[int, str] = Prefetcher(1)
    ahead.begin(1, lambda: "ahead")
    ahead.begin(2, lambda: "ahead")
    ahead.forget(lambda key: key == 1)
    assert ahead.take(1, lambda: "here") == "here"
