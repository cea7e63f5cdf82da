from __future__ import annotations

import json
import socket
import threading

import httpx2
import pytest

from moorline.errors import ConfigurationError
from moorline.sandbox import server

KEY = {"Authorization": "Bearer sk_test_1"}
LIST = "/stripe/v1/payment_intents"


def arm(wire: httpx2.Client, **fault: object) -> None:
    assert wire.post("/_sandbox/faults", json={"count": 1, **fault}).status_code == 201


def test_dropped_connection_is_reset(wire: httpx2.Client):
    """A dropped connection ends before a byte of the answer, by a reset that the socket sees."""
    arm(wire, kind="dropped")
    with pytest.raises((httpx2.ReadError, httpx2.RemoteProtocolError)):
        wire.get(LIST, headers=KEY)
    assert wire.get(LIST, headers=KEY).status_code == 200
    arm(wire, kind="dropped")
    with socket.create_connection((wire.base_url.host, wire.base_url.port or 0), timeout=5) as raw:
        raw.sendall(b"GET /stripe/v1/payment_intents HTTP/1.1\r\nHost: x\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            raw.recv(1)


def test_truncated_body_breaks_its_promise(wire: httpx2.Client):
    """A truncated answer announces more bytes than come before the connection closes."""
    arm(wire, kind="truncated")
    with pytest.raises(httpx2.RemoteProtocolError, match="complete"):
        wire.get(LIST, headers=KEY)
    assert wire.get(LIST, headers=KEY).status_code == 200


def test_truncating_an_empty_answer(wire: httpx2.Client):
    """An answer without a body is cut too: it promises a byte that never comes."""
    arm(wire, kind="truncated")
    mail = {
        "personalizations": [{"to": [{"email": "a@example.com"}]}],
        "from": {"email": "b@example.com"},
        "subject": "x",
        "content": [{"type": "text/plain", "value": "x"}],
    }
    with pytest.raises(httpx2.RemoteProtocolError):
        wire.post("/sendgrid/v3/mail/send", json=mail, headers={"Authorization": "Bearer SG.x"})


def test_malformed_json_is_good_http(wire: httpx2.Client):
    """A malformed answer is complete as HTTP, says it is JSON, and is none."""
    arm(wire, kind="malformed")
    response = wire.get(LIST, headers=KEY)
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json; charset=utf-8")
    with pytest.raises(ValueError, match=r".*"):
        json.loads(response.content)


def test_status_with_retry_after(wire: httpx2.Client):
    """An injected status comes in the vendor's error shape, with Retry-After and headers as asked."""
    arm(wire, kind="status", status=429, retry_after=2, headers={"X-Why": "storm"})
    response = wire.get(LIST, headers=KEY)
    assert (response.status_code, response.headers["retry-after"], response.headers["x-why"]) == (429, "2", "storm")
    assert response.json()["error"]["code"] == "rate_limit"
    arm(wire, kind="status", status=503, retry_after="Wed, 21 Oct 2099 07:28:00 GMT", body={"own": "words"})
    response = wire.get(LIST, headers=KEY)
    assert (response.headers["retry-after"], response.json()) == ("Wed, 21 Oct 2099 07:28:00 GMT", {"own": "words"})


def test_latency_is_waited(wire: httpx2.Client):
    """A slow answer makes an impatient client give up, and is then over."""
    arm(wire, kind="latency", seconds=5)
    with pytest.raises(httpx2.ReadTimeout):
        wire.get(LIST, headers=KEY, timeout=0.1)
    assert wire.get(LIST, headers=KEY).status_code == 200


def test_large_answers_arrive_whole(wire: httpx2.Client):
    """A hundred repositories come complete through uvicorn, and 304 has no body."""
    headers = {"Authorization": "Bearer ghp_x"}
    response = wire.get("/github/user/repos?per_page=100", headers=headers)
    assert len(response.json()) == 48
    again = wire.get("/github/user/repos?per_page=100", headers={**headers, "If-None-Match": response.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_a_taken_port_is_named():
    """Listening where somebody else does is a ConfigurationError that names host and port."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"port {port}"), server.running(port=port):
            pass
    with pytest.raises(ConfigurationError, match="port"):
        server.serve(port=70_000)


def test_running_leaves_nothing_behind():
    """After the block the port is closed and the thread gone."""
    before = set(threading.enumerate())
    with server.running() as url:
        assert httpx2.get(url + "/_sandbox/", trust_env=False).json()["ok"] is True
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(url + "/_sandbox/", trust_env=False)
    assert set(threading.enumerate()) <= before
