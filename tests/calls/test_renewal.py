from __future__ import annotations

import asyncio
import threading
import time
from typing import cast

import httpx2
import pytest
from tests.calls.ledger import Ledger, Script, both, run

import moorline
from moorline import errors
from moorline.calls.guards import Guards
from moorline.calls.renewal import Renewal
from moorline.clock import ManualClock
from moorline.policies.deadline import ambient
from moorline.policies.policy import Policy


class Source:
    """A key source that has newer keys when asked to refresh."""

    def __init__(self, *keys: str) -> None:
        self.keys = list(keys)
        self.refreshed = 0

    def __call__(self) -> str:
        return self.keys[0]

    def refresh(self) -> None:
        self.refreshed += 1
        if len(self.keys) > 1:
            self.keys.pop(0)


class AsyncSource(Source):
    async def refresh(self) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        Source.refresh(self)


def ledger(source, script, **policy) -> Ledger:
    guards = Guards(script.clock)
    return Ledger(source, wire=httpx2.MockTransport(script), policy=Policy(**policy), guards=guards)


@both
def test_a_401_gets_one_refresh_and_one_free_try(colour):
    """A refused key is refreshed once and the call sent again at once, even a write, even with retries switched off."""
    script, source = Script(401, 200), Source("old-key-0123456789", "new-key-0123456789")
    call = ledger(source, script, retry=None).book(5)
    assert run(colour, call) == {"id": "b_1"}
    assert [request.headers["authorization"][-18:] for request in script.requests] == [
        "old-key-0123456789",
        "new-key-0123456789",
    ]
    assert (source.refreshed, script.clock.slept) == (1, [])
    assert len({request.headers["idempotency-key"] for request in script.requests}) == 1


@both
def test_a_second_401_is_final(colour):
    """When the refreshed key is refused as well, the error is raised after two attempts."""
    script, source = Script(401), Source("old-key-0123456789", "new-key-0123456789", "third-key-0123456789")
    with pytest.raises(errors.AuthenticationFailed) as caught:
        run(colour, ledger(source, script).read("x"))
    assert (len(script.requests), len(caught.value.attempts), source.refreshed) == (2, 2, 1)


@both
def test_no_newer_key_means_no_second_try(colour):
    """Without a newer key nothing is sent again: it would be refused again."""
    for source in (Source("only-key-0123456789"), lambda: "only-key-0123456789", "only-key-0123456789"):
        script = Script(401)
        with pytest.raises(errors.AuthenticationFailed):
            run(colour, ledger(source, script).read("x"))
        assert len(script.requests) == 1


def test_a_rotated_environment_is_read_again(monkeypatch):
    """A key that was changed in the environment while the call was under way is used for the free try."""
    monkeypatch.setenv("LEDGER_KEY", "old-key-0123456789")

    def answer(request):
        if request.headers["authorization"].endswith("old-key-0123456789"):
            monkeypatch.setenv("LEDGER_KEY", "new-key-0123456789")
            return httpx2.Response(401)
        return httpx2.Response(200, json={"id": "b_1"})

    assert Ledger(wire=httpx2.MockTransport(answer), guards=Guards()).read("x").result() == "b_1"


async def test_many_refused_calls_refresh_once():
    """Fifty calls that are refused together make one refresh, and all succeed."""
    source = AsyncSource("old-key-0123456789", "new-key-0123456789", "third-key-0123456789")

    async def answer(request):
        await asyncio.sleep(0)
        return httpx2.Response(401 if "old" in request.headers["authorization"] else 200, json={"id": "b_1"})

    service = Ledger(source, wire=httpx2.MockTransport(answer), guards=Guards())
    assert await asyncio.gather(*(service.read("x") for _ in range(50))) == ["b_1"] * 50
    assert source.refreshed == 1


async def test_a_source_is_asked_at_most_once_in_thirty_seconds():
    """A key that is really revoked makes no storm of refreshes; after 30 s the source is asked again."""
    script, source = Script(401), AsyncSource("old-key-0123456789")
    service = ledger(source, script)
    for refreshed in (1, 1, 1):
        with pytest.raises(errors.AuthenticationFailed):
            await service.read("x")
        assert source.refreshed == refreshed
    script.clock.advance(31)
    with pytest.raises(errors.AuthenticationFailed):
        await service.read("x")
    assert source.refreshed == 2


def test_an_asynchronous_source_in_a_blocking_call():
    """A blocking call cannot await a refresh: it fails with the 401, and nothing is left unawaited."""
    script = Script(401)
    with pytest.raises(errors.AuthenticationFailed):
        ledger(AsyncSource("old-key-0123456789", "new-key-0123456789"), script).read("x").result()
    assert len(script.requests) == 1


