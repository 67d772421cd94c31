"""One picture to one VL Microscopic Image instance (PS3.3 A.32.2)."""

from __future__ import annotations

import hashlib
from datetime import datetime

import numpy as np
from highdicom import SpecimenDescription, SpecimenPreparationStep, SpecimenStaining
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, VLMicroscopicImageStorage

from allpacs import __version__
from allpacs.capture.specimen import (
    ANATOMY_CODES,
    MICROSCOPE_SLIDE,
    SPECIMEN_TYPE_CODES,
    STAIN_CODES,
)
from allpacs.domain.errors import InputFault
from allpacs.domain.identity import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    MANUFACTURER,
    derive_uid,
)
from allpacs.domain.specimen import PatientAndSpecimen

#: Not the model name of results: an imported picture is input, and the receiver takes in no output.
MODEL_NAME = "allpacs import"
SYNTHETIC_REMARK = "Synthetic image, not from a patient"


def capture(
    rgb: NDArray[np.uint8],
    *,
    patient: PatientAndSpecimen,
    study_uid: str,
    series_uid: str,
    instance_number: int,
    made_at: datetime,
    spacing_um: float | None = None,
    lossy_ratio: float | None = None,
    synthetic: bool = False,
) -> FileDataset:
    """Return the picture as a complete instance, uncompressed, explicit VR little endian.

    The SOP Instance UID is derived from all that the instance is made of: the same call gives the same bytes, and
    other bytes never reuse a UID.

    Parameters
    ----------
    rgb:
        ``uint8`` array of shape (rows, columns, 3).
    instance_number:
        From 1, in order of the pictures.
    made_at:
        When the picture was taken; with a time zone, that is stated too.
    spacing_um:
        Distance of neighbouring pixel centres on the slide in micrometres, or None.
    lossy_ratio:
        By how much the picture had been compressed with loss as JPEG before, or None.
    synthetic:
        The picture is drawn, not taken; says so in Image Type, Derivation Description and Image Comments.

    Raises
    ------
    InputFault
        The picture has no pixels or more than 65,535 rows or columns, or the spacing is not a positive number.

    Source: PS3.3 A.32.2 (IOD), C.7.6.22 (Specimen), C.8.12.1 (VL Image).
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or not 1 <= min(rgb.shape) <= max(rgb.shape) < 65536:
        raise InputFault("the picture is no RGB picture of 1 to 65,535 rows and columns")
    if spacing_um is not None and not 0 < spacing_um < 1e6:
        raise InputFault("the spacing is not a positive number of micrometres")
    pixels = np.ascontiguousarray(rgb).tobytes()
    stated = (patient, instance_number, made_at.isoformat(), spacing_um, lossy_ratio, synthetic, rgb.shape, __version__)
    digest = hashlib.sha256(pixels).hexdigest()
    instance_uid = derive_uid("imported picture", study_uid, series_uid, digest, repr(stated))

    image = FileDataset("", {}, file_meta=_file_meta(instance_uid), preamble=bytes(128))
    image.SpecificCharacterSet = "ISO_IR 192"
    image.SOPClassUID = VLMicroscopicImageStorage
    image.SOPInstanceUID = UID(instance_uid)
    if made_at.tzinfo is not None:
        image.TimezoneOffsetFromUTC = made_at.strftime("%z")[:5]
    _add_patient_and_study(image, patient, study_uid, made_at)
    _add_series_and_equipment(image, series_uid)
    _add_image(image, instance_number, made_at, spacing_um, lossy_ratio, synthetic)
    _add_specimen(image, patient, study_uid)
    image.SamplesPerPixel = 3
    image.PhotometricInterpretation = "RGB"
    image.PlanarConfiguration = 0
    image.Rows, image.Columns, _ = rgb.shape
    image.BitsAllocated = image.BitsStored = 8
    image.HighBit = 7
    image.PixelRepresentation = 0
    image.add_new("PixelData", "OB", pixels + b"\0" * (len(pixels) % 2))
    return image


def _file_meta(instance_uid: str) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = VLMicroscopicImageStorage
    meta.MediaStorageSOPInstanceUID = UID(instance_uid)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    return meta


def _add_patient_and_study(image: FileDataset, patient: PatientAndSpecimen, study_uid: str, made_at: datetime) -> None:
    image.PatientName = patient.patient_name
    image.PatientID = patient.patient_id
    image.PatientBirthDate = patient.birth_date.strftime("%Y%m%d") if patient.birth_date else ""
    image.PatientSex = patient.sex
    image.StudyInstanceUID = UID(study_uid)
    image.StudyDate = made_at.strftime("%Y%m%d")
    image.StudyTime = made_at.strftime("%H%M%S")
    image.ReferringPhysicianName = ""
    image.StudyID = ""
    image.AccessionNumber = patient.accession_number


def _add_series_and_equipment(image: FileDataset, series_uid: str) -> None:
    image.Modality = "GM"  # General Microscopy
    image.SeriesInstanceUID = UID(series_uid)
    image.SeriesNumber = 1
    image.Manufacturer = MANUFACTURER
    image.ManufacturerModelName = MODEL_NAME
    image.SoftwareVersions = __version__


def _add_image(
    image: FileDataset,
    instance_number: int,
    made_at: datetime,
    spacing_um: float | None,
    lossy_ratio: float | None,
    synthetic: bool,
) -> None:
    image.ImageType = ["DERIVED", "SECONDARY"] if synthetic else ["ORIGINAL", "PRIMARY"]
    if synthetic:
        image.DerivationDescription = image.ImageComments = SYNTHETIC_REMARK
    image.InstanceNumber = instance_number
    image.PatientOrientation = None  # cells on a slide have none
    image.ContentDate = made_at.strftime("%Y%m%d")
    image.ContentTime = made_at.strftime("%H%M%S.%f")
    image.AcquisitionDateTime = made_at.strftime("%Y%m%d%H%M%S.%f")
    image.AcquisitionContextSequence = []
    image.BurnedInAnnotation = "NO"
    image.LossyImageCompression = "00" if lossy_ratio is None else "01"
    if lossy_ratio is not None:
        image.LossyImageCompressionRatio = f"{lossy_ratio:.4g}"
        image.LossyImageCompressionMethod = "ISO_10918_1"
    if spacing_um is not None:
        image.PixelSpacing = [f"{spacing_um / 1000:.9g}"] * 2


def _add_specimen(image: FileDataset, patient: PatientAndSpecimen, study_uid: str) -> None:
    # Type 1: where the slide has no identifier of its own, one that cannot be taken for a laboratory's.
    derived = derive_uid("container", study_uid)
    container_id = patient.container_id or patient.accession_number or f"ALLPACS-{derived[-12:]}"
    image.ContainerIdentifier = container_id
    image.IssuerOfTheContainerIdentifierSequence = []
    image.ContainerTypeCodeSequence = [CodedConcept.from_code(MICROSCOPE_SLIDE)]
    steps = []
    if patient.stain is not None:
        staining = SpecimenStaining([CodedConcept.from_code(code) for code in STAIN_CODES[patient.stain]])
        steps.append(SpecimenPreparationStep(container_id, staining))
    image.SpecimenDescriptionSequence = [
        SpecimenDescription(
            specimen_id=container_id,
            specimen_uid=derive_uid("specimen", study_uid, container_id),
            specimen_preparation_steps=steps,
            specimen_type=SPECIMEN_TYPE_CODES[patient.kind] if patient.kind else None,
            primary_anatomic_structures=[ANATOMY_CODES[patient.kind]] if patient.kind else None,
        )
    ]
