"""What is signed by the key of a certificate: whose certificate, over what, and what a thief of deliveries can do."""

from __future__ import annotations

import base64
import dataclasses
import json
import zlib
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from tests.events.keys import certified, elliptic
from tests.events.senders import paypal, sns
from tests.events.senders.sample import NOW, Sample, Signed

from moorline.clock import ManualClock
from moorline.errors import BadAnswer, ConfigurationError, InvalidSignature, UnusableEvent
from moorline.events import Event, Inbox, Receiver, verify
from moorline.events.certificates import public_key
from moorline.events.scheme import NeedsCertificate
from moorline.services import SNS, PayPal
from moorline.services.topics import topic

ELSEWHERE = [
    "http://{host}/{path}",
    "https://{host}.evil.example/{path}",
    "https://{host}@evil.example/{path}",
    "https://evil.example/{path}#@{host}/",
    "https://evil.example\\@{host}/{path}",
    "https://evil.example/{host}/{path}",
    "https://user:password@{host}/{path}",
    "https://{host}:8443/{path}",
    "https://{host}:0/{path}",
    "https://{host}:x/{path}",
    "https://evil{domain}/{path}",
    "https://{domain}/{path}",
    "https://{host}/{path}?x=1",
    "https://{host}/{path}#x",
    "https://{host}./{path}",
    "https://[::1]/{path}",
    "//{host}/{path}",
    "file:///{path}",
    "https:///{path}",
    "https://{host}\n/{path}",
    "https://аpi.paypal.com/{path}",  # noqa: RUF001 - a Cyrillic letter
    "",
]
ADDRESSES = {"paypal": paypal.URL, "sns": sns.URL}


def naming(sample: Sample, url: str) -> Signed:
    """The sample's delivery, well signed, with that address for its certificate."""
    if sample.service == "paypal":
        signed = sample.signed()
        return dataclasses.replace(signed, headers=signed.headers | {"PAYPAL-CERT-URL": url})
    body = json.dumps(json.loads(sample.body) | {"SigningCertURL": url}).encode()
    return sample.signed(body=body)


@pytest.mark.parametrize("form", ELSEWHERE)
@pytest.mark.parametrize("sample", [paypal.SAMPLE, sns.SAMPLE], ids=lambda one: one.service)
def test_a_certificate_from_elsewhere_is_none(sample: Sample, form: str):
    """Only https, the sender's hosts and a plain path count: a good certificate from elsewhere is as if it were not."""
    host, path = ADDRESSES[sample.service].removeprefix("https://").split("/", 1)
    url = form.format(host=host, path=path, domain=".".join(host.split(".")[-2:]))
    signed = naming(sample, url)
    certificates = {url: next(iter((sample.certificates or {}).values()))}
    with pytest.raises(InvalidSignature):
        verify(sample.service, secrets=sample.secret, now=NOW, certificates=certificates, **signed.to_verify())
    with pytest.raises(InvalidSignature):
        verify(sample.service, secrets=sample.secret, now=NOW, **signed.to_verify())  # nothing is fetched


@pytest.mark.parametrize(
    ("sample", "url"),
    [
        (paypal.SAMPLE, "https://www.paypal.com/uploads/mine.pem"),
        (paypal.SAMPLE, "https://api.paypal.com/v1/notifications/certs/../../x"),
        (paypal.SAMPLE, "https://shop.paypal.com/v1/notifications/certs/CERT-1"),
        (paypal.SAMPLE, "https://api.sandbox.x.paypal.com/v1/notifications/certs/CERT-1"),
        (sns.SAMPLE, "https://sns.us-east-1.amazonaws.com/mine.pem"),
        (sns.SAMPLE, "https://sns.us-east-1.amazonaws.com/x/SimpleNotificationService-1.pem"),
    ],
)
def test_only_a_certificates_own_path_is_asked(sample: Sample, url: str):
    """A file that somebody else may have put onto the sender's host is not fetched."""
    with pytest.raises(InvalidSignature, match="address"):
        verify(sample.service, secrets=sample.secret, now=NOW, **naming(sample, url).to_verify())


