"""``OAuth``: how accounts at a service are connected, as the service's class declares it. A record, and its decisions.

::

    class HubSpot(TokenService):
        oauth = OAuth(authorize="https://app.hubspot.com/oauth/authorize", token="https://…", account="hub_id", …)

The authorization code flow of RFC 6749 is the rule; the record says what a service does otherwise. Nothing here is sent
or received: see :mod:`.connector` for who does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from moorline.calls.dialects import base_address
from moorline.errors import BadAnswer, ConfigurationError
from moorline.identity.connection import Granted, Tokens
from moorline.secrets.secret import Secret

if TYPE_CHECKING:
    from moorline.identity.provider import TokenAuthentication

__all__ = ["Client", "OAuth", "Received", "Revocation"]

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})
_LONGEST_TOKEN: Final = 20_000
_LONGEST_ACCOUNT: Final = 500
_LONGEST_LIFE: Final = 10**9
_ENDED: Final = frozenset({"invalid_grant"})
_RESERVED: Final = frozenset(
    {"client_id", "client_secret", "redirect_uri", "response_type", "state", "code", "code_verifier", "code_challenge",
     "code_challenge_method", "refresh_token", "grant_type", "response_mode"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Client:
    """Our application at the provider: its *id*, and its *secret* (None for a public client)."""

    id: str
    secret: Secret | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Revocation:
    """The request that takes a grant back, where it is another than that of RFC 7009. *url* may be a path below the
    service's own address; *basic* proves the client by Basic authentication, *bearer* is the token that proves its
    owner.
    """

    method: str
    url: str
    form: Mapping[str, str] | None = field(default=None, repr=False)
    json: Mapping[str, Any] | None = field(default=None, repr=False)
    basic: bool = False
    bearer: Secret | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Received:
    """What an answer of the token endpoint brings, and the *account* that it says it is of (empty: it does not)."""

    granted: Granted
    account: str = ""


@dataclass(frozen=True, kw_only=True)
class OAuth:
    """How accounts at a service are connected. Addresses are URLs, or paths below the service's own address.

    *authorize* is the page where the owner consents, *token* where codes and refresh tokens are exchanged, *revoke*
    where a grant is taken back (RFC 7009), or a function that makes the request of a service with a way of its own;
    empty where there is none. *device* is where the device flow (RFC 8628) begins, if the service knows it.

    *scopes* are always asked for; keep them few, more are asked for when they are needed. They go in the parameter
    *scope*, joined by *separator*; answers are read with spaces, commas or as lists. *implies* says which scopes are
    granted with another one (also a long name of the same one), *unlisted* which no answer ever names. *parameters* are
    added to the request for consent, *refreshes_scope* repeats the scopes with each refresh.

    *authentication* is how the client proves itself; *as_json* wants the token requests in JSON. *pkce* is False, with
    the reason beside it, for a service that cannot (RFC 7636); *rotates* says that each refresh gives a new refresh
    token and takes the old one back. *issuer* is how it names itself in answers (RFC 9207), which it promises to do
    with *answers_issuer*.

    Answers: the object at *within* holds the tokens where they are nested; *token_types* are accepted; *lasts*
    (seconds) holds where ``expires_in`` is missing (None: until it is refused); *keeps* are further fields, kept with
    the tokens, encrypted: dotted names (``team.id``); *reads* makes of an answer of another shape one as RFC 6749 has
    it, and raises BadAnswer for one that must not be used.
    *account* is the field that tells who the account is: of the answer, or of that to a GET of *whoami* with the token.
    *ended* are the codes by which it says that a grant is over, besides ``invalid_grant``.

    *service_parameters* are those that the service's object has for a connected account (``{"grant": "oauth"}``).
    *client* is whose variables name the application (``google``: GOOGLE_CLIENT_ID, GOOGLE_CLIENT_SECRET), *stand_in*
    the sandbox's name of the service; both are the service's own unless they are given.

    Raises ConfigurationError naming the field.
    """

    authorize: str
    token: str
    revoke: str | Callable[[Client, Tokens], Revocation] = ""
    device: str = ""
    scopes: tuple[str, ...] = ()
    scope: str = "scope"
    separator: str = " "
    implies: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: _NOTHING)
    unlisted: tuple[str, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    refreshes_scope: bool = False
    authentication: TokenAuthentication = "post"
    as_json: bool = False
    pkce: bool = True
    rotates: bool = False
    issuer: str = ""
    answers_issuer: bool = False
    within: str = ""
    token_types: tuple[str, ...] = ("bearer",)
    lasts: float | None = None
    keeps: tuple[str, ...] = ()
    reads: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None
    account: str = ""
    whoami: str = ""
    ended: tuple[str, ...] = ()
    service_parameters: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    client: str = ""
    stand_in: str = ""

    def __post_init__(self) -> None:
        for name in ("authorize", "token", "revoke", "device", "whoami"):
            address = getattr(self, name)
            if isinstance(address, str) and address and not address.startswith("/"):
                base_address(address, f"OAuth.{name}")
        if not self.authorize or not self.token:
            raise ConfigurationError("OAuth: authorize and token must be addresses")
        if taken := sorted((_RESERVED | {self.scope}) & self.parameters.keys()):
            raise ConfigurationError(f"OAuth.parameters: {', '.join(taken)} cannot be set")
        if self.answers_issuer and not self.issuer:
            raise ConfigurationError("OAuth.issuer: what does it call itself?")

    @property
    def endings(self) -> frozenset[str]:
        """The codes by which the provider says that a grant is over."""
        return _ENDED | frozenset(self.ended)

    # --- scopes

    def granted_with(self, scopes: Iterable[str]) -> frozenset[str]:
        """All that *scopes* give: themselves, and what they imply."""
        found: set[str] = set()
        open_ = list(scopes)
        while open_:
            one = open_.pop()
            if one not in found:
                found.add(one)
                open_.extend(self.implies.get(one, ()))
        return frozenset(found)

    def missing(self, granted: Iterable[str], wanted: Iterable[str]) -> frozenset[str]:
        """Those of *wanted* that *granted* does not give. What no answer names cannot be missed."""
        return frozenset(wanted) - self.granted_with(granted) - frozenset(self.unlisted)

    def asking(self, granted: Iterable[str], wanted: Iterable[str] = ()) -> tuple[str, ...]:
        """What to ask for: the record's own first, then *wanted* beside all that was *granted* before, so that a new
        grant takes nothing away. What one of them gives is not asked for besides.
        """
        asked = dict.fromkeys(self.scopes)
        more = sorted({*granted, *wanted} - self.granted_with(asked))
        for one in sorted(more, key=lambda one: -len(self.granted_with([one]))):  # those that give most come first
            if one not in self.granted_with(asked):
                asked[one] = None
        return (*self.scopes, *(one for one in more if one in asked))

    # --- answers

    def received(self, answer: Any, *, whose: bool = True) -> Received:
        """What an answer of the token endpoint brings. Answers to a refresh may leave out *whose* account it is.

        Raises BadAnswer, which holds nothing of it.
        """
        told = _object(answer, "the answer")
        if self.reads is not None:
            told = self.reads(told)
        inner = _object(_at(told, self.within), self.within) if self.within else told
        access, refresh = _token(inner, "access_token"), _token(inner, "refresh_token")
        if access is None:
            raise BadAnswer("the answer has no access_token")
        if str(inner.get("token_type", self.token_types[0])).lower() not in self.token_types:
            raise BadAnswer(f"the answer's token_type is not {' or '.join(self.token_types)}")
        tokens = Tokens(
            access,
            refresh,
            {name: found for name in self.keeps if (found := _at(told, name)) is not None},
        )
        scopes = _scopes(inner.get("scope", inner.get("scopes")))
        account = self.account_in(told) if whose and not self.whoami else ""
        return Received(Granted(tokens, self._lasts(inner), scopes), account)

    def account_in(self, answer: Any) -> str:
        """Who the account is, by the answer that tells it. Raises BadAnswer where it does not."""
        if not self.account:
            return ""
        found = _at(answer, self.account)
        text = str(found) if isinstance(found, int) and not isinstance(found, bool) else found
        if not isinstance(text, str) or not 0 < len(text) <= _LONGEST_ACCOUNT or not text.isprintable():
            raise BadAnswer(f"the answer does not say who the account is ({self.account})")
        return text

    def _lasts(self, answer: Mapping[str, Any]) -> float | None:
        told = answer.get("expires_in")
        if told is None:
            return self.lasts
        seconds = int(told) if isinstance(told, str) and told.isdecimal() and len(told) < 11 else told
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < _LONGEST_LIFE:
            raise BadAnswer("the answer's expires_in is no number of seconds")
        return float(seconds)


def _scopes(told: object) -> frozenset[str] | None:
    """The scopes of an answer, which come with spaces (RFC 6749), with commas, or as a list. None: it names none."""
    if isinstance(told, str):
        return frozenset(told.replace(",", " ").split())
    if isinstance(told, list) and all(isinstance(one, str) and one and not any(map(str.isspace, one)) for one in told):
        return frozenset(told)
    if told is None:
        return None
    raise BadAnswer("the answer's scopes are none")


def _at(answer: Any, name: str) -> Any:
    """What stands in *answer* under a dotted name; None where nothing does."""
    for part in name.split("."):
        answer = answer.get(part) if isinstance(answer, Mapping) else None
    return answer


def _object(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise BadAnswer(f"{name} is no object")
    return value


def _token(answer: Mapping[str, Any], name: str) -> Secret | None:
    value = answer.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not value.isascii() or not value.isprintable() or len(value) > _LONGEST_TOKEN:
        raise BadAnswer(f"the answer's {name} is none")
    return Secret(value, name=f"the {name} of an account")
