"""The query of a search: what it asks for, and whether a value matches. Pure.

Source: PS3.18 sections 8.3.4 (query parameters) and 10.6.1.2 (matching), Table 10.6.1-5; PS3.4 section C.2.2.2.
"""

from __future__ import annotations

import fnmatch
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from starlette.exceptions import HTTPException

from allpacs.console.numbers import whole_number

#: Match keys of each level; those of the levels above hold on the lower ones, too.
STUDY_KEYS: Final = (
    "StudyInstanceUID", "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyDate",
    "StudyTime", "StudyID", "StudyDescription", "ReferringPhysicianName", "ModalitiesInStudy",
)  # fmt: skip
SERIES_KEYS: Final = (
    "SeriesInstanceUID", "Modality", "SeriesNumber", "SeriesDescription", "PerformedProcedureStepStartDate",
    "PerformedProcedureStepStartTime", "RequestAttributesSequence.ScheduledProcedureStepID",
    "RequestAttributesSequence.RequestedProcedureID",
)  # fmt: skip
INSTANCE_KEYS: Final = (
    "SOPInstanceUID",
    "SOPClassUID",
    "InstanceNumber",
    "NumberOfFrames",
    "ContentDate",
    "ContentTime",
)

_GENERAL: Final = ("limit", "offset", "includefield", "fuzzymatching", "accept", "charset")
#: Earliest and latest value of dates and times.
_RANGES: Final = {"DA": ("00000000", "99999999"), "TM": ("000000.000000", "235959.999999")}
_NUMBERS: Final = frozenset({"IS", "US", "UL", "SS", "SL"})
_MOST_KEY_CHARACTERS = 1024


@dataclass(frozen=True, slots=True)
class Query:
    """What a search asks for.

    Attributes
    ----------
    keys:
        By path of keywords (``RequestAttributesSequence.RequestedProcedureID``); a key without a value is not here: it
        matches everything.
    limit:
        None if the client sets none.
    fields:
        Keywords of further attributes to answer with: those of `includefield`, and those that are matched.
    all_fields:
        Whether every attribute of the level is wanted.
    fuzzy:
        Whether person names are matched word by word, without regard to accents.
    """

    keys: Mapping[str, str]
    limit: int | None
    offset: int
    fields: tuple[str, ...]
    all_fields: bool
    fuzzy: bool

    def matches(self, path: str, values: Iterable[str]) -> bool:
        """Whether one of an attribute's values matches its key; an attribute without a key matches."""
        key = self.keys.get(path)
        if key is None:
            return True
        vr = dictionary_VR(path.rsplit(".", 1)[-1])
        return any(matches(vr, value, key, fuzzy=self.fuzzy) for value in values)


def parse(parameters: Iterable[tuple[str, str]], allowed: Collection[str]) -> Query:
    """Return the query of a search.

    Parameters
    ----------
    allowed:
        Match keys of the searched level.

    Raises
    ------
    HTTPException
        400: a parameter is not known, is given twice, or its value is not valid.
    """
    keys: dict[str, str] = {}
    fields: list[str] = []
    general: dict[str, str] = {}
    all_fields = False
    for name, value in parameters:
        if name == "includefield":
            for field in filter(None, value.split(",")):
                if field == "all":
                    all_fields = True
                else:
                    fields.append(_path(field).split(".", 1)[0])
        elif name in _GENERAL:
            general[name] = value
        else:
            path = _path(name)
            if path not in allowed:
                raise HTTPException(400, f"{name} is not a key of this search. Keys: {', '.join(sorted(allowed))}")
            if path in keys:
                raise HTTPException(400, f"{name} is given twice: list several UIDs with commas")
            if len(value) > _MOST_KEY_CHARACTERS and dictionary_VR(path.rsplit(".", 1)[-1]) != "UI":
                raise HTTPException(400, f"the value of {name} is longer than {_MOST_KEY_CHARACTERS} characters")
            keys[path] = value
            fields.append(path.split(".", 1)[0])
    fuzzy = general.get("fuzzymatching", "false").lower()
    if fuzzy not in ("true", "false"):
        raise HTTPException(400, "fuzzymatching is true or false")
    return Query(
        keys={path: value for path, value in keys.items() if value.strip("* ")},
        limit=_number(general, "limit"),
        offset=_number(general, "offset") or 0,
        fields=tuple(dict.fromkeys(fields)),
        all_fields=all_fields,
        fuzzy=fuzzy == "true",
    )


