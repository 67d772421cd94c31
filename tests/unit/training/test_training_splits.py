"""Splits by subject: a person's cells never stand on both sides."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.datasets import Sample, allidb2, cnmc
from training.splits import LINKED_SUBJECTS, assert_disjoint, digest_of, group_of, subject_folds


def sample(subject: str | None, label: str = "ALL", name: str = "") -> Sample:
    return Sample(Path(name or f"{subject}-{label}.bmp"), label, subject, "C-NMC 2019", "CC BY 3.0")


def people(label: str, counts: dict[str, int]) -> list[Sample]:
    return [sample(s, label, f"{label}{s}_{i}.bmp") for s, cells in counts.items() for i in range(cells)]


def test_linked_subjects_are_one() -> None:
    for linked in LINKED_SUBJECTS:
        assert len({group_of(sample(subject)) for subject in linked}) == 1
    assert group_of(sample("20")) != group_of(sample("H4"))


def test_folds_keep_linked_subjects_together_and_hold_both_classes() -> None:
    samples = people("ALL", {"20": 3, "21": 4, "4": 20, "5": 5, "51": 1, "75": 1, "9": 2})
    samples += people("HEM", {"H10": 2, "H3": 2, "H11": 9, "H12": 8, "H6": 1, "H2": 1})
    folds = subject_folds(samples, 3)
    assert len({f for s, f in zip(samples, folds, strict=True) if s.subject in {"20", "21"}}) == 1
    assert len({f for s, f in zip(samples, folds, strict=True) if s.subject in {"H10", "H3"}}) == 1
    for fold in range(3):
        assert {s.label for s, f in zip(samples, folds, strict=True) if f == fold} == {"ALL", "HEM"}


def test_samples_without_subject_are_cut_into_blocks_of_neighbours() -> None:
    samples = [sample(None, "ALL", f"Im{i:03}_1.png") for i in range(40)]
    assert subject_folds(list(reversed(samples)), 4) == [3 - i // 10 for i in range(40)]


def test_too_few_subjects_is_an_error() -> None:
    with pytest.raises(ValueError, match="2 subjects cannot fill 3 folds"):
        subject_folds(people("ALL", {"1": 4, "2": 4, "20": 0}), 3)


def test_a_subject_on_both_sides_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"20\+21 stands in folds 0 and 1"):
        assert_disjoint([sample("20"), sample("21")], [0, 1])


def test_digest_knows_the_split_and_not_the_order() -> None:
    samples = people("ALL", {"1": 2, "2": 2})
    digest = digest_of(samples, [0, 0, 1, 1])
    assert digest == digest_of(samples[::-1], [1, 1, 0, 0])
    assert digest != digest_of(samples, [1, 1, 0, 0])


def test_real_data_split(data_dir: Path) -> None:
    samples = [*cnmc(data_dir), *allidb2(data_dir)]
    assert len(samples) == 581
    folds = subject_folds(samples, 4)
    # The split that training/RESULTS.md reports on.
    assert digest_of(samples, folds) == "sha256:fd0c7d912bb458d3a2ab158468c589df06cf3c2504e9ca40fe3a993745ce922b"
