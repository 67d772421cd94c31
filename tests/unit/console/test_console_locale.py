"""Every message has an Arabic one that holds the same numbers and names."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po

from allpacs.console import rendering
from allpacs.console.faults import FAULTS, said
from allpacs.store import reviews

PACKAGE = Path(rendering.__file__).parent
FIELD = re.compile(r"%\((\w+)\)s|%%s")


def messages() -> set[str | tuple[str, ...]]:
    found = extract_from_dir(
        str(PACKAGE), [("templates/**.html", "jinja2")], {"templates/**.html": {"trimmed": "true"}}
    )
    return {message if isinstance(message, str) else tuple(message) for _, _, message, _, _ in found} | set(FAULTS)


def test_every_message_is_translated_and_no_other() -> None:
    with (rendering.LOCALE_FOLDER / "ar" / "LC_MESSAGES" / "messages.po").open("rb") as file:
        catalogue = read_po(file, locale="ar")
    translated = {one.id if isinstance(one.id, str) else tuple(one.id): one.string for one in catalogue if one.id}
    assert translated.keys() == messages()
    for original, text in translated.items():
        if isinstance(original, str):
            assert sorted(FIELD.findall(original)) == sorted(FIELD.findall(str(text))), original
        else:
            assert len(text) == 6  # Arabic has six forms
            assert all(form and set(FIELD.findall(form)) <= set(FIELD.findall(original[0])) for form in text)


@pytest.mark.parametrize(
    ("header", "locale"),
    [("ar-EG,ar;q=0.9,en;q=0.5", "ar"), ("de,en;q=0.4,ar;q=0.9", "ar"), ("fr", "en"), ("", "en"), ("*;q=x", "en")],
)
def test_the_browser_s_language_is_spoken(header: str, locale: str) -> None:
    assert rendering.preferred_locale(header) == locale


def test_numbers_look_the_same_in_both_languages() -> None:
    assert rendering.percent(0.1234, "en") == "12.3\u00a0%"
    assert [char for char in rendering.percent(0.1234, "ar") if char.isdigit()] == list("123")
    assert rendering.when(0.0, "ar").strip("\u2066\u2069") == rendering.when(0.0, "en")


def test_numbers_and_dates_keep_their_order_from_right_to_left() -> None:
    shown = rendering.environment("ar").from_string("{{ '20170402' | dicom_date }} {{ 0.5 | percent }}").render()
    assert shown == "\u20662017-04-02\u2069 \u206650.0\u00a0%\u2069"
    assert rendering.environment("en").from_string("{{ '20170402' | dicom_date }}").render() == "2017-04-02"


def raised(file: Path, *kinds: str) -> list[str]:
    """Return the texts of the errors of these kinds that a module raises, with X for what differs."""
    calls = [one.exc for one in ast.walk(ast.parse(file.read_text())) if isinstance(one, ast.Raise)]
    texts = [one.args[0] for one in calls if isinstance(one, ast.Call) and getattr(one.func, "id", "") in kinds]
    return [
        "".join(part.value if isinstance(part, ast.Constant) else "X" for part in text.values)
        if isinstance(text, ast.JoinedStr)
        else ast.literal_eval(text)
        for text in texts
    ]


def test_what_reviewers_are_told_is_told_in_their_language() -> None:
    texts = [*raised(Path(reviews.__file__), "Outdated"), *raised(PACKAGE / "oidc.py", "SignInRefused")]
    assert len(texts) == 10
    for text in texts:
        assert said(text, "en").replace("X", "") == text.replace("X", "")
        assert re.search("[\u0600-\u06ff]", said(text, "ar")), text
    assert said("layla has signed this review meanwhile", "ar") == "وقّع \u2066layla\u2069 هذه المراجعة في هذه الأثناء"
    assert said("index: disk I/O error", "ar") == "index: disk I/O error"
