"""What every destination implements; what it declares is `allpacs.settings.destinations.DestinationSettings`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from allpacs.audit.messages import AuditEvent
from allpacs.domain.artefacts import Artefact, Commitment, Receipt


class Destination(Protocol):
    """Somewhere results are delivered to. A new destination is one new module in `allpacs.deliver.destinations`."""

    @property
    def audit_event(self) -> AuditEvent:
        """What a delivery is in the audit trail (PS3.15 A.5.3).

        `AuditEvent.INSTANCES_SENT` (DICOM Instances Transferred, A.5.3.7) if DICOM objects go to another archive,
        `AuditEvent.EXPORTED` (Export, A.5.3.6) if a report leaves DICOM: FHIR, HL7 v2, files.
        """

    @property
    def takes(self) -> frozenset[str]:
        """The media types of the results that this destination takes, without parameters."""

    def deliver(self, artefacts: Sequence[Artefact]) -> Receipt:
        """Deliver all artefacts; delivering the same ones twice has the effect of once.

        Raises
        ------
        DeliveryUnavailable
            Try again later.
        DeliveryRejected
            Trying again will not help.
        """

    def check(self) -> str:
        """Ask the destination whether it is there (C-ECHO, capability statement); return one line.

        Raises
        ------
        DeliveryUnavailable
            It did not answer as it should; the message says what to look at.
        """


@runtime_checkable
class Committing(Protocol):
    """A destination that can be asked to vouch for what it has taken; its results count as delivered only then.

    Attributes
    ----------
    commitment_within_s:
        How long its answer is waited for before it is asked again, seconds.
    """

    commitment_within_s: float

    def request_commitment(self, artefacts: Sequence[Artefact], transaction_uid: str) -> Commitment:
        """Ask for commitment to artefacts that were delivered.

        Raises
        ------
        DeliveryUnavailable
            It cannot be asked now.
        DeliveryRejected
            It will never answer, though it has to.
        """
