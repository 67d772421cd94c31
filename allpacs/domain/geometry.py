"""Places in a frame, in a slide's total pixel matrix and on the slide. Columns first, as DICOM coordinates have it."""

from __future__ import annotations

from dataclasses import dataclass

#: (column, row) in pixels; (0.0, 0.0) is the top left corner of the top left pixel (PS3.3 C.18.6.1.2).
PointPx = tuple[float, float]


@dataclass(frozen=True, slots=True)
class BoxPx:
    """A rectangle of whole pixels: column and row of its top left pixel, width and height (each at least 1)."""

    x: int
    y: int
    width: int
    height: int

    def __post_init__(self) -> None:
        if self.x < 0 or self.y < 0 or self.width < 1 or self.height < 1:
            raise ValueError(f"not a box in a frame: {self.x}, {self.y}, {self.width} x {self.height}")

    @property
    def right(self) -> int:
        """Column just right of the box."""
        return self.x + self.width

    @property
    def bottom(self) -> int:
        """Row just below the box."""
        return self.y + self.height

    def as_list(self) -> list[int]:
        """Return ``[x, y, width, height]``."""
        return [self.x, self.y, self.width, self.height]

    def corners(self) -> tuple[PointPx, ...]:
        """Return the four corners, clockwise from the top left, as a closed outline's points without repetition."""
        return (
            (float(self.x), float(self.y)),
            (float(self.right), float(self.y)),
            (float(self.right), float(self.bottom)),
            (float(self.x), float(self.bottom)),
        )


@dataclass(frozen=True, slots=True)
class PixelMatrix:
    """The total pixel matrix of a slide, and where it lies on the slide (PS3.3 C.8.12.4.1.1, C.8.12.2.1.1).

    Attributes
    ----------
    columns, rows:
        Its size in pixels.
    origin_mm:
        x, y, z of the middle of the top left pixel in the slide coordinate system; None where it is not stated.
    along_row, along_column:
        Direction cosines of increasing column and of increasing row: Image Orientation (Slide).
    spacing_mm:
        Distance of neighbouring pixels within a row (between columns), and of neighbouring rows.
    frame_of_reference_uid:
        Of the slide coordinate system; empty where it is not stated.
    """

    columns: int
    rows: int
    origin_mm: tuple[float, float, float] | None = None
    along_row: tuple[float, float, float] = (0.0, -1.0, 0.0)
    along_column: tuple[float, float, float] = (-1.0, 0.0, 0.0)
    spacing_mm: tuple[float, float] | None = None
    frame_of_reference_uid: str = ""

    def on_slide_mm(self, point: PointPx) -> tuple[float, float, float] | None:
        """Return x, y, z on the slide in millimetres of a point of the matrix; None where the slide is not stated.

        Source: PS3.3 C.7.6.2.1.1, Equation C.7.6.2.1-1; a point's (0.5, 0.5) is the middle of the top left pixel.
        """
        if self.origin_mm is None or self.spacing_mm is None:
            return None
        across, down = (point[0] - 0.5) * self.spacing_mm[0], (point[1] - 0.5) * self.spacing_mm[1]
        x, y, z = (
            start + across * row + down * column
            for start, row, column in zip(self.origin_mm, self.along_row, self.along_column, strict=True)
        )
        return x, y, z
