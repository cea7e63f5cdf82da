"""Attacks on signing in, each of which signs nobody in. After every one the log is searched for what must not be there."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, quote, urljoin, urlsplit

import httpx2
import pytest
from authlib.oidc.core.util import create_half_hash
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.identity import tokens
from tests.identity.shop import ACCESS, CLIENT, ISSUER, RING, SECRET, SHOP, Browser, Idp, half, idp_provider, shop_of

from moorline import Moorline
from moorline.clock import ManualClock
from moorline.errors import BadAnswer, ConfigurationError, SignInFailed
from moorline.identity import GitHub, Google, Microsoft, flow
from moorline.identity.flow import Pending
from moorline.identity.own_paths import own_path
from moorline.identity.provider import Places, Provider
from moorline.identity.sessions import Session, Sessions, cookies
from moorline.secrets.secret import Secret

pytestmark = pytest.mark.usefixtures("shop_environment")

NOW = tokens.NOW
SESSION = "__Host-moorline"


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture, idp: Idp) -> Iterator[None]:
    """Whatever happens in a test: no code, token, secret, verifier or state is in any line of any logger."""
    caplog.set_level("DEBUG")
    yield
    lines = caplog.get_records("setup") + caplog.get_records("call")
    said = "\n".join(
        f"{one.getMessage()} {one.exc_text or ''} {one.args}" for one in lines if one.name != "httpx2"
    )  # httpx2's are the browser's own: the application's requests do not pass its client
    assert said or not idp.asked
    planted = ["canary", ACCESS, SECRET, quote(SECRET), tokens.SECRET.reveal()]
    planted += [form["code_verifier"] for form in idp.forms]
    planted += [form["code"] for form in idp.forms]
    assert [one for one in planted if one in said] == []
    assert re.search(r"eyJ[A-Za-z0-9_-]{10}", said) is None


def nobody(browser: Browser) -> bool:
    return SESSION not in browser.cookies


def changed(url: str, **values: str | None) -> str:
    """*url* with other parameters; None takes one away."""
    parts = urlsplit(url)
    now = {name: one[0] for name, one in parse_qs(parts.query).items()} | values
    query = httpx2.QueryParams({name: one for name, one in now.items() if one is not None})
    return parts._replace(query=str(query)).geturl()


# --- the state


@pytest.mark.parametrize("state", [None, "", "forged", "a" * 43, "x" * 5000, "\ud7ff"])
async def test_a_forged_state(browser: Browser, idp: Idp, state: str | None) -> None:
    """A state that was not sent, or none, is refused, and the code is not used."""
    url = idp.authorize(await browser.begin())
    assert (await browser.get(changed(url, state=state))).status_code == 400
    assert nobody(browser)
    assert idp.forms == []


async def test_an_answer_counts_once(shop: Moorline, browser: Browser, idp: Idp) -> None:
    """The same answer a second time is refused, even by a browser that has kept the cookie; the code is not sent again."""
    url = idp.authorize(await browser.begin())
    kept = dict(browser.cookies)
    assert (await browser.get(url)).status_code == 303
    again = Browser(shop)
    for name, value in kept.items():
        again.client.cookies.set(name, value)
    assert (await again.get(url)).status_code == 400
    assert nobody(again)
    assert len(idp.forms) == 1


async def test_an_answer_counts_once_at_the_same_time(shop: Moorline, browser: Browser, idp: Idp) -> None:
    """Of ten that come at once, one is let in."""
    url = idp.authorize(await browser.begin())
    kept = dict(browser.cookies)
    others = [Browser(shop) for _ in range(10)]
    for other in others:
        for name, value in kept.items():
            other.client.cookies.set(name, value)
    answers = await asyncio.gather(*(other.get(url) for other in others))
    assert sorted(one.status_code for one in answers) == [303] + [400] * 9
    assert len(idp.forms) == 1


async def test_an_answer_in_another_browser(shop: Moorline, browser: Browser, idp: Idp) -> None:
    """An attacker's own answer, given to a victim as a link, does not sign the victim in as the attacker."""
    url = idp.authorize(await browser.begin())
    victim = Browser(shop)
    assert (await victim.get(url)).status_code == 400
    assert nobody(victim)
    await victim.begin()  # nor with a sign-in of the victim's own under way
    assert (await victim.get(url)).status_code == 400
    assert nobody(victim)
    assert idp.forms == []


async def test_the_cookie_of_another_sign_in(browser: Browser, idp: Idp) -> None:
    """The cookie of one sign-in under the name of another's does not count."""
    first, second = await browser.begin(), await browser.begin()
    (one, value), (other, _) = browser.cookies.items()
    browser.client.cookies.clear()
    browser.client.cookies.set(other, value)
    for url in (first, second):
        assert (await browser.get(idp.authorize(url))).status_code == 400
    assert one != other
    assert nobody(browser)


