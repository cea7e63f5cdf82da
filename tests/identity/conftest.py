"""A vault on each database, a provider that refreshes tokens, and an application that users sign in to."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import httpx2
import pytest
from tests.databases import migrated_sqlite
from tests.identity.hub import READ, RING, Owner
from tests.identity.shop import SHOP, Browser, Idp, shop_of

from moorline import Moorline
from moorline.calls.call import Call
from moorline.calls.exchange import Exchange
from moorline.calls.faults import ErrorMap
from moorline.calls.guards import Guards
from moorline.calls.service import BearerKey, Endpoints, Service
from moorline.clock import ManualClock
from moorline.errors import AuthenticationFailed
from moorline.identity.connection import Granted, Tokens
from moorline.identity.vault import Vault
from moorline.policies.policy import Policy
from moorline.sandbox import server
from moorline.secrets.keyring import KeyRing, new_key
from moorline.secrets.secret import Secret
from moorline.services import HubSpot
from moorline.store import Store

if TYPE_CHECKING:
    from tests.identity.oidc_server import OidcServer


@pytest.fixture(scope="session")
def oidc_server() -> Iterator[OidcServer]:
    """A certified provider, for all who want one: it sends users back to ``/auth/oidc/callback`` at port 8000."""
    from tests.identity.oidc_server import OidcServer  # not by the processes that import this module

    with OidcServer("http://127.0.0.1:8000/auth/oidc/callback") as running:
        yield running


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty database of each kind, migrated."""
    if request.param == "sqlite":
        return migrated_sqlite(tmp_path / "moorline.db")
    url: str = request.getfixturevalue("migrated_postgres_url")
    return url


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def shop_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """For applications that sign users in: a public address, and a folder of their own."""
    monkeypatch.setenv("MOORLINE_WEBHOOKS__PUBLIC_URL", SHOP)
    monkeypatch.setenv("MOORLINE_TAP", "false")  # closing it takes longer than all else
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def idp() -> Idp:
    """An OpenID provider that can be bent."""
    return Idp()


@pytest.fixture
def database(tmp_path: Path) -> str:
    """The URL of an empty database, migrated."""
    return migrated_sqlite(tmp_path / "shop.db")


@pytest.fixture
async def shop(shop_environment: None, database: str, clock: ManualClock, idp: Idp) -> AsyncIterator[Moorline]:
    """An application that users sign in to."""
    async with shop_of(database, clock, idp) as app:
        yield app


@pytest.fixture
def browser(shop: Moorline) -> Browser:
    """That of somebody who is not signed in yet."""
    return Browser(shop)


@pytest.fixture
def vault(database_url: str, clock: ManualClock) -> Iterator[Vault]:
    """On each database, with one key."""
    with Store(database_url, clock=clock) as store:
        yield Vault(store, KeyRing([Secret(new_key())]))


@pytest.fixture
def lite(tmp_path: Path, clock: ManualClock) -> Iterator[Vault]:
    """On SQLite, for what no database has a part in."""
    with Store(migrated_sqlite(tmp_path / "lite.db"), clock=clock) as store:
        yield Vault(store, KeyRing([Secret(new_key())]))


def granted(number: int = 0, *, lasts: float | None = 3600.0, refresh: str | None = "refresh-{}") -> Granted:
    """Tokens that are told apart by a number."""
    text = None if refresh is None else refresh.format(number)
    tokens = Tokens(Secret(f"access-{number:04}-canary"), None if text is None else Secret(text))
    return Granted(tokens, lasts, frozenset({"contacts"}))


class Provider(Service):
    """Refreshes tokens, as RFC 6749 says; each refresh takes the old refresh token back."""

    name, category = "provider", "tests"
    endpoints = Endpoints("https://provider.example")
    credentials = BearerKey(env="PROVIDER_KEY")
    errors = ErrorMap(code="error", kinds={"invalid_grant": AuthenticationFailed})

    def refreshed(self, tokens: Tokens) -> Call[Granted]:
        """The Call that refreshes *tokens*."""
        assert tokens.refresh is not None
        form = {"grant_type": "refresh_token", "refresh_token": tokens.refresh.reveal()}
        plan = self.post("/token", form=form, parse=_granted, repeatable=False)
        return Call.of(self, "refresh", plan, (), {})


def _granted(exchange: Exchange) -> Granted:
    answer = exchange.data
    refresh = answer.get("refresh_token")
    tokens = Tokens(Secret(answer["access_token"]), None if refresh is None else Secret(refresh))
    return Granted(tokens, answer["expires_in"])


class Issuer:
    """The provider's side: which refresh token is good, and how often it was asked."""

    def __init__(self, *, rotates: bool = True) -> None:
        self.rotates = rotates
        self.asked = 0
        self.good = "refresh-0"
        self.status = 200
        self.silent = False
        self._lock = threading.Lock()

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        with self._lock:
            self.asked += 1
            if self.status != 200:
                return httpx2.Response(self.status, json={"error": "temporarily_unavailable"})
            if parse_qs(request.read().decode())["refresh_token"] != [self.good]:
                return httpx2.Response(400, json={"error": "invalid_grant"})
            answer: dict[str, Any] = {"access_token": f"access-{self.asked:04}-canary", "expires_in": 3600.0}
            if self.rotates:
                self.good = answer["refresh_token"] = f"refresh-{self.asked}"
        if self.silent:
            raise httpx2.ReadTimeout("", request=request)
        return httpx2.Response(200, json=answer)

    def provider(self, clock: ManualClock) -> Provider:
        """A service that asks it."""
        policy = Policy(retry=None, breaker=None)
        return Provider("k", wire=httpx2.MockTransport(self), guards=Guards(clock=clock), policy=policy)


@pytest.fixture(scope="session")
def hub_clock() -> ManualClock:
    """One clock for the sandbox and all applications that connect to it; it only goes forward."""
    return ManualClock()


@pytest.fixture(scope="session")
def hub_sandbox(hub_clock: ManualClock) -> Iterator[str]:
    """A sandbox for those applications."""
    with server.running(seed=7, clock=hub_clock) as url:
        yield url


@pytest.fixture
async def app(
    hub_sandbox: str, hub_clock: ManualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Moorline]:
    """Connects HubSpot, whose contacts may be read. Owners are told by a header."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOORLINE_SANDBOX_URL", hub_sandbox)
    monkeypatch.setenv("MOORLINE_TAP", "false")
    for name in ("MOORLINE_ENCRYPTION_KEY", "HUBSPOT_CLIENT_ID", "HUBSPOT_CLIENT_SECRET", "HUBSPOT_GRANT"):
        monkeypatch.delenv(name, raising=False)
    httpx2.post(f"{hub_sandbox}/_sandbox/reset", trust_env=False)
    async with Moorline(migrated_sqlite(tmp_path / "shop.db"), clock=hub_clock) as made:
        made.service(HubSpot, guards=Guards(clock=hub_clock))
        made.connect(HubSpot, scopes=(READ,), keys=RING)

        @made.connection_owner
        def owner(scope: dict[str, Any]) -> str | None:
            return dict(scope["headers"]).get(b"x-owner", b"").decode() or None

        yield made


@pytest.fixture
def owner(app: Moorline) -> Owner:
    """Somebody with a browser at that application."""
    return Owner(app)
