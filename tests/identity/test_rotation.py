"""Rotation in an application: what is decided holds, is kept, and shows who uses what."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from pathlib import Path

import httpx2
import pytest
import sqlalchemy as sa
from tests.calls.ledger import Ledger
from tests.databases import migrated_sqlite

from moorline import Moorline
from moorline.calls.guards import Guards
from moorline.clock import ManualClock
from moorline.errors import AuthenticationFailed, ConfigurationError, Misuse, RotationRefused
from moorline.events.alert_watch import AlertWatch
from moorline.events.alerts import AlertConfig
from moorline.identity.rotation import sql
from moorline.secrets.keyring import new_key
from moorline.secrets.locker import secrets
from moorline.secrets.secret import Secret
from moorline.store.ids import made_at
from moorline.store.schema import meta

NEW, OLD = "new-key-0123456789", "old-key-0123456789"
NAME = "LEDGER_KEY"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MOORLINE_ENCRYPTION_KEY", "MOORLINE_SANDBOX_URL", "MOORLINE_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(NAME, f"{OLD},{NEW}")
    monkeypatch.chdir(tmp_path)
    migrated_sqlite(tmp_path / "app.db")
    for version in secrets().versions(NAME):
        version.secret.tally = None


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def application(clock: ManualClock) -> Moorline:
    app = Moorline("sqlite:///app.db", clock=clock)
    app.keys.watch.every = 1_000.0  # it looks when it is told
    return app


class Bank:
    """Accepts some keys, and notes with which it was asked."""

    def __init__(self, *accepted: str) -> None:
        self.accepted = set(accepted or (OLD, NEW))
        self.asked: list[str] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(request.headers["authorization"].removeprefix("Bearer "))
        good = self.asked[-1] in self.accepted
        return httpx2.Response(200 if good else 401, json={"id": "b_1"})


def ledger(app: Moorline, bank: Bank) -> Ledger:
    return app.service(Ledger, wire=httpx2.MockTransport(bank), clock=app.clock, guards=Guards(app.clock))


async def test_a_rotation_of_keys_in_the_environment(clock: ManualClock):
    """Promoted the second one is sent at once; the first is retired when it was not used for a day, and comes back."""
    bank = Bank()
    async with application(clock) as app:
        service = ledger(app, bank)
        await service.read("x")
        old, new = [one.version for one in await app.keys.versions(NAME)]
        app.keys.watch.flush()
        status = await app.keys.promote(NAME, new[:6], actor="ada@example.com", why="yearly")
        assert [(one.version, one.status, one.place) for one in status.versions] == [(new, "first", 1), (old, "old", 2)]
        await service.read("x")
        assert bank.asked == [OLD, NEW]
        with pytest.raises(RotationRefused, match="was used within"):
            await app.keys.retire(NAME, old)
        clock.advance(86_401)
        await service.read("x")
        app.keys.watch.flush()
        status = await app.keys.retire(NAME, old, actor="ada@example.com")
        assert [one.secret.reveal() for one in secrets().versions(NAME)] == [NEW]
        assert status.versions[1].status == "retired"
        with pytest.raises(RotationRefused, match="only one"):
            await app.keys.retire(NAME, new, force=True)
        await app.keys.rollback(NAME)
        assert [one.secret.reveal() for one in secrets().versions(NAME)] == [NEW, OLD]
        trail = (await app.keys.status(NAME)).trail
        assert [one["action"] for one in trail] == ["rollback", "retire", "promote"]
        assert (trail[2]["actor"], trail[2]["why"], trail[2]["version"]) == ("ada@example.com", "yearly", new)
    assert [one.secret.reveal() for one in secrets().versions(NAME)] == [OLD, NEW]


def test_what_was_decided_is_kept_and_blocking_works(clock: ManualClock):
    """The next process begins with it; nothing of the keys is in the database in the clear."""
    app = application(clock)
    with app.opened():
        bank = Bank()
        ledger(app, bank).read("x").result()
        new = app.keys.versions_sync(NAME)[1].version
        app.keys.promote_sync(NAME, new)
    with application(clock).opened():
        assert secrets().load(NAME).reveal() == NEW  # type: ignore[union-attr]
    content = Path("app.db").read_bytes() + Path("app.db-wal").read_bytes() if Path("app.db-wal").exists() else b""
    content = content or Path("app.db").read_bytes()
    assert NEW.encode() not in content
    assert OLD.encode() not in content


async def test_another_process_follows_and_its_uses_are_seen(clock: ManualClock):
    """What one application decides, another one reads when it looks again; each sees what the other has used."""
    one = application(clock)
    async with one:
        ledger(one, Bank())
        assert len(one.keys.watch.held(NAME)) == 2
        one.keys.watch.flush()
        one.keys.watch.role = "serve"
        other = application(clock)
        async with other:
            service = ledger(other, Bank())
            await service.read("x")
            other.keys.watch.flush()
            status = await one.keys.status(NAME)
            assert [use.accepted for use in status.versions[0].uses] == [1, 0]
            assert status.versions[0].last_at == clock.wall()
            # Decided by the first, which has no hook here now: the second one follows at its next look.
            await one.keys.promote(NAME, status.versions[1].version)
            assert secrets().load(NAME).reveal() == OLD  # type: ignore[union-attr]
            other.keys.watch.refresh()
            assert secrets().load(NAME).reveal() == NEW  # type: ignore[union-attr]


async def test_what_a_running_process_lacks_is_not_promoted(clock: ManualClock, monkeypatch: pytest.MonkeyPatch):
    """A deployment that has not reached all is named; once it has, or the process is gone, it goes on."""
    old = application(clock)
    monkeypatch.setenv(NAME, OLD)
    async with old:
        old.keys.watch.role = "worker"
        assert len(old.keys.watch.held(NAME)) == 1
        old.keys.watch.flush()
        monkeypatch.setenv(NAME, f"{OLD},{NEW}")
        async with application(clock) as app:
            new = [one.version for one in await app.keys.versions(NAME)][1]
            with pytest.raises(RotationRefused, match="not yet at worker"):
                await app.keys.promote(NAME, new)
            assert "deploy" not in (await app.keys.status(NAME)).next
            clock.advance(200)
            await app.keys.promote(NAME, new)


async def test_a_refused_key_says_what_to_do(clock: ManualClock):
    """The status of a first version that the service refuses names the one that stands in, and the way back."""
    async with application(clock) as app:
        bank = Bank(OLD)
        service = ledger(app, bank)
        new = [one.version for one in await app.keys.versions(NAME)][1]
        await app.keys.promote(NAME, new)
        assert await service.read("x") == "b_1"
        assert await service.read("x") == "b_1"
        assert bank.asked == [NEW, OLD, OLD]
        app.keys.watch.flush()
        status = await app.keys.status(NAME)
        assert f"refuses {new}" in status.next
        assert "rollback" in status.next
        assert (status.versions[0].refused, status.versions[1].accepted) == (1, 2)


async def test_the_second_of_two_values_is_retired_when_nobody_has_used_it(clock: ManualClock):
    """Without a decision before that: the process has told for a day that it uses the first one alone."""
    async with application(clock) as app:
        service = ledger(app, Bank())
        await service.read("x")
        app.keys.watch.flush()
        old = [one.version for one in await app.keys.versions(NAME)][1]
        with pytest.raises(RotationRefused, match=f"who uses {old} is told only for"):
            await app.keys.retire(NAME, old)
        clock.advance(max(made_at(app.keys.watch.process) - clock.wall(), 0.0) + 86_401)
        await service.read("x")
        app.keys.watch.flush()
        status = await app.keys.retire(NAME, old)
        assert [one.status for one in status.versions] == ["first", "retired"]


async def test_only_retired_ones_left(clock: ManualClock, monkeypatch: pytest.MonkeyPatch):
    """A deployment that brings back a retired key alone: it is sent, as there is no other, but nothing is believed for
    its sake.
    """
    from moorline.events.accepting import EnvironmentSecrets

    async with application(clock) as app:
        service = ledger(app, Bank(NEW))
        old, new = [one.version for one in await app.keys.versions(NAME)]
        await app.keys.promote(NAME, new)
        await app.keys.retire(NAME, old, force=True)
        received = EnvironmentSecrets(lambda _: None)
        assert [one.reveal() for one in received.of(NAME)] == [NEW]  # type: ignore[union-attr]
        monkeypatch.setenv(NAME, OLD)
        assert received.of(NAME) == ()
        with pytest.raises(AuthenticationFailed):
            await service.read("x")


async def test_fingerprints_stay_when_the_ring_is_rotated(clock: ManualClock, monkeypatch: pytest.MonkeyPatch):
    """They are sealed with the ring once there is one, and anew with its newest key; without it they are not read."""

    def kept(app: Moorline) -> str:
        query = sa.select(meta.c.value).where(meta.c.key == "key fingerprints")
        found: str = app.store.read_sync(lambda connection: connection.execute(query).scalar_one())
        return found

    marks, seen = [], []
    first, second = new_key(), new_key()
    for keys in ("", first, f"{second},{first}", second):
        monkeypatch.setenv("MOORLINE_ENCRYPTION_KEY", keys)
        async with application(clock) as app:
            marks.append([one.version for one in await app.keys.versions(NAME)])
            seen.append(kept(app))
            if not keys:
                await app.keys.promote(NAME, marks[0][1])
    assert marks == [marks[0], marks[0][::-1], marks[0][::-1], marks[0][::-1]]
    assert [one.partition(":")[0] for one in seen] == ["clear", "sealed", "sealed", "sealed"]
    monkeypatch.setenv("MOORLINE_ENCRYPTION_KEY", new_key())
    with pytest.raises(ConfigurationError, match="MOORLINE_ENCRYPTION_KEY"):
        await application(clock).open()


async def test_misuse_is_named(clock: ManualClock):
    """A closed application, an unknown version, one that may be several, and the application's own keys."""
    app = application(clock)
    with pytest.raises(Misuse, match="not open"):
        await app.keys.status(NAME)
    async with app:
        with pytest.raises(ConfigurationError, match="has no version 'ffff'"):
            await app.keys.promote(NAME, "ffff")
        with pytest.raises(ConfigurationError, match="set MOORLINE_ENCRYPTION_KEY"):
            await app.keys.add(NAME, "another-0123456789")
        with pytest.raises(ConfigurationError, match="keys master"):
            await app.keys.add("MOORLINE_ENCRYPTION_KEY", new_key())
        for nobody in ("", "  ", "\n"):
            with pytest.raises(ConfigurationError, match="actor"):
                await app.keys.rollback(NAME, actor=nobody)
        with pytest.raises(RotationRefused, match="nothing to be undone"):
            await app.keys.rollback(NAME)


