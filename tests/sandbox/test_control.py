from __future__ import annotations

import hashlib
import hmac
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
import pytest
import stripe as official

from moorline.sandbox.standin import registrations

KEY = {"Authorization": "Bearer sk_test_1"}
PAID = {"amount": "1099", "currency": "eur", "confirm": "true", "payment_method": "pm_card_visa"}


@dataclass
class Receiver:
    url: str = ""
    status: int = 200
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A server that keeps what it is sent."""
    found = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            found.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(found.status)
            self.end_headers()

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found.url = f"http://127.0.0.1:{server.server_port}/hook"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield found
        server.shutdown()
        thread.join()


async def target(box: httpx2.AsyncClient, receiver: Receiver, service: str, **options: Any) -> dict[str, Any]:
    response = await box.post("/_sandbox/webhooks", json={"service": service, "url": receiver.url, **options})
    assert response.status_code == 201, response.text
    found: dict[str, Any] = response.json()
    return found


async def settled(box: httpx2.AsyncClient) -> list[dict[str, Any]]:
    log: list[dict[str, Any]] = (await box.get("/_sandbox/deliveries", params={"settle": "true"})).json()["deliveries"]
    return log


async def test_events_are_sent_signed_and_repeated(box: httpx2.AsyncClient, receiver: Receiver):
    """A payment's event goes to the target as often as asked, with one id and body, and verifies each time."""
    await target(box, receiver, "stripe", events=["payment_intent.succeeded"], repeat=3)
    await box.post("/stripe/v1/payment_intents", data=PAID, headers=KEY)
    await box.post("/stripe/v1/payment_intents", data={"amount": "500", "currency": "eur"}, headers=KEY)
    log = await settled(box)
    assert [(entry["status"], entry["repeat"]) for entry in log] == [(200, 1), (200, 2), (200, 3)]
    assert len({entry["id"] for entry in log}) == 1
    assert len({body for _, body in receiver.got}) == 1
    for headers, body in receiver.got:
        event = official.Webhook.construct_event(body, headers["stripe-signature"], "whsec_sandbox")
        assert (event.type, event.id) == ("payment_intent.succeeded", log[0]["id"])


async def test_broken_signature_and_several_secrets(box: httpx2.AsyncClient, receiver: Receiver):
    """A target may get signatures that do not fit, or ones by old and new secret together."""
    await target(box, receiver, "stripe", secrets=["whsec_old", "whsec_new"])
    await target(box, receiver, "stripe", broken_signature=True)
    await box.post("/stripe/v1/payment_intents", data=PAID, headers=KEY)
    log = await settled(box)
    assert sorted(entry["broken_signature"] for entry in log) == [False, True]
    good = next(headers for headers, _ in receiver.got if headers["stripe-signature"].count("v1=") == 2)
    assert good["stripe-signature"].startswith("t=")


async def test_github_pings_a_new_target(box: httpx2.AsyncClient, receiver: Receiver):
    """A new GitHub hook gets a ping at once, unless not wanted."""
    made = await target(box, receiver, "github", secret="s")
    await target(box, receiver, "github", ping=False)
    [(headers, _)] = receiver.got
    assert (headers["x-github-event"], headers["x-github-hook-id"]) == ("ping", made["id"])


async def test_deliver_sends_raw_bytes(box: httpx2.AsyncClient, receiver: Receiver):
    """A body given raw goes out byte for byte with the given delivery id; an empty one is made by the sandbox."""
    await target(box, receiver, "github", secret="s", ping=False)
    raw = b'{ "zen":\t"\\u2665 \xe2\x99\xa5" }\r\n'
    asked = {"service": "github", "event": "star.created", "id": "guid-1", "repeat": "2"}
    response = await box.post("/_sandbox/deliver", params=asked, content=raw)
    assert [entry["status"] for entry in response.json()["deliveries"]] == [200, 200]
    for headers, body in receiver.got:
        assert body == raw
        assert headers["x-github-delivery"] == "guid-1"
        assert headers["x-github-event"] == "star"
        assert headers["x-hub-signature-256"] == "sha256=" + hmac.new(b"s", raw, hashlib.sha256).hexdigest()
    receiver.got.clear()
    broken = {"service": "github", "event": "push", "broken_signature": "true"}
    await box.post("/_sandbox/deliver", params=broken)
    [(headers, body)] = receiver.got
    assert headers["x-hub-signature-256"] != "sha256=" + hmac.new(b"s", body, hashlib.sha256).hexdigest()


async def test_failed_deliveries_are_logged(box: httpx2.AsyncClient, receiver: Receiver):
    """A refusal is logged with its status, an unreachable target with the error; neither disturbs the payment."""
    receiver.status = 401
    await target(box, receiver, "stripe")
    dead = {"service": "stripe", "url": "http://127.0.0.1:9/hook"}
    assert (await box.post("/_sandbox/webhooks", json=dead)).status_code == 201
    paid = await box.post("/stripe/v1/payment_intents", data=PAID, headers=KEY)
    assert paid.json()["status"] == "succeeded"
    log = await settled(box)
    assert sorted((entry["status"] or 0, bool(entry["error"])) for entry in log) == [(0, True), (401, False)]


