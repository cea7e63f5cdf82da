"""LogRocket: what its server side really offers: the data of users, and summaries of their sessions.

Facts: services/monitoring/logrocket.md; contract: logrocket.schema.json (derived). Errors, events, metrics and logs are
captured by its browser and mobile SDKs alone: no public API takes them, so nothing here pretends to. What errors look
like, and how the answers are called, comes from third parties and is unconfirmed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Final, Literal

from moorline.calls.service import (
    BearerKey,
    Endpoints,
    ErrorMap,
    Exchange,
    Parameter,
    Plan,
    Service,
    operation,
    segment,
)
from moorline.errors import BadAnswer, CallError, NotFound
from moorline.services.answers import optional_text, record
from moorline.services.limits import as_text, refused

__all__ = ["Highlights", "LogRocket"]

_NOBODY: Final = "00000000-0000-4000-8000-000000000000"
_CAPTURED: Final = (
    "LogRocket captures in its browser and mobile SDKs alone; report elsewhere, with the sessionURL of its SDK"
)


@dataclass(frozen=True, slots=True)
class Highlights:
    """A summary of a user's latest sessions, which is made within minutes: *status* is ``PENDING``, ``READY`` or
    ``FAILED``, and all that it says is in *raw*.
    """

    id: str
    status: Literal["PENDING", "READY", "FAILED"]
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


class LogRocket(Service):
    """Session replay by LogRocket, as far as a server has a part in it. *app* is the App ID of the settings,
    ``org/app``. There is no sandbox: use a project of its own. All needs a Pro or Enterprise plan: on a lower one a
    good key may be refused.

    Facts: services/monitoring/logrocket.md; contract: logrocket.schema.json.
    """

    name, category = "logrocket", "monitoring"
    docs = "services/monitoring/logrocket.md, logrocket.schema.json"
    endpoints = Endpoints("https://api.logrocket.com")
    credentials = BearerKey(env="LOGROCKET_API_KEY", sandbox="quay:shop:sandbox", scheme="token")  # the name is ours
    app = Parameter("LOGROCKET_APP_ID", sandbox="quay/shop", like="[A-Za-z0-9_-]+/[A-Za-z0-9_-]+")
    errors = ErrorMap(code="code", message="message|error|detail")
    webhooks = None
    lacks: ClassVar[Mapping[str, str]] = {
        "capture": _CAPTURED,
        "send_metrics": _CAPTURED,
        "send_logs": _CAPTURED,
        "send_events": _CAPTURED,
        "webhooks": "the callback of request_highlights is not signed: take it with app.source() under a secret path, "
        "and believe get_highlights() alone",
    }
    usage: ClassVar[str] = """
from moorline.services import LogRocket

LogRocket().identify("u_42", name="Ada", email="ada@example.com", traits={"plan": "pro", "seats": 4}).result()
print(LogRocket().request_highlights(user_id="u_42").result().status)
"""

    @operation
    def identify(
        self,
        user_id: str,
        *,
        name: str | None = None,
        email: str | None = None,
        traits: Mapping[str, str | bool | int | float] | None = None,
    ) -> Plan[Mapping[str, Any]]:
        """Set what is known of a user. A trait that is left out keeps its value, an empty one is removed; numbers, true
        and false come back as text (unconfirmed).

        Raises InvalidRequest where nothing is to be set, and for traits that are no text, number, true or false.
        """
        told: dict[str, Any] = {}
        if name is not None:
            told["name"] = as_text("name", name)
        if email is not None:
            told["email"] = as_text("email", email)
        for trait, one in (traits or {}).items():
            if not isinstance(one, str | bool | int | float):
                raise refused(f"traits[{trait}]", f"must be text, a number or true or false, not {type(one).__name__}")
        if traits:
            told["traits"] = dict(traits)
        if not told:
            raise refused("user", "needs a name, an e-mail address or traits")
        path = f"{self._root}/users/{segment(user_id, 'user_id')}"
        return self.put(path, json=told, blank=True, parse=_said)

    @operation
    def request_highlights(
        self,
        *,
        user_id: str | None = None,
        email: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        callback: str | None = None,
    ) -> Plan[Highlights]:
        """Ask for a summary of a user's latest sessions, 10 at most; ``get_highlights`` tells when it is ready, after 1
        to 3 minutes. The *callback* is told as well, without a signature.

        Lost answers are OutcomeUnknown: nothing keeps LogRocket from making it twice. Raises InvalidRequest without a
        user, for half of a time range, and for times without a zone.
        """
        told: dict[str, Any] = {}
        if user_id:
            told["userID"] = as_text("user_id", user_id)
        if email:
            told["userEmail"] = as_text("email", email)
        if not told:
            raise refused("user_id", "or email is needed")
        if (since is None) is not (until is None):
            raise refused("since", "and until are given together, or not at all")
        if since is not None and until is not None:
            told["timeRange"] = {"startMs": _ms("since", since), "endMs": _ms("until", until)}
        if callback is not None:
            if not as_text("callback", callback).startswith("https://"):
                raise refused("callback", "must be an https URL")
            told["webhookURL"] = callback
        return self.post(f"{self._root}/highlights/", json=told, parse=_highlights)

    @operation
    def get_highlights(self, highlights_id: str) -> Plan[Highlights]:
        """A summary as it is now. Raises NotFound."""
        return self.get(f"{self._root}/highlights/", query={"id": highlights_id}, parse=_highlights)

    @operation
    def check(self) -> Plan[bool]:
        """True if the key is not refused: asks for a summary that is not there, and takes NotFound for an answer, which
        a wrong *app* gives as well (unconfirmed). Raises AuthenticationFailed, PermissionDenied.
        """
        return self.get(f"{self._root}/highlights/", query={"id": _NOBODY}, parse=_there, accept=_known)

    @property
    def _root(self) -> str:
        org, _, app = self.app.partition("/")
        return f"/v1/orgs/{org}/apps/{app}"


def _there(exchange: Exchange) -> bool:
    record(exchange.data)
    return True


def _known(error: CallError) -> bool | None:
    return True if isinstance(error, NotFound) else None


def _said(exchange: Exchange) -> Mapping[str, Any]:
    return {} if exchange.data is None else record(exchange.data)


def _highlights(exchange: Exchange) -> Highlights:
    answer = record(exchange.data)
    found = optional_text(answer, "id") or optional_text(answer, "requestID") or optional_text(answer, "requestId")
    status = (optional_text(answer, "status") or "PENDING").upper()
    if not found:
        raise BadAnswer("the answer has no id of the request")
    if status not in ("PENDING", "READY", "FAILED"):
        raise BadAnswer("the answer has a status that is not known")
    return Highlights(found, status, answer)  # type: ignore[arg-type]


def _ms(field_: str, at: datetime) -> int:
    if at.tzinfo is None:
        raise refused(field_, "needs a time zone")
    return int(at.timestamp() * 1000)
