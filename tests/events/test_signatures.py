"""Every scheme: what it accepts, what it refuses, and that it refuses in one way only."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.events.schemes import NOW, SENDERS, Base64Like, Sender

from moorline.errors import ConfigurationError, InvalidSignature, UnusableEvent
from moorline.events import HMACSignature, StandardWebhooks, verify
from moorline.events.delivery import Delivery
from moorline.secrets.secret import Secret
from moorline.services import GitHub, Stripe

every_scheme = pytest.mark.parametrize("sender", SENDERS, ids=lambda sender: sender.name)
timed_schemes = pytest.mark.parametrize(
    "sender", [sender for sender in SENDERS if sender.timed], ids=lambda sender: sender.name
)


def check(sender: Sender, headers: dict[str, str], **options: Any):
    arguments: dict[str, Any] = {"body": sender.body, "secrets": sender.secret, "now": NOW} | options
    return verify(sender.service, headers=headers, **arguments)


@every_scheme
def test_a_good_signature_gives_the_event(sender: Sender):
    """What a sender signed with our secret is taken, with its id, type and bytes."""
    event = check(sender, sender.signed())
    assert (event.id, event.type, event.body) == (sender.id, sender.type, sender.body)
    assert (event.secret_index, event.received_at) == (0, NOW)
    assert event.timestamp == (NOW if sender.timed else None)


@every_scheme
def test_headers_match_in_any_case(sender: Sender):
    """Header names are compared without case, as strings or bytes."""
    shouted = {name.upper(): value for name, value in sender.signed().items()}
    raw = {name.lower().encode(): value.encode() for name, value in sender.signed().items()}
    assert check(sender, shouted).id == check(sender, raw).id == sender.id  # type: ignore[arg-type]


@every_scheme
def test_another_secret_is_refused(sender: Sender):
    """A signature made with another secret does not match."""
    with pytest.raises(InvalidSignature) as caught:
        check(sender, sender.signed(sender.other))
    assert caught.value.reason == "mismatch"


@every_scheme
@pytest.mark.parametrize("position", [0, 9, -1])
def test_a_changed_byte_is_refused(sender: Sender, position: int):
    """One bit of the body, wherever it is, breaks the signature."""
    body = bytearray(sender.body)
    body[position] ^= 1
    with pytest.raises(InvalidSignature):
        check(sender, sender.signed(), body=bytes(body))


@every_scheme
def test_the_same_json_in_other_bytes_is_refused(sender: Sender):
    """The bytes count, not what they mean."""
    with pytest.raises(InvalidSignature):
        check(sender, sender.signed(), body=sender.body + b"\n")


@every_scheme
def test_any_of_several_secrets_will_do_and_is_named(sender: Sender):
    """During a rotation both secrets are accepted, and the event says which one signed."""
    both = [sender.other, Secret(sender.secret)]
    assert check(sender, sender.signed(), secrets=both).secret_index == 1
    assert check(sender, sender.signed(sender.other), secrets=both).secret_index == 0


def test_a_secret_that_is_given_an_end_ends():
    """Also where the same secrets were used before; a subclass is asked for its value each time."""

    class Changing(Secret):
        value = "one of two secrets"

        def reveal(self) -> str:
            return self.value

    scheme = HMACSignature(header="X-S", env="X", id="id", type="type")
    delivery = Delivery({"x-s": scheme.sign(b"{}", "one of two secrets")["X-S"]}, b"{}")
    secrets = (Secret("one of two secrets"),)
    for _ in range(2):
        assert scheme.check(delivery, secrets, now=NOW).secret_index == 0
    secrets[0].not_after = NOW - 1
    with pytest.raises(InvalidSignature, match="expired"):
        scheme.check(delivery, secrets, now=NOW)
    changing = (Changing("another one"),)
    assert scheme.check(delivery, changing, now=NOW).secret_index == 0
    Changing.value = "the other of them"
    with pytest.raises(InvalidSignature, match="match"):
        scheme.check(delivery, changing, now=NOW)


def test_a_scheme_that_was_used_shows_no_key():
    """It can be pickled and listed as before, and no key goes with it."""
    scheme = HMACSignature(header="X-S", env="X", id="id", type="type")
    key = "a secret of this test"
    delivery = Delivery({"x-s": scheme.sign(b"{}", key)["X-S"]}, b"{}")
    secrets = (Secret(key),)
    scheme.check(delivery, secrets, now=NOW)
    stored = pickle.dumps(scheme)
    assert key.encode() not in stored
    assert key not in repr(dataclasses.asdict(scheme))
    assert pickle.loads(stored).check(delivery, secrets, now=NOW).secret_index == 0


@every_scheme
def test_a_missing_header_is_refused(sender: Sender):
    """Without the signature's header, or with an empty one, there is no signature."""
    headers = sender.signed()
    del headers[sender.signature]
    for attempt in (headers, headers | {sender.signature: ""}):
        with pytest.raises(InvalidSignature) as caught:
            check(sender, attempt)
        assert caught.value.reason == "missing"


