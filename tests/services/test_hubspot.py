from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import hubspot  # type: ignore[import-untyped]
import pytest
from hubspot.crm.contacts import (  # type: ignore[import-untyped]
    ApiException,
    BatchInputSimplePublicObjectBatchInputUpsert,
    PublicObjectSearchRequest,
    SimplePublicObjectInput,
    SimplePublicObjectInputForCreate,
)
from hubspot.utils.objects import fetch_all  # type: ignore[import-untyped]
from hubspot.utils.signature import Signature  # type: ignore[import-untyped]
from tests.contracts import Contract
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
from moorline.sandbox.services import hubspot as stand_in_module
from moorline.sandbox.services.hubspot import STAND_IN
from moorline.sandbox.standin import Emission, Surroundings
from moorline.services.business import hubspot as service_module
from moorline.services.business.hubspot import ChangeKind, Filter, HubSpot, Link, existing_id

Run = Callable[[Any], Any]
SINCE = datetime(2026, 1, 1, tzinfo=UTC)
ADA = {"email": "ada@customer.example", "firstname": "Ada"}
CALLS: list[Callable[[HubSpot], Any]] = [
    lambda s: s.create_object("contacts", ADA, associations={"101": Link(279)}),
    lambda s: s.get_object("contacts", "512", properties=["email"]),
    lambda s: s.update_object("contacts", "512", {"firstname": "A"}),
    lambda s: s.upsert_object("contacts", "ada@customer.example", {"firstname": "A"}, id_property="email"),
    lambda s: s.archive_object("contacts", "512"),
    lambda s: s.list_objects("contacts").page(),
    lambda s: s.search_objects("contacts", [Filter("email", "EQ", "ada@customer.example")]).page(),
    lambda s: s.list_changed("contacts", SINCE).page(),
    lambda s: s.create_objects("contacts", [ADA, {}]),
    lambda s: s.update_objects("contacts", {"512": {"firstname": "A"}, "513": {}}),
    lambda s: s.upsert_objects("contacts", {"a@x.example": {}, "b@x.example": {}}, id_property="email"),
    lambda s: s.archive_objects("contacts", ["512"]),
    lambda s: s.associate("contacts", "512", "companies", "101"),
    lambda s: s.associate("contacts", "512", "companies", "101", [Link(279)]),
    lambda s: s.dissociate("contacts", "512", "companies", "101"),
    lambda s: s.list_associations("contacts", "512", "companies").page(),
    lambda s: s.check(),
]


class Judge:
    """A stand-in behind a wire, with each request and answer held against the contract where that describes them."""

    def __init__(self, contract: Contract, emitted: list[Emission] | None = None) -> None:
        self.contract = contract
        emit = (lambda _: None) if emitted is None else emitted.append
        self.stand_in = STAND_IN.make(Surroundings(clock=ManualClock(1_790_000_000.0), emit=emit))
        self.seen: list[tuple[str, str, int]] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        answer = answered(self.stand_in, request)
        path = request.url.path
        self.seen.append((request.method, path, answer.status_code))
        try:
            problems = self.contract.request_problems(
                request.method, path, request.read(), request.headers.get("content-type", "")
            )
        except LookupError:
            return answer
        if answer.status_code < 400:
            assert problems == [], path
        assert self.contract.answer_problems(request.method, path, answer.status_code, answer.read()) == [], path
        return answer

    def service(self, key: str = "pat-na1-test", **options: Any) -> HubSpot:
        """HubSpot behind this wire."""
        return HubSpot(key, wire=httpx2.MockTransport(self), guards=Guards(), **options)


def items(pages: Any, run: Run) -> list[Any]:
    """All items of a listing, page after page, in the colour of *run*."""
    found, page = [], run(pages.page())
    while True:
        found += page.items
        if page.next is None:
            return found
        page = run(Call.of(pages.service, pages.operation, page.next, replayable=False))


def test_an_object_from_first_to_last(box: Box, run: Run):
    """Created, read by its id and by its e-mail, updated and archived; properties are text whatever they were set to."""
    service = box.service(HubSpot)
    ada = run(service.create_object("contacts", {**ADA, "age": 36, "vip": True, "score": Decimal("1.50")}))
    assert (ada.properties["age"], ada.properties["vip"], ada.properties["score"]) == ("36", "true", "1.50")
    assert (ada.properties["email"], ada.archived, ada.created) == ("ada@customer.example", False, None)
    assert ada.created_at == ada.updated_at
    read = run(service.get_object("contacts", "ADA@customer.example", id_property="email", properties=["firstname"]))
    assert (read.id, read.properties) == (ada.id, {"firstname": "Ada"})
    born = datetime(1815, 12, 10, tzinfo=UTC)
    changes = {"firstname": "Augusta", "vip": None, "born": born, "met": date(2026, 11, 28)}
    changed = run(service.update_object("contacts", ada.id, changes))
    assert {name: changed.properties[name] for name in changes} == {
        "firstname": "Augusta",
        "vip": "",
        "born": "1815-12-10T00:00:00.000Z",
        "met": "2026-11-28",
    }
    assert changed.updated_at > ada.updated_at
    assert run(service.update_object("contacts", "ada@customer.example", {}, id_property="email")).id == ada.id
    assert run(service.archive_object("contacts", ada.id)) is None
    assert run(service.archive_object("contacts", ada.id)) is None
    with pytest.raises(errors.NotFound) as caught:
        run(service.get_object("contacts", ada.id))
    assert (caught.value.code, caught.value.request_id) == (
        "OBJECT_NOT_FOUND",
        "aeb5f871-7f07-4993-9211-075dc63e7cbf",
    )
    assert run(service.get_object("contacts", ada.id, archived=True)).archived is True


