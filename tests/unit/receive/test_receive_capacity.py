"""When there is no room for an instance, and when there is again."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from allpacs.domain.errors import StoreFault
from allpacs.receive.capacity import Capacity, CapacityLimits, RateLimit


@dataclass
class Room:
    """What a sink says of its disk and its queue."""

    free: int = 1000
    queue: int = 0

    def free_bytes(self) -> int:
        return self.free

    def waiting(self) -> int:
        return self.queue


class Clock:
    """A clock that is moved by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def taken(capacity: Capacity, size: int = 0) -> bool:
    try:
        capacity.check(size)
    except StoreFault:
        return False
    return True


def test_a_full_disk_refuses_until_there_is_clearly_more_room() -> None:
    room = Room()
    capacity = Capacity(room, CapacityLimits(min_free_bytes=500, resume_free_bytes=700))  # type: ignore[arg-type]
    assert taken(capacity, 500)
    assert not taken(capacity, 501)
    room.free = 650
    assert not taken(capacity)
    room.free = 700
    assert taken(capacity)
    room.free = 500
    assert taken(capacity)


def test_too_long_a_queue_refuses_until_it_is_clearly_shorter() -> None:
    room, clock = Room(queue=10), Clock()
    capacity = Capacity(room, CapacityLimits(max_waiting=10), clock)  # type: ignore[arg-type]
    answers = []
    for waiting in (10, 11, 10, 9):
        room.queue = waiting
        clock.now += 2.0
        answers.append(taken(capacity))
    assert answers == [True, False, False, True]


def test_the_queue_is_not_asked_for_every_instance() -> None:
    room, clock = Room(queue=0), Clock()
    capacity = Capacity(room, CapacityLimits(max_waiting=1), clock)  # type: ignore[arg-type]
    assert taken(capacity)
    room.queue = 99
    assert taken(capacity)
    clock.now += 1.0
    assert not taken(capacity)


def test_a_fast_sender_is_held_back_to_its_rate_after_a_burst() -> None:
    clock = Clock()

    def sleep(seconds: float) -> None:
        clock.now += seconds

    rate = RateLimit(10.0, burst=5, clock=clock, sleep=sleep)
    began = clock.now
    for _ in range(25):
        rate.wait()
    assert clock.now - began == pytest.approx(2.0)
    clock.now += 60.0
    assert [rate.wait() for _ in range(5)] == [0.0] * 5
