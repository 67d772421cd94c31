"""What leaves for research tells nothing of whom it is of, and still belongs together."""

from __future__ import annotations

from datetime import UTC, datetime
from io import BytesIO

import numpy as np
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileDataset

from allpacs.capture.vl_microscopic import capture
from allpacs.dicom.deidentify import deidentified
from allpacs.domain.errors import InputFault
from allpacs.domain.specimen import PatientAndSpecimen, SpecimenKind, Stain

KEY = bytes(range(32))
CANARY = "ZEBEDEE"


def image(number: int = 1, patient: str = "MRN-ZEBEDEE-1") -> FileDataset:
    """Return an image with the patient in every place that a sender may think of."""
    dataset = capture(
        np.full((8, 8, 3), number, np.uint8),
        patient=PatientAndSpecimen(
            patient_id=patient,
            patient_name="Zebedee^Given",
            accession_number="ACC-ZEBEDEE",
            kind=SpecimenKind.BONE_MARROW,
            stain=Stain.GIEMSA,
        ),
        study_uid="1.2.3",
        series_uid="1.2.3.4",
        instance_number=number,
        made_at=datetime(2024, 5, 17, 11, 22, 33, tzinfo=UTC),
    )
    dataset.InstitutionName = "St Zebedee"
    dataset.PatientAddress = "1 Zebedee Road"
    dataset.StudyDescription = dataset.SeriesDescription = "of Zebedee"
    dataset.OperatorsName = "Zebedee^Nurse"
    dataset.PatientComments = "tell Zebedee"
    dataset.OtherPatientIDs = ["ZEBEDEE-2", "ZEBEDEE-3"]
    dataset.DeviceSerialNumber = "ZEBEDEE-4"
    dataset.private_block(0x0011, "ZEBEDEE CREATOR", create=True).add_new(1, "LO", "zebedee")
    dataset.add_new(0x60004000, "LT", "overlay of Zebedee")
    source = Dataset()
    source.ReferencedSOPClassUID = dataset.SOPClassUID
    source.ReferencedSOPInstanceUID = "1.2.3.4.5"
    source.PatientName = "Zebedee^Nested"
    dataset.SourceImageSequence = [source]
    deep = Dataset()
    deep.CodeValue, deep.CodingSchemeDesignator, deep.CodeMeaning = "1", "99X", "kept"
    deep.TextValue = "Zebedee in text"
    deep.PersonName = "Zebedee^Deep"
    dataset.OpticalPathSequence = [Dataset()]
    dataset.OpticalPathSequence[0].IlluminationTypeCodeSequence = [deep]
    dataset.file_meta.SourceApplicationEntityTitle = "ZEBEDEE"
    return dataset


def written(dataset: Dataset) -> bytes:
    out = BytesIO()
    dcmwrite(out, dataset, enforce_file_format=True)
    return out.getvalue()


def test_nothing_that_tells_who_it_is_is_left_in_the_file() -> None:
    before, after = written(image()), written(deidentified(image(), key=KEY))
    for told in (CANARY.encode(), b"20240517", b"112233", b"1.2.3.4", b"MRN"):
        assert told in before.upper()
        assert told not in after.upper()


def test_the_pixels_and_what_describes_them_stay() -> None:
    original = image()
    clean = dcmread(BytesIO(written(deidentified(original, key=KEY))))
    for keyword in ("Rows", "Columns", "PhotometricInterpretation", "PixelData", "SOPClassUID", "Manufacturer"):
        assert clean[keyword].value == original[keyword].value
    assert clean.OpticalPathSequence[0].IlluminationTypeCodeSequence[0].CodeMeaning == "kept"
    assert clean.file_meta.TransferSyntaxUID == original.file_meta.TransferSyntaxUID
    assert clean.file_meta.MediaStorageSOPInstanceUID == clean.SOPInstanceUID
    assert clean.StudyDate == ""


def test_it_says_that_and_how_it_was_done() -> None:
    clean = deidentified(image(), key=KEY)
    assert clean.PatientIdentityRemoved == "YES"
    assert clean.DeidentificationMethodCodeSequence[0].CodeValue == "113100"
    assert clean.LongitudinalTemporalInformationModified == "REMOVED"


def test_one_subjects_images_stay_together_and_apart_from_another_subjects() -> None:
    first, second, other = (deidentified(one, key=KEY) for one in (image(1), image(2), image(3, "MRN-ZEBEDEE-9")))
    assert first.PatientID == second.PatientID == str(first.PatientName) != other.PatientID
    assert first.StudyInstanceUID == second.StudyInstanceUID
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert (
        first.SourceImageSequence[0].ReferencedSOPInstanceUID == second.SourceImageSequence[0].ReferencedSOPInstanceUID
    )
    assert deidentified(image(), key=bytes(32)).PatientID != first.PatientID
    assert deidentified(image(), key=KEY).SOPInstanceUID == first.SOPInstanceUID


def test_the_original_stays_as_it_is() -> None:
    dataset = image()
    before = written(dataset)
    deidentified(dataset, key=KEY)
    assert written(dataset) == before


def test_pixels_that_may_name_the_patient_are_refused() -> None:
    dataset = image()
    dataset.BurnedInAnnotation = "YES"
    with pytest.raises(InputFault, match="pixels"):
        deidentified(dataset, key=KEY)


def test_a_short_key_is_no_secret() -> None:
    with pytest.raises(ValueError, match="key"):
        deidentified(image(), key=b"short")
