"""LogRocket's stand-in: the data of users, and highlights that are ready at the second look.

Facts: services/monitoring/logrocket.md and logrocket.schema.json; the names in the answers are unconfirmed. The app is
``quay/shop``, its key ``quay:shop:sandbox``. The sandbox's own: highlights of a user whose id or address begins with
``nobody`` fail.
"""

from __future__ import annotations

import re
from typing import Any

from moorline.errors import ConfigurationError
from moorline.sandbox.services._intake import Refused, read_json
from moorline.sandbox.standin import Answer, Ask, Emission, Registration, Signed, Surroundings

__all__ = ["STAND_IN"]

_KEY = "quay:shop:sandbox"
_ROOT = "/v1/orgs/quay/apps/shop"


def _refused(status: int, message: str) -> Refused:
    return Refused(Answer(status, {"message": message}))


class LogRocketStandIn:
    """One app."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._users: dict[str, dict[str, Any]] = {}
        self._highlights: dict[str, dict[str, Any]] = {}

    async def handle(self, ask: Ask) -> Answer:
        """Answer one request."""
        try:
            if ask.headers.get("authorization") != f"token {_KEY}":
                raise _refused(401, "Invalid API key")
            await ask.work()
            return self._routed(ask)
        except Refused as refused:
            return refused.answer

    def snapshot(self) -> dict[str, Any]:
        """The users and the requested highlights by id."""
        return {"users": self._users, "highlights": self._highlights}

    def failure(self, status: int) -> Answer:
        """An error body for an injected status; LogRocket's own is not documented."""
        return Answer(status, {"message": "Too many requests" if status == 429 else "Internal server error"})

    def sample(self, event: str) -> bytes:
        """LogRocket signs none, so there is none to send."""
        raise ConfigurationError("'event': LogRocket sends no webhooks that could be checked")

    def sign(self, emission: Emission, *, url: str, secrets: tuple[str, ...], hook_id: str, broken: bool) -> Signed:
        """LogRocket signs none."""
        raise ConfigurationError("'service': LogRocket sends no webhooks that could be checked")

    def _routed(self, ask: Ask) -> Answer:
        user = re.fullmatch(rf"{_ROOT}/users/(.+)", ask.path)  # which is decoded
        if user and ask.method == "PUT":
            return self._identify(user[1], self._body(ask))
        if ask.path == f"{_ROOT}/highlights/" and ask.method == "POST":
            return self._request(self._body(ask))
        if ask.path == f"{_ROOT}/highlights/" and ask.method == "GET":
            return self._look(dict(ask.parameters).get("id", ""))
        raise _refused(404, "Not found")

    @staticmethod
    def _body(ask: Ask) -> dict[str, Any]:
        try:
            given = read_json(ask.body)
        except (ValueError, RecursionError):
            raise _refused(400, "The body is no JSON") from None
        if not isinstance(given, dict):
            raise _refused(400, "The body is no object")
        return given

    def _identify(self, name: str, given: dict[str, Any]) -> Answer:
        if not given or not all(isinstance(given.get(one, ""), str) for one in ("name", "email")):
            raise _refused(400, "name, email or traits are needed")
        traits = given.get("traits", {})
        if not isinstance(traits, dict) or not all(isinstance(one, str | int | float) for one in traits.values()):
            raise _refused(400, "traits are texts, numbers and booleans")
        held = self._users.setdefault(name, {"traits": {}})
        held |= {one: given[one] for one in ("name", "email") if one in given}
        for trait, value in traits.items():
            if value == "":
                held["traits"].pop(trait, None)  # a blank one is removed, one that is left out stays
            else:
                held["traits"][trait] = str(value).lower() if isinstance(value, bool) else str(value)
        return Answer(200, {"userID": name, **held})

    def _request(self, given: dict[str, Any]) -> Answer:
        who = given.get("userID") or given.get("userEmail")
        if not isinstance(who, str):
            raise _refused(400, "userID or userEmail is needed")
        if "timeRange" in given and not {"startMs", "endMs"} <= given["timeRange"].keys():
            raise _refused(400, "timeRange needs startMs and endMs")
        number = self._around.id("", 24)
        self._highlights[number] = {**given, "who": who, "looks": 0}
        return Answer(200, {"id": number, "status": "PENDING"})

    def _look(self, number: str) -> Answer:
        held = self._highlights.get(number)
        if held is None:
            raise _refused(404, "Not found")
        held["looks"] += 1
        if held["looks"] < 2:
            return Answer(200, {"id": number, "status": "PENDING"})
        if held["who"].startswith("nobody"):
            return Answer(200, {"id": number, "status": "FAILED"})
        return Answer(200, {"id": number, "status": "READY", "result": {"highlights": "Ada moored at quay 3."}})


STAND_IN = Registration(name="logrocket", make=LogRocketStandIn)
