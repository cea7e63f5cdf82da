"""What a service declares of how its accounts are connected: scopes, and what answers bring."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorline.errors import BadAnswer, ConfigurationError
from moorline.identity.oauth import OAuth
from moorline.services import HubSpot

HUB = OAuth(authorize="https://hub.example/authorize", token="/token", account="hub_id")
TOKENS = {"access_token": "canary-access", "token_type": "Bearer"}


def declared(**fields: Any) -> OAuth:
    """A record with those fields."""
    given: dict[str, Any] = {"authorize": "https://hub.example/authorize", "token": "/token", **fields}
    return OAuth(**given)


# --- scopes

NAMES = st.sampled_from(["read", "write", "admin", "mail", "long/mail", "files", "offline"])
SCOPES = st.frozensets(NAMES)
IMPLIES = st.dictionaries(NAMES, st.tuples(NAMES) | st.tuples(NAMES, NAMES), max_size=6)


@given(own=SCOPES, granted=SCOPES, wanted=SCOPES, implies=IMPLIES, unlisted=SCOPES)
def test_what_is_missing_and_what_is_asked_for(
    own: frozenset[str],
    granted: frozenset[str],
    wanted: frozenset[str],
    implies: dict[str, tuple[str, ...]],
    unlisted: frozenset[str],
):
    """Whatever implies what: nothing is missing of what was granted, granting more takes nothing away, who grants all
    that is asked for has granted the old and the wanted, and no more than these and the record's own is asked for.
    """
    oauth = declared(scopes=tuple(sorted(own)), implies=implies, unlisted=tuple(unlisted))
    assert oauth.missing(granted, granted) == frozenset()
    missing = oauth.missing(granted, wanted)
    assert missing <= wanted - granted
    assert oauth.missing(granted | own, wanted) <= missing
    asked = oauth.asking(granted, wanted)
    assert len(asked) == len(set(asked))
    assert own <= set(asked) <= own | granted | wanted
    assert oauth.missing(asked, own | granted | wanted) == frozenset()
    assert missing - oauth.granted_with(asked) == frozenset()


@given(SCOPES, SCOPES)
def test_scopes_are_compared_to_the_letter(granted: frozenset[str], wanted: frozenset[str]):
    """Where none implies another one."""
    assert declared().missing(granted, wanted) == wanted - granted
    assert declared().missing({one.upper() for one in wanted}, wanted) == wanted


def test_one_scope_gives_another():
    """GitHub's ``repo`` gives ``public_repo``, Google's long names are the short ones; the narrower is not asked for."""
    oauth = declared(implies={"repo": ("public_repo",), "email": ("long/email",), "long/email": ("email",)})
    assert oauth.missing({"repo"}, {"public_repo"}) == frozenset()
    assert oauth.missing({"public_repo"}, {"repo"}) == {"repo"}
    assert oauth.missing({"long/email"}, {"email"}) == frozenset()
    assert oauth.asking({"public_repo"}, {"repo"}) == ("repo",)
    assert declared(unlisted=("offline_access",)).missing((), {"offline_access"}) == frozenset()


# --- answers


def test_an_answer_as_the_rfc_has_it():
    """Tokens, seconds, scopes with spaces; what is not told is None."""
    answer = {**TOKENS, "refresh_token": "canary-refresh", "expires_in": 1800, "scope": "a b"}
    received = declared().received(answer)
    assert received.granted.tokens.access.reveal() == "canary-access"
    assert received.granted.tokens.refresh is not None
    assert received.granted.tokens.refresh.reveal() == "canary-refresh"
    assert (received.granted.lasts, received.account) == (1800.0, "")
    assert received.granted.scopes == frozenset({"a", "b"})
    assert "canary" not in repr(received)
    bare = declared(lasts=60.0).received({"access_token": "x"}).granted
    assert (bare.tokens.refresh, bare.lasts, bare.scopes) == (None, 60.0, None)


def test_answers_of_other_shapes():
    """Nested tokens, other token types, scopes with commas or as a list, fields that are kept, numbers as text."""
    oauth = declared(
        within="authed_user", token_types=("user",), account="team.id", keeps=("team.id", "bot", "no.such")
    )
    inner = {"access_token": "x", "token_type": "user", "scope": "a,b", "expires_in": "43200"}
    received = oauth.received({"ok": True, "team": {"id": "T1"}, "bot": "U1", "authed_user": inner})
    assert received.account == "T1"
    assert received.granted.tokens.extra == {"team.id": "T1", "bot": "U1"}
    assert (received.granted.scopes, received.granted.lasts) == (frozenset({"a", "b"}), 43200.0)
    shaped = declared(reads=lambda answer: {"access_token": answer["token"]})
    assert shaped.received({"token": "x"}).granted.tokens.access.reveal() == "x"


def test_hubspot_declares_itself():
    """Its answer names the account by a number, and the scopes as a list."""
    answer = {
        "token_type": "bearer", "refresh_token": "na1-ab12", "hub_id": 62515, "access_token": "AAA1234",
        "scopes": ["oauth", "crm.objects.contacts.read"], "expires_in": 1800,
    }  # fmt: skip
    received = HubSpot.oauth.received(answer)
    assert received.account == "62515"
    assert received.granted.scopes == frozenset({"oauth", "crm.objects.contacts.read"})
    assert HubSpot.oauth.endings == {"invalid_grant", "BAD_REFRESH_TOKEN"}


@pytest.mark.parametrize(
    "changed",
    [
        {"access_token": None}, {"access_token": ""}, {"access_token": ["x"]}, {"access_token": "a\nb"},
        {"access_token": "x" * 20_001}, {"refresh_token": 7}, {"token_type": "mac"}, {"expires_in": "soon"},
        {"expires_in": -1}, {"expires_in": True}, {"expires_in": 1e99}, {"scope": 7}, {"scope": [7]},
        {"scope": ["a b"]}, {"hub_id": None}, {"hub_id": True}, {"hub_id": "a\0"}, {"hub_id": {}},
    ],
)  # fmt: skip
def test_answers_that_cannot_be(changed: dict[str, Any]):
    """They are refused, and the error holds nothing of them."""
    with pytest.raises(BadAnswer) as caught:
        HUB.received({**TOKENS, "refresh_token": "canary-refresh", "hub_id": 1, **changed})
    assert "canary" not in str(caught.value)


JSON = st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.lists(st.integers(), max_size=2)


@given(
    JSON | st.dictionaries(st.sampled_from(["access_token", "scope", "hub_id", "x"]), JSON | st.just({}), max_size=3)
)
def test_no_answer_but_one_with_tokens_is_taken(answer: Any):
    """Whatever JSON comes: BadAnswer, or a token, an account and scopes that are some."""
    try:
        received = HUB.received(answer)
    except BadAnswer:
        return
    assert received.granted.tokens.access.reveal() == answer["access_token"]
    assert received.account == str(answer["hub_id"])
    assert received.granted.scopes is None or all(received.granted.scopes)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"authorize": "http://hub.example/authorize"}, "OAuth.authorize"),
        ({"token": ""}, "token"),
        ({"revoke": "ftp://hub.example"}, "OAuth.revoke"),
        ({"parameters": {"state": "x"}}, "OAuth.parameters: state"),
        ({"scope": "user_scope", "parameters": {"user_scope": "x"}}, "OAuth.parameters: user_scope"),
        ({"answers_issuer": True}, "OAuth.issuer"),
    ],
)
def test_a_record_that_cannot_be(fields: dict[str, Any], named: str):
    """It is refused where it is written, by name."""
    with pytest.raises(ConfigurationError, match=named):
        declared(**fields)
