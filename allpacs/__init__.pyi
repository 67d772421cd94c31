from allpacs.api import Artefact as Artefact
from allpacs.api import ReportContext as ReportContext
from allpacs.api import Settings as Settings
from allpacs.api import StudyFindings as StudyFindings
from allpacs.api import build_reports as build_reports
from allpacs.api import classify_images as classify_images
from allpacs.api import load_settings as load_settings
from allpacs.api import read_findings as read_findings
from allpacs.api import read_headers as read_headers

__version__: str
