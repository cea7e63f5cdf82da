"""What holds for every sender: each service with webhooks gets this whole suite by its sample in ``senders/``."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.events.senders.sample import NOW, Sample, Signed

from moorline import registry
from moorline.clock import ManualClock
from moorline.errors import ConfigurationError, InvalidSignature
from moorline.events import Inbox, Receiver, verify, verify_each
from moorline.events.export import exported
from moorline.events.intake import scheme_named
from moorline.secrets import Secret
from moorline.store.store import Store
from moorline.testing import delivery

ROOT = Path(__file__).resolve().parents[2]
NAMES = [name for name in registry.names() if scheme_named(name) is not None]


def sample_of(name: str) -> Sample:
    """The sample of a sender; a sender without one fails here."""
    sample: Sample = importlib.import_module(f"tests.events.senders.{name}").SAMPLE
    return sample


@pytest.fixture(params=NAMES)
def sample(request: pytest.FixtureRequest) -> Sample:
    """The sample of each sender."""
    return sample_of(request.param)


def checked(sample: Sample, signed: Signed, secrets: Any, *, other: bool = False, **options: Any) -> Any:
    """``verify`` at the sample's time."""
    certificates = sample.other_certificates if other else sample.certificates
    arguments = {"now": NOW, "certificates": certificates, **signed.to_verify(), **options}
    return verify(sample.service, secrets=secrets, **arguments)


# --- the record


def test_there_is_a_sample_for_each_sender_and_none_too_many():
    """A sender lacks nothing of this suite, and no sample is left of one that is gone."""
    files = {path.stem for path in (ROOT / "tests/events/senders").glob("*.py")} - {"__init__", "sample"}
    assert files == set(NAMES)


def test_the_record_is_complete(sample: Sample):
    """It names its variable and where its facts stand, says what to expect of it, and repeats its sources in words."""
    service = registry.service(sample.service)
    assert sample.scheme.env.isupper()
    assert service.docs
    assert all(fact.strip() in (service.__doc__ or "") for fact in service.docs.split(","))
    assert sample.scheme.delivers.retries
    assert sample.scheme.keyed
    assert repr(sample.scheme)


# --- the vectors


def test_its_variables_are_called_by_what_they_hold(sample: Sample):
    """Their names end in a word that says so: a slip in a name would be a secret that is never found."""
    scheme = sample.scheme
    for variable in (scheme.env, *(one.env for one in scheme.handshakes if one.env)):
        assert variable.rpartition("_")[2] in {"SECRET", "KEY", "TOKEN", "ID", "ARN", "STATE"}, variable


def test_a_good_delivery_is_an_event(sample: Sample):
    """Id, type, action and the raw bytes are found; the first of the accepted secrets had signed it."""
    signed = sample.signed()
    event = checked(sample, signed, [sample.secret, sample.other])
    assert (event.id, event.type, event.action) == (sample.id, sample.type, sample.action)
    assert (event.body, event.secret_index) == (signed.body, 0)
    assert (event.timestamp is not None) == sample.timed
    assert repr(event).count(sample.secret) == 0


def test_the_second_secret_is_as_good(sample: Sample):
    """While secrets are changed both are accepted, and which one it was is known."""
    event = checked(sample, sample.signed(other=True), [sample.secret, sample.other], other=True)
    assert event.secret_index == (0 if sample.secret == sample.other else 1)


def test_another_secret_is_refused(sample: Sample):
    """What somebody else signed is none of ours."""
    secrets = sample.secret
    with pytest.raises(InvalidSignature):
        checked(sample, sample.signed(other=True), secrets)


def test_an_expired_secret_counts_no_longer(sample: Sample):
    """From its end on a secret is as if it were not there; until then it is good."""
    signed = sample.signed()
    assert checked(sample, signed, Secret(sample.secret, not_after=NOW + 1)).id == sample.id
    with pytest.raises(InvalidSignature):
        checked(sample, signed, [Secret(sample.secret, not_after=NOW), Secret(_third(sample))])
    with pytest.raises(InvalidSignature, match="expired"):
        checked(sample, signed, [Secret(sample.secret, not_after=NOW)])


def _third(sample: Sample) -> str:
    return sample.other if sample.other != sample.secret else sample.other + "x"


def test_a_changed_byte_is_refused(sample: Sample):
    """One bit of what is signed spoils it."""
    with pytest.raises(InvalidSignature):
        checked(sample, sample.spoiled(), sample.secret)