def test_a_certificate_that_the_caller_gives_may_come_from_any_of_the_senders_hosts():
    """The card says "a host ending in .paypal.com"; only what is fetched is held to the two that are known."""
    url = "https://messageverificationcerts.paypal.com/any/CERT-1"
    pem = next(iter((paypal.SAMPLE.certificates or {}).values()))
    signed = naming(paypal.SAMPLE, url).to_verify()
    assert verify("paypal", secrets=paypal.SAMPLE.secret, now=NOW, certificates={url: pem}, **signed).id


@pytest.mark.parametrize("sample", [paypal.SAMPLE, sns.SAMPLE], ids=lambda one: one.service)
def test_a_certificate_that_is_not_there_is_asked_for(sample: Sample):
    """The scheme names the address; ``verify`` with a mapping of the caller's says which one lacks."""
    signed = sample.signed()
    url = ADDRESSES[sample.service]
    with pytest.raises(InvalidSignature, match="certificates: there is none for https"):
        verify(sample.service, secrets=sample.secret, now=NOW, certificates={}, **signed.to_verify())
    needed = NeedsCertificate(url)
    assert (needed.url, str(needed)) == (url, url)


@pytest.mark.parametrize("pem", [b"", b"x", elliptic("a").private, certified("x").private])
@pytest.mark.parametrize("sample", [paypal.SAMPLE, sns.SAMPLE], ids=lambda one: one.service)
def test_what_is_no_certificate_proves_nothing(sample: Sample, pem: bytes):
    """Junk, a key of another kind, a private key: a failed check, not another error."""
    certificates = {ADDRESSES[sample.service]: pem}
    with pytest.raises(InvalidSignature):
        verify(sample.service, secrets=sample.secret, now=NOW, certificates=certificates, **sample.signed().to_verify())


@pytest.fixture(params=[paypal.SAMPLE, sns.SAMPLE], ids=lambda one: one.service)
def asking(request: pytest.FixtureRequest, inbox: Inbox) -> Any:
    """A receiver that knows no certificate yet; what it asks for is noted."""
    sample: Sample = request.param
    receiver: Any = Receiver(
        inbox, lambda _: [sample.secret], public_url="https://shop.example", clock=ManualClock(NOW)
    )
    receiver.asked = []
    receiver.answer = next(iter((sample.certificates or {}).values()))

    async def fetch(url: str) -> bytes:
        receiver.asked.append(url)
        if isinstance(receiver.answer, Exception):
            raise receiver.answer
        return bytes(receiver.answer)

    receiver.fetch = fetch
    receiver.sample = sample
    return receiver


async def delivered(receiver: Any, signed: Signed) -> int:
    """The status of the answer to that delivery."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": signed.body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in signed.headers.items()]
    path = f"/webhooks/{receiver.sample.service}"
    await receiver({"type": "http", "method": "POST", "path": path, "headers": raw, "query_string": b""}, receive, send)
    return int(sent[0]["status"])


async def test_a_certificate_is_fetched_once(asking: Any):
    """The first delivery waits for it, the second has it."""
    signed = asking.sample.signed()
    assert [await delivered(asking, signed), await delivered(asking, signed)] == [200, 200]
    assert asking.asked == [ADDRESSES[asking.sample.service]]


async def test_a_certificate_that_cannot_be_had_is_asked_for_again(asking: Any):
    """A host that is down or sends us elsewhere: 503, so that the sender comes again, and then all is well."""
    good, asking.answer = asking.answer, BadAnswer("the answer is 302", retryable=False)
    assert await delivered(asking, asking.sample.signed()) == 503
    asking.answer = good
    assert await delivered(asking, asking.sample.signed()) == 200


async def test_what_was_fetched_must_be_a_certificate(asking: Any):
    """Anything else that the host answers is no reason to believe the delivery."""
    asking.answer = b"<html>"
    assert await delivered(asking, asking.sample.signed()) == 401


async def test_strangers_make_us_ask_nobody(asking: Any):
    """An old delivery, and one for another's topic: refused before any request of ours."""
    old = asking.sample.signed(now=NOW - asking.sample.late - 9)
    assert await delivered(asking, old) == 401
    if asking.sample.service == "sns":
        assert await delivered(asking, asking.sample.signed(other=True)) == 401
    assert asking.asked == []


