"""Where an application looks for credentials: settings, what is missing at start, its own table, a refused key."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.secrets.places import Told, texts
from typer.testing import CliRunner

from moorline import Moorline, Secret
from moorline.cli.root import cli
from moorline.errors import AuthenticationFailed, ConfigurationError, SecretUnavailable
from moorline.identity.ready import Google
from moorline.secrets import locker, source
from moorline.secrets.keyring import new_key
from moorline.secrets.locker import Secrets
from moorline.secrets.secret_settings import SecretSettings
from moorline.services import SES, GitHub, Stripe
from moorline.settings import Settings, load


@pytest.fixture(autouse=True)
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Secrets]:
    """What this process looks in, for one test."""
    made = Secrets()
    monkeypatch.setattr(locker, "_PROCESS", made)
    yield made
    made.close()


def looking(tmp_path: Path, **chosen: Any) -> Moorline:
    """An application whose ``[secrets]`` say that."""
    return Moorline(settings=Settings(database_url=f"sqlite:///{tmp_path}/app.db", secrets=SecretSettings(**chosen)))


def folder(tmp_path: Path, **values: str) -> str:
    place = tmp_path / "secrets"
    place.mkdir(exist_ok=True)
    for name, value in values.items():
        (place / name).write_text(value)
    return f"file:{place}"


async def test_what_is_missing_is_found_out_at_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys of the services, what their senders sign with, and what is named; each with where it was looked for."""
    monkeypatch.delenv("GITHUB_WEBHOOK_SECRET")
    url = folder(tmp_path, STRIPE_SECRET_KEY="sk_test_of_the_folder")
    app = looking(tmp_path, sources=["env:", url], names={"NAMED_KEY": f"{url}#elsewhere"}, required=["OTHER_KEY"])
    app.service(Stripe)
    app.service(GitHub)
    app.service(SES)  # AWS's own tools may have keys
    app.sign_in(Google(client_id="x"), keys=_ring())

    @app.on(GitHub, "push")
    def handle(event: Any) -> None: ...

    with pytest.raises(ConfigurationError) as caught:
        await app.open()
    assert not app.store.is_open
    place = f"the environment or file:{tmp_path}/secrets"
    assert str(caught.value).split("; ") == [
        f"NAMED_KEY (secrets.names) is not in file:{tmp_path}/secrets/elsewhere",
        f"OTHER_KEY (secrets.required) is not in {place}/OTHER_KEY",
        f"GITHUB_TOKEN (github) is not in {place}/GITHUB_TOKEN",
        f"GITHUB_WEBHOOK_SECRET (what github sends) is not in {place}/GITHUB_WEBHOOK_SECRET",
        f"GOOGLE_CLIENT_SECRET (signing in by google) is not in {place}/GOOGLE_CLIENT_SECRET",
    ]
    names = ("elsewhere", "OTHER_KEY", "GITHUB_TOKEN", "GITHUB_WEBHOOK_SECRET", "GOOGLE_CLIENT_SECRET")
    folder(tmp_path, **dict.fromkeys(names, "some-value-0123"))
    locker.secrets().close()
    async with app:
        assert app.services["stripe"].key().reveal() == "sk_test_of_the_folder"


def _ring() -> Any:
    from moorline.secrets.keyring import KeyRing

    return KeyRing([Secret(new_key())])


async def test_a_server_does_not_begin_without(tmp_path: Path) -> None:
    """Its lifespan fails, with the reason."""
    app = looking(tmp_path, required=["OTHER_KEY"])
    sent: list[Any] = []
    messages = iter([{"type": "lifespan.startup"}])

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "lifespan"}, receive, send)
    assert sent == [
        {"type": "lifespan.startup.failed", "message": "OTHER_KEY (secrets.required) is not in the environment"}
    ]


async def test_with_the_environment_alone_nothing_is_asked_at_start(tmp_path: Path) -> None:
    """As ever: what has no key says so when it is called. Beside the sandbox there are keys for all."""
    app = looking(tmp_path)
    app.service(Stripe)
    async with app:
        assert not locker.secrets().configured


