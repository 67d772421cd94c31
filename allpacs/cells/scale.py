"""Which pixel size a frame's cells are judged at: stated, measured on red cells, configured or assumed."""

from __future__ import annotations

from allpacs.domain.findings import Remark, RemarkKind
from allpacs.domain.image import Scale, ScaleOrigin

#: Pixel size of C-NMC, µm. It is not published. Estimated: a lymphoblast of ALL-IDB2 is 12.0 µm across (median of 30
#: images whose red cells give the scale), one of C-NMC 214 pixels (median of 409); 12.0 / 214 = 0.056.
CNMC_UM = 0.056

#: A stated pixel size that differs from the red cells' by more than this factor is not believed.
CONFLICT = 1.5


def choose_scale(
    stated: Scale | None, measured: Scale | None, configured: Scale | None, *, segmented: bool
) -> tuple[Scale | None, Remark | None]:
    """Return the scale of a frame, and what a reader must know of it.

    What the object states comes first, then its red cells, then the sender's settings, then, for one segmented cell
    on black, the scale of C-NMC, whose origin is *assumed*. If the stated scale contradicts the red cells, the red
    cells are used: a wrong header is more likely than red cells of 11 µm. A stated scale that no microscope has (a
    screen's or a scanner's) is passed over.

    Parameters
    ----------
    segmented:
        Whether the frame shows one segmented cell on black.
    """
    if stated is not None and not stated.usable:
        others, _ = choose_scale(None, measured, configured, segmented=segmented)
        text = f"The image states {stated.spacing_um:.4g} micrometres per pixel, which cells cannot be judged at"
        used = f"{others.spacing_um:.4g} is used, {others.origin.value}" if others else "no other scale is known"
        return others, Remark(RemarkKind.SCALE_CONFLICT, f"{text}: {used}.")
    if stated is not None and measured is not None:
        ratio = stated.spacing_um / measured.spacing_um
        if not 1 / CONFLICT <= ratio <= CONFLICT:
            text = (
                f"The image states {stated.spacing_um:.4g} micrometres per pixel, its red cells give "
                f"{measured.spacing_um:.4g}: the red cells are used."
            )
            return measured, Remark(RemarkKind.SCALE_CONFLICT, text)
    assumed = Scale(CNMC_UM, ScaleOrigin.ASSUMED) if segmented else None
    return stated or measured or configured or assumed, None