async def test_state_requests_and_reset(box: httpx2.AsyncClient, receiver: Receiver):
    """State and requests show what happened; a reset forgets all of it, faults and targets too."""
    await target(box, receiver, "stripe")
    await box.post("/_sandbox/faults", json=[{"kind": "status", "status": 500, "count": 1}])
    assert (await box.post("/stripe/v1/payment_intents", data=PAID, headers=KEY)).status_code == 500
    assert (await box.post("/stripe/v1/payment_intents", data=PAID, headers=KEY)).status_code == 200
    seen = (await box.get("/_sandbox/requests", params={"service": "stripe"})).json()["requests"]
    assert [(entry["status"], entry["fault"]) for entry in seen] == [(500, "status"), (200, None)]
    assert len((await box.get("/_sandbox/state")).json()["stripe"]["payment_intents"]) == 1
    assert (await box.post("/_sandbox/reset")).json() == {"ok": True}
    assert (await box.get("/_sandbox/state")).json()["stripe"]["payment_intents"] == {}
    assert (await box.get("/_sandbox/faults")).json() == {"faults": []}
    assert (await box.get("/_sandbox/webhooks")).json() == {"webhooks": []}


async def test_same_seed_same_ids(box: httpx2.AsyncClient):
    """After a reset the same requests give the same ids."""
    ids = []
    for _ in range(2):
        await box.post("/_sandbox/reset")
        ids.append((await box.post("/stripe/v1/payment_intents", data=PAID, headers=KEY)).json()["id"])
    assert ids[0] == ids[1]


@pytest.mark.parametrize(
    ("method", "path", "content", "named"),
    [
        ("POST", "/faults", b"{", "JSON"),
        ("POST", "/faults", b'{"kind": "status", "service": "paypol"}', "service"),
        ("DELETE", "/faults?number=x", b"", "number"),
        ("POST", "/webhooks", b"[]", "JSON object"),
        ("POST", "/webhooks", b'{"service": "stripe"}', "url"),
        ("POST", "/webhooks", b'{"service": ["stripe"], "url": "http://x"}', "service"),
        ("POST", "/webhooks", b'{"service": "stripe", "url": "ftp://x"}', "url"),
        ("POST", "/webhooks", b'{"service": "stripe", "url": "http://x", "repeat": 0}', "repeat"),
        ("POST", "/webhooks", b'{"service": "stripe", "url": "http://x", "events": "all"}', "events"),
        ("POST", "/webhooks", b'{"service": "stripe", "url": "http://x", "colour": 1}', "colour"),
        ("POST", "/deliver", b"", "service"),
        ("POST", "/deliver?service=github&event=push", b"", "target"),
        ("GET", "/state?service=paypol", b"", "service"),
    ],
)
async def test_wrong_control_requests(box: httpx2.AsyncClient, method: str, path: str, content: bytes, named: str):
    """A control request that cannot be is a 400 that names what is wrong."""
    response = await box.request(method, "/_sandbox" + path, content=content)
    assert response.status_code == 400
    assert named in response.json()["error"]


async def test_unknown_service(box: httpx2.AsyncClient):
    """A service that the sandbox does not have is a 404 that lists those it has."""
    response = await box.get("/paypol/x")
    assert response.status_code == 404
    assert ", ".join(sorted(registrations())) in response.json()["error"]


async def test_keys_that_are_accepted(box: httpx2.AsyncClient):
    """A list narrows what a service accepts, whatever scheme shows the key; the refusal is the service's own."""
    accepted = {"service": "stripe", "accepted": ["sk_test_new"]}
    assert (await box.post("/_sandbox/keys", json=accepted)).status_code == 200
    refused = await box.get("/stripe/v1/payment_intents", headers=KEY)
    assert (refused.status_code, refused.json()["error"]["type"]) == (401, "invalid_request_error")
    for headers in ({"Authorization": "Bearer sk_test_new"}, {"Authorization": "Basic c2tfdGVzdF9uZXc6"}):
        assert (await box.get("/stripe/v1/payment_intents", headers=headers)).status_code == 200
    told = (await box.get("/_sandbox/keys")).json()
    assert told == {"stripe": {"accepted": ["sk_test_new"], "refused": 1}}
    assert (await box.delete("/_sandbox/keys", params={"service": "stripe"})).json() == {"removed": 1}
    assert (await box.get("/stripe/v1/payment_intents", headers=KEY)).status_code == 200
    wrongs: list[Any] = [
        {"accepted": []},
        {"service": "nobody", "accepted": []},
        {"service": "stripe", "accepted": [1]},
    ]
    for wrong in [*wrongs, []]:
        assert (await box.post("/_sandbox/keys", json=wrong)).status_code == 400