async def test_two_who_decide_at_once(clock: ManualClock):
    """The second one decides anew on what the first has left: nothing is overwritten."""
    async with application(clock) as app:
        old, new = [one.version for one in await app.keys.versions(NAME)]
        stale = app.store.read_sync(sql.load, NAME)
        await app.keys.promote(NAME, new)
        decision = sql.Decision(NAME, stale.revision, stale.record, clock.wall(), "eve", "promote", {})
        assert app.store.write_sync(sql.decide, decision) is False
        assert (await app.keys.versions(NAME))[0].version == new
        assert json.loads(json.dumps((await app.keys.status(NAME)).to_dict()))["name"] == NAME
        del old


async def test_a_value_that_is_added(clock: ManualClock, monkeypatch: pytest.MonkeyPatch):
    """It is kept where the application keeps values, used last, and first once it is promoted: with no deployment."""
    monkeypatch.setenv(NAME, OLD)
    monkeypatch.setenv("MOORLINE_ENCRYPTION_KEY", new_key())
    bank = Bank()
    async with application(clock) as app:
        service = ledger(app, bank)
        await service.read("x")
        new = await app.keys.add(NAME, NEW, actor="ada@example.com")
        assert await app.keys.add(NAME, NEW) == new
        assert [one.secret.reveal() for one in secrets().versions(NAME)] == [OLD, NEW]
        assert len(await app.own_secrets.kept(NAME)) == 1
        status = await app.keys.status(NAME)
        assert [one.status for one in status.versions] == ["first", "added"]
        assert status.next == f"use the new one first: moorline keys promote {NAME} {new}"
        await app.keys.promote(NAME, new)
        await service.read("x")
        assert bank.asked == [OLD, NEW]
        with pytest.raises(ConfigurationError, match="a value, or the source"):
            await app.keys.add(NAME)