def test_upsert(box: Box, run: Run):
    """The first creates and the second updates the same object, by e-mail or by a key of one's own; the result says."""
    service = box.service(HubSpot)
    made = run(service.upsert_object("contacts", "ada@customer.example", {"firstname": "Ada"}, id_property="email"))
    again = run(service.upsert_object("contacts", "ada@customer.example", {"firstname": "A"}, id_property="email"))
    assert (made.created, again.created, again.id) == (True, False, made.id)
    assert again.properties["firstname"] == "A"
    deal = run(service.upsert_object("deals", "A-17", {"amount": 12}, id_property="shop_key"))
    assert deal.properties["shop_key"] == "A-17"
    with pytest.raises(errors.InvalidRequest) as caught:
        run(service.upsert_object("contacts", "b@customer.example", {"no_such_thing": "x"}, id_property="email"))
    assert (caught.value.code, caught.value.status, caught.value.operation) == (
        "VALIDATION_ERROR",
        207,
        "upsert_object",
    )
    assert "no_such_thing" in caught.value.message
    assert len(box.state("hubspot")["objects"]["contacts"]) == 1


def test_an_upsert_may_be_sent_again(box: Box, run: Run):
    """A lost answer to an upsert or an update is asked for again; to a creation it is OutcomeUnknown."""
    service = box.service(HubSpot, policy=Policy(retry=Retry(base=0.001)))
    box.arm(kind="dropped", processed=True)
    ada = run(service.upsert_object("contacts", "ada@customer.example", {"firstname": "Ada"}, id_property="email"))
    assert ada.created is False
    box.arm(kind="dropped", processed=True)
    assert run(service.update_object("contacts", ada.id, {"firstname": "A"})).properties["firstname"] == "A"
    box.arm(kind="dropped", processed=True)
    with pytest.raises(errors.OutcomeUnknown) as caught:
        run(service.create_object("contacts", {"email": "b@customer.example"}))
    assert caught.value.retryable is False


def test_what_may_be_sent_again_is_no_read():
    """Searches may be sent twice at once; upserts, updates and archivings may not, though they may be repeated."""
    service = Recorder().service(HubSpot)
    assert service.search_objects("contacts").page().plan.reads
    for call in (
        service.upsert_object("contacts", "a@x.example", {}, id_property="email"),
        service.update_object("contacts", "1", {}),
        service.update_objects("contacts", {"1": {}}),
        service.archive_objects("contacts", ["1"]),
    ):
        assert (call.plan.repeatable, call.plan.reads) == (True, False)
        with pytest.raises(errors.ConfigurationError, match="hedge"):
            call.using(hedge=0.1)


def test_a_contact_that_exists(box: Box, run: Run):
    """Creating it again is a Conflict that names the one that exists."""
    service = box.service(HubSpot)
    ada = run(service.create_object("contacts", ADA))
    with pytest.raises(errors.Conflict) as caught:
        run(service.create_object("contacts", ADA))
    assert (existing_id(caught.value), caught.value.code) == (ada.id, "CONFLICT")
    assert existing_id(errors.Conflict("no")) is None


def test_batches_have_a_result_for_each(box: Box, run: Run):
    """Those that are good are done, each of the others has its code and message, in the order of the inputs."""
    service = box.service(HubSpot)
    people = [{"email": "a@x.example"}, {"email": "nobody"}, {"email": "b@x.example"}]
    made = run(service.create_objects("contacts", people, keys=["a", "?", "b"]))
    assert [(one.key, one.done, one.code) for one in made.results] == [
        ("a", True, None),
        ("?", False, "VALIDATION_ERROR"),
        ("b", True, None),
    ]
    assert "nobody" in made.failed[0].message
    first, _, third = made.results
    changed = run(service.update_objects("contacts", {"0": {}, third.object.id: {"firstname": "B"}}))
    assert [(one.key, one.code) for one in changed.results] == [("0", "OBJECT_NOT_FOUND"), (third.object.id, None)]
    upserted = run(
        service.upsert_objects(
            "contacts",
            {"b@x.example": {"firstname": "C"}, "c@x.example": {}, "d@x.example": {"no_such": "1"}},
            id_property="email",
        )
    )
    assert [one.object.created if one.object else one.code for one in upserted.results] == [
        False,
        True,
        "VALIDATION_ERROR",
    ]
    run(service.archive_objects("contacts", [first.object.id, third.object.id]))
    assert [one.properties["email"] for one in items(service.list_objects("contacts", properties=["email"]), run)] == [
        "c@x.example"
    ]


