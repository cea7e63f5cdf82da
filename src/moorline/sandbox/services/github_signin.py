"""GitHub's sign-in: the page, tokens without an ID token, ``/user`` and ``/user/emails``.

Facts: signin/github.md. Users: ``octocat`` (whose profile shows another address than the primary one), ``ghost`` (who
has verified none). Errors of the token endpoint come with 200; its answers are forms unless JSON is asked for; scopes
are given back with commas. See :mod:`._signin`.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from moorline.sandbox.services._signin import Grants, Person, Refused, Silent
from moorline.sandbox.standin import Answer, Ask, Registration, Surroundings

__all__ = ["STAND_IN"]

_PEOPLE = (
    Person("octocat", "Mona Lisa", {"id": 583231, "email": "public@example.net", "primary": "octocat@example.com"}),
    Person("ghost", "Ghost", {"id": 10137, "email": None, "primary": None}),
)
_WORDS = {"invalid_client": "incorrect_client_credentials", "invalid_grant": "bad_verification_code"}
_DOCS = "https://docs.github.com/rest"


class GitHubSignInStandIn(Silent):
    """One OAuth App."""

    def __init__(self, around: Surroundings) -> None:
        self._grants = Grants(around, "GitHub", _PEOPLE)

    async def handle(self, ask: Ask) -> Answer:
        """Answer one request."""
        await ask.work()
        if ask.path == "/login/oauth/authorize" and ask.method in ("GET", "POST"):
            return self._grants.authorize(ask)
        if (ask.method, ask.path) == ("POST", "/login/oauth/access_token"):
            return self._token(ask)
        if ask.method == "GET" and ask.path in ("/user", "/user/emails"):
            return self._user(ask)
        return _error(404, "Not Found")

    def snapshot(self) -> dict[str, Any]:
        """Who can sign in, and how many codes and tokens are good."""
        return self._grants.snapshot()

    def failure(self, status: int) -> Answer:
        """GitHub's error body for an injected status."""
        return _error(status, "API rate limit exceeded" if status == 429 else "Server Error")

    def _token(self, ask: Ask) -> Answer:
        try:
            _, _, token, scope = self._grants.exchange(ask)
            answer = {"access_token": token, "scope": ",".join(scope.split()), "token_type": "bearer"}
        except Refused as refused:
            answer = {"error": _WORDS.get(refused.error, refused.error), "error_description": refused.description}
        if "application/json" in ask.headers.get("accept", ""):
            return Answer(200, answer)
        form = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
        return Answer(200, urlencode(answer).encode(), form)

    def _user(self, ask: Ask) -> Answer:
        if not ask.headers.get("user-agent"):
            return _error(403, "Request forbidden by administrative rules.")
        held = self._grants.person(ask)
        if held is None:
            return _error(401, "Bad credentials")
        person, scope = held
        scopes = {"X-OAuth-Scopes": ", ".join(scope.split())}
        if ask.path == "/user":
            number, email = person.claims["id"], person.claims["email"]
            avatar = f"https://avatars.githubusercontent.com/u/{number}"
            user = {"id": number, "node_id": f"U_{number}", "login": person.login, "name": person.name, "type": "User"}
            return Answer(200, user | {"email": email, "avatar_url": avatar}, scopes)
        if not {"user", "user:email"} & set(scope.split()):
            return _error(404, "Not Found")
        return Answer(200, _emails(person), scopes)


def _emails(person: Person) -> list[dict[str, Any]]:
    unproved = {"email": f"{person.login}@unproved.example", "primary": False, "verified": False, "visibility": None}
    primary = person.claims["primary"]
    if primary is None:
        return [unproved | {"primary": True}]
    return [unproved, {"email": primary, "primary": True, "verified": True, "visibility": "private"}]


def _error(status: int, message: str) -> Answer:
    return Answer(status, {"message": message, "documentation_url": _DOCS, "status": str(status)})


STAND_IN = Registration(name="github_signin", make=GitHubSignInStandIn)