@pytest.mark.parametrize(
    "value", [f"\ufeff{NEW}", f"{NEW}\n", f"{NEW[:5]}\0{NEW[5:]}", "-----BEGIN X-----\n\x1b", "[\0]"]
)
def test_what_no_request_could_carry_is_not_added(
    clock: ManualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
):
    """As a value or at another place it is refused before it is kept, and not shown."""
    monkeypatch.setenv("MOORLINE_ENCRYPTION_KEY", new_key())
    (tmp_path / "ledger").write_text(f"\ufeff{value}\n")
    app = application(clock)
    with app.opened():
        for given in ({"value": value}, {"source": f"file:{tmp_path}/ledger"}):
            with pytest.raises(ConfigurationError, match=r"holds U\+[0-9A-F]{4}, which is no part of a key") as refused:
                app.keys.add_sync(NAME, **given)  # type: ignore[arg-type]
            assert value not in str(refused.value)
        assert app.own_secrets.kept_sync(NAME) == []
        assert [one.secret.reveal() for one in secrets().versions(NAME)] == [OLD, NEW]


@pytest.mark.parametrize(
    "value", ["-----BEGIN X-----\r\nAA==\r\n-----END X-----\n", '{\n\t"id": "b_1"\n}\n', "naïve key"]
)
def test_keys_that_have_lines_are_added(clock: ManualClock, monkeypatch: pytest.MonkeyPatch, value: str):
    """PEM and JSON as they are; what only some services can take is theirs to say."""
    monkeypatch.setenv("MOORLINE_ENCRYPTION_KEY", new_key())
    app = application(clock)
    with app.opened():
        app.keys.add_sync(NAME, value)
        assert secrets().versions(NAME)[-1].secret.reveal() == value


