"""Composition root: the one place where settings become live parts.

Parts are imported where they are made: the receiver must be up without loading the model's libraries.
"""

from allpacs.app.destinations import make_destination, make_destinations
from allpacs.app.model import asking, explaining, make_pipeline, start_model
from allpacs.app.receiving import accepted_transfer_syntaxes, make_receiver, recover_in_background
from allpacs.app.reports import format_checks
from allpacs.app.store import open_store
from allpacs.app.watching import make_audit, start_monitor, start_tracing
from allpacs.app.worker import Worker
from allpacs.dicom.certificates import make_tls

__all__ = [
    "Worker",
    "accepted_transfer_syntaxes",
    "asking",
    "explaining",
    "format_checks",
    "make_audit",
    "make_destination",
    "make_destinations",
    "make_pipeline",
    "make_receiver",
    "make_tls",
    "open_store",
    "recover_in_background",
    "start_model",
    "start_monitor",
    "start_tracing",
]
