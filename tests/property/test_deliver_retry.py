from __future__ import annotations

import math

from hypothesis import assume, given
from hypothesis import strategies as st

from allpacs.deliver.retry import DeadLetter, RetryAfter, RetryPolicy, decide
from allpacs.domain.errors import ConfigFault, DeliveryRejected, DeliveryUnavailable, InputFault, ModelFault, StoreFault

_seconds = st.floats(0.001, 1e6)
_jitter = st.floats(0, 1, exclude_max=True)
_policies = st.builds(
    lambda first_s, more_s, asked_s: RetryPolicy(first_s, first_s + more_s, asked_s), _seconds, _seconds, _seconds
)


@given(_policies, st.integers(1, 10**9), _jitter, st.none() | st.floats(0, math.inf))
def test_unavailable_without_limits_is_always_retried_within_bounds(policy, attempts, jitter, asked_s):
    decision = decide(DeliveryUnavailable("down", asked_s), attempts, policy, jitter)
    assert isinstance(decision, RetryAfter)
    assert policy.first_s / 2 <= decision.seconds <= max(policy.cap_s, policy.longest_asked_s)
    if asked_s is not None:
        assert decision.seconds >= min(asked_s, policy.longest_asked_s)


@given(_policies, st.integers(1, 100), _jitter)
def test_the_wait_never_shrinks_with_attempts(policy, attempts, jitter):
    fault = DeliveryUnavailable("down")
    now, later = (decide(fault, n, policy, jitter) for n in (attempts, attempts + 1))
    assert now.seconds <= later.seconds


@given(_policies, st.integers(1, 100), _jitter, _jitter)
def test_jitter_spreads_at_most_half_the_wait(policy, attempts, one, other):
    fault = DeliveryUnavailable("down")
    a, b = (decide(fault, attempts, policy, jitter).seconds for jitter in (one, other))
    assert max(a, b) <= 2 * min(a, b) * (1 + 1e-9)
    assume(one != other)


@given(
    st.sampled_from([DeliveryRejected("no"), ConfigFault("no"), InputFault("no"), ModelFault("no")]),
    st.integers(1, 100),
    _jitter,
)
def test_what_waiting_cannot_mend_is_a_dead_letter_at_once(fault, attempts, jitter):
    assert decide(fault, attempts, RetryPolicy(), jitter) == DeadLetter("no")


@given(st.integers(1, 50), st.integers(1, 100), _jitter)
def test_attempts_are_limited_exactly(max_attempts, attempts, jitter):
    decision = decide(StoreFault("disk"), attempts, RetryPolicy(max_attempts=max_attempts), jitter)
    assert isinstance(decision, DeadLetter) == (attempts >= max_attempts)
