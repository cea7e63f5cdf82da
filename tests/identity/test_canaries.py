"""Canaries in every secret of a sign-in, and a search for them wherever anybody could look afterwards."""

from __future__ import annotations

import base64
import json
import logging
import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qsl, quote, quote_plus

import httpx2
import pytest
import sqlalchemy as sa
from tests.databases import migrated_sqlite
from tests.identity.shop import ACCESS, CLIENT, ISSUER, SECRET, SHOP, Browser, Idp, shop_of

from moorline import telemetry
from moorline.calls import story
from moorline.clock import ManualClock
from moorline.errors import MoorlineError
from moorline.identity import Identity, OpenID
from moorline.identity.routes import SignInRoutes

REFRESH = "refresh-token-canary-0001"


class Canaries:
    """What must be found nowhere: as it is, in base64 whatever stands before it, and as URLs and JSON write it."""

    def __init__(self) -> None:
        self.values = {"client secret": SECRET, "access token": ACCESS, "refresh token": REFRESH}

    def plant(self, name: str, value: str) -> None:
        assert len(value) >= 16, name
        self.values[name] = value

    def found(self, text: str) -> list[str]:
        """The names of those that are in *text*."""
        return [name for name, value in self.values.items() if any(form in text for form in _forms(value))]


def _forms(value: str) -> Iterator[str]:
    yield from {value, quote(value, safe=""), quote_plus(value), json.dumps(value)[1:-1], repr(value)[1:-1]}
    raw = value.encode()
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for before in range(3):  # the letters in the middle depend on where in the whole it stands
            yield encode(b"\0" * before + raw)[4:-4].decode().rstrip("=")
    yield raw.hex()


class Seen(NamedTuple):
    """A sign-in, and whatever could be seen of it: by the place where it was."""

    places: dict[str, str]
    status: int | None


def test_the_search_finds_what_is_there() -> None:
    """In each of the forms, and in nothing else."""
    canaries = Canaries()
    canaries.plant("one", "a canary/with + and / in it")
    for text in (
        "x a canary/with + and / in it y",
        "?code=a%20canary%2Fwith%20%2B%20and%20%2F%20in%20it&",
        "a+canary%2Fwith+%2B+and+%2F+in+it",
        *(base64.b64encode(b"x" * before + b"a canary/with + and / in it, and more").decode() for before in range(3)),
    ):
        assert canaries.found(text) == ["one"], text
    assert canaries.found("a canary with and in it") == []


class Failing(NamedTuple):
    """A way in which a sign-in ends, by what is bent, and the status that the browser sees (None: it breaks)."""

    status: int | None
    bend: Callable[[Idp], None] = lambda _: None
    answer: dict[str, str | None] = {}  # noqa: RUF012 (never changed)
    user: Callable[[Identity], str] = lambda _: "u_1"


def _fails(give: Callable[[httpx2.Request], httpx2.Response]) -> Callable[[Idp], None]:
    """A provider whose token endpoint answers so."""

    def bend(idp: Idp) -> None:
        def answer(request: httpx2.Request) -> httpx2.Response:
            idp.forms.append(dict(parse_qsl(request.read().decode())))
            return give(request)

        idp.answers["/token"] = answer

    return bend


def _echo(request: httpx2.Request, status: int = 400) -> httpx2.Response:
    """A provider that repeats all that it was sent, and says what it should not."""
    told = f"{request.read().decode()} {dict(request.headers)} {ACCESS} {REFRESH}"
    return httpx2.Response(status, json={"error": "invalid_grant", "error_description": told, "error_uri": told})


def _gone(request: httpx2.Request) -> httpx2.Response:
    raise httpx2.ReadTimeout("", request=request)


def _breaks(_: Identity) -> str:
    raise RuntimeError("the application's own fault")


def _set(**values: Any) -> Callable[[Idp], None]:
    return lambda idp: vars(idp).update(values)


