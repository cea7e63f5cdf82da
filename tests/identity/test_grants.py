"""Accounts that open without a consent page, by a client of their owner's own or by what a key signs."""

from __future__ import annotations

import base64
import logging
from typing import Any
from urllib.parse import parse_qs

import httpx2
import jwt
import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from tests.identity.oidc_server import SECRET, OidcServer

from moorline.calls.guards import Guards
from moorline.calls.tokens import JWT_BEARER, sandbox_pair
from moorline.clock import SYSTEM, ManualClock
from moorline.errors import (
    AuthenticationFailed,
    CallError,
    ConfigurationError,
    DecryptionFailed,
    ReauthorizationRequired,
    ServiceUnavailable,
)
from moorline.identity import grants
from moorline.identity.connection import Tokens
from moorline.identity.connector import ConnectDesk, Connector
from moorline.identity.grants import Assertion, OwnClient, grant_of
from moorline.identity.oauth import OAuth
from moorline.identity.refreshing import FreshToken
from moorline.identity.vault import Vault
from moorline.policies.policy import Policy
from moorline.secrets.secret import Secret
from moorline.services import HubSpot
from moorline.store.schema import connections

HOST = "https://login.example"
CLIENT = OwnClient("tenant-client", Secret("tenant-canary-0123456789"), scopes=("read",))
SIGNED = Assertion("consumer-key", "ada@acme.example", HOST, Secret(sandbox_pair()[0]), key_id="k1")


class Endpoint:
    """Gives tokens, or answers *error* with *status*."""

    def __init__(self) -> None:
        self.asked: list[httpx2.Request] = []
        self.status, self.error = 200, ""

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        request.read()
        self.asked.append(request)
        if self.status != 200:
            return httpx2.Response(self.status, json={"error": self.error})
        answer = {"access_token": f"access-{len(self.asked)}-canary", "token_type": "Bearer", "expires_in": 3600}
        return httpx2.Response(200, json=answer)

    @property
    def form(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(self.asked[-1].content.decode()).items()}

    def desk(self, clock: ManualClock, own: str = "k" * 20, **fields: Any) -> ConnectDesk:
        oauth = OAuth(**{"authorize": f"{HOST}/authorize", "token": f"{HOST}/token", **fields})
        connector = Connector(name="crm", oauth=oauth, own=HubSpot(own), client_id="ours", client_secret="ours-0123456")
        options: dict[str, Any] = {"wire": httpx2.MockTransport(self), "guards": Guards(clock=clock)}
        return ConnectDesk(connector, clock=clock, policy=Policy(retry=None, breaker=None), **options)


@pytest.mark.parametrize("authentication", ["post", "basic"])
async def test_a_client_of_the_owners_own(lite: Vault, clock: ManualClock, authentication: str):
    """The tenant's client asks, not ours; what opens the account lies encrypted in its row, and renews it."""
    endpoint = Endpoint()
    desk = endpoint.desk(clock, authentication=authentication, scopes=("base",))
    kept = await grants.connect(lite, desk, "tenant_1", CLIENT, scopes=("write",))
    assert (kept.owner, kept.account, kept.scopes) == (
        "tenant_1",
        "tenant-client",
        frozenset({"base", "read", "write"}),
    )
    wanted = {"grant_type": "client_credentials", "scope": "base read write"}
    if authentication == "post":
        wanted |= {"client_id": "tenant-client", "client_secret": "tenant-canary-0123456789"}
    else:
        basic = base64.b64encode(b"tenant-client:tenant-canary-0123456789").decode()
        assert endpoint.asked[-1].headers["authorization"] == f"Basic {basic}"
    assert endpoint.form == wanted
    dump = lite.store.read_sync(lambda database: repr(database.execute(sa.select(connections)).all()))
    assert "canary" not in dump + repr(lite.tokens(kept)) + repr(CLIENT)
    fresh = FreshToken(lite, kept.id, desk.refreshed)
    for number in (2, 3):
        clock.advance(3600)
        await fresh.ready_async()
        assert fresh.current().reveal() == f"access-{number}-canary"
        assert endpoint.form == wanted
    assert grant_of(lite.tokens(fresh.connection)) == OwnClient(
        "tenant-client", CLIENT.secret, scopes=("base", "read", "write")
    )


def test_what_a_key_signs(lite: Vault, clock: ManualClock):
    """PyJWT reads it as RFC 7523 has it: who, for whom, to whom, for three minutes; renewed by another one."""
    endpoint = Endpoint()
    desk = endpoint.desk(clock)
    kept = grants.connect_sync(lite, desk, "tenant_1", SIGNED, account="acme")
    assert (kept.account, endpoint.form["grant_type"]) == ("acme", JWT_BEARER)
    public: Any = load_pem_private_key(sandbox_pair()[0].encode(), None).public_key()
    seen = []
    for _ in range(2):
        assertion = endpoint.form["assertion"]
        options: Any = {"verify_exp": False, "verify_iat": False}
        claims = jwt.decode(assertion, public, algorithms=["RS256"], audience=HOST, options=options)
        assert jwt.get_unverified_header(assertion)["kid"] == "k1"
        assert (claims["iss"], claims["sub"]) == ("consumer-key", "ada@acme.example")
        assert (claims["iat"], claims["exp"] - claims["iat"]) == (int(clock.wall()), 180)
        seen.append(assertion)
        clock.advance(3600)
        FreshToken(lite, kept.id, desk.refreshed).ready()
        clock.advance(0)
    assert len(set(seen)) == 2


