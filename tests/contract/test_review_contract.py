"""What the store promises of reviews, over every database it runs on."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from allpacs.domain.errors import Outdated
from allpacs.domain.findings import CellLabel
from allpacs.domain.instance import InstanceIdentity
from allpacs.domain.review import Decision, Reviewer
from allpacs.store.records import RECEIVING, RevisionState
from allpacs.store.reviews import NewDecision
from allpacs.store.store import Store
from allpacs.store.worklist import Order, ReviewFilter, WorklistQuery
from support.console_samples import MODEL, keep_file, painted_study, report, reported_study

SAM = Reviewer("Specialist^Sam", "Test Hospital", "sam")
NOW = 2000.0


@pytest.fixture
def store(tmp_path: Path, database_url: str | None) -> Iterator[Store]:
    store = Store.open(tmp_path / "store", database_url)
    yield store
    store.close()


@pytest.fixture
def study(store: Store, tmp_path: Path) -> str:
    return reported_study(store, tmp_path / "source")


def cells(store: Store, study: str) -> list[str]:
    return [cell.tracking_uid for one in store.findings.get(study, 1) for cell in one.cells]


def relabelled(cell: str, label: CellLabel = CellLabel.HEM, seen: int = 0) -> NewDecision:
    return NewDecision(cell, Decision.RELABELLED, label, seen)


def test_a_decision_is_kept_and_counted(store: Store, study: str) -> None:
    one, two, *_ = cells(store, study)
    review, kept, conflicts = store.reviews.decide(
        study, 1, [relabelled(one), NewDecision(two, Decision.ACCEPTED, None, 0)], by="sam", now=NOW
    )
    assert (review.version, review.changed_by, conflicts) == (1, "sam", [])
    assert [(cell.tracking_uid, cell.version) for cell in kept] == [(one, 1), (two, 1)]
    held = store.reviews.decisions(study)
    assert (held[one].decision, held[one].label, held[one].decided_by) == (Decision.RELABELLED, CellLabel.HEM, "sam")


def test_a_decision_that_is_sent_again_is_kept_once(store: Store, study: str) -> None:
    one, *_ = cells(store, study)
    store.reviews.decide(study, 1, [relabelled(one)], by="sam", now=NOW)
    _, kept, conflicts = store.reviews.decide(study, 1, [relabelled(one)], by="sam", now=NOW + 1)
    assert ([cell.version for cell in kept], conflicts) == ([1], [])


def test_of_two_reviewers_the_first_stands_until_the_second_has_seen_it(store: Store, study: str) -> None:
    one, *_ = cells(store, study)
    store.reviews.decide(study, 1, [relabelled(one)], by="sam", now=NOW)
    excluded = NewDecision(one, Decision.EXCLUDED, None, 0)
    _, kept, conflicts = store.reviews.decide(study, 1, [excluded], by="ada", now=NOW + 1)
    assert kept == []
    assert [(other.decided_by, other.decision, other.version) for other in conflicts] == [
        ("sam", Decision.RELABELLED, 1)
    ]
    seen = NewDecision(one, Decision.EXCLUDED, None, 1)
    _, kept, conflicts = store.reviews.decide(study, 1, [seen], by="ada", now=NOW + 2)
    assert ([cell.decided_by for cell in kept], conflicts) == (["ada"], [])


def test_reviewers_at_the_same_moment_lose_nothing(store: Store, study: str) -> None:
    wanted = cells(store, study)

    def decide(number: int) -> int:
        _, kept, conflicts = store.reviews.decide(
            study, 1, [relabelled(cell, seen=0) for cell in wanted], by=f"person-{number}", now=NOW + number
        )
        return len(kept) + len(conflicts)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(decide, range(8))) == [len(wanted)] * 8
    assert store.reviews.get(study, 1).version == 8
    assert {one.version for one in store.reviews.decisions(study).values()} == {1}


def test_signing_makes_a_revision_with_the_findings_and_an_audit_record(store: Store, study: str) -> None:
    one, two, *_ = cells(store, study)
    taken_back = NewDecision(two, None, None, 0)
    review, *_ = store.reviews.decide(study, 1, [relabelled(one), taken_back], by="sam", now=NOW)
    store.reviews.write_comment(study, 1, "Smudged.", seen="", by="sam", now=NOW)
    version = store.reviews.get(study, 1).version
    assert version == review.version + 1

    assert store.reviews.sign(study, 1, seen_version=version, reviewer=SAM, by="sam", now=NOW + 5) == 2

    row = store.studies.get(study)
    assert row is not None
    assert (row.revision, row.state) == (2, RevisionState.QUEUED)
    assert [ready.revision for ready in store.revisions.ready()] == [2]
    assert store.findings.get(study, 2) == store.findings.get(study, 1)
    signed = store.reviews.signed(study, 2)
    assert signed is not None
    assert (signed.reviewer, signed.comment) == (SAM, "Smudged.")
    assert [(cell.tracking_uid, cell.label) for cell in signed.cells] == [(one, CellLabel.HEM)]
    assert signed.signed_at.timestamp() == NOW + 5
    assert store.reviews.signed(study, 1) is None
    events = [event.event for event in store.audit.of_study(study)]
    assert events == ["cells_decided", "comment_written", "review_signed"]
    assert store.revisions.get(study, 2).bundle_digest == MODEL.digest


def test_what_was_signed_stays_as_it_was_signed(store: Store, study: str) -> None:
    one, *_ = cells(store, study)
    review, *_ = store.reviews.decide(study, 1, [relabelled(one)], by="sam", now=NOW)
    store.reviews.sign(study, 1, seen_version=review.version, reviewer=SAM, by="sam", now=NOW)
    report(store, study, 2)
    store.reviews.decide(study, 2, [NewDecision(one, Decision.EXCLUDED, None, 1)], by="ada", now=NOW + 9)
    signed = store.reviews.signed(study, 2)
    assert signed is not None
    assert [cell.decision for cell in signed.cells] == [Decision.RELABELLED]
    assert store.reviews.signed_decisions(study, 1)[one].decision is Decision.RELABELLED


@pytest.mark.parametrize("late", ["changed", "signed", "receiving", "newer"])
def test_nothing_is_signed_that_was_not_seen(store: Store, study: str, late: str, tmp_path: Path) -> None:
    one, *_ = cells(store, study)
    review, *_ = store.reviews.decide(study, 1, [relabelled(one)], by="sam", now=NOW)
    match late:
        case "changed":
            store.reviews.decide(study, 1, [NewDecision(one, None, None, 1)], by="ada", now=NOW + 1)
        case "signed":
            store.reviews.sign(study, 1, seen_version=review.version, reviewer=SAM, by="ada", now=NOW + 1)
        case _:
            (file,) = painted_study(tmp_path / "late", [77], study_uid=study)
            keep_file(store, file, at=NOW)
            if late == "newer":
                store.revisions.close_due(NOW + 50)
    before = store.studies.get(study)
    with pytest.raises(Outdated, match=r"ada|arriving|newer"):
        store.reviews.sign(study, 1, seen_version=review.version, reviewer=SAM, by="sam", now=NOW + 60)
    assert store.studies.get(study) == before


def test_decisions_stay_with_their_cells_when_late_images_make_a_new_revision(
    store: Store, study: str, tmp_path: Path
) -> None:
    one, *_ = cells(store, study)
    store.reviews.decide(study, 1, [relabelled(one)], by="sam", now=NOW)
    (file,) = painted_study(tmp_path / "late", [77], study_uid=study)
    keep_file(store, file, at=NOW)
    row = store.studies.get(study)
    assert row is not None
    assert row.state == RECEIVING
    with pytest.raises(Outdated, match="arriving"):
        store.reviews.decide(study, 1, [NewDecision(one, None, None, 1)], by="sam", now=NOW)
    store.revisions.close_due(NOW + 50)
    report(store, study, 2)
    assert store.reviews.decisions(study)[one].label is CellLabel.HEM
    review, *_ = store.reviews.decide(study, 2, [], by="sam", now=NOW + 60)
    store.reviews.sign(study, 2, seen_version=review.version, reviewer=SAM, by="sam", now=NOW + 61)
    signed = store.reviews.signed(study, 3)
    assert signed is not None
    assert [cell.tracking_uid for cell in signed.cells] == [one]


def test_two_comments_at_once_do_not_overwrite_each_other(store: Store, study: str) -> None:
    store.reviews.write_comment(study, 1, "Mine", seen="", by="sam", now=NOW)
    with pytest.raises(Outdated, match="sam"):
        store.reviews.write_comment(study, 1, "Other", seen="", by="ada", now=NOW)
    assert store.reviews.get(study, 1).comment == "Mine"
    assert store.reviews.write_comment(study, 1, "Ours", seen="Mine", by="ada", now=NOW).comment == "Ours"


def test_a_comment_stays_with_its_study_when_late_images_make_a_new_revision(
    store: Store, study: str, tmp_path: Path
) -> None:
    one, *_ = cells(store, study)
    store.reviews.write_comment(study, 1, "Smudged.", seen="", by="sam", now=NOW)
    (file,) = painted_study(tmp_path / "late", [77], study_uid=study)
    keep_file(store, file, at=NOW)
    store.revisions.close_due(NOW + 50)
    report(store, study, 2)
    begun = store.reviews.get(study, 2)
    assert (begun.version, begun.comment, begun.signed_at) == (0, "Smudged.", None)
    with pytest.raises(Outdated, match="sam has changed the comment"):
        store.reviews.write_comment(study, 2, "Other", seen="", by="ada", now=NOW + 60)
    review, *_ = store.reviews.decide(study, 2, [relabelled(one)], by="sam", now=NOW + 60)
    assert (review.version, review.comment) == (1, "Smudged.")
    store.reviews.sign(study, 2, seen_version=1, reviewer=SAM, by="sam", now=NOW + 61)
    signed = store.reviews.signed(study, 3)
    assert signed is not None
    assert signed.comment == "Smudged."


def test_signing_again_keeps_the_comment_until_somebody_changes_it(store: Store, study: str) -> None:
    def sign(revision: int) -> str:
        version = store.reviews.get(study, revision).version
        store.reviews.sign(study, revision, seen_version=version, reviewer=SAM, by="sam", now=NOW)
        report(store, study, revision + 1)
        signed = store.reviews.signed(study, revision + 1)
        assert signed is not None
        return signed.comment

    store.reviews.write_comment(study, 1, "Smudged.", seen="", by="sam", now=NOW)
    assert [sign(1), sign(2)] == ["Smudged.", "Smudged."]
    store.reviews.write_comment(study, 3, "", seen="Smudged.", by="sam", now=NOW)
    assert [sign(3), sign(4)] == ["", ""]
    assert store.reviews.get(study, 1).comment == "Smudged."


def test_the_page_is_about_whom_the_report_is_about(store: Store, study: str) -> None:
    # Not the lowest SOP Instance UID; and a collation that passes over dots would take 1.2.30 for the first series.
    series_and_instance = (("1.2.30", "1.2.3.5"), ("1.2.3.1", "1.2.3.90"), ("1.2.3.1", "1.2.3.9"), ("1.2.4", "1.1"))
    for series, sop_instance in series_and_instance:
        which = InstanceIdentity(
            sop_instance_uid=sop_instance,
            sop_class_uid="1.2.840.10008.5.1.4.1.1.77.1.2",
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            study_uid="1.2.3",
            series_uid=series,
        )
        store.receiving.keep_instance(
            which, b"meta", b"pixels", calling_ae="PACS", received_at=NOW, quiet_s=0.0, max_age_s=1.0
        )
    assert store.revisions.close_due(NOW + 50) == [("1.2.3", 1)]
    first = {uid: store.revisions.instances(uid, 1)[0] for uid in (study, "1.2.3")}
    assert first["1.2.3"].sop_instance_uid == "1.2.3.9"
    paths = {uid: row.path for uid, row in first.items()}
    assert store.worklist.one_instance_each([study, "1.2.3", "1.2.99"]) == paths


def test_the_worklist_tells_outcome_and_review(store: Store, study: str, tmp_path: Path) -> None:
    other = reported_study(store, tmp_path / "other", cells=2, at=5000.0, seeds=[90, 91])
    page = store.worklist.page(WorklistQuery())
    assert [row.study_uid for row in page.rows] == [other, study]
    assert (page.total, page.to_review, page.by_state, page.sources) == (2, 2, {"delivered": 2}, ("MICROSCOPE",))
    first = page.rows[1]
    assert (first.cells, first.not_assessable, first.signed_by) == (6, 2, None)
    assert first.fraction is not None
    assert first.fraction.value == 0.5
    one, *_ = cells(store, study)
    stamp, study_stamp = store.worklist.stamp(), store.worklist.study_stamp(study)
    review, *_ = store.reviews.decide(study, 1, [relabelled(one)], by="sam", now=NOW)
    assert store.worklist.stamp() != stamp
    assert store.worklist.study_stamp(study) != study_stamp
    assert store.worklist.page(WorklistQuery()).rows[1].in_review_by == "sam"
    store.reviews.sign(study, 1, seen_version=review.version, reviewer=SAM, by="sam", now=NOW)
    report(store, study, 2)
    page = store.worklist.page(WorklistQuery(review=ReviewFilter.SIGNED))
    assert [(row.study_uid, row.signed_by, row.in_review_by) for row in page.rows] == [(study, "sam", None)]
    assert [row.study_uid for row in store.worklist.page(WorklistQuery(review=ReviewFilter.TO_REVIEW)).rows] == [other]


def test_the_worklist_searches_sorts_and_pages(store: Store, study: str, tmp_path: Path) -> None:
    other = reported_study(store, tmp_path / "other", cells=2, at=5000.0, seeds=[90, 91])
    assert [row.study_uid for row in store.worklist.page(WorklistQuery(study_uids=[study])).rows] == [study]
    assert [row.study_uid for row in store.worklist.page(WorklistQuery(uid_part=other[6:20])).rows] == [other]
    ordered = WorklistQuery(order=Order.CELLS, ascending=True)
    assert [row.study_uid for row in store.worklist.page(ordered).rows] == [other, study]
    assert [row.study_uid for row in store.worklist.page(WorklistQuery(offset=1, limit=1)).rows] == [study]
    assert store.worklist.page(WorklistQuery(states=frozenset({"reading"}))).rows == ()
    assert store.worklist.page(WorklistQuery(source_ae="ELSEWHERE")).total == 0


def test_outcomes_are_summed_by_period_without_what_people_made(store: Store, study: str, tmp_path: Path) -> None:
    one, *_ = cells(store, study)
    review, *_ = store.reviews.decide(study, 1, [relabelled(one)], by="sam", now=NOW)
    store.reviews.sign(study, 1, seen_version=review.version, reviewer=SAM, by="sam", now=NOW)
    report(store, study, 2)
    reported_study(store, tmp_path / "same", cells=6, at=1010.0, seeds=range(90, 96))
    reported_study(store, tmp_path / "later", cells=2, at=5000.0, seeds=[97, 98])
    early, late = store.outcomes.summed([0.0, 2000.0, 9000.0])
    assert (early.period, early.source_ae, early.model.name) == (0, "MICROSCOPE", "sample")
    assert (early.studies, early.cells, early.all, early.hem, sum(early.scores)) == (2, 12, 4, 4, 10)
    assert (early.signed, early.signed_cells, early.changed) == (1, 6, 1)
    assert (late.period, late.studies, late.cells, late.signed, late.signed_cells, late.changed) == (1, 1, 2, 0, 0, 0)
    assert store.outcomes.summed([9000.0]) == []
    outcome = store.outcomes.get(study, 1)
    assert outcome is not None
    assert outcome.reasons == {"blurred": 1, "indeterminate": 1}
    assert outcome.not_assessable == 2


def test_studies_to_review_come_first_and_one_without_destinations_is_kept_here(store: Store, tmp_path: Path) -> None:
    waiting = reported_study(store, tmp_path / "waiting", cells=1, at=1000.0, seeds=[95])
    signed = reported_study(store, tmp_path / "signed", cells=1, at=9000.0, seeds=[96])
    reviewer = Reviewer("Specialist^Sam", "Hospital", "sam")
    assert store.reviews.last_reviewer("sam") is None
    store.reviews.sign(signed, 1, seen_version=0, reviewer=reviewer, by="sam", now=NOW)
    assert store.reviews.last_reviewer("sam") == reviewer
    assert store.reviews.last_reviewer("ada") is None
    rows = store.worklist.page(WorklistQuery(to_review_first=True)).rows
    assert rows[0].study_uid == waiting
    assert not rows[0].kept_here  # it was delivered
