"""Where results go, and when they are tried again: ``[destinations.NAME]``, ``[retry]``.

The keys of a destination are those of its extension (`allpacs.domain.extensions`): the module named by ``kind``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from allpacs.domain.errors import ConfigFault
from allpacs.domain.extensions import Extensions
from allpacs.settings.common import Section


class DestinationSettings(Section):
    """What a destination is configured with, and what it declares about itself.

    A subclass adds ``kind: Literal["…"]``, which is its module's name, and its own keys. A key ``tls`` of type
    `TlsSettings` is checked by ``allpacs check-config``.
    """

    kind: str

    @property
    @abstractmethod
    def address(self) -> str:
        """Where results go, in one line for the operations page: no secret and no patient data."""

    @abstractmethod
    def make(self, ae_title: str) -> Any:
        """Return the live destination (`allpacs.deliver.destination.Destination`).

        Import libraries here and not at the top of the module: the settings are read by processes that never deliver.

        Parameters
        ----------
        ae_title:
            Our own AE title, for destinations that are called by DICOM.

        Raises
        ------
        ConfigFault
            It cannot be made: the message names the key and says what to change.
        """


#: Every kind of destination; each module declares a `DestinationSettings` named ``Settings``.
DESTINATIONS: Extensions[type[DestinationSettings]] = Extensions(
    "allpacs.deliver.destinations", "Settings", "kind of destination"
)


def _of_its_kind(given: Any) -> Any:
    """Return a destination's table as the settings of its kind; settings stay as they are.

    Raises
    ------
    ValueError
        There is no such kind, or a key is unknown or has a wrong value.
    """
    if not isinstance(given, Mapping):
        return given
    if "kind" not in given:
        raise ValueError(f"kind is missing: set it to one of {', '.join(DESTINATIONS.kinds())}")
    try:
        declared = DESTINATIONS.get(given["kind"])
    except ConfigFault as fault:
        raise ValueError(str(fault)) from None
    return declared.model_validate(given)


#: A destination of any kind.
AnyDestination = Annotated[SerializeAsAny[DestinationSettings], BeforeValidator(_of_its_kind), DESTINATIONS]


class RetrySettings(Section):
    """When an undelivered result is tried again."""

    first_s: float = Field(2.0, gt=0, description="wait after the first failure, seconds; doubles each time")
    cap_s: float = Field(300.0, gt=0, description="longest wait between two attempts, seconds")
    max_attempts: int | None = Field(None, ge=1, description="then a dead letter; unset: never give up", examples=[50])

    @model_validator(mode="after")
    def _growing(self) -> Self:
        if self.first_s > self.cap_s:
            raise ValueError(f"first_s ({self.first_s:g}) is longer than cap_s ({self.cap_s:g}), the longest wait")
        return self
