"""The authorization code flow with PKCE (RFC 6749, 7636, 9700), as decisions: nothing here is sent or received.

``begin`` gives the address to go to and what has to be remembered, a :class:`Pending`, which is sealed into a cookie of
the browser that began; ``answered`` judges what comes back with it; ``exchange`` is the request that turns the code
into tokens; ``judged`` says whether the ID token's claims belong to this very sign-in.

Authlib builds the challenge (``authlib.oauth2.rfc7636``) and the address (``authlib.oauth2.rfc6749``). By hand is what
it does not do, or does otherwise: its ``parse_authorization_code_response`` takes the last of a parameter that is
there twice, and compares the state with ``!=``; its client does not look at ``iss`` (RFC 9207);
``prepare_token_request`` gives an encoded text, where a Call wants fields, by whose names they are masked. Tokens are
verified by our own rules on joserfc, which has no ``at_hash``; Authlib's takes it for granted where it cannot be
computed.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final
from urllib.parse import parse_qsl, quote_plus

from moorline.calls.dialects import basic
from moorline.errors import BadAnswer, ConfigurationError, DecryptionFailed, SignInFailed
from moorline.identity.provider import Places, Provider, TokenAuthentication
from moorline.secrets.keyring import KeyRing
from moorline.secrets.secret import Secret

__all__ = [
    "LASTS",
    "Answer",
    "Exchanged",
    "Pending",
    "TokenRequest",
    "Wish",
    "answered",
    "begin",
    "cookie_of",
    "exchange",
    "granted",
    "half_hash",
    "judged",
    "opened",
    "proved",
    "read_answer",
    "sealed",
    "spent_key",
    "word",
]

LASTS: Final = 600
"""Seconds that a user has to sign in at the provider."""

_PURPOSE: Final = "sign-in"
_MOST_PARAMETERS: Final = 50
_LONGEST: Final = 4096
_CODE: Final = re.compile(r"[a-z_]{1,60}")  # of RFC 6749 and its kin: no token is of these alone
_KNOWN: Final = frozenset({"code", "state", "iss", "error", "id_token", "access_token"})
_HASHES: Final = {"256": hashlib.sha256, "384": hashlib.sha384, "512": hashlib.sha512, "EdDSA": hashlib.sha512}


@dataclass(frozen=True, slots=True)
class Pending:
    """A sign-in that has begun, as the browser keeps it, sealed. *adds_to* is the user who adds this account.

    Where *owner* is set it is no sign-in: that owner connects an account of theirs. *scopes* were asked for; *account*
    is the one that is connected again, where it is known.
    """

    provider: str
    redirect_uri: str
    next: str
    begun_at: float
    state: str = field(repr=False)
    nonce: str = field(repr=False)
    verifier: str = field(repr=False)
    adds_to: str | None = None
    owner: str | None = None
    scopes: str = ""
    account: str = ""


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """What asks for tokens."""

    url: str
    form: Mapping[str, str] = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Wish:
    """Who wants to connect an account, with which scopes, and which account it is, where that is known."""

    owner: str
    scopes: tuple[str, ...]
    account: str = ""


@dataclass(frozen=True, slots=True)
class Exchanged:
    """What the code was turned into."""

    access: Secret
    id_token: Secret | None
    scopes: frozenset[str] | None


def begin(
    provider: Provider,
    places: Places,
    *,
    redirect_uri: str,
    next: str,
    now: float,
    adds_to: str | None = None,
    wish: Wish | None = None,
) -> tuple[str, Pending]:
    """The address at which the user signs in, or consents to a *wish*, and what is to be remembered until the answer.

    Raises ConfigurationError without a client id, or without Authlib.
    """
    try:
        from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
        from authlib.oauth2.rfc7636 import create_s256_code_challenge
    except ImportError as error:
        raise ConfigurationError("sign-in needs Authlib; pip install 'moorline[identity]'") from error
    state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
    pending = Pending(provider.name, redirect_uri, next, now, state, nonce, verifier, adds_to)
    scopes = provider.scopes
    if wish is not None:
        scopes = wish.scopes
        pending = replace(pending, owner=wish.owner, scopes=" ".join(scopes), account=wish.account)
    more = dict(provider.parameters)
    if provider.pkce:
        more["code_challenge"] = create_s256_code_challenge(verifier)
        more["code_challenge_method"] = "S256"
    if provider.openid:
        more["nonce"] = nonce
        if provider.max_age is not None:
            more["max_age"] = str(provider.max_age)
    more |= provider.asking(scopes)
    client, scope = provider.client(), more.pop("scope", None)
    return prepare_grant_uri(places.authorize, client, "code", redirect_uri, scope, state, **more), pending


# --- the cookie


def cookie_of(state: str) -> str:
    """The end of the name of the cookie of that sign-in: each tab has one of its own."""
    return hashlib.sha256(state.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def spent_key(state: str) -> str:
    """What is noted of a state once it was answered."""
    return f"state {hashlib.sha256(state.encode('utf-8', 'surrogatepass')).hexdigest()}"


def sealed(ring: KeyRing, pending: Pending) -> str:
    """The value of its cookie. It counts under its own name alone."""
    plain = json.dumps(asdict(pending), separators=(",", ":")).encode()
    value = ring.encrypt(plain, purpose=_PURPOSE, place=cookie_of(pending.state))
    return base64.urlsafe_b64encode(value).decode().rstrip("=")


def opened(ring: KeyRing, end: str, value: str) -> Pending | None:
    """What ``sealed`` has sealed under the name that ends so; None for anything else."""
    try:
        raw = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)) if value.isascii() else b""
        return Pending(**json.loads(ring.decrypt(raw, purpose=_PURPOSE, place=end)))
    except (DecryptionFailed, ValueError, TypeError):
        return None


# --- the answer


class Answer(dict[str, str]):
    """The parameters of an answer. Its repr names them, and shows none."""

    def __repr__(self) -> str:
        return f"<Answer of {', '.join(sorted(self.keys() & _KNOWN))}>"


def read_answer(query: str) -> Answer:
    """The parameters of an answer, each there once (RFC 6749, section 3.1). Raises SignInFailed."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=_MOST_PARAMETERS, errors="strict")
    except (ValueError, UnicodeError):
        raise SignInFailed("the answer cannot be read", reason="answer") from None
    found = Answer(pairs)
    if len(found) != len(pairs):
        raise SignInFailed("a parameter of the answer is there twice", reason="answer")
    if not found.get("state") or len(found["state"]) > _LONGEST:
        raise SignInFailed("the answer has no state")
    return found


