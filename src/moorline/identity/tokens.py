"""``verify_token``: whether a signed token (a JWT in its compact form) may be believed, and what it says.

The rules are those of RFC 7515, 7519 and 8725. The algorithm is one that the caller allows and the key is made for,
never one that the token asks for; ``none`` is no algorithm. The key is the one of that id among the caller's keys:
nothing in the token leads to another (``jwk``, ``jku``, ``x5u``, ``x5c`` are not looked at). What cannot be read in one
way only is refused: padding, other alphabets, names that are there twice.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from moorline.clock import SYSTEM
from moorline.errors import ConfigurationError, InvalidToken
from moorline.identity.keyset import ASYMMETRIC, SYMMETRIC, KeySet
from moorline.secrets.secret import Secret

if TYPE_CHECKING:
    from moorline.identity.keys import KeyCache

__all__ = [
    "LEEWAY",
    "MAX_TOKEN",
    "Claims",
    "Rules",
    "Unproven",
    "Words",
    "header_of",
    "is_access_token",
    "judged",
    "part_of",
    "proven",
    "read",
    "unproven_claims",
    "verify_token",
]

MAX_TOKEN: Final = 16_384
"""Characters. A request's headers have seldom room for more."""
LEEWAY: Final = 30.0
"""Seconds by which the clocks of issuer and verifier may differ, where nothing else is said."""

_LONGEST_LEEWAY: Final = 300.0
_PART: Final = re.compile(r"[A-Za-z0-9_-]+")
_KEY_ID: Final = re.compile(r"[\x20-\x7e]{1,512}")
_TYPES: Final = frozenset({"jwt", "at+jwt", "application/jwt", "application/at+jwt"})  # RFC 8725, section 3.11
_ALGORITHMS: Final = ASYMMETRIC | SYMMETRIC

Words = str | Collection[str]


class Claims(Mapping[str, Any]):
    """What a token says that was verified: a mapping of its claims, which does not change.

    ``issuer``, ``subject``, ``audience``; ``expires_at``, ``issued_at``, ``not_before`` in seconds since the epoch;
    ``algorithm`` and ``key_id`` say by what it was proved. ``repr`` shows the names of the claims alone.
    """

    __slots__ = ("_claims", "algorithm", "key_id")

    def __init__(self, claims: Mapping[str, Any], *, algorithm: str = "", key_id: str | None = None) -> None:
        self._claims = dict(claims)
        self.algorithm = algorithm
        self.key_id = key_id

    def __getitem__(self, name: str) -> Any:
        return self._claims[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._claims)

    def __len__(self) -> int:
        return len(self._claims)

    def __repr__(self) -> str:
        return f"<Claims {', '.join(self._claims)}>"

    def text(self, name: str) -> str | None:
        """A claim that is a text and not empty; None where there is none. Raises InvalidToken for another kind."""
        found = self._claims.get(name)
        if found is None or found == "":
            return None
        if not isinstance(found, str):
            raise InvalidToken(f"the token's {name} is not a text", reason="claims")
        return found

    def moment(self, name: str) -> float | None:
        """A time, in seconds since the epoch; None where there is none. Raises InvalidToken for what is no time."""
        return _moment(self._claims, name)

    @property
    def issuer(self) -> str | None:
        """Who made the token."""
        return self.text("iss")

    @property
    def subject(self) -> str | None:
        """Whom it speaks of."""
        return self.text("sub")

    @property
    def audience(self) -> tuple[str, ...]:
        """For whom it was made."""
        return _audience(self._claims)

    @property
    def expires_at(self) -> float | None:
        """Until when it is good."""
        return self.moment("exp")

    @property
    def issued_at(self) -> float | None:
        """When it was made."""
        return self.moment("iat")

    @property
    def not_before(self) -> float | None:
        """From when it is good."""
        return self.moment("nbf")


@dataclass(frozen=True, slots=True)
class Rules:
    """What a token has to be. Make it with ``of``."""

    issuers: frozenset[str]
    audiences: frozenset[str] | None
    algorithms: frozenset[str]
    leeway: float = LEEWAY
    bound_keys: bool = False
    """Whether a key that names an issuer signs for that one alone."""

    @classmethod
    def of(
        cls,
        issuer: Words,
        audience: Words | None,
        *,
        algorithms: Words | None = None,
        leeway: float = LEEWAY,
        symmetric: bool = False,
    ) -> Rules:
        """The rules in words: see ``verify_token``. Without *algorithms* all public ones count, or, where the key is a
        *symmetric* one, HS256. Raises ConfigurationError, naming what is wrong.
        """
        allowed = (SYMMETRIC if symmetric else ASYMMETRIC) if algorithms is None else _words("algorithms", algorithms)
        if not allowed <= _ALGORITHMS:
            strange = ", ".join(sorted(allowed - _ALGORITHMS))
            raise ConfigurationError(f"algorithms: {strange} is none of {', '.join(sorted(_ALGORITHMS))}")
        number = _is(leeway, (int, float)) and not _is(leeway, bool)
        if not number or not 0 <= leeway <= _LONGEST_LEEWAY:
            raise ConfigurationError(f"leeway must be from 0 to {_LONGEST_LEEWAY:g} seconds, not {leeway!r}")
        audiences = None if audience is None else _words("audience", audience)
        return cls(_words("issuer", issuer), audiences, allowed, float(leeway))


