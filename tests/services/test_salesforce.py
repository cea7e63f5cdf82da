from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx2
import pytest
from tests.contracts import Contract
from tests.services.conftest import Box, sandbox_key
from tests.services.recorder import Recorder, answered

from moorline import errors
from moorline.calls.call import Call
from moorline.calls.guards import Guards
from moorline.calls.tokens import JWT_BEARER, sandbox_pair, signed_jwt
from moorline.clock import ManualClock
from moorline.events import Event
from moorline.events.verification import verify_each
from moorline.policies.policy import Policy
from moorline.policies.retry import Retry
from moorline.sandbox.services.salesforce import STAND_IN
from moorline.sandbox.standin import Emission, Surroundings
from moorline.services.business.salesforce import ApiLimit, RecordResult, Salesforce, SubRequest, limit_info
from moorline.services.soql import Like, soql

Run = Callable[[Any], Any]
KEY = sandbox_key(Salesforce, "https://sandbox.example")
SINCE = datetime(2026, 1, 1, tzinfo=UTC)
NOW = 1_790_000_000.0
BASE = "/services/data/v66.0"
CALLS: list[Callable[[Salesforce], Any]] = [
    lambda s: s.query("SELECT Id FROM Account").page(),
    lambda s: s.list_changed("Account", SINCE, ["Name"]).page(),
    lambda s: s.get_record("Account", "001Hu00003abcDEIAY"),
    lambda s: s.create_record("Account", {"Name": "Acme"}),
    lambda s: s.update_record("Account", "001Hu00003abcDEIAY", {"Name": "Acme"}),
    lambda s: s.upsert_record("Account", "Ext_Id__c", "A-17", {"Name": "Acme"}),
    lambda s: s.delete_record("Account", "001Hu00003abcDEIAY"),
    lambda s: s.create_records("Account", [{"Name": "Acme"}]),
    lambda s: s.update_records("Account", {"001Hu00003abcDEIAY": {"Name": "Acme"}}),
    lambda s: s.upsert_records("Account", "Ext_Id__c", {"A-17": {"Name": "Acme"}}),
    lambda s: s.delete_records(["001Hu00003abcDEIAY"]),
    lambda s: s.composite([SubRequest("GET", "sobjects/Account", "one")]),
    lambda s: s.get_limits(),
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


class Org:
    """A stand-in that nobody serves, at an organization's own host, and what it was asked."""

    def __init__(self, *, site: str | None = None, emitted: list[Emission] | None = None) -> None:
        emit = (lambda _: None) if emitted is None else emitted.append
        self.clock = ManualClock(NOW)
        self.stand_in = STAND_IN.make(Surroundings(clock=self.clock, emit=emit))
        self.site = site
        self.requests: list[httpx2.Request] = []
        self.watch: Callable[[httpx2.Request, httpx2.Response], None] = lambda request, response: None

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        response = answered(self.stand_in, request)
        if request.url.path == "/services/oauth2/token" and response.status_code == 200:
            told = response.json() | {"instance_url": self.site or f"https://{request.url.host}"}
            response = httpx2.Response(200, json=told)
        self.watch(request, response)
        return response

    def service(self, key: str = KEY, **options: Any) -> Salesforce:
        """Salesforce in front of it."""
        given: dict[str, Any] = {"client_id": "sandbox-consumer-key", "username": "ada@acme.example", **options}
        given.setdefault("policy", Policy(retry=None, breaker=None))
        guards = Guards(clock=self.clock)
        return Salesforce(key, wire=httpx2.MockTransport(self), guards=guards, clock=self.clock, **given)


def test_a_record_from_first_to_last(box: Box, run: Run):
    """Created, read whole or in part, updated, deleted; times and numbers are written as Salesforce takes them."""
    service = box.service(Salesforce)
    key = run(service.create_record("Account", {"Name": "Acme", "Since__c": SINCE, "Ext_Id__c": "A-17"}))
    assert len(key) == 18
    read = run(service.get_record("Account", key))
    assert (read.type, read.id, read.fields["Name"]) == ("Account", key, "Acme")
    assert read.fields["Since__c"] == "2026-01-01T00:00:00.000Z"
    assert run(service.update_record("Account", key, {"Name": "Acme GmbH"})) is None
    assert dict(run(service.get_record("Account", key[:15], ["Name"])).fields) == {"Id": key, "Name": "Acme GmbH"}
    assert run(service.delete_record("Account", key)) is None
    for gone in (service.get_record("Account", key), service.delete_record("Account", key)):
        with pytest.raises(errors.NotFound) as caught:
            run(gone)
        assert (caught.value.code, caught.value.status) == ("ENTITY_IS_DELETED", 404)


def test_upsert(box: Box, run: Run):
    """The first creates and the second updates the same record; where several have the key nothing is done."""
    service = box.service(Salesforce)
    made = run(service.upsert_record("Account", "Ext_Id__c", "A 17?#%", {"Name": "Acme"}))
    again = run(service.upsert_record("Account", "Ext_Id__c", "A 17?#%", {"Name": "Acme GmbH"}))
    assert (made.created, again.created, again.id) == (True, False, made.id)
    assert run(service.get_record("Account", made.id)).fields["Ext_Id__c"] == "A 17?#%"
    for name in ("a", "b"):
        run(service.create_record("Account", {"Name": name, "Loose_Id__c": "x"}))
    with pytest.raises(errors.Conflict) as caught:
        run(service.upsert_record("Account", "Loose_Id__c", "x", {"Name": "c"}))
    assert (caught.value.status, len(caught.value.detail)) == (300, 2)
    with pytest.raises(errors.InvalidRequest, match="Ext_Id__c"):
        service.upsert_record("Account", "Ext_Id__c", "x", {"Ext_Id__c": "x"})
    recorder = Recorder(201, b'{"id":"001"}')
    recorder.service(Salesforce, key=KEY).upsert_record("Account", "Ext_Id__c", "A/1?", {}).result()
    assert recorder.requests[0].url.raw_path == f"{BASE}/sobjects/Account/Ext_Id__c/A%2F1%3F".encode()


def test_an_upsert_of_an_older_version():
    """An answer without a body is an update of which no id is known."""
    service = Recorder(204, b"").service(Salesforce, key=KEY)
    done = service.upsert_record("Account", "Ext_Id__c", "A-17", {}).result()
    assert (done.created, done.id) == (False, None)


def test_what_may_be_sent_again(box: Box, run: Run):
    """A lost answer to an upsert or an update is asked for again; to a creation it is OutcomeUnknown."""
    service = box.service(Salesforce, policy=Policy(retry=Retry(base=0.001)))
    assert run(service.check()) is True
    box.arm(kind="dropped", processed=True)
    made = run(service.upsert_record("Account", "Ext_Id__c", "A-17", {"Name": "Acme"}))
    assert made.created is False
    box.arm(kind="dropped", processed=True)
    run(service.update_record("Account", made.id, {"Name": "x"}))
    requests = [SubRequest("POST", "sobjects/Account", "one", {"Name": "y"})]
    for once in (service.create_record("Account", {"Name": "y"}), service.composite(requests)):
        box.arm(kind="dropped")
        with pytest.raises(errors.OutcomeUnknown):
            run(once)


def test_a_locked_row_is_tried_again(box: Box, run: Run):
    """A record that somebody else holds is worth another attempt, of a creation too: nothing was done."""
    service = box.service(Salesforce, policy=Policy(retry=Retry(base=0.001)))
    assert run(service.create_record("Account", {"Name": "Locked once"}))
    box.client.post("/_sandbox/reset")
    service = box.service(Salesforce, policy=Policy(retry=None))
    with pytest.raises(errors.Conflict) as caught:
        run(service.create_record("Account", {"Name": "Locked once"}))
    assert (caught.value.code, caught.value.retryable, caught.value.outcome) == ("UNABLE_TO_LOCK_ROW", True, "done")


def test_queries(box: Box, run: Run):
    """A query gives its records page after page; a bad one is InvalidRequest with Salesforce's code."""
    service = box.service(Salesforce)
    for start in (0, 200, 400):
        names = [{"Name": f"Acme {number:03}"} for number in range(start, start + 200)]
        assert all(one.done for one in run(service.create_records("Account", names)))
    query = soql("SELECT Id, Name FROM Account WHERE Name LIKE {name} ORDER BY Name DESC", name=Like("Acme"))
    found = items(service.query(query, batch_size=250), run)
    assert [one.fields["Name"] for one in found] == [f"Acme {number:03}" for number in range(599, -1, -1)]
    assert len([one for one in box.seen() if "/query/01g" in one["path"]]) == 2
    for wrong, code in (
        ("SELECT FROM Account", "MALFORMED_QUERY"),
        ("SELECT No_Such__c FROM Account", "INVALID_FIELD"),
        ("SELECT Id FROM No_Such__c", "INVALID_TYPE"),
    ):
        with pytest.raises(errors.InvalidRequest) as caught:
            run(service.query(wrong).page())
        assert caught.value.code == code


def test_sums_have_no_id():
    """What a query counts comes as a record without an id."""
    body = {"totalSize": 1, "done": True, "records": [{"attributes": {"type": "AggregateResult"}, "expr0": 17}]}
    service = Recorder(200, json.dumps(body).encode()).service(Salesforce, key=KEY)
    [found] = service.query("SELECT COUNT(Id) FROM Account")
    assert (found.id, found.fields) == (None, {"expr0": 17})


def test_a_page_that_leads_elsewhere():
    """Only a path of the API is followed."""
    body = {"totalSize": 1, "done": False, "records": [], "nextRecordsUrl": "//evil.example/services/data/x"}
    service = Recorder(200, json.dumps(body).encode()).service(Salesforce, key=KEY)
    with pytest.raises(errors.BadAnswer, match="nextRecordsUrl"):
        list(service.query("SELECT Id FROM Account"))


def test_what_changed_since(box: Box, run: Run):
    """All that changed come in the order of their changes, deleted ones too; one goes on from the last."""
    service = box.service(Salesforce)
    keys = [run(service.create_record("Contact", {"LastName": str(number)})) for number in range(4)]
    run(service.update_record("Contact", keys[1], {"LastName": "moved"}))
    run(service.delete_record("Contact", keys[0]))
    found = items(service.list_changed("Contact", SINCE, ["LastName"]), run)
    assert [(one.id, one.fields["IsDeleted"]) for one in found] == [
        (keys[2], False),
        (keys[3], False),
        (keys[1], False),
        (keys[0], True),
    ]
    last = datetime.fromisoformat(found[2].fields["SystemModstamp"])
    later = items(service.list_changed("Contact", last, deleted=False), run)
    assert [dict(one.fields) for one in later] == [
        {"Id": keys[1], "SystemModstamp": found[2].fields["SystemModstamp"]},
    ]
    assert items(service.list_changed("Contact", last + timedelta(days=1)), run) == []


def test_several_records_have_a_result_for_each(box: Box, run: Run):
    """Those that are good are done, each of the others says why not; all or none undoes all."""
    service = box.service(Salesforce)
    made = run(service.create_records("Account", [{"Name": "a", "Ext_Id__c": "1"}, {}, {"Name": "c"}]))
    assert [(one.done, one.code, one.fields) for one in made] == [
        (True, None, ()),
        (False, "REQUIRED_FIELD_MISSING", ("Name",)),
        (True, None, ()),
    ]
    assert "Name" in made[1].message
    undone = run(service.create_records("Account", [{"Name": "x"}, {}], all_or_none=True))
    assert [one.code for one in undone] == ["ALL_OR_NONE_OPERATION_ROLLED_BACK", "REQUIRED_FIELD_MISSING"]
    changed = run(service.update_records("Account", {made[0].id: {"Name": "A"}, "001x": {"Name": "B"}}))
    assert [one.code for one in changed] == [None, "NOT_FOUND"]
    upserted = run(service.upsert_records("Account", "Ext_Id__c", {"1": {"Name": "aa"}, "2": {"Name": "bb"}}))
    assert [(one.done, one.created) for one in upserted] == [(True, False), (True, True)]
    deleted = run(service.delete_records([made[0].id, made[2].id]))
    assert [one.done for one in deleted] == [True, True]
    left = items(service.query("SELECT Name FROM Account"), run)
    assert [one.fields["Name"] for one in left] == ["bb"]


def test_results_that_are_not_as_many():
    """An answer that has not one result for each record is BadAnswer; one that says nothing is not done."""
    service = Recorder(200, b"[]").service(Salesforce, key=KEY)
    with pytest.raises(errors.BadAnswer):
        service.create_records("Account", [{"Name": "x"}]).result()
    service = Recorder(200, b'[{"success":false}]').service(Salesforce, key=KEY)
    assert service.create_records("Account", [{}]).result() == (RecordResult(done=False),)


def test_composites(box: Box, run: Run):
    """Later requests use what the earlier gave; one that fails undoes the others, unless each stands for itself."""
    service = box.service(Salesforce)
    first = SubRequest("POST", "sobjects/Account", "acme", {"Name": "Acme"})
    second = SubRequest("POST", "sobjects/Contact", "ada", {"LastName": "Lovelace", "AccountId": "@{acme.id}"})
    wrong = SubRequest("POST", "sobjects/Contact", "nobody", {})
    done = run(service.composite([first, second]))
    assert [(one.name, one.status, one.done) for one in done] == [("acme", 201, True), ("ada", 201, True)]
    ada = run(service.get_record("Contact", done[1].body["id"]))
    assert ada.fields["AccountId"] == done[0].body["id"]
    undone = run(service.composite([first, wrong]))
    assert [(one.done, one.code) for one in undone] == [
        (False, "PROCESSING_HALTED"),
        (False, "REQUIRED_FIELD_MISSING"),
    ]
    kept = run(service.composite([first, wrong], all_or_none=False))
    assert [one.done for one in kept] == [True, False]
    assert len(items(service.query("SELECT Id FROM Account"), run)) == 2


def test_limits(box: Box, run: Run):
    """What is left of the organization's limits can be asked for, and stands in the header of each answer."""
    service = box.service(Salesforce)
    limits = run(service.get_limits())
    assert limits["DailyApiRequests"] == ApiLimit(5000, 4999)
    answer = run(service.query("SELECT Id FROM Account").page().response())
    assert limit_info(answer.header("Sforce-Limit-Info")) == {"api-usage": ApiLimit(5000, 4998)}
    told = "api-usage=25/5000; per-app-api-usage=17/250(appName=sample-connected-app)"
    assert limit_info(told) == {"api-usage": ApiLimit(5000, 4975), "per-app-api-usage": ApiLimit(250, 233)}
    for odd in (None, "", "api-usage=x/5", "api-usage=" + "9" * 40 + "/1", "nothing"):
        assert limit_info(odd) == {}


def test_limits_that_are_none():
    """An answer of another shape is BadAnswer, and its names are in no message."""
    service = Recorder(200, json.dumps({"\u200bname": 1}).encode()).service(Salesforce, key=KEY)
    with pytest.raises(errors.BadAnswer) as caught:
        service.get_limits().result()
    assert str(caught.value).isprintable()


def test_limits_slow_down_before_the_end():
    """An answer that leaves nothing holds the next call back, and an hour later one is tried."""
    org = Org()
    service = org.service(domain="acme", policy=Policy(deadline=5, retry=None))
    org.stand_in._used = 4999  # type: ignore[attr-defined]
    assert service.check().result() is True
    with pytest.raises(errors.RateLimited) as caught:
        service.check().result()
    assert (caught.value.outcome, len(org.requests)) == ("not_sent", 2)
    org.clock.advance(3601)
    with pytest.raises(errors.LimitFault) as told:
        service.check().result()
    assert (told.value.code, told.value.status, len(told.value.attempts)) == ("REQUEST_LIMIT_EXCEEDED", 403, 1)
    assert not isinstance(told.value, errors.RateLimited)


def test_jwt(box: Box, run: Run):
    """A token is had with a signed assertion and used; who is not allowed, or signs with another key, is told."""
    service = box.service(Salesforce)
    assert run(service.check()) is True
    assert run(service.check()) is True
    paths = [one["path"] for one in box.seen() if one["service"] == "salesforce"]
    assert paths == ["/services/oauth2/token", f"{BASE}/limits", f"{BASE}/limits"]
    with pytest.raises(errors.AuthenticationFailed) as caught:
        run(box.service(Salesforce, username="unknown@acme.example").check())
    assert (caught.value.code, caught.value.outcome) == ("invalid_grant", "not_sent")
    assert caught.value.message == "user hasn't approved this consumer"
    with pytest.raises(errors.AuthenticationFailed):
        run(box.service(Salesforce, client_id="another").check())
    with pytest.raises(errors.ConfigurationError, match="private key"):
        run(box.service(Salesforce, "no such file").check())


def test_other_grants(box: Box, run: Run):
    """A refresh token, and the app's own secret, get tokens as well; wrong ones are told."""
    secret = "sandbox-client-secret"
    assert run(box.service(Salesforce, "refresh-0123456789", grant="refresh_token").check()) is True
    assert run(box.service(Salesforce, secret, grant="client_credentials").check()) is True
    for key, grant in (("refresh-wrong", "refresh_token"), ("another-secret-0123", "client_credentials")):
        with pytest.raises(errors.AuthenticationFailed) as caught:
            run(box.service(Salesforce, key, grant=grant).check())
        assert caught.value.outcome == "not_sent"
    with pytest.raises(errors.ConfigurationError, match="domain"):
        Salesforce(secret, grant="client_credentials")
    assert Salesforce(secret, grant="client_credentials", domain="acme").base_url == "https://acme.my.salesforce.com"


def test_a_session_that_ended(run: Run):
    """A token that Salesforce ended is fetched anew, and the call sent again, once."""
    org = Org()
    service = org.service(domain="acme")
    run(service.check())
    org.clock.advance(60)
    org.stand_in._tokens.clear()  # type: ignore[attr-defined]
    assert run(service.create_record("Account", {"Name": "Acme"}))
    org.stand_in._tokens.clear()  # type: ignore[attr-defined]
    with pytest.raises(errors.AuthenticationFailed) as caught:
        run(service.check())
    assert caught.value.code == "INVALID_SESSION_ID"


@pytest.mark.parametrize(
    ("options", "login", "audience"),
    [
        ({}, "login.salesforce.com", "https://login.salesforce.com"),
        ({"region": "sandbox"}, "test.salesforce.com", "https://test.salesforce.com"),
        ({"domain": "acme"}, "acme.my.salesforce.com", "https://login.salesforce.com"),
        ({"domain": "acme--uat.sandbox"}, "acme--uat.sandbox.my.salesforce.com", "https://test.salesforce.com"),
    ],
)
def test_requests_go_where_the_token_says(run: Run, options: dict[str, str], login: str, audience: str):
    """The token is had at the login host, for its kind of audience; all else goes to the address that comes with it."""
    org = Org(site="https://acme.my.salesforce.com")
    service = org.service(**options)
    run(service.create_record("Account", {"Name": "Acme"}))
    found = [(one.url.host, one.url.path) for one in org.requests]
    assert found == [(login, "/services/oauth2/token"), ("acme.my.salesforce.com", f"{BASE}/sobjects/Account")]
    assertion = parse_qs(org.requests[0].content.decode())["assertion"][0]
    claims = json.loads(_decoded(assertion.split(".")[1]))
    assert (claims["aud"], claims["iss"], claims["sub"]) == (audience, "sandbox-consumer-key", "ada@acme.example")
    assert 0 < claims["exp"] - NOW <= 180


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "==")