def answered(
    pending: Pending | None, answer: Mapping[str, str], provider: Provider, places: Places, now: float
) -> Secret:
    """The code in *answer*, if that belongs to *pending*.

    In this order: it was begun in this browser, with this state and provider; the issuer is the provider (RFC 9207,
    section 2.4: of errors too); it is in time; it is no error. Raises SignInFailed.
    """
    if pending is None:
        raise SignInFailed("it was not begun in this browser, or has ended already")
    if not _same(answer["state"], pending.state) or pending.provider != provider.name:
        raise SignInFailed("the state is not the one that was sent")
    issuer = answer.get("iss")
    if issuer is None and places.answers_issuer:
        raise SignInFailed("the answer does not name its issuer, as the provider promises to", reason="issuer")
    if issuer is not None and not provider.is_issuer(issuer):
        raise SignInFailed("another issuer has answered", reason="issuer")
    if not pending.begun_at <= now + 1 or now >= pending.begun_at + LASTS:
        raise SignInFailed("it took too long", reason="expired")
    if "error" in answer:
        raise _refused(answer["error"])
    code = answer.get("code", "")
    if not code or len(code) > _LONGEST or not code.isprintable():
        raise SignInFailed("the answer has no code", reason="answer")
    if "id_token" in answer or "access_token" in answer:
        raise SignInFailed("the answer brings tokens that were not asked for", reason="answer")
    return Secret(code, name="an authorization code")


def word(error: str) -> str:
    """The code of an error, if it may stand in a log."""
    return error if _CODE.fullmatch(error) else "unknown"