async def test_too_late(browser: Browser, idp: Idp, clock: ManualClock) -> None:
    """After ten minutes the answer is refused."""
    url = idp.authorize(await browser.begin())
    clock.advance(flow.LASTS)
    answer = await browser.get(url)
    assert answer.status_code == 400
    assert "too long" in answer.text
    assert nobody(browser)


# --- the code


async def test_a_replayed_code(browser: Browser, idp: Idp) -> None:
    """A code that was used already is put into an answer of another sign-in: the provider refuses it, and so do we."""
    used = idp.authorize(await browser.begin())
    await browser.get(used)
    await browser.post("/auth/logout")
    code = parse_qs(urlsplit(used).query)["code"][0]
    assert (await browser.get(changed(idp.authorize(await browser.begin()), code=code))).status_code == 400
    assert nobody(browser)


async def test_an_injected_code(shop: Moorline, browser: Browser, idp: Idp) -> None:
    """A victim's code that was stolen before use does not fit the verifier of the attacker's own sign-in."""
    stolen = parse_qs(urlsplit(idp.authorize(await Browser(shop).begin())).query)["code"][0]
    assert (await browser.get(changed(idp.authorize(await browser.begin()), code=stolen))).status_code == 400
    assert nobody(browser)


@pytest.mark.parametrize("code", [None, "", "x" * 5000, "a\nb"])
async def test_no_code(browser: Browser, idp: Idp, code: str | None) -> None:
    """An answer without a code, or with what cannot be one, is refused before anything is sent."""
    assert (await browser.sign_in(idp, code=code)).status_code == 400
    assert idp.forms == []


async def test_pkce_cannot_be_taken_away(browser: Browser, idp: Idp) -> None:
    """The verifier is sent whatever happened on the way: a provider that was shown no challenge has to refuse it."""
    url = await browser.begin()
    answer = idp.authorize(url)
    code = parse_qs(urlsplit(answer).query)["code"][0]
    idp.codes[code]["code_challenge"] = ""  # taken out of the address before the user came to the provider
    assert (await browser.get(answer)).status_code == 400
    assert len(idp.forms[0]["code_verifier"]) == 43
    assert nobody(browser)


async def test_a_provider_without_s256(browser: Browser, idp: Idp) -> None:
    """One that says it knows only ``plain`` is not used."""
    idp.document["code_challenge_methods_supported"] = ["plain"]
    assert (await browser.get("/auth/idp/login")).status_code == 503


# --- the issuer


@pytest.mark.parametrize("iss", [None, "", "https://evil.example", f"{ISSUER}/", ISSUER.upper(), f"{ISSUER} "])
async def test_a_mixed_up_issuer(browser: Browser, idp: Idp, iss: str | None) -> None:
    """Another issuer answers, or none where the provider promises to name itself: the code goes nowhere."""
    assert (await browser.sign_in(idp, iss=iss)).status_code == 400
    assert idp.forms == []
    assert nobody(browser)


async def test_a_mixed_up_issuer_of_an_error(browser: Browser, idp: Idp, caplog: pytest.LogCaptureFixture) -> None:
    """An error of another issuer is not believed either."""
    await browser.sign_in(idp, code=None, error="server_error", iss="https://evil.example")
    assert "reason='issuer'" in caplog.text


async def test_the_answer_of_another_provider(database: str, clock: ManualClock, idp: Idp) -> None:
    """An answer to a sign-in with one provider that comes to the address of another is refused."""
    at = "https://evil.example"
    evil = Provider(
        name="evil",
        issuer=at,
        authorize=f"{at}/a",
        token=f"{at}/t",
        keys=f"{at}/k",
        client_id="x",
        client_secret="yyyy y",
    )
    async with shop_of(database, clock, idp, idp_provider(), evil) as app:
        browser = Browser(app)
        for iss in (ISSUER, None, at):
            url = idp.authorize(await browser.begin(), iss=iss)
            assert (await browser.get(url.replace("/auth/idp/", "/auth/evil/"))).status_code == 400
        assert idp.asked == ["/.well-known/openid-configuration"]
        assert nobody(browser)


@pytest.mark.parametrize(
    "document",
    [
        {"issuer": "https://evil.example"},
        {"issuer": f"{ISSUER}/"},
        {"issuer": None},
        {"token_endpoint": "http://idp.example/token"},
        {"token_endpoint": None},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"authorization_endpoint": "https://u:p@idp.example/a"},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": 5},
        {"userinfo_endpoint": "http://idp.example/userinfo"},
    ],
)
async def test_a_bent_discovery_document(browser: Browser, idp: Idp, document: dict[str, Any]) -> None:
    """One of another issuer, or with places that are not https, is not used."""
    idp.document |= document
    assert (await browser.get("/auth/idp/login")).status_code == 503
    assert nobody(browser)