WAYS = {
    "it succeeds": Failing(303),
    "with userinfo": Failing(303, _set(claims={"email": None}, user={"sub": "u-1", "email": "ada@example.com"})),
    "the userinfo of another": Failing(400, _set(claims={"email": None}, user={"sub": "u-2"})),
    "the user says no": Failing(403, answer={"code": None, "error": "access_denied"}),
    "a forged state": Failing(400, answer={"state": "forged-state-canary"}),
    "another issuer": Failing(400, answer={"iss": "https://evil.example"}),
    "tokens in the address": Failing(400, answer={"id_token": "id-token-in-the-address-canary"}),
    "the provider repeats": Failing(400, _fails(_echo)),
    "the provider fails": Failing(503, _fails(lambda _: httpx2.Response(500, text=f"{ACCESS} {REFRESH}"))),
    "the provider fails, and repeats": Failing(503, _fails(lambda request: _echo(request, 503))),
    "the provider is gone": Failing(503, _fails(_gone)),
    "no JSON": Failing(503, _fails(lambda _: httpx2.Response(200, text=ACCESS))),
    "no ID token": Failing(503, _set(token_answer=lambda answer: {**answer, "id_token": None})),
    "another kind of token": Failing(503, _set(token_answer=lambda answer: {**answer, "token_type": "mac"})),
    "an ID token for another": Failing(400, _set(claims={"aud": "another"})),
    "an ID token without a nonce": Failing(400, _set(claims={"nonce": None})),
    "an ID token of another access token": Failing(400, _set(claims={"at_hash": "x"})),
    "an ID token that is none": Failing(400, _set(token_answer=lambda answer: {**answer, "id_token": ACCESS})),
    "an ID token that nobody signed": Failing(400, _set(signing={"alg": "none"})),
    "no subject": Failing(400, _set(claims={"sub": None})),
    "the application refuses": Failing(403, user=lambda _: ""),
    "the application breaks": Failing(None, user=_breaks),
    "a provider of the application's own breaks": Failing(None, _set(claims={"name": "breaks"})),
}


async def _signs_in(
    way: Failing, url: str, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, canaries: Canaries
) -> Seen:
    """A whole life: signing in, being signed in, signing in again that way, and signing out."""
    idp = Idp()
    pages, steps, raised, left = list[str](), list[str](), list[BaseException](), list[BaseException]()
    stop = story.watch(lambda step: steps.append(f"{step!r} {json.dumps(step.to_dict(), default=repr)}"))
    _catch(monkeypatch, raised)
    status: int | None = None
    provider = _Breaking("idp", issuer=ISSUER, client_id=CLIENT, client_secret=SECRET)
    async with shop_of(url, clock, idp, provider) as app:
        browser = Browser(app.signed_in(app))
        for bent in (False, True):
            if bent:
                way.bend(idp)
                app.on_sign_in(way.user)
            idp.token_answer = partial(_noted, canaries, idp.token_answer)
            back = idp.authorize(await browser.begin(), **(way.answer if bent else {}))
            _plant_asked(canaries, idp, browser)
            try:
                answer = await browser.get(back)
                status = answer.status_code
                pages.append(f"{answer.text} {[one for one in answer.headers.items() if one[0] != 'set-cookie']}")
            except RuntimeError as error:
                status = None
                left.append(error)
            _plant_asked(canaries, idp, browser)
            clock.advance(61)
            pages.append((await browser.get("/nothing")).text)  # with the session, which is renewed
            _plant_asked(canaries, idp, browser)
        pages.append((await browser.post("/auth/logout")).text)
        assert app._signing is not None
        shown = [repr(app), repr(app._signing), *(repr(vars(one)) for one in app._signing.desks.values())]
    stop()
    places = {
        "the pages": pages,
        "the steps of calls": steps,
        "reprs": shown,
        "the errors": [_told(one) for one in raised],
        "the variables on the way of an error": [_variables(one) for one in left],
    }
    return Seen({name: "\n".join(texts) for name, texts in places.items()}, status)


class _Breaking(OpenID):
    """Written by whoever uses it, with a fault."""

    def let_in(self, claims: Mapping[str, Any]) -> None:
        if claims.get("name") == "breaks":
            raise RuntimeError("a fault of the provider's class")


def _noted(canaries: Canaries, bend: Callable[[Any], Any], answer: dict[str, Any]) -> Any:
    """The provider's answer with a refresh token, which nobody asked for; then bent."""
    canaries.plant(f"ID token {len(canaries.values)}", answer["id_token"])
    return bend({**answer, "refresh_token": REFRESH})


