"""``KeySet``: the keys of an issuer, and which of them a token may have been signed with.

What a key may be used for is the key's own business: its type, curve, ``use``, ``key_ops`` and ``alg`` (RFC 7517,
RFC 8725 section 3.1). A public key is never a secret, so that no public key can be taken for the key of an HMAC.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from moorline.errors import ConfigurationError, InvalidToken
from moorline.secrets.secret import Secret

__all__ = ["ASYMMETRIC", "SYMMETRIC", "Key", "KeySet"]

_RSA: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_CURVES: Final = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521", "EdDSA": "Ed25519"}
ASYMMETRIC: Final = frozenset({*_RSA, *_CURVES})
SYMMETRIC: Final = frozenset({"HS256"})
_PUBLIC: Final = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x"), "oct": ("k",)}
_MOST: Final = 100  # keys of one issuer
_RSA_BITS: Final = range(2048, 8193)
_SECRET_BYTES: Final = 32  # RFC 7518, section 3.2: at least as many as the hash has
_PEM: Final = "-----BEGIN "


@dataclass(frozen=True, slots=True)
class Key:
    """One key: its id, and the algorithms that it may be used with. ``of_any_id``: it was given by hand and alone, so
    that it is asked whatever id a token names. ``issuer`` is for whom it signs, where the JWK says so, as Microsoft's
    do: one issuer, or a template with ``{tenantid}``.
    """

    id: str | None
    algorithms: frozenset[str]
    native: Any = field(repr=False)
    of_any_id: bool = False
    issuer: str | None = None

    def signs_for(self, issuer: str | None, tenant: object) -> bool:
        """Whether the key is one of that *issuer*, whose tenant the token names; of any, where it names none itself."""
        if self.issuer is None:
            return True
        own = self.issuer.replace("{tenantid}", tenant) if isinstance(tenant, str) else self.issuer
        return own == issuer

    def verifies(self, algorithm: str, signed: bytes, signature: bytes) -> bool:
        """Whether *signature* is that of *signed* by this key."""
        from joserfc.errors import JoseError
        from joserfc.jws import JWSRegistry

        if algorithm not in self.algorithms:
            return False
        try:
            return bool(JWSRegistry.algorithms[algorithm].verify(signed, signature, self.native))
        except (JoseError, ValueError, TypeError, OverflowError):
            return False


class KeySet:
    """The keys of one issuer. Make it with ``of`` (what an issuer publishes) or ``of_secrets``."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Iterable[Key]) -> None:
        self._keys = tuple(keys)

    @classmethod
    def of(cls, published: Any, *, symmetric: bool = False) -> KeySet:
        """The keys of a JWKS (``{"keys": […]}``), of one JWK, of Google's map of ids to certificates, or of a PEM.

        Keys that cannot be used to verify are left out (RFC 7517, section 5): for encryption, of an unknown type, too
        short, and, unless *symmetric*, secret ones. A lone PEM is asked whatever id a token names.

        Raises ConfigurationError for what is none of these, and without joserfc.
        """
        if isinstance(published, (str, bytes)):
            return cls._of_pem(published)
        if not isinstance(published, Mapping):
            raise ConfigurationError("keys: expected a JWKS, a map of certificates, or a PEM")
        listed = published.get("keys")
        if isinstance(listed, Sequence) and not isinstance(listed, (str, bytes)):
            return cls(_known([_of_jwk(one, symmetric=symmetric) for one in _bounded(listed)]))
        if "kty" in published:
            return cls(_known([_of_jwk(published, symmetric=symmetric)]))
        if published and all(isinstance(one, str) and one.lstrip().startswith(_PEM) for one in published.values()):
            _bounded(published)
            return cls(_known([_of_pem(pem, str(key_id)) for key_id, pem in published.items()]))
        raise ConfigurationError("keys: expected a JWKS, a map of certificates, or a PEM")

    @classmethod
    def _of_pem(cls, text: str | bytes) -> KeySet:
        pem = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        if not pem.lstrip().startswith(_PEM):
            raise ConfigurationError("keys: a text must be a PEM; a secret is given as a moorline.Secret")
        found = _of_pem(pem, None)
        if found is None:
            raise ConfigurationError("keys: the PEM holds no public key that can be used")
        return cls([found])

    @classmethod
    def of_secrets(cls, secrets: Secret | Iterable[Secret]) -> KeySet:
        """A secret that we share with the issuer, or several while it is changed: for HS256, and nothing else.

        Raises ConfigurationError for one of less than 32 bytes, and for a public key.
        """
        given = [secrets] if isinstance(secrets, Secret) else list(secrets)
        return cls([_of_secret(one) for one in given])

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        return f"<KeySet of {len(self._keys)}>"

    @property
    def symmetric(self) -> bool:
        """Whether it is secrets, given as such, and no other keys."""
        return bool(self._keys) and all(key.algorithms == SYMMETRIC and key.of_any_id for key in self._keys)

    def knows(self, key_id: str | None) -> bool:
        """Whether a key of that id is there; for a token that names none, whether there is any."""
        return any(key_id is None or key.of_any_id or key.id == key_id for key in self._keys)

    def chosen(self, algorithm: str, key_id: str | None) -> tuple[Key, ...]:
        """The one key that the token names, or the only one that fits where it names none; several secrets at once.

        Raises InvalidToken where there is none, or more than one public one.
        """
        fit = [key for key in self._keys if algorithm in key.algorithms]
        found = [key for key in fit if key_id is None or key.of_any_id or key.id == key_id]
        if not found:
            raise InvalidToken("the issuer has no such key for this algorithm", reason="key")
        if len(found) > 1 and not all(key.of_any_id for key in found):
            raise InvalidToken("it is not clear which key it is signed with", reason="key")
        return tuple(found)