# --- a token, a time, the secret and a checksum

# paypal/PayPal-Ruby-SDK, spec/webhooks_examples_spec.rb: a delivery of 2015. Its certificate is not published with it.
BODY_2015 = (
    b'{"id":"WH-0G2756385H040842W-5Y612302CV158622M","create_time":"2015-05-18T15:45:13Z","resource_type":"sale",'
    b'"event_type":"PAYMENT.SALE.COMPLETED","summary":"Payment completed for $ 20.0 USD","resource":'
    b'{"id":"4EU7004268015634R","create_time":"2015-05-18T15:44:02Z","update_time":"2015-05-18T15:44:21Z","amount":'
    b'{"total":"20.00","currency":"USD"},"payment_mode":"INSTANT_TRANSFER","state":"completed",'
    b'"protection_eligibility":"ELIGIBLE","protection_eligibility_type":'
    b'"ITEM_NOT_RECEIVED_ELIGIBLE,UNAUTHORIZED_PAYMENT_ELIGIBLE","parent_payment":"PAY-86C81811X5228590KKVNARQQ",'
    b'"transaction_fee":{"value":"0.88","currency":"USD"},"links":[{"href":'
    b'"https://api.sandbox.paypal.com/v1/payments/sale/4EU7004268015634R","rel":"self","method":"GET"},{"href":'
    b'"https://api.sandbox.paypal.com/v1/payments/sale/4EU7004268015634R/refund","rel":"refund","method":"POST"},{"href":'
    b'"https://api.sandbox.paypal.com/v1/payments/payment/PAY-86C81811X5228590KKVNARQQ","rel":"parent_payment",'
    b'"method":"GET"}]},"links":[{"href":"https://api.sandbox.paypal.com/v1/notifications/webhooks-events/'
    b'WH-0G2756385H040842W-5Y612302CV158622M","rel":"self","method":"GET"},{"href":'
    b'"https://api.sandbox.paypal.com/v1/notifications/webhooks-events/WH-0G2756385H040842W-5Y612302CV158622M/resend",'
    b'"rel":"resend","method":"POST"}]}'
)
TEXT_2015 = b"dfb3be50-fd74-11e4-8bf3-77339302725b|2015-05-18T15:45:13Z|4JH86294D6297924G|2771810304"


def rsa_signed(private: bytes, text: bytes, algorithm: Any = None) -> bytes:
    """A signature by ``cryptography`` alone."""
    key: Any = load_pem_private_key(private, None)
    signature: bytes = key.sign(text, PKCS1v15(), algorithm or hashes.SHA256())
    return signature


def test_what_paypal_published_is_what_is_signed():
    """The text that PayPal's own SDK expects for a real delivery, signed by ``cryptography``, is accepted; no other is."""
    token, stamp, webhook, _ = TEXT_2015.decode().split("|")
    headers = {
        "PAYPAL-TRANSMISSION-ID": token,
        "PAYPAL-TRANSMISSION-TIME": stamp,
        "PAYPAL-TRANSMISSION-SIG": base64.b64encode(rsa_signed(paypal.OURS.private, TEXT_2015)).decode(),
        "PAYPAL-CERT-URL": paypal.URL,
        "PAYPAL-AUTH-ALGO": "SHA256withRSA",
    }
    arguments: dict[str, Any] = {"secrets": webhook, "certificates": paypal.SAMPLE.certificates, "now": 1_431_963_913.0}
    event = verify(PayPal, headers=headers, body=BODY_2015, **arguments)
    assert (event.id, event.type) == ("WH-0G2756385H040842W-5Y612302CV158622M", "PAYMENT.SALE.COMPLETED")
    assert event.timestamp == 1_431_963_913.0
    assert event.dedup_key == f"once:{token}"
    for name, value in (("ID", token + "x"), ("TIME", "2015-05-18T15:45:14Z"), ("TIME", stamp.replace("Z", "+00:00"))):
        with pytest.raises(InvalidSignature):
            verify(PayPal, headers=headers | {f"PAYPAL-TRANSMISSION-{name}": value}, body=BODY_2015, **arguments)


