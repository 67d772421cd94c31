"""The identity of one SOP Instance, as its header states it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class InstanceIdentity:
    """What the index keeps of an admitted SOP Instance: UIDs only, no patient data."""

    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    study_uid: str
    series_uid: str
