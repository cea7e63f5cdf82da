"""What is special to a token beside the body: algorithms, extensions, times, and tokens that fit any body."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest
from tests.events.senders.sample import NOW
from tests.events.senders.vonage import SAMPLE
from tests.events.test_senders import receiver_for, sent

from moorline.errors import InvalidSignature
from moorline.events import Inbox, verify
from moorline.services import Vonage
from moorline.store.store import Store

BODY = b'{"message_uuid":"u","status":"read"}'
CLAIMS: dict[str, Any] = {"iat": int(NOW), "payload_hash": hashlib.sha256(BODY).hexdigest()}
HEAD = {"alg": "HS256", "typ": "JWT"}


def token(claims: Any = CLAIMS, head: Any = HEAD, secret: bytes = b"s3cret") -> str:
    def text(content: Any) -> str:
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        return base64.urlsafe_b64encode(raw).decode().rstrip("=")

    signed = f"{text(head)}.{text(claims)}"
    return f"{signed}.{text(hmac.digest(secret, signed.encode(), 'sha256'))}"


def checked(shown: str, body: bytes = BODY, **options: Any) -> Any:
    return verify(Vonage, headers={"Authorization": shown}, body=body, secrets="s3cret", **{"now": NOW, **options})


def test_a_good_token_is_taken():
    """The kind of credential is read in any case, the digest too."""
    assert checked("Bearer " + token()).id == "read:u"
    upper = CLAIMS | {"payload_hash": CLAIMS["payload_hash"].upper()}
    assert checked("bearer " + token(upper)).timestamp == NOW


@pytest.mark.parametrize(
    "head",
    [
        {"alg": "none"}, {"alg": "None"}, {"alg": "hs256"}, {"alg": "HS512"}, {"alg": "RS256"}, {"alg": ["HS256"]}, {},
        {"alg": "HS256", "crit": ["exp"]}, [], "HS256", None, b"{", b"\xff", b"[" * 5000,
    ],
)  # fmt: skip
def test_no_other_algorithm_and_no_extension_is_taken(head: Any):
    """Although each of these is signed by the secret; ``none`` neither with a signature nor without."""
    with pytest.raises(InvalidSignature):
        checked("Bearer " + token(head=head))
    with pytest.raises(InvalidSignature):
        checked("Bearer " + token(head=head).rpartition(".")[0] + ".")


@pytest.mark.parametrize(
    "change",
    [
        {"payload_hash": None}, {"payload_hash": ""}, {"payload_hash": 1}, {"payload_hash": "é"},
        {"payload_hash": hashlib.sha256(b"").hexdigest()},
        {"iat": None}, {"iat": "1790000000"}, {"iat": True}, {"iat": -1}, {"iat": float("nan")}, {"iat": 1e300},
        {"exp": int(NOW) - 301}, {"exp": "x"}, {"nbf": int(NOW) + 301}, {"iat": int(NOW) - 301}, {"iat": int(NOW) + 301},
    ],
)  # fmt: skip
def test_a_token_without_the_bodys_digest_or_in_no_time_is_refused(change: dict[str, Any]):
    """Without the digest it would fit any body; without a time it would fit for ever."""
    with pytest.raises(InvalidSignature):
        checked("Bearer " + token(CLAIMS | change))


def test_times_beside_the_signed_one_count_with_the_tolerance():
    """``exp`` and ``nbf`` that are off by less are no reason to refuse."""
    assert checked("Bearer " + token(CLAIMS | {"exp": int(NOW) - 200, "nbf": int(NOW) + 200}))
    with pytest.raises(InvalidSignature):
        checked("Bearer " + token(CLAIMS | {"exp": int(NOW) - 200}), tolerance=100)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text + "=", lambda text: text + "\n", lambda text: text + ".x", lambda text: text[:-1],
        lambda text: text.replace(".", "..", 1), lambda text: " " + text, lambda text: text + "A" * 9000,
        lambda text: text.rpartition(".")[0], lambda _: "", lambda _: "..", lambda _: "é.é.é",
    ],
)  # fmt: skip
def test_a_token_is_written_in_one_way(spoil: Any):
    """Padding, white space, more or fewer parts: no token."""
    with pytest.raises(InvalidSignature):
        checked("Bearer " + spoil(token()))
    with pytest.raises(InvalidSignature):
        checked("Basic " + token())


async def test_an_unsigned_delivery_is_to_come_again(tmp_path: Path):
    """Without any token the answer is 503, because the sender signs it then; with a wrong one it is 401."""
    with Store(f"sqlite:///{tmp_path / 'moorline.db'}") as store:
        receiver = receiver_for(SAMPLE, Inbox(store))
        url = "https://shop.example/webhooks/vonage"
        assert (await sent(receiver, {}, BODY, url, "POST")).status == 503
        assert (await sent(receiver, {"Authorization": "Bearer " + token()}, BODY, url, "POST")).status == 401