@pytest.mark.parametrize(
    "site",
    ["https://evil.example", "https://salesforce.com.evil.example", "https://evilsalesforce.com", "https://x@my.force.com",
     "http://acme.my.salesforce.com", "https://acme.my.salesforce.com:8443", "https://acme.my.salesforce.com/x", "acme",
     "https://[", "//login.salesforce.com"],
)  # fmt: skip
def test_a_token_for_another_host_is_not_used(run: Run, site: str):
    """An address that is not Salesforce's is refused, and neither token nor record is sent anywhere."""
    org = Org(site=site)
    with pytest.raises(errors.BadAnswer) as caught:
        run(org.service().create_record("Account", {"Name": "Acme"}))
    assert (caught.value.outcome, len(org.requests)) == ("not_sent", 1)


def test_domains():
    """A domain is the part before .my.salesforce.com, and nothing that could lead elsewhere."""
    for wrong in ("acme.my", "evil.example/x", "a.b.c", "https://acme", "acme#"):
        with pytest.raises(errors.ConfigurationError, match="domain"):
            Salesforce("x", domain=wrong)
    with pytest.raises(errors.ConfigurationError, match="domain"):
        _ = Salesforce("x", domain="-acme").base_url


def test_where_its_credentials_stand(monkeypatch: pytest.MonkeyPatch):
    """Each grant has a variable of its own, which the error names; no secret is in a repr."""
    for grant, name in (
        ("jwt", "SALESFORCE_PRIVATE_KEY"),
        ("refresh_token", "SALESFORCE_REFRESH_TOKEN"),
        ("client_credentials", "SALESFORCE_CLIENT_SECRET"),
    ):
        with pytest.raises(errors.ConfigurationError, match=name):
            Salesforce(grant=grant, domain="acme").secret()
        monkeypatch.setenv(name, "secret-0123456789")
        assert Salesforce(grant=grant, domain="acme").secret().reveal() == "secret-0123456789"
        monkeypatch.delenv(name)
    with pytest.raises(errors.ConfigurationError, match="grant"):
        Salesforce(grant="password")


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "MALFORMED_QUERY", errors.InvalidRequest),
        (400, "INVALID_FIELD", errors.InvalidRequest),
        (400, "REQUIRED_FIELD_MISSING", errors.InvalidRequest),
        (400, "FIELD_CUSTOM_VALIDATION_EXCEPTION", errors.InvalidRequest),
        (400, "DUPLICATES_DETECTED", errors.Conflict),
        (400, "DUPLICATE_VALUE", errors.Conflict),
        (400, "UNABLE_TO_LOCK_ROW", errors.Conflict),
        (401, "INVALID_SESSION_ID", errors.AuthenticationFailed),
        (403, "INSUFFICIENT_ACCESS", errors.PermissionDenied),
        (403, "REQUEST_LIMIT_EXCEEDED", errors.LimitFault),
        (404, "NOT_FOUND", errors.NotFound),
        (409, "CONFLICT", errors.Conflict),
        (412, "PRECONDITION_FAILED", errors.Conflict),
        (500, "UNKNOWN_EXCEPTION", errors.ServiceUnavailable),
        (503, "SERVER_UNAVAILABLE", errors.ServiceUnavailable),
    ],
)
def test_every_documented_error(status: int, code: str, kind: type[errors.CallError]):
    """Each code of the card is a class of ours, with code and message."""
    body = json.dumps([{"message": "No", "errorCode": code, "fields": ["X__c"]}]).encode()
    service = Recorder(status, body).service(Salesforce, key=KEY, policy=Policy(retry=None))
    with pytest.raises(kind) as caught:
        service.get_record("Account", "001").result()
    assert (type(caught.value), caught.value.code, caught.value.message) == (kind, code, "No")


