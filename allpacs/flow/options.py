"""How the flow runs."""

from __future__ import annotations

from dataclasses import dataclass

from allpacs.deliver.retry import RetryPolicy


@dataclass(frozen=True, slots=True)
class FlowOptions:
    """How the flow runs.

    Attributes
    ----------
    system_database_url:
        SQLAlchemy URL of the workflow engine's own database.
    executor_id:
        Stable name of this worker: after a restart it takes up its own work.
    takeover_after_s:
        What another worker was at is taken over when it has been silent for so long.
    keep_sources_s:
        What was received is deleted so long after its results were delivered; None: never.
    keep_history_s:
        Events of the index's audit and workflows that ended are deleted after so long; None: never.
    """

    system_database_url: str
    executor_id: str
    studies_at_a_time: int
    poll_s: float
    retry: RetryPolicy
    takeover_after_s: float = 60.0
    keep_sources_s: float | None = None
    keep_history_s: float | None = None
