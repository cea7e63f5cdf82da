"""What the services that know users have in common: the same operations with the same arguments, and the same values."""

from __future__ import annotations

import inspect
import json
from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from moorline import errors, redaction
from moorline.calls.guards import Guards
from moorline.calls.parameters import parameters_of
from moorline.clock import ManualClock
from moorline.identity import Claims
from moorline.services.auth.auth0 import Auth0
from moorline.services.auth.clerk import Clerk
from moorline.services.auth.firebase_auth import FirebaseAuth
from moorline.services.auth.protocol import (
    AuthService,
    User,
    VerifiedUser,
    check_password,
    given,
    moment_of,
    subject,
    words_in,
)
from moorline.services.auth.supabase_auth import SupabaseAuth
from moorline.services.verifying import listed

# What mypy says of this line is the test: each of them is what a program asks for that takes any.
SERVICES: list[AuthService] = [
    Auth0("k", domain="shop.auth0.com"),
    Clerk("k"),
    FirebaseAuth("k"),
    SupabaseAuth("k", url="https://ref.supabase.co"),
]


@pytest.mark.parametrize("service", SERVICES, ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("name", ["create_user", "update_user"])
def test_the_same_words_in_all(service: Any, name: str):
    """A program that creates and changes users by the common words runs with each service."""
    mine = inspect.signature(getattr(service, name)).parameters
    wanted = inspect.signature(getattr(AuthService, name)).parameters
    assert wanted.keys() - {"self"} <= mine.keys()
    for word in wanted.keys() - {"self", "extra"}:
        assert mine[word].kind == wanted[word].kind, word
        assert mine[word].default == wanted[word].default, word


@pytest.mark.parametrize("service", SERVICES, ids=lambda one: type(one).__name__)
def test_they_show_no_key(service: Any):
    """Nor any parameter that is none of the reader's business."""
    assert repr(service).startswith(f"<{type(service).__name__} at https://")


@pytest.mark.parametrize("kind", [Auth0, SupabaseAuth])
def test_without_an_account_they_can_be_shown(kind: type[Any], monkeypatch: pytest.MonkeyPatch):
    """Where its address is a part of the account's configuration, and that is missing."""
    for name in ("AUTH0_DOMAIN", "SUPABASE_URL", "MOORLINE_SANDBOX_URL"):
        monkeypatch.delenv(name, raising=False)
    assert repr(kind("k")) == f"<{kind.__name__}>"


_members = st.sampled_from(["keys", "kty", "kid", "n", "e", "crv", "x", "y", "use", "key_ops", "alg"])
_published = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_members, inner),
)


@settings(max_examples=100)
@drawn(
    kind=st.sampled_from([Auth0, Clerk, FirebaseAuth, SupabaseAuth]),
    content=st.binary(max_size=40) | _published.map(lambda value: json.dumps(value).encode()),
    status=st.sampled_from([200, 200, 200, 404, 500]),
)
def test_random_keys_give_typed_errors_only(kind: Any, content: bytes, status: int):
    """Whatever stands where the keys should be: an InvalidToken, or a CallError that names the service."""
    answer = httpx2.Response(status, content=content)
    options: dict[str, Any] = {name: one.sandbox or None for name, one in parameters_of(kind).items()}
    if kind is FirebaseAuth:
        options["project_id"] = "moorline-sandbox"
    service = kind(
        "k",
        wire=httpx2.MockTransport(lambda _: answer),
        guards=Guards(ManualClock()),
        base_url="https://box.example",
        **options,
    )
    with pytest.raises((errors.InvalidToken, errors.CallError)) as caught:
        service.verify_token("eyJhbGciOiJSUzI1NiIsImtpZCI6ImEifQ.eyJzdWIiOiJ4In0.AAAA").result()
    assert getattr(caught.value, "service", kind.name) == kind.name


def test_values_show_no_metadata():
    """What is kept with a user, and what a service said in its own words, is in no log line."""
    user = User("u", app_metadata={"plan": "secret-1"}, user_metadata={"x": "secret-2"}, raw={"y": "secret-3"})
    who = VerifiedUser("u", app_metadata={"plan": "secret-4"}, raw={"y": "secret-5"})
    assert "secret" not in f"{user!r}{who!r}"
    assert user == User("u", app_metadata={"plan": "secret-1"}, user_metadata={"x": "secret-2"})


def test_passwords():
    """Are counted, and masked in all that is logged from then on."""
    assert check_password(None) is None
    assert check_password("correct-horse-9") == "correct-horse-9"
    assert "correct-horse-9" not in redaction.text("the password was correct-horse-9")
    assert check_password("        ", least=8) == "        "
    for wrong in ("", "x" * 4097, 5):
        with pytest.raises(errors.InvalidRequest, match=r"^password"):
            check_password(wrong)  # type: ignore[arg-type]


def test_small_parts():
    """Fields that are None are left out; words are split; a time beyond the calendar is none."""
    assert given(a=None, b=0, c="") == {"b": 0, "c": ""}
    assert words_in("a  b") == words_in(["a", "b", 5]) == {"a", "b"}
    assert words_in(None) == words_in({"a": 1}) == frozenset()
    assert listed(" a, b ,,") == ("a", "b")
    assert listed("") == ()
    assert moment_of(0.5) == datetime(1970, 1, 1, microsecond=500_000, tzinfo=UTC)
    assert moment_of(None) is None
    with pytest.raises(errors.InvalidToken):
        moment_of(9e11)
    assert subject(Claims({"sub": "u"})) == "u"
    nobody: list[dict[str, Any]] = [{}, {"sub": ""}, {"sub": 5}]
    for wrong in nobody:
        with pytest.raises(errors.InvalidToken):
            subject(Claims(wrong))
