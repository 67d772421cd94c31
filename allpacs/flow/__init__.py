"""The durable flow of a study; see `allpacs.flow.flow`. This package alone imports the workflow engine."""

from __future__ import annotations

from allpacs.flow.engine import workflow_database
from allpacs.flow.flow import Flow
from allpacs.flow.options import FlowOptions

__all__ = ["Flow", "FlowOptions", "workflow_database"]