async def test_the_sandbox_needs_no_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But what is named has to be there all the same."""
    monkeypatch.setenv("MOORLINE_SANDBOX_URL", "http://127.0.0.1:1")
    app = looking(tmp_path, sources=["env:", folder(tmp_path)])
    app.service(Stripe)
    async with app:
        pass


def test_making_an_application_asks_nobody(tmp_path: Path, held: Secrets) -> None:
    """Not even where all comes from elsewhere; that is for ``open``."""
    place = Told(STRIPE_SECRET_KEY="sk_test_told")
    held.attach(place)
    app = Moorline(settings=Settings(database_url=f"sqlite:///{tmp_path}/app.db"))
    held.configure(["told:"])
    stripe = app.service(Stripe)
    app.sign_in(Google(client_id="x"), keys=_ring())
    assert place.fetches == 0
    assert [one for one in threading.enumerate() if one.name == "moorline-secrets-told"] == []
    assert stripe.key().reveal() == "sk_test_told"


async def test_an_application_keeps_credentials_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are found by name, what is put is used at once, and the environment goes first where it says so."""
    monkeypatch.setenv("MOORLINE_ENCRYPTION_KEY", new_key())
    app = looking(tmp_path, sources=["env:", "store:"])
    async with app:
        stripe = app.service(Stripe)
        with pytest.raises(
            ConfigurationError, match="set STRIPE_SECRET_KEY in the environment or store:#STRIPE_SECRET"
        ):
            stripe.key()
        await app.own_secrets.put("STRIPE_SECRET_KEY", Secret("sk_test_first"))
        assert stripe.key().reveal() == "sk_test_first"
        await app.own_secrets.put("STRIPE_SECRET_KEY", Secret("sk_test_second"))
        assert texts(locker.secrets().load_all("STRIPE_SECRET_KEY")) == ["sk_test_second", "sk_test_first"]
        monkeypatch.setenv("STRIPE_SECRET_KEY", "sk_test_environment")
        assert stripe.key().reveal() == "sk_test_environment"


async def test_the_end_of_a_key_that_is_found_by_name_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alerts tell of it ahead."""
    monkeypatch.setenv("MOORLINE_ENCRYPTION_KEY", new_key())
    app = looking(tmp_path, sources=["env:", "store:"])
    async with app:
        stripe = app.service(Stripe)
        assert stripe.key_ends is None
        await app.own_secrets.put("STRIPE_SECRET_KEY", Secret("sk_test_first", not_after=2e9))
        assert stripe.key_ends == ("STRIPE_SECRET_KEY", 2e9)


@pytest.mark.parametrize("by_url", [True, False], ids=["by url", "by name"])
@pytest.mark.parametrize("colour", ["sync", "async"])
async def test_a_refused_key_is_asked_for_anew(held: Secrets, by_url: bool, colour: str) -> None:
    """After a 401 the source is asked, once for all calls, and the call goes on with what it gives."""
    place = Told(STRIPE_SECRET_KEY="sk_test_old")
    held.configure(["told:"])
    held.attach(place)
    seen: list[str] = []
    fetching: list[bool] = []
    fetch = place.fetch

    def fetched(unit: str) -> Any:
        fetching.append(asyncio._get_running_loop() is not None)
        return fetch(unit)

    place.fetch = fetched  # type: ignore[method-assign]

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request.headers["authorization"])
        good = seen[-1] == "Bearer sk_test_new"
        return httpx2.Response(200 if good else 401, json={"object": "balance", "available": [], "pending": []})

    key = source("told:#STRIPE_SECRET_KEY") if by_url else None
    stripe = Stripe(key, wire=httpx2.MockTransport(answer))
    assert stripe.key().reveal() == "sk_test_old"
    place.put(STRIPE_SECRET_KEY="sk_test_new")
    call = stripe.request("GET", "/v1/balance")
    if colour == "sync":
        await asyncio.to_thread(call.result)
    else:
        await call
    assert seen == ["Bearer sk_test_old", "Bearer sk_test_new"]
    assert fetching == [False, False]  # never on the loop
    place.put(STRIPE_SECRET_KEY="sk_test_newest")
    seen.clear()
    stripe = Stripe(key, wire=httpx2.MockTransport(lambda _: httpx2.Response(401, json={})))
    with pytest.raises(AuthenticationFailed):
        await stripe.request("GET", "/v1/balance")


def test_a_place_that_does_not_answer_is_named_by_the_call(held: Secrets) -> None:
    """Not as a missing key: it may be there."""
    place = Told()
    place.failure = SecretUnavailable("told: it is down")
    held.configure(["told:"])
    held.attach(place)
    with pytest.raises(SecretUnavailable, match="told: it is down"):
        Stripe().request("GET", "/v1/balance").result()


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ('sources = ["nowhere"]', r"secrets\.sources .*'nowhere' does not say where a secret is kept"),
        ('sources = ["azure:x"]', r"secrets\.sources .*no source of secrets is called 'azure'; known: env:, dotenv:"),
        ('sources = ["vault:a/b#c"]', r"secrets\.sources .*a source of all secrets has no '#'"),
        ("sources = []", r"secrets\.sources .*at least 1"),
        ('names = {"A B" = "env:X"}', r"secrets\.names .*'A B' is not the name of an environment variable"),
        ('names = {A = "gcp:X"}', r"secrets\.names .*A: gcp:X: no source"),
        ('required = ["a-b"]', r"secrets\.required .*'a-b' is not the name"),
        ("keep = 0", r"secrets\.keep .*greater than 0"),
        ("refresh = 0.5", r"secrets\.refresh .*greater than or equal to 1"),
        ("wrong = 1", r"secrets\.wrong .*is no setting of moorline"),
    ],
)
def test_wrong_settings_are_named(toml: str, says: str) -> None:
    """By the key in the file and in the environment."""
    Path("moorline.toml").write_text(f"[secrets]\n{toml}\n")
    with pytest.raises(ConfigurationError, match=says):
        load()


def test_the_environment_says_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists are separated by commas; names are in capitals."""
    monkeypatch.setenv("MOORLINE_SECRETS__SOURCES", "env:, file:/run/secrets")
    monkeypatch.setenv("MOORLINE_SECRETS__NAMES__STRIPE_SECRET_KEY", "vault:secret/pay#stripe_key")
    chosen = load().secrets
    assert chosen.sources == ("env:", "file:/run/secrets")
    assert chosen.names == {"STRIPE_SECRET_KEY": "vault:secret/pay#stripe_key"}
    assert chosen.uses("vault")
    assert not chosen.uses("store")