@pytest.mark.parametrize("document", [None, [], "x", 5, {}])
def test_what_is_no_document(document: Any) -> None:
    """Anything but an object is refused."""
    with pytest.raises(BadAnswer):
        idp_provider().discovered(document)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=20)
    | st.sampled_from([ISSUER, "S256", "https://x.example?p=1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*Idp().document, "token_endpoint_auth_methods_supported"]), JSON))
@settings(max_examples=300, deadline=None)
def test_random_documents(changes: dict[str, Any]) -> None:
    """Whatever stands in a document, it is refused with a typed error, or its places are https."""
    try:
        places = idp_provider().discovered({**Idp().document, **changes})
    except BadAnswer:
        return
    assert {urlsplit(one).scheme for one in (places.authorize, places.token, places.keys)} == {"https"}


@given(st.dictionaries(st.sampled_from(["sub", "email", "email_verified", "name", "picture", "hd", "tid", "oid", "id", "login",
                                        "xms_edov", "verified_primary_email"]), JSON), JSON)  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_random_claims(said: dict[str, Any], emails: Any) -> None:
    """Whatever an identity provider says of a user gives an Identity of short texts, or a typed error."""
    ready = (Google(client_id="x"), Microsoft(tenant="common", tenants="any"), GitHub(), idp_provider())
    for provider in ready:
        claims = provider.with_emails(said, emails) if isinstance(provider, GitHub) else said
        try:
            found = provider.identity(claims)
        except SignInFailed:
            continue
        for text in (found.subject, found.email, found.name, found.picture):
            assert text is None or (text.isprintable() and 0 < len(text) <= 2000)
        assert found.email is not None or not found.email_proved


# --- the ID token

HS = {"alg": "HS256"}
PEM_LIKE = json.dumps(tokens.jwk("RSA")).encode()
BENT: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "alg=none": ({}, {"alg": "none"}),
    "alg=nOnE": ({}, {"header": {"alg": "nOnE"}}),
    "no algorithm": ({}, {"header": {"alg": None}}),
    "HS512 with the public key": ({}, {"alg": "HS512", "key": PEM_LIKE}),
    "HS256 with the client secret": ({}, {**HS, "key": SECRET.encode()}),
    "HS256 with the public key": ({}, {**HS, "key": PEM_LIKE}),
    "a key of another's": ({}, {"key": tokens.private("RSA", "evil")}),
    "a key that it brings itself": (
        {},
        {"key": tokens.private("RSA", "evil"), "header": {"jwk": tokens.jwk("RSA", "evil")}},
    ),
    "a key that it points to": (
        {},
        {"key": tokens.private("RSA", "evil"), "header": {"jku": "https://evil.example/keys"}},
    ),
    "certificates that it points to": (
        {},
        {"key": tokens.private("RSA", "evil"), "header": {"x5u": "https://evil.example/certificates"}},
    ),
    "certificates that it brings itself": (
        {},
        {"key": tokens.private("RSA", "evil"), "header": {"x5c": ["MIIB"]}},
    ),
    "an id that is a path": ({}, {"name": "evil", "header": {"kid": "../../../dev/null"}}),
    "an id of no key": ({}, {"name": "evil"}),
    "a critical extension": ({}, {"header": {"crit": ["b64"], "b64": False}}),
    "another issuer": ({"iss": "https://evil.example"}, {}),
    "an issuer with a slash": ({"iss": f"{ISSUER}/"}, {}),
    "no issuer": ({"iss": None}, {}),
    "another audience": ({"aud": "another"}, {}),
    "no audience": ({"aud": None}, {}),
    "no audience in a list": ({"aud": []}, {}),
    "several audiences, no party": ({"aud": [CLIENT, "another"]}, {}),
    "another party": ({"azp": "another"}, {}),
    "another party of several": ({"aud": [CLIENT, "another"], "azp": "another"}, {}),
    "a party that is no text": ({"azp": [CLIENT]}, {}),
    "expired": ({"exp": NOW - 31}, {}),
    "no end": ({"exp": None}, {}),
    "an end that is no number": ({"exp": "never"}, {}),
    "made in the future": ({"iat": NOW + 31}, {}),
    "not good yet": ({"nbf": NOW + 31}, {}),
    "no nonce": ({"nonce": None}, {}),
    "an empty nonce": ({"nonce": ""}, {}),
    "another nonce": ({"nonce": "a" * 43}, {}),
    "a nonce that is no text": ({"nonce": ["a"]}, {}),
    "the hash of another token": ({"at_hash": half("another")}, {}),
    "an empty hash": ({"at_hash": ""}, {}),
    "a hash that is no text": ({"at_hash": 5}, {}),
    "no subject": ({"sub": None}, {}),
    "an empty subject": ({"sub": ""}, {}),
    "a subject that is no text": ({"sub": 5}, {}),
    "a subject with a line end": ({"sub": "u-1\nx"}, {}),
    "a long subject": ({"sub": "x" * 256}, {}),
    "a token of another kind": ({}, {"header": {"typ": "logout+jwt"}}),
    "an access token": ({}, {"header": {"typ": "at+jwt"}}),
}


@pytest.mark.parametrize("case", BENT)
async def test_a_bent_id_token(browser: Browser, idp: Idp, case: str) -> None:
    """Each of them is refused."""
    idp.claims, idp.signing = BENT[case]
    assert (await browser.sign_in(idp)).status_code == 400
    assert nobody(browser)


async def test_the_straight_one_passes(browser: Browser, idp: Idp) -> None:
    """What the bent ones are bent from signs in, with its own party and an audience in a list as well."""
    idp.claims = {"aud": [CLIENT], "azp": CLIENT}
    assert (await browser.sign_in(idp)).status_code == 303


@pytest.mark.parametrize(
    "bend",
    [
        lambda answer: {**answer, "id_token": None},
        lambda answer: {**answer, "id_token": ""},
        lambda answer: {**answer, "id_token": "a.b.c"},
        lambda answer: {**answer, "id_token": "a.b.c.d.e"},
        lambda answer: {**answer, "access_token": "another-access-token-canary"},
        lambda answer: {**answer, "access_token": None},
        lambda answer: {**answer, "token_type": "mac"},
        lambda answer: {**answer, "error": "invalid_grant"},
        lambda answer: [answer],
        lambda _: "x",
    ],
)
async def test_a_bent_answer_with_tokens(browser: Browser, idp: Idp, bend: Callable[[Any], Any]) -> None:
    """Tokens that are missing, exchanged, or of another kind sign nobody in."""
    idp.token_answer = bend
    assert (await browser.sign_in(idp)).status_code in (400, 503)
    assert nobody(browser)


async def test_the_token_of_another_sign_in(browser: Browser, idp: Idp) -> None:
    """A good token that was made for another sign-in has another nonce."""
    kept: list[str] = []

    def keep(answer: dict[str, Any]) -> dict[str, Any]:
        kept.append(answer["id_token"])
        return {**answer, "id_token": kept[0]}

    idp.token_answer = keep
    assert (await browser.sign_in(idp)).status_code == 303
    await browser.post("/auth/logout")
    assert (await browser.sign_in(idp)).status_code == 400
    assert nobody(browser)


@pytest.mark.parametrize(("at", "passes"), [(NOW - 59, True), (NOW - 95, False), (None, False), ("now", False)])
async def test_a_sign_in_of_long_ago(database: str, clock: ManualClock, idp: Idp, at: Any, passes: bool) -> None:
    """Where it is asked that the user has signed in there lately, the token has to say so."""
    idp.claims = {"auth_time": at}
    async with shop_of(database, clock, idp, idp_provider(max_age=60)) as app:
        browser = Browser(app)
        assert "max_age=60" in await browser.begin()
        assert ((await browser.sign_in(idp)).status_code == 303) is passes


async def test_a_key_from_elsewhere(browser: Browser, idp: Idp) -> None:
    """A secret among the published keys verifies nothing."""
    secret = {"kty": "oct", "kid": "first", "k": tokens.b64(tokens.SECRET.reveal().encode())}
    idp.keys, idp.signing = [secret], {**HS, "key": tokens.SECRET.reveal().encode()}
    assert (await browser.sign_in(idp)).status_code == 400
    assert nobody(browser)


# --- what comes back


@pytest.mark.parametrize("name", ["state", "code", "iss", "error"])
async def test_a_parameter_twice(browser: Browser, idp: Idp, name: str) -> None:
    """Which of them would count? None."""
    url = idp.authorize(await browser.begin(), error="access_denied" if name == "error" else None)
    assert (await browser.get(f"{url}&{name}=x")).status_code == 400
    assert idp.forms == []


@pytest.mark.parametrize("name", ["id_token", "access_token"])
async def test_tokens_in_the_address(browser: Browser, idp: Idp, name: str) -> None:
    """Tokens that come through the browser were not asked for."""
    assert (await browser.sign_in(idp, **{name: "canary"})).status_code == 400
    assert idp.forms == []


async def test_a_long_answer(browser: Browser, idp: Idp) -> None:
    """What is too long, or has too many parameters, is not read."""
    url = idp.authorize(await browser.begin())
    assert (await browser.get(f"{url}&x={'y' * 20_000}")).status_code == 414
    assert (await browser.get(url + "".join(f"&p{number}=1" for number in range(60)))).status_code == 400
    assert (await browser.get("/auth/idp/callback?state=%FF&code=x")).status_code == 400
    assert nobody(browser)


async def test_scripts_in_errors(browser: Browser, idp: Idp, caplog: pytest.LogCaptureFixture) -> None:
    """What the provider, or anybody, puts into an error is neither shown nor logged."""
    mark = "<script>alert('canary')</script>"
    answer = await browser.sign_in(idp, code=None, error=mark, error_description=mark, error_uri=mark)
    assert "script" not in answer.text
    assert "code='unknown'" in caplog.text
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")


async def test_a_provider_that_repeats_the_code(browser: Browser, idp: Idp, caplog: pytest.LogCaptureFixture) -> None:
    """An error that says the code again does not get it into the log (see what is checked after each test)."""
    url = idp.authorize(await browser.begin())
    idp.codes.clear()
    assert (await browser.get(url)).status_code == 400
    assert "invalid_grant" in caplog.text


@pytest.mark.parametrize(("status", "seen"), [(500, 503), (503, 503), (429, 503), (302, 400), (418, 400)])
async def test_a_provider_that_fails(browser: Browser, idp: Idp, status: int, seen: int) -> None:
    """The user is told to try again, and where the provider fails, that it does; nobody is signed in."""
    idp.answers["/token"] = lambda _: httpx2.Response(status, json={"error": "no", "error_description": "canary"})
    assert (await browser.sign_in(idp)).status_code == seen
    assert nobody(browser)


async def test_a_token_endpoint_that_leads_elsewhere(browser: Browser, idp: Idp) -> None:
    """A redirect of the token endpoint carries neither code nor secret to another host."""
    hosts: list[str] = []

    def lead(request: httpx2.Request) -> httpx2.Response:
        hosts.append(request.url.host)
        return httpx2.Response(307, headers={"location": "https://evil.example/token"})

    idp.answers["/token"] = lead
    assert (await browser.sign_in(idp)).status_code in (400, 503)
    assert hosts == ["idp.example"]


# --- next

EVIL = [
    "//evil.example",
    "///evil.example",
    "////evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "/\\/evil.example",
    "\\/evil.example",
    "https://evil.example",
    "https:evil.example",
    "https:/evil.example",
    "HTTPS://evil.example",
    "http:\\\\evil.example",
    "javascript:alert(1)",
    "data:text/html,x",
    "evil.example",
    "evil.example/basket",
    "@evil.example",
    ".evil.example",
    ":80",
    "?next=//evil.example",
    "#x",
    " /basket",
    " //evil.example",
    "/\t/evil.example",
    "/\n/evil.example",
    "/\r/evil.example",
    "/%09/evil.example",
    "/%0a/evil.example",
    "/%0d%0aset-cookie:x=y",
    "/\x00/evil.example",
    "/%00",
    "\t//evil.example",
    "/%2f/evil.example",
    "/%2fevil.example",
    "/%2F%2Fevil.example",
    "/%5cevil.example",
    "/%5C%5Cevil.example",
    "/%255cevil.example",
    "/%252fevil.example",
    "/%25252525252fevil.example",
    "/.//evil.example",
    "/x/..//evil.example",
    "/basket//evil.example",
    "/a\\..\\b",
    "/\u2215evil.example",
    "/\uff0fevil.example",
    "/\u3002evil.example",
    "/b\u00e4sket",
    "/<script>",
    "/a b",
    '/"',
    "/{x}",
    "/" + "x" * 2000,
]


@pytest.mark.parametrize("wanted", EVIL)
async def test_open_redirects(browser: Browser, idp: Idp, wanted: str) -> None:
    """No spelling of another host is followed, neither after signing in nor after signing out."""
    assert (await browser.get("/auth/idp/login", params={"next": wanted})).status_code == 400
    await browser.sign_in(idp)
    answer = await browser.post(f"/auth/logout?{httpx2.QueryParams({'next': wanted})}")
    assert answer.status_code == 400
    assert "location" not in answer.headers


@pytest.mark.parametrize("query", ["next=/a&next=//evil.example", "add=1&add=1", "&".join(["a=1"] * 51)])
async def test_a_query_that_nobody_makes(browser: Browser, query: str) -> None:
    """What is there twice is one too many, and so is the fifty-first: no page leads here by such an address."""
    asked = [browser.post(f"/auth/idp/login?{query}")]
    if "add" not in query:  # which means something to that route alone
        asked += [browser.get(f"/auth/idp/login?{query}"), browser.post(f"/auth/logout?{query}")]
    for answer in await asyncio.gather(*asked):
        assert (answer.status_code, "location" in answer.headers) == (400, False)


@pytest.mark.parametrize(
    "wanted", ["/", "/basket", "/basket?open=1&u=https://x.example//y", "/a/b;c=1/d?x[]=1#part", "/a%20b", "/~ada/@me"]
)
def test_own_paths(wanted: str) -> None:
    """Paths of this application are taken as they are, with queries that name other addresses too."""
    assert own_path(wanted) == wanted


def _lands(base: str, location: str) -> str:
    """Where a browser goes, as the URL standard has it for http: tabs and line ends vanish, a backslash is a slash."""
    seen = re.sub(r"[\t\n\r]", "", location).strip("".join(map(chr, range(0x21))))
    head, mark, query = seen.partition("?")
    return urljoin(base, head.replace("\\", "/") + mark + query)


SPELLINGS = st.lists(
    st.sampled_from(["/", "\\", "//", "%2f", "%5c", "%252F", "evil.example", "https:", ":", "@", "?", "#", "\t", "\n", " ",
                     ".", "..", "%09", "%00", "a", "%", "\u2215", "\ud800"])
    | st.text(max_size=3), max_size=8,
).map("".join)  # fmt: skip


@given(SPELLINGS)
@example("/\t/evil.example")
@settings(max_examples=500, deadline=None)
def test_no_spelling_leads_elsewhere(text: str) -> None:
    """Whatever passes stays on this host, for a browser, and for whoever decodes it as often as he likes."""
    try:
        path = own_path(text)
    except ConfigurationError:
        return
    for _ in range(4):
        landed = urlsplit(_lands(f"{SHOP}/auth/idp/callback", path))
        assert (landed.scheme, landed.netloc) == ("https", "shop.example")
        assert not any(ord(one) < 0x20 for one in path.partition("?")[0])
        path = httpx2.QueryParams(f"x={path.replace('&', '%26').replace('+', '%2B')}")["x"]


# --- sessions


async def test_session_fixation(shop: Moorline, browser: Browser, idp: Idp) -> None:
    """A session that was planted before signing in is not the one that is signed in; it ends."""
    attacker = Browser(shop)
    await attacker.sign_in(idp)
    planted = attacker.cookies[SESSION]
    browser.client.cookies.set(SESSION, planted, domain="shop.example", path="/")
    idp.claims = {"sub": "victim", "email": "victim@example.com"}
    await browser.sign_in(idp)
    found = [value for name, value in browser.cookies.items() if name == SESSION]
    assert planted not in found
    assert await shop.session(_scope(f"{SESSION}={planted}")) is None


async def test_each_sign_in_has_its_own_session(shop: Moorline, browser: Browser, idp: Idp) -> None:
    """Signing in again begins a session with another id, and ends the one before."""
    await browser.sign_in(idp)
    before = browser.cookies[SESSION]
    await browser.sign_in(idp)
    after = await shop.session(_scope(f"{SESSION}={browser.cookies[SESSION]}"))
    assert after is not None
    assert await shop.session(_scope(f"{SESSION}={before}")) is None


def _scope(cookie: str, **more: Any) -> dict[str, Any]:
    headers = [(b"cookie", cookie.encode("utf-8", "replace")), (b"host", b"shop.example")]
    base = {"type": "http", "method": "GET", "path": "/", "scheme": "https", "query_string": b"", "headers": headers}
    return {**base, "client": ("203.0.113.9", 1), **more}


async def test_cookies_of_one_kind_are_not_of_another(shop: Moorline, browser: Browser, idp: Idp) -> None:
    """What is sealed for a sign-in is no session, a session is no sign-in, and one for http is none for https."""
    url = await browser.begin()
    (pending,) = browser.cookies.values()
    assert await shop.session(_scope(f"{SESSION}={pending}")) is None
    plain = Sessions(RING, shop.clock).header(Session("1", "u", "idp", NOW, NOW), secure=False)
    value = plain.partition(";")[0].partition("=")[2]
    assert await shop.session(_scope(f"{SESSION}={value}")) is None
    assert await shop.session(_scope(f"moorline={value}")) is None
    name = next(iter(browser.cookies))
    browser.client.cookies.clear()
    browser.client.cookies.set(name, value)
    assert (await browser.get(idp.authorize(url))).status_code == 400


PENDING = Pending("idp", f"{SHOP}/auth/idp/callback", "/", NOW, "s" * 43, "n" * 43, "v" * 43)
SEALED = flow.sealed(RING, PENDING)
END = flow.cookie_of(PENDING.state)
HELD = Session("0" * 32, "u_1", "idp", NOW, NOW)
COOKIE = Sessions(RING, ManualClock()).header(HELD, secure=True).partition(";")[0]


def _mutated(data: st.DataObject, text: str) -> str:
    place = data.draw(st.integers(0, len(text) - 1))
    how = data.draw(st.sampled_from(["change", "cut", "insert", "swap"]))
    if how == "cut":
        return text[:place]
    letter = data.draw(st.characters(codec="ascii", exclude_characters=";,= \"'"))
    if how == "insert":
        return text[:place] + letter + text[place:]
    if how == "swap":
        return text[place:] + text[:place]
    return text[:place] + letter + text[place + 1 :]


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_mutated_cookies(data: st.DataObject) -> None:
    """A cookie that was changed anywhere is worth nothing, and raises nothing."""
    name, _, value = COOKIE.partition("=")
    sessions = Sessions(RING, ManualClock())
    changed_session = sessions.read(f"{name}={_mutated(data, value)}", secure=True)
    assert changed_session in (None, HELD)  # unused bits of the last letter of base64 may differ
    assert flow.opened(RING, END, _mutated(data, SEALED)) in (None, PENDING)


@given(st.text(max_size=300))
@settings(max_examples=200, deadline=None)
def test_random_cookies(text: str) -> None:
    """Any header can be read, and holds no session."""
    assert Sessions(RING, ManualClock()).read(text, secure=True) is None
    assert flow.opened(RING, END, text) is None
    list(cookies(text))


async def test_another_application_cannot_read_it(shop: Moorline, browser: Browser, idp: Idp) -> None:
    """A cookie that was sealed with another key is none."""
    from moorline.secrets.keyring import KeyRing, new_key

    other = Sessions(KeyRing([Secret(new_key())]), shop.clock)
    value = other.header(HELD, secure=True).partition(";")[0]
    assert await shop.session(_scope(value)) is None
    mine = Sessions(RING, shop.clock).header(HELD, secure=True).partition(";")[0]
    assert await shop.session(_scope(mine)) == HELD


# --- other sites


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example", "sec_fetch_site": "cross-site"},
        {"origin": "https://evil.example"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "none"},
        {"origin": "null", "sec_fetch_site": "cross-site"},
        {"origin": "https://sub.shop.example", "sec_fetch_site": "same-site"},
        {"origin": "http://shop.example"},
        {"origin": "https://shop.example:8443"},
        {"origin": "https://shop.example.evil.example"},
        {"origin": ""},
    ],
)
async def test_logout_by_another_site(shop: Moorline, browser: Browser, idp: Idp, headers: dict[str, str]) -> None:
    """Another site, a subdomain's page included, signs nobody out."""
    await browser.sign_in(idp)
    assert (await browser.post("/auth/logout", **headers)).status_code == 403
    assert await shop.session(_scope(f"{SESSION}={browser.cookies[SESSION]}")) is not None


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({"referer": "https://evil.example/"}, 403),
        ({"referer": "https://shop.example.evil.example/"}, 403),
        ({"referer": f"{SHOP}/basket"}, 303),
        ({"referer": SHOP}, 303),
        ({"origin": SHOP}, 303),
        ({"origin": "null"}, 403),
        ({"origin": "null", "sec-fetch-site": "same-origin"}, 303),
        ({"sec-fetch-site": "same-origin"}, 303),
    ],
)
async def test_logout_of_old_browsers(browser: Browser, idp: Idp, headers: dict[str, str], status: int) -> None:
    """Who does not say where a request comes from is refused; one of three headers is enough."""
    await browser.sign_in(idp)
    assert (await browser.client.post("/auth/logout", headers=headers)).status_code == status


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
async def test_logout_is_a_post(shop: Moorline, browser: Browser, idp: Idp, method: str) -> None:
    """An image or a link signs nobody out."""
    await browser.sign_in(idp)
    answer = await browser.client.request(method, "/auth/logout", headers={"origin": SHOP})
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert await shop.session(_scope(f"{SESSION}={browser.cookies[SESSION]}")) is not None