@pytest.mark.parametrize("sender", [sender for sender in SENDERS if sender.name != "stripe"], ids=lambda one: one.name)
def test_a_header_that_comes_twice_is_refused(sender: Sender):
    """Two signature headers are joined and match by neither half (Stripe's are lists of one kind; see its own tests)."""
    twice = sender.signed() | {sender.signature.swapcase(): sender.signed()[sender.signature] + "x"}
    with pytest.raises(InvalidSignature):
        check(sender, twice)


@timed_schemes
@pytest.mark.parametrize(("age", "reason"), [(301, "stale"), (-301, "future"), (10**6, "stale"), (-(10**6), "future")])
def test_time_is_checked_both_ways(sender: Sender, age: int, reason: str):
    """Signed too long ago or too far in the future is refused, whoever signed."""
    with pytest.raises(InvalidSignature) as caught:
        check(sender, sender.signed(now=NOW - age))
    assert caught.value.reason == reason


@timed_schemes
@pytest.mark.parametrize("age", [300, -300, 0])
def test_within_the_tolerance_is_fine(sender: Sender, age: int):
    """Five minutes either way are allowed, the bound included."""
    assert check(sender, sender.signed(now=NOW - age)).timestamp == NOW - age


@timed_schemes
def test_the_tolerance_may_be_chosen(sender: Sender):
    """A caller's tolerance replaces the scheme's."""
    with pytest.raises(InvalidSignature):
        check(sender, sender.signed(now=NOW - 11), tolerance=10)
    assert check(sender, sender.signed(now=NOW - 10_000), tolerance=20_000).id == sender.id
    assert check(sender, sender.signed(now=0), tolerance=math.inf).timestamp == 0


@timed_schemes
def test_the_clock_is_this_machines_when_none_is_given(sender: Sender):
    """Without ``now`` an old signature is stale, and a fresh one is taken."""
    with pytest.raises(InvalidSignature):
        check(sender, sender.signed(now=NOW - 10**8), now=None)
    fresh = sender.headers | sender.scheme.sign(sender.body, sender.secret, id="msg_1")
    assert check(sender, fresh, now=None).id == sender.id


@every_scheme
@pytest.mark.parametrize("secrets", ["", b"", [], (), ["good", ""], None, 5, [None], [5]])
def test_secrets_that_protect_nothing_are_an_error(sender: Sender, secrets: Any):
    """No secret, an empty one or none at all is a mistake of ours, never an accepted signature."""
    with pytest.raises(ConfigurationError, match="secrets"):
        check(sender, sender.signed(), secrets=secrets)


@every_scheme
@pytest.mark.parametrize("now", [math.nan, -1, "1", True])
def test_a_clock_that_cannot_be_compared_is_an_error(sender: Sender, now: Any):
    """NaN compares as neither early nor late, so it would let everything pass."""
    for argument in ("now", "tolerance"):
        with pytest.raises(ConfigurationError, match=argument):
            check(sender, sender.signed(), **{argument: now})


junk = st.one_of(
    st.text(max_size=80),
    st.text("0123456789abcdef=,v1t.sha256 ", max_size=120),
    st.builds("t={},v1={}".format, st.integers() | st.text(max_size=6), st.text("0123456789abcdefg", max_size=70)),
    st.builds("v1,{}".format, st.text(max_size=60)),
    st.builds("sha256={}".format, st.text(max_size=70)),
)


