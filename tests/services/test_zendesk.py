from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest
from tests.services.conftest import Box
from tests.services.recorder import Recorder, answered

from moorline import errors
from moorline.calls.call import Call
from moorline.calls.guards import Guards
from moorline.calls.paging import Pages
from moorline.clock import ManualClock
from moorline.events import Event
from moorline.events.verification import verify_each
from moorline.policies.policy import Policy
from moorline.policies.retry import Retry
from moorline.sandbox.services import zendesk as stand_in_module
from moorline.sandbox.services.zendesk import STAND_IN
from moorline.sandbox.standin import Emission, Surroundings
from moorline.secrets.secret import Secret
from moorline.services.business.zendesk import ChangeKind, Exported, Ticket, User, Zendesk

Run = Callable[[Any], Any]
NOW = 1_790_000_000.0
SINCE = datetime(2026, 1, 1, tzinfo=UTC)
TICKET = {"id": 1, "status": "open", "updated_at": "2026-11-28T10:00:00Z"}
CALLS: list[Callable[[Zendesk], Any]] = [
    lambda s: s.create_ticket("Help", subject="Refund", requester={"name": "Ada", "email": "ada@customer.example"}),
    lambda s: s.get_ticket(1),
    lambda s: s.update_ticket(1, status="solved", comment="Done"),
    lambda s: s.add_comment(1, "note", public=False),
    lambda s: s.list_comments(1).page(),
    lambda s: s.list_tickets().page(),
    lambda s: s.list_changed_tickets(SINCE).page(),
    lambda s: s.list_changed_users(SINCE).page(),
    lambda s: s.search("type:ticket").page(),
    lambda s: s.export("refund", kind="ticket").page(),
    lambda s: s.upsert_user("Ada", email="ada@customer.example"),
    lambda s: s.get_user(1),
    lambda s: s.search_users("ada").page(),
    lambda s: s.check(),
]


def items(pages: Any, run: Run) -> list[Any]:
    """All items of a listing, page after page, in the colour of *run*."""
    found, page = [], run(pages.page())
    while True:
        found += page.items
        if page.next is None:
            return found
        page = run(Call.of(pages.service, pages.operation, page.next, replayable=False))


def alone(emitted: list[Emission] | None = None, **options: Any) -> tuple[Any, Zendesk]:
    """A stand-in that nobody serves, and Zendesk in front of it."""
    emit = (lambda _: None) if emitted is None else emitted.append
    stand_in = STAND_IN.make(Surroundings(clock=ManualClock(NOW), emit=emit))
    wire = httpx2.MockTransport(lambda request: answered(stand_in, request))
    given = {"subdomain": "acme", "email": "agent@acme.example", **options}
    return stand_in, Zendesk(given.pop("key", "token-0123456789"), wire=wire, guards=Guards(), **given)


def test_a_ticket_from_first_to_last(box: Box, run: Run):
    """Opened with its requester, read, answered, noted, changed and solved; a closed one cannot be changed."""
    service = box.service(Zendesk)
    ticket = run(
        service.create_ticket(
            "Order 17 is late",
            subject="Refund",
            requester={"name": "Ada", "email": "ada@customer.example"},
            priority="high",
            ticket_type="problem",
            tags=["vip"],
            external_id="A-17",
            custom_fields={360: "x"},
            group_id=7,
        )
    )
    assert (ticket.status, ticket.priority, ticket.type, ticket.tags) == ("new", "high", "problem", ("vip",))
    assert (ticket.external_id, ticket.raw["custom_fields"], ticket.raw["group_id"]) == (
        "A-17",
        [{"id": 360, "value": "x"}],
        7,
    )
    assert run(service.get_ticket(ticket.id)) == ticket
    assert run(service.get_user(ticket.requester_id)).email == "ada@customer.example"
    run(service.add_comment(ticket.id, "We look into it."))
    run(service.add_comment(ticket.id, "Ask the carrier.", public=False))
    changed = run(service.update_ticket(ticket.id, status="solved", tags=[], comment="Solved.", assignee_id=3))
    assert (changed.status, changed.tags, changed.assignee_id) == ("solved", (), 3)
    assert changed.updated_at > ticket.updated_at
    comments = items(service.list_comments(ticket.id, page_size=1), run)
    assert [(one.body, one.public) for one in comments] == [
        ("Order 17 is late", True),
        ("We look into it.", True),
        ("Ask the carrier.", False),
        ("Solved.", True),
    ]
    run(service.update_ticket(ticket.id, status="closed"))
    with pytest.raises(errors.InvalidRequest) as caught:
        run(service.update_ticket(ticket.id, status="open"))
    assert (caught.value.code, caught.value.status) == ("ClosedTicket", 422)
    for wrong in (service.get_ticket(1), service.get_user(1), service.list_comments(1).page()):
        with pytest.raises(errors.NotFound) as missing:
            run(wrong)
        assert missing.value.code == "RecordNotFound"


