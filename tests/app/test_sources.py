"""Senders of an application's own: described by settings or in code, received, handled, and refused when wrong."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
import svix.webhooks

from moorline import Event, Moorline
from moorline.clock import ManualClock
from moorline.errors import ConfigurationError
from moorline.events import HMACSignature, Scheme, SharedSecret, StandardWebhooks
from moorline.settings import load

NOW = 1_790_000_000.0
PARTNER = """
[webhooks.sources.partner]
scheme = "hmac"
header = "X-Partner-Signature"
signed = "{method}:{timestamp}:{body}"
prefix = "v1="
separator = ","
algorithm = "sha512"
encoding = "base64"
timestamp = "header:X-Partner-Time"
clock = "milliseconds"
tolerance = 60
id = ["account", "data.id"]
type = ["data.kind", "kind"]
action = "data.verb"
each = "items.*"
answer = '{"ok":true}'
max_body = 2048
"""


def app_with(text: str) -> Moorline:
    """An application with that file of settings, on the tests' time."""
    Path("moorline.toml").write_text(text)
    return Moorline(settings=load(database_url="sqlite:///app.db"), clock=ManualClock(NOW))


async def post(app: Moorline, name: str, body: bytes, headers: dict[str, str]) -> httpx2.Response:
    """A delivery."""
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://shop.example") as client:
        return await client.post(f"/webhooks/{name}", content=body, headers=headers)


def partners(body: bytes, secret: bytes, moment: float = NOW) -> dict[str, str]:
    """What the partner of ``PARTNER`` sends, in a few lines of its own."""
    stamp = str(int(moment * 1000))
    digest = hmac.new(secret, b"POST:" + stamp.encode() + b":" + body, hashlib.sha512).digest()
    return {"X-Partner-Signature": "v0=x, v1=" + base64.b64encode(digest).decode(), "X-Partner-Time": stamp}


async def test_a_partner_is_received_by_settings_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every key has its effect: text, hash, time, limits, places, batches and the answer; forgeries are refused."""
    monkeypatch.setenv("PARTNER_WEBHOOK_SECRET", "current")
    monkeypatch.setenv("PARTNER_WEBHOOK_SECRET_PREVIOUS", "before")
    app = app_with(PARTNER)
    seen: list[Event] = []

    @app.on("partner", "paid.done")
    async def on_paid(event: Event) -> None:
        seen.append(event)

    items: list[Any] = [
        {"account": "a", "data": {"id": 1, "kind": "paid", "verb": "done"}},
        {"account": "a", "data": {"id": 2}, "kind": "other"},
    ]
    body = json.dumps({"items": items}).encode()
    async with app:
        for secret in (b"before", b"current"):
            answer = await post(app, "partner", body, partners(body, secret))
            assert (answer.status_code, answer.content, answer.headers["content-type"]) == (
                200, b'{"ok":true}', "application/json",
            )  # fmt: skip
        for wrong in (
            partners(body, b"else"),
            partners(body, b"current", NOW - 61),
            partners(body, b"current", NOW + 61),
            partners(body + b" ", b"current"),
            {},
        ):
            assert (await post(app, "partner", body, wrong)).status_code == 401
        large = body + b" " * 2048
        assert (await post(app, "partner", large, partners(large, b"current"))).status_code == 413
        stored = sorted(await app.events(service="partner"), key=lambda event: event.id)
        assert [(event.id, event.name, event.duplicates) for event in stored] == [
            ("a:1", "paid.done", 1),
            ("a:2", "other", 1),
        ]
        assert {event.secret for event in stored} == {"PARTNER_WEBHOOK_SECRET_PREVIOUS"}
        await app.worker().drain()
    assert [event.id for event in seen] == ["a:1"]


@pytest.mark.parametrize("prefix", ["webhook-", "svix-", "Svix-"])
async def test_a_sender_of_standard_webhooks_is_received(monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    """What svix's own library signs is taken under either name of the headers, once for each id."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    monkeypatch.setenv("RESELLER_KEY", secret)
    app = app_with(
        f'[webhooks.sources.re-seller]\nscheme = "standard_webhooks"\nprefix = "{prefix}"\nenv = "RESELLER_KEY"\n'
    )
    body = b'{"type":"order.paid"}'
    import datetime as dt

    signature = svix.webhooks.Webhook(secret).sign("msg_1", dt.datetime.fromtimestamp(NOW, dt.UTC), body.decode())
    headers = {prefix + "id": "msg_1", prefix + "timestamp": str(int(NOW)), prefix + "signature": signature}
    async with app:
        answers = [await post(app, "re-seller", body, headers) for _ in range(2)]
        assert [answer.json()["status"] for answer in answers] == ["stored", "duplicate"]
        (event,) = await app.events()
        assert (event.service, event.id, event.type) == ("re-seller", "msg_1", "order.paid")