def test_too_many_at_this_moment():
    """Too many concurrent requests are a limit that opens again, with the same code as that of the day."""
    problem = {"message": "ConcurrentPerOrgLongTxn Limit exceeded.", "errorCode": "REQUEST_LIMIT_EXCEEDED"}
    service = Recorder(403, json.dumps([problem]).encode()).service(Salesforce, key=KEY, policy=Policy(retry=None))
    with pytest.raises(errors.RateLimited) as caught:
        service.create_record("Account", {}).result()
    assert caught.value.retryable is True


def test_a_user_who_may_not_see_the_limits():
    """The token is good all the same."""
    problem = {"message": "No", "errorCode": "INSUFFICIENT_ACCESS"}
    service = Recorder(403, json.dumps([problem]).encode()).service(Salesforce, key=KEY)
    assert service.check().result() is True


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda s: s.query("SELECT Id FROM Account", batch_size=100), "batch_size"),
        (lambda s: s.list_changed("Account WHERE", SINCE), "field"),
        (lambda s: s.list_changed("Account", SINCE, ["Name, Secret__c"]), "field"),
        (lambda s: s.list_changed("Account", datetime(2026, 1, 1)), "since"),  # noqa: DTZ001
        (lambda s: s.get_record("Account", "001", ["Name,x"]), "field"),
        (lambda s: s.create_records("Account", [{}] * 201), "records"),
        (lambda s: s.delete_records(["001"] * 201), "record_ids"),
        (lambda s: s.composite([SubRequest("GET", "x", "a")] * 26), "requests"),
        (lambda s: SubRequest("HEAD", "x", "a"), "method"),
        (lambda s: SubRequest("GET", "/x", "a"), "path"),
        (lambda s: SubRequest("GET", "x", "1a"), "name"),
    ],
)
def test_limits_are_checked_before_sending(make: Callable[[Any], Any], field: str):
    """What Salesforce would not take is InvalidRequest naming the field, and nothing is sent."""
    recorder = Recorder()
    with pytest.raises(errors.InvalidRequest) as caught:
        make(recorder.service(Salesforce, key=KEY)).result()
    assert (caught.value.code, caught.value.outcome, recorder.requests) == (field, "not_sent", [])


