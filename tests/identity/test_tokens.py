"""Which tokens are believed, and which never are."""

from __future__ import annotations

import base64
import copy
import json
import pickle
import sys
from typing import Any

import jwt as pyjwt
import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.identity.tokens import AUDIENCE, ISSUER, KIND, NOW, SECRET, b64, claims, jwk, jwks, private, token

from moorline import errors
from moorline.identity import Claims, KeySet, verify_token
from moorline.identity.tokens import MAX_TOKEN
from moorline.secrets.secret import Secret

PEM = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def verified(given: str, **options: Any) -> Claims:
    """The claims by the usual keys and rules."""
    arguments: dict[str, Any] = {"jwks": jwks(), "issuer": ISSUER, "audience": AUDIENCE, "now": NOW, **options}
    return verify_token(given, **arguments)


def refused(given: str, reason: str, **options: Any) -> errors.InvalidToken:
    """The error that a token gives, which has that reason and nothing of the token."""
    with pytest.raises(errors.InvalidToken) as caught:
        verified(given, **options)
    assert caught.value.reason == reason, caught.value
    assert all(part not in str(caught.value) for part in str(given).split(".") if len(part) > 10)
    return caught.value


@pytest.mark.parametrize("alg", KIND)
def test_good_tokens_of_every_algorithm(alg: str):
    """All that sign with a private key; PyJWT, which is independent, agrees on token and key."""
    made = token(alg=alg)
    keys = jwks(jwk(KIND[alg]))
    found = verified(made, jwks=keys)
    assert dict(found) == claims()
    assert (found.issuer, found.subject, found.audience) == (ISSUER, "u_1", (AUDIENCE,))
    assert (found.expires_at, found.issued_at, found.not_before) == (NOW + 600, NOW - 10, None)
    assert (found.algorithm, found.key_id) == (alg, "first")
    theirs = pyjwt.decode(
        made,
        pyjwt.PyJWK(keys["keys"][0], algorithm=alg),
        algorithms=[alg],
        audience=AUDIENCE,
        options={"verify_exp": False, "verify_iat": False},
    )
    assert theirs == claims()


def test_tokens_that_another_library_signed():
    """What PyJWT signs is accepted."""
    made = pyjwt.encode(claims(), private("P-256"), algorithm="ES256", headers={"kid": "first"})
    assert verified(made, jwks=jwks(jwk("P-256"))).subject == "u_1"


def test_claims_show_nothing():
    """A log line has the names alone, and the mapping does not change."""
    found = verified(token(claims(email="ada@example.com")))
    assert "ada" not in repr(found)
    assert "email" in repr(found)
    assert found.text("email") == "ada@example.com"
    assert found.text("nickname") is None
    with pytest.raises(TypeError):
        found["sub"] = "somebody"  # type: ignore[index]


