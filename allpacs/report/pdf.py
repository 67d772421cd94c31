"""The report as PDF: the HTML page, printed; within the FHIR report, and as Encapsulated PDF for a PACS.

Made where `report.pdf` asks for it: printing takes seconds, and the library that prints needs Pango from the system.

Source: PS3.3 A.45.1 (Encapsulated PDF IOD), C.24 (encapsulated document).
"""

from __future__ import annotations

from typing import Any

from PIL import ImageFile
from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage, EncapsulatedPDFStorage

from allpacs.domain.artefacts import Artefact, ArtefactKind
from allpacs.domain.errors import ConfigFault
from allpacs.domain.findings import StudyFindings
from allpacs.domain.identity import derive_uid
from allpacs.report import codes
from allpacs.report.context import ReportContext, result_uid
from allpacs.report.document import Series, code_item, part_10, result_object
from allpacs.report.html import html_report
from allpacs.report.source import Headers

SERIES_NUMBER = 9904
SERIES_DESCRIPTION = "AI report as PDF (research use only)"
TITLE = "White cell classification (research use only)"

#: Most cells that are printed one by one; of more, the pages have the summary.
MOST_CELLS = 500


def check_printing() -> None:
    """Look whether pages can be printed here.

    Raises
    ------
    ConfigFault
        The library or what it needs of the system is missing.
    """
    _weasyprint()


def pdf_report(findings: StudyFindings, headers: Headers, context: ReportContext) -> bytes:
    """Return the HTML report printed; the same findings and context give the same bytes.

    Raises
    ------
    ConfigFault
        See `check_printing`.
    """
    html = html_report(findings, headers, context, list_cells=len(findings.cells) <= MOST_CELLS)
    weasyprint = _weasyprint()
    # Pictures are within the page: nothing is loaded from anywhere.
    within = weasyprint.urls.URLFetcher(allowed_protocols=("data",))
    printed: bytes = weasyprint.HTML(string=html.content.decode(), url_fetcher=within).write_pdf()
    return printed


def encapsulated_pdf(
    findings: StudyFindings, headers: Headers, context: ReportContext, pdf: bytes, sr_uid: str
) -> Artefact:
    """Return the printed report as a Part 10 file, which names the structured report that states the same."""
    uid = result_uid("pdf", findings, context)
    series_uid = derive_uid("series", "pdf", findings.study_uid, findings.model.digest)
    of = Series(series_uid, SERIES_NUMBER, SERIES_DESCRIPTION, "DOC")
    made = result_object(findings, headers, context, uid, EncapsulatedPDFStorage, of)
    made.ConversionType = "WSD"
    made.AcquisitionDateTime = None
    made.BurnedInAnnotation = "YES"  # it names the patient
    made.DocumentTitle = TITLE
    made.ConceptNameCodeSequence = [code_item(codes.DIAGNOSTIC_IMAGING_REPORT)]
    made.VerificationFlag = "UNVERIFIED" if context.signed is None else "VERIFIED"
    source = Dataset()
    source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = Comprehensive3DSRStorage, sr_uid
    made.SourceInstanceSequence = [source]
    made.MIMETypeOfEncapsulatedDocument = "application/pdf"
    made.EncapsulatedDocumentLength = len(pdf)
    made.EncapsulatedDocument = pdf + b"\0" * (len(pdf) % 2)
    return Artefact(ArtefactKind.PDF, uid, "application/dicom", f"{uid}.dcm", part_10(made))


def _weasyprint() -> Any:
    strict = ImageFile.LOAD_TRUNCATED_IMAGES
    try:
        import weasyprint
    except (ImportError, OSError) as missing:
        raise ConfigFault(
            "report.pdf: nothing here prints pages; install the extra pdf (pip install 'allpacs[pdf]') and Pango "
            "(Debian: libpangoft2-1.0-0, libharfbuzz-subset0), or set it to false"
        ) from missing
    finally:
        # It has Pillow fill in what a file lacks, for the whole process: a picture that is judged must be whole.
        ImageFile.LOAD_TRUNCATED_IMAGES = strict
    return weasyprint
