"""Sign-in through the hospital's OpenID Connect provider (authorization code flow with PKCE, by Authlib).

Source: OpenID Connect Core 1.0, section 3.1; RFC 7636.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from authlib.integrations.base_client import OAuthError
from authlib.integrations.starlette_client import OAuth
from httpx import HTTPError
from joserfc.errors import JoseError
from starlette.requests import Request
from starlette.responses import Response

from allpacs.console.access import Person, Role, SignInRefused
from allpacs.settings import OidcSettings


class Oidc:
    """One provider."""

    def __init__(self, settings: OidcSettings, address: str | None) -> None:
        self._settings = settings
        self._address = address
        self._client: Any = OAuth().register(
            "hospital",
            client_id=settings.client_id,
            client_secret=settings.client_secret.get_secret_value(),
            server_metadata_url=settings.issuer.rstrip("/") + "/.well-known/openid-configuration",
            client_kwargs={"scope": "openid profile", "code_challenge_method": "S256"},
        )

    async def start(self, request: Request) -> Response:
        """Return the redirect to the provider.

        Raises
        ------
        SignInRefused
            It cannot be reached.
        """
        try:
            response: Response = await self._client.authorize_redirect(request, self._return_address(request))
        except (HTTPError, OAuthError, KeyError, ValueError) as error:
            raise SignInRefused(f"the sign-in provider cannot be used ({type(error).__name__})") from error
        return response

    async def finish(self, request: Request) -> Person:
        """Return the person that the provider names; the ID token's signature, issuer, audience and nonce are checked.

        Raises
        ------
        SignInRefused
            It names nobody, its answer is not for this session, or the person has no role here.
        """
        try:
            token = await self._client.authorize_access_token(request)
        except (HTTPError, OAuthError, JoseError, KeyError, ValueError) as error:
            reason = error.error if isinstance(error, OAuthError) else type(error).__name__
            raise SignInRefused(f"the sign-in provider did not let you in ({reason})") from error
        claims = token.get("userinfo") or {}
        subject = str(claims.get("preferred_username") or claims.get("sub") or "")[:64]
        roles = self._roles(claims)
        if not subject or not roles:
            raise SignInRefused("your account has no role in this console: ask its administrator")
        return Person(subject, _person_name(claims), roles)

    def _roles(self, claims: Any) -> frozenset[Role]:
        groups = claims.get(self._settings.roles_claim) or ()
        held = {groups} if isinstance(groups, str) else {str(group) for group in groups}
        wanted = {
            Role.VIEWER: self._settings.viewers,
            Role.REVIEWER: self._settings.reviewers,
            Role.ADMINISTRATOR: self._settings.administrators,
        }
        return frozenset(role for role, names in wanted.items() if held.intersection(names))

    def _return_address(self, request: Request) -> str:
        if self._address:
            return self._address.rstrip("/") + "/sign-in/finish"
        return f"{request.url.scheme}://{urlsplit(str(request.url)).netloc}/sign-in/finish"


def _person_name(claims: Any) -> str:
    """Return the DICOM person name of what a provider says: family name, ``^``, given name."""
    family, given = str(claims.get("family_name") or ""), str(claims.get("given_name") or "")
    name = f"{family}^{given}" if family and given else str(claims.get("name") or "")
    return "".join(char for char in name if char.isprintable() and char != "\\")[:64]
