"""The device flow: when the provider is asked, what becomes of its answers, and a certified provider's own."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.identity.oidc_server import OidcServer, Visitor

from moorline.calls.guards import Guards
from moorline.clock import ManualClock
from moorline.errors import AuthenticationFailed, BadAnswer, ConfigurationError, MoorlineError, SignInFailed
from moorline.identity.connector import ConnectDesk, Connector
from moorline.identity.device import DeviceCode, DeviceFlow, device_code
from moorline.identity.oauth import OAuth, Received
from moorline.identity.refreshing import FreshToken
from moorline.identity.vault import Vault
from moorline.services import HubSpot

CODES = {
    "device_code": "device-canary-0123456789",
    "user_code": "WDJB-MJHT",
    "verification_uri": "https://login.example/device",
    "expires_in": 900,
}
GRANT = {"access_token": "access-canary-0123456789", "token_type": "bearer", "scope": "contacts"}
Answer = tuple[int, dict[str, Any] | None]  # status and body; without one the connection breaks


class Provider:
    """Answers each question with the next of *answers*, and notes when it was asked."""

    def __init__(
        self,
        answers: list[Answer],
        clock: ManualClock,
        codes: dict[str, Any] | None = None,
        vault: Vault | None = None,
    ) -> None:
        self.vault = vault
        self.answers, self.clock, self.codes = answers, clock, CODES if codes is None else codes
        self.at: list[float] = []
        self.forms: list[dict[str, list[str]]] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.forms.append(parse_qs(request.read().decode()))
        if request.url.path == "/device/code":
            return httpx2.Response(200, json=self.codes)
        if request.url.path == "/me":
            return httpx2.Response(200, json={"id": 7})
        self.at.append(self.clock.wall())
        status, body = self.answers[min(len(self.at), len(self.answers)) - 1]
        if body is None:
            raise httpx2.ReadError("", request=request)
        return httpx2.Response(status, json=body)

    def flow(self, **fields: Any) -> DeviceFlow:
        host = "https://login.example"
        given: dict[str, Any] = {"authorize": f"{host}/authorize", "token": f"{host}/token", **fields}
        oauth = OAuth(**{"device": f"{host}/device/code", "authentication": "none", **given})
        own = HubSpot("pat-na1-0123456789")
        connector = Connector(name="hub", oauth=oauth, own=own, client_id="app", wanted=("contacts",))
        options = {"wire": httpx2.MockTransport(self), "guards": Guards(clock=self.clock)}
        vault: Any = self.vault or SimpleNamespace(store=SimpleNamespace(clock=self.clock))
        return DeviceFlow(ConnectDesk(connector, clock=self.clock, **options), vault)


def said(error: str, status: int = 400, **more: Any) -> Answer:
    return status, {"error": error, **more}


PENDING = said("authorization_pending")
ANSWERS = st.lists(
    st.sampled_from([PENDING, PENDING, said("authorization_pending", 428), said("slow_down"), said("slow_down", 403),
                     said("slow_down", 200, interval=17), (0, None), (503, {}), (429, {})]),
    max_size=12,
)  # fmt: skip
ENDS = st.sampled_from(
    [(200, GRANT), said("access_denied"), said("authorization_declined"), said("expired_token"), said("invalid_grant"),
     said("invalid_client", 401), (200, {"token_type": "bearer"})]
)  # fmt: skip


def outcome(flow: DeviceFlow, code: DeviceCode, colour: str) -> Any:
    try:
        found = flow.finish_sync(code) if colour == "sync" else asyncio.run(flow.finish(code))
    except MoorlineError as error:
        return getattr(error, "reason", type(error).__name__)
    return found.granted.tokens.access.reveal()


@given(
    answers=ANSWERS, end=ENDS, interval=st.sampled_from([None, 0, 1, 5, 30]), lasts=st.sampled_from([1, 20, 100, 900])
)
def test_when_the_provider_is_asked(answers: list[Answer], end: Answer, interval: int | None, lasts: int):
    """Never before the interval is over, which only grows: by five seconds, or what is told, for slow_down; twofold
    where there was no answer. Never after the codes have ended; the first answer that decides is the outcome, in both
    colours.
    """
    codes: dict[str, Any] = {**CODES, "expires_in": lasts} | ({} if interval is None else {"interval": interval})
    ends = {
        "access_denied": "denied", "authorization_declined": "denied", "expired_token": "expired",
        "invalid_grant": "AuthenticationFailed", "invalid_client": "AuthenticationFailed",
    }  # fmt: skip
    seen = []
    for colour in ("sync", "async"):
        clock = ManualClock()
        provider = Provider([*answers, end], clock, codes)
        flow = provider.flow()
        begun = clock.wall()
        found = outcome(flow, flow.begin_sync(), colour)
        seen.append((found, provider.at))
        least, before = float(max(5 if interval is None else interval, 1)), begun
        for at, (status, body) in zip(provider.at, [*answers, end], strict=False):
            assert at >= before + least - 1e-6
            assert at < begun + lasts
            error = (body or {}).get("error")
            if error == "slow_down":
                least = max(least + 5, body["interval"] if body and "interval" in body else 0)
            elif body is None or status in (429, 503):
                least = min(least * 2, max(300.0, least))
            before = at
        decided = len(provider.at) == len(answers) + 1
        error = (end[1] or {}).get("error")
        wanted = ends.get(str(error), "BadAnswer" if "access_token" not in (end[1] or {}) else GRANT["access_token"])
        assert found == (wanted if decided else "expired")
    assert seen[0] == seen[1]


async def test_it_is_kept_for_its_owner(lite: Vault, clock: ManualClock):
    """What was granted is a connection like any other: whose it is, with which rights, and how it is refreshed."""
    answer = {**GRANT, "refresh_token": "refresh-canary", "expires_in": 60}
    provider = Provider([PENDING, (200, answer)], clock, vault=lite)
    flow = provider.flow(account="id", whoami="https://login.example/me")
    code = await flow.begin(("tickets",))
    assert (code.user_code, code.verification_uri, code.complete) == ("WDJB-MJHT", CODES["verification_uri"], "")
    kept = await flow.connect("u_1", code)
    assert (kept.owner, kept.service, kept.account) == ("u_1", "hub", "7")
    assert (kept.scopes, kept.expires_at) == (frozenset({"contacts"}), clock.wall() + 60)
    assert lite.tokens(kept).refresh is not None
    assert provider.forms[0] == {"scope": ["contacts tickets"], "client_id": ["app"]}
    assert provider.forms[1] == {
        "grant_type": ["urn:ietf:params:oauth:grant-type:device_code"],
        "device_code": ["device-canary-0123456789"],
        "client_id": ["app"],
    }
    assert "canary" not in repr(code)
    again = await asyncio.to_thread(flow.connect_sync, "u_1", await asyncio.to_thread(flow.begin_sync))
    assert again.id == kept.id


async def test_one_question_at_a_time(clock: ManualClock):
    """For who cannot wait, such as a job: what is not due is not asked, and the code says when it is."""
    provider = Provider([PENDING, said("slow_down"), (200, {**GRANT, "scope": None})], clock)
    flow = provider.flow()
    code: Received | DeviceCode = await flow.begin()
    assert isinstance(code, DeviceCode)
    assert await flow.poll(code) == flow.poll_sync(code) == code
    intervals = []
    while isinstance(code, DeviceCode):
        clock.advance(code.next_at - clock.wall())
        intervals.append(code.interval)
        code = await flow.poll(code)
    assert (intervals, len(provider.at)) == ([5, 5, 10], 3)
    assert code.granted.scopes == frozenset({"contacts"}), "as asked, where the answer does not say"


async def test_codes_that_are_over_are_not_asked_about(clock: ManualClock):
    """After their end nothing is sent."""
    provider = Provider([PENDING], clock)
    flow = provider.flow()
    code = await flow.begin()
    clock.advance(900)
    with pytest.raises(SignInFailed) as caught:
        await flow.poll(code)
    assert (caught.value.reason, provider.at) == ("expired", [])


@pytest.mark.parametrize(
    "change",
    [
        {"device_code": None}, {"device_code": ""}, {"user_code": "A\nB"}, {"user_code": "x" * 65}, {"user_code": 7},
        {"verification_uri": None}, {"verification_uri": "javascript:alert(1)"}, {"verification_uri": 7},
        {"verification_uri": "http://login.example/device"}, {"verification_uri": "https://login.example/\x1b[2J"},
        {"verification_uri_complete": "ftp://x"}, {"expires_in": None}, {"expires_in": 0}, {"expires_in": True},
        {"expires_in": float("nan")}, {"interval": -1}, {"interval": "5"}, {"interval": 1e9},
    ],
    ids=str,
)  # fmt: skip
def test_answers_that_are_of_no_use(change: dict[str, Any]):
    """What could not be shown to a user, or would have us ask for ever or at once, is refused and not repeated."""
    with pytest.raises(BadAnswer) as caught:
        device_code({**CODES, **change}, 0.0)
    assert "canary" not in str(caught.value)
    with pytest.raises(BadAnswer):
        device_code([], 0.0)


def test_names_that_differ():
    """Google says verification_url; a complete address may have a query; a day is the most."""
    told = {name: value for name, value in CODES.items() if name != "verification_uri"}
    told |= {"verification_url": "https://www.google.com/device", "expires_in": 10**8}
    found = device_code({**told, "verification_uri_complete": "https://login.example/device?user_code=WDJB"}, 100.0)
    assert (found.verification_uri, found.ends_at) == ("https://www.google.com/device", 100.0 + 86_400)
    assert found.complete == "https://login.example/device?user_code=WDJB"


def test_who_knows_no_device_flow(clock: ManualClock):
    """It is said before anything is sent."""
    provider = Provider([], clock)
    with pytest.raises(ConfigurationError, match="no device flow"):
        provider.flow(device="")


async def test_a_client_that_is_refused(clock: ManualClock):
    """Is the application's to mend, and no refusal of the user's."""
    flow = Provider([said("invalid_client", 401)], clock).flow()
    code = await flow.begin()
    with pytest.raises(AuthenticationFailed):
        await flow.finish(code)


# --- a certified provider


def oidc(oidc_server: OidcServer, vault: Vault) -> tuple[DeviceFlow, ConnectDesk]:
    """It, as a service at which accounts are connected; only our own clock is moved."""
    places = {name: f"{oidc_server.issuer}/{path}" for name, path in
              {"authorize": "auth", "token": "token", "device": "device/auth", "revoke": "token/revocation"}.items()}  # fmt: skip
    oauth = OAuth(**places, authentication="none", account="sub", whoami=f"{oidc_server.issuer}/me", rotates=True)  # type: ignore[arg-type]
    connector = Connector(
        name="oidc", oauth=oauth, own=HubSpot("k" * 20), client_id="terminal", wanted=("openid", "offline_access")
    )
    clock = vault.store.clock
    desk = ConnectDesk(connector, clock=clock, guards=Guards(clock=clock))
    return DeviceFlow(desk, vault), desk


@pytest.mark.oracles
async def test_a_certified_provider(oidc_server: OidcServer, lite: Vault, clock: ManualClock):
    """oidc-provider: not yet, consented, refreshed with what came of it; the codes are good for one use."""
    flow, desk = oidc(oidc_server, lite)
    visitor = Visitor(oidc_server)
    try:
        code = await flow.begin()
        clock.advance(5)
        waiting = await flow.poll(code)
        assert isinstance(waiting, DeviceCode)
        assert waiting.next_at == clock.wall() + 5
        await visitor.allows(code.complete, "ada")
        kept = await flow.connect("u_1", waiting)
        assert (kept.account, kept.scopes) == ("ada", frozenset({"openid", "offline_access"}))
        fresh = FreshToken(lite, kept.id, desk.refreshed)
        before = lite.tokens(kept).access
        await fresh.renew_async()
        assert fresh.current() != before
        clock.advance(60)
        with pytest.raises(AuthenticationFailed) as caught:
            await flow.poll(waiting)
        assert caught.value.code == "invalid_grant"
    finally:
        await visitor.web.aclose()
        await desk.aclose()


@pytest.mark.oracles
async def test_a_certified_provider_whose_user_says_no(oidc_server: OidcServer, lite: Vault):
    """It answers access_denied, which is the end."""
    flow, desk = oidc(oidc_server, lite)
    visitor = Visitor(oidc_server)
    try:
        code = await flow.begin()
        await visitor.allows(code.complete, "ada", abort=True)
        with pytest.raises(SignInFailed) as caught:
            await flow.finish(code)
        assert (caught.value.reason, caught.value.code) == ("denied", "access_denied")
    finally:
        await visitor.web.aclose()
        await desk.aclose()