def test_batch_results_that_are_not_numbered():
    """Without our numbers in the answer a result is known by its id or key; what is told of none counts as not done."""
    now = "2026-11-28T10:00:00Z"
    head = {"status": "COMPLETE", "startedAt": now, "completedAt": now}

    def one(key: str, **more: str) -> dict[str, Any]:
        return {"id": key, "properties": more, "createdAt": now, "updatedAt": now, "new": True}

    body = {**head, "results": [one("2", email="b@x.example"), one("1", email="A@x.example")]}
    service = Recorder(200, json.dumps(body).encode()).service(HubSpot)
    inputs: dict[str, Any] = {"a@x.example": {}, "b@x.example": {}}
    found = service.upsert_objects("contacts", inputs, id_property="email").result()
    assert [one.object.id for one in found.results] == ["1", "2"]
    assert [one.key for one in service.update_objects("contacts", {"1": {}, "2": {}}).result().results] == ["1", "2"]
    failed = {**head, "results": [], "errors": [{"category": "CONFLICT", "message": "all\nof it", "context": {}}]}
    service = Recorder(207, json.dumps(failed).encode()).service(HubSpot)
    told = service.create_objects("contacts", [{}, {}]).result()
    assert [(one.code, one.message) for one in told.failed] == [("CONFLICT", "all of it")] * 2
    silent = Recorder(200, json.dumps({**head, "results": []}).encode()).service(HubSpot)
    assert silent.create_objects("contacts", [{}]).result().failed[0].code is None


def test_what_a_batch_says_is_one_line():
    """A message of HubSpot's is one printable line, of a length that a log can take."""
    error = {"category": "CONFLICT", "message": "no\u200b\n" + "x" * 5000, "context": {}}
    body = {"status": "COMPLETE", "results": [], "errors": [error]}
    service = Recorder(207, json.dumps(body).encode()).service(HubSpot)
    with pytest.raises(errors.Conflict) as caught:
        service.upsert_object("contacts", "a@x.example", {}, id_property="email").result()
    assert (str(caught.value).isprintable(), len(caught.value.message)) == (True, 500)


def test_searches(box: Box, run: Run):
    """Filters are met all, groups one of them; text is looked for; results are sorted and come in pages."""
    service = box.service(HubSpot)
    for number in range(5):
        run(service.create_object("contacts", {"email": f"p{number}@x.example", "age": number, "city": "Rome"}))

    def ages(*filters: Filter, **more: Any) -> list[str]:
        pages = service.search_objects("contacts", filters, properties=["age"], sorts=["age"], page_size=2, **more)
        return [one.properties["age"] for one in items(pages, run)]

    assert ages() == ["0", "1", "2", "3", "4"]
    assert ages(Filter("age", "GTE", 1), Filter("age", "LT", 4)) == ["1", "2", "3"]
    assert len(ages(Filter("lastmodifieddate", "GT", SINCE))) == 5
    assert Filter("at", "BETWEEN", SINCE, high=SINCE).written()["highValue"] == str(int(SINCE.timestamp() * 1000))
    assert ages(Filter("age", "BETWEEN", 1, high=2)) == ["1", "2"]
    assert ages(Filter("age", "IN", values=("0", "4"))) == ["0", "4"]
    assert ages(Filter("age", "HAS_PROPERTY"), Filter("age", "NEQ", "2")) == ["0", "1", "3", "4"]
    assert ages(any_of=[[Filter("age", "EQ", 1)], [Filter("email", "EQ", "P3@x.example")]]) == ["1", "3"]
    assert ages(Filter("city", "CONTAINS_TOKEN", "rome"), query="p4@") == ["4"]
    [first] = run(service.search_objects("contacts", page_size=1).page()).items
    assert first.properties["email"] == "p0@x.example"
    with pytest.raises(errors.InvalidRequest, match="10000"):
        run(service.search_objects("contacts", page_size=100, after="9950").page())


