"""``allpacs init``: five questions, and a configuration that works."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import typer

from allpacs.commands.peer import peer
from allpacs.domain.errors import ConfigFault
from allpacs.domain.identity import is_ae_title
from allpacs.settings import load_settings


@dataclass(frozen=True, slots=True)
class Question:
    """One of the five.

    Attributes
    ----------
    default:
        The answer to begin with.
    check:
        Raises `ConfigFault` for an answer that cannot be used.
    """

    text: str
    default: str
    check: Callable[[str], object]


def _ae_titles(text: str) -> None:
    for title in _listed(text):
        if not is_ae_title(title):
            raise ConfigFault(f"{title!r}: an AE title has 1 to 16 printable ASCII characters and no backslash")


def _address(text: str) -> None:
    if text and not text.startswith(("http://", "https://")):
        raise ConfigFault(f"{text!r} does not begin with http:// or https://")


def _optional_peer(text: str) -> None:
    if text:
        peer(text)


QUESTIONS: dict[str, Question] = {
    "listen": Question("Where the PACS shall find allpacs (AE@host:port)", "ALLPACS@0.0.0.0:11112", peer),
    "senders": Question("AE titles that may send, with commas between; nothing: any", "", _ae_titles),
    "pacs": Question("PACS that gets the structured reports (AE@host:port); nothing: none", "", _optional_peer),
    "fhir": Question("Base address of the EHR's FHIR R4 server; nothing: none", "", _address),
    "folder": Question("Folder for images, index and results", "/var/lib/allpacs", lambda _: None),
}


def answer(question: Question, given: str | None, *, ask: bool) -> str:
    """Return the answer given on the command line, else a person's, else the default."""
    if given is not None or not ask:
        return question.default if given is None else given

    def checked(text: str) -> str:
        try:
            question.check(text)
        except ConfigFault as fault:
            raise typer.BadParameter(str(fault)) from None
        return text

    reply: str = typer.prompt(question.text, default=question.default, value_proc=checked)
    return reply.strip()


def configuration(answers: dict[str, str]) -> str:
    """Return the TOML text of a configuration.

    Parameters
    ----------
    answers:
        By the names of `QUESTIONS`.

    Raises
    ------
    ConfigFault
        An answer cannot be used; the message names it.
    """
    for name, question in QUESTIONS.items():
        try:
            question.check(answers[name])
        except ConfigFault as fault:
            raise ConfigFault(f"--{name}: {fault}") from None
    title, host, port = peer(answers["listen"])
    parts = [
        "# Written by `allpacs init`. Every key there is: docs/configuration.md",
        "[receive]",
        f"host = {_toml(host)}",
        f"port = {port}",
        f"ae_title = {_toml(title)}",
        f"allowed_calling = {_toml(_listed(answers['senders']))}   # empty: any AE title may send",
        "",
        "[store]",
        f"folder = {_toml(answers['folder'])}",
        "",
    ]
    if answers["pacs"]:
        called, pacs_host, pacs_port = peer(answers["pacs"])
        parts += ["[destinations.pacs]", 'kind = "c_store"', f"host = {_toml(pacs_host)}", f"port = {pacs_port}"]
        parts += [f"called_ae = {_toml(called)}", ""]
    if answers["fhir"]:
        parts += ["[destinations.ehr]", 'kind = "fhir"', f"base_url = {_toml(answers['fhir'])}"]
        parts += ["# a token, where it wants one, from the environment: ALLPACS_DESTINATIONS__EHR__BEARER_TOKEN", ""]
    return "\n".join(parts)


def write_configuration(answers: dict[str, str], file: Path, *, overwrite: bool) -> None:
    """Write the configuration and read it back as the plugin will.

    Raises
    ------
    ConfigFault
        An answer cannot be used, or the file is there already.
    """
    text = configuration(answers)
    try:
        with file.open("w" if overwrite else "x", encoding="utf-8") as out:
            out.write(text)
    except FileExistsError:
        raise ConfigFault(f"{file} is there already: name another file with --config, or say --force") from None
    load_settings(file)


def _listed(text: str) -> list[str]:
    return [one.strip() for one in text.split(",") if one.strip()]


def _toml(value: str | list[str]) -> str:
    return json.dumps(value, ensure_ascii=False)
