"""A rotation under load: two processes pay and receive webhooks, and neither loses a call or an event."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.servers import until
from tests.warm import Warm

from moorline import Moorline
from moorline.errors import RotationRefused
from moorline.identity.rotation import KeyStatus
from moorline.sandbox import server

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("rotating_process.py")
KEY, HOOK = "STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET"
OLD, NEW = (
    {KEY: "sk_test_old0123456789", HOOK: "whsec_old0123456789"},
    {KEY: "sk_test_new0123456789", HOOK: "whsec_new01"},
)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


class Shop:
    """One of the processes."""

    def __init__(self, folder: Path, name: str, database: str, environment: dict[str, str]) -> None:
        self.out = folder / name
        self.port = free_port()
        self._command = [sys.executable, str(SCRIPT), database, str(self.port)]
        self._environment = environment
        self.start()

    def start(self) -> None:
        with self.out.open("ab") as out, self.out.with_suffix(".log").open("ab") as log:
            self.process: Any = Warm(self._command, cwd=ROOT, stdout=out, stderr=log, env=self._environment)

    @property
    def lines(self) -> list[str]:
        return self.out.read_text().splitlines()

    def works(self) -> None:
        """Until it has paid some times more, and its door is open."""
        before = len(self.lines)
        until(lambda: len(self.lines) > before + 5)
        until(self._open)

    def _open(self) -> bool:
        with socket.socket() as asking:
            return asking.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Drill:
    """The sandbox, both processes, and the operator, who is in neither."""

    def __init__(self, sandbox: str, folder: Path, database: str, environment: dict[str, str]) -> None:
        self.control = httpx2.Client(base_url=f"{sandbox}/_sandbox")
        self.app = Moorline(database)
        self.app.keys.watch.tells = False
        self.shops = [Shop(folder, name, database, environment) for name in ("one", "two")]

    def accepts(self, *keys: str) -> None:
        """The service accepts these from now on."""
        assert self.control.post("/keys", json={"service": "stripe", "accepted": keys}).status_code == 200

    def signed_by(self, *secrets: str) -> list[int]:
        """What the processes answer to an event that is signed with these."""
        self.control.delete("/webhooks")
        for shop in self.shops:
            url = f"http://127.0.0.1:{shop.port}/webhooks/stripe"
            hook = {"service": "stripe", "url": url, "secrets": secrets, "events": ["charge.refunded"], "ping": False}
            assert self.control.post("/webhooks", json=hook).status_code == 201
        sent = self.control.post("/deliver", params={"service": "stripe", "event": "charge.refunded"}).json()
        return [one["status"] for one in sent["deliveries"]]

    def status(self, name: str) -> KeyStatus:
        return self.app.keys.status_sync(name)

    def retires(self, name: str, version: str) -> bool:
        """Whether nobody has used it for a moment, so that it is accepted no more."""
        try:
            self.app.keys.retire_sync(name, version, unused=0.5)
        except RotationRefused:
            return False
        return True

    def all_use(self, version: str, name: str, uses: int = 3) -> None:
        """Until both have used it so often."""

        def used() -> bool:
            (found,) = [one for one in self.status(name).versions if one.version == version]
            return sum(use.accepted >= uses and use.alive(self.app.store.clock.wall()) for use in found.uses) >= 2

        until(used)


@pytest.fixture
def drill(tmp_path: Path, database_url: str) -> Iterator[Drill]:
    """Both keys are in the environment of both, the old one first."""
    with server.running() as sandbox:
        names = {name: f"{OLD[name]},{NEW[name]}" for name in (KEY, HOOK)}
        base = {"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "MOORLINE_SANDBOX_URL": sandbox}
        found = Drill(sandbox, tmp_path, database_url, base | names)
        with found.app.opened():
            try:
                yield found
            finally:
                for shop in found.shops:
                    shop.kill()
                found.control.close()


@pytest.mark.crash
def test_nothing_is_lost_in_a_rotation(drill: Drill):
    """The service accepts the old key, both, the new one; webhooks are signed by the old secret, both, the new one; a
    process is killed between the steps. No call fails, and no event is refused but one of the retired secret.
    """
    keys = drill.app.keys
    drill.accepts(OLD[KEY])
    for shop in drill.shops:
        shop.works()
    assert drill.signed_by(OLD[HOOK]) == [200, 200]
    until(lambda: len(drill.status(KEY).versions) == 2 and len(drill.status(HOOK).versions) == 2)
    (old, new), (old_hook, new_hook) = [[one.version for one in drill.status(name).versions] for name in (KEY, HOOK)]

    drill.accepts(OLD[KEY], NEW[KEY])
    keys.promote_sync(KEY, new)
    keys.promote_sync(HOOK, new_hook)
    drill.shops[1].kill()
    drill.shops[1].start()
    drill.shops[1].works()
    drill.all_use(new, KEY)
    for secrets in ([OLD[HOOK]], [OLD[HOOK], NEW[HOOK]], [NEW[HOOK]]):
        assert drill.signed_by(*secrets) == [200, 200]

    until(lambda: "wait" in drill.status(KEY).next)
    until(lambda: drill.retires(KEY, old))
    keys.retire_sync(HOOK, old_hook, force=True)
    drill.accepts(NEW[KEY])
    until(lambda: drill.signed_by(OLD[HOOK]) == [401, 401])
    for shop in drill.shops:
        shop.works()
    assert drill.signed_by(NEW[HOOK]) == [200, 200]

    said = {line for shop in drill.shops for line in shop.lines}
    assert said == {"ok"}
    assert drill.control.get("/keys").json()["stripe"]["refused"] == 0


@pytest.mark.crash
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_key_that_is_not_good_yet_costs_no_call(drill: Drill):
    """Promoted too early, the new key is refused: each process goes on with the old one, and the status says so."""
    drill.accepts(OLD[KEY])
    for shop in drill.shops:
        shop.works()
    until(lambda: len(drill.status(KEY).versions) == 2)
    old, new = [one.version for one in drill.status(KEY).versions]
    drill.app.keys.promote_sync(KEY, new)
    until(lambda: f"refuses {new}" in drill.status(KEY).next)
    for shop in drill.shops:
        shop.works()
    assert {line for shop in drill.shops for line in shop.lines} == {"ok"}
    # Each of four tasks at most once; none of the calls that follow pays twice.
    assert drill.control.get("/keys").json()["stripe"]["refused"] <= 4
    drill.app.keys.rollback_sync(KEY)
    assert drill.status(KEY).versions[0].version == old
