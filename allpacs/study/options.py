"""Settings that the steps of a study share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from allpacs.report.context import FhirOptions


@dataclass(frozen=True, slots=True)
class StudyOptions:
    """Settings of the study steps.

    Attributes
    ----------
    chunk_instances:
        Instances between two checkpoints; each frame of a multi-frame instance counts.
    cell_finder:
        Cell finder by calling AE title; for other senders the image decides.
    host_name:
        Name of this station, for the report's device.
    spacing_um:
        Pixel size in µm by calling AE title, for images that do not state one.
    key_images:
        Largest number of cells on the key images; 0: no key images.
    annotations_above:
        An image with more cells gets annotations beside a summary report.
    pdf:
        Whether the report is also written as PDF.
    fhir, viewer_url, hl7_pdf:
        See `allpacs.report.context.ReportContext`.
    """

    chunk_instances: int
    cell_finder: Mapping[str, str]
    host_name: str
    spacing_um: Mapping[str, float] = field(default_factory=dict)
    key_images: int = 0
    annotations_above: int = 2_000
    pdf: bool = False
    fhir: FhirOptions = field(default_factory=FhirOptions)
    viewer_url: str = ""
    hl7_pdf: bool = False