@pytest.mark.parametrize("kind", ["contacts", "companies"])
def test_what_changed_since(box: Box, run: Run, monkeypatch: pytest.MonkeyPatch, kind: str):
    """All that changed come in the order of their changes, each once, though no search gives more than a few; what
    changes meanwhile comes again, and hides none of the others.
    """
    for module in (service_module, stand_in_module):
        monkeypatch.setattr(module, "_FOUND", 4)
    service = box.service(HubSpot)
    made = [run(service.create_object(kind, {"name": str(number)})) for number in range(11)]
    moved = run(service.update_object(kind, made[2].id, {"name": "moved"}))
    found = items(service.list_changed(kind, SINCE, properties=["name"], page_size=2), run)
    assert [one.properties["name"] for one in found] == ["0", "1", *map(str, range(3, 11)), "moved"]
    assert found[-1].updated_at == moved.updated_at
    later = items(service.list_changed(kind, made[9].updated_at, page_size=2), run)
    assert [one.id for one in later] == [made[9].id, made[10].id, moved.id]
    assert items(service.list_changed(kind, moved.updated_at + timedelta(milliseconds=1), page_size=2), run) == []
    pages = service.list_changed(kind, SINCE, properties=["name"], page_size=3)
    first = run(pages.page())
    run(service.update_object(kind, first.items[0].id, {"name": "again"}))
    rest = items(Pages(service, "list_changed", first.next), run)
    names = [one.properties["name"] for one in rest]
    assert names == [*map(str, range(4, 11)), "moved", "again"]
    known = {"contacts": "lastmodifieddate", "companies": "hs_lastmodifieddate"}
    assert set(found[0].properties) == {"name", known[kind]}


def test_too_many_changes_at_once(monkeypatch: pytest.MonkeyPatch):
    """Where more changed in one millisecond than a search gives there is an error, and no loop."""
    monkeypatch.setattr(service_module, "_FOUND", 2)
    now = "2026-11-28T10:00:00.000Z"
    one = {"id": "1", "properties": {"lastmodifieddate": now}, "createdAt": now, "updatedAt": now}
    body = {"total": 9, "results": [one], "paging": {"next": {"after": "2"}}}
    service = Recorder(200, json.dumps(body).encode()).service(HubSpot)
    with pytest.raises(errors.BadAnswer, match="same lastmodifieddate"):
        list(service.list_changed("contacts", datetime.fromisoformat(now), page_size=1))


def test_changes_of_one_millisecond(box: Box, run: Run, monkeypatch: pytest.MonkeyPatch):
    """A page whose objects all changed at the same moment is followed by its cursor."""
    monkeypatch.setattr(stand_in_module.HubSpotStandIn, "_now", lambda _: "2026-11-28T10:00:00.000Z")
    service = box.service(HubSpot)
    made = [run(service.create_object("contacts", {})).id for _ in range(5)]
    assert [one.id for one in items(service.list_changed("contacts", SINCE, page_size=2), run)] == made


def test_listings_go_on_where_they_ended(box: Box, run: Run):
    """Pages are followed to the end; a cursor that was kept goes on from there."""
    service = box.service(HubSpot)
    made = [run(service.create_object("deals", {"dealname": str(number)})).id for number in range(5)]
    assert [one.id for one in items(service.list_objects("deals", page_size=2), run)] == made
    assert [one.id for one in items(service.list_objects("deals", page_size=2, after="3"), run)] == made[3:]


def test_associations(box: Box, run: Run):
    """Two objects are associated in the usual way, by a kind, or as one is created; they are listed from both ends."""
    service = box.service(HubSpot)
    acme = run(service.create_object("companies", {"name": "Acme"})).id
    ada = run(service.create_object("contacts", ADA, associations={acme: Link(279)})).id
    bob = run(service.create_object("contacts", {"email": "bob@x.example"})).id
    made = run(service.associate("contacts", bob, "companies", acme))
    assert (made.to_id, made.links) == (acme, (Link(279),))
    assert run(service.associate("contacts", bob, "companies", acme, [Link(1, "USER_DEFINED")])).to_id == acme
    found = items(service.list_associations("companies", acme, "contacts", page_size=1), run)
    assert [(one.to_id, one.links[0].category) for one in found] == [(ada, "HUBSPOT_DEFINED"), (bob, "USER_DEFINED")]
    assert run(service.dissociate("contacts", ada, "companies", acme)) is None
    assert items(service.list_associations("contacts", ada, "companies"), run) == []
    with pytest.raises(errors.NotFound):
        run(service.associate("contacts", "1", "companies", acme))


def test_an_association_that_was_not_made():
    """A default association that HubSpot answers with an error alone is that error."""
    error = {"category": "OBJECT_NOT_FOUND", "message": "gone", "status": "error", "context": {}}
    body = {"status": "COMPLETE", "results": [], "numErrors": 1, "errors": [error]}
    service = Recorder(200, json.dumps(body).encode()).service(HubSpot)
    with pytest.raises(errors.NotFound, match="gone"):
        service.associate("contacts", "1", "companies", "2").result()


def test_check(box: Box, run: Run):
    """A good token is good, also one that may read no contacts; a wrong one is told."""
    assert run(box.service(HubSpot).check()) is True
    assert run(box.service(HubSpot, "pat-noscope").check()) is True
    with pytest.raises(errors.PermissionDenied):
        run(box.service(HubSpot, "pat-noscope").get_object("contacts", "1"))
    with pytest.raises(errors.AuthenticationFailed) as caught:
        run(box.service(HubSpot, "pat-wrong").check())
    assert caught.value.code == "INVALID_AUTHENTICATION"


