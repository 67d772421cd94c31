"""Logging for the shells: structlog to standard error, with an allow-list of keys so that no patient data slips in."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterable

import structlog
from structlog.typing import EventDict, WrappedLogger

#: Keys a log line may carry. Anything else is replaced: a patient's name must not reach a log through a new key.
ALLOWED_KEYS = frozenset(
    {
        "aborted", "address", "ae_title", "artefacts", "associations", "attempts", "bundle", "called_ae",
        "calling_ae", "cells", "count", "destination", "detail", "digest", "duration_s", "ended", "engine", "event",
        "executor_id", "exit_code", "fault", "folder", "golden_difference", "host", "instances", "kind", "level",
        "logger", "max_batch", "name", "next_attempt_s", "path", "pid", "port", "process", "reason", "received",
        "events", "refused", "revision",
        "same", "seconds", "series_uid", "size_bytes", "sop_class_uid", "sop_instance_uid", "state", "status",
        "stored", "studies", "study_uid", "timestamp", "transfer_syntax_uid", "version", "warning",
    }
)  # fmt: skip

#: Libraries whose messages quote attribute values, so possibly patient data: never logged.
_SILENCED = ("pydicom", "highdicom", "pynetdicom", "py.warnings", "PIL", "fhir")


def only_allowed_keys(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Structlog processor: replace the value of every key that is not on the allow-list."""
    return {key: value if key in ALLOWED_KEYS else "(withheld)" for key, value in event.items()}


def configure_logs(
    level: str = "info", style: str = "console", also: Iterable[structlog.typing.Processor] = ()
) -> None:
    """Send structlog events at or above the level to standard error, as text for people or as JSON lines.

    `also` is told of each event, which has passed the allow-list by then. Messages of libraries that quote attribute
    values are silenced, pydicom's warnings among them.
    """
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if style == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            only_allowed_keys,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *also,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    for name in _SILENCED:
        logging.getLogger(name).addHandler(logging.NullHandler())
        logging.getLogger(name).propagate = False
    warnings.filterwarnings("ignore")