async def test_adding_an_account_in_another_session(shop: Moorline, browser: Browser, idp: Idp) -> None:
    """An account that one user began to add is not added once another one is signed in, or nobody."""
    await browser.sign_in(idp)
    begun = (await browser.post("/auth/idp/login?add=1")).headers["location"]
    await browser.post("/auth/logout")
    idp.claims = {"sub": "thief"}
    assert (await browser.get(idp.authorize(begun))).status_code == 403
    assert nobody(browser)


# --- the address


@pytest.fixture
def _unnamed(shop_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MOORLINE_WEBHOOKS__PUBLIC_URL")


@pytest.mark.usefixtures("_unnamed")
@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "shop.example"},
        {"host": "localhost.evil.example"},
        {"host": "127.0.0.1.evil.example"},
        {"host": "localhost@evil.example"},
        {"host": "127.0.0.1:80@evil.example"},
        {"host": "evil.example#127.0.0.1"},
        {"host": "shop.example", "x-forwarded-host": "localhost"},
        {"host": "shop.example", "forwarded": "host=localhost"},
        {"host": "[::1"},
        {"host": "a, 127.0.0.1"},
        {"host": ""},
    ],
)
async def test_a_host_that_nobody_vouches_for(
    database: str, clock: ManualClock, idp: Idp, headers: dict[str, str]
) -> None:
    """Without a public address and a trusted proxy the Host header leads nowhere."""
    async with shop_of(database, clock, idp) as app:
        answer = await Browser(app).get("/auth/idp/login", headers=headers)
        assert answer.status_code in (400, 503)
        assert "location" not in answer.headers
        assert "set-cookie" not in answer.headers