def test_oauth(box: Box, run: Run):
    """With a refresh token the access token is fetched once, and used; a wrong one is AuthenticationFailed, not sent."""
    service = box.service(HubSpot, "refresh-0123456789", grant="refresh_token")
    assert run(service.check()) is True
    assert run(service.create_object("contacts", ADA)).id
    paths = [one["path"] for one in box.seen() if one["service"] == "hubspot"]
    assert paths == ["/oauth/v1/token", "/crm/v3/objects/contacts", "/crm/v3/objects/contacts"]
    for key, secret in (("refresh-wrong", "sandbox-client-secret"), ("refresh-0123456789", "another-secret-0123")):
        wrong = box.service(HubSpot, key, grant="refresh_token", client_secret=secret)
        with pytest.raises(errors.AuthenticationFailed) as caught:
            run(wrong.create_object("contacts", ADA))
        assert (caught.value.outcome, caught.value.operation) == ("not_sent", "create_object")
        assert secret not in repr(caught.value.detail)


def test_where_its_credentials_stand(monkeypatch: pytest.MonkeyPatch):
    """The variables are those of the kind of credential; neither secret is in a repr."""
    monkeypatch.setenv("HUBSPOT_ACCESS_TOKEN", "pat-na1-0123456789")
    assert HubSpot().secret().reveal() == "pat-na1-0123456789"
    monkeypatch.setenv("HUBSPOT_GRANT", "refresh_token")
    with pytest.raises(errors.ConfigurationError, match="HUBSPOT_REFRESH_TOKEN"):
        HubSpot().secret()
    with pytest.raises(errors.ConfigurationError, match="grant"):
        HubSpot("x", grant="password")
    service = HubSpot("refresh-0123456789", client_id="app", client_secret="app-secret-0123456789")
    assert "0123456789" not in repr(service) + repr(service.check())


def test_the_day_is_spent(box: Box, run: Run):
    """A quota of the day is no limit that opens in a moment: it is not waited for, and not tried again."""
    with pytest.raises(errors.LimitFault) as caught:
        run(box.service(HubSpot, "pat-daily").create_object("contacts", ADA))
    assert not isinstance(caught.value, errors.RateLimited)
    assert (caught.value.code, len(caught.value.attempts)) == ("DAILY", 1)


def test_limits_slow_down_before_a_429():
    """An answer that leaves nothing of the ten seconds holds the next one back."""
    limits = {
        "X-HubSpot-RateLimit-Interval-Milliseconds": "10000",
        "X-HubSpot-RateLimit-Max": "190",
        "X-HubSpot-RateLimit-Remaining": "0",
        "X-HubSpot-RateLimit-Daily": "250000",
        "X-HubSpot-RateLimit-Daily-Remaining": "249000",
    }
    recorder = Recorder(200, b'{"results":[]}', limits)
    service = recorder.service(HubSpot, policy=Policy(deadline=5))
    service.check().result()
    with pytest.raises(errors.RateLimited) as caught:
        service.check().result()
    assert (caught.value.outcome, len(recorder.requests)) == ("not_sent", 1)


@pytest.mark.parametrize(
    ("status", "category", "kind"),
    [
        (400, "VALIDATION_ERROR", errors.InvalidRequest),
        (400, "OBJECT_NOT_FOUND", errors.NotFound),
        (401, "EXPIRED_AUTHENTICATION", errors.AuthenticationFailed),
        (401, "INVALID_AUTHENTICATION", errors.AuthenticationFailed),
        (403, "MISSING_SCOPES", errors.PermissionDenied),
        (404, "OBJECT_NOT_FOUND", errors.NotFound),
        (409, "CONFLICT", errors.Conflict),
        (423, "LOCKED", errors.Conflict),
        (429, "RATE_LIMITS", errors.RateLimited),
        (477, "MIGRATION_IN_PROGRESS", errors.ServiceUnavailable),
        (500, "INTERNAL_ERROR", errors.ServiceUnavailable),
        (521, "DOWN", errors.ServiceUnavailable),
    ],
)
def test_every_documented_error(status: int, category: str, kind: type[errors.CallError]):
    """Each status and category of the card is a class of ours, with category, message and correlation id."""
    body = {"status": "error", "message": "No", "correlationId": "c-1", "category": category}
    service = Recorder(status, json.dumps(body).encode()).service(HubSpot, policy=Policy(retry=None))
    with pytest.raises(kind) as caught:
        service.get_object("contacts", "1").result()
    error = caught.value
    assert (type(error), error.code, error.message, error.request_id) == (kind, category, "No", "c-1")


