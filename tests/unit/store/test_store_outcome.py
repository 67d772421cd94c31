"""What deliveries make of a revision."""

from __future__ import annotations

import pytest

from allpacs.store.records import DeliveryRow, DeliveryState, RevisionState
from allpacs.store.revisions import outcome


def _row(state: DeliveryState, destination: str = "pacs") -> DeliveryRow:
    return DeliveryRow("1.2", 1, destination, state, 1, None, "why", 0.0)


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([], RevisionState.REPORTED),
        ([DeliveryState.SENT], RevisionState.DELIVERED),
        ([DeliveryState.SENT, DeliveryState.SENT], RevisionState.DELIVERED),
        ([DeliveryState.SENT, DeliveryState.RETRYING], RevisionState.REPORTED),
        ([DeliveryState.SENDING], RevisionState.REPORTED),
        ([DeliveryState.DEAD, DeliveryState.SENT], RevisionState.ATTENTION),
    ],
)
def test_deliveries_decide_the_state_of_a_revision(states: list[DeliveryState], expected: RevisionState) -> None:
    assert outcome([_row(state) for state in states])[0] == expected


def test_a_dead_delivery_names_its_destination() -> None:
    assert outcome([_row(DeliveryState.DEAD, "ehr")])[1] == "ehr: why"