def test_an_update_that_somebody_else_was_quicker_with(box: Box, run: Run):
    """With the time that one knows a ticket is changed once; who comes second gets a Conflict."""
    service = box.service(Zendesk)
    ticket = run(service.create_ticket("x"))
    run(service.update_ticket(ticket.id, priority="low", unchanged_since=ticket.updated_at))
    with pytest.raises(errors.Conflict) as caught:
        run(service.update_ticket(ticket.id, priority="high", unchanged_since=ticket.updated_at))
    assert (caught.value.code, run(service.get_ticket(ticket.id)).priority) == ("UpdateConflict", "low")


def test_a_lost_answer_opens_no_second_ticket(box: Box, run: Run):
    """A ticket is opened under a key, and so once; an upsert may be repeated; a comment is OutcomeUnknown."""
    service = box.service(Zendesk, policy=Policy(retry=Retry(base=0.001)))
    box.arm(kind="dropped", processed=True)
    ticket = run(service.create_ticket("x"))
    assert list(box.state("zendesk")["tickets"]) == [str(ticket.id)]
    box.arm(kind="dropped", processed=True)
    assert run(service.upsert_user("Ada", external_id="A-1")).created is False
    for once in (
        service.add_comment(ticket.id, "x"),
        service.update_ticket(ticket.id, comment="x"),
        service.update_ticket(ticket.id, unchanged_since=SINCE),
    ):
        box.arm(kind="dropped")
        with pytest.raises(errors.OutcomeUnknown):
            run(once)
    box.arm(kind="dropped", processed=True)
    assert run(service.update_ticket(ticket.id, priority="low")).priority == "low"


def test_keys(box: Box, run: Run):
    """A key that was used for another ticket is IdempotencyConflict; only where tickets are opened there is one."""
    service = box.service(Zendesk)
    run(service.create_ticket("x").using(idempotency_key="order-17"))
    with pytest.raises(errors.IdempotencyConflict):
        run(service.create_ticket("y").using(idempotency_key="order-17"))
    assert service.upsert_user("Ada", email="a@x.example").idempotency_key is None
    assert service.request("POST", "/api/v2/users", json={}).idempotency_key is None
    assert service.request("POST", "/api/v2/tickets", json={}).idempotency_key is not None


def test_users(box: Box, run: Run):
    """Created once and then updated, by the external id or the e-mail; found by a query or the id; two are a Conflict."""
    service = box.service(Zendesk)
    made = run(service.upsert_user("Ada", email="ada@customer.example", external_id="A-1", role="end-user"))
    again = run(service.upsert_user("Augusta", external_id="A-1"))
    assert (made.created, again.created, again.id, again.name) == (True, False, made.id, "Augusta")
    assert run(service.get_user(made.id)).created is None
    run(service.upsert_user("Bob", email="bob@customer.example"))
    assert [one.name for one in items(service.search_users("email:ada@customer.example"), run)] == ["Augusta"]
    assert [one.id for one in items(service.search_users(external_id="A-1"), run)] == [made.id]
    with pytest.raises(errors.Conflict) as caught:
        run(service.upsert_user("Ada", email="bob@customer.example", external_id="A-1"))
    assert caught.value.code == "DuplicateValue"
    assert "bob@customer.example is already being used" in caught.value.message
    with pytest.raises(errors.InvalidRequest, match="name: Name: is too short"):
        run(service.upsert_user(" ", email="c@customer.example"))