@pytest.mark.parametrize("status", [423, 477, 502, 521, 524])
def test_what_is_tried_again(status: int):
    """A locked object and a service that is away for a moment are worth another attempt of what may be repeated."""
    recorder = Recorder(status, b'{"message":"wait"}')
    service = recorder.service(HubSpot, policy=Policy(retry=Retry(retries=1, base=0.001), breaker=None))
    for make in (service.check, lambda: service.update_object("contacts", "1", {})):
        before = len(recorder.requests)
        with pytest.raises(errors.CallError):
            make().result()
        assert len(recorder.requests) == before + 2


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda s: s.list_objects("contacts", page_size=101), "page_size"),
        (lambda s: s.search_objects("contacts", page_size=0), "page_size"),
        (lambda s: s.create_objects("contacts", [{}] * 101), "objects"),
        (lambda s: s.create_objects("contacts", [{}], keys=["a", "b"]), "keys"),
        (lambda s: s.upsert_objects("contacts", {str(n): {} for n in range(101)}, id_property="email"), "objects"),
        (lambda s: s.archive_objects("contacts", ["1"] * 101), "object_ids"),
        (lambda s: s.update_object("contacts", "1", {"at": datetime(2026, 1, 1)}), "at"),  # noqa: DTZ001
        (lambda s: s.update_object("contacts", "1", {"x": [1]}), "x"),
        (lambda s: Filter("email", "LIKE", "x"), "operator"),
    ],
)
def test_limits_are_checked_before_sending(make: Callable[[Any], Any], field: str):
    """What HubSpot would not take is InvalidRequest naming the field, and nothing is sent."""
    recorder = Recorder()
    with pytest.raises(errors.InvalidRequest) as caught:
        make(recorder.service(HubSpot)).result()
    assert (caught.value.code, caught.value.outcome, recorder.requests) == (field, "not_sent", [])


def test_no_id_reaches_another_resource():
    """Types and ids are segments of the path, whatever they hold."""
    recorder = Recorder(404, b"{}")
    service = recorder.service(HubSpot)
    for make in (lambda: service.get_object("contacts", "../x?y"), lambda: service.get_object("a/b", "1")):
        with pytest.raises(errors.NotFound):
            make().result()
    assert [one.url.raw_path for one in recorder.requests] == [
        b"/crm/v3/objects/contacts/..%2Fx%3Fy",
        b"/crm/v3/objects/a%2Fb/1",
    ]


def test_requests_and_answers_fit_the_contract(contracts_dir: Path):
    """All that the operations send of contacts is valid by hubspot.json, and so is all that the stand-in answers."""
    judge = Judge(Contract(contracts_dir, "hubspot"))
    service = judge.service()
    acme = service.create_object("companies", {"name": "Acme"}).result().id
    ada = service.create_object("contacts", {**ADA, "age": 3}, associations={acme: Link(279)}).result().id
    service.get_object("contacts", ada, properties=["email"]).result()
    service.update_object("contacts", ada, {"firstname": None, "at": SINCE}).result()
    service.upsert_object("contacts", "b@x.example", {}, id_property="email").result()
    people: dict[str, Any] = {"b@x.example": {"a": 1}, "c@x.example": {"no_such": "1"}}
    assert len(service.upsert_objects("contacts", people, id_property="email").result().failed) == 1
    service.associate("contacts", ada, "companies", acme).result()
    service.associate("contacts", ada, "companies", acme, [Link(279)]).result()
    list(service.list_associations("contacts", ada, "companies"))
    service.dissociate("contacts", ada, "companies", acme).result()
    list(service.search_objects("contacts", [Filter("age", "IN", values=("3",))], query="a", sorts=["age"]))
    list(service.list_changed("contacts", SINCE, page_size=1))
    for wrong in (service.create_object("contacts", ADA), service.get_object("contacts", "1")):
        with pytest.raises(errors.CallError):
            wrong.result()
    oauth = judge.service("refresh-0123456789", grant="refresh_token", client_id="sandbox-app",
                          client_secret="sandbox-client-secret")  # fmt: skip
    oauth.get_object("contacts", ada).result()
    assert ("POST", "/oauth/v1/token", 200) in judge.seen
    with pytest.raises(errors.LimitFault):
        judge.service("pat-daily").create_object("contacts", ADA).result()


