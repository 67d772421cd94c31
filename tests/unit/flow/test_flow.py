"""The pure parts of the flow: what the workflow engine remembers."""

from __future__ import annotations

import json

import pytest

from allpacs.domain.errors import StoreFault
from allpacs.flow.engine import JsonSerializer, WorkflowError, kind
from allpacs.flow.flow import FingerprintMismatch


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
    assert kind(back) == "ValueError"


def test_a_change_of_terms_is_known_again_after_a_restart() -> None:
    serializer = JsonSerializer()
    assert kind(serializer.deserialize(serializer.serialize(FingerprintMismatch("x")))) == "FingerprintMismatch"
    assert kind(StoreFault("disk")) == "StoreFault"
