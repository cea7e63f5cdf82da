"""What the pages know of other processes: by their taps."""

from __future__ import annotations

import json
import socketserver
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.dashboard.visitor import Visitor, read
from tests.databases import migrated_sqlite

from moorline import Moorline
from moorline.calls.tap import FOLDER
from moorline.clock import ManualClock
from moorline.settings import Settings

OPEN = {
    "breaker": "open",
    "breaker_reason": "5 failures <b>in a row</b>",
    "under_way": {"": 3},
    "passed_on": {"ses": 2},
}


@pytest.fixture
def taps(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """The folder of taps: what the process of each number answers, as it is then."""
    answers: dict[str, bytes] = {}

    class Tap(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            assert json.loads(self.rfile.readline()) == {"want": "state"}
            self.wfile.write(answers[Path(str(self.server.server_address)).stem])

    with tempfile.TemporaryDirectory(prefix="taps-") as folder:  # a socket's path is short
        monkeypatch.setenv(FOLDER, folder)
        servers = [socketserver.ThreadingUnixStreamServer(f"{folder}/{pid}.sock", Tap) for pid in (71, 72)]
        for one in servers:
            threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield answers
        for one in servers:
            one.shutdown()
            one.server_close()


async def _asked(tmp_path: Path, clock: ManualClock) -> tuple[Any, Any, str]:
    settings = Settings(database_url=migrated_sqlite(tmp_path / "taps.db"), tap=True)
    async with Moorline(settings=settings, clock=clock) as app:
        visitor = Visitor(app)
        await visitor.enter()
        return await visitor.json(""), await visitor.json("/services"), (await visitor.get("/services")).text


async def test_a_breaker_of_a_worker_is_seen(tmp_path: Path, clock: ManualClock, taps: dict[str, bytes]) -> None:
    """The page is another process than the one whose calls fail; its own tap is not asked."""
    taps["71"] = json.dumps({"pid": 71, "services": {"stripe": OPEN, "ses": {"breaker": "closed"}}}).encode() + b"\n"
    taps["72"] = json.dumps({"pid": 72, "services": {}}).encode() + b"\n"
    overview, services, page = await _asked(tmp_path, clock)
    (problem,) = overview["problems"]
    assert problem["text"] == "The breaker of stripe is open in process 71: 5 failures <b>in a row</b>"
    assert [(one["name"], one["pid"], one["breaker"]) for one in services["guards"]] == [
        ("stripe", 71, "open"), ("ses", 71, "closed"),
    ]  # fmt: skip
    assert (services["guards"][0]["under_way"], services["guards"][0]["passed_on"]) == (3, {"ses": 2})
    assert "5 failures &lt;b&gt;in a row&lt;/b&gt;" in page
    assert read(page).open == []


@pytest.mark.parametrize("answer", [b"", b"[]\n", b"{\n", b'{"services": 1}\n', b'{"services": {"x": []}}\n'], ids=repr)
async def test_what_answers_oddly_is_left_out(
    tmp_path: Path, clock: ManualClock, taps: dict[str, bytes], answer: bytes
) -> None:
    """An older program, or one that ends just then, takes no page with it."""
    taps["71"] = taps["72"] = answer
    overview, services, _ = await _asked(tmp_path, clock)
    assert (overview["problems"], services["guards"]) == ([], [])