async def test_a_sender_that_shows_a_secret_is_received(monkeypatch: pytest.MonkeyPatch) -> None:
    """In its header or at the end of the path; without an id it is known by its content."""
    monkeypatch.setenv("MONITOR_WEBHOOK_SECRET", "hush")
    app = app_with('[webhooks.sources.monitor]\nscheme = "shared_secret"\nheader = "X-Token"\nanswer = "OK"\n')
    async with app:
        shown = await post(app, "monitor", b'{"a":1}', {"X-Token": "hush"})
        assert (shown.status_code, shown.text) == (200, "OK")
        assert shown.headers["content-type"] == "text/plain; charset=utf-8"
        assert (await post(app, "monitor/hush", b'{"a":2}', {})).status_code == 200
        assert (await post(app, "monitor/else", b'{"a":3}', {})).status_code == 401
        assert {event.type for event in await app.events()} == {""}


async def test_a_source_in_code(app: Moorline, monkeypatch: pytest.MonkeyPatch) -> None:
    """``app.source`` names a scheme; handlers are registered by the name or by the scheme; its path is open."""
    scheme = HMACSignature(header="X-Sig", env="PARTNER_KEY", id="id", type="type")
    app.source("partner", scheme)
    for service in ("partner", scheme):
        app.on(service, "a", name=f"partner.{type(service).__name__}")(lambda event: event.id)
    assert [handler.name for handler in app.handlers.matching("partner", "a")] == [
        "partner.str",
        "partner.HMACSignature",
    ]
    assert app.webhook_paths() == ["/webhooks/github"]
    monkeypatch.setenv("PARTNER_KEY", "s")
    assert app.webhook_paths() == ["/webhooks/github", "/webhooks/partner"]
    body = b'{"id":"1","type":"a"}'
    async with app:
        assert (await post(app, "partner", body, scheme.sign(body, "s"))).status_code == 200
        assert (await post(app, "partner", body, scheme.sign(body, "t"))).status_code == 401


def test_a_source_of_one_application_is_none_of_another(app: Moorline) -> None:
    """Sources belong to their application; a name or scheme that is nobody's here is refused, naming those that are."""
    scheme = SharedSecret(env="X")
    Moorline("sqlite:///other.db").source("partner", scheme)
    with pytest.raises(ConfigurationError, match="partner"):
        app.on("partner")
    app.source("reseller", StandardWebhooks())
    with pytest.raises(ConfigurationError, match=r"resell.*sources of this application: reseller"):
        app.on("resell")
    with pytest.raises(ConfigurationError, match=r"app\.source"):
        app.on(scheme)


@pytest.mark.parametrize(
    "name", ["github", "stripe", "standard_webhooks", "", "Partner", "a/b", "a b", "-a", "ä", "x" * 65, None]
)
def test_a_name_that_is_taken_or_none_is_refused(app: Moorline, name: Any) -> None:
    """Services keep their names, and what stands in a path is plain."""
    with pytest.raises(ConfigurationError, match="name"):
        app.source(name, SharedSecret(env="X"))


def test_two_sources_of_one_name_are_refused(app: Moorline) -> None:
    """In code, and in code against settings."""
    app.source("partner", SharedSecret(env="X"))
    with pytest.raises(ConfigurationError, match="already"):
        app.source("partner", SharedSecret(env="X"))
    other = app_with('[webhooks.sources.partner]\nscheme = "shared_secret"\n')
    with pytest.raises(ConfigurationError, match="already"):
        other.source("partner", SharedSecret(env="X"))


def test_what_is_no_scheme_is_refused(app: Moorline) -> None:
    """Before anything comes."""
    scheme: Any = "hmac"
    with pytest.raises(ConfigurationError, match="scheme"):
        app.source("partner", scheme)
    assert isinstance(HMACSignature(header="X", env="X"), Scheme)


TIMED = 'scheme = "hmac"\nheader = "X"\nsigned = "{timestamp}.{body}"\ntimestamp = "'