def _bounded(listed: Any) -> Any:
    if len(listed) > _MOST:
        raise ConfigurationError(f"keys: {len(listed)} are more than the limit of {_MOST}")
    return listed


def _known(keys: Iterable[Key | None]) -> list[Key]:
    return [key for key in keys if key is not None]


def _joserfc() -> Any:
    try:
        from joserfc import jwk
    except ImportError as error:
        raise ConfigurationError("tokens are verified with joserfc; pip install 'moorline[jwt]'") from error
    return jwk


def _of_jwk(one: Any, *, symmetric: bool) -> Key | None:
    """The key, or None for one that does not verify signatures of ours."""
    kind = one.get("kty") if isinstance(one, Mapping) else None
    if not isinstance(kind, str) or kind not in _PUBLIC or (kind == "oct" and not symmetric):
        return None
    operations = one.get("key_ops", ["verify"])
    if one.get("use", "sig") != "sig" or not isinstance(operations, Sequence) or "verify" not in operations:
        return None
    fields = {"kty": kind, **{name: one.get(name) for name in _PUBLIC[kind]}}
    if not all(isinstance(value, str) for value in fields.values()):
        return None
    key_id = one.get("kid")
    algorithms = _algorithms(kind, fields.get("crv"), one.get("alg"))
    if not algorithms or not (key_id is None or isinstance(key_id, str)):
        return None
    native = _imported(fields)
    issuer = one.get("issuer")
    if native is None or not (issuer is None or isinstance(issuer, str)):
        return None
    return Key(key_id, algorithms, native, issuer=issuer)


def _algorithms(kind: str, curve: str | None, told: object) -> frozenset[str]:
    if kind == "RSA":
        possible = frozenset(_RSA)
    elif kind == "oct":
        possible = SYMMETRIC
    else:
        possible = frozenset(name for name, one in _CURVES.items() if one == curve)
    return possible if told is None else frozenset(name for name in possible if name == told)


def _imported(fields: Mapping[str, str]) -> Any:
    """Joserfc's key, or None where it makes none of it. The size is looked at first: joserfc warns of short keys, and
    long ones take a machine's time.
    """
    jwk = _joserfc()
    from joserfc.errors import JoseError

    try:
        if fields["kty"] == "RSA" and int.from_bytes(_bytes(fields["n"])).bit_length() not in _RSA_BITS:
            return None
        if fields["kty"] == "oct" and len(_bytes(fields["k"])) < _SECRET_BYTES:
            return None
        native = jwk.JWKRegistry.import_key(dict(fields))
        native.public_key  # noqa: B018 (a point that is not on its curve is found here)
    except (JoseError, ValueError, TypeError, OverflowError):
        return None
    return native


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _of_pem(pem: str, key_id: str | None) -> Key | None:
    """The key of a certificate, or of a public key. A certificate's own dates say nothing here: what an issuer
    publishes at this moment is what it signs with (so google-auth 2.63, ``jwt.py``).
    """
    jwk = _joserfc()
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    kinds = (
        (rsa.RSAPublicKey, jwk.RSAKey),
        (ec.EllipticCurvePublicKey, jwk.ECKey),
        (ed25519.Ed25519PublicKey, jwk.OKPKey),
    )
    try:
        data = pem.strip().encode()
        if b"-----BEGIN CERTIFICATE" in data:
            public: Any = x509.load_pem_x509_certificate(data).public_key()
        else:
            public = serialization.load_pem_public_key(data)
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        plain = public.public_bytes(serialization.Encoding.PEM, form)
        kind = next((one for known, one in kinds if isinstance(public, known)), None)
        short = isinstance(public, rsa.RSAPublicKey) and public.key_size not in _RSA_BITS
        native = None if kind is None or short else kind.import_key(plain)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    if native is None:
        return None
    algorithms = _algorithms(native.key_type, getattr(native, "curve_name", None), None)
    return Key(key_id, algorithms, native, of_any_id=key_id is None) if algorithms else None


def _of_secret(secret: Secret) -> Key:
    jwk = _joserfc()
    from joserfc.errors import JoseError

    if not isinstance(secret, Secret):
        raise ConfigurationError("keys: a symmetric key is given as a moorline.Secret")
    value = secret.reveal()
    if len(value.encode()) < _SECRET_BYTES:
        raise ConfigurationError(
            f"{secret.name or 'the secret'} is too short for HS256: at least {_SECRET_BYTES} bytes"
        )
    if _PEM in value or value.startswith("ssh-"):
        raise ConfigurationError(f"{secret.name or 'the secret'} is a public key, which is no secret")
    try:
        native = jwk.OctKey.import_key(value)
    except (JoseError, ValueError, TypeError):
        raise ConfigurationError(f"{secret.name or 'the secret'} cannot be used for HS256") from None
    return Key(None, SYMMETRIC, native, of_any_id=True)