@dataclass(frozen=True, slots=True)
class Unproven:
    """A token that was taken apart, and that nobody has vouched for yet."""

    algorithm: str
    key_id: str | None
    signed: bytes = field(repr=False)
    payload: bytes = field(repr=False)
    signature: bytes = field(repr=False)


def verify_token(
    token: str,
    *,
    jwks: KeySet | KeyCache | Mapping[str, Any] | Sequence[Mapping[str, Any]] | Secret | Sequence[Secret] | str | bytes,
    issuer: Words,
    audience: Words | None,
    algorithms: Words | None = None,
    leeway: float = LEEWAY,
    nonce: str | None = None,
    now: float | None = None,
) -> Claims:
    """The claims of *token*, if its signature, its times and its parties are right.

    *jwks* are the issuer's keys: a JWKS as it is published (or its list alone), Google's map of certificates, a PEM, a
    KeySet, or a KeyCache, which fetches them if need be, blocking; or a secret that is shared with the issuer, as a
    ``moorline.Secret`` (or several), and only then is HS256 accepted. *issuer* has to be ``iss`` to the letter, or one
    of several. Of *audience* one has to stand in ``aud``; None is for issuers that write none, and then a token that
    has one is refused. *algorithms* are those that may be used, by default all that sign with a private key. *leeway*
    is how far the clocks may differ, in seconds, up to 300. *nonce* is the one that was sent with the request to sign
    in. *now* is seconds since the epoch.

    ``exp`` has to be there. ``nbf`` and ``iat``, where they are, must not lie in the future.

    Raises InvalidToken, which never holds the token, and ConfigurationError for arguments that cannot be.
    """
    keys, symmetric = _keys(jwks, algorithms)
    rules = Rules.of(issuer, audience, algorithms=algorithms, leeway=leeway, symmetric=symmetric)
    unproven = read(token, rules)
    if not isinstance(keys, KeySet):
        keys = keys.keys(unproven.key_id)
    return proven(unproven, keys, rules, nonce=nonce, now=SYSTEM.wall() if now is None else now)


def read(token: str, rules: Rules) -> Unproven:
    """*token* taken apart, its algorithm being one that may be used. Raises InvalidToken."""
    algorithm, key_id, parts = header_of(token)
    if algorithm not in rules.algorithms:
        raise InvalidToken("it is not signed by an algorithm that is accepted here", reason="algorithm")
    return Unproven(
        algorithm, key_id, f"{parts[0]}.{parts[1]}".encode(), part_of(parts[1], "claims"), part_of(parts[2], "mark")
    )


def header_of(token: str) -> tuple[str, str | None, list[str]]:
    """What the token says of its algorithm and key, and its three parts. Nothing of it is proved.

    Raises InvalidToken for what is no signed JWT of reasonable size.
    """
    if not _is(token, str) or not token or len(token) > MAX_TOKEN:
        raise InvalidToken(f"it is no text of at most {MAX_TOKEN} characters")
    parts = token.split(".")
    if len(parts) != 3:
        what = "is encrypted (a JWE)" if len(parts) == 5 else "is no JWT"
        raise InvalidToken(f"it {what}, so nothing can be verified")
    header = _object(part_of(parts[0], "header"), "header")
    algorithm: Any = header.get("alg")
    key_id: Any = header.get("kid")
    kind: Any = header.get("typ")
    if not _is(algorithm, str):
        raise InvalidToken("its header names no algorithm", reason="algorithm")
    if "crit" in header:  # whatever it asks for, we know none of it (RFC 7515, section 4.1.11)
        raise InvalidToken("its header wants an extension that nobody here knows")
    if kind is not None and (not _is(kind, str) or kind.lower() not in _TYPES):
        raise InvalidToken("it is a token of another kind")
    if key_id is not None and (not _is(key_id, str) or not _KEY_ID.fullmatch(key_id)):
        raise InvalidToken("the id of its key is none", reason="key")
    return algorithm, key_id, parts


def is_access_token(token: str) -> bool:
    """Whether it says that it opens an API, and is no ID token (RFC 9068, section 2.1). Raises InvalidToken."""
    kind = _object(part_of(token.partition(".")[0], "header"), "header").get("typ")
    return isinstance(kind, str) and kind.lower().removeprefix("application/") == "at+jwt"


def proven(token: Unproven, keys: KeySet, rules: Rules, *, now: float, nonce: str | None = None) -> Claims:
    """The claims of *token*, if one of *keys* has signed it and *rules* hold. Raises InvalidToken."""
    chosen = keys.chosen(token.algorithm, token.key_id)
    signer = next((key for key in chosen if key.verifies(token.algorithm, token.signed, token.signature)), None)
    if signer is None:
        raise InvalidToken("its signature is not of that key", reason="signature")
    claims = judged(token.payload, rules, now=now, nonce=nonce, algorithm=token.algorithm, key_id=token.key_id)
    if rules.bound_keys and not signer.signs_for(claims.issuer, claims.get("tid")):
        raise InvalidToken("its key signs for another issuer", reason="issuer")
    return claims


