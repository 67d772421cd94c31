"""Results of a destination that was renamed or taken out: told, and sent elsewhere."""

from __future__ import annotations

from pathlib import Path

from allpacs.store.records import DeliveryState
from allpacs.store.retries import retry_study
from allpacs.store.store import Store
from support.store_samples import keep_one


def waiting(folder: Path, *destinations: str) -> Store:
    """Return a store with a study whose results wait for these destinations."""
    store = Store.open(folder)
    keep_one(store)
    store.deliveries.queue("1.2", 1, destinations, now=1.0)
    return store


def test_they_are_told_and_go_to_the_named_destination(tmp_path: Path) -> None:
    store = waiting(tmp_path, "old", "ehr")
    assert [row.destination for row in store.deliveries.unclaimed({"new", "ehr"})] == ["old"]
    asked = retry_study(store, "1.2", now=2.0, to="new", configured={"new", "ehr"})
    assert asked.moved == ((1, "old"),)
    assert [(row.destination, row.state) for row in store.deliveries.of_study("1.2")] == [
        ("ehr", DeliveryState.QUEUED),
        ("new", DeliveryState.QUEUED),
    ]
    assert store.deliveries.unclaimed({"new", "ehr"}) == []
    assert {row.destination for row in store.deliveries.due(3.0)} == {"ehr", "new"}
    assert retry_study(store, "1.2", now=4.0, to="new", configured={"new", "ehr"}).nothing, "once is enough"


def test_a_result_that_the_other_destination_has_is_not_sent_twice(tmp_path: Path) -> None:
    store = waiting(tmp_path, "old", "new")
    store.deliveries.begin("1.2", 1, "new", 1, now=2.0)
    store.deliveries.set_state("1.2", 1, "new", DeliveryState.SENT, now=3.0)
    assert retry_study(store, "1.2", now=4.0, to="new", configured={"new"}).moved == ((1, "old"),)
    assert [(row.destination, row.state) for row in store.deliveries.of_study("1.2")] == [("new", DeliveryState.SENT)]


def test_without_a_name_nothing_is_moved(tmp_path: Path) -> None:
    store = waiting(tmp_path, "old")
    assert retry_study(store, "1.2", now=2.0).nothing
    assert [row.destination for row in store.deliveries.of_study("1.2")] == ["old"]