def test_searches_and_exports(box: Box, run: Run):
    """A search gives what it finds in its own types, page after page, and ends at a thousand; an export does not."""
    service = box.service(Zendesk)
    made = [run(service.create_ticket(f"n {number}", subject=f"Refund {number}")) for number in range(5)]
    run(service.update_ticket(made[0].id, status="solved"))
    found = items(service.search("type:ticket status<solved", sort_by="subject", sort_order="desc", page_size=2), run)
    assert [one.subject for one in found] == ["Refund 4", "Refund 3", "Refund 2", "Refund 1"]
    assert {type(one) for one in items(service.search("e"), run)} == {Ticket, User}
    assert len(items(service.export("refund", kind="ticket", page_size=2), run)) == 5
    with pytest.raises(errors.InvalidRequest):
        run(service.search("").page())
    assert [one.id for one in items(service.list_tickets(page_size=2), run)] == [one.id for one in made]


def test_a_search_ends_at_a_thousand(monkeypatch: pytest.MonkeyPatch):
    """Beyond it is an error, and what was found before has come."""
    monkeypatch.setattr(stand_in_module, "_FOUND", 4)
    _, service = alone()
    for number in range(6):
        service.create_ticket(str(number)).result()
    found = []
    with pytest.raises(errors.InvalidRequest, match="Limits"):
        found.extend(list(service.search("type:ticket", page_size=2)))
    pages = iter(service.search("type:ticket", page_size=2))
    assert len([next(pages) for _ in range(4)]) == 4


def test_other_results_come_as_they_are():
    """What is neither ticket nor user is given as Zendesk writes it."""
    body = json.dumps({"results": [{"id": 1, "result_type": "organization"}], "next_page": None}).encode()
    assert list(Recorder(200, body).service(Zendesk).search("x")) == [{"id": 1, "result_type": "organization"}]


def test_what_changed_since(box: Box, run: Run):
    """All that changed come in the order of their changes; the last page has the cursor from which to go on later."""
    service = box.service(Zendesk)
    made = [run(service.create_ticket(str(number))) for number in range(4)]
    run(service.update_ticket(made[1].id, priority="low"))
    pages = service.list_changed_tickets(SINCE, page_size=2)
    assert [one.id for one in items(pages, run)] == [made[0].id, made[2].id, made[3].id, made[1].id]
    first = run(pages.page())
    assert isinstance(first, Exported)
    assert first.next is not None
    rest = run(Call.of(service, "list_changed_tickets", first.next, replayable=False))
    assert (rest.next, [one.id for one in rest.items]) == (None, [made[3].id, made[1].id])
    run(service.update_ticket(made[2].id, priority="low"))
    assert [one.id for one in items(service.list_changed_tickets(cursor=rest.cursor), run)] == [made[2].id]
    later = run(service.get_ticket(made[2].id)).updated_at
    assert [one.id for one in items(service.list_changed_tickets(later), run)] == [made[2].id]
    ada = run(service.upsert_user("Ada", email="ada@customer.example"))
    assert items(service.list_changed_users(SINCE), run)[-1].id == ada.id


def test_check(box: Box, run: Run):
    """An API token and an access token are good; a wrong one, and one that is taken for nobody's, are told."""
    assert run(box.service(Zendesk).check()) is True
    assert run(box.service(Zendesk, "oauth-token-1", email="").check()) is True
    for key, code in (("token-wrong", "Couldn't authenticate you"), ("token-anonymous", None)):
        for email in ("agent@acme.example", ""):
            with pytest.raises(errors.AuthenticationFailed) as caught:
                run(box.service(Zendesk, key, email=email).check())
            assert caught.value.code == code


