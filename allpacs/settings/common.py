"""What every section of the settings is made of."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from allpacs.domain.identity import is_ae_title


class Section(BaseModel):
    """A section: what was read does not change, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def all_errors(title: str, invalid: Iterable[ValidationError]) -> ValidationError:
    """Return the errors of several validations as one, so that a message can name every wrong key."""
    details = [
        InitErrorDetails(
            # The text is that of the first error; as a template it would be formatted a second time.
            type=PydanticCustomError("invalid", "{said}", {"said": error["msg"]}),
            loc=error["loc"],
            input=error["input"],
        )
        for one in invalid
        for error in one.errors(include_url=False)
    ]
    return ValidationError.from_exception_data(title, details, hide_input=True)


def ae_title(text: str) -> str:
    """Return an AE title without the spaces around it.

    Raises
    ------
    ValueError
        It is none (PS3.5 section 6.2, AE).
    """
    if not is_ae_title(text):
        raise ValueError("an AE title has 1 to 16 printable ASCII characters and no backslash")
    return text.strip(" ")