def test_claims_are_values():
    """They are compared, copied and pickled as the mapping that they are."""
    found = verified(token())
    assert found == claims()
    for same in (copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert (same, same.algorithm, same.key_id) == (found, "RS256", "first")


# --- the algorithm


def test_none_is_no_algorithm():
    """``alg: none`` is refused however it is spelled, with and without a signature."""
    for spelled in ("none", "None", "NONE", "nOnE"):
        bare = token(alg="none", header={"alg": spelled})
        refused(f"{bare}AAAA", "algorithm")
        with pytest.raises(errors.InvalidToken):
            verified(bare)
        with pytest.raises(errors.ConfigurationError, match="none"):
            verified(bare, algorithms=["none"])


def test_a_public_key_is_no_secret():
    """HS256 with the public key as its secret, in any form in which an attacker can have it."""
    public = private("RSA").public_key()
    pem = public.public_bytes(*PEM)
    forms = [pem, pem.strip(), json.dumps(jwk("RSA")).encode(), base64.urlsafe_b64decode(jwk("RSA")["n"] + "==")]
    for form in forms:
        forged = token(alg="HS256", key=form)
        refused(forged, "algorithm")
        refused(forged, "key", algorithms=["RS256", "HS256"])
        refused(forged, "key", algorithms=["RS256", "HS256"], jwks=pem.decode())
    with pytest.raises(errors.ConfigurationError, match="public key"):
        verified(token(alg="HS256", key=pem), jwks=Secret(pem.decode()))


def test_a_secret_is_for_hs256_only():
    """Given on purpose it verifies HS256, and nothing that was signed with a private key."""
    good = token(alg="HS256", key=SECRET.reveal().encode())
    assert verified(good, jwks=SECRET).algorithm == "HS256"
    assert verified(good, jwks=[Secret("x" * 40), SECRET]).subject == "u_1"
    assert verified(good, jwks=KeySet.of_secrets(SECRET)).subject == "u_1"
    refused(good, "signature", jwks=Secret("another secret, which is as long as it must be"))
    refused(token(), "algorithm", jwks=SECRET)
    refused(token(), "key", jwks=SECRET, algorithms=["RS256"])
    with pytest.raises(errors.ConfigurationError, match="too short"):
        verified(good, jwks=Secret("short"))
    with pytest.raises(errors.ConfigurationError, match="Secret"):
        verified(good, jwks="a secret that is a mere text of some length")


def test_a_secret_among_published_keys_counts_only_where_it_is_asked_for():
    """What an issuer's page brings along must not become a way to sign."""
    key = b"a secret of more than thirty-two bytes"
    published = jwks({"kty": "oct", "kid": "first", "k": b64(key)})
    good = token(alg="HS256", key=key)
    refused(good, "algorithm", jwks=published)
    assert verified(good, jwks=published, algorithms="HS256").subject == "u_1"


@pytest.mark.parametrize("name", ["jwk", "jku", "x5u", "x5c"])
def test_a_token_brings_no_key_of_its_own(name: str):
    """A key, or an address of one, in the header changes nothing: the forger's key is not asked."""
    brought: dict[str, Any] = {
        "jwk": jwk("RSA", "forger"),
        "jku": "https://forger.example/jwks.json",
        "x5u": "https://forger.example/cert.pem",
        "x5c": ["MIIB"],
    }
    forged = token(key=private("RSA", "forger"), header={name: brought[name]})
    refused(forged, "signature")
    assert verified(token(header={name: brought[name]})).subject == "u_1"


def test_extensions_and_other_kinds():
    """``crit`` is refused whatever it names; so is a token that says it is something else."""
    for crit in (["b64"], ["exp"], [], "x"):
        refused(token(header={"crit": crit, "b64": False}), "malformed")
    for other in ("logout+jwt", "dpop+jwt", "secevent+jwt", 7):
        refused(token(header={"typ": other}), "malformed")
    for kind in ("at+jwt", "application/at+jwt", "jwt", None):
        assert verified(token(header={"typ": kind})).subject == "u_1"


def test_only_what_the_caller_allows():
    """A list of the caller's is the whole list; what it names must be known."""
    assert verified(token(), algorithms=["RS256"]).subject == "u_1"
    refused(token(alg="PS256"), "algorithm", algorithms=["RS256"])
    refused(token(header={"alg": 5}), "algorithm")
    for wrong in (["HS512"], ["RS256", "rs256"], [], ""):
        with pytest.raises(errors.ConfigurationError, match="algorithms"):
            verified(token(), algorithms=wrong)


# --- the key


def test_the_key_is_the_one_that_is_named():
    """By its id, exactly; without an id only where one key fits; another one is never tried."""
    keys = jwks(jwk("RSA"), jwk("RSA", "second"), jwk("P-256", "curve"))
    assert verified(token(name="second"), jwks=keys).key_id == "second"
    refused(token(header={"kid": "third"}), "key", jwks=keys)
    refused(token(header={"kid": "second"}), "signature", jwks=keys)
    refused(token(header={"kid": "curve"}), "key", jwks=keys)
    refused(token(header={"kid": None}), "key", jwks=keys)
    refused(token(header={"kid": ["first"]}), "key", jwks=keys)
    refused(token(header={"kid": "x" * 513}), "key", jwks=keys)
    assert verified(token(alg="ES256", name="curve", header={"kid": None}), jwks=keys).subject == "u_1"
    assert verified(token(header={"kid": None})).subject == "u_1"
    refused(token(), "key", jwks=jwks(jwk("RSA"), jwk("RSA", "second") | {"kid": "first"}))


@pytest.mark.parametrize(
    "changed",
    [
        {"use": "enc"},
        {"key_ops": ["sign"]},
        {"key_ops": []},
        {"alg": "RS512"},
        {"alg": "RSA-OAEP"},
        {"kty": "ML-DSA"},
        {"n": 5},
        {"n": ""},
        {"e": None},
        {"kid": 5},
        {"kty": None},
        {"kty": ["RSA"]},
        {"alg": ["RS256"]},
        {"alg": {}},
        {"use": ["sig"]},
        {"key_ops": {"verify": True}},
        {"key_ops": [["verify"]]},
        {"kid": ["first"]},
    ],
)
def test_a_key_is_used_for_what_it_is_made_for(changed: dict[str, Any]):
    """``use``, ``key_ops``, ``alg`` and the type; a key that cannot be read spoils none of the others."""
    keys = jwks(jwk("RSA") | changed, jwk("RSA", "second"))
    refused(token(), "key", jwks=keys)
    assert verified(token(name="second"), jwks=keys).subject == "u_1"


def test_a_curve_is_for_its_own_algorithm():
    """ES256 is P-256 and no other (RFC 7518, section 3.4); a point that is on no curve is no key."""
    refused(token(alg="ES256", key=private("P-384")), "key", jwks=jwks(jwk("P-384")))
    nowhere = jwk("P-256") | {"y": jwk("P-256", "another")["y"]}
    refused(token(alg="ES256"), "key", jwks=jwks(nowhere))


def test_short_keys_are_none():
    """An RSA key of 1024 bits proves nothing any more."""
    refused(token(key=private("RSA1024")), "key", jwks=jwks(jwk("RSA1024")))


def test_keys_given_by_hand():
    """A PEM is asked whatever id a token names; so are a single JWK, a map of certificates and a set that was read."""
    pem = private("RSA").public_key().public_bytes(*PEM)
    for keys in (pem, pem.decode(), KeySet.of(pem)):
        assert verified(token(header={"kid": "any"}), jwks=keys).subject == "u_1"
    assert verified(token(), jwks=jwk("RSA")).subject == "u_1"
    assert verified(token(), jwks=[jwk("RSA"), jwk("P-256", "curve")]).subject == "u_1"
    assert verified(token(), jwks={"first": pem.decode()}).subject == "u_1"
    refused(token(header={"kid": "any"}), "key", jwks={"first": pem.decode()})
    assert repr(KeySet.of(jwks())) == "<KeySet of 1>"


@pytest.mark.parametrize(
    "wrong", [{}, {"keys": "x"}, {"first": "x"}, 5, "-----BEGIN PUBLIC KEY-----", b"x", {"keys": [{}] * 101}, [5]]
)
def test_what_are_no_keys(wrong: Any):
    """Named as such where it is the caller's mistake."""
    with pytest.raises(errors.ConfigurationError, match=r"keys|jwks"):
        verified(token(), jwks=wrong)


# --- the claims


def test_the_parties():
    """``iss`` to the letter, ``aud`` one of several; where none is expected there must be none."""
    for issuer in ("https://issuer.example", "https://ISSUER.example/", "https://issuer.example/x", ["x"], None, 5):
        refused(token(claims(iss=issuer)), "issuer")
    assert verified(token(), issuer=["https://other.example", ISSUER]).issuer == ISSUER
    several = token(claims(aud=["other", AUDIENCE]))
    assert verified(several).audience == ("other", AUDIENCE)
    assert verified(several, audience=("x", "other")).subject == "u_1"
    for audience in ("other", [], ["other"], None, ""):
        refused(token(claims(aud=audience)), "audience")
    for strange in ({"a": 1}, [5], 5):
        refused(token(claims(aud=strange)), "claims")
    assert verified(token(claims(aud=None)), audience=None).audience == ()
    refused(token(), "audience", audience=None)
    missing: list[dict[str, Any]] = [{"issuer": ""}, {"issuer": []}, {"audience": ""}, {"audience": []}]
    for wrong in missing:
        with pytest.raises(errors.ConfigurationError):
            verified(token(), **wrong)


def test_the_times():
    """``exp`` must be there and in the future, ``nbf`` and ``iat`` in the past, give or take the leeway."""
    assert verified(token(claims(exp=NOW - 29))).subject == "u_1"
    refused(token(claims(exp=NOW - 30)), "expired")
    refused(token(claims(exp=NOW)), "expired", leeway=0)
    assert verified(token(claims(exp=NOW + 0.5)), leeway=0).expires_at == NOW + 0.5
    for name in ("nbf", "iat"):
        assert verified(token(claims(**{name: NOW + 30}))).subject == "u_1"
        refused(token(claims(**{name: NOW + 31})), "early")
    assert verified(token(claims(iat=None))).issued_at is None
    ends: list[Any] = [None, "1800000600", True, -1, 1e13, [NOW + 60], {}]
    for wrong in ends:
        refused(token(claims(exp=wrong)), "claims")
    for leeway in (-1, 301, True, "5", float("nan")):
        with pytest.raises(errors.ConfigurationError, match="leeway"):
            verified(token(), leeway=leeway)


def test_the_present_is_the_machines():
    """Without *now* it is this moment: a token of another year is over."""
    with pytest.raises(errors.InvalidToken) as caught:
        verify_token(token(claims(exp=1_500_000_000)), jwks=jwks(), issuer=ISSUER, audience=AUDIENCE)
    assert caught.value.reason == "expired"


def test_the_nonce():
    """The one that was sent, if one is asked for."""
    assert verified(token(claims(nonce="n-1")), nonce="n-1").subject == "u_1"
    for told in ("n-2", None, 5, "", "\ud800"):
        refused(token(claims(nonce=told)), "nonce", nonce="n-1")
    refused(token(claims()), "nonce", nonce="")


# --- the form


def test_what_is_no_token():
    """Of another kind, too long, in other alphabets, or to be read in two ways."""
    good = token()
    head, body, mark = good.split(".")
    wrong = [
        "", ".", "..", "a.b", "opaque-token", f"{good}.", f"{good}.x.y", f" {good}", f"{good}\n", f"{head}.{body}",
        f"{head}=.{body}.{mark}", f"{head}.{body}.{mark}==", f"{head}.{body}.", f".{body}.{mark}", f"{head}..{mark}",
        "x" * (MAX_TOKEN + 1), token(claims(x="y" * MAX_TOKEN)), f"{head}.{body}.{mark[:-4]}+/==",
        token(b"[]"), token(b"null"), token(b"{"), token(b'{"exp":NaN}'), token(b'{"a":1e999}'), token(b"[" * 12_000),
        token(b'{"exp":1,"exp":2}'), token(b'{"a":{"b":1,"b":1}}'), token(b'{"a":' + b"9" * 5000 + b"}"),
        token(b"\xff\xfe{}"), token(header=b"[]"), token(header=b'{"alg":"RS256","alg":"RS256"}'), f"{head}.{body}.ä",
    ]  # fmt: skip
    for one in wrong:
        with pytest.raises(errors.InvalidToken):
            verified(one)
    for strange in (None, b"a.b.c", 5, ["a"]):
        with pytest.raises(errors.InvalidToken):
            verified(strange)  # type: ignore[arg-type]


def test_a_claim_of_another_kind():
    """Is told when it is asked for, by its name alone."""
    found = verified(token(claims(email=["x"], auth_time="noon")))
    with pytest.raises(errors.InvalidToken, match="email"):
        found.text("email")
    with pytest.raises(errors.InvalidToken, match="auth_time"):
        found.moment("auth_time")


GOOD = {alg: token(alg=alg) for alg in ("RS256", "PS256", "ES256", "EdDSA")}
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.="


@settings(max_examples=300)
@given(
    alg=st.sampled_from(sorted(GOOD)), at=st.floats(0, 1, exclude_max=True), letter=st.sampled_from(ALPHABET),
    kind=st.sampled_from(["put", "in", "out"]),
)  # fmt: skip
def test_no_changed_token_is_believed(alg: str, at: float, letter: str, kind: str):
    """One letter changed, put in or left out, anywhere: not even the bits behind the signature's end may differ."""
    good = GOOD[alg]
    place = int(at * len(good))
    changed = good[:place] + ("" if kind == "out" else letter) + good[place + (kind != "in") :]
    if changed == good:
        assert verified(changed, jwks=jwks(jwk(KIND[alg]))).subject == "u_1"
        return
    with pytest.raises(errors.InvalidToken):
        verified(changed, jwks=jwks(jwk(KIND[alg])))


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200)
@given(body=st.dictionaries(st.sampled_from(["iss", "aud", "exp", "nbf", "iat", "nonce", "sub"]), _json))
def test_whatever_is_signed_gives_claims_or_a_refusal(body: dict[str, Any]):
    """Claims of any kind never give another error."""
    try:
        found = verified(token({**claims(), **body}))
    except errors.InvalidToken:
        return
    assert found.issuer == ISSUER


@settings(max_examples=200)
@given(given=st.text(max_size=60) | st.lists(st.binary(max_size=40).map(b64), min_size=3, max_size=3).map(".".join))
def test_whatever_comes_is_refused(given: str):
    """Texts of any kind are no tokens, and say so."""
    with pytest.raises(errors.InvalidToken):
        verified(given)


def test_joserfc_is_wanted_by_name(monkeypatch: pytest.MonkeyPatch):
    """Without it the error says what to install."""
    monkeypatch.setitem(sys.modules, "joserfc", None)
    with pytest.raises(errors.ConfigurationError, match=r"moorline\[jwt\]"):
        verified(token())