def test_how_it_says_who_asks():
    """The user of an API token ends in /token; an access token is a bearer's; the host is the account's."""
    recorder = Recorder(200, b'{"user":{"id":1}}')
    recorder.service(Zendesk, key="t-1", subdomain="Acme-1").check().result()
    recorder.service(Zendesk, key="t-2", email="").check().result()
    first, second = recorder.requests
    assert first.headers["authorization"] == "Basic " + base64.b64encode(b"agent@acme.example/token:t-1").decode()
    assert second.headers["authorization"] == "Bearer t-2"
    assert str(first.url) == "https://acme-1.zendesk.com/api/v2/users/me"
    for wrong in ("acme.evil", "acme/", "a_b", "-a", "evil.example#"):
        with pytest.raises(errors.ConfigurationError, match="subdomain"):
            Zendesk("t", subdomain=wrong)
    with pytest.raises(errors.ConfigurationError, match="email"):
        Zendesk("t", email="a:b@x.example")


def test_where_its_credentials_stand(monkeypatch: pytest.MonkeyPatch):
    """Each kind of credential has a variable of its own, which the error names."""
    for grant, email, name in (
        ("", "a@x.example", "ZENDESK_API_TOKEN"),
        ("", "", "ZENDESK_OAUTH_TOKEN"),
        ("refresh_token", "", "ZENDESK_REFRESH_TOKEN"),
        ("client_credentials", "", "ZENDESK_CLIENT_SECRET"),
    ):
        with pytest.raises(errors.ConfigurationError, match=name):
            Zendesk(grant=grant, email=email).secret()
        monkeypatch.setenv(name, "secret-0123456789")
        assert Zendesk(grant=grant, email=email).secret().reveal() == "secret-0123456789"


class Kept:
    """A refresh token that is kept somewhere."""

    def __init__(self, token: str) -> None:
        self.token = token

    def __call__(self) -> str:
        return self.token

    def rotated(self, successor: Secret) -> None:
        self.token = successor.reveal()


def test_oauth(box: Box, run: Run):
    """Access tokens come by JSON of a refresh token, whose successor is kept for the next process, or of the client."""
    kept = Kept("refresh-0123456789")
    for _ in range(2):
        assert run(box.service(Zendesk, kept, grant="refresh_token").check()) is True  # type: ignore[arg-type]
    spent = box.service(Zendesk, "refresh-0123456789", grant="refresh_token")
    with pytest.raises(errors.AuthenticationFailed) as caught:
        run(spent.check())
    assert (caught.value.code, caught.value.outcome) == ("invalid_grant", "not_sent")
    assert run(box.service(Zendesk, "sandbox-client-secret", grant="client_credentials").check()) is True
    with pytest.raises(errors.AuthenticationFailed, match="Client authentication failed"):
        run(box.service(Zendesk, "another-secret-0123", grant="client_credentials").check())


@pytest.mark.parametrize(
    ("status", "body", "kind", "code", "message"),
    [
        (400, {"error": {"title": "Bad", "message": "No"}}, errors.InvalidRequest, "Bad", "No"),
        (401, {"error": "Couldn't authenticate you"}, errors.AuthenticationFailed, "Couldn't authenticate you",
         "Couldn't authenticate you"),
        (403, {"error": {"title": "Forbidden", "message": "No"}}, errors.PermissionDenied, "Forbidden", "No"),
        (404, {"error": "RecordNotFound", "description": "Not found"}, errors.NotFound, "RecordNotFound", "Not found"),
        (409, {"error": "UpdateConflict", "description": "No"}, errors.Conflict, "UpdateConflict", "No"),
        (422, {"error": "RecordInvalid", "description": "No", "details": {"x": [{"description": "bad"}]}},
         errors.InvalidRequest, "RecordInvalid", "No; x: bad"),
        (422, {"error": "RecordInvalid", "details": {"x": [{"description": "bad", "error": "DuplicateValue"}]}},
         errors.Conflict, "DuplicateValue", "RecordInvalid; x: bad"),
        (422, {"error": "unavailable", "description": "No"}, errors.InvalidRequest, "unavailable", "No"),
        (429, {"error": {"title": "x"}}, errors.RateLimited, "x", "x"),
        (503, {"error": 1, "details": [1]}, errors.ServiceUnavailable, None, "answered 503"),
        (500, [], errors.ServiceUnavailable, None, "answered 500"),
    ],
)  # fmt: skip
def test_every_documented_error(status: int, body: Any, kind: type[errors.CallError], code: str | None, message: str):
    """All three shapes of errors give class, code and message, and the id of the request."""
    recorder = Recorder(status, json.dumps(body).encode(), {"X-Request-Id": "r-1"})
    service = recorder.service(Zendesk, policy=Policy(retry=None))
    with pytest.raises(kind) as caught:
        service.get_ticket(1).result()
    error = caught.value
    assert (type(error), error.code, error.message, error.request_id) == (kind, code, message, "r-1")


