"""A sample of cells is random, the same every time, and the same however the cells come in."""

from __future__ import annotations

import random

import numpy as np

from allpacs.domain.findings import CellFinding, CellLabel, InstanceFindings, RemarkKind
from allpacs.domain.geometry import BoxPx
from allpacs.study.sampling import final_sample, priority, sampled, smallest


def _instance(number: int, cells: int) -> InstanceFindings:
    uid = f"1.2.{number}"
    made = tuple(
        CellFinding(uid, 1, n, BoxPx(n, 0, 1, 1), (), CellLabel.ALL if n % 4 == 0 else CellLabel.HEM, 0.5)
        for n in range(1, cells + 1)
    )
    return InstanceFindings(uid, "1.1", "1.3", 1, made)


INSTANCES = [_instance(1, 3000), _instance(2, 500), _instance(3, 0), _instance(4, 1500)]
CELLS = [cell for one in INSTANCES for cell in one.cells]


def test_a_study_with_few_cells_is_left_as_it_is() -> None:
    assert final_sample(INSTANCES, 5000) == INSTANCES


def test_size_counts_and_remark() -> None:
    chosen = final_sample(INSTANCES, 1000)
    assert sum(len(one.cells) for one in chosen) == 1000
    assert [one.found for one in chosen] == [3000, 500, 0, 1500]
    remarks = [remark for one in chosen for remark in one.remarks]
    assert {remark.kind for remark in remarks} == {RemarkKind.SAMPLED}
    assert "5000 cells; a random sample of 1000" in remarks[0].text
    assert chosen[2] == INSTANCES[2]


def test_the_sample_looks_random() -> None:
    chosen = final_sample(INSTANCES, 1000)
    shares = [len(one.cells) / 1000 for one in chosen]
    assert all(abs(share - wanted) < 0.05 for share, wanted in zip(shares, (0.6, 0.1, 0.0, 0.3), strict=True))
    labels = [cell.label for one in chosen for cell in one.cells]
    assert abs(labels.count(CellLabel.ALL) / 1000 - 0.25) < 0.05
    numbers = [cell.cell_number for cell in chosen[0].cells]
    assert abs(np.mean(numbers) - 1500) < 150


def test_drawn_piece_by_piece_in_any_order_and_twice_it_is_the_same() -> None:
    wanted = {cell.tracking_uid for one in final_sample(INSTANCES, 300) for cell in one.cells}
    for seed in range(3):
        order = list(CELLS)
        random.Random(seed).shuffle(order)
        kept, parts, judged = np.zeros(0, np.int64), [], 0
        for start in range(0, len(order), 250):
            for _again in range(2):  # a step that was interrupted is run again
                piece = InstanceFindings("1.2.9", "1.1", "1.3", 1, tuple(order[start : start + 250]))
                kept = smallest([*kept, *map(priority, piece.cells)], 300)
                ((left,), _) = sampled([piece], kept, 300)
            parts.append(left)
            judged += len(left.cells)
        final = final_sample(parts, 300)
        assert {cell.tracking_uid for one in final for cell in one.cells} == wanted
        assert sum(one.found for one in final) == 5000
        assert judged < 1500  # not all 5,000
