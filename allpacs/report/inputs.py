"""What the report formats of one run are written from: read once, and the same for all.

The headers of a study are read here and nowhere else; see `allpacs.report.source`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO

from pydicom import dcmread
from pydicom.dataset import Dataset

from allpacs.domain.artefacts import Artefact
from allpacs.domain.findings import StudyFindings
from allpacs.report.context import ReportContext
from allpacs.report.listing import annotated_images
from allpacs.report.source import Headers, Source, read_source
from allpacs.report.specimens import SpecimenResult, by_specimen, contradictions, summary
from allpacs.report.study_modules import character_set_of, own_text, study_modules


@dataclass(frozen=True, slots=True)
class ResultReference:
    """A result of the same run as another format refers to it.

    Attributes
    ----------
    uid:
        See `allpacs.domain.artefacts.Artefact`.
    sop_class_uid, series_uid:
        Of a DICOM object; otherwise empty.
    """

    uid: str
    sop_class_uid: str = ""
    series_uid: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class FormatInputs:
    """What every format of one run is written from; `format_inputs` reads it once.

    Attributes
    ----------
    source:
        What the headers of the study say.
    character_set:
        Specific Character Set that DICOM results are written in; a list with an empty text is ASCII.
    study_modules:
        Patient, study and specimen modules of every DICOM result. Copy them: results share them.
    parts:
        The findings of each specimen; one part if the images show one specimen or name none.
    contradictions:
        What the headers contradict themselves in, one line each: for a person.
    results:
        Results that are already written, by kind: the kinds that the format names in `after` and `embeds`.
    contents:
        Bytes of results that are already written, by kind: at least the kinds that the format names in `embeds`.
    """

    findings: StudyFindings
    source: Source
    context: ReportContext
    character_set: list[str]
    study_modules: Dataset
    parts: tuple[SpecimenResult, ...]
    contradictions: tuple[str, ...] = ()
    results: Mapping[str, Sequence[ResultReference]] = field(default_factory=dict)
    contents: Mapping[str, bytes] = field(default_factory=dict)

    def uid_of(self, kind: str) -> str:
        """Return the UID of the result of a kind.

        Raises
        ------
        LookupError
            There is no such result: the format does not name the kind in `Format.after`.
        """
        return self.results[kind][0].uid


def format_inputs(findings: StudyFindings, headers: Headers, context: ReportContext) -> FormatInputs:
    """Return what the results of a revision are written from; headers are read here and nowhere else.

    Parameters
    ----------
    headers:
        Source headers without pixels, by SOP Instance UID; may be incomplete.
    """
    annotated = annotated_images(findings, context.annotations_above)
    context = replace(context, annotated=tuple(image.sop_instance_uid for image in annotated))
    source = read_source(findings, headers)
    parts = by_specimen(findings, source)
    contradicting = (*source.contradictions, *contradictions(parts))
    said = "".join((own_text(findings, source, context), summary(parts), *contradicting))
    character_set = character_set_of(source, said)
    modules = study_modules(source, character_set)
    return FormatInputs(findings, source, context, character_set, modules, parts, contradicting)


def reference_to(result: Artefact) -> ResultReference:
    """Return how other results refer to this one."""
    if not result.is_dicom:
        return ResultReference(result.uid)
    header = dcmread(BytesIO(result.content), specific_tags=["SOPClassUID", "SeriesInstanceUID"])
    return ResultReference(result.uid, str(header.SOPClassUID), str(header.SeriesInstanceUID))