async def test_a_reason_is_kept_without_the_value_in_it(clock: ManualClock, monkeypatch: pytest.MonkeyPatch):
    """What somebody has put there by mistake is masked before it is written, at the place where it is cut too."""
    monkeypatch.setenv("MOORLINE_ENCRYPTION_KEY", new_key())
    async with application(clock) as app:
        value = "another-0123456789"
        new = await app.keys.add(NAME, value, why=f"now {value}")
        await app.keys.promote(NAME, new, why=f"{'x' * 490} {value}")
        assert [one["why"] for one in (await app.keys.status(NAME)).trail] == [f"{'x' * 490} ***", "now ***"]


async def test_a_first_value_without_a_deployment(clock: ManualClock, monkeypatch: pytest.MonkeyPatch):
    """A process that has no key at all follows, too: what is added elsewhere is there at its next look."""
    monkeypatch.delenv(NAME)
    monkeypatch.setenv("MOORLINE_ENCRYPTION_KEY", new_key())
    async with application(clock) as app:
        service = ledger(app, Bank())
        with pytest.raises(ConfigurationError, match="has no key"):
            await service.read("x")
        async with application(clock) as other:
            assert await other.keys.names() == []
            await other.keys.add(NAME, NEW)
        app.keys.watch.refresh()
        assert await service.read("x") == "b_1"


