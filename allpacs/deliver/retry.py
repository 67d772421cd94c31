"""What happens after a failed delivery: a pure policy, no clock, no random source, no queue."""

from __future__ import annotations

from dataclasses import dataclass

from allpacs.domain.errors import AllpacsError, DeliveryUnavailable, StoreDamaged, StoreFault

#: Faults that may pass by themselves; every other one needs a person first.
_PASSING = (DeliveryUnavailable, StoreFault)

#: Doublings after which the wait is at its cap for any sensible policy; keeps the power finite.
_MOST_DOUBLINGS = 64


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How patiently a delivery is tried again.

    Attributes
    ----------
    first_s:
        Wait after the first failure, seconds; doubles with each further one.
    cap_s:
        Longest wait, seconds, before `longest_asked_s` applies.
    longest_asked_s:
        Longest wait that a destination can ask for (HTTP Retry-After), seconds: a wrong date must not stop it for
        a year.
    max_attempts:
        Attempts after which the delivery becomes a dead letter; None: never give up.
    """

    first_s: float = 2.0
    cap_s: float = 300.0
    longest_asked_s: float = 3600.0
    max_attempts: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.first_s <= self.cap_s or self.longest_asked_s < 0:
            raise ValueError("a retry policy needs 0 < first_s <= cap_s and longest_asked_s >= 0")
        if self.max_attempts is not None and self.max_attempts < 1:
            raise ValueError("a retry policy needs at least one attempt")


@dataclass(frozen=True, slots=True)
class RetryAfter:
    """Try again after so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Give up until a person resends; `reason` is one line without patient data."""

    reason: str


def decide(fault: AllpacsError, attempts: int, policy: RetryPolicy, jitter: float) -> RetryAfter | DeadLetter:
    """Decide what follows a failed attempt.

    Exponential back-off with a cap; the upper half of each wait is spread by `jitter`, so that deliveries that failed
    together do not come back together. A destination that says when to come back is never asked earlier.

    Parameters
    ----------
    fault:
        What the attempt raised.
    attempts:
        Attempts made so far, at least 1.
    jitter:
        Uniform in [0, 1).
    """
    if attempts < 1:
        raise ValueError("decide() follows an attempt")
    if not isinstance(fault, _PASSING) or isinstance(fault, StoreDamaged):
        return DeadLetter(str(fault))
    if policy.max_attempts is not None and attempts >= policy.max_attempts:
        return DeadLetter(f"given up after {attempts} attempts: {fault}")

    wait_s = min(policy.cap_s, policy.first_s * 2.0 ** min(attempts - 1, _MOST_DOUBLINGS))
    wait_s *= 0.5 + 0.5 * jitter
    asked_s = fault.retry_after_s if isinstance(fault, DeliveryUnavailable) else None
    if asked_s is not None:
        wait_s = max(wait_s, min(asked_s, policy.longest_asked_s))
    return RetryAfter(wait_s)