def test_hubspots_own_client_and_the_stand_in(box: Box):
    """HubSpot's client finds the stand-in to be HubSpot: objects, upserts, searches, associations, errors, tokens."""

    def at(api: Any) -> Any:
        api.api_client.configuration.host = f"{box.url}/hubspot"
        return api

    client = hubspot.Client.create(access_token="pat-na1-test")
    contacts = client.crm.contacts
    basic = at(contacts.basic_api)
    ada = basic.create(SimplePublicObjectInputForCreate(properties=ADA))
    assert basic.get_by_id("ada@customer.example", id_property="email").id == ada.id
    changed = basic.update(ada.id, SimplePublicObjectInput(properties={"firstname": "A"}))
    assert (changed.properties["firstname"], changed.updated_at > ada.updated_at) == ("A", True)
    batch = {"inputs": [{"idProperty": "email", "id": "b@x.example", "properties": {"firstname": "B"}}]}
    [upserted] = at(contacts.batch_api).upsert(BatchInputSimplePublicObjectBatchInputUpsert(**batch)).results
    assert upserted.new is True
    condition = {"propertyName": "firstname", "operator": "EQ", "value": "B"}
    asked = PublicObjectSearchRequest(filter_groups=[{"filters": [condition]}], limit=1)
    found = at(contacts.search_api).do_search(asked)
    assert (found.total, found.results[0].id) == (1, upserted.id)
    service = box.service(HubSpot)
    acme = service.create_object("companies", {"name": "Acme"}).result().id
    at(client.crm.associations.v4.basic_api).create_default("contacts", ada.id, "companies", acme)
    assert [one.to_id for one in service.list_associations("contacts", ada.id, "companies")] == [acme]
    with pytest.raises(ApiException) as caught:
        basic.create(SimplePublicObjectInputForCreate(properties=ADA))
    assert caught.value.status == 409
    basic.archive(ada.id)
    assert [one.id for one in fetch_all(basic)] == [upserted.id]
    made = at(hubspot.Client.create().oauth.tokens_api).create(
        grant_type="refresh_token",
        refresh_token="refresh-0123456789",
        client_id="sandbox-app",
        client_secret="sandbox-client-secret",
    )
    assert made.expires_in == 1800


def test_what_happens_is_told(contracts_dir: Path):
    """Each write is told by a webhook that HubSpot's own check accepts, and that reads as what happened."""
    emitted: list[Emission] = []
    judge = Judge(Contract(contracts_dir, "hubspot"), emitted)
    service, secret = judge.service(), STAND_IN.secret or ""
    ada = service.create_object("contacts", ADA).result().id
    service.update_object("contacts", ada, {"firstname": "A"}).result()
    service.archive_object("contacts", ada).result()
    url = "https://shop.example/webhooks/hubspot?a=1"
    told = []
    for emission in emitted:
        signed = judge.stand_in.sign(emission, url=url, secrets=(secret,), hook_id="1", broken=False)
        stamp = signed.headers["X-HubSpot-Request-Timestamp"]
        expected = Signature.get_signature(
            secret, emission.body.decode(), "v3", http_uri=url, timestamp=stamp, http_method="POST"
        )
        assert signed.headers["X-HubSpot-Signature-v3"] == expected
        [event] = verify_each(
            HubSpot, headers=signed.headers, body=emission.body, secrets=secret, url=url, now=1_790_000_000.0
        )
        read = HubSpot.read_event(event)
        assert read is not None
        assert (read.object_id, read.object_type, read.portal_id) == (ada, "contact", 62515)
        assert read.at == datetime.fromtimestamp(1_790_000_000, UTC)
        told.append((read.kind, read.property, read.value))
    assert told == [
        (ChangeKind.CREATED, None, None),
        (ChangeKind.CHANGED, "firstname", "A"),
        (ChangeKind.DELETED, None, None),
    ]


def test_events_of_other_shapes():
    """A workflow's body has no common meaning, a word that is new is OTHER, and a body of another shape is BadAnswer."""
    assert HubSpot.read_event(Event("hubspot", "1", "", b'{"any": 1}')) is None
    body = {"subscriptionType": "contact.merge", "objectId": 1, "occurredAt": 1_790_000_000_123}
    read = HubSpot.read_event(Event("hubspot", "1", "contact.merge", json.dumps(body).encode()))
    assert read is not None
    assert (read.kind, read.portal_id) == (ChangeKind.OTHER, None)
    bodies: list[Any] = [{"objectId": "x"}, {"objectId": 1}, {"objectId": 1, "occurredAt": 10**30}, []]
    for wrong in bodies:
        with pytest.raises(errors.BadAnswer):
            HubSpot.read_event(Event("hubspot", "1", "contact.merge", json.dumps(wrong).encode()))


def test_calls_survive_a_queue(box: Box):
    """An upsert and a batch come out of a queue as they went in."""
    service = box.service(HubSpot)
    for call in (
        service.upsert_object("contacts", "ada@customer.example", {"age": 3}, id_property="email"),
        service.create_object("contacts", {"firstname": "B", "met": SINCE}, associations={}),
    ):
        stored = json.loads(json.dumps(call.to_payload()))
        assert Call.from_payload(stored, lambda name: service).result().id
    search = service.search_objects("contacts", [Filter("lastmodifieddate", "GT", SINCE)]).page()
    again = Call.from_payload(json.loads(json.dumps(search.to_payload())), lambda name: service)
    assert again.plan.json == search.plan.json