def _plant_asked(canaries: Canaries, idp: Idp, browser: Browser) -> None:
    for code, asked in idp.codes.items():
        canaries.plant(f"code {code[-4:]}", code)
        canaries.plant(f"state of {code[-4:]}", asked["state"])
        canaries.plant(f"nonce of {code[-4:]}", asked["nonce"])
    for number, sent in enumerate(idp.forms):
        canaries.plant(f"verifier {number}", sent["code_verifier"])
    for name, value in browser.cookies.items():
        canaries.plant(f"cookie {name} {value[-4:]}", value)


def _catch(monkeypatch: pytest.MonkeyPatch, raised: list[BaseException]) -> None:
    """Keep whatever ends a request to sign in; the application makes a page of most of it."""
    answered: Any = SignInRoutes._answered

    async def catching(self: SignInRoutes, scope: Any, below: str) -> Any:
        try:
            return await answered(self, scope, below)
        except Exception as error:
            raised.append(error)
            raise

    monkeypatch.setattr(SignInRoutes, "_answered", catching)


def _rows(url: str) -> str:
    """All that is in a database."""
    engine = sa.create_engine(url)
    with engine.connect() as database:
        tables = sa.inspect(database).get_table_names()
        rows = [row for name in tables for row in database.execute(sa.text(f"SELECT * FROM {name}"))]
    engine.dispose()
    assert any(str(row[0]).startswith("session ") for row in rows)
    return "\n".join(str([one.decode("latin-1") if isinstance(one, bytes) else one for one in row]) for row in rows)


def _files(folder: Path) -> str:
    """All that lies there: the database with what it has not cleared yet."""
    return b"".join(one.read_bytes() for one in sorted(folder.iterdir()) if one.is_file()).decode("latin-1")


def _told(error: BaseException) -> str:
    """What an error says of itself, and of those that caused it."""
    told = ["".join(traceback.format_exception(error))]
    seen: BaseException | None = error
    while seen is not None:
        told += [repr(seen), repr(vars(seen)) if isinstance(seen, MoorlineError) else ""]
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return "\n".join(told)


def _variables(error: BaseException) -> str:
    """All variables of ours on the way of an error that leaves the application, as a reporter of errors sends them; but
    for those with what the browser has sent, which are the server's own.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    ours = [frame for frame in frames if "/moorline/" in frame.f_code.co_filename]
    assert len(ours) > 3
    return "\n".join(
        f"{frame.f_code.co_qualname}: {name} = {value!r}"
        for frame in ours
        for name, value in frame.f_locals.items()
        if name not in ("scope", "message")
    )


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MOORLINE_WEBHOOKS__PUBLIC_URL", SHOP)
    monkeypatch.setenv("MOORLINE_TAP", "false")
    monkeypatch.chdir(tmp_path)


BY_CONSOLE = ("it succeeds", "the provider repeats", "the application breaks")


@pytest.mark.parametrize(
    ("name", "form"), [*((name, "json") for name in WAYS), *((name, "console") for name in BY_CONSOLE)]
)
async def test_no_canary_is_found(
    name: str,
    form: Literal["json", "console"],
    tmp_path: Path,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Neither in the database, nor in the logs of any level, pages, errors, their variables, or what `moorline calls`
    shows, however the sign-in ends.
    """
    telemetry.configure("DEBUG", form)
    caplog.set_level(logging.DEBUG)
    way, canaries, url = WAYS[name], Canaries(), migrated_sqlite(tmp_path / "shop.db")
    seen = await _signs_in(way, url, clock, monkeypatch, canaries)
    assert seen.status == way.status
    written = capsys.readouterr()
    lines = [f"{one.getMessage()} {one.args} {one.exc_text}" for one in caplog.records if one.name != "httpx2"]
    places = {"standard error": written.err + written.out, "the records": "\n".join(lines), **seen.places}
    places |= {"the rows": _rows(url), "the files": _files(tmp_path)}
    assert "signed_in" in places["standard error"]
    assert len(canaries.values) > 10
    assert {place: found for place, text in places.items() if (found := canaries.found(text))} == {}


async def test_no_canary_is_in_postgres(
    migrated_postgres_url: str, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of PostgreSQL hold none either."""
    canaries = Canaries()
    await _signs_in(WAYS["it succeeds"], migrated_postgres_url, clock, monkeypatch, canaries)
    assert canaries.found(_rows(migrated_postgres_url)) == []
