"""Drift: what the model says, week by week, source by source. Pure: sums in, rows out.

A change of the scores, of the share that cannot be judged, or of how often people disagree tells that what is read is
no longer what the model was made for: another stain, another camera, other patients.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from allpacs.store.outcomes import SCORE_BINS, SummedOutcomes

#: Population stability index from which a distribution is called shifted, and much shifted (the usual rule of thumb of
#: credit scoring, Siddiqi 2006: 0.1 and 0.25); not a test of significance.
SHIFTED, MUCH_SHIFTED = 0.1, 0.25
#: Cells of a week and of the weeks before it from which an index is stated.
LEAST_CELLS = 100


@dataclass(frozen=True, slots=True)
class Week:
    """One week of one source read by one bundle.

    Attributes
    ----------
    starts:
        Monday, ``YYYY-MM-DD``, of this machine's calendar.
    disagreed:
        Share of the cells of signed studies that a person relabelled or excluded; None where none was signed.
    shift:
        Population stability index of the scores against all earlier weeks of the same source and bundle; None where
        there are too few cells.
    """

    starts: str
    source_ae: str
    bundle: str
    digest: str
    studies: int
    cells: int
    scores: tuple[int, ...]
    not_assessable: float | None
    lymphoblasts: float | None
    signed: int
    disagreed: float | None
    shift: float | None


def mondays(weeks: int, now: float) -> list[float]:
    """Return when the last so many weeks began by this machine's calendar, this week's last, UTC seconds."""
    today = (
        datetime.fromtimestamp(now, UTC).astimezone().replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
    )
    this_week = today - timedelta(days=today.weekday())
    # Without a zone of their own they are this machine's, each with what its clocks showed then.
    return [(this_week - timedelta(weeks=back)).timestamp() for back in reversed(range(weeks))]


def by_week(outcomes: Iterable[SummedOutcomes], starts: Sequence[float]) -> list[Week]:
    """Return the weeks, the latest first, by source and bundle.

    Parameters
    ----------
    starts:
        When each period of the outcomes began, as `mondays` returns it.
    """
    earlier: dict[tuple[str, str], list[int]] = {}
    weeks = []
    for one in sorted(outcomes, key=lambda one: one.period):
        before = earlier.setdefault((one.source_ae, one.model.digest), [0] * SCORE_BINS)
        weeks.append(_week(one, starts[one.period], stability_index(before, one.scores)))
        earlier[one.source_ae, one.model.digest] = [sum(pair) for pair in zip(before, one.scores, strict=True)]
    return sorted(weeks, key=lambda week: (week.starts, week.source_ae, week.digest), reverse=True)


def stability_index(before: Sequence[int], now: Sequence[int]) -> float | None:
    """Return the population stability index of two counts over the same bins; None where there are too few."""
    if min(sum(before), sum(now)) < LEAST_CELLS:
        return None
    index = 0.0
    for expected, actual in zip(before, now, strict=True):
        # Half a cell in each bin: an empty one would make the index infinite.
        e = (expected + 0.5) / (sum(before) + 0.5 * len(before))
        a = (actual + 0.5) / (sum(now) + 0.5 * len(now))
        index += (a - e) * math.log(a / e)
    return index


def _week(one: SummedOutcomes, starts: float, shift: float | None) -> Week:
    assessable = one.all + one.hem
    return Week(
        starts=datetime.fromtimestamp(starts, UTC).astimezone().strftime("%Y-%m-%d"),
        source_ae=one.source_ae,
        bundle=f"{one.model.name} {one.model.version}",
        digest=one.model.digest,
        studies=one.studies,
        cells=one.cells,
        scores=one.scores,
        not_assessable=1 - assessable / one.cells if one.cells else None,
        lymphoblasts=one.all / assessable if assessable else None,
        signed=one.signed,
        disagreed=one.changed / one.signed_cells if one.signed_cells else None,
        shift=shift,
    )