def test_requests_and_answers_fit_the_contract(contracts_dir: Path):
    """All that the operations send is valid by salesforce.schema.json, and so is all that the stand-in answers."""
    contract = Contract(contracts_dir, "salesforce.schema")
    checked: set[str] = set()

    def fits(name: str, value: Any) -> None:
        assert contract.problems(f"/$defs/{name}", value) == [], name
        checked.add(name)

    def watch(request: httpx2.Request, response: httpx2.Response) -> None:
        path, answer = request.url.path, response.json() if response.content else None
        if path == "/services/oauth2/token":
            form = {name: values[0] for name, values in parse_qs(request.content.decode()).items()}
            fits("TokenRequestJwt" if "assertion" in form else "TokenRequestRefresh", form)
            fits("TokenResponse" if response.status_code == 200 else "TokenError", answer)
        elif response.status_code == 300:
            fits("MultipleChoices", answer)
        elif response.status_code >= 400:
            fits("ErrorArray", answer)
        elif path == f"{BASE}/composite":
            fits("CompositeRequest", json.loads(request.content))
            fits("CompositeResponse", answer)
        elif "/query" in path:
            fits("QueryResult", answer)
        elif "/sobjects/" in path and request.method in ("POST", "PATCH") and "/composite/" not in path:
            fits("Record", json.loads(request.content))
            if answer is not None:
                fits("SaveResult", answer)

    org = Org()
    org.watch = watch
    service = org.service(domain="acme")
    key = service.create_record("Account", {"Name": "Acme"}).result()
    service.update_record("Account", key, {"Name": "x"}).result()
    service.upsert_record("Account", "Ext_Id__c", "1", {"Name": "y"}).result()
    service.composite([SubRequest("POST", "sobjects/Account", "one", {"Name": "z"})]).result()
    service.create_records("Account", [{"Name": str(number), "Loose_Id__c": "x"} for number in range(200)]).result()
    assert len(list(service.query("SELECT Id FROM Account", batch_size=200))) == 203
    for wrong in (
        service.create_record("Account", {}),
        service.upsert_record("Account", "Loose_Id__c", "x", {}),
        org.service("refresh-wrong", grant="refresh_token").check(),
    ):
        with pytest.raises(errors.CallError):
            wrong.result()
    assert checked >= {
        "TokenRequestJwt", "TokenRequestRefresh", "TokenResponse", "TokenError", "MultipleChoices", "ErrorArray",
        "CompositeRequest", "CompositeResponse", "QueryResult", "Record", "SaveResult",
    }  # fmt: skip


