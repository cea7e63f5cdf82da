"""Several processes of an application and the tokens of its services; one is killed before it could store them."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from tests.servers import until
from tests.warm import Warm

from moorline.identity.vault import Vault
from moorline.identity.vault_sql import APPLICATION, Which
from moorline.secrets.keyring import KeyRing, new_key
from moorline.secrets.rings import ENCRYPTION_KEY
from moorline.secrets.secret import Secret
from moorline.store import Store

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("token_process.py")


class Rotating(BaseHTTPRequestHandler):
    """Each refresh gives another refresh token; the last one but one is still taken. Kills who asks first, if told."""

    protocol_version = "HTTP/1.1"
    lock = threading.Lock()
    good: list[str]
    asked: list[str]
    victims: list[int]

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        kind = type(self)
        with kind.lock:
            kind.asked.append(form["refresh_token"][0])
            number = len(kind.asked)
            known = form["refresh_token"][0] in kind.good[-2:]
            kind.good.append(f"refresh-{number}-canary")
        if number == 1 and kind.victims:
            for victim in kind.victims:  # of whom one has asked, and the other one waits for it
                os.kill(victim, signal.SIGKILL)
        answer = {"access_token": f"access-{number}-canary", "expires_in": 3600, "refresh_token": kind.good[-1]}
        self._send(200 if known else 400, answer if known else {"error": "invalid_grant"})

    def _send(self, status: int, data: Any) -> None:
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def endpoint() -> Iterator[tuple[str, type[Rotating]]]:
    """Its address, and what it counted."""
    kind = type("One", (Rotating,), {"good": ["none", "refresh-0-canary"], "asked": [], "victims": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", kind
        server.shutdown()


@pytest.mark.postgres
@pytest.mark.crash
def test_processes_share_a_token(
    migrated_postgres_url: str,
    endpoint: tuple[str, type[Rotating]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """Two processes are killed after the provider has rotated; of the next two, with 1,000 callers each, one asks, by
    the token that was configured, and both use what it got.
    """
    address, counted = endpoint
    key = new_key()
    monkeypatch.setenv(ENCRYPTION_KEY, key)
    monkeypatch.setenv("MOORLINE_TAP", "false")

    def started(name: str) -> list[Any]:
        go = tmp_path / f"{name}-go"
        processes = []
        for number in range(2):
            ready = tmp_path / f"{name}-{number}-ready"
            command = [sys.executable, str(SCRIPT), migrated_postgres_url, address, str(ready), str(go)]
            with (tmp_path / f"{name}-{number}").open("wb") as out, (tmp_path / "log").open("ab") as log:
                processes.append(Warm(command, cwd=ROOT, stdout=out, stderr=log))
            until(ready.exists, seconds=60)
        counted.victims = [one.pid for one in processes] if name == "killed" else []
        go.touch()
        return processes

    for process in started("killed"):
        process.wait()
    assert counted.asked == ["refresh-0-canary"]
    for process in started("next"):
        assert process.wait() == 0, (tmp_path / "log").read_text()
    said = {(tmp_path / f"next-{number}").read_text().strip() for number in range(2)}
    assert said == {"access-2-canary"}
    assert counted.asked == ["refresh-0-canary"] * 2
    assert "canary" not in (tmp_path / "log").read_text()
    with Store(migrated_postgres_url) as store:
        vault = Vault(store, KeyRing([Secret(key)]))
        (kept,) = vault.connections_sync(Which(APPLICATION))
        assert (kept.owner, kept.lost_at, vault.tokens(kept).refresh) == (APPLICATION, None, Secret("refresh-2-canary"))