def colliding(body: bytes, mark: bytes, wanted: int) -> bytes:
    """The body with letters in place of the mark, so that its CRC-32 is the wanted one: it is linear, so easy."""
    size = 64
    start = body.index(mark)
    base = body.replace(mark, b"a" * size)
    rows: list[tuple[int, int]] = []
    for place in range(size):
        other = bytearray(base)
        other[start + place] ^= 2  # "c"
        rows.append((zlib.crc32(other) ^ zlib.crc32(base), 1 << place))
    missing, chosen = zlib.crc32(base) ^ wanted, 0
    for bit in reversed(range(32)):
        pivot = next((row for row in rows if row[0] >> bit & 1), None)
        if pivot is None:
            continue
        rows = [(row[0] ^ pivot[0], row[1] ^ pivot[1]) if row[0] >> bit & 1 else row for row in rows]
        if missing >> bit & 1:
            missing, chosen = missing ^ pivot[0], chosen ^ pivot[1]
    found = bytearray(base)
    for place in range(size):
        found[start + place] ^= 2 * (chosen >> place & 1)
    assert zlib.crc32(found) == wanted
    return bytes(found)


async def test_another_body_with_the_same_checksum_is_a_duplicate(inbox: Inbox):
    """A CRC can be met at will; whoever saw a delivery gets no second event out of its signature."""
    sample = paypal.SAMPLE
    good = sample.signed()
    forged = colliding(
        b'{"id":"WH-forged","event_type":"PAYMENT.CAPTURE.COMPLETED","x":"@"}', b"@", zlib.crc32(good.body)
    )
    arguments: dict[str, Any] = {"secrets": sample.secret, "certificates": sample.certificates, "now": NOW}
    events = [verify(PayPal, headers=good.headers, body=body, **arguments) for body in (good.body, forged)]
    assert events[1].id == "WH-forged"  # the signature alone does not tell
    stored = [await inbox.add(event) for event in events]
    assert [one.duplicate for one in stored] == [False, True]
    assert [event.id for event in await inbox.recent()] == [sample.id]


async def test_the_same_event_under_a_new_token_is_a_duplicate(inbox: Inbox):
    """A sender may sign each of its tries anew: the event's id is looked for too, and another's event is not hit by it."""
    sample = paypal.SAMPLE
    arguments: dict[str, Any] = {"secrets": sample.secret, "certificates": sample.certificates, "now": NOW}

    def event(token: str, body: bytes = sample.body) -> Event:
        return verify(PayPal, **sample.signed(id=token, body=body).to_verify(), **arguments)

    another = sample.body.replace(b"WH-8", b"WH-9")
    stored = [await inbox.add(one) for one in (event("t1"), event("t2"), event("t3", another), event("t1", another))]
    assert [one.duplicate for one in stored] == [False, True, False, True]
    assert stored[1].event_id == stored[0].event_id
    # The fourth has a token of the first and an id of the third: a spent token says nothing of an id.
    assert {one.id: one.duplicates for one in await inbox.recent()} == {
        sample.id: 2,
        sample.id.replace("WH-8", "WH-9"): 0,
    }
    other = dataclasses.replace(event("t9"), service="mailgun")
    assert not (await inbox.add(other)).duplicate


# --- listed fields

ARN = sns.SAMPLE.secret