@pytest.mark.parametrize("early", [False, True])
def test_a_signed_time_may_be_off_by_five_minutes(sample: Sample, early: bool):
    """Stale and future deliveries are refused either way; without a signed time the age cannot be known.

    A sender that tries again with the time of its first try may be as late as it tries.
    """
    off = 301.0 if early else -(sample.late + 1)
    signed = sample.signed(now=NOW + off)
    if not sample.timed:
        assert checked(sample, signed, sample.secret).timestamp is None
        return
    with pytest.raises(InvalidSignature) as raised:
        checked(sample, signed, sample.secret)
    assert raised.value.reason == ("stale" if off < 0 else "future")
    assert checked(sample, signed, sample.secret, tolerance=abs(off) + 100).id == sample.id
    assert checked(sample, sample.signed(now=NOW + off * 0.99), sample.secret).id == sample.id


@pytest.mark.parametrize(
    "junk", ["", "x", "=", "\x00", "t=1", "v1=zz", "sha256=\xff", "Bearer a.b.c", "é" * 300, "," * 99]
)
@pytest.mark.parametrize("name", [name for name in NAMES if sample_of(name).signature])
def test_junk_for_a_signature_is_a_failed_check(name: str, junk: str):
    """Whatever stands in its header is refused, and never an error of another kind."""
    sample = sample_of(name)
    headers = {
        name: value for name, value in sample.signed().headers.items() if name.lower() != sample.signature.lower()
    }
    for given in (headers, headers | {sample.signature: junk}):
        with pytest.raises(InvalidSignature):
            checked(sample, dataclasses.replace(sample.signed(), headers=given), sample.secret)


def test_no_secret_accepts_nothing(sample: Sample):
    """Nothing is open by accident: no secret, or an empty one, is an error of configuration."""
    for nothing in ([], "", "  ", [b""]):
        with pytest.raises(ConfigurationError, match="secrets"):
            checked(sample, sample.signed(), nothing)


def test_each_event_of_a_delivery_is_found(sample: Sample):
    """A delivery that holds several gives as many, each with an id of its own and its own bytes."""
    signed = sample.signed()
    events = verify_each(
        sample.service, secrets=sample.secret, now=NOW, certificates=sample.certificates, **signed.to_verify()
    )
    assert len(events) == sample.events
    assert len({event.dedup_key for event in events}) == sample.events
    assert all(event.body in signed.body for event in events)


# --- through the receiver


@pytest.fixture
def inbox(tmp_path: Path) -> Iterator[Inbox]:
    """An inbox over SQLite."""
    with Store(f"sqlite:///{tmp_path / 'moorline.db'}") as store:
        yield Inbox(store)


class Answer:
    """What came back: the status, headers by lower-case name, and body."""

    def __init__(self, sent: list[Any]) -> None:
        self.status: int = sent[0]["status"]
        self.headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        self.body: bytes = sent[1]["body"]


async def sent(receiver: Receiver, headers: dict[str, str], body: bytes, url: str, method: str) -> Answer:
    """One request over ASGI."""
    parts = urlsplit(url)
    answers: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        answers.append(message)

    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    scope = {
        "type": "http", "method": method, "path": parts.path, "raw_path": parts.path.encode(),
        "query_string": parts.query.encode(), "headers": raw, "scheme": "http", "client": ("10.0.0.9", 1),
    }  # fmt: skip
    await receiver(scope, receive, send)
    return Answer(answers)


def receiver_for(sample: Sample, inbox: Inbox, **options: Any) -> Receiver:
    """One that knows the sample's secret, behind the address that it delivers to."""
    configured = {sample.service: [sample.secret]}
    receiver = Receiver(
        inbox,
        lambda name: configured.get(name, ()),
        public_url="https://shop.example",
        clock=ManualClock(NOW),
        **options,
    )

    async def fetch(url: str) -> bytes:
        fetched.append(url)
        return (sample.certificates or {}).get(url, b"")

    fetched: list[str] = []
    receiver.fetch = fetch
    receiver.fetched = fetched  # type: ignore[attr-defined]
    receiver.intake.certificates._held.update({url: (1e12, pem) for url, pem in (sample.certificates or {}).items()})
    return receiver


async def deliver(receiver: Receiver, signed: Signed) -> Answer:
    """The delivery as it would come."""
    return await sent(receiver, signed.headers, signed.body, signed.url, signed.method)


async def test_a_delivery_is_stored_once_and_answered_as_its_sender_wants(sample: Sample, inbox: Inbox):
    """Two deliveries of one thing are one event, counted; both get a 2xx with the body that this sender looks for."""
    receiver = receiver_for(sample, inbox)
    first, second = [await deliver(receiver, sample.signed()) for _ in range(2)]
    assert (first.status, second.status) == (200, 200)
    if sample.answer is not None:
        assert (first.body, second.body) == (sample.answer, sample.answer)
    events = await inbox.recent()
    assert len(events) == sample.events
    assert {event.duplicates for event in events} == {1}
    if sample.events == 1:
        assert (events[0].id, events[0].type, events[0].action) == (sample.id, sample.type, sample.action)
        assert (await inbox.get(sample.id)).inbox_id == events[0].inbox_id


