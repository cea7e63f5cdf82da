"""Microsoft Graph: who a connected account is, any other endpoint by ``request``; and change notifications of mail,
calendars, files, users and Teams.

Facts: signin/microsoft.md (accounts, tokens, ``/me``); read in microsoftgraph/microsoft-graph-docs-contrib:
learn.microsoft.com/graph/api/user-get and user-update, /graph/errors (shape, codes, statuses), /graph/throttling
(Retry-After), /graph/best-practices-concept (the header ``request-id``), /graph/change-notifications-delivery-webhooks
(how they come, clientState, validationToken, answers, retries), /graph/api/resources/changenotification (fields). There
is no contract.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from moorline.calls.service import BearerKey, Endpoints, ErrorMap, Exchange, Plan, Service, operation
from moorline.errors import Conflict, InvalidRequest, PermissionDenied, RateLimited
from moorline.events.delivery import Delivers
from moorline.events.handshakes import QueryEcho
from moorline.events.schemes.secret_in_body import SecretInBody
from moorline.identity.vendors import microsoft
from moorline.services.answers import items, moment, optional_text, record, text

if TYPE_CHECKING:
    from moorline.events.event import Event

__all__ = ["GraphNotification", "GraphUser", "MicrosoftGraph"]

_ME = "/v1.0/me"


@dataclass(frozen=True, slots=True)
class GraphUser:
    """A user. *id* is the same for all applications in the user's tenant; *email* may be anybody's, so that nobody is
    to be known by it.
    """

    id: str
    principal_name: str | None = None
    name: str | None = None
    email: str | None = None
    given_name: str | None = None
    surname: str | None = None
    job_title: str | None = None
    office: str | None = None
    language: str | None = None
    mobile_phone: str | None = None
    business_phones: tuple[str, ...] = ()
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class GraphNotification:
    """What a notification says: *what* has become (``created``, ``updated``, ``deleted``) of *resource*, an address
    below ``https://graph.microsoft.com``, or, where it is about the subscription itself (*lifecycle*), of that
    (``reauthorizationRequired``, ``subscriptionRemoved``, ``missed``). The subscription ends at *ends_at*.
    """

    what: str
    lifecycle: bool
    subscription_id: str | None = None
    tenant_id: str | None = None
    resource: str | None = None
    resource_id: str | None = None
    ends_at: datetime | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


class MicrosoftGraph(Service):
    """Microsoft Graph, for accounts that users connect: it has no key of its own, so that calls are made with
    ``app.connections.get(owner, MicrosoftGraph)``. Whoever gets tokens elsewhere gives them as *api_key*.

    Accounts are of work or school, or personal. Who wants another tenant than ``common``, or always other scopes, makes
    a class of its own: ``class Work(MicrosoftGraph): oauth = microsoft("User.Read", tenant="organizations")`` (of
    ``moorline.identity.vendors``). Scopes are spelled as Microsoft's page of permissions
    has them (``Mail.Read``), all of this one resource. Each refresh gives another refresh token; a grant ends when its
    user's password is changed, an administrator takes it back, or a policy wants to see the user again. It cannot be
    taken back from here.

    A 429 or 503 names how long to wait (``Retry-After``). The code of an error is the outermost one, those within it
    stand in ``detail``.

    Webhooks are change and lifecycle notifications, believed for their ``clientState``. Give each subscription the
    secret as its ``clientState`` (255 characters at most), and this address also as its ``lifecycleNotificationUrl``. A
    type is ``created``, ``updated``, ``deleted``, or the lifecycle's
    ``reauthorizationRequired``, ``subscriptionRemoved``, ``missed``. Notifications with resource data come encrypted,
    and with ``validationTokens``: neither is looked into here.

    Facts: services/signin/microsoft.md; learn.microsoft.com/graph/api/user-get, learn.microsoft.com/graph/errors,
    learn.microsoft.com/graph/throttling, learn.microsoft.com/graph/change-notifications-delivery-webhooks,
    learn.microsoft.com/graph/api/resources/changenotification
    """

    name, category = "microsoft_graph", "business"
    docs = "services/signin/microsoft.md"
    endpoints = Endpoints("https://graph.microsoft.com")
    credentials = BearerKey(env="", sandbox="sandbox-graph-token")
    oauth = microsoft("User.Read")
    errors = ErrorMap(
        code="error.code",
        message="error.message",
        request_id="header:request-id",  # in the body of an error, at error.innerError.request-id, too
        limited=frozenset({"activityLimitReached"}),
        # Payment and storage are no faults that pass, and 501 is for what it does not know.
        statuses={402: PermissionDenied, 423: Conflict, 501: InvalidRequest, 507: PermissionDenied, 509: RateLimited},
    )
    webhooks = SecretInBody(
        field="clientState",
        env="MICROSOFT_GRAPH_CLIENT_STATE",
        each="value.*",
        # The notification's own id is optional, and that a retry repeats it is unconfirmed. Without any of the last
        # three a second change looks as the first one did: handled twice is better than not at all.
        id=(
            "subscriptionId",
            "resourceData.id",
            "changeType|lifecycleEvent",
            "id|resourceData.sequenceNumber|resourceData.@odata\\.etag",
        ),
        lacking="new",
        type=("lifecycleEvent", "changeType"),
        handshakes=(QueryEcho(echo="validationToken", methods=("POST",)),),
        delivers=Delivers(within=3, retries="with growing gaps for up to 4 hours"),  # newer text: within 10 s
    )
    usage = """