@every_scheme
@given(signature=junk, stamp=junk | st.integers().map(str), identity=junk, body=st.binary(max_size=60))
def test_whatever_the_headers_hold_it_is_a_refusal(
    sender: Sender, signature: str, stamp: str, identity: str, body: bytes
):
    """No header and no body makes the check fail in another way than as a refusal."""
    headers = sender.headers | {sender.signature: signature}
    for prefix in ("webhook-", "svix-"):
        headers |= {prefix + "timestamp": stamp, prefix + "id": identity}
    with pytest.raises(InvalidSignature):
        check(sender, headers, body=body)


@every_scheme
@given(
    body=st.binary(max_size=80)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(repr).map(str.encode)
)
def test_whatever_was_signed_it_is_an_event_or_unusable(sender: Sender, body: bytes):
    """A well-signed body of any content gives an Event or UnusableEvent, nothing else."""
    headers = sender.headers | sender.scheme.sign(body, sender.secret, now=NOW, id="msg_1")
    with contextlib.suppress(UnusableEvent):
        assert check(sender, headers, body=body).body == body


@every_scheme
@given(facts=st.dictionaries(st.sampled_from(["id", "type", "object", "event", "action", "x"]), st.from_type(object)))
def test_whatever_the_fields_hold_it_is_an_event_or_unusable(sender: Sender, facts: dict[str, Any]):
    """Fields of any JSON kind in the places of id and type are read or refused, never tripped over."""
    body = json.dumps(facts, default=lambda _: {"deep": [1, None]}).encode()
    headers = sender.headers | sender.scheme.sign(body, sender.secret, now=NOW, id="msg_1")
    try:
        event = check(sender, headers, body=body)
    except UnusableEvent:
        return
    assert event.id
    assert event.id.isprintable()
    assert event.type.isprintable()


def test_githubs_documented_vector():
    """The vector of GitHub's documentation for validating deliveries is accepted."""
    signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    event = verify(
        GitHub,
        headers={"X-Hub-Signature-256": signature},
        body=b"Hello, World!",
        secrets="It's a Secret to Everybody",
    )
    assert event.id.startswith("sha256:dffd6021bb2bd5b0af67")
    with pytest.raises(UnusableEvent):
        _ = event.payload


def test_githubs_id_names_the_hook_because_hooks_share_the_guid():
    """The same GUID at two hooks is two events; the same at one hook is one."""
    github = SENDERS[0]
    one = check(github, github.signed() | {"X-GitHub-Hook-ID": "1"})
    two = check(github, github.signed() | {"X-GitHub-Hook-ID": "2"})
    assert (one.id, two.id) == ("1:0b98", "2:0b98")


def test_githubs_action_is_read_from_the_body_and_not_from_deeper_down():
    """Only the field at the top is the action; a push has none."""
    github = SENDERS[0]
    for body, action in [
        (b'{"action":"closed"}', "closed"),
        (b'{"ref":"main","deep":{"action":"closed"}}', None),
        (b"payload=%7B%22action%22%3A+%22opened%22%7D", "opened"),
    ]:
        event = check(github, github.signed(body=body), body=body)
        assert event.action == action, body
    assert check(github, github.signed()).name == "pull_request.opened"


def test_a_form_body_is_verified_as_sent_and_read_as_json():
    """GitHub's form content type signs the encoded bytes; the payload is what they hold."""
    github = SENDERS[0]
    body = b"payload=%7B%22action%22%3A%22a%2Bb+c%22%7D&x=1"
    assert check(github, github.signed(body=body), body=body).payload == {"action": "a+b c"}


def test_a_sha1_signature_is_not_taken_for_sha256():
    """Another algorithm's prefix is no signature."""
    github = SENDERS[0]
    headers = github.signed() | {"X-Hub-Signature-256": "sha1=7d38cdd689735b008b3c702edd92eea23791c5f6"}
    with pytest.raises(InvalidSignature):
        check(github, headers)