def test_what_happens_is_told():
    """Each write of a record is told by an outbound message, whose notification reads as the record."""
    emitted: list[Emission] = []
    org = Org(emitted=emitted)
    service, secret = org.service(domain="acme"), STAND_IN.secret or ""
    key = service.create_record("Account", {"Name": "B & B ♥ <x>"}).result()
    service.update_record("Account", key, {"Name": "B"}).result()
    told = []
    for emission in emitted:
        signed = org.stand_in.sign(emission, url="https://x.example", secrets=(secret,), hook_id="1", broken=False)
        [event] = verify_each(Salesforce, headers=signed.headers, body=emission.body, secrets=secret)
        read = Salesforce.read_event(event)
        assert read is not None
        told.append((read.type, read.record_id, read.fields["Name"]))
    assert told == [("Account", key, "B & B ♥ <x>"), ("Account", key, "B")]


def test_events_of_other_shapes():
    """A message without its notification, its id or its record is BadAnswer."""
    bodies: list[Any] = [{}, {"Notification": {"Id": "1"}}, {"Notification": {"sObject": {}}}]
    for wrong in bodies:
        with pytest.raises(errors.BadAnswer):
            Salesforce.read_event(Event("salesforce", "1", "Account", json.dumps(wrong).encode()))


def test_calls_survive_a_queue(box: Box):
    """An upsert, several records and a composite come out of a queue as they went in."""
    service = box.service(Salesforce)
    for call in (
        service.upsert_record("Account", "Ext_Id__c", "1", {"Name": "x"}),
        service.create_records("Account", [{"Name": "x"}]),
        service.composite([SubRequest("POST", "sobjects/Account", "one", {"Name": "z"})]),
    ):
        stored = json.loads(json.dumps(call.to_payload()))
        assert Call.from_payload(stored, lambda name: service).result()


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", f"{BASE}/sobjects/Account", [], 400, "JSON_PARSER_ERROR"),
        ("POST", f"{BASE}/sobjects/No_Such__c", {}, 404, "NOT_FOUND"),
        ("POST", f"{BASE}/sobjects/Account", {"Name": "x", "No_Such__c": 1}, 400, "INVALID_FIELD"),
        ("POST", f"{BASE}/sobjects/Account", {"Name": "x", "Id": "1"}, 400, "INVALID_FIELD_FOR_INSERT_UPDATE"),
        ("POST", f"{BASE}/sobjects/Account", {"Name": "x", "Ext_Id__c": "taken"}, 400, "DUPLICATE_VALUE"),
        ("POST", f"{BASE}/sobjects/Deal__c", {"Amount": -1}, 400, "FIELD_CUSTOM_VALIDATION_EXCEPTION"),
        ("PATCH", f"{BASE}/sobjects/Account/Ext_Id__c/1", {"Ext_Id__c": "1"}, 400, "INVALID_FIELD"),
        ("PATCH", f"{BASE}/sobjects/Account/Name/1", {}, 404, "NOT_FOUND"),
        ("GET", f"{BASE}/query/01gx-2", None, 400, "INVALID_QUERY_LOCATOR"),
        ("POST", f"{BASE}/composite", {"compositeRequest": []}, 400, "INVALID_INPUT"),
        ("POST", f"{BASE}/composite/sobjects", {"records": []}, 400, "EXCEEDED_MAX_SIZE_REQUEST"),
        ("GET", f"{BASE}/nothing", None, 404, "NOT_FOUND"),
    ],
)
def test_what_the_stand_in_refuses(method: str, path: str, body: Any, status: int, code: str):
    """It refuses what Salesforce would, in an array with its code."""
    org = Org()
    service = org.service(domain="acme")
    service.create_record("Account", {"Name": "x", "Ext_Id__c": "taken"}).result()
    with pytest.raises(errors.CallError) as caught:
        service.request(method, path, json=body).result()
    assert (caught.value.status, caught.value.code) == (status, code)


