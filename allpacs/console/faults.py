"""What went wrong, in the reader's language.

Errors are raised in English, where they happen: by the store, the domain and the pages. Those that a reader of the
console meets in their work are listed here, each as it is raised with fields for what differs; the catalogues translate
them like any other message. What is not listed is shown as it is: it is for whoever looks after the machines.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Final

from allpacs.console.rendering import isolated, translations

FAULTS: Final = (
    "%(who)s has changed the comment meanwhile",
    "%(who)s has changed this review since you loaded it: look at it again",
    "%(who)s has signed this review meanwhile",
    "there is no such study any more",
    "more images of this study are arriving: it is read again, and then reviewed",
    "there is a newer report of this study: look at that one",
    "the report of this study is not written yet",
    "there is no such cell in this report",
    "the comment is longer than %(most)s characters",
    "the reviewer's name is missing",
    "the reviewer's organisation is missing",
    "confirm that you have reviewed the cells",
    "confirm that you accept the model's answer for cells that you did not review",
    "the form is of another session: load the page again",
    "the form is too long",
    "choose at least one file",
    "the upload is larger than %(most)s MB",
    "the date of birth is no date",
    "the pixel spacing is no number",
    "the pixel spacing is not a positive number of micrometres",
    "an unexpected error occurred here: try again, and tell whoever looks after allpacs",
    "our own receiver does not take it: %(reason)s",
    "too many attempts: wait five minutes",
    "your account has no role in this console: ask its administrator",
    "the sign-in provider cannot be used (%(reason)s)",
    "the sign-in provider did not let you in (%(reason)s)",
)
_FIELD = re.compile(r"%\((\w+)\)s")


def said(fault: str, locale: str) -> str:
    """Return a fault in a language; one that is not listed stays as it is."""
    for message, pattern in _patterns():
        if found := pattern.fullmatch(fault):
            fields = {name: isolated(value, locale) for name, value in found.groupdict().items()}
            return translations(locale).gettext(message) % fields
    return fault


@cache
def _patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    made = []
    for message in FAULTS:
        # Odd parts are the names of fields.
        parts = _FIELD.split(message)
        pattern = "".join(f"(?P<{part}>.+)" if place % 2 else re.escape(part) for place, part in enumerate(parts))
        made.append((message, re.compile(pattern, re.DOTALL)))
    return tuple(made)