def test_stripes_v0_is_ignored():
    """An older version in the header cannot stand in for v1, and does no harm beside it."""
    stripe = SENDERS[1]
    header = stripe.signed()["Stripe-Signature"]
    with pytest.raises(InvalidSignature):
        check(stripe, {"Stripe-Signature": header.replace("v1=", "v0=")})
    stamp, signature = header.split(",")
    assert check(stripe, {"Stripe-Signature": f"{stamp},v0={'0' * 64},{signature}"}).id == "evt_1"


def test_any_v1_of_several_will_do():
    """While Stripe rolls a secret it signs with both; one that we know is enough."""
    stripe = SENDERS[1]
    old = stripe.signed()["Stripe-Signature"].split(",")[1]
    header = stripe.signed(stripe.other)["Stripe-Signature"] + "," + old
    assert check(stripe, {"Stripe-Signature": header}).secret_index == 0


def test_stripes_second_time_stamp_is_refused():
    """Which of two time stamps is signed is not ours to guess."""
    stripe = SENDERS[1]
    header = f"t={NOW + 5:.0f}," + stripe.signed()["Stripe-Signature"]
    with pytest.raises(InvalidSignature) as caught:
        check(stripe, {"Stripe-Signature": header})
    assert caught.value.reason == "malformed"


@pytest.mark.parametrize(
    "stamp",
    [
        "1_790_000_000",
        "+1790000000",
        "\uff11\uff17\uff19\uff10\uff10\uff10\uff10\uff10\uff10",
        " 1790000000",
        "1.79e9",
        "9" * 400,
    ],
)
def test_a_time_stamp_is_plain_digits(stamp: str):
    """What Python would read as a number and a sender would not write is refused."""
    stripe = SENDERS[1]
    with pytest.raises(InvalidSignature):
        check(stripe, {"Stripe-Signature": f"t={stamp},v1={'0' * 64}"})


def test_a_thin_event_is_refused():
    """Stripe's thin events hold no data, so no handler could use them."""
    body = b'{"id":"evt_1","object":"v2.core.event","type":"v1.billing"}'
    stripe = SENDERS[1]
    with pytest.raises(UnusableEvent, match=r"v2\.core\.event"):
        check(stripe, stripe.signed(body=body), body=body)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"type":"x"}', b'{"id":null}', b'{"id":""}', b'{"id":["a"]}', b'{"id":true}']
)
def test_a_body_without_the_id_that_belongs_there_is_unusable(body: bytes):
    """Stripe's id stands in the body; without it there is nothing to deduplicate by."""
    stripe = SENDERS[1]
    with pytest.raises(UnusableEvent):
        check(stripe, stripe.signed(body=body), body=body)


@pytest.mark.parametrize("id", ["a" * 256, "a\nb", "a\x00b", "\ud800"])
def test_an_id_that_no_index_should_hold_is_unusable(id: str):
    """Ids are bounded and without control characters."""
    body = json.dumps({"id": id, "type": "x"}).encode()
    stripe = SENDERS[1]
    with pytest.raises(UnusableEvent):
        check(stripe, stripe.signed(body=body), body=body)


def test_the_last_of_two_equal_keys_counts_on_both_roads():
    """The fast reader and the slow one agree on a body that names its id twice."""
    stripe = SENDERS[1]
    for odd in (b'""', b'"\\ud800"'):  # the second makes the fast reader give up
        body = b'{"id":"one","x":' + odd + b',"id":"two","type":"t"}'
        assert check(stripe, stripe.signed(body=body), body=body).id == "two"


def test_an_event_shows_neither_body_nor_headers():
    """The repr of an Event can be logged."""
    event = check(SENDERS[0], SENDERS[0].signed() | {"Authorization": "Bearer abc"})
    assert repr(event) == f"Event('github', '7:0b98', 'pull_request.opened', {len(SENDERS[0].body)} bytes)"


def test_an_event_survives_a_copy_with_and_without_its_payload():
    """Pickled before or after the payload was read, it reads the same."""
    event = check(SENDERS[1], SENDERS[1].signed())
    fresh = pickle.loads(pickle.dumps(event))
    assert event.payload["id"] == "evt_1"
    assert fresh.payload == pickle.loads(pickle.dumps(event)).payload == event.payload
    assert event.payload is event.payload


