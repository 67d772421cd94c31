"""Every error allpacs raises on purpose, and whose fault it is.

    AllpacsError
    ├── InputFault            the sender's: never retried
    │   ├── InstanceRefused   not admitted: carries the C-STORE status to answer with
    │   └── UndecodablePixels admitted, but its pixels cannot be read: becomes a recorded finding
    ├── InternalFault         ours: a bug; the frame or region is marked as not analysed, everything else goes on
    ├── ModelFault            the bundle's: wrong digest or labels, non-finite output
    ├── StoreFault            this machine's: disk, database (C-STORE status 0xA700); may pass, so it is waited for
    │   └── StoreDamaged      what was kept is gone or altered: a person has to look
    ├── Outdated              nobody's: what a change was made to has changed meanwhile; look, and decide again
    ├── DeliveryUnavailable   the destination's, for now: retried
    ├── DeliveryRejected      the destination's, for good: dead letter
    └── ConfigFault           the operator's: names the key and what to write instead

Messages never hold patient data: UIDs, statuses, sizes and paths of our own only.
"Not assessable" and "no cells" are findings (`allpacs.domain.findings`), not errors.
"""

from __future__ import annotations


class AllpacsError(Exception):
    """Base of every error that allpacs raises on purpose."""


class InputFault(AllpacsError):
    """What the sender sent cannot be used; sending it again will not help."""


class InstanceRefused(InputFault):
    """An instance that is not admitted.

    Attributes
    ----------
    status:
        C-STORE-RSP status (DICOM PS3.4 Table B.2-1, PS3.7 Annex C), for example 0xC000.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class UndecodablePixels(InputFault):
    """Pixels that cannot be turned into frames: corrupt, unsupported, empty or too large."""


class InternalFault(AllpacsError):
    """A bug of allpacs. What it concerns is marked as not analysed, and everything else goes on."""


class ModelFault(AllpacsError):
    """The model bundle or its output is wrong; another bundle is needed."""


class StoreFault(AllpacsError):
    """The spool or the index of this machine cannot be written or read."""


class StoreDamaged(StoreFault):
    """Something that was kept is missing, or is not what was kept: waiting will not help."""


class Outdated(AllpacsError):
    """A change was made to something that another person, or a later reading, has changed meanwhile."""


class DeliveryUnavailable(AllpacsError):
    """A destination did not take the result now; a later attempt may succeed.

    Attributes
    ----------
    retry_after_s:
        Seconds the destination asked to wait (HTTP Retry-After), or None.
    """

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s


class DeliveryRejected(AllpacsError):
    """A destination refused the result for good; a person has to look."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ConfigFault(AllpacsError):
    """The configuration is wrong; the message names the key and what to write instead."""