async def test_a_refresh_is_inside_the_deadline():
    """A source that hangs does not hold the call beyond its deadline."""

    class Hanging(Source):
        async def refresh(self) -> None:  # type: ignore[override]
            await asyncio.Event().wait()

    service = Ledger(
        Hanging("old-key-0123456789"),
        wire=httpx2.MockTransport(lambda _request: httpx2.Response(401)),
        policy=Policy(deadline=0.05),
        guards=Guards(),
    )
    with pytest.raises(errors.AuthenticationFailed):
        await asyncio.wait_for(service.read("x"), 5)


class Blocking(Source):
    """A source whose refresh blocks its thread until it may ``go``."""

    def __init__(self, *keys: str, failure: BaseException | None = None) -> None:
        super().__init__(*keys)
        self.go = threading.Event()
        self.failure = failure
        self.deadlines: list[float] = []

    def refresh(self) -> None:
        self.deadlines.append(ambient())
        assert self.go.wait(10)
        if self.failure is not None:
            raise self.failure
        super().refresh()


def answering(source, deadline: float | None) -> Ledger:
    """A service in real time whose old key is refused."""

    def answer(request):
        return httpx2.Response(401 if "old" in request.headers["authorization"] else 200, json={"id": "b_1"})

    policy = Policy(deadline=deadline)
    return Ledger(source, wire=httpx2.MockTransport(answer), policy=policy, guards=Guards())


def test_a_blocking_refresh_is_inside_the_deadline():
    """A refresh that blocks holds a call no longer than its deadline; it goes on alone, and later calls have its key."""
    source = Blocking("old-key-0123456789", "new-key-0123456789")
    service = answering(source, 0.2)
    for _ in range(2):  # the second one waits for the same refresh
        begun = time.monotonic()
        with pytest.raises(errors.AuthenticationFailed):
            service.read("x").result()
        assert time.monotonic() - begun < 0.6
    source.go.set()
    blocking = cast("Renewal", service.renewal)._blocking
    assert blocking.acquire(timeout=10)  # held until the refresh is over
    blocking.release()
    assert service.read("x").result() == "b_1"
    assert (len(source.deadlines), source.refreshed) == (1, 1)


def test_a_blocking_refresh_in_time():
    """With a deadline a refresh runs beside, with the deadlines of who calls, and the call goes on with its key."""
    source = Blocking("old-key-0123456789", "new-key-0123456789")
    source.go.set()
    with moorline.deadline(5):
        assert answering(source, 30.0).read("x").result() == "b_1"
        assert source.deadlines == [ambient()]


@pytest.mark.parametrize("deadline", [30.0, None])
def test_what_a_blocking_refresh_raises(deadline):
    """It reaches who calls, and the next call asks again."""
    source = Blocking("old-key-0123456789", "new-key-0123456789", failure=errors.ConfigurationError("no vault"))
    source.go.set()
    service = answering(source, deadline)
    for asked in (1, 2):
        with pytest.raises(errors.ConfigurationError, match="no vault"):
            service.read("x").result()
        assert len(source.deadlines) == asked


def test_a_late_failure_of_a_refresh_is_logged(caplog):
    """A refresh that fails when nobody waits for it any longer says so in the log, and the next call asks again."""
    source = Blocking("old-key-0123456789", "new-key-0123456789", failure=OSError("gone"))
    service = answering(source, 0.05)
    with pytest.raises(errors.AuthenticationFailed):
        service.read("x").result()
    source.go.set()
    blocking = cast("Renewal", service.renewal)._blocking
    assert blocking.acquire(timeout=10)
    blocking.release()
    assert "OSError" in caplog.text
    source.failure = None
    assert service.read("x").using(timeout=30).result() == "b_1"


@pytest.mark.parametrize("deadline", [30.0, None])
def test_a_refresh_needs_a_thread_only_where_it_may_block(monkeypatch, deadline):
    """A key that is read again, and any refresh without a deadline, run on the thread of the call."""

    def refuse(*_given, **_options):
        pytest.fail("a thread was made")

    monkeypatch.setattr(threading, "Thread", refuse)
    keys = iter(["old-key-0123456789"] + ["new-key-0123456789"] * 9)
    assert answering(lambda: next(keys), deadline).read("x").result() == "b_1"
    if deadline is None:
        source = Source("old-key-0123456789", "new-key-0123456789")
        assert answering(source, None).read("x").result() == "b_1"


def test_plain_answers_are_left_alone():
    """A clock of the tests' own and a manual guard change nothing: the refresh is asked of the source that was given."""
    clock = ManualClock()
    source = Source("old-key-0123456789", "new-key-0123456789")
    service = Ledger(source, wire=httpx2.MockTransport(lambda _r: httpx2.Response(200, json={"id": 1})), clock=clock)
    assert service.read("x").result() == 1
    assert source.refreshed == 0