@pytest.mark.parametrize(
    ("lines", "key"),
    [
        ('scheme = "rot13"', "partner.scheme"),
        ('header = "X"', "partner.scheme"),
        ('scheme = "hmac"', "partner.header"),
        ('scheme = "hmac"\nheader = "X Y"', "partner.header"),
        ('scheme = "hmac"\nheader = "X"\nsigned = "{boby}"', "partner.signed"),
        ('scheme = "hmac"\nheader = "X"\nsigned = "{timestamp}.{body}"', "partner.timestamp"),
        ('scheme = "hmac"\nheader = "X"\nsigned = "{timestamp}.{body}"\ntimestamp = "X-Time"', "partner.timestamp"),
        ('scheme = "hmac"\nheader = "X"\nsigned = "{id}.{body}"\nid = "data.id"', "partner.id"),
        ('scheme = "hmac"\nheader = "X"\nsigned = "{header:X-Time}.{body}"', "partner.signed"),
        (f'{TIMED}header:"', "partner.timestamp"),
        (f'{TIMED}header:X Time"', "partner.timestamp"),
        (f'{TIMED}entry:t="', "partner.separator"),
        (f'{TIMED}entry:"\nseparator = ","', "partner.timestamp"),
        ('scheme = "hmac"\nheader = "X"\nsigned = "{id}.{body}"\nid = "header:X-Id|header:Y-Id"', "partner.id"),
        ('scheme = "hmac"\nheader = "X"\nid = "header:X Id"', "partner.id"),
        ('scheme = "hmac"\nheader = "X"\nid = "data..id"', "partner.id"),
        ('scheme = "hmac"\nheader = "X"\neach = "items..item"', "partner.each"),
        ('scheme = "standard_webhooks"\nprefix = "my svix-"', "partner.prefix"),
        ('scheme = "hmac"\nheader = "X"\nalgorithm = "md5"', "partner.algorithm"),
        ('scheme = "hmac"\nheader = "X"\nencoding = "base58"', "partner.encoding"),
        ('scheme = "hmac"\nheader = "X"\nkey = "pem"', "partner.key"),
        ('scheme = "hmac"\nheader = "X"\nclock = "days"', "partner.clock"),
        ('scheme = "hmac"\nheader = "X"\ntolerance = -1', "partner.tolerance"),
        ('scheme = "hmac"\nheader = "X"\ntolerance = inf', "partner.tolerance"),
        ('scheme = "hmac"\nheader = "X"\nid = "haeder:X"', "partner.id"),
        ('scheme = "hmac"\nheader = "X"\nid = ["a", ""]', "partner.id"),
        ('scheme = "hmac"\nheader = "X"\ntype = "header:"', "partner.type"),
        ('scheme = "hmac"\nheader = "X"\naction = "form:"', "partner.action"),
        ('scheme = "hmac"\nheader = "X"\nmax_body = 1', "partner.max_body"),
        ('scheme = "hmac"\nheader = "X"\ncolour = 1', "partner.colour"),
        ('scheme = "shared_secret"\nsigned = "{body}"', "partner.signed"),
        ('scheme = "shared_secret"\ntolerance = 5', "partner.tolerance"),
        ('scheme = "standard_webhooks"\nheader = "X"', "partner.header"),
        ('scheme = "shared_secret"\nenv = "hush hush"', "partner.env"),
    ],
)
def test_a_wrong_key_is_named_and_a_secret_is_not(lines: str, key: str) -> None:
    """As it is written in the file and in the environment."""
    Path("moorline.toml").write_text(f"[webhooks.sources.partner]\n{lines}\n")
    with pytest.raises(ConfigurationError) as raised:
        load()
    assert f"webhooks.sources.{key} (moorline.toml)" in str(raised.value)
    assert f"MOORLINE_WEBHOOKS__SOURCES__{key.upper().replace('.', '__')} (environment)" in str(raised.value)
    assert "hush" not in str(raised.value)


def test_a_name_in_the_settings_that_is_a_services_is_refused() -> None:
    """So is one that no path could hold."""
    for name in ("github", "Partner", '"a/b"'):
        Path("moorline.toml").write_text(f'[webhooks.sources.{name}]\nscheme = "shared_secret"\n')
        with pytest.raises(ConfigurationError, match=f"webhooks.sources.{name.strip(chr(34))}"):
            load()


def test_the_environment_describes_a_source_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Key by key, over the file."""
    Path("moorline.toml").write_text('[webhooks.sources.partner]\nscheme = "hmac"\nheader = "X-A"\n')
    monkeypatch.setenv("MOORLINE_WEBHOOKS__SOURCES__PARTNER__HEADER", "X-B")
    monkeypatch.setenv("MOORLINE_WEBHOOKS__SOURCES__PARTNER__ID", '["a", "b"]')
    monkeypatch.setenv("MOORLINE_WEBHOOKS__SOURCES__PARTNER__TYPE", "data.kind")
    source = load().webhooks.sources["partner"]
    assert (source.header, source.id, source.type) == ("X-B", ("a", "b"), "data.kind")
