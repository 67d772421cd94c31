"""How large a cell is, in micrometres."""

from __future__ import annotations

import math
from dataclasses import dataclass

from allpacs.domain.findings import CellFinding, InstanceFindings


@dataclass(frozen=True, slots=True)
class CellSize:
    """Size of a cell.

    Attributes
    ----------
    area_um2:
        Area within the outline, µm².
    diameter_um:
        Of the circle with this area, µm.
    """

    area_um2: float
    diameter_um: float


def cell_size(instance: InstanceFindings, cell: CellFinding) -> CellSize | None:
    """Return the size of a cell, of the whole cell on a slide; None without a scale or an outline."""
    outline = cell.outline if cell.on_matrix is None else cell.on_matrix.outline
    if instance.scale is None or len(outline) < 3:
        return None
    twice = sum(
        x * next_y - next_x * y for (x, y), (next_x, next_y) in zip(outline, (*outline[1:], outline[0]), strict=True)
    )
    area = abs(twice) / 2 * instance.scale.spacing_um**2
    return CellSize(area, 2 * math.sqrt(area / math.pi)) if area > 0 else None
