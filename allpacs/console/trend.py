"""Drift: what the model says, week by week, source by source. Pure: outcomes in, rows out.

A change of the scores, of the share that cannot be judged, or of how often people disagree tells that what is read is
no longer what the model was made for: another stain, another camera, other patients.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from allpacs.store.outcomes import SCORE_BINS, WatchedOutcome

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


def by_week(outcomes: Iterable[WatchedOutcome]) -> list[Week]:
    """Return the weeks, the latest first, by source and bundle."""
    groups: dict[tuple[str, str, str], list[WatchedOutcome]] = defaultdict(list)
    for one in outcomes:
        groups[one.source_ae, one.outcome.model.digest, _monday(one.read_at)].append(one)
    earlier: dict[tuple[str, str], list[int]] = {}
    weeks = []
    for (source_ae, digest, starts), members in sorted(groups.items(), key=lambda pair: pair[0]):
        scores = [sum(column) for column in zip(*(one.outcome.scores for one in members), strict=True)]
        before = earlier.setdefault((source_ae, digest), [0] * SCORE_BINS)
        weeks.append(_week(starts, members, scores, stability_index(before, scores)))
        earlier[source_ae, digest] = [sum(pair) for pair in zip(before, scores, strict=True)]
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


def _week(starts: str, members: Sequence[WatchedOutcome], scores: Sequence[int], shift: float | None) -> Week:
    cells = sum(one.outcome.cells for one in members)
    assessable = sum(one.outcome.all + one.outcome.hem for one in members)
    signed = [one for one in members if one.relabelled is not None and one.excluded is not None]
    signed_cells = sum(one.outcome.cells for one in signed)
    changed = sum((one.relabelled or 0) + (one.excluded or 0) for one in signed)
    first = members[0]
    return Week(
        starts=starts,
        source_ae=first.source_ae,
        bundle=f"{first.outcome.model.name} {first.outcome.model.version}",
        digest=first.outcome.model.digest,
        studies=len(members),
        cells=cells,
        scores=tuple(scores),
        not_assessable=1 - assessable / cells if cells else None,
        lymphoblasts=sum(one.outcome.all for one in members) / assessable if assessable else None,
        signed=len(signed),
        disagreed=changed / signed_cells if signed_cells else None,
        shift=shift,
    )


def _monday(at: float) -> str:
    day = datetime.fromtimestamp(at, UTC).astimezone()
    year, week, _ = day.isocalendar()
    return datetime.fromisocalendar(year, week, 1).strftime("%Y-%m-%d")
