"""What a report needs beside the findings and the source headers; all of it passed in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

import numpy as np
from numpy.typing import NDArray

import allpacs
from allpacs.domain.findings import StudyFindings
from allpacs.domain.identity import derive_uid
from allpacs.domain.review import Review, Signed


@dataclass(frozen=True, slots=True)
class PriorReport:
    """The structured report that this one replaces: an earlier revision's, or the unsigned one."""

    sop_instance_uid: str
    sop_class_uid: str
    series_uid: str


@dataclass(frozen=True, slots=True)
class FhirOptions:
    """What a site decides about its FHIR reports.

    Attributes
    ----------
    cells:
        Which cells have an Observation of their own: ``none``; ``key``, those on the key images and those that a person
        changed; ``all``.
    identifier_systems:
        URI of the identifier system by its issuer as the images name it; an empty text: images that name no issuer.
    conditional_patient:
        Whether the patient is referenced as ``Patient?identifier=system|value`` (R4 3.1.0.11.2), which the server
        resolves, if the system is known; otherwise by a logical reference.
    wado_url:
        Where the archive serves an instance, with ``{study}``, ``{series}`` and ``{instance}``; empty: not stated.
    """

    cells: Literal["none", "key", "all"] = "key"
    identifier_systems: Mapping[str, str] = field(default_factory=dict)
    conditional_patient: bool = False
    wado_url: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class CellImage:
    """One cell for the key images.

    Attributes
    ----------
    rgb:
        As the network saw it: ``uint8`` of shape (n, n, 3).
    evidence:
        What spoke for a lymphoblast, ``float32`` of shape (n, n), 0 to 1; None where nobody was asked.
    """

    rgb: NDArray[np.uint8]
    evidence: NDArray[np.float32] | None = None


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
    host_name:
        Name of the machine that ran the model; not derived from a patient.
    thumbnails:
        PNG or JPEG bytes by the cell's tracking UID, for the HTML report.
    signed:
        The review that a person signed, where the findings are those after it; None before any sign-off.
    signed_earlier:
        The review of the latest earlier revision that a person signed: a signature now amends a final report, which
        stands until then. None if no earlier revision is signed.
    observed, retired:
        Tracking UIDs of cells that had an Observation in an earlier revision: those that are still there, and those
        that are not.
    fhir:
        What the site decides about FHIR reports.
    viewer_url:
        Where a viewer shows the study, with ``{study}``; empty: not stated.
    hl7_pdf:
        Whether HL7 v2 messages hold the printed report.
    pictures:
        Of the cells that key images show, by the cell's tracking UID.
    annotations_above:
        An image with more cells than these has annotations, and no group of the report for each cell.
    annotated:
        SOP Instance UIDs of the images whose cells are annotations and no groups of the report; set by
        `allpacs.report.format.format_inputs`.
    pdf:
        Whether the report is printed, too.
    """

    made_at: datetime
    predecessor: PriorReport | None = None
    model_card: str = ""
    host_name: str = ""
    thumbnails: Mapping[str, bytes] = field(default_factory=dict)
    signed: Signed | None = None
    signed_earlier: Review | None = None
    observed: tuple[str, ...] = ()
    retired: tuple[str, ...] = ()
    fhir: FhirOptions = field(default_factory=FhirOptions)
    viewer_url: str = ""
    hl7_pdf: bool = False
    pictures: Mapping[str, CellImage] = field(default_factory=dict)
    annotations_above: int = 2_000
    annotated: tuple[str, ...] = ()
    pdf: bool = False

    def __post_init__(self) -> None:
        if self.made_at.utcoffset() is None:
            raise ValueError("made_at needs a time zone")

    @property
    def signed_before(self) -> bool:
        """Whether a person signed an earlier revision of the study."""
        return self.signed_earlier is not None

    @property
    def issued_at(self) -> datetime:
        """When the document became what it is: when it was signed, or made where nobody has signed."""
        return self.made_at if self.signed is None else self.signed.review.signed_at


def result_uid(kind: str, findings: StudyFindings, context: ReportContext, *of: str) -> str:
    """Return the UID of one result: the same for a retry, another one whenever anything it was made from changes.

    Derived from the kind of result, the revision, the model's digest, the decision digest and the sorted source SOP
    Instance UIDs; of a signed report also from everything that was signed; where there are key images or annotations
    also from which cells they show, since the report points to them. `of` tells apart results of one kind.
    """
    sources = sorted(instance.sop_instance_uid for instance in findings.instances)
    digests = (findings.model.digest, findings.decision_digest)
    signed = () if context.signed is None else ("signed", context.signed.review.digest)
    pictured = sorted(f"{uid} {one.evidence is not None}" for uid, one in context.pictures.items())
    beside = (*pictured, *context.annotated, *of)
    return derive_uid("result", kind, findings.study_uid, str(findings.revision), *digests, *sources, *signed, *beside)


def sr_series_uid(findings: StudyFindings) -> str:
    """Return the Series Instance UID of a study's structured reports: one series a model and software version."""
    return derive_uid("series", "sr", findings.study_uid, findings.model.digest, allpacs.__version__)