def test_services_are_configured_by_any_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``moorline services`` looks where the settings say."""
    url = folder(tmp_path, STRIPE_SECRET_KEY="sk_test_canary")
    Path("moorline.toml").write_text(f'[secrets]\nsources = ["env:", "{url}"]\n')
    done = CliRunner().invoke(cli, ["services", "stripe", "sendgrid", "--json"])
    assert {one["name"]: one["configured"] for one in json.loads(done.stdout)} == {"stripe": True, "sendgrid": False}
    monkeypatch.setenv("STRIPE_WEBHOOK_SECRET_PREVIOUS", "x")
    assert CliRunner().invoke(cli, ["events", "alerts", "--json"]).exit_code in (0, 1)


def test_doctor_says_where_each_key_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And shows nothing of it."""
    url = folder(tmp_path, NAMED_KEY="canary-value-0123", STRIPE_SECRET_KEY="sk_test_canary")
    Path("moorline.toml").write_text(
        f'database_url = "sqlite:///{tmp_path}/app.db"\n[services.stripe]\nbase_url = "http://127.0.0.1:1"\n'
        f'[secrets]\nsources = ["env:", "{url}"]\nrequired = ["MISSING_KEY"]\n[secrets.names]\nNAMED_KEY = "{url}"\n'
    )
    done = CliRunner().invoke(cli, ["doctor", "stripe", "--json", "--timeout", "1"], env={"COLUMNS": "300"})
    rows = {one["name"]: one for one in json.loads(done.stdout)}
    assert done.exit_code == 1
    assert rows["NAMED_KEY"]["key_from"] == f"file:{tmp_path}/secrets"
    assert rows["NAMED_KEY"]["says"] == "it is there (current)"
    assert (rows["MISSING_KEY"]["ok"], rows["MISSING_KEY"]["says"]) == (False, "it is not there")
    assert rows["MISSING_KEY"]["at"] == f"the environment or file:{tmp_path}/secrets/MISSING_KEY"
    assert rows["stripe"]["key_from"] == f"file:{tmp_path}/secrets/STRIPE_SECRET_KEY"
    assert "canary" not in done.stdout
    shown = CliRunner().invoke(cli, ["doctor", "stripe", "--timeout", "1"], env={"COLUMNS": "300"}).stdout
    assert "key from" in shown
    assert "canary" not in shown
