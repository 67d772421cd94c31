"""Settings: a section of the TOML file is a class; `allpacs.settings.load` puts them together."""

from allpacs.settings.console import ConsoleSettings, OidcSettings
from allpacs.settings.destinations import DESTINATIONS, DestinationSettings, RetrySettings
from allpacs.settings.engines import ENGINES, EngineSettings
from allpacs.settings.load import ENV_PREFIX, Settings, load_settings
from allpacs.settings.reading import SHIPPED_BUNDLE, ModelSettings, ReportSettings, StoreSettings, WorkSettings
from allpacs.settings.receive import CommitmentPeerSettings, ReceiveSettings, SourceSettings
from allpacs.settings.tls import ServerTlsSettings, TlsSettings
from allpacs.settings.watching import AuditSettings, LogSettings, MonitorSettings, TracingSettings

__all__ = [
    "DESTINATIONS",
    "ENGINES",
    "ENV_PREFIX",
    "SHIPPED_BUNDLE",
    "AuditSettings",
    "CommitmentPeerSettings",
    "ConsoleSettings",
    "DestinationSettings",
    "EngineSettings",
    "LogSettings",
    "ModelSettings",
    "MonitorSettings",
    "OidcSettings",
    "ReceiveSettings",
    "ReportSettings",
    "RetrySettings",
    "ServerTlsSettings",
    "Settings",
    "SourceSettings",
    "StoreSettings",
    "TlsSettings",
    "TracingSettings",
    "WorkSettings",
    "load_settings",
]