from moorline.services import MicrosoftGraph

graph = MicrosoftGraph()  # in the sandbox; elsewhere app.connections.get("u_1", MicrosoftGraph)
print(graph.get_me().result().name)
graph.request("PATCH", "/v1.0/me", json={"jobTitle": "Analyst"}).result()
"""

    @operation
    def get_me(self) -> Plan[GraphUser]:
        """Whose account it is. Needs ``User.Read``. Raises AuthenticationFailed, PermissionDenied."""
        return self.get(_ME, parse=_user)

    @operation
    def check(self) -> Plan[bool]:
        """True if the token is good. Raises AuthenticationFailed if not."""
        return self.get(_ME, parse=_is_user)

    @classmethod
    def read_event(cls, event: Event) -> GraphNotification:
        """What a notification means. Raises BadAnswer for an event of another shape."""
        told = record(event.payload, "the event")
        lifecycle = optional_text(told, "lifecycleEvent")
        about = record(told.get("resourceData") or {}, "resourceData")
        return GraphNotification(
            lifecycle or text(told, "changeType"),
            lifecycle is not None,
            subscription_id=optional_text(told, "subscriptionId"),
            tenant_id=optional_text(told, "tenantId"),
            resource=optional_text(told, "resource"),
            resource_id=optional_text(about, "id"),
            ends_at=moment(told, "subscriptionExpirationDateTime"),
            raw=told,
        )


def _user(exchange: Exchange) -> GraphUser:
    told = record(exchange.data)
    phones = items(told.get("businessPhones") or [], "businessPhones")
    return GraphUser(
        text(told, "id"),
        principal_name=optional_text(told, "userPrincipalName"),
        name=optional_text(told, "displayName"),
        email=optional_text(told, "mail"),
        given_name=optional_text(told, "givenName"),
        surname=optional_text(told, "surname"),
        job_title=optional_text(told, "jobTitle"),
        office=optional_text(told, "officeLocation"),
        language=optional_text(told, "preferredLanguage"),
        mobile_phone=optional_text(told, "mobilePhone"),
        business_phones=tuple(one for one in phones if isinstance(one, str)),
        raw=told,
    )


def _is_user(exchange: Exchange) -> bool:
    return bool(text(record(exchange.data), "id"))
