"""Queries of searches and accepted media types, without a server."""

from __future__ import annotations

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from allpacs.console.dicomweb.media import Representation, choose
from allpacs.console.dicomweb.query import SERIES_KEYS, STUDY_KEYS, matches, parse

NAME = "Wang^XiaoDong=王^小东=ワン^シャオドン"


@pytest.mark.parametrize(
    ("vr", "value", "key", "found"),
    [
        ("PN", NAME, "wang^xiaodong", True),  # names without regard to case (PS3.4 C.2.2.2.1)
        ("PN", NAME, "王^小东", True),
        ("PN", NAME, "王*", True),
        ("PN", NAME, "ワン^*", True),
        ("PN", NAME, "=王^*", True),
        ("PN", NAME, "王^*=", False),  # that is not the alphabetic group
        ("PN", NAME, "Wang^*=王^小?", True),
        ("PN", NAME, "Wang", False),
        ("PN", "Doe^^^^", "Doe", True),
        ("PN", "Doe", "Doe^*", True),
        ("PN", "Doe^Jane", "doe jane", True),
        ("PN", "Mu\u0308ller", "Müller", True),  # composed and decomposed
        ("PN", "", "Doe", False),
        ("LO", "ID-7", "ID-*", True),
        ("LO", "ID-7", "id-7", False),
        ("LO", "a", "[a-z]", False),
        ("LO", "", "*", True),
        ("LO", "anything", "", True),
        ("SH", "A-1", "A-?", True),
        ("DA", "20260131", "20260131", True),
        ("DA", "20260131", "20260101-20260131", True),
        ("DA", "20260131", "20260201-", False),
        ("DA", "20260131", "-20260131", True),
        ("DA", "", "20260101-", False),
        ("DA", "", "", True),
        ("TM", "101530", "10", True),
        ("TM", "101530", "1015-1016", True),
        ("TM", "101530.5", "101530", True),
        ("TM", "101531", "101530", False),
        ("TM", "105959", "10", True),
        ("TM", "101530", "-1014", False),
        ("TM", "101530", "10:15:30", True),
        ("UI", "1.2.3", "1.2.3,1.2.4", True),
        ("UI", "1.2.4", "1.2.3\\1.2.4", True),
        ("UI", "1.2.3", "1.2", False),
        ("UI", "1.2.3", "", True),
        ("IS", "007", "7", True),
        ("IS", "70", "7", False),
        ("CS", "SR", "SR", True),
    ],
)
def test_a_value_matches_a_key(vr: str, value: str, key: str, found: bool) -> None:
    assert matches(vr, value, key) is found


@pytest.mark.parametrize(
    ("value", "key", "found"),
    [("Müller^Jörg", "mull", True), ("Müller^Jörg", "jorg muller", True), ("Müller^Jörg", "iller", False)],
)
def test_fuzzy_matching_finds_beginnings_of_words_without_accents(value: str, key: str, found: bool) -> None:
    assert matches("PN", value, key, fuzzy=True) is found
    assert matches("PN", value, key) is False


def test_many_stars_take_no_time() -> None:
    assert matches("LO", "a" * 64, "*a" * 500 + "b") is False  # would never end if it tracked back


@pytest.mark.parametrize(
    "parameters",
    [
        {"Modality": "SR"}, {"StationName": "x"}, {"00081010": "x"}, {"nonsense": "x"}, {"limit": "-1"}, {"limit": "x"},
        {"offset": "9" * 5000}, {"limit": "٣"}, {"includefield": "nonsense"}, {"fuzzymatching": "maybe"},
        {"PatientID": "x" * 1025},
    ],
)  # fmt: skip
def test_what_is_not_a_query_of_studies_is_refused(parameters: dict[str, str]) -> None:
    with pytest.raises(HTTPException) as refused:
        parse(parameters.items(), STUDY_KEYS)
    assert refused.value.status_code == 400


def test_a_query_is_read_by_keyword_tag_and_path() -> None:
    query = parse(
        [
            ("00100020", "7"), ("PatientName", "*"), ("00400275.00400009", "S"), ("includefield", "00081030,Modality"),
            ("includefield", "all"), ("limit", "5"), ("offset", "2"), ("fuzzymatching", "true"),
        ],
        (*STUDY_KEYS, *SERIES_KEYS),
    )  # fmt: skip
    assert query.keys == {"PatientID": "7", "RequestAttributesSequence.ScheduledProcedureStepID": "S"}
    assert (query.limit, query.offset, query.fuzzy, query.all_fields) == (5, 2, True, True)
    assert query.fields == (
        "PatientID", "PatientName", "RequestAttributesSequence", "StudyDescription", "Modality",
    )  # fmt: skip


EXPLICIT = frozenset({"1.2.840.10008.1.2.1"})
MULTIPART = Representation("application/octet-stream", multipart=True, transfer_syntaxes=EXPLICIT)
SINGLE = Representation("application/octet-stream", transfer_syntaxes=EXPLICIT)


def asking(accept: str | None, query: str = "") -> Request:
    headers = [] if accept is None else [(b"accept", accept.encode())]
    return Request({"type": "http", "headers": headers, "query_string": query.encode()})


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, MULTIPART),
        ("", MULTIPART),
        ("*/*", MULTIPART),
        ("multipart/*", MULTIPART),
        ("multipart/related", MULTIPART),
        ('multipart/related; type="application/octet-stream"', MULTIPART),
        ("Multipart/Related;type=application/octet-stream;transfer-syntax=*", MULTIPART),
        ("multipart/related; transfer-syntax=1.2.840.10008.1.2.1; type=application/octet-stream", MULTIPART),
        ('multipart/related; type="application/octet-stream; transfer-syntax=*"', MULTIPART),
        ("multipart/related; type=application/octet-stream; transfer-syntax=1.2.840.10008.1.2.4.50", None),
        ('multipart/related; type="image/jpeg"', None),
        ("image/jpeg, multipart/related;type=application/octet-stream;q=0.5", MULTIPART),
        ("application/octet-stream", SINGLE),
        ("application/octet-stream;q=0.2, multipart/related;type=application/octet-stream;q=0.9", MULTIPART),
        ("application/*", SINGLE),
        ("application/octet-stream;q=0", None),
        ("*/*;q=0", None),
        ("application/octet-stream;q=0, */*", None),
        ("multipart/related;type=application/octet-stream;q=0, */*;q=0.1", SINGLE),
        ("image/jp2", None),
        (",,;;", None),
    ],
)
def test_the_preferred_representation_is_chosen(accept: str | None, expected: Representation | None) -> None:
    assert choose(asking(accept), (MULTIPART, SINGLE)) == expected


def test_the_query_says_what_is_accepted_where_a_header_cannot() -> None:
    assert choose(asking("text/html", "accept=application/octet-stream"), (MULTIPART, SINGLE)) == SINGLE
    assert choose(asking("*/*", "accept=image/jpeg"), (MULTIPART, SINGLE)) is None
