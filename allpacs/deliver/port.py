"""The port that every destination implements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from allpacs.domain.artefacts import Artefact, ArtefactKind, Receipt


class Destination(Protocol):
    """Somewhere results are delivered to. A new destination is one new file in this folder."""

    @property
    def takes(self) -> frozenset[ArtefactKind]:
        """The kinds of artefact this destination takes."""

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
