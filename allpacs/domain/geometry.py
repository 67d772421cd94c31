"""Places in a frame, in pixels. Columns first, as DICOM spatial coordinates have it."""

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
