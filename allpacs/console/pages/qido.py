"""QIDO-RS: searches for the studies that allpacs has made objects of, and for their series and instances.

Source: PS3.18 sections 8.3.4 and 10.6.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import structlog
from pydicom import Dataset
from starlette.exceptions import HTTPException
from starlette.responses import Response

from allpacs.console.dicomweb import media
from allpacs.console.dicomweb.headers import read_guarded
from allpacs.console.dicomweb.media import Representation
from allpacs.console.dicomweb.model import (
    INSTANCE_FIELDS,
    JSON,
    SERIES_FIELDS,
    SERIES_FURTHER,
    STUDY_FIELDS,
    STUDY_FURTHER,
    as_json,
    attributes,
    json_response,
)
from allpacs.console.dicomweb.objects import StoredObject, by_series, chosen_objects, objects_of, uid_of
from allpacs.console.dicomweb.query import INSTANCE_KEYS, SERIES_KEYS, STUDY_KEYS, Query, parse
from allpacs.console.patients import Patient
from allpacs.console.visit import Visit
from allpacs.domain.errors import InputFault
from allpacs.report.elements import items, text

_log = structlog.get_logger("allpacs.console")

_MOST_STUDIES = 100
_REPRESENTATIONS = (Representation(JSON), Representation("application/json"))
#: Warning texts (PS3.18 sections 8.3.4.4 and 8.3.4.5; RFC 7234 section 5.5: code, agent, text).
_MORE = "There are additional results that can be requested"
_LEFT_OUT = "{} objects cannot be read and are left out, or are listed without what cannot be read"


def search_studies(visit: Visit) -> Response:
    """Return the studies that allpacs has made objects of, the latest first."""
    query = _query(visit, STUDY_KEYS)
    limit = min(_MOST_STUDIES if query.limit is None else query.limit, _MOST_STUDIES)
    answers = _Answers()
    matching = _studies(visit, query)
    for uid, series in islice(matching, query.offset, query.offset + limit):
        with answers.one(uid):
            answers.found.append(_study(query, series))
    answers.more = next(matching, None) is not None
    return answers.response()


def search_series(visit: Visit) -> Response:
    """Return the series of a study."""
    query = _query(visit, (*STUDY_KEYS, *SERIES_KEYS))
    found = by_series(_of_matching_study(visit, query))
    matching = [members for members in found if _matches(query, members[0].header, SERIES_KEYS)]
    answers = _Answers()
    for members in answers.page(matching, query):
        with answers.one(members[0].series_uid):
            fields = (*SERIES_FIELDS, *query.fields, *(SERIES_FURTHER if query.all_fields else ()))
            header = _whole(members[0], query)
            answers.found.append(attributes(header, fields, NumberOfSeriesRelatedInstances=len(members)))
    return answers.response()


def search_instances(visit: Visit) -> Response:
    """Return the instances of a study, or of one series of it."""
    query = _query(visit, (*STUDY_KEYS, *SERIES_KEYS, *INSTANCE_KEYS))
    found = _of_matching_study(visit, query)
    matching = [one for one in found if _matches(query, one.header, (*SERIES_KEYS, *INSTANCE_KEYS))]
    answers = _Answers()
    for one in answers.page(matching, query):
        with answers.one(one.sop_instance_uid):
            if query.all_fields:
                answers.found.append(as_json(read_guarded(one.path)))
            else:
                answers.found.append(attributes(_whole(one, query), (*INSTANCE_FIELDS, *query.fields)))
    return answers.response()


class _Answers:
    """The results of a search; what cannot be answered is left out, and counted."""

    def __init__(self) -> None:
        self.found: list[dict[str, Any]] = []
        self.more = False
        self._left_out = 0
        self._uid = ""

    def one(self, uid: str) -> _Answers:
        """Guard what is done for one result."""
        self._uid = uid
        return self

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, _value: object, _traceback: object) -> bool:
        if kind is None or not issubclass(kind, Exception) or issubclass(kind, HTTPException):
            return False
        _log.warning("search_result_left_out", name=self._uid, reason=kind.__name__)
        self._left_out += 1
        return True

    def page(self, matching: Sequence[Any], query: Query) -> Sequence[Any]:
        """Return the part of the results that is asked for."""
        end = len(matching) if query.limit is None else query.offset + query.limit
        self.more = end < len(matching)
        return matching[query.offset : end]

    def response(self) -> Response:
        """Return the answer, with what the client must know of it."""
        warnings = [_MORE] if self.more else []
        if self._left_out:
            warnings.append(_LEFT_OUT.format(self._left_out))
        headers = {"Warning": ", ".join(f'299 allpacs "{warning}"' for warning in warnings)} if warnings else None
        return json_response(self.found, headers)


def _query(visit: Visit, keys: Sequence[str]) -> Query:
    if media.choose(visit.request, _REPRESENTATIONS) is None:
        raise HTTPException(406, f"results are sent as {JSON} only")
    return parse(visit.request.query_params.multi_items(), keys)


def _studies(visit: Visit, query: Query) -> Iterator[tuple[str, list[list[StoredObject]]]]:
    """Yield the studies that match, each with its instances by series; nothing of a study whose files are gone."""
    uids = visit.store.artefacts.studies_with_dicom()
    uids = [uid for uid in uids if query.matches("StudyInstanceUID", [uid])]
    by_patient = set(query.keys) - {"StudyInstanceUID", "ModalitiesInStudy"}
    if by_patient:
        patients = visit.console.patients.of(uids)
        uids = [uid for uid in uids if _patient_matches(query, patients[uid])]
    for uid in uids:
        series = by_series(objects_of(visit, uid))
        if series and query.matches("ModalitiesInStudy", _modalities(members[0].header for members in series)):
            yield uid, series


def _study(query: Query, series: Sequence[Sequence[StoredObject]]) -> dict[str, Any]:
    fields = [*STUDY_FIELDS, *query.fields, *(STUDY_FURTHER if query.all_fields else ())]
    counts: dict[str, Any] = {
        "ModalitiesInStudy": _modalities(members[0].header for members in series),
        "NumberOfStudyRelatedSeries": len(series),
        "NumberOfStudyRelatedInstances": sum(map(len, series)),
    }
    return attributes(_whole(series[0][0], query), (name for name in fields if name not in counts), **counts)


def _of_matching_study(visit: Visit, query: Query) -> list[StoredObject]:
    """Return the instances that the address names, if the study matches the keys of its level."""
    uid = uid_of(visit, "study_uid")
    found = chosen_objects(visit)
    asked = [key for key in STUDY_KEYS if key in query.keys]
    if not found or not asked:
        return found
    of_study = by_series(objects_of(visit, uid))
    fits = (
        query.matches("StudyInstanceUID", [uid])
        and query.matches("ModalitiesInStudy", _modalities(members[0].header for members in of_study))
        and _patient_matches(query, visit.console.patients.of([uid])[uid])
    )
    return found if fits else []


def _patient_matches(query: Query, patient: Patient) -> bool:
    return all(query.matches(keyword, value.split("\\")) for keyword, value in patient.by_keyword.items())


def _matches(query: Query, header: Dataset, keys: Iterable[str]) -> bool:
    return all(query.matches(key, _values(header, key)) for key in keys if key in query.keys)


def _values(header: Dataset, path: str) -> list[str]:
    first, _, rest = path.partition(".")
    if rest:
        return [value for item in items(header, first) for value in _values(item, rest)]
    return text(header, first).split("\\")


def _modalities(headers: Iterable[Dataset]) -> list[str]:
    return sorted({text(header, "Modality") for header in headers} - {""})


def _whole(one: StoredObject, query: Query) -> Dataset:
    """Return the header with the further attributes that are asked for."""
    if not (query.fields or query.all_fields):
        return one.header
    try:
        return read_guarded(one.path)
    except InputFault:
        return one.header