def test_a_limit_is_waited_for(box: Box, run: Run):
    """A 429 names its second; without patience it is RateLimited with that time."""
    box.arm(kind="status", status=429)
    with pytest.raises(errors.RateLimited) as caught:
        run(box.service(Zendesk, policy=Policy(retry=None)).create_ticket("x"))
    assert (caught.value.retry_at is not None, caught.value.retryable) == (True, True)


def test_the_limit_of_a_list_holds_for_it_alone():
    """What the list of tickets has left stops it, and nothing else."""
    limits = {
        "X-Rate-Limit": "700",
        "X-Rate-Limit-Remaining": "699",
        "zendesk-ratelimit-tickets-index": "total=100; remaining=0; resets=41",
    }
    recorder = Recorder(
        200, json.dumps({"tickets": [], "ticket": TICKET, "meta": {"has_more": False}}).encode(), limits
    )
    service = recorder.service(Zendesk, policy=Policy(deadline=5))
    service.list_tickets().page().result()
    recorder.answer = (*recorder.answer[:2], {})
    service.get_ticket(1).result()
    with pytest.raises(errors.RateLimited) as caught:
        service.list_tickets().page().result()
    assert (caught.value.outcome, len(recorder.requests)) == ("not_sent", 2)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda s: s.create_ticket(" "), "body"),
        (lambda s: s.create_ticket("x", priority="higher"), "priority"),
        (lambda s: s.update_ticket(1, ticket_type="bug"), "ticket_type"),
        (lambda s: s.update_ticket(1, unchanged_since=datetime(2026, 1, 1)), "unchanged_since"),  # noqa: DTZ001
        (lambda s: s.list_tickets(page_size=101), "page_size"),
        (lambda s: s.search("x", page_size=0), "page_size"),
        (lambda s: s.upsert_user("Ada"), "email"),
        (lambda s: s.search_users(), "query"),
        (lambda s: s.search_users("x", external_id="y"), "query"),
        (lambda s: s.list_changed_tickets(), "since"),
        (lambda s: s.list_changed_users(SINCE, cursor="x"), "since"),
    ],
)
def test_limits_are_checked_before_sending(make: Callable[[Any], Any], field: str):
    """What Zendesk would not take is InvalidRequest naming the field, and nothing is sent."""
    recorder = Recorder()
    with pytest.raises(errors.InvalidRequest) as caught:
        make(recorder.service(Zendesk)).result()
    assert (caught.value.code, caught.value.outcome, recorder.requests) == (field, "not_sent", [])