def envelope(text: dict[str, str], version: str = "2", **extra: Any) -> bytes:
    """A body whose fields were signed by a few lines of ``cryptography``."""
    signed = "".join(f"{name}\n{text[name]}\n" for name in sorted(text)).encode()
    algorithm = hashes.SHA1() if version == "1" else hashes.SHA256()
    signature = base64.b64encode(rsa_signed(sns.OURS.private, signed, algorithm)).decode()
    whole = text | {"SignatureVersion": version, "Signature": signature, "SigningCertURL": sns.URL} | extra
    return json.dumps(whole).encode()


def notification(**changes: str) -> dict[str, str]:
    """The signed fields of a notification."""
    fields = {
        "Type": "Notification",
        "MessageId": "m-1",
        "TopicArn": ARN,
        "Message": 'line\nline \u2665 \\ "',
        "Timestamp": "2026-09-21T14:13:20.000Z",
    }
    return fields | changes


def taken(body: bytes, secrets: Any = ARN, service: Any = SNS) -> Event:
    """The event of that body."""
    return verify(service, headers={}, body=body, secrets=secrets, now=NOW, certificates=sns.CERTIFICATES)


@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize("subject", [{}, {"Subject": "S"}])
def test_what_a_few_lines_sign_is_accepted(version: str, subject: dict[str, str]):
    """Both versions, with a subject and without, values as they are after decoding; and the wrong version's hash is not."""
    text = notification(**subject)
    assert taken(envelope(text, version)).id == "m-1"
    other = {"1": "2", "2": "1"}[version]
    with pytest.raises(InvalidSignature):
        taken(envelope(text, version, SignatureVersion=other))


def test_a_subject_that_is_null_is_none():
    """``null`` stands for what is not there."""
    assert taken(envelope(notification(), Subject=None)).id == "m-1"
    with pytest.raises(InvalidSignature):
        taken(envelope(notification(), Subject="added"))


@pytest.mark.parametrize("version", ["", "0", "3", "1.0", 2, None])
def test_an_unknown_version_is_refused(version: Any):
    """Nobody talks us into something else."""
    with pytest.raises(InvalidSignature):
        taken(envelope(notification(), SignatureVersion=version))


def test_sha256_can_be_required():
    """A record with version 2 alone refuses what is signed with SHA-1, however good."""
    strict = dataclasses.replace(SNS.webhooks, versions=("2",))
    assert taken(envelope(notification(), "2"), service=strict).id == "m-1"
    with pytest.raises(InvalidSignature, match="SignatureVersion"):
        taken(envelope(notification(), "1"), service=strict)
    for wrong in ((), ("3",)):
        with pytest.raises(ConfigurationError, match="versions"):
            dataclasses.replace(SNS.webhooks, versions=wrong)


@pytest.mark.parametrize("dropped", [set(), {"Token"}])
def test_an_unsubscription_is_an_event_however_it_is_signed(dropped: set[str]):
    """Amazon's guide and its validator differ in whether the token is signed; both are taken."""
    text = notification(Type="UnsubscribeConfirmation", SubscribeURL=sns.SUBSCRIBE, Token="233")
    extra = {name: text.pop(name) for name in dropped}
    assert taken(envelope(text, **extra)).type == "UnsubscribeConfirmation"


@pytest.mark.parametrize("kind", ["SubscriptionConfirmation", "Something", ""])
def test_a_notification_is_no_other_message(kind: str):
    """The type is signed: who may publish cannot make us subscribe."""
    with pytest.raises(InvalidSignature):
        taken(envelope(notification(), Type=kind, SubscribeURL=sns.SUBSCRIBE, Token="1"))


def test_no_text_is_the_signature_of_two_messages():
    """Fields cannot be moved into one another: only the message may hold line breaks, and the rest is told from the end."""
    inner = "a\nMessageId\nm-2"
    body = json.loads(envelope(notification(Message=inner)))
    assert taken(json.dumps(body).encode()).id == "m-1"
    moved = body | {"Message": "a", "MessageId": "m-2\nMessageId\nm-1"}
    with pytest.raises(InvalidSignature, match="line break"):
        taken(json.dumps(moved).encode())


