"""Templates, languages, and how numbers and times are written."""

from __future__ import annotations

import gettext
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, Final

from babel.dates import format_datetime, format_timedelta
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.numbers import format_decimal, format_percent
from jinja2 import Environment, PackageLoader, StrictUndefined

#: Languages of the console, each with what it calls itself.
LOCALES: Final = {"en": "English", "ar": "العربية"}
LOCALE_FOLDER: Final = Path(__file__).parent / "locale"

#: Digits stay Western in Arabic, too: a number that is read out over the telephone must look the same on every screen.
_NUMBERS = {"en": "en", "ar": "ar_EG@numbers=latn"}


@cache
def environment(locale: str) -> Environment:
    """Return the templates in one language; everything that goes into a page is escaped."""
    made = Environment(
        loader=PackageLoader("allpacs.console"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.i18n"],
    )
    made.install_gettext_translations(translations(locale), newstyle=True)  # type: ignore[attr-defined]
    made.globals.update(locale=locale, locales=LOCALES, direction="rtl" if locale == "ar" else "ltr")
    made.filters.update(
        percent=lambda value: percent(value, locale),
        number=lambda value: number(value, locale),
        when=lambda at: when(at, locale),
        ago=lambda at, now: ago(at, now, locale),
        bars=bars,
        dicom_date=lambda date: isolated(dicom_date(date), locale),
    )
    return made


@cache
def translations(locale: str) -> gettext.NullTranslations:
    """Return the messages of a language; the source language is English and has no catalogue."""
    file = LOCALE_FOLDER / locale / "LC_MESSAGES" / "messages.po"
    if not file.is_file():
        return gettext.NullTranslations()
    compiled = BytesIO()
    with file.open("rb") as stream:
        write_mo(compiled, read_po(stream, locale=locale))
    compiled.seek(0)
    return gettext.GNUTranslations(compiled)


@lru_cache(maxsize=20_000)  # a page has hundreds of them, most of which the last page had, too
def number(value: float, locale: str) -> str:
    """Return a number with its thousands apart."""
    return format_decimal(value, locale=_babel(locale))


@lru_cache(maxsize=20_000)
def percent(value: float, locale: str) -> str:
    """Return a fraction as per cent with one decimal."""
    return isolated(format_percent(value, format="0.0\u00a0%", locale=_babel(locale)), locale)


def when(at: float, locale: str) -> str:
    """Return a time of this machine's clock, to the minute."""
    local = datetime.fromtimestamp(at, UTC).astimezone()
    return isolated(format_datetime(local, "yyyy-MM-dd HH:mm", tzinfo=local.tzinfo, locale=_babel(locale)), locale)


def ago(at: float, now: float, locale: str) -> str:
    """Return how long ago that was, in one unit."""
    return format_timedelta(
        timedelta(seconds=max(now - at, 0.0)),
        granularity="minute",
        threshold=1.2,
        format="short",
        locale=_babel(locale),
    )


def dicom_date(date: str) -> str:
    """Return a DICOM date (``YYYYMMDD``) as ``YYYY-MM-DD``; empty stays empty."""
    return f"{date[:4]}-{date[4:6]}-{date[6:]}" if len(date) == 8 else date


def bars(counts: Sequence[int], width: float = 100.0, height: float = 23.0) -> str:
    """Return the path of a bar chart, each bar as high as its share of the highest."""
    tallest, step = max([*counts, 1]), width / max(len(counts), 1)
    drawn = (
        f"M{step * place + 0.3:g} {height:g}v{-(height - 1) * count / tallest:.1f}h{step - 0.6:g}V{height:g}z"
        for place, count in enumerate(counts)
        if count
    )
    return "".join(drawn)


def isolated(text: str, locale: str) -> str:
    """Return a number or date that keeps its order within text from right to left (Unicode, UAX #9, isolates).

    Without it 2017-04-02 after an Arabic word is shown as 02-04-2017, and of two numbers side by side one takes the
    other's sign.
    """
    return f"\u2066{text}\u2069" if locale == "ar" and text else text


def preferred_locale(accept_language: str) -> str:
    """Return the language of ours that a browser asks for first; English where it asks for none."""
    from babel import negotiate_locale

    wanted = []
    for part in accept_language.split(","):
        tag, _, quality = part.strip().partition(";q=")
        try:
            wanted.append((float(quality or 1), tag.split("-")[0].lower()))
        except ValueError:
            continue
    ordered = [tag for _, tag in sorted(wanted, key=lambda pair: -pair[0]) if tag]
    return negotiate_locale(ordered, list(LOCALES)) or "en"


def compile_templates() -> None:
    """Compile the templates of every language, so that no reader waits for it."""
    for locale in LOCALES:
        made = environment(locale)
        for name in made.list_templates(extensions=["html"]):
            made.get_template(name)


def render(template: str, locale: str, **values: Any) -> str:
    """Return a page."""
    return environment(locale).get_template(template).render(**values)


def _babel(locale: str) -> str:
    return _NUMBERS[locale]
