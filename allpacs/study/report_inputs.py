"""Headers and context that the reports of a revision are written from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from io import BytesIO

from pydicom import Dataset, dcmread

from allpacs.decode.part10 import read_elements, read_header, readable
from allpacs.domain.artefacts import Artefact, ArtefactKind
from allpacs.domain.errors import InputFault
from allpacs.domain.findings import StudyFindings
from allpacs.domain.review import Review
from allpacs.report.context import PriorReport, ReportContext
from allpacs.report.headers import OF_EACH, check_one_patient, gathered
from allpacs.report.key_images import key_cells
from allpacs.store.records import InstanceRow
from allpacs.store.store import Store
from allpacs.study.cell_images import CellImages
from allpacs.study.options import StudyOptions


class ReportInputs:
    """Reads what reports need from the spool and the store.

    Parameters
    ----------
    instances:
        Returns the instances of a closed revision.
    intended_use:
        Statement of the model, quoted in every report.
    """

    def __init__(
        self,
        store: Store,
        options: StudyOptions,
        intended_use: str,
        instances: Callable[[str, int], Sequence[InstanceRow]],
    ) -> None:
        self._store, self._options, self._intended_use, self._instances = store, options, intended_use, instances

    def of(self, findings: StudyFindings, images: CellImages) -> tuple[dict[str, Dataset], ReportContext]:
        """Return the headers that a report quotes, and the rest of what it needs.

        Parameters
        ----------
        findings:
            As the model left them.
        images:
            Crops of the cells, and the key images.

        Raises
        ------
        InputFault
            The instances name different patients.
        """
        study_uid, revision = findings.study_uid, findings.revision
        rows = {row.sop_instance_uid: row for row in self._instances(study_uid, revision)}
        lead = next((one.sop_instance_uid for one in findings.instances if one.sop_instance_uid in rows), "")
        each = ((uid, _header(row, only=None if uid == lead else OF_EACH)) for uid, row in rows.items())
        headers = gathered(each, lead, readable)
        check_one_patient(headers.values())
        observed = self._observed(study_uid, revision)
        present = {cell.tracking_uid for cell in findings.cells}
        context = ReportContext(
            # When the revision was closed, not now: writing the report again gives the same bytes.
            made_at=datetime.fromtimestamp(self._store.revisions.get(study_uid, revision).created_at, UTC).astimezone(),
            predecessor=self._predecessor(study_uid, revision),
            signed_earlier=self._signed_earlier(study_uid, revision),
            observed=tuple(sorted(observed & present)),
            retired=tuple(sorted(observed - present)),
            fhir=self._options.fhir,
            viewer_url=self._options.viewer_url,
            hl7_pdf=self._options.hl7_pdf,
            model_card=self._intended_use,
            host_name=self._options.host_name,
            thumbnails=images.thumbnails,
            pictures=images.key,
            annotations_above=self._options.annotations_above,
            pdf=self._options.pdf,
        )
        return headers, context

    def _signed_earlier(self, study_uid: str, revision: int) -> Review | None:
        """Return the review of the latest earlier revision that a person signed."""
        row = self._store.reviews.signed_before(study_uid, revision)
        if row is None or row.signed_revision is None:
            return None
        return self._store.reviews.signed(study_uid, row.signed_revision)

    def _observed(self, study_uid: str, revision: int) -> set[str]:
        """Return the tracking UIDs of cells that had an Observation in an earlier revision."""
        observed: set[str] = set()
        for earlier in range(1, revision):
            found = self._store.findings.get(study_uid, earlier, stage="classify")
            cells = [cell for instance in found for cell in instance.cells]
            match self._options.fhir.cells:
                case "all":
                    observed.update(cell.tracking_uid for cell in cells)
                case "key":
                    observed.update(cell.tracking_uid for cell in key_cells(cells, self._options.key_images))
        return observed

    def _predecessor(self, study_uid: str, revision: int) -> PriorReport | None:
        """Return the SR of the nearest earlier revision that has one."""
        for earlier in range(revision - 1, 0, -1):
            for artefact in self._store.artefacts.get(study_uid, earlier):
                if artefact.kind == ArtefactKind.SR:
                    return prior_report(artefact)
        return None


def prior_report(sr: Artefact) -> PriorReport:
    """Return how a structured report is named by the one that replaces it."""
    header = dcmread(BytesIO(sr.content), specific_tags=["SeriesInstanceUID", "SOPClassUID"])
    return PriorReport(
        sop_instance_uid=sr.uid,
        sop_class_uid=str(header.SOPClassUID),
        series_uid=str(header.SeriesInstanceUID),
    )


def _header(row: InstanceRow, *, only: Iterable[str] | None) -> Dataset:
    """Return the header of an instance, or some of it; of one that cannot be parsed any more, what the index knows."""
    try:
        return read_header(row.path) if only is None else read_elements(row.path, only)
    except InputFault:
        known = Dataset()
        known.SOPInstanceUID = row.sop_instance_uid
        known.SOPClassUID = row.sop_class_uid
        known.StudyInstanceUID = row.study_uid
        known.SeriesInstanceUID = row.series_uid
        return known
