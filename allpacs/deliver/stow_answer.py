"""What an archive answers to STOW-RS: the Store Instances Response, as DICOM JSON or XML.

Source: PS3.18 section 10.5.3 (response), Table 10.5.3-3 (attributes), Annex F (DICOM JSON); PS3.19 Annex A (Native
DICOM Model).
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from allpacs.dicom.status import PROCESSING_FAILURE
from allpacs.dicom.web import Answer

#: Tags as DICOM JSON names them.
_REFERENCED, _FAILED, _OTHER_FAILURES = "00081199", "00081198", "0008119A"
_UID, _FAILURE_REASON, _WARNING_REASON = "00081155", "00081197", "00081196"

#: One data set: values by tag; a sequence has data sets for values.
_DataSet = dict[str, list[Any]]


class BrokenAnswer(ValueError):
    """An answer that is cut off, or is no Store Instances Response."""


@dataclass(frozen=True, slots=True)
class StoreAnswer:
    """What an archive says of each object.

    Attributes
    ----------
    status:
        HTTP status.
    stored:
        Warning Reason (0: none) by SOP Instance UID.
    failed:
        Failure Reason by SOP Instance UID.
    other_failures:
        Failure Reasons of objects that the archive does not name.
    """

    status: int
    stored: Mapping[str, int] = field(default_factory=dict)
    failed: Mapping[str, int] = field(default_factory=dict)
    other_failures: tuple[int, ...] = ()

    @property
    def has_failures(self) -> bool:
        """Whether an object was not stored."""
        return bool(self.failed or self.other_failures)

    def __or__(self, later: StoreAnswer) -> StoreAnswer:
        """Return both answers as one; of the status, the later one's."""
        others = self.other_failures + later.other_failures
        return StoreAnswer(later.status, {**self.stored, **later.stored}, {**self.failed, **later.failed}, others)


def read_answer(answer: Answer) -> StoreAnswer | None:
    """Return what an answer says of the objects; None where its body is neither DICOM JSON nor XML.

    Raises
    ------
    BrokenAnswer
        It is cut off or broken.
    """
    body = answer.content.lstrip(b"\xef\xbb\xbf \t\r\n")
    try:
        if "json" in answer.media_type:
            told = json.loads(body)
            data_sets = [_from_json(one) for one in (told if isinstance(told, list) else [told])]
        elif "xml" in answer.media_type and "html" not in answer.media_type:
            data_sets = _from_xml(body)
        else:
            return None
        stored: dict[str, int] = {}
        failed: dict[str, int] = {}
        others: list[int] = []
        for data_set in data_sets:
            stored |= {_uid(item): _number(item, _WARNING_REASON) for item in data_set.get(_REFERENCED, [])}
            for item in data_set.get(_FAILED, []):
                failed[_uid(item)] = _number(item, _FAILURE_REASON) or PROCESSING_FAILURE
            unnamed = data_set.get(_OTHER_FAILURES, [])
            others += [_number(item, _FAILURE_REASON) or PROCESSING_FAILURE for item in unnamed]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, ET.ParseError):
        raise BrokenAnswer("the archive's answer is cut off or broken") from None
    return StoreAnswer(answer.status, stored, failed, tuple(others))


def _from_json(data_set: dict[str, Any]) -> _DataSet:
    """Return a data set of DICOM JSON; sequences only as deep as the response has them."""
    return {tag.upper(): _json_values(element) for tag, element in data_set.items()}


def _json_values(element: Any) -> list[Any]:
    values = (element.get("Value") or []) if isinstance(element, dict) else []  # {"error": "…"} is no attribute
    return [_from_json(value) if isinstance(value, dict) and "Alphabetic" not in value else value for value in values]


def _from_xml(body: bytes) -> list[_DataSet]:
    """Return the data set of a Native DICOM Model."""
    if b"<!" in body.replace(b"<!--", b""):  # a document type: the model has none, and entities can be a bomb
        raise ValueError("a document type")
    root = ET.fromstring(body)  # noqa: S314 - without a document type there are no entities
    if _local(root) != "NativeDicomModel":
        raise ValueError(root.tag)
    return [_xml_data_set(root)]


def _xml_data_set(parent: ET.Element) -> _DataSet:
    data_set: _DataSet = {}
    for element in parent:
        values: list[Any] = [(value.text or "").strip() for value in element if _local(value) == "Value"]
        values += [_xml_data_set(item) for item in element if _local(item) == "Item"]
        data_set[element.attrib["tag"].upper()] = values
    return data_set


def _local(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]


def _uid(item: _DataSet) -> str:
    return str(item[_UID][0]).strip(" \0")


def _number(item: _DataSet, tag: str) -> int:
    values = item.get(tag)
    return int(values[0]) if values else 0
