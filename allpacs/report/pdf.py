"""The report as PDF: the HTML page, printed; within the FHIR report, and as Encapsulated PDF for a PACS.

Made where `report.pdf` asks for it: printing takes seconds, and the library that prints needs Pango from the system.

Source: PS3.3 A.45.1 (Encapsulated PDF IOD), C.24 (encapsulated document).
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

from PIL import ImageFile
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage, EncapsulatedPDFStorage

from allpacs.domain.artefacts import DICOM, Artefact, ArtefactKind
from allpacs.domain.errors import ConfigFault
from allpacs.domain.identity import derive_uid
from allpacs.report import codes
from allpacs.report.context import result_uid
from allpacs.report.dicom_object import Series, code_item, part_10, result_object
from allpacs.report.format import Format
from allpacs.report.html import html_page
from allpacs.report.inputs import FormatInputs

SERIES_NUMBER = 9904
SERIES_DESCRIPTION = "AI report as PDF (research use only)"
TITLE = "White cell classification (research use only)"

#: Most cells that are printed one by one; of more, the pages have the summary.
MOST_CELLS = 500


def check_printing() -> str:
    """Look whether pages can be printed here; return one line for the operator.

    Raises
    ------
    ConfigFault
        The library or what it needs of the system is missing.
    """
    _weasyprint()
    return "pages can be printed"


def pdf_report(inputs: FormatInputs) -> bytes:
    """Return the HTML report printed; the same findings and context give the same bytes.

    Raises
    ------
    ConfigFault
        See `check_printing`.
    """
    html = html_page(inputs, list_cells=len(inputs.findings.cells) <= MOST_CELLS)
    weasyprint = _weasyprint()
    # Pictures are within the page: nothing is loaded from anywhere.
    within = weasyprint.urls.URLFetcher(allowed_protocols=("data",))
    printed: bytes = weasyprint.HTML(string=html, url_fetcher=within).write_pdf()
    return printed


def encapsulated_pdf(inputs: FormatInputs) -> Artefact:
    """Return the printed report as a Part 10 file, which names the structured report that states the same.

    Raises
    ------
    ConfigFault
        See `check_printing`.
    """
    return encapsulated(inputs, pdf_report(inputs))


def encapsulated(inputs: FormatInputs, pdf: bytes) -> Artefact:
    """Return a printed report as a Part 10 file."""
    findings, context = inputs.findings, inputs.context
    uid = result_uid(FORMAT.kind, findings, context)
    series_uid = derive_uid("series", "pdf", findings.study_uid, findings.model.digest)
    of = Series(series_uid, SERIES_NUMBER, SERIES_DESCRIPTION, "DOC")
    made = result_object(inputs, uid, EncapsulatedPDFStorage, of)
    made.ConversionType = "WSD"
    made.AcquisitionDateTime = None
    made.BurnedInAnnotation = "YES"  # it names the patient
    made.DocumentTitle = TITLE
    made.ConceptNameCodeSequence = [code_item(codes.PATHOLOGY_STUDY)]
    made.VerificationFlag = "UNVERIFIED" if context.signed is None else "VERIFIED"
    source = Dataset()
    source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = (
        Comprehensive3DSRStorage,
        inputs.uid_of(ArtefactKind.SR),
    )
    made.SourceInstanceSequence = [source]
    made.MIMETypeOfEncapsulatedDocument = "application/pdf"
    made.EncapsulatedDocumentLength = len(pdf)
    made.EncapsulatedDocument = pdf + b"\0" * (len(pdf) % 2)
    return FORMAT.artefact(uid, part_10(made))


def printed(encapsulated: bytes) -> bytes:
    """Return the PDF within an Encapsulated PDF object, without the byte that makes its length even."""
    held = dcmread(BytesIO(encapsulated), specific_tags=["EncapsulatedDocument", "EncapsulatedDocumentLength"])
    pdf: bytes = held.EncapsulatedDocument
    return pdf[: held.EncapsulatedDocumentLength]


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


FORMAT = Format(
    ArtefactKind.PDF,
    DICOM,
    ".dcm",
    encapsulated_pdf,
    wants=lambda context, _findings: context.pdf,
    after=(ArtefactKind.SR,),
    check=check_printing,
    setting="pdf",
)
