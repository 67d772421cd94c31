"""Pictures of a camera, and telling them from DICOM files."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

import decode_samples as samples
from allpacs.decode.open import read_frames_of
from allpacs.decode.picture import lossy_ratio, read_picture
from allpacs.domain.errors import StoreFault, UndecodablePixels

RGB = samples.smooth_rgb()


@pytest.mark.parametrize("suffix", ["bmp", "png", "tiff"])
def test_lossless_formats(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"cell.{suffix}"
    Image.fromarray(RGB).save(path, dpi=(300, 300))
    (frame,) = read_picture(path)
    assert (frame.rgb == RGB).all()
    assert frame.number == 1
    assert frame.spacing_um is None  # dots per inch are not micrometres of the object
    assert lossy_ratio(path) is None


def test_jpeg_is_lossy(tmp_path: Path) -> None:
    path = tmp_path / "cell.jpg"
    Image.fromarray(RGB).save(path, quality=95, subsampling=0)
    (frame,) = read_picture(path)
    assert np.abs(frame.rgb.astype(int) - RGB).max() <= 8
    ratio = lossy_ratio(path)
    assert ratio == pytest.approx(RGB.size / path.stat().st_size)


def test_jpeg_inside_tiff_is_lossy_too(tmp_path: Path) -> None:
    path = tmp_path / "cell.tif"
    Image.fromarray(RGB).save(path, compression="jpeg")
    assert lossy_ratio(path) is not None


def test_pages_of_a_tiff(tmp_path: Path) -> None:
    pages = [samples.smooth_rgb(shift=shift) for shift in range(3)]
    first, *others = (Image.fromarray(page) for page in pages)
    first.save(tmp_path / "stack.tif", save_all=True, append_images=others)
    frames = list(read_picture(tmp_path / "stack.tif"))
    assert [frame.number for frame in frames] == [1, 2, 3]
    assert all((frame.rgb == page).all() for frame, page in zip(frames, pages, strict=True))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1"])
def test_modes(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(RGB).convert(mode)
    image.save(tmp_path / "cell.png")
    (frame,) = read_picture(tmp_path / "cell.png")
    assert (frame.rgb == np.array(image.convert("RGB"))).all()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_grey(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(RGB[..., 0].astype(np.uint16) * 257).save(tmp_path / f"cell.{suffix}")
    (frame,) = read_picture(tmp_path / f"cell.{suffix}")
    assert (frame.rgb == RGB[..., :1]).all()


@pytest.mark.parametrize("suffix", ["bmp", "png", "jpg", "tif"])
def test_cut_off_pictures(tmp_path: Path, suffix: str) -> None:
    whole = tmp_path / f"whole.{suffix}"
    noise = np.random.default_rng(3).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(whole)
    content = whole.read_bytes()
    for length in (0, 3, 40, len(content) // 2):
        (tmp_path / "cut").write_bytes(content[:length])
        with pytest.raises(UndecodablePixels):
            list(read_frames_of(tmp_path / "cut"))


def test_too_large(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "huge.png")
    content = bytearray((tmp_path / "huge.png").read_bytes())
    content[16:24] = struct.pack(">2L", 60_000, 60_000)
    content[29:33] = struct.pack(">L", zlib.crc32(content[12:29]))
    (tmp_path / "huge.png").write_bytes(content)
    with pytest.raises(UndecodablePixels, match=r"(?i)bomb|too large"):
        list(read_picture(tmp_path / "huge.png"))
    Image.fromarray(RGB).save(tmp_path / "cell.png")
    with pytest.raises(UndecodablePixels, match="too large"):
        list(read_picture(tmp_path / "cell.png", max_pixels=RGB.shape[0] * RGB.shape[1] - 1))


def test_other_formats_are_refused(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "cell.gif")
    with pytest.raises(UndecodablePixels, match="not a BMP"):
        list(read_picture(tmp_path / "cell.gif"))


def test_a_missing_file(tmp_path: Path) -> None:
    for reader in (read_picture, read_frames_of):
        with pytest.raises(StoreFault):
            list(reader(tmp_path / "none.png"))


def test_told_apart_by_their_first_bytes(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "picture.png")
    (tmp_path / "picture.png").rename(tmp_path / "picture.dcm")
    (frame,) = read_frames_of(tmp_path / "picture.dcm")
    assert (frame.rgb == RGB).all()
    for kind, content in samples.seeds().items():
        (tmp_path / f"{kind}.png").write_bytes(content)
        assert next(read_frames_of(tmp_path / f"{kind}.png")).rgb.shape == RGB.shape


def test_real_cells(data_dir: Path) -> None:
    cells = sorted((data_dir / "cnmc").rglob("*.bmp"))[:3]
    assert cells
    for cell in cells:
        (frame,) = read_frames_of(cell)
        assert frame.rgb.shape == (450, 450, 3)
        assert frame.rgb[:8, :8].max() == 0  # segmented: black around the cell


def test_reduced_copies_and_masks_of_a_page_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "pyramid.tif"
    pages = [np.full((64, 64, 3), value, np.uint8) for value in (10, 20, 30, 40, 50)]
    with TiffImagePlugin.AppendingTiffWriter(str(path), new=True) as writer:
        for page, kind in zip(pages, (0, 1, 0, 4, 9), strict=True):
            Image.fromarray(page).save(writer, "TIFF", tiffinfo={254: kind})
            writer.newFrame()
    frames = list(read_picture(path))
    assert [(frame.number, int(frame.rgb[0, 0, 0])) for frame in frames] == [(1, 10), (2, 30)]


def test_a_file_of_nothing_but_a_reduced_page_is_read(tmp_path: Path) -> None:
    path = tmp_path / "only.tif"
    Image.new("RGB", (32, 32), (7, 8, 9)).save(path, tiffinfo={254: 1})
    (frame,) = read_picture(path)
    assert tuple(frame.rgb[0, 0]) == (7, 8, 9)


@pytest.mark.parametrize(("hidden", "shown"), [((0, 0, 0), (0, 0, 0)), ((200, 30, 90), (255, 255, 255))])
def test_transparent_pixels_are_white_unless_they_hide_black(
    tmp_path: Path, hidden: tuple[int, int, int], shown: tuple[int, int, int]
) -> None:
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[...] = (*hidden, 0)
    rgba[2:6, 2:6] = (120, 60, 140, 255)
    path = tmp_path / "cut.png"
    Image.fromarray(rgba).save(path)
    (frame,) = read_picture(path)
    assert tuple(frame.rgb[0, 0]) == shown
    assert tuple(frame.rgb[3, 3]) == (120, 60, 140)