PAT = {"authorization": "Bearer pat-na1-test"}
OBJECTS = "/crm/v3/objects"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "category"),
    [
        ("POST", f"{OBJECTS}/contacts", {"firstname": "Ada"}, 400, "VALIDATION_ERROR"),
        ("POST", f"{OBJECTS}/contacts", {"properties": {"age": 36}}, 400, "VALIDATION_ERROR"),
        ("POST", f"{OBJECTS}/contacts", [], 400, "VALIDATION_ERROR"),
        ("POST", f"{OBJECTS}/contacts", {"properties": {}, "associations": [{"to": {"id": "1"}}]}, 400, "VALIDATION_ERROR"),
        ("POST", f"{OBJECTS}/contacts",
         {"properties": {}, "associations": [{"to": {"id": "1"}, "types": [Link(279).written()]}]}, 400, "VALIDATION_ERROR"),
        ("POST", f"{OBJECTS}/gadgets", {"properties": {}}, 400, "VALIDATION_ERROR"),
        ("GET", f"{OBJECTS}/contacts?limit=101", None, 400, "VALIDATION_ERROR"),
        ("GET", f"{OBJECTS}/contacts?after=x", None, 400, "VALIDATION_ERROR"),
        ("GET", f"{OBJECTS}/contacts/Ada?idProperty=firstname", None, 400, "VALIDATION_ERROR"),
        ("POST", f"{OBJECTS}/contacts/batch/create", {"inputs": []}, 400, "VALIDATION_ERROR"),
        ("POST", f"{OBJECTS}/contacts/search", {"filterGroups": [{"filters": [{"operator": "EQ"}]}]}, 400, "VALIDATION_ERROR"),
        ("POST", f"{OBJECTS}/contacts/search",
         {"filterGroups": [{"filters": [{"propertyName": "a", "operator": "IN"}]}]}, 400, "VALIDATION_ERROR"),
        ("POST", f"{OBJECTS}/contacts/search",
         {"filterGroups": [{"filters": [{"propertyName": "a", "operator": "EQ"}]}]}, 400, "VALIDATION_ERROR"),
        ("POST", f"{OBJECTS}/contacts/search",
         {"filterGroups": [{"filters": [{"propertyName": "a", "operator": "LIKE", "value": "x"}]}]}, 400, "VALIDATION_ERROR"),
        ("POST", f"{OBJECTS}/contacts/search", {"sorts": [{"propertyName": "a"}]}, 400, "VALIDATION_ERROR"),
        ("PUT", "/crm/v4/objects/contacts/1/associations/default/companies/2", None, 404, "OBJECT_NOT_FOUND"),
        ("GET", "/crm/v3/owners", None, 404, "OBJECT_NOT_FOUND"),
    ],
)  # fmt: skip
def test_what_the_stand_in_refuses(box: Box, method: str, path: str, body: Any, status: int, category: str):
    """It refuses what HubSpot would, with a category and a correlation id."""
    answer = box.client.request(method, f"/hubspot{path}", json=body, headers=PAT)
    assert (answer.status_code, answer.json()["category"]) == (status, category), answer.text
    assert answer.json()["correlationId"]


def test_what_the_stand_in_refuses_of_associations_and_tokens(box: Box):
    """An association needs its kind in an array; a token is for a known grant, and ends."""
    service = box.service(HubSpot)
    acme = service.create_object("companies", {"name": "Acme"}).result().id
    ada = service.create_object("contacts", ADA).result().id
    path = f"/hubspot/crm/v4/objects/contacts/{ada}/associations/companies/{acme}"
    bodies: list[Any] = [[], {}, [{"associationTypeId": "x"}]]
    for body in bodies:
        assert box.client.put(path, json=body, headers=PAT).status_code == 400
    token = box.client.post("/hubspot/oauth/v1/token", data={"grant_type": "password"})
    assert (token.status_code, token.json()["status"]) == (400, "BAD_GRANT_TYPE")
    judge_clock = ManualClock()
    stand_in = STAND_IN.make(Surroundings(clock=judge_clock))
    wire = httpx2.MockTransport(lambda request: answered(stand_in, request))
    with httpx2.Client(transport=wire, base_url="https://sandbox.example") as client:
        form = {"grant_type": "refresh_token", "refresh_token": "r-1", "client_id": "sandbox-app"}
        made = client.post("/oauth/v1/token", data=form | {"client_secret": "sandbox-client-secret"}).json()
        headers = {"authorization": f"Bearer {made['access_token']}"}
        answer = client.get(f"{OBJECTS}/contacts", headers=headers)
        assert (answer.status_code, "X-HubSpot-RateLimit-Daily" in answer.headers) == (200, False)
        judge_clock.advance(1801)
        assert client.get(f"{OBJECTS}/contacts", headers=headers).json()["category"] == "EXPIRED_AUTHENTICATION"


def test_injected_failures_are_hubspots(box: Box, run: Run):
    """A failure that is asked for has HubSpot's own words; an event that it does not send is named."""
    for status, code in ((500, "INTERNAL_ERROR"), (429, "TEN_SECONDLY_ROLLING")):
        box.arm(kind="status", status=status)
        with pytest.raises(errors.CallError) as caught:
            run(box.service(HubSpot, policy=Policy(retry=None)).check())
        assert caught.value.code == code
    with pytest.raises(errors.ConfigurationError, match=r"contact\.creation"):
        STAND_IN.make(Surroundings()).sample("contact.teleported")