def test_what_is_sent():
    """Requests are as the card has them: one wrapper, cursors in page[…], the stamp of a safe update."""
    body = {"ticket": TICKET, "tickets": [TICKET], "meta": {"has_more": True, "after_cursor": "c=="}}
    recorder = Recorder(201, json.dumps(body).encode())
    service = recorder.service(Zendesk)
    service.create_ticket("Order 17", subject="Refund", requester={"name": "Ada", "email": "ada@example.com"}).result()
    service.update_ticket(1, comment="x", public=False, unchanged_since=SINCE).result()
    page = service.list_tickets(sort="-updated_at", page_size=5).page().result()
    Pages(service, "list_tickets", page.next).page().result()
    service.list_changed_tickets(SINCE).page().result()
    one, two, three, four, five = recorder.requests
    assert json.loads(one.content) == {
        "ticket": {
            "subject": "Refund",
            "requester": {"name": "Ada", "email": "ada@example.com"},
            "comment": {"body": "Order 17", "public": True},
        }
    }
    assert one.headers["idempotency-key"]
    assert json.loads(two.content)["ticket"] == {
        "comment": {"body": "x", "public": False},
        "safe_update": True,
        "updated_stamp": "2026-01-01T00:00:00Z",
    }
    assert dict(three.url.params) == {"sort": "-updated_at", "page[size]": "5"}
    assert dict(four.url.params) == {"sort": "-updated_at", "page[size]": "5", "page[after]": "c=="}
    assert dict(five.url.params) == {"start_time": str(int(SINCE.timestamp())), "per_page": "100"}


def test_what_happens_is_told():
    """Each write is told by an event that is signed as the card says, and reads as what happened."""
    emitted: list[Emission] = []
    stand_in, service = alone(emitted)
    ada = service.upsert_user("Ada", email="ada@customer.example").result()
    ticket = service.create_ticket("x", requester_id=ada.id).result()
    service.update_ticket(ticket.id, status="open", comment="y").result()
    service.upsert_user("Augusta", email="ada@customer.example").result()
    secret, told = STAND_IN.secret or "", []
    for emission in emitted:
        signed = stand_in.sign(emission, url="https://x.example", secrets=(secret,), hook_id="1", broken=False)
        stamp = signed.headers["X-Zendesk-Webhook-Signature-Timestamp"]
        digest = hmac.digest(secret.encode(), stamp.encode() + emission.body, hashlib.sha256)
        assert signed.headers["X-Zendesk-Webhook-Signature"] == base64.b64encode(digest).decode()
        [event] = verify_each(Zendesk, headers=signed.headers, body=emission.body, secrets=secret, now=NOW)
        read = Zendesk.read_event(event)
        assert read is not None
        assert (read.account_id, read.object_id) == (12514403, str(ada.id if read.object_type == "user" else ticket.id))
        assert read.at == datetime.fromtimestamp(NOW, UTC)
        told.append((read.kind, read.type))
    assert told == [
        (ChangeKind.CREATED, "user.created"),
        (ChangeKind.CREATED, "ticket.created"),
        (ChangeKind.CHANGED, "ticket.comment_added"),
        (ChangeKind.CHANGED, "ticket.status_changed"),
        (ChangeKind.CHANGED, "user.name_changed"),
    ]


def test_events_of_other_shapes():
    """A trigger's body has no common meaning; a deletion is one; a body of another shape is BadAnswer."""
    assert Zendesk.read_event(Event("zendesk", "1", "refund", b'{"any": 1}')) is None
    read = Zendesk.read_event(Event("zendesk", "1", "zen:event-type:ticket.soft_deleted", b'{"subject":"?"}'))
    assert read is not None
    assert (read.kind, read.object_type, read.object_id, read.at) == (ChangeKind.DELETED, "ticket", None, None)
    for wrong in (b"[]", b'{"subject":1}', b'{"time":"x"}', b'{"detail":1}', b'{"account_id":"x"}'):
        with pytest.raises(errors.BadAnswer):
            Zendesk.read_event(Event("zendesk", "1", "zen:event-type:user.created", wrong))


def test_calls_survive_a_queue(box: Box):
    """A ticket comes out of a queue as it went in, under the same key: it is opened once."""
    service = box.service(Zendesk)
    call = service.create_ticket("x", custom_fields={360: "y"}, requester={"name": "A", "email": "a@x.example"})
    stored = json.loads(json.dumps(call.to_payload()))
    assert Call.from_payload(stored, lambda name: service).result().id == call.result().id
    assert len(box.state("zendesk")["tickets"]) == 1