def judged(
    payload: bytes,
    rules: Rules,
    *,
    now: float,
    nonce: str | None = None,
    algorithm: str = "",
    key_id: str | None = None,
) -> Claims:
    """The claims in *payload*, whose signature is somebody else's matter, if *rules* hold. Raises InvalidToken."""
    claims = _object(payload, "claims")
    issuer = claims.get("iss")
    if not isinstance(issuer, str) or issuer not in rules.issuers:
        raise InvalidToken("it was made by another issuer", reason="issuer")
    audience = _audience(claims)
    if rules.audiences is None:
        if audience:
            raise InvalidToken("it was made for an audience, and none is expected", reason="audience")
    elif rules.audiences.isdisjoint(audience):
        raise InvalidToken("it was made for another audience", reason="audience")
    _check_times(claims, rules.leeway, now)
    if nonce is not None:
        told = claims.get("nonce")
        shown = told.encode("utf-8", "surrogatepass") if isinstance(told, str) else b""
        if not shown or not hmac.compare_digest(shown, nonce.encode()):
            raise InvalidToken("its nonce is not the one that was sent", reason="nonce")
    return Claims(claims, algorithm=algorithm, key_id=key_id)


def _check_times(claims: Mapping[str, Any], leeway: float, now: float) -> None:
    ends = _moment(claims, "exp")
    if ends is None:
        raise InvalidToken("it has no end (exp)", reason="claims")
    if now >= ends + leeway:
        raise InvalidToken(f"it ended {now - ends:.0f} s ago", reason="expired")
    for name in ("nbf", "iat"):
        begins = _moment(claims, name)
        if begins is not None and now < begins - leeway:
            raise InvalidToken(f"it begins in {begins - now:.0f} s ({name})", reason="early")


def _moment(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e12:
        raise InvalidToken(f"its {name} is no moment", reason="claims")
    return float(value)


def _audience(claims: Mapping[str, Any]) -> tuple[str, ...]:
    """As RFC 7519, section 4.1.3: a text, or several in a list."""
    found = claims.get("aud")
    listed = [] if found is None else found if isinstance(found, list) else [found]
    if not all(isinstance(one, str) for one in listed):
        raise InvalidToken("its audience is no text", reason="claims")
    return tuple(listed)


def _keys(given: Any, algorithms: Words | None) -> tuple[KeySet | KeyCache, bool]:
    """The keys, and whether they are secrets that we were given on purpose."""
    if isinstance(given, KeySet):
        return given, given.symmetric
    if isinstance(given, Secret):
        return KeySet.of_secrets(given), True
    if isinstance(given, (list, tuple)):
        if not all(isinstance(one, Mapping) for one in given):
            return KeySet.of_secrets(given), True
        given = {"keys": list(given)}
    if isinstance(given, (Mapping, str, bytes)):
        # A secret in a JWKS counts only where HS256 is asked for by name: what was fetched must not bring one along.
        named = algorithms is not None and bool(SYMMETRIC & _words("algorithms", algorithms))
        return KeySet.of(given, symmetric=named), False
    from moorline.identity.keys import KeyCache  # with all that calls need, which who has the keys at hand does not

    if isinstance(given, KeyCache):
        return given, False
    raise ConfigurationError("jwks: expected a JWKS, a map of certificates, a PEM, a KeySet, a KeyCache or a Secret")


def _words(name: str, given: Words) -> frozenset[str]:
    found = frozenset([given] if isinstance(given, str) else given)
    if not found or not all(_is(one, str) and one for one in found):
        raise ConfigurationError(f"{name} must be a text that is not empty, or several")
    return found


def unproven_claims(token: Unproven) -> Mapping[str, Any]:
    """What the token says, of which nothing is proved: to choose the rules by. Raises InvalidToken."""
    return _object(token.payload, "claims")


def _object(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object that can be read in one way only. Raises InvalidToken."""
    try:
        found = json.loads(data.decode(), object_pairs_hook=_once, parse_constant=_refused, parse_float=_finite)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InvalidToken(f"its {what} cannot be read")
    return found


def _is(value: object, kinds: type | tuple[type, ...]) -> bool:
    return isinstance(value, kinds)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found


def _refused(_: str) -> Any:
    raise ValueError("not a number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("not a number")
    return value


def part_of(part: str, what: str) -> bytes:
    """The bytes of base64url as RFC 7515 writes it: no padding, and no bits behind the end that could be anything.

    Raises InvalidToken, which names *what* it is a part of.
    """
    if _PART.fullmatch(part):
        try:
            found = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
        except binascii.Error:
            found = b""
        if found and base64.urlsafe_b64encode(found).rstrip(b"=") == part.encode():
            return found
    raise InvalidToken(f"its {what} cannot be read")
