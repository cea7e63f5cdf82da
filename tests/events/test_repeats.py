"""Senders whose body is the customer's own: what is the same event, what is another, and what may lack."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.events.senders.auth0 import SAMPLE as AUTH0
from tests.events.senders.datadog import SAMPLE as DATADOG
from tests.events.test_senders import receiver_for, sent

from moorline.errors import UnusableEvent
from moorline.events import Inbox, verify, verify_each
from moorline.services import Auth0, Datadog, HubSpot, NewRelic, Twilio, Zendesk
from moorline.store.store import Store

NOW = 1_790_000_040.0  # 40 s within its minute
HEADERS = {"Authorization": "Bearer x"}


def checked(service: Any, body: Any, *, now: float = NOW, media: str = "application/json") -> Any:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return verify(service, headers=HEADERS | {"Content-Type": media}, body=raw, secrets="x", now=now)


def test_an_alert_with_the_same_words_is_a_retry_within_the_minute_and_another_later():
    """Without an id there is nothing else to tell them apart by: neither a retry twice, nor an alert lost."""
    body = {"title": "load is high"}
    first, retry, later = [checked(Datadog, body, now=NOW + after) for after in (0, 15, 300)]
    assert first.dedup_key == retry.dedup_key != later.dedup_key
    assert first.id == later.id  # what it says is the same


def test_with_an_id_the_time_does_not_matter():
    """A retry hours later is the same event."""
    body = {"id": "78", "date": "1790000000000", "title": "x"}
    assert checked(Datadog, body, now=NOW + 7200).dedup_key == checked(Datadog, body).dedup_key == "78:1790000000000"


@pytest.mark.parametrize(
    ("service", "body"),
    [
        (Datadog, {"id": "1234"}),
        (Datadog, {"date": "1790000000000"}),
        (NewRelic, {"id": "issue"}),
        (NewRelic, {"id": "issue", "state": "ACTIVATED"}),
        (NewRelic, {"state": "ACTIVATED", "updatedAt": 1}),
    ],
)
def test_half_an_id_is_none(service: Any, body: dict[str, Any]):
    """A monitor's or an issue's id stands in each of its notifications: as the event's it would lose all but the first."""
    event = checked(service, body)
    assert event.id.startswith("sha256:")
    assert event.dedup_key == f"{event.id}@{int(NOW // 60)}"


def test_zendesk_triggers_with_a_tickets_id_are_events_of_their_own():
    """The id in a body that somebody wrote is not the event's; a replay has the signed time, and so the same slot."""

    def one(body: dict[str, Any], signed: float, now: float) -> Any:
        raw = json.dumps(body).encode()
        return verify(Zendesk, headers=Zendesk.webhooks.sign(raw, "x", now=signed), body=raw, secrets="x", now=now)

    opened, solved = one({"id": 35, "status": "open"}, NOW, NOW), one({"id": 35, "status": "solved"}, NOW, NOW)
    assert opened.dedup_key != solved.dedup_key
    assert one({"id": 35, "status": "open"}, NOW, NOW + 200).dedup_key == opened.dedup_key
    assert one({"id": 35, "status": "open"}, NOW + 200, NOW + 200).dedup_key != opened.dedup_key


def test_what_has_no_id_may_come_again_and_be_meant():
    """A caller who presses the same key twice, a workflow that sends the same contact on another day; a message may not."""

    def one(service: Any, body: bytes, now: float) -> Any:
        url = "https://shop.test/webhooks/x"
        media = {"Content-Type": "application/json" if service is HubSpot else "application/x-www-form-urlencoded"}
        signed = service.webhooks.sign(body, "secret", now=now, url=url)
        return verify(service, headers=media | signed, body=body, secrets="secret", url=url, now=now).dedup_key

    for service, body, soon, later in (
        (Twilio, b"CallSid=CA1&Digits=1", 5, 30),
        (HubSpot, b'{"vid":1,"properties":{}}', 3_600, 2 * 86_400),
    ):
        first, retry, again = [one(service, body, NOW - NOW % 86_400 + after) for after in (0, soon, later)]
        assert first == retry != again
    message = b"MessageSid=SM1&SmsStatus=delivered"
    assert one(Twilio, message, NOW) == one(Twilio, message, NOW + 10 * 86_400)


@pytest.mark.parametrize(
    "body", [b"plain words", b'{"title":"a "quoted" word"}', b"", b'{"id":{},"date":1.5,"event_type":[]}', b"[1]"]
)
async def test_a_template_that_is_no_json_is_stored_all_the_same(body: bytes, tmp_path: Path):
    """A 4xx is final for these senders: an alert with a quotation mark in its words must not be lost."""
    with Store(f"sqlite:///{tmp_path / 'moorline.db'}") as store:
        inbox = Inbox(store)
        headers = DATADOG.signed().headers
        answer = await sent(receiver_for(DATADOG, inbox), headers, body, DATADOG.address, "POST")
        assert (answer.status, len(await inbox.recent())) == (200, 1)


def test_a_form_has_the_same_places():
    """Datadog can send its template as a form."""
    body = b"id=78&date=1790000000000&event_type=query_alert_monitor&id=79"
    event = checked(Datadog, body, media="application/x-www-form-urlencoded")
    assert (event.id, event.type) == ("78:1790000000000", "query_alert_monitor")


LOGS = [{"log_id": "1", "data": {"type": "ss"}}, {"log_id": "2", "data": {"type": "s"}}]


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("\n".join(map(json.dumps, LOGS)), [("1", "ss"), ("2", "s")]),
        ("\r\n".join(map(json.dumps, LOGS)) + "\r\n\r\n", [("1", "ss"), ("2", "s")]),
        (json.dumps(LOGS, indent=1), [("1", "ss"), ("2", "s")]),
        (json.dumps(LOGS[0], indent=1), [("1", "ss")]),
        (json.dumps({"id": "evt_1", "specversion": "1.0", "type": "user.created", "data": {"type": "no"}}), [("evt_1", "user.created")]),
    ],
)  # fmt: skip
def test_auth0s_records_in_each_of_its_forms(body: str, found: list[tuple[str, str]]):
    """JSON lines, an array, a single object, and CloudEvents: one event each, with its id and type."""
    events = verify_each(Auth0, headers=HEADERS, body=body.encode(), secrets="x")
    assert [(event.id, event.type) for event in events] == found
    assert all(event.body in body.encode() for event in events)


async def test_a_batch_is_stored_event_by_event(tmp_path: Path):
    """Of a batch that comes again with one more record only that one is new."""
    with Store(f"sqlite:///{tmp_path / 'moorline.db'}") as store:
        inbox = Inbox(store)
        receiver = receiver_for(AUTH0, inbox)
        for logs in (LOGS[:1], LOGS, LOGS):
            body = "\n".join(map(json.dumps, logs)).encode()
            assert (await sent(receiver, AUTH0.signed().headers, body, AUTH0.address, "POST")).status == 200
        assert {event.id: event.duplicates for event in await inbox.recent()} == {"1": 2, "2": 1}


def test_json_that_is_none_is_refused_where_it_is_the_senders_own():
    """Auth0 sends JSON: anything else is no event."""
    with pytest.raises(UnusableEvent):
        verify_each(Auth0, headers=HEADERS, body=b"{", secrets="x")