def test_what_the_stand_in_refuses_of_several():
    """Of several records with one external id none is chosen; each fails for itself."""
    service = Org().service(domain="acme")
    service.create_records("Account", [{"Name": "x", "Loose_Id__c": "1"}, {"Name": "y", "Loose_Id__c": "1"}]).result()
    [result] = service.upsert_records("Account", "Loose_Id__c", {"1": {"Name": "z"}}).result()
    assert (result.done, result.code) == (False, "DUPLICATE_EXTERNAL_ID")


def test_what_the_stand_in_refuses_of_tokens(box: Box):
    """A token is for a known grant, app, audience and time."""
    path = "/salesforce/services/oauth2/token"
    for form in ({"grant_type": "password"}, {"grant_type": "client_credentials"}):
        answer = box.client.post(path, data=form)
        assert (answer.status_code, "error" in answer.json()) == (400, True)
    assert box.client.post(path, data={"grant_type": "refresh_token"}).json()["error"] == "invalid_client_id"
    bad = box.client.post(path, data={"grant_type": "client_credentials"}, headers={"authorization": "Basic ?"})
    assert bad.json()["error"] == "invalid_client_id"
    pem, kid = sandbox_pair()
    good = {"iss": "sandbox-consumer-key", "sub": "ada", "aud": "https://login.salesforce.com", "exp": time.time() + 60}
    header = {"alg": "RS256", "kid": kid}
    cases: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        (header, good | {"aud": "https://evil.example"}, "audience is invalid"),
        (header, good | {"exp": time.time() + 600}, "expired authorization code"),
        (header, good | {"exp": "x"}, "invalid assertion"),
        ({"alg": "RS256"}, good, "invalid assertion"),
    ]
    for head, claims, message in cases:
        form = {"grant_type": JWT_BEARER, "assertion": signed_jwt(head, claims, pem, "salesforce")}
        assert box.client.post(path, data=form).json()["error_description"] == message
    whole = signed_jwt(header, good, pem, "salesforce")
    for assertion in (whole[:-8] + "AAAAAAAA", whole.replace(".", ""), "a.b.c"):
        form = {"grant_type": JWT_BEARER, "assertion": assertion}
        assert box.client.post(path, data=form).json()["error_description"] == "invalid assertion"
    form = {"grant_type": JWT_BEARER, "assertion": whole}
    token = box.client.post(path, data=form).json()["access_token"]
    headers = {"authorization": f"Bearer {token}"}
    assert box.client.post("/salesforce/_end", headers=headers).status_code == 204
    assert box.client.get(f"/salesforce{BASE}/limits", headers=headers).json()[0]["errorCode"] == "INVALID_SESSION_ID"


def test_injected_failures_are_salesforces(box: Box, run: Run):
    """A failure that is asked for has Salesforce's own words; an event that it does not send is named; what it holds is
    shown.
    """
    service = box.service(Salesforce, policy=Policy(retry=None))
    assert run(service.create_record("Account", {"Name": "Acme"})) in box.state("salesforce")["records"]["Account"]
    for status, code in ((503, "SERVER_UNAVAILABLE"), (403, "REQUEST_LIMIT_EXCEEDED")):
        box.arm(kind="status", status=status)
        with pytest.raises(errors.CallError) as caught:
            run(service.check())
        assert caught.value.code == code
    with pytest.raises(errors.ConfigurationError, match="Opportunity"):
        STAND_IN.make(Surroundings()).sample("Case")