AGENT = {"authorization": "Basic " + base64.b64encode(b"agent@acme.example/token:t-1").decode()}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "error"),
    [
        ("POST", "/api/v2/tickets", {"subject": "x"}, 400, "Invalid attribute"),
        ("POST", "/api/v2/tickets.json", {"ticket": {"subject": "x"}}, 422, "RecordInvalid"),
        ("POST", "/api/v2/tickets", {"ticket": {"comment": {"body": "x"}, "priority": "top"}}, 422, "RecordInvalid"),
        ("POST", "/api/v2/tickets", {"ticket": {"comment": {"body": "x"}, "tags": "x"}}, 422, "RecordInvalid"),
        ("POST", "/api/v2/tickets", {"ticket": {"comment": {"body": "x"}, "requester_id": 1}}, 422, "RecordInvalid"),
        ("POST", "/api/v2/users/create_or_update", {"user": {"name": "A", "email": "x"}}, 422, "RecordInvalid"),
        ("GET", "/api/v2/tickets?page[size]=101", None, 400, "Bad Request"),
        ("GET", "/api/v2/tickets?page[after]=x", None, 400, "Bad Request"),
        ("GET", "/api/v2/search/export?query=x", None, 400, "Bad Request"),
        ("GET", "/api/v2/incremental/tickets/cursor", None, 400, "InvalidValue"),
        ("GET", "/api/v2/incremental/tickets/cursor?cursor=x", None, 400, "InvalidCursor"),
        ("DELETE", "/api/v2/tickets", None, 404, "InvalidEndpoint"),
        ("GET", "/tickets", None, 404, "InvalidEndpoint"),
    ],
)
def test_what_the_stand_in_refuses(box: Box, method: str, path: str, body: Any, status: int, error: str):
    """It refuses what Zendesk would, in one of its shapes."""
    answer = box.client.request(method, f"/zendesk{path}", json=body, headers=AGENT)
    told = answer.json()["error"]
    assert (answer.status_code, told["title"] if isinstance(told, dict) else told) == (status, error), answer.text


def test_what_the_stand_in_refuses_of_comments_and_credentials(box: Box):
    """A comment has words; a user without /token, another scheme and a token that ended are nobody."""
    ticket = box.service(Zendesk).create_ticket("x").result().id
    answer = box.client.put(f"/zendesk/api/v2/tickets/{ticket}", json={"ticket": {"comment": {}}}, headers=AGENT)
    assert answer.status_code == 422
    plain = base64.b64encode(b"agent@acme.example:t-1").decode()
    for header in (f"Basic {plain}", "Basic ?", "Bearer", "Digest x", ""):
        assert box.client.get("/zendesk/api/v2/users/me", headers={"authorization": header}).status_code == 401
    client = {"client_id": "sandbox-client", "client_secret": "sandbox-client-secret"}
    for body, error in (({}, "invalid_request"), (client | {"grant_type": "password"}, "unsupported_grant_type")):
        assert box.client.post("/zendesk/oauth/tokens", json=body).json()["error"] == error
    clock = ManualClock(NOW)
    stand_in = STAND_IN.make(Surroundings(clock=clock))
    wire = httpx2.MockTransport(lambda request: answered(stand_in, request))
    with httpx2.Client(transport=wire, base_url="https://sandbox.example") as http:
        made = http.post("/oauth/tokens", json=client | {"grant_type": "client_credentials"}).json()
        headers = {"authorization": f"Bearer {made['access_token']}"}
        assert http.get("/api/v2/users/me", headers=headers).status_code == 200
        clock.advance(7201)
        assert http.get("/api/v2/users/me", headers=headers).status_code == 401


def test_injected_failures_are_zendesks(box: Box, run: Run):
    """A failure that is asked for has Zendesk's own words; an event that it does not send is named."""
    box.arm(kind="status", status=500)
    with pytest.raises(errors.ServiceUnavailable) as caught:
        run(box.service(Zendesk, policy=Policy(retry=None)).check())
    assert caught.value.code == "InternalError"
    with pytest.raises(errors.ConfigurationError, match=r"ticket\.created"):
        STAND_IN.make(Surroundings()).sample("ticket.teleported")
