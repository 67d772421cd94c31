"""Aggregation: the order of what was read makes no difference, counts add up, intervals hold their value."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from allpacs.classify.aggregate import Thresholds, judged, label, probability_all, study_findings
from allpacs.domain.counting import counts, fraction
from allpacs.domain.findings import CellFinding, Counts, InstanceFindings, ModelIdentity
from allpacs.domain.geometry import BoxPx

BOX = BoxPx(0, 0, 10, 10)
MODEL = ModelIdentity("first", "1", "sha256:" + "0" * 64, "EfficientNetB3")

scores = st.floats(width=32, allow_nan=True, allow_infinity=True)
finite_scores = st.floats(min_value=-1e6, max_value=1e6, width=32)
temperatures = st.floats(min_value=0.05, max_value=20)
probabilities = st.floats(min_value=0, max_value=1)
bands = st.tuples(probabilities, probabilities).map(lambda pair: Thresholds(max(pair), min(pair)))


@st.composite
def instances(draw: st.DrawFn) -> list[InstanceFindings]:
    made = []
    for number in range(draw(st.integers(0, 5))):
        sop = f"1.2.{number + 1}"
        places = draw(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4)), unique=True, max_size=6))
        cells = tuple(
            judged(
                CellFinding(sop, frame, cell, BOX, BOX.corners()),
                np.array([draw(scores), draw(scores)], np.float32),
                1.0,
                Thresholds(0.6, 0.4),
            )
            for frame, cell in places
        )
        made.append(InstanceFindings(sop, "1.1", f"1.2.{draw(st.integers(1, 2))}.0", 3, cells))
    return made


@given(instances(), st.integers(0, 2**32))
def test_order_makes_no_difference(made: list[InstanceFindings], seed: int) -> None:
    shuffle = random.Random(seed)
    shuffled = [
        InstanceFindings(
            i.sop_instance_uid, i.sop_class_uid, i.series_uid, i.frames, tuple(shuffle.sample(i.cells, len(i.cells)))
        )
        for i in made
    ]
    shuffle.shuffle(shuffled)
    assert study_findings("1.2", 1, MODEL, "d", made) == study_findings("1.2", 1, MODEL, "d", shuffled)


@given(instances())
def test_counts_add_up(made: list[InstanceFindings]) -> None:
    found = study_findings("1.2", 1, MODEL, "d", made)
    assert found.counts.total == len(found.cells) == sum(len(i.cells) for i in made)
    assert found.counts.assessable == sum(cell.assessable for cell in found.cells)
    assert counts(found.cells) == found.counts
    assert all((cell.label is None) != (cell.reason is None) for cell in found.cells)


@given(st.integers(0, 3000), st.integers(0, 3000), st.integers(0, 10))
def test_interval_holds_its_value(blasts: int, normal: int, other: int) -> None:
    found = fraction(Counts(blasts, normal, other))
    if blasts + normal == 0:
        assert found is None
    else:
        assert found is not None
        assert 0 <= found.low <= found.value <= found.high <= 1
        assert found.high - found.low > 0


@given(finite_scores, finite_scores, temperatures)
def test_probabilities_are_probabilities_and_add_to_one(first: float, second: float, temperature: float) -> None:
    one = probability_all(np.array([first, second], np.float32), temperature)
    other = probability_all(np.array([second, first], np.float32), temperature)
    assert 0 <= one <= 1
    assert abs(one + other - 1) < 1e-9


@given(probabilities, probabilities, bands)
def test_a_higher_probability_is_never_less_blast(first: float, second: float, band: Thresholds) -> None:
    rank = {"HEM": 0, None: 1, "ALL": 2}
    low, high = sorted((first, second))
    assert rank[label(low, band)[0]] <= rank[label(high, band)[0]]