@pytest.mark.usefixtures("_unnamed")
async def test_a_trusted_proxy_names_the_host(
    database: str, clock: ManualClock, idp: Idp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a trusted proxy says counts, what anybody else says does not; and it has to be https."""
    monkeypatch.setenv("MOORLINE_WEBHOOKS__TRUSTED_PROXIES", "10.0.0.0/8")
    said = {"host": "inner", "x-forwarded-host": "shop.example", "x-forwarded-proto": "https"}
    async with shop_of(database, clock, idp) as app:
        good = await Browser(app, "http://inner", "10.0.0.1").get("/auth/idp/login", headers=said)
        asked = parse_qs(urlsplit(good.headers["location"]).query)
        assert asked["redirect_uri"] == [f"{SHOP}/auth/idp/callback"]
        assert good.headers["set-cookie"].startswith("__Host-")
        assert (await Browser(app, "http://inner").get("/auth/idp/login", headers=said)).status_code == 503
        for prefix in ("//evil.example", "/\\evil.example", "/%2f/evil.example"):
            bent = {**said, "x-forwarded-prefix": prefix}
            bad = await Browser(app, "http://inner", "10.0.0.1").get("/auth/idp/login", headers=bent)
            assert bad.status_code == 400
        plain = {**said, "x-forwarded-proto": "http"}
        assert (await Browser(app, "http://inner", "10.0.0.1").get("/auth/idp/login", headers=plain)).status_code == 503


@pytest.mark.usefixtures("_unnamed")
async def test_this_machine_needs_no_https(database: str, clock: ManualClock, idp: Idp) -> None:
    """On loopback plain http will do, with cookies that are not marked for https."""
    async with shop_of(database, clock, idp) as app:
        for base in ("http://localhost:8000", "http://127.0.0.1", "http://[::1]:8000"):
            begun = await Browser(app, base).get("/auth/idp/login")
            assert parse_qs(urlsplit(begun.headers["location"]).query)["redirect_uri"] == [f"{base}/auth/idp/callback"]
            assert "Secure" not in begun.headers["set-cookie"]


async def test_the_host_header_changes_nothing(browser: Browser) -> None:
    """With a public address, that is the address, whatever the header says."""
    answer = await browser.get("/auth/idp/login", headers={"host": "evil.example", "x-forwarded-host": "evil.example"})
    assert parse_qs(urlsplit(answer.headers["location"]).query)["redirect_uri"] == [f"{SHOP}/auth/idp/callback"]


# --- the flow alone

PLACES = Places(ISSUER, f"{ISSUER}/a", f"{ISSUER}/t", f"{ISSUER}/k")


def test_the_state_is_compared() -> None:
    """A pending sign-in, however it was found, is answered by its own state only, and at its own provider."""
    good = {"state": PENDING.state, "code": "c", "iss": ISSUER}
    assert flow.answered(PENDING, good, idp_provider(), PLACES, NOW).reveal() == "c"
    with pytest.raises(SignInFailed, match="state"):
        flow.answered(PENDING, {**good, "state": "t" * 43}, idp_provider(), PLACES, NOW)
    with pytest.raises(SignInFailed, match="state"):
        flow.answered(PENDING, good, replace(idp_provider(), name="other"), PLACES, NOW)
    with pytest.raises(SignInFailed, match="browser"):
        flow.answered(None, good, idp_provider(), PLACES, NOW)


@given(st.text(max_size=400))
@settings(max_examples=300, deadline=None)
def test_random_answers(query: str) -> None:
    """Whatever comes back is refused with a typed error, or holds the state of a sign-in."""
    try:
        answer = flow.read_answer(query)
        flow.answered(PENDING, answer, idp_provider(), PLACES, NOW)
    except SignInFailed:
        return
    raise AssertionError


@pytest.mark.parametrize("algorithm", ["RS256", "PS384", "ES512", "EdDSA"])
def test_the_hash_of_each_algorithm(algorithm: str) -> None:
    """``at_hash`` is as Authlib makes it for each algorithm; of an unknown one nothing fits."""
    assert flow.half_hash(Secret(ACCESS), algorithm).encode() == create_half_hash(ACCESS, algorithm)
    assert flow.half_hash(Secret(ACCESS), "XX999") == ""
    with pytest.raises(SignInFailed, match="ID token was made with"):
        flow.judged(idp_provider(), {"aud": CLIENT, "at_hash": ""}, Secret(ACCESS), "XX999", NOW)


def test_nothing_shows_what_it_holds() -> None:
    """What is remembered of a sign-in, and what asks for tokens, show no secret."""
    request = flow.exchange(idp_provider(), PLACES, PENDING, Secret("code-canary"))
    shown = f"{PENDING!r} {request!r} {flow.granted({'access_token': ACCESS, 'token_type': 'bearer'}, openid=False)!r}"
    for secret in (PENDING.state, PENDING.nonce, PENDING.verifier, "canary", SECRET):
        assert secret not in shown
