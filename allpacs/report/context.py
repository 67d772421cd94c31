"""What a report needs beside the findings and the source headers; all of it passed in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import allpacs
from allpacs.domain.findings import StudyFindings
from allpacs.domain.identity import derive_uid


@dataclass(frozen=True, slots=True)
class PriorReport:
    """The structured report of the earlier revision that this one replaces."""

    sop_instance_uid: str
    sop_class_uid: str
    series_uid: str


@dataclass(frozen=True, slots=True)
class ReportContext:
    """When, where and after what a report is made.

    Attributes
    ----------
    made_at:
        With time zone. DICOM dates and times are written in the source's own time zone where its header states one
        (Timezone Offset From UTC), otherwise in the zone of this value: pass the hospital's local zone.
    predecessor:
        None for the first report of a study.
    model_card:
        A few lines of plain text from the bundle's model card; may be empty.
    wado_url_template:
        Where the archive serves an instance, for example
        ``https://pacs.example/dicom-web/studies/{study}/series/{series}/instances/{instance}``; None where it does not.
    host_name:
        Name of the machine that ran the model; not derived from a patient.
    thumbnails:
        PNG or JPEG bytes by the cell's tracking UID, for the HTML report.
    """

    made_at: datetime
    predecessor: PriorReport | None = None
    model_card: str = ""
    wado_url_template: str | None = None
    host_name: str = ""
    thumbnails: Mapping[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.made_at.utcoffset() is None:
            raise ValueError("made_at needs a time zone")


def result_uid(kind: str, findings: StudyFindings) -> str:
    """Return the UID of one result: the same for a retry, another one whenever anything it was made from changes.

    Derived from the kind of result, the revision, the model's digest, the decision digest and the sorted source SOP
    Instance UIDs.
    """
    sources = sorted(instance.sop_instance_uid for instance in findings.instances)
    digests = (findings.model.digest, findings.decision_digest)
    return derive_uid("result", kind, findings.study_uid, str(findings.revision), *digests, *sources)


def sr_series_uid(findings: StudyFindings) -> str:
    """Return the Series Instance UID of a study's structured reports: one series a model and software version."""
    return derive_uid("series", "sr", findings.study_uid, findings.model.digest, allpacs.__version__)
