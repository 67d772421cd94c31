from __future__ import annotations

import pytest

from allpacs.deliver.retry import DeadLetter, RetryAfter, RetryPolicy, decide
from allpacs.domain.errors import DeliveryUnavailable

DOWN = DeliveryUnavailable("down")


def test_waits_double_up_to_the_cap():
    policy = RetryPolicy(first_s=2, cap_s=10)
    almost_one = 1 - 2**-53
    waits = [decide(DOWN, n, policy, almost_one).seconds for n in range(1, 6)]
    assert waits == pytest.approx([2, 4, 8, 10, 10])
    assert decide(DOWN, 1, policy, 0.0) == RetryAfter(1.0)


def test_a_destination_that_says_when_is_not_asked_earlier_nor_trusted_for_ever():
    policy = RetryPolicy(first_s=2, cap_s=10, longest_asked_s=100)
    assert decide(DeliveryUnavailable("busy", 60), 1, policy, 0.0) == RetryAfter(60)
    assert decide(DeliveryUnavailable("busy", 1e9), 1, policy, 0.0) == RetryAfter(100)
    assert decide(DeliveryUnavailable("busy", 0), 1, policy, 0.0) == RetryAfter(1.0)


def test_the_dead_letter_says_why():
    decision = decide(DOWN, 3, RetryPolicy(max_attempts=3), 0.0)
    assert decision == DeadLetter("given up after 3 attempts: down")


@pytest.mark.parametrize("wrong", [{"first_s": 0}, {"first_s": 5, "cap_s": 4}, {"max_attempts": 0}])
def test_a_senseless_policy_is_refused(wrong):
    with pytest.raises(ValueError, match="retry policy"):
        RetryPolicy(**wrong)


def test_an_attempt_comes_first():
    with pytest.raises(ValueError, match="attempt"):
        decide(DOWN, 0, RetryPolicy(), 0.0)
