"""Several processes and one connection, some of which are killed in the middle of a refresh."""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from tests.identity.conftest import granted
from tests.servers import until
from tests.warm import Warm

from moorline.identity.vault import Vault
from moorline.secrets.keyring import KeyRing, new_key
from moorline.secrets.secret import Secret
from moorline.store import Store

ROOT = Path(__file__).parents[2]
_KILLED = 10
SCRIPT = Path(__file__).with_name("refreshing_process.py")


class Rotating(BaseHTTPRequestHandler):
    """Each refresh gives another refresh token; the one before is good for as long as the new one is unused."""

    lock = threading.Lock()
    good: tuple[str, str]
    asked: int
    refused: int

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        kind = type(self)
        with kind.lock:
            kind.asked += 1
            (given,) = form["refresh_token"]
            if given in kind.good:
                if given == kind.good[1]:
                    kind.good = (given, f"refresh-{kind.asked}")
                answer = {"access_token": f"access-{kind.asked}", "expires_in": 0.4, "refresh_token": kind.good[1]}
            else:
                kind.refused += 1
                answer = {"error": "invalid_grant"}
        time.sleep(random.uniform(0.0, 0.02))
        body = json.dumps(answer).encode()
        self.send_response(200 if "access_token" in answer else 400)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def provider() -> Iterator[tuple[str, type[Rotating]]]:
    """Its address, and what it counted."""
    kind = type("One", (Rotating,), {"good": ("none", "refresh-0"), "asked": 0, "refused": 0})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", kind
        server.shutdown()


@pytest.mark.crash
def test_no_refresh_is_lost(database_url: str, provider: tuple[str, type[Rotating]], tmp_path: Path):
    """Four processes, one of them killed at every new token: none of the living is ever refused."""
    address, counted = provider
    key = new_key()
    with Store(database_url) as store:
        row = Vault(store, KeyRing([Secret(key)])).keep_sync("u_1", "provider", granted(lasts=0.4))
    command = [sys.executable, str(SCRIPT), database_url, key, row.id, address]

    def started() -> Any:
        with (tmp_path / "out").open("ab") as out, (tmp_path / "log").open("ab") as log:
            return Warm(command, cwd=ROOT, stdout=out, stderr=log)

    def lines() -> set[str]:
        return set((tmp_path / "out").read_text().splitlines())

    processes = [started() for _ in range(4)]
    try:
        for number in range(_KILLED):
            until(lambda: len(lines()) > number, seconds=60)  # noqa: B023 (it is asked at once)
            victim = random.randrange(4)
            processes[victim].kill()
            processes[victim].wait()
            processes[victim] = started()
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert not [line for line in lines() if not line.startswith("access-")]
    # One that was killed may have sent what the provider reads after the next one's: nobody hears that answer.
    assert counted.refused <= _KILLED
    with Store(database_url) as store:
        vault = Vault(store, KeyRing([Secret(key)]))
        (kept,) = vault.connections_sync()
    assert kept.state == "good"
