"""The pure parts of the flow: what deliveries make of a revision, and what the workflow engine remembers."""

from __future__ import annotations

import json

import pytest

from allpacs.domain.errors import StoreFault
from allpacs.flow import JsonSerializer, TermsChangedError, WorkflowError, _kind, outcome
from allpacs.store.records import DeliveryRow, DeliveryState, RevisionState


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


@pytest.mark.parametrize("value", [None, 3, "text", ["1.2", 2], {"args": ["1.2", 1], "kwargs": {}}])
def test_workflow_state_is_json(value: object) -> None:
    serializer = JsonSerializer()
    text = serializer.serialize(value)
    assert json.loads(text)
    assert serializer.deserialize(text) == value


def test_of_an_exception_only_its_kind_is_remembered() -> None:
    serializer = JsonSerializer()
    text = serializer.serialize(ValueError("Doe^Jane"))
    assert "Doe" not in text
    back = serializer.deserialize(text)
    assert isinstance(back, WorkflowError)
    assert _kind(back) == "ValueError"


def test_a_change_of_terms_is_known_again_after_a_restart() -> None:
    serializer = JsonSerializer()
    assert _kind(serializer.deserialize(serializer.serialize(TermsChangedError("x")))) == "TermsChangedError"
    assert _kind(StoreFault("disk")) == "StoreFault"
