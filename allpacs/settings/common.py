"""What every section of the settings is made of."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from allpacs.domain.identity import is_ae_title


class Section(BaseModel):
    """A section: what was read does not change, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


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
