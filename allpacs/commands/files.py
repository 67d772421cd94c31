"""Which files of a folder are meant: pictures and DICOM files, told by their content or name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from allpacs.dicom.encoding import is_part10
from allpacs.domain.errors import InputFault

PICTURE_SUFFIXES = frozenset({".bmp", ".png", ".jpg", ".jpeg", ".tif", ".tiff"})


#: Files that media and operating systems add to a folder of images.
_NOT_IMAGES = frozenset({"dicomdir", "thumbs.db", ".ds_store", "desktop.ini"})


def is_dicom(path: Path) -> bool:
    """Whether the file starts as a DICOM file, with a preamble (PS3.10 section 7.1) or, as older ones, without."""
    return path.name.lower() not in _NOT_IMAGES and is_part10(path)


def picture_files(paths: Sequence[Path]) -> list[Path]:
    """Return the pictures among the paths and in the folders among them, in order of name."""
    return _files(paths, lambda path: path.suffix.lower() in PICTURE_SUFFIXES, "BMP, PNG, JPEG or TIFF pictures")


def dicom_files(paths: Sequence[Path]) -> list[Path]:
    """Return the DICOM files among the paths and in the folders among them, in order of name."""
    return _files(paths, is_dicom, "DICOM files")


def image_files(paths: Sequence[Path]) -> list[Path]:
    """Return the pictures and DICOM files among the paths and in the folders among them, in order of name."""
    return _files(
        paths, lambda path: path.suffix.lower() in PICTURE_SUFFIXES or is_dicom(path), "pictures or DICOM files"
    )


def _files(paths: Sequence[Path], wanted: Callable[[Path], bool], what: str) -> list[Path]:
    """Return files; one that is named itself is always meant.

    Raises
    ------
    InputFault
        A path does not exist, or nothing was found.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(file for file in path.rglob("*") if file.is_file() and wanted(file))
        elif path.is_file():
            found.append(path)
        else:
            raise InputFault(f"{path}: no such file or folder")
    if not found:
        raise InputFault(f"no {what} in {', '.join(map(str, paths))}")
    return found