async def test_our_own_key_signs_whatever_it_is_by_then(lite: Vault, clock: ManualClock):
    """Without a key in the grant it is the service's own credential, so that one rotation reaches all connections."""
    endpoint = Endpoint()
    desk = endpoint.desk(clock, own=sandbox_pair()[0])
    kept = await grants.connect(lite, desk, "tenant_1", Assertion("consumer-key", "ada@acme.example", HOST))
    assert grant_of(lite.tokens(kept)) == Assertion("consumer-key", "ada@acme.example", HOST)
    another = endpoint.desk(clock, own="no key any more")
    clock.advance(3600)
    with pytest.raises(ConfigurationError, match="private key"):
        await FreshToken(lite, kept.id, another.refreshed).ready_async()
    await FreshToken(lite, kept.id, desk.refreshed).ready_async()


async def test_what_is_refused_is_not_kept(lite: Vault, clock: ManualClock):
    """The account is tried before there is a connection."""
    endpoint = Endpoint()
    endpoint.status, endpoint.error = 401, "invalid_client"
    with pytest.raises(AuthenticationFailed):
        await grants.connect(lite, endpoint.desk(clock), "tenant_1", CLIENT)
    assert await lite.connections() == []


@pytest.mark.parametrize(
    ("status", "error", "ends"),
    [(401, "invalid_client", True), (400, "unauthorized_client", True), (400, "invalid_grant", True), (503, "", False)],
)
async def test_when_it_ends(
    lite: Vault, clock: ManualClock, caplog: pytest.LogCaptureFixture, status: int, error: str, *, ends: bool
):
    """A client or an approval that was taken back is the owner's to mend; a service that is down ends nothing."""
    caplog.set_level(logging.DEBUG)
    endpoint = Endpoint()
    desk = endpoint.desk(clock)
    kept = await grants.connect(lite, desk, "tenant_1", CLIENT)
    endpoint.status, endpoint.error = status, error
    clock.advance(3600)
    with pytest.raises(ReauthorizationRequired if ends else ServiceUnavailable):
        await FreshToken(lite, kept.id, desk.refreshed, endings=desk.oauth.endings).ready_async()
    assert (await lite.get("tenant_1", "crm")).state == ("ended" if ends else "good")
    assert "canary" not in caplog.text
    endpoint.status = 200
    again = await grants.connect(lite, desk, "tenant_1", CLIENT)
    assert (again.id, again.state) == (kept.id, "good")


async def test_consent_takes_its_place(lite: Vault, clock: ManualClock):
    """An owner who connects the same account by consent is no longer opened by the old client."""
    endpoint = Endpoint()
    desk = endpoint.desk(clock)
    kept = await grants.connect(lite, desk, "tenant_1", CLIENT, account="acme")
    answer = {"access_token": "a" * 20, "refresh_token": "refresh-canary", "token_type": "bearer"}
    await lite.keep("tenant_1", "crm", desk.oauth.received(answer).granted, account="acme")
    found = await lite.get("tenant_1", "crm")
    assert (found.id, grant_of(lite.tokens(found))) == (kept.id, None)


@pytest.mark.parametrize(
    "make",
    [
        lambda: OwnClient("c"),
        lambda: OwnClient("c", Secret("s" * 20), Secret("k" * 20)),
        lambda: OwnClient("", Secret("s" * 20)),
        lambda: OwnClient("c", Secret("s" * 20), token="http://login.example/token"),
        lambda: Assertion("c", "a\nb", HOST),
        lambda: Assertion("", "a", HOST),
    ],
    ids=["neither", "both", "no id", "in the clear", "subject", "issuer"],
)
def test_what_is_no_grant(make: Any):
    """It is said when it is made."""
    with pytest.raises(ConfigurationError):
        make()


@pytest.mark.parametrize("grant", [{"kind": "of tomorrow"}, {"kind": "jwt_bearer"}, {"kind": "client_credentials"}, {}])
def test_a_grant_of_a_newer_version(grant: dict[str, Any]):
    """It is not guessed at."""
    with pytest.raises(DecryptionFailed):
        grant_of(Tokens(Secret("a" * 20), grant=grant))


# --- a certified provider


@pytest.mark.oracles
async def test_a_certified_provider(oidc_server: OidcServer, lite: Vault, clock: ManualClock):
    """oidc-provider takes a client by its secret, and by what its key signs; and refuses what another key has signed."""
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    now = ManualClock(SYSTEM.wall())
    oauth = OAuth(authorize=f"{oidc_server.issuer}/auth", token=f"{oidc_server.issuer}/token", authentication="basic")
    connector = Connector(name="oidc", oauth=oauth, own=HubSpot("k" * 20))
    desk = ConnectDesk(connector, clock=now, guards=Guards())
    key = Secret(sandbox_pair()[0])
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    try:
        for grant in (OwnClient("machine", Secret(SECRET)), OwnClient("signing", key=key, audience=oidc_server.issuer)):
            kept = await grants.connect(lite, desk, "tenant_1", grant)
            before = lite.tokens(kept).access
            fresh = FreshToken(lite, kept.id, desk.refreshed)
            await fresh.renew_async()
            assert fresh.current() != before
        for wrong in (
            OwnClient("machine", Secret("another secret")),
            OwnClient("signing", key=Secret(pem), audience=oidc_server.issuer),
            OwnClient("signing", key=key, audience="https://another.example"),
        ):
            with pytest.raises(CallError) as caught:
                await grants.connect(lite, desk, "tenant_1", wrong)
            assert caught.value.code == "invalid_client"
    finally:
        await desk.aclose()