def matches(vr: str, value: str, key: str, *, fuzzy: bool = False) -> bool:
    """Whether a value matches a key: single value, list of UIDs, wild card, range, or nothing asked for.

    Parameters
    ----------
    value:
        One value as DICOM writes it; a person name with ``^`` between components and ``=`` between groups.
    """
    if not key.strip("* "):
        return True
    if vr == "UI":
        return value in re.split(r"[,\\]", key.replace(" ", ""))
    if vr in _RANGES:
        return _in_range(vr, value, key)
    if vr in _NUMBERS and value.strip().lstrip("-").isdecimal() and key.strip().lstrip("-").isdecimal():
        return value.strip().lstrip("0") == key.strip().lstrip("0")
    if vr == "PN":
        return _name_matches(value, key, fuzzy=fuzzy)
    return _wild_card(_normal(key).strip()).fullmatch(_normal(value).strip()) is not None


def _in_range(vr: str, value: str, key: str) -> bool:
    """Match a date or time: a part that is left out stands for all of it (PS3.4 section C.2.2.2.5)."""
    value, key = (text.replace(":", "") if vr == "TM" else text for text in (value.strip(), key.strip()))
    least, most = _RANGES[vr]
    first, dash, last = key.partition("-")
    if not dash:
        last = first
    return bool(value) and first + least[len(first) :] <= value + least[len(value) :] <= last + most[len(last) :]


def _name_matches(value: str, key: str, *, fuzzy: bool) -> bool:
    """Match a person name (PS3.5 section 6.2.1): without regard to case, group by group, or any group of it.

    A key without ``=`` is looked for in the alphabetic, ideographic and phonetic group.
    """
    groups, asked = (text.split("=") for text in (_normal(value).casefold(), _normal(key).casefold()))
    if len(asked) > 1:
        pairs = zip(asked, [*groups, "", "", ""], strict=False)
        return all(_group_matches(group, part, fuzzy=fuzzy) for part, group in pairs if part.strip("^* "))
    return any(_group_matches(group, asked[0], fuzzy=fuzzy) for group in groups if group)


def _group_matches(group: str, asked: str, *, fuzzy: bool) -> bool:
    group, asked = group.strip().rstrip("^"), asked.strip().rstrip("^")
    if fuzzy:
        words = _words(group)
        return all(any(word.startswith(start) for word in words) for start in _words(asked.replace("*", "")))
    pattern = _wild_card(asked)
    # Components that are empty at the end may be left out; people write spaces for the carets.
    forms = (*(group + "^" * count for count in range(5)), " ".join(group.replace("^", " ").split()))
    return any(pattern.fullmatch(form) is not None for form in forms)


def _words(text: str) -> Sequence[str]:
    plain = "".join(char for char in unicodedata.normalize("NFKD", text) if not unicodedata.combining(char))
    return plain.replace("^", " ").split()


def _normal(text: str) -> str:
    return unicodedata.normalize("NFC", text)


@lru_cache(maxsize=256)
def _wild_card(key: str) -> re.Pattern[str]:
    # DICOM has no character classes. fnmatch's patterns never track back over a star: many stars cost no time.
    return re.compile(fnmatch.translate(key.replace("[", "[[]")))


def _path(name: str) -> str:
    """Return an attribute as a path of keywords; it may be written with tags (PS3.18 section 8.3.4.1)."""
    keywords = []
    for part in name.split("."):
        if re.fullmatch(r"[0-9A-Fa-f]{8}", part):
            keyword = keyword_for_tag(int(part, 16))
        else:
            keyword = part if tag_for_keyword(part) is not None else ""
        if not keyword:
            raise HTTPException(400, f"{name[:64]} is not an attribute of DICOM")
        keywords.append(keyword)
    return ".".join(keywords)


def _number(general: Mapping[str, str], name: str) -> int | None:
    if name not in general:
        return None
    number = whole_number(general[name])
    if number is None:
        raise HTTPException(400, f"{name} is a whole number from 0")
    return number
