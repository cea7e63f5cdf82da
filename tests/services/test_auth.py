"""What the services that know users have in common: the same operations with the same arguments, and the same values."""

from __future__ import annotations

import inspect
from datetime import UTC, datetime
from typing import Any

import pytest

from moorline import errors, redaction
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
