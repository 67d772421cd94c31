"""Splits by subject: a person's cells never stand on both sides."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from allpacs.domain.errors import InputFault
from training.datasets import Sample, read
from training.datasets.cnmc import facts
from training.splits import (
    LINKED_SUBJECTS,
    TEST,
    TRAIN,
    VALID,
    Kind,
    assert_disjoint,
    balanced,
    group_of,
    make_split,
    paper_parts,
    subject_folds,
    unit_of,
)


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


def test_a_person_with_cells_of_both_labels_stands_on_one_side(tmp_path: Path) -> None:
    samples = people("ALL", {"a": 9, "b": 8, "c": 7, "d": 6, "e": 5, "f": 4})
    samples += people("HEM", {"f": 9, "a": 3, "g": 2})  # without the other labels in view, a and f go to one fold
    samples += people("HEM", {f"h{n}": 1 for n in range(4)})
    for kind in ("subject", "official"):
        given = [replace(s, part="train") for s in samples]
        tested = replace(sample("z"), part="test")
        split = make_split([*given, tested] if kind == "official" else samples, kind, folds=3, seed=0)
        for number in range(len(split.folds)):
            for person in "af":
                places = [i for i, s in enumerate(samples) if s.subject == person]
                assert len({split.folds[number][i] for i in places}) == 1
    folds = subject_folds(samples, 3)
    for fold in range(3):
        assert {s.label for s, f in zip(samples, folds, strict=True) if f == fold} == {"ALL", "HEM"}
    fields = [replace(sample(None, label, f"{n}.jpg"), shows="cells") for label in ("ALL", "HEM") for n in range(9)]
    fields[9] = replace(fields[9], image=fields[8].image)  # one field, cells of both
    assert subject_folds(fields, 3)[9] == subject_folds(fields, 3)[8]


def test_some_samples_of_a_class_may_have_no_subject() -> None:
    samples = people("ALL", {"a": 2, "b": 2, "c": 2}) + [sample(None, "ALL", f"{n}.bmp") for n in range(6)]
    folds = subject_folds(samples, 3)
    assert folds[6:] == [0, 0, 1, 1, 2, 2]


def test_the_official_test_shares_nobody_with_the_training() -> None:
    samples = [replace(s, part="train") for s in people("ALL", {str(n): 2 for n in range(6)})]
    tested = replace(sample("3", name="other.bmp"), part="test")
    with pytest.raises(InputFault, match=r"C-NMC 2019:3 stands in"):
        make_split([*samples, tested], "official", folds=5, seed=0)


def test_every_kind_of_what_goes_by_one_label_is_in_every_fold() -> None:
    kinds = [kind for kind in ("BA", "EO", "PLATELET") for _ in range(10)]
    samples = [sample(None, "OTHER", f"{kind}_{i:03}.jpg") for i, kind in enumerate(kinds)]
    by_label, by_kind = subject_folds(samples, 5), subject_folds(samples, 5, kinds)
    assert {kind for kind, fold in zip(kinds, by_label, strict=True) if fold == 0} == {"BA"}
    assert Counter(zip(kinds, by_kind, strict=True)) == {(kind, fold): 2 for kind in set(kinds) for fold in range(5)}
    split = make_split(samples, "subject", folds=5, seed=0, dealt_by=kinds)
    assert {kinds[i] for i in split.places(3, TRAIN)} == set(kinds)


def test_a_bootstrap_draws_fields_not_their_cells() -> None:
    one = Sample(Path("Im001_1.jpg"), "ALL", None, "ALL-IDB1", "free", shows=(3.0, 4.0))
    assert unit_of(one) == unit_of(replace(one, shows=(9.0, 9.0)))
    assert unit_of(one) != unit_of(replace(one, image=Path("Im002_1.jpg")))


def test_too_few_subjects_is_an_error() -> None:
    with pytest.raises(ValueError, match="2 subjects cannot fill 3 folds"):
        subject_folds(people("ALL", {"1": 4, "2": 4, "20": 0}), 3)


def test_a_subject_on_both_sides_is_an_error() -> None:
    with pytest.raises(InputFault, match=r"20\+21 stands in train and in test"):
        assert_disjoint([sample("20"), sample("21")], ["train", "test"])


def test_digest_knows_the_split_and_not_the_order(tmp_path: Path) -> None:
    samples = people("ALL", {str(n): 2 for n in range(6)}) + people("HEM", {f"H{n}": 2 for n in range(20, 26)})
    split = make_split(samples, "subject", folds=3, seed=0)
    turned = make_split(samples[::-1], "subject", folds=3, seed=0)
    assert split.digest == turned.digest
    assert split.digest != make_split(samples, "images", folds=3, seed=0).digest
    split.save(tmp_path / "split.json")
    written = json.loads((tmp_path / "split.json").read_text())
    assert written["digest"] == split.digest
    assert len(written["parts"]) == len(samples)


@pytest.mark.parametrize("kind", ["subject", "images"])
def test_every_sample_is_tested_once_and_validated_once(kind: Kind) -> None:
    samples = people("ALL", {str(n): 3 for n in range(8)}) + people("HEM", {f"H{n}": 2 for n in range(20, 28)})
    split = make_split(samples, kind, folds=4, seed=1)
    for part in (TEST, VALID):
        counted = np.concatenate([split.places(fold, part) for fold in range(4)])
        assert sorted(counted) == list(range(len(samples)))
    for fold in range(4):
        assert not set(split.places(fold, TRAIN)) & set(split.places(fold, TEST))


def test_the_paper_s_frames_come_from_the_manifest_alone() -> None:
    """Paper section IV step 2 and figure 7; its two class counts stand the wrong way round there."""
    training = [fact for fact in facts() if fact.subset.startswith("fold_")]
    labels = [str(fact.label) for fact in training]
    assert len(labels) == 10_661
    parts = paper_parts(labels, seed=20)
    assert Counter(parts) == {"train": 9594, "test": 534, "valid": 533}
    counted = Counter(zip(parts, labels, strict=True))
    assert (counted["train", "all"], counted["train", "hem"]) == (6544, 3050)
    assert (counted["test", "all"], counted["test", "hem"]) == (364, 170)
    trained = [label for label, part in zip(labels, parts, strict=True) if part == "train"]
    assert Counter(trained[i] for i in balanced(trained, seed=20)) == {"all": 3050, "hem": 3050}


def test_the_paper_s_split_leaks_subjects() -> None:
    training = [fact for fact in facts() if fact.subset.startswith("fold_")]
    parts = paper_parts([str(fact.label) for fact in training], seed=20)
    tested = {fact.subject for fact, part in zip(training, parts, strict=True) if part == "test"}
    trained = {fact.subject for fact, part in zip(training, parts, strict=True) if part == "train"}
    assert len(tested & trained) > 0.9 * len(tested)


def test_official_split_tests_on_the_preliminary_set() -> None:
    samples = people("ALL", {str(n): 2 for n in range(6)}) + people("HEM", {f"H{n}": 2 for n in range(20, 26)})
    samples = [replace(s, part="train") for s in samples]
    tested = replace(sample("99"), part="test")
    split = make_split([*samples, tested], "official", folds=5, seed=0)
    assert list(split.places(0, TEST)) == [len(samples)]
    assert len(split.places(0, VALID)) > 0
    with pytest.raises(InputFault, match="no test images"):
        make_split(samples, "official", folds=5, seed=0)


def test_a_laboratory_is_left_out_whole() -> None:
    ours = people("ALL", {str(n): 2 for n in range(6)}) + people("HEM", {f"H{n}": 2 for n in range(20, 26)})
    theirs = [replace(s, source="elsewhere", image="elsewhere" / s.image) for s in ours]
    split = make_split([*ours, *theirs], "source", folds=1, seed=0, test_sources=("elsewhere",))
    assert list(split.places(0, TEST)) == list(range(len(ours), 2 * len(ours)))
    with pytest.raises(InputFault, match="several sources"):
        make_split(ours, "source", folds=1, seed=0, test_sources=("elsewhere",))


def test_real_data_split(data_dir: Path) -> None:
    samples = [*read("cnmc", {"": data_dir}), *read("allidb2", {"": data_dir})]
    split = make_split(samples, "persons", folds=5, seed=20)
    assert len(split.places(5, TRAIN)) == len(samples)  # the last fold trains on everybody
    split = make_split(samples, "subject", folds=5, seed=20)
    for fold in range(5):
        sides = [{group_of(samples[i]) for i in split.places(fold, part)} - {None} for part in (TRAIN, VALID, TEST)]
        assert not sides[0] & sides[1]
        assert not sides[0] & sides[2]
