"""Sign-in through OpenID Connect, with a stand-in for the hospital's provider."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import pytest
from joserfc.jwk import RSAKey

from allpacs.console.access import Role
from unit.console.conftest import Browser
from unit.console.oidc_stand_in import CLIENT, SECRET, Provider

Browse = Callable[..., Browser]
ADA = {"sub": "u-7", "preferred_username": "ada", "family_name": "Reader", "given_name": "Ada"}


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as provider:
        yield provider


@pytest.fixture
def browser(browse: Browse, provider: Provider) -> Browser:
    provider.tamper, provider.signs_with = {}, provider.key
    oidc = {"issuer": provider.issuer, "client_id": CLIENT, "client_secret": SECRET, "roles_claim": "groups"}
    return browse(oidc=oidc)


def sign_in(browser: Browser, after: str = "/") -> httpx.Response:
    """Go to the provider and back, as a browser is sent."""
    there = browser.see(f"/sign-in/start?next={after}")
    assert there.status_code == 302
    back = httpx.get(there.headers["location"])
    location = httpx.URL(back.headers["location"])
    return browser.see(location.raw_path.decode())  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("groups", "sees", "does_not_see"),
    [
        (["allpacs-viewer"], "/drift", "/operations"),
        (["others", "allpacs-reviewer"], "/upload", "/operations"),
        ("allpacs-administrator", "/operations", "/upload"),
    ],
)
def test_a_person_signs_in_with_the_roles_of_their_groups(
    browser: Browser, provider: Provider, groups: list[str] | str, sees: str, does_not_see: str
) -> None:
    provider.claims = ADA | {"groups": groups}
    answer = sign_in(browser, after=sees)
    assert (answer.status_code, answer.headers["location"]) == (303, sees)
    page = browser.see(sees)
    assert page.status_code == 200
    assert "Reader Ada" in page.text
    assert browser.see(does_not_see).status_code == 403


def test_a_person_without_a_role_stays_outside(browser: Browser, provider: Provider) -> None:
    provider.claims = ADA | {"groups": ["others"]}
    answer = sign_in(browser)
    assert answer.status_code == 403
    assert "no role" in answer.text
    assert browser.see("/").status_code == 303


@pytest.mark.parametrize(
    "tamper", [{"aud": "another-client"}, {"iss": "http://evil.example"}, {"exp": 1}, {"nonce": "another"}], ids=str
)
def test_an_id_token_that_is_not_for_us_lets_nobody_in(
    browser: Browser, provider: Provider, tamper: dict[str, object]
) -> None:
    provider.claims, provider.tamper = ADA | {"groups": ["allpacs-viewer"]}, tamper
    assert sign_in(browser).status_code == 403
    assert browser.see("/").status_code == 303


def test_a_token_signed_by_someone_else_lets_nobody_in(browser: Browser, provider: Provider) -> None:
    provider.claims = ADA | {"groups": ["allpacs-viewer"]}
    provider.signs_with = RSAKey.generate_key(2048, {"kid": "1"})
    assert sign_in(browser).status_code == 403


def test_an_answer_that_nobody_asked_for_lets_nobody_in(browser: Browser, provider: Provider) -> None:
    provider.claims = ADA | {"groups": ["allpacs-viewer"]}
    assert browser.see("/sign-in/finish?code=stolen&state=made-up").status_code == 403
    assert browser.see("/sign-in/finish?error=access_denied").status_code == 403


def test_there_is_no_token_beside_the_provider(browser: Browser) -> None:
    page = browser.see("/sign-in").text
    assert "hospital account" in page
    assert 'name="token"' not in page
    browser.token = page.split('name="csrf" content="')[1].split('"')[0]
    assert browser.change("/sign-in", token="").status_code == 403


def test_a_provider_that_is_away_is_told(browse: Browse) -> None:
    oidc = {"issuer": "http://127.0.0.1:1", "client_id": CLIENT, "client_secret": SECRET}
    answer = browse(oidc=oidc).see("/sign-in/start")
    assert answer.status_code == 403
    assert "cannot be used" in answer.text
    assert Role.VIEWER.value not in answer.text
