"""Destinations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from allpacs.app.certificates import make_tls
from allpacs.domain.errors import ConfigFault
from allpacs.settings import (
    CStoreSettings,
    DestinationSettings,
    FhirSettings,
    FolderSettings,
    MllpSettings,
    Settings,
    StowRsSettings,
)

if TYPE_CHECKING:
    from allpacs.deliver.destination import Destination
    from allpacs.deliver.smart import BackendServices
    from allpacs.dicom.tls import Tls


def make_destinations(settings: Settings) -> dict[str, Destination]:
    """Return the configured destinations by name.

    Raises
    ------
    ConfigFault
        One of them cannot be one: the message names it and says what to change.
    """
    made: dict[str, Destination] = {}
    for name, one in settings.destinations.items():
        try:
            made[name] = make_destination(settings, one)
        except ConfigFault as fault:
            raise ConfigFault(f"destinations.{name}: {fault}") from None
    return made


def make_destination(settings: Settings, one: DestinationSettings) -> Destination:
    """Return one destination.

    Raises
    ------
    ConfigFault
        It cannot be one: the message says what to change.
    """
    match one:
        case CStoreSettings():
            from allpacs.deliver.c_store import CStoreDestination

            calling = settings.receive.ae_title
            tls = make_tls(one.tls, "tls")
            return CStoreDestination(
                one.host,
                one.port,
                one.called_ae,
                calling,
                timeout_s=one.timeout_s,
                tls=tls,
                commitment=one.commitment,
                commitment_within_s=one.commitment_within_s,
            )
        case StowRsSettings():
            from allpacs.deliver.stow_rs import StowRsDestination

            token = None if one.bearer_token is None else one.bearer_token.get_secret_value()
            tls = make_tls(one.tls, "tls")
            return StowRsDestination(one.base_url, bearer_token=token, timeout_s=one.timeout_s, tls=tls)
        case FhirSettings():
            from allpacs.deliver.fhir_rest import FhirRestDestination

            token = None if one.bearer_token is None else one.bearer_token.get_secret_value()
            tls = make_tls(one.tls, "tls")
            tokens = _make_tokens(one, tls)
            return FhirRestDestination(
                one.base_url, bearer_token=token, tokens=tokens, timeout_s=one.timeout_s, tls=tls
            )
        case MllpSettings():
            from allpacs.deliver.mllp import MllpDestination

            tls = make_tls(one.tls, "tls")
            return MllpDestination(
                one.host,
                one.port,
                application=one.application,
                facility=one.facility,
                timeout_s=one.timeout_s,
                tls=tls,
            )
        case FolderSettings():
            from allpacs.deliver.folder import FolderDestination

            return FolderDestination(one.folder)


def _make_tokens(one: FhirSettings, tls: Tls | None) -> BackendServices | None:
    from allpacs.deliver.smart import BackendServices

    oauth = one.oauth
    if oauth is None:
        return None
    return BackendServices(
        oauth.token_url,
        oauth.client_id,
        oauth.private_key,
        key_id=oauth.key_id,
        scope=oauth.scope,
        timeout_s=one.timeout_s,
        tls=tls if oauth.token_url.startswith("https://") else None,
    )