async def test_a_process_that_cannot_follow_counts_as_running(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """One without the key of the database follows what else is decided, says once what it lacks, goes on telling its
    uses, and stands among those that do not have the new version yet.
    """
    monkeypatch.setenv("OTHER_KEY", f"{OLD},{NEW}")
    monkeypatch.setenv(NAME, OLD)
    worker = application(clock)
    async with worker:
        worker.keys.watch.role = "worker"
        assert len(worker.keys.watch.held(NAME)) == 1
        second = worker.keys.watch.held("OTHER_KEY")[1].mark
        worker.keys.watch.flush()
        monkeypatch.setenv("MOORLINE_ENCRYPTION_KEY", new_key())
        async with application(clock) as app:
            new = await app.keys.add(NAME, NEW)
            await app.keys.promote("OTHER_KEY", second)
        for _ in range(3):
            worker.keys.watch.refresh()
        assert caplog.text.count("added_key_not_there") == 1
        assert [one.reveal() for one in secrets().load_all("OTHER_KEY")] == [NEW, OLD]
        clock.advance(200)
        worker.keys.watch.flush()
        async with application(clock) as app:
            with pytest.raises(RotationRefused, match="not yet at worker"):
                await app.keys.promote(NAME, new)


def test_the_thread_outlives_a_failure(clock: ManualClock, monkeypatch: pytest.MonkeyPatch):
    """Whatever goes wrong while it follows: it tells uses after that, and follows again."""
    app = application(clock)
    with app.opened():
        watch = app.keys.watch
        watch.every = 0.001
        steps: list[str] = []
        enough = threading.Event()

        def refresh() -> None:
            steps.append("refresh")
            raise ValueError(NAME)

        def flush() -> None:
            steps.append("flush")
            if len(steps) > 2:
                enough.set()

        monkeypatch.setattr(watch, "refresh", refresh)
        monkeypatch.setattr(watch, "flush", flush)
        assert len(watch.held(NAME)) == 2
        assert enough.wait(5)
    assert steps[:3] == ["flush", "refresh", "flush"]


def test_a_version_at_another_place(clock: ManualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """``source`` names where it is; what is not there is an error that names the place."""
    monkeypatch.setenv(NAME, OLD)
    (tmp_path / "ledger").write_text(NEW)
    app = application(clock)
    with app.opened():
        new = app.keys.add_sync(NAME, source=f"file:{tmp_path}/ledger")
        app.keys.promote_sync(NAME, new)
        assert secrets().load(NAME).reveal() == NEW  # type: ignore[union-attr]
        with pytest.raises(ConfigurationError, match="nothing"):
            app.keys.add_sync(NAME, source=f"file:{tmp_path}/nowhere")


async def test_a_refused_key_is_an_alert(clock: ManualClock):
    """It begins when the service refuses the first version, names it, and is over when the key is taken again."""
    async with application(clock) as app:
        bank = Bank(OLD)
        service = ledger(app, bank)
        new = [one.version for one in await app.keys.versions(NAME)][1]
        await app.keys.promote(NAME, new)
        await service.read("x")
        app.keys.watch.flush()
        watch = app.alerts()
        [alert] = await watch.run_once("one")
        assert (alert.rule, alert.service, alert.label, alert.state) == ("refused", NAME, new, "firing")
        assert f"keys status {NAME}" in alert.message
        bank.accepted.add(NEW)
        clock.advance(400)
        await service.read("x")
        app.keys.watch.flush()
        [over] = await watch.run_once("one")
        assert (over.rule, over.state) == ("refused", "resolved")


@pytest.mark.parametrize(("minutes", "rules"), [(None, []), (15, []), (180, ["refused"])])
async def test_for_how_long_a_refused_key_is_an_alert_can_be_set(
    clock: ManualClock, minutes: float | None, rules: list[str]
):
    """For longer than an hour too, and never."""
    async with application(clock) as app:
        service = ledger(app, Bank(OLD))
        await app.keys.promote(NAME, [one.version for one in await app.keys.versions(NAME)][1])
        await service.read("x")
        app.keys.watch.flush()
        clock.advance(7_200)
        found = await AlertWatch(app.store, AlertConfig(refused_minutes=minutes)).run_once("one")
        assert [alert.rule for alert in found] == rules


async def test_a_key_that_ends_is_an_alert(clock: ManualClock, monkeypatch: pytest.MonkeyPatch):
    """Of whatever source: the version that is sent, not an older one beside it."""
    monkeypatch.setenv(NAME, OLD)
    monkeypatch.setenv("MOORLINE_ENCRYPTION_KEY", new_key())
    async with application(clock) as app:
        ledger(app, Bank())
        ends = Secret(NEW, name=NAME, not_after=clock.wall() + 86_400)
        new = await app.keys.add(NAME, ends)
        watch = app.alerts()
        assert await watch.run_once("one") == []
        status = await app.keys.promote(NAME, new)
        assert status.next.startswith("wait") or "retire" in status.next
        [alert] = await watch.run_once("one")
        assert (alert.rule, alert.service, alert.label) == ("secret", "ledger", NAME)


async def test_who_still_signs_with_a_retired_secret(clock: ManualClock, monkeypatch: pytest.MonkeyPatch):
    """The delivery is refused, and the operator is told by which secret it was signed; the event of an accepted one
    says by which, and counts.
    """
    monkeypatch.setenv("GITHUB_WEBHOOK_SECRET", f"{OLD},{NEW}")
    async with application(clock) as app:
        client = httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test")

        async def deliver(secret: str, id: str) -> int:
            body = json.dumps({"action": "opened", "number": id}).encode()
            mark = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
            headers = {"X-Hub-Signature-256": f"sha256={mark}", "X-GitHub-Event": "issues", "X-GitHub-Delivery": id}
            return (await client.post("/webhooks/github", content=body, headers=headers)).status_code

        assert [await deliver(OLD, "1"), await deliver(NEW, "2")] == [200, 200]
        name = "GITHUB_WEBHOOK_SECRET"
        old, new = [one.version for one in await app.keys.versions(name)]
        assert [one.accepted for one in await app.keys.versions(name)] == [1, 1]
        assert [one.secret for one in await app.events()] == [f"{name}#2", name]
        await app.keys.promote(name, new)
        await app.keys.retire(name, old, force=True)
        clock.advance(1)
        assert [await deliver(OLD, "3"), await deliver(NEW, "4"), await deliver("forged", "5")] == [401, 200, 401]
        assert (await app.events())[0].secret == f"{name}#2"
        app.keys.watch.flush()
        status = await app.keys.status(name)
        assert status.next == f"somebody still signs with {old}, which is retired: change it there, or add it again"
        assert [one.refused for one in status.versions] == [0, 1]
        await client.aclose()
