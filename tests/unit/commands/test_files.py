"""Which files of a folder are images."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from pydicom import dcmread

from allpacs.commands.files import dicom_files, image_files
from allpacs.domain.errors import InputFault
from support.hospital import drawn_study


def test_dicom_files_without_a_preamble_are_found_in_a_folder(tmp_path: Path) -> None:
    (written,) = drawn_study(tmp_path / "study", [1])
    folder = tmp_path / "folder"
    folder.mkdir()
    bare = folder / "bare.dcm"
    bare.write_bytes(written.read_bytes()[132:])
    image = dcmread(written)
    (folder / "DICOMDIR").write_bytes(written.read_bytes())
    (folder / "Thumbs.db").write_bytes(b"\x08\x00" + bytes(200))
    (folder / "notes.txt").write_text("not an image")
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    assert dicom_files([folder]) == [bare]
    assert image_files([folder]) == [folder / "a.png", bare]
    assert dcmread(bare, force=True).SOPInstanceUID == image.SOPInstanceUID


def test_a_folder_without_images_is_said(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not an image")
    with pytest.raises(InputFault, match="no pictures or DICOM files in"):
        image_files([tmp_path])
