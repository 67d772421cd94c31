"""What the workflow engine keeps of the flow, and where: values as JSON, workflows by the names of their work."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from dbos import DBOS, Serializer

from allpacs.domain.errors import AllpacsError
from allpacs.domain.identity import workflow_id
from allpacs.store.database import private_file

#: What `reading_id` and `delivery_id` write.
IDENTITY = re.compile(r"(?P<study>[^@]+)@(?P<revision>\d+)(?:>(?P<destination>.+))?#(?P<attempt>\d+)")


class WorkflowError(AllpacsError):
    """A workflow ended with an error; what it was is in the index."""


class JsonSerializer(Serializer):
    """Keeps workflow state as JSON; of an exception only its type, since its text may quote what it choked on."""

    def name(self) -> str:
        """Return the name that is stored beside each value."""
        return "allpacs_json"

    def serialize(self, data: Any) -> str:
        """Return the JSON text of a value or exception."""
        return json.dumps({"error": type(data).__name__} if isinstance(data, BaseException) else {"value": data})

    def deserialize(self, serialized_data: str) -> Any:
        """Return the value of a JSON text; an exception comes back as `WorkflowError`."""
        stored = json.loads(serialized_data)
        return WorkflowError(stored["error"]) if "error" in stored else stored["value"]


def kind(fault: Exception) -> str:
    """Return the name of a fault's type, also of one that comes back from the workflow engine's memory."""
    return str(fault) if isinstance(fault, WorkflowError) else type(fault).__name__


def workflow_status(identity: str) -> str | None:
    """Return the engine's word for where a workflow stands, or None where it knows none of that name."""
    known = DBOS.get_workflow_status(identity)
    return None if known is None else known.status


def reading_id(study_uid: str, revision: int, attempt: int) -> str:
    """Return the name of the workflow that reads a revision."""
    return f"{workflow_id(study_uid, revision)}#{attempt}"


def delivery_id(study_uid: str, revision: int, destination: str, attempt: int) -> str:
    """Return the name of the workflow that makes one attempt at one destination."""
    return f"{workflow_id(study_uid, revision)}>{destination}#{attempt}"


def workflow_database(folder: Path, database_url: str | None) -> str:
    """Return the URL of the workflow engine's database: beside the index, or in the same PostgreSQL."""
    if database_url is not None:
        return database_url
    private_file(folder / "workflow.sqlite")
    return f"sqlite:///{folder / 'workflow.sqlite'}"
