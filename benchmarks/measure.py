"""One figure: ours and the peer's measured in turns, so that what else the machine does meets both."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table.

    Attributes
    ----------
    ours, peer:
        Medians; `peer` is None for a figure that stands for itself.
    ratio:
        Median of the runs' own ratios, ours to the peer's.
    unit:
        Of `ours` and `peer`.
    runs:
        How often each was measured.
    low, high:
        Least and greatest ratio of a run; of `ours` where there is no peer.
    aim:
        What is to be reached, for example ``>= 1.0``.
    setting:
        Against what, and how: the peer's settings in a few words.
    """

    name: str
    ours: float
    peer: float | None
    ratio: float | None
    unit: str
    runs: int
    low: float
    high: float
    aim: str
    setting: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the row as it stands in ``latest.json``."""
        return {key: round(value, 4) if isinstance(value, float) else value for key, value in asdict(self).items()}


def paired(
    name: str,
    ours: Callable[[], float],
    peer: Callable[[], float],
    *,
    runs: int,
    unit: str,
    aim: str,
    setting: str = "",
) -> Row:
    """Measure both in turns, the one that begins changing from run to run; each call returns its figure."""
    pairs = []
    for run in range(runs):
        if run % 2:
            theirs, own = peer(), ours()
        else:
            own, theirs = ours(), peer()
        pairs.append((own, theirs))
    ratios = [own / theirs for own, theirs in pairs]
    return Row(
        name=name,
        ours=statistics.median(own for own, _ in pairs),
        peer=statistics.median(theirs for _, theirs in pairs),
        ratio=statistics.median(ratios),
        unit=unit,
        runs=runs,
        low=min(ratios),
        high=max(ratios),
        aim=aim,
        setting=setting,
    )


def alone(name: str, ours: Callable[[], float], *, runs: int, unit: str, aim: str, setting: str = "") -> Row:
    """Measure a figure that stands for itself."""
    return measured(name, [ours() for _ in range(runs)], unit=unit, aim=aim, setting=setting)


def measured(name: str, figures: Sequence[float], *, unit: str, aim: str, setting: str = "") -> Row:
    """Return the row of a figure that stands for itself, from what each run gave."""
    return Row(
        name=name,
        ours=statistics.median(figures),
        peer=None,
        ratio=None,
        unit=unit,
        runs=len(figures),
        low=min(figures),
        high=max(figures),
        aim=aim,
        setting=setting,
    )