@pytest.mark.parametrize("body", ["text", None, 5, {"id": "evt_1"}, [b"x"]])
def test_a_body_that_is_not_bytes_is_an_error(body: Any):
    """A parsed or decoded body cannot be verified, and the error says what is wanted."""
    with pytest.raises(ConfigurationError, match="body"):
        verify(Stripe, headers={}, body=body, secrets="x")


def test_bytes_of_other_kinds_are_taken():
    """Whatever holds raw bytes will do."""
    stripe = SENDERS[1]
    for kind in (bytearray, memoryview):
        assert check(stripe, stripe.signed(), body=kind(stripe.body)).body == stripe.body


@pytest.mark.parametrize("service", ["no_such_service", None, 5, object, Base64Like()])
def test_a_service_that_is_none_is_an_error(service: Any):
    """An unknown name, or something without a scheme, is named; an instance of a service will do."""
    if isinstance(service, Base64Like):
        sender = SENDERS[4]
        assert verify(service, headers=sender.signed(), body=sender.body, secrets="plain").id == "12"  # type: ignore[arg-type]
        return
    with pytest.raises(ConfigurationError, match="service"):
        verify(service, headers={}, body=b"", secrets="x")


def test_headers_that_are_no_mapping_are_an_error():
    """A list of pairs is named as what it is."""
    with pytest.raises(ConfigurationError, match="headers"):
        verify(Stripe, headers=[("a", "b")], body=b"", secrets="x")  # type: ignore[arg-type]


def test_a_record_with_a_bad_field_is_refused_at_once():
    """A scheme's mistakes show when the service's file is loaded, not when the first webhook comes."""
    with pytest.raises(ConfigurationError, match="algorithm"):
        HMACSignature(header="X", env="X", id="id", type="type", algorithm="md5")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="encoding"):
        HMACSignature(header="X", env="X", id="id", type="type", encoding="base32")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="tolerance"):
        HMACSignature(header="X", env="X", id="id", type="type", tolerance=-1)
    with pytest.raises(ConfigurationError, match="tolerance"):
        StandardWebhooks(tolerance=math.nan)


def test_a_standard_secret_that_is_no_base64_is_an_error():
    """Standard Webhooks' secrets are base64; one of Stripe's in their place is our mistake."""
    sender = SENDERS[2]
    with pytest.raises(ConfigurationError, match="base64"):
        check(sender, sender.signed(), secrets="whsec_not base64!")


def test_a_standard_secret_may_be_the_key_itself():
    """Given as bytes it is not decoded."""
    sender = SENDERS[2]
    headers = sender.scheme.sign(sender.body, b"raw key", now=NOW)
    assert check(sender, headers, secrets=b"raw key").id.startswith("msg_")


@pytest.mark.parametrize(
    ("scheme", "believed"),
    [
        (StandardWebhooks(), True),
        (StandardWebhooks(id="header:Webhook-Id"), True),
        (StandardWebhooks(id="header:x-request-id"), False),
        (StandardWebhooks(prefix="svix-", id="header:webhook-id"), False),
        (StandardWebhooks(prefix="svix-", aliases=("webhook-",), id="header:svix-id"), True),
        (StandardWebhooks(prefix="svix-", aliases=("webhook-",), id="header:webhook-id"), False),
        (StandardWebhooks(prefix="svix-", aliases=("webhook-",), id=("type", "header:svix-id")), False),
    ],
)
def test_no_header_is_believed_but_the_signed_id(scheme: StandardWebhooks, believed: bool):
    """One that merely ends in -id may be anybody's: its event is known by the digest."""
    body = b'{"type":"t"}'
    headers = scheme.sign(body, "whsec_" + "a" * 32, now=NOW, id="m") | {"x-request-id": "m", "webhook-id": "m"}
    event = verify(scheme, headers=headers, body=body, secrets="whsec_" + "a" * 32, now=NOW)
    assert (event.dedup_key == event.id) is believed