@pytest.mark.parametrize("name", ["Message", "MessageId", "TopicArn", "Type", "Signature", "x"])
def test_a_key_that_is_there_twice_is_refused(name: str):
    """One reader takes the first, another the last: only one of them was signed."""
    good = envelope(notification(), x="1")
    twice = b'{"' + name.encode() + b'":"forged",' + good[1:]
    with pytest.raises(InvalidSignature, match="twice"):
        taken(twice)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"1", b"{}", b"\xff", b'{"Signature":1}', b'{"Signature":"x"}', b"[" * 9999]
)
def test_what_is_no_envelope_is_a_failed_check(body: bytes):
    """A raw delivery has no signature at all."""
    with pytest.raises(InvalidSignature):
        taken(body)


def test_raw_delivery_is_refused_even_signed():
    """What says that it is raw is none of ours, whatever it holds."""
    with pytest.raises(UnusableEvent, match="rawdelivery"):
        verify(
            SNS, headers={"x-amz-sns-rawdelivery": "true"}, body=envelope(notification()), secrets=ARN, now=NOW,
            certificates=sns.CERTIFICATES,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("secret", "good"),
    [
        (ARN, True),
        (ARN[:-1], False),
        (ARN + "x", False),
        (ARN[:-4] + "*", True),
        ("arn:aws:sns:us-east-1:123456789012:*", True),
        ("arn:aws:sns:us-east-1:123456789012:n*", True),
        ("arn:aws:sns:us-east-1:123456789013:*", False),
        ("arn:aws:sns:*:123456789012:news", False),
    ],
)
def test_topics_are_taken_whole_or_by_their_beginning(secret: str, good: bool):
    """The certificate is everybody's at Amazon: only the topics that are named are ours."""
    if good:
        assert taken(envelope(notification()), secret).secret_index == 0
        return
    with pytest.raises(InvalidSignature, match="topics"):
        taken(envelope(notification()), secret)


@pytest.mark.parametrize("secret", ["*", "arn:aws:sns:*", "arn:aws:sns:us-east-1:*", "arn:aws:sns:us-east-1:1234*"])
def test_a_star_must_stand_behind_an_account(secret: str):
    """Anything wider would take what any customer of Amazon's publishes."""
    with pytest.raises(ConfigurationError, match="secrets"):
        taken(envelope(notification()), secret)


def test_the_senders_china_has_its_own_hosts():
    """Certificates of the Chinese regions lie under amazonaws.com.cn."""
    url = "https://sns.cn-north-1.amazonaws.com.cn/SimpleNotificationService-a1.pem"
    body = envelope(notification(), SigningCertURL=url)
    event = verify(SNS, headers={}, body=body, secrets=ARN, now=NOW, certificates={url: sns.OURS.certificate})
    assert event.id == "m-1"


@pytest.mark.parametrize("asking", [sns.SAMPLE], indirect=True)
@pytest.mark.parametrize(
    "url", ["https://evil.example/?x=sns.us-east-1.amazonaws.com", "http://sns.us-east-1.amazonaws.com/", ""]
)
async def test_a_subscription_is_confirmed_at_the_senders_only(asking: Any, url: str):
    """An address elsewhere is not called, however well it is signed."""
    confirmation = json.loads(sns.CONFIRMATION) | {"SubscribeURL": url}
    assert await delivered(asking, asking.sample.signed(body=json.dumps(confirmation).encode())) == 400
    assert asking.asked == [sns.URL]


def test_what_is_always_signed_cannot_be_left_out():
    """A record that would not sign the owner, the time or the type names the argument."""
    with pytest.raises(ConfigurationError, match="signed"):
        dataclasses.replace(topic(env="X", type=("Type",)), signed={"Notification": (("Message",),)})


def test_a_certificate_is_read_once():
    """The key is kept by its text."""
    assert public_key(sns.OURS.certificate) is public_key(sns.OURS.certificate)
