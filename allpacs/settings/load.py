"""Settings: frozen, typed, from one TOML file and then the environment (``ALLPACS_SECTION__KEY``).

An unknown key is an error: a misspelt setting must never be silently ignored.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from allpacs.domain.errors import ConfigFault
from allpacs.settings.console import ConsoleSettings
from allpacs.settings.destinations import AnyDestination, RetrySettings
from allpacs.settings.messages import message
from allpacs.settings.reading import ModelSettings, ReportSettings, StoreSettings, WorkSettings
from allpacs.settings.receive import ReceiveSettings
from allpacs.settings.watching import AuditSettings, LogSettings, MonitorSettings, TracingSettings

ENV_PREFIX = "ALLPACS_"


class Settings(BaseSettings):
    """Everything that can be configured. See `deploy/allpacs.toml` for a commented example."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        nested_model_default_partial_update=True,
    )

    receive: ReceiveSettings = ReceiveSettings()
    store: StoreSettings = Field(default_factory=StoreSettings)
    model: ModelSettings = Field(default_factory=ModelSettings)
    work: WorkSettings = WorkSettings()
    report: ReportSettings = ReportSettings()
    retry: RetrySettings = RetrySettings()
    console: ConsoleSettings = ConsoleSettings()
    monitor: MonitorSettings = MonitorSettings()
    audit: AuditSettings = AuditSettings()
    tracing: TracingSettings = TracingSettings()
    log: LogSettings = LogSettings()
    destinations: dict[str, AnyDestination] = Field(default_factory=dict)

    @field_validator("destinations")
    @classmethod
    def _safe_names(cls, destinations: dict[str, Any]) -> dict[str, Any]:
        for name in destinations:
            if not name.replace("-", "").replace("_", "").isalnum():
                raise ValueError(f"destination name {name!r}: use letters, digits, - and _ only")
        return destinations


def load_settings(file: Path | None = None, **overrides: Any) -> Settings:
    """Return the settings of a TOML file, overridden by the environment, overridden by the keyword arguments.

    Raises
    ------
    ConfigFault
        The file is missing or not TOML, or a key is unknown or has a wrong value; the message names every one.
    """
    if file is not None and not file.is_file():
        raise ConfigFault(f"no configuration file {file}: write one (see deploy/allpacs.toml) or leave --config out")

    class FromFile(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the base class's signature
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            sources: tuple[PydanticBaseSettingsSource, ...] = (init_settings, _Environment(settings_cls))
            return sources if file is None else (*sources, TomlConfigSettingsSource(settings_cls, file))

    _refuse_unknown_sections()
    try:
        return FromFile(**overrides)
    except ValidationError as invalid:
        # Not str(invalid): it prints the values, and a value can be a secret.
        lines = [f"{_place(error['loc'], file)}: {message(error, Settings)}" for error in invalid.errors()]
        raise ConfigFault("\n".join(lines)) from None
    except SettingsError as broken:  # a whole section given as JSON in one variable, and it is none
        raise ConfigFault(f"environment: {broken}") from None
    except ValueError as broken:  # not TOML
        raise ConfigFault(f"{file}: {broken}") from None


class _Environment(EnvSettingsSource):
    """The environment, whose AE titles keep their case: the base class turns every name into lower case."""

    def __call__(self) -> dict[str, Any]:
        values = super().__call__()
        receive = values.get("receive")
        sources = receive.get("sources") if isinstance(receive, dict) else None
        if isinstance(sources, dict):  # anything else is wrong, and is told so when it is validated
            for _, (section, key, *rest) in _nested_variables():
                if (section.lower(), key.lower()) == ("receive", "sources") and rest and rest[0].lower() in sources:
                    sources[rest[0]] = sources.pop(rest[0].lower())
        return values

    def decode_complex_value(self, field_name: str, field: FieldInfo | None, value: Any) -> Any:
        """Return a table or a list from JSON; the keys of a destination are not known here, and its values stay text.

        Raises
        ------
        ValueError
            It is neither. For an unknown key the text itself is then taken: a token of digits stays text.
        """
        decoded = super().decode_complex_value(field_name, field, value)  # type: ignore[arg-type]
        if field is None and not isinstance(decoded, dict | list):
            raise ValueError("neither a table nor a list")
        return decoded


def _nested_variables() -> Iterator[tuple[str, list[str]]]:
    """Yield each variable of ours that names a key within a section, and its parts: at least section and key."""
    for variable in os.environ:
        parts = variable.removeprefix(ENV_PREFIX).split("__")
        if variable.startswith(ENV_PREFIX) and len(parts) > 1:
            yield variable, parts


def _refuse_unknown_sections() -> None:
    """Refuse ``ALLPACS_SECTION__KEY`` of no section; names without ``__`` are other programs' (Kubernetes sets some).

    Raises
    ------
    ConfigFault
        There is such a variable.
    """
    for variable, (section, *_) in _nested_variables():
        if section.lower() not in Settings.model_fields:
            raise ConfigFault(f"environment {variable}: there is no section {section.lower()!r}")


def _place(location: tuple[int | str, ...], file: Path | None) -> str:
    """Return where a wrong value stands: the environment, which has the last word, or the file."""
    # A location may go deeper than the variable's name: the kind of a destination, the index of a list.
    known = {variable.upper() for variable in os.environ}
    parts = [str(part).upper() for part in location]
    for depth in range(len(parts), 0, -1):
        variable = ENV_PREFIX + "__".join(parts[:depth])
        if variable in known:
            return f"environment {variable}"
    return "settings" if file is None else str(file)