def _refused(error: str) -> SignInFailed:
    """Nothing of the answer but a word that may stand in a log."""
    code = word(error)
    if code == "access_denied":
        return SignInFailed("the user, or the provider, has refused", reason="denied", code=code)
    return SignInFailed(f"the provider answered {code}", reason="provider", code=code)


# --- the tokens


def exchange(provider: Provider, places: Places, pending: Pending, code: Secret) -> TokenRequest:
    """The request that turns *code* into tokens. Raises ConfigurationError without a client id or secret."""
    form = {"grant_type": "authorization_code", "code": code.reveal(), "redirect_uri": pending.redirect_uri}
    if provider.pkce:
        form["code_verifier"] = pending.verifier
    return proved(provider, places.token, places.authentication, form)


def proved(provider: Provider, url: str, authentication: TokenAuthentication, form: Mapping[str, str]) -> TokenRequest:
    """The request of *form*, with what proves that it is ours. Raises as ``exchange``."""
    client, headers = provider.client(), {"Accept": "application/json"}
    if authentication == "basic":  # RFC 6749, section 2.3.1: encoded as in a form first
        headers |= basic(quote_plus(client), Secret(quote_plus(provider.secret().reveal())))
        return TokenRequest(url, form, headers)
    proof = {"client_id": client}
    if authentication == "post":
        proof["client_secret"] = provider.secret().reveal()
    return TokenRequest(url, {**form, **proof}, headers)


def granted(answer: Any, *, openid: bool) -> Exchanged:
    """The tokens in an answer (RFC 6749, section 5.1). Raises BadAnswer, which holds none of them."""
    if not isinstance(answer, dict) or not _is_text(answer.get("access_token")):
        raise BadAnswer("the answer has no access_token")
    if str(answer.get("token_type", "")).lower() != "bearer":
        raise BadAnswer("the answer's token_type is not Bearer")
    found = answer.get("id_token")
    if openid and not _is_text(found):
        raise BadAnswer("the answer has no id_token")
    scope = answer.get("scope")
    # GitHub writes commas, all others spaces.
    scopes = frozenset(scope.replace(",", " ").split()) if isinstance(scope, str) else None
    token = Secret(found, name="an ID token") if openid and isinstance(found, str) else None
    return Exchanged(Secret(answer["access_token"], name="an access token"), token, scopes)


def judged(provider: Provider, claims: Mapping[str, Any], access: Secret, algorithm: str, begun_at: float) -> None:
    """What OpenID Connect asks of an ID token beside what every token has to be: ``azp`` (Core, section 3.1.3.7),
    ``at_hash`` (3.1.3.6), ``auth_time`` where a *max_age* was asked for. Raises SignInFailed.
    """
    client = provider.client()
    audience, party = claims.get("aud"), claims.get("azp")
    if party is None and isinstance(audience, list) and len(audience) > 1:
        raise SignInFailed("the token is for several parties, and names none (azp)", reason="token")
    if party is not None and party != client:
        raise SignInFailed("the token was made for another party (azp)", reason="token")
    told = claims.get("at_hash")
    if told is not None and not (_is_text(told) and _same(told, half_hash(access, algorithm))):
        raise SignInFailed("the access token is not the one that the ID token was made with", reason="token")
    if provider.max_age is not None:
        at = claims.get("auth_time")
        if isinstance(at, bool) or not isinstance(at, (int, float)) or at + provider.max_age < begun_at - 30:
            raise SignInFailed("the user has not signed in there lately", reason="token")


def half_hash(token: Secret, algorithm: str) -> str:
    """The left half of the hash of *token*, by the hash of the ID token's algorithm. Empty for an unknown one."""
    made = _HASHES.get("EdDSA" if algorithm == "EdDSA" else algorithm[2:])
    if made is None:
        return ""
    digest = made(token.reveal().encode()).digest()
    return base64.urlsafe_b64encode(digest[: len(digest) // 2]).decode().rstrip("=")


def _same(told: str, own: str) -> bool:
    return bool(own) and hmac.compare_digest(told.encode("utf-8", "surrogatepass"), own.encode())


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())