async def test_a_replay_under_another_id_is_noticed(sample: Sample, inbox: Inbox):
    """Where the id is not signed, the same content under a new one is the same event."""
    receiver = receiver_for(sample, inbox)
    signed = sample.signed()
    changed = {name: value + "9" if "deliver" in name.lower() or "request-id" in name.lower() or "invocation" in name.lower() else value
               for name, value in signed.headers.items()}  # fmt: skip
    await deliver(receiver, signed)
    await deliver(receiver, dataclasses.replace(signed, headers=changed))
    assert len(await inbox.recent()) == sample.events


async def test_a_forged_delivery_is_refused(sample: Sample, inbox: Inbox):
    """A changed byte, and another's secret: never a 2xx or 3xx, no detail, nothing stored."""
    receiver = receiver_for(sample, inbox)
    for forged in (sample.spoiled(), sample.signed(other=True)):
        answer = await deliver(receiver, forged)
        assert answer.status in (401, 404, 503)
        assert answer.body in (b'{"error":"unauthorized"}', b'{"error":"not found"}', b'{"error":"try again later"}')
    assert await inbox.recent() == []


async def test_without_a_secret_it_is_not_there(sample: Sample, inbox: Inbox):
    """Unconfigured and unknown are one to the outside."""
    receiver = Receiver(inbox, lambda _: (), public_url="https://shop.example", clock=ManualClock(NOW))
    answer = await deliver(receiver, sample.signed())
    assert (answer.status, answer.body) == (404, b'{"error":"not found"}')


async def test_its_handshakes_are_answered(sample: Sample, inbox: Inbox, monkeypatch: pytest.MonkeyPatch):
    """Each question gets the answer that the sender wants, and is stored as no event; from a stranger it is none."""
    assert bool(sample.handshakes) == bool(sample.scheme.handshakes)
    receiver = receiver_for(sample, inbox)
    for handshake in sample.handshakes:
        for name, value in handshake.environment.items():
            monkeypatch.setenv(name, value)
        signed = Signed({}, b"", sample.address, handshake.method)
        if handshake.body is not None:
            signed = dataclasses.replace(sample.signed(body=handshake.body), method=handshake.method)
        if handshake.query:
            signed = dataclasses.replace(signed, url=f"{sample.address}?{handshake.query}")
        answer = await deliver(receiver, signed)
        assert (answer.status, answer.body) == (200, handshake.answer)
        if handshake.answer:
            assert answer.headers["content-type"].startswith(handshake.media)
        if handshake.confirms:
            assert receiver.fetched == [handshake.confirms]  # type: ignore[attr-defined]
        if handshake.body is not None:
            forged = dataclasses.replace(sample.signed(body=handshake.body, other=True), method=handshake.method)
            assert (await deliver(receiver, forged)).status == 401
    assert await inbox.recent() == []


def test_what_was_stored_can_be_delivered_anew(sample: Sample, tmp_path: Path):
    """Exported, read back and signed anew by ``moorline.testing``, it is the same event to one's own application."""
    signed = sample.signed()
    events = verify_each(
        sample.service, secrets=sample.secret, now=NOW, certificates=sample.certificates, **signed.to_verify()
    )
    path = tmp_path / "event.json"
    path.write_text(json.dumps(exported(events[0])))
    sent = delivery(path, secret=sample.secret, key=sample.key, url=sample.address, now=NOW)
    again = verify_each(
        sample.service, headers=sent.headers, body=sent.body, url=f"https://shop.example{sent.path}",
        secrets=sample.secret, now=NOW, certificates=sample.certificates,
    )  # fmt: skip
    assert [(one.id, one.type, one.action) for one in again] == [(events[0].id, events[0].type, events[0].action)]


# --- the documentation


def test_the_table_of_senders_names_it(sample: Sample):
    """``docs/reference/senders.md`` has its row, made from the record."""
    page = (ROOT / "docs/reference/senders.md").read_text()
    assert f"`/webhooks/{sample.service}`" in page
    assert f"`{sample.scheme.env}`" in page


def test_the_samples_say_nothing_that_is_not_json_or_a_form(sample: Sample):
    """A sample is a body as the sender makes it: its payload can be read."""
    event = checked(sample, sample.signed(), sample.secret)
    assert json.dumps(event.payload, default=str)
