from __future__ import annotations

import asyncio
import contextlib
import pickle
import socket
import threading
from types import SimpleNamespace
from typing import Any, assert_type

import botocore.exceptions
import httpx2
import pytest
import requests
import tenacity
from tests.calls.ledger import Script, both

import moorline
import moorline.transport
from moorline import errors
from moorline.calls import story
from moorline.calls.adapters.functions import Resilient, call_error, resilient
from moorline.calls.guards import Guards
from moorline.clock import ManualClock
from moorline.policies import deadline
from moorline.policies.breaker import Breaker
from moorline.policies.bulkhead import Bulkhead
from moorline.policies.policy import Policy
from moorline.policies.retry import Retry
from moorline.settings import ServiceSettings, Settings


class Answered(Exception):
    """What a client without a name raises for a status."""

    def __init__(self, status: int, **headers: str) -> None:
        super().__init__(f"status {status}")
        self.response = SimpleNamespace(
            status_code=status, headers={k.replace("_", "-"): v for k, v in headers.items()}
        )


class Work:
    """A function that does what it is told in turn; the last for ever."""

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)
        self.calls: list[tuple[Any, ...]] = []
        self.clock = ManualClock()
        self.guards = Guards(self.clock)

    def __call__(self, *args: Any) -> Any:
        self.calls.append(args)
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def run(self, colour: str, policy: Policy | None = None, /, *args: Any, **options: Any) -> Any:
        guard = resilient("ledger", policy, guards=self.guards, **options)
        if colour == "sync":
            return guard.call(self, *args)

        async def work(*given: Any) -> Any:
            return self(*given)

        async def wait() -> Any:
            return await guard.call(work, *args)

        return asyncio.run(wait())


@both
def test_a_result_comes_back_as_it_is(colour):
    """Arguments go in and the result comes out, None included."""
    work = Work(None)
    assert work.run(colour, None, 1, 2) is None
    assert work.calls == [(1, 2)]


@both
@pytest.mark.parametrize(
    "failure",
    [
        ConnectionRefusedError("no"),
        socket.gaierror("no such host"),
        httpx2.ConnectError("no"),
        requests.ConnectTimeout("no"),
        botocore.exceptions.EndpointConnectionError(endpoint_url="https://x"),
        Answered(429),
        Answered(503, retry_after="1"),
    ],
    ids=lambda failure: type(failure).__module__ + "." + type(failure).__name__,
)
def test_what_never_began_is_repeated(colour, failure):
    """Without a word about safety only those failures are repeated after which nothing can have happened."""
    work = Work(failure, "done")
    assert work.run(colour) == "done"
    assert len(work.calls) == 2


@both
@pytest.mark.parametrize(
    "failure",
    [
        ConnectionResetError("cut"),
        TimeoutError("slow"),
        httpx2.ReadTimeout("slow"),
        requests.ConnectionError("cut"),
        requests.exceptions.ChunkedEncodingError("cut"),
        botocore.exceptions.ReadTimeoutError(endpoint_url="https://x"),
        asyncio.IncompleteReadError(b"", 4),
        Answered(500),
        Answered(504),
    ],
    ids=lambda failure: type(failure).__module__ + "." + type(failure).__name__,
)
def test_what_may_have_acted_is_repeated_only_if_safe(colour, failure):
    """A connection cut in the middle, a timeout or a 500 is repeated for a safe function, and raised for others."""
    work = Work(failure, "done")
    with pytest.raises(type(failure)) as caught:
        work.run(colour)
    assert caught.value is failure
    assert len(work.calls) == 1
    work = Work(failure, "done")
    assert work.run(colour, safe=True) == "done"


@both
@pytest.mark.parametrize(
    "bug",
    [
        KeyError("x"),
        ValueError("x"),
        FileNotFoundError("x"),
        PermissionError("x"),
        requests.exceptions.InvalidURL("x"),
        httpx2.UnsupportedProtocol("x"),
        Answered(404),
        Answered(422),
        errors.NotFound("x"),
    ],
    ids=lambda bug: type(bug).__module__ + "." + type(bug).__name__,
)
def test_the_callers_own_affair_passes_through(colour, bug):
    """A bug, a 404, or a missing file is raised at once as it is, and the breaker takes it for a success."""
    work = Work(bug)
    policy = Policy(breaker=Breaker(failures=2))
    for _ in range(4):
        with pytest.raises(type(bug)) as caught:
            work.run(colour, policy, safe=True)
        assert caught.value is bug
    assert len(work.calls) == 4
    assert getattr(bug, "__notes__", []) == []


@both
def test_the_last_exception_of_the_function_is_raised_with_the_story(colour):
    """When the attempts are used up the function's own exception comes, with a note, and the typed error behind it."""
    failure = ConnectionResetError("cut")
    work = Work(failure)
    with pytest.raises(ConnectionResetError) as caught:
        work.run(colour, Policy(retry=Retry(retries=2, jitter="none")), safe=True)
    assert caught.value is failure
    assert caught.value.__notes__[0].endswith("given up after 3 attempts in 3 s")
    behind = call_error(caught.value)
    assert isinstance(behind, errors.ConnectionLost)
    assert (behind.service, len(behind.attempts), behind.retryable) == ("ledger", 3, True)
    assert caught.value.__context__ is None


@both
def test_an_unsafe_function_that_may_have_acted_is_unknown(colour):
    """The typed error behind a failure that may have acted says that the outcome is unknown."""
    with pytest.raises(ConnectionResetError) as caught:
        Work(ConnectionResetError("cut")).run(colour)
    behind = call_error(caught.value)
    assert isinstance(behind, errors.OutcomeUnknown)
    assert behind.outcome == "unknown"


@both
def test_retry_after_is_obeyed_or_given_up(colour):
    """The wait that the exception's answer asks for is kept; one beyond the deadline ends the call, and the gate holds."""
    work = Work(Answered(429, Retry_After="7"), "done")
    assert work.run(colour) == "done"
    assert work.clock.slept == [pytest.approx(7)]
    work = Work(Answered(429, retry_after="3600"))
    with pytest.raises(Answered):
        work.run(colour)
    with pytest.raises(errors.RateLimited) as caught:
        work.run(colour)
    assert (caught.value.outcome, len(work.calls)) == ("not_sent", 1)


@both
def test_the_breaker_opens_and_is_shared_by_name(colour):
    """Five failures of one function refuse another one of the same name, and a transport's requests as well."""
    work = Work(ConnectionRefusedError("no"))
    for _ in range(5):
        with pytest.raises(ConnectionRefusedError):
            work.run(colour, Policy(retry=None))
    with pytest.raises(errors.CircuitOpen):
        resilient("ledger", Policy(retry=None), guards=work.guards).call(lambda: 1)
    script = Script(200)
    transport = moorline.transport.Transport(
        Policy(retry=None), name="ledger", guards=work.guards, wire=httpx2.MockTransport(script)
    )
    with httpx2.Client(transport=transport) as client, pytest.raises(errors.CircuitOpen):
        client.get("https://ledger.example")
    assert script.requests == []


@both
def test_a_refusal_after_a_failure_names_it_as_its_cause(colour):
    """A breaker that opens between two attempts raises CircuitOpen from the function's own exception."""
    policy = Policy(retry=Retry(jitter="none"), breaker=Breaker(failures=1, reset=20))
    failure = ConnectionRefusedError("no")
    work = Work(failure)

    def force(step):
        for breaker in work.guards.breakers()["ledger"]:
            breaker.force("open")

    stop = story.watch(lambda step: force(step) if step.kind == "retry" else None)
    try:
        with pytest.raises(errors.CircuitOpen) as caught:
            work.run(colour, policy)
    finally:
        stop()
    assert caught.value.__cause__ is failure


@both
def test_a_full_bulkhead_refuses(colour):
    """A call beyond the bulkhead is refused without running."""
    work = Work("done")
    policy = Policy(bulkhead=Bulkhead(1))
    guard = work.guards.guard("ledger", policy)
    assert guard.bulkhead
    ticket = guard.bulkhead.enter()
    assert ticket
    with pytest.raises(errors.BulkheadFull):
        work.run(colour, policy)
    ticket.leave()
    assert work.run(colour, policy) == "done"


@both
def test_retry_on_vouches_for_a_repeat(colour):
    """The named exceptions are failures and are repeated, also for a function that is not safe."""
    work = Work(KeyError("busy"), "done")
    assert work.run(colour, retry_on=KeyError) == "done"


@both
@pytest.mark.parametrize(
    ("told", "calls"), [(True, 2), (False, 1), (errors.ConnectFailed("x"), 2), (errors.BadAnswer("x"), 1), (None, 1)]
)
def test_classify_has_the_first_word(colour, told, calls):
    """A classifier says failure, own affair, an exact error, or nothing."""
    work = Work(KeyError("busy"), "done")
    outcome = None
    with contextlib.suppress(KeyError):
        outcome = work.run(colour, classify=lambda error: told, safe=True)
    assert len(work.calls) == calls
    assert (outcome == "done") == (calls == 2)


@both
def test_an_old_exception_that_is_raised_again_is_told_apart_anew(colour):
    """What an earlier call left on an exception says nothing about this one."""
    failure = ConnectionResetError("cut")
    for _ in range(2):
        work = Work(failure)
        with pytest.raises(ConnectionResetError):
            work.run(colour, Policy(retry=Retry(retries=1)), safe=True)
        assert len(work.calls) == 2


@both
def test_another_pipelines_failure_is_not_repeated(colour):
    """An error that has attempts behind it counts for the breaker, and retries do not multiply."""
    work = Work(None)
    lost = errors.ConnectionLost("cut", attempts=(errors.Attempt(1, work.clock.wall(), 0.0, None, "cut"),))
    work.outcomes = [lost]
    with pytest.raises(errors.ConnectionLost) as caught:
        work.run(colour, safe=True)
    assert caught.value is lost
    assert len(work.calls) == 1
    limited = errors.RateLimited("429", attempts=lost.attempts)
    work.outcomes = [limited]
    work.calls.clear()
    policy = Policy(breaker=Breaker(failures=1))
    for _ in range(3):
        with pytest.raises(errors.RateLimited):
            work.run(colour, policy)
    assert len(work.calls) == 3


async def test_a_coroutine_is_cancelled_at_its_deadline():
    """A coroutine that hangs is cancelled; the error is ours and a TimeoutError, and survives a pickle."""
    ended = []

    @resilient("ledger", Policy(deadline=0.05), guards=Guards())
    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    with pytest.raises(errors.DeadlineExceeded) as caught:
        await hang()
    assert isinstance(caught.value, TimeoutError)
    assert isinstance(caught.value, errors.OutcomeUnknown)
    assert ended == [True]
    assert type(pickle.loads(pickle.dumps(caught.value))) is type(caught.value)


async def test_a_cancelled_caller_stays_cancelled_and_leaves_nothing():
    """Cancellation passes through, is no failure, and frees the slot."""
    policy, guards = Policy(bulkhead=Bulkhead(1), breaker=Breaker(failures=1)), Guards()
    begun = asyncio.Event()

    async def hang() -> None:
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.ensure_future(resilient("ledger", policy, guards=guards).call_async(hang))
    await asyncio.wait_for(begun.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    guard = guards.guard("ledger", policy)
    assert guard.bulkhead
    assert guard.breaker
    assert (guard.bulkhead.busy, guard.breaker.state) == (0, "closed")


def test_a_plain_function_learns_of_the_deadline():
    """What a plain function calls sees the end of its attempt as the ambient deadline; no attempt begins after it."""
    work = Work(None)
    seen = []

    def slow() -> None:
        seen.append(deadline.remaining(clock=work.clock))
        work.clock.advance(4)
        raise ConnectionRefusedError

    guard = resilient("ledger", Policy(deadline=5, retry=Retry(base=2, jitter="none")), guards=work.guards)
    with pytest.raises(ConnectionRefusedError):
        guard.call(slow)
    assert seen == [5]
    assert deadline.remaining() is None


def test_the_callers_deadline_bounds_the_attempts():
    """Within ``moorline.deadline`` no wait goes beyond it."""
    work = Work(ConnectionRefusedError("no"))
    with deadline.deadline(2, clock=work.clock), pytest.raises(ConnectionRefusedError):
        work.run("sync", Policy(retry=Retry(jitter="none")))
    assert len(work.calls) == 2


def test_methods_names_and_types_stay():
    """A decorated method binds, keeps its name and sentence, and its types."""

    class Ledger:
        @resilient("ledger", guards=Guards())
        def book(self, amount: int) -> str:
            """Book it."""
            return f"{amount}"

        @resilient("ledger", guards=Guards())
        async def read(self) -> int:
            return 1

    assert (Ledger.book.__name__, Ledger.book.__doc__) == ("book", "Book it.")
    assert assert_type(Ledger().book(5), str) == "5"
    assert asyncio.run(Ledger().read()) == 1


async def test_one_call_serves_both_colours():
    """``call`` returns what a function returns, and something to await for a coroutine function."""
    guard = resilient("ledger", guards=Guards())

    async def read() -> int:
        return 1

    assert assert_type(guard.call(len, [1]), int) == 1
    assert assert_type(await guard.call(read), int) == 1
    hidden: Any = lambda: read()  # noqa: E731, PLW0108 (that it is no coroutine function is the point)
    assert await guard.call_async(hidden) == 1
    with pytest.raises(errors.Misuse, match="call_async"):
        guard.call(hidden)


def generator() -> Any:
    yield 1


@tenacity.retry
def persistent() -> None:
    """Retries by itself."""


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (lambda: resilient(""), "name"),
        (lambda: resilient("x", policy={}), "policy"),  # type: ignore[arg-type]
        (lambda: resilient("x", retry_on="no"), "retry_on"),  # type: ignore[arg-type]
        (lambda: resilient("x", classify=5), "classify"),  # type: ignore[arg-type]
        (lambda: resilient("x", guards=5), "guards"),  # type: ignore[arg-type]
        (lambda: resilient("x")(generator), "generator"),
        (lambda: resilient("x")(classmethod(generator)), "classmethod"),  # type: ignore[arg-type]
        (lambda: resilient("x")(resilient("x")(len)), "already"),
        (lambda: resilient("x")(persistent), "tenacity"),
    ],
)
def test_wrong_use_is_named(wrong, named):
    """A wrong argument, a generator and double retries are refused, by name."""
    with pytest.raises(errors.ConfigurationError, match=named):
        wrong()


def test_tenacity_may_stay_where_moorline_does_not_retry():
    """A policy without retries leaves them to the decorator that is there."""
    resilient("x", Policy(retry=None), guards=Guards())(persistent)()


def test_threads_share_one_guard():
    """Many threads at once each get their own result."""
    guard = resilient("ledger", Policy(bulkhead=Bulkhead(2, queue=100)), guards=Guards())
    results: list[int] = []
    threads = [threading.Thread(target=lambda n=n: results.append(guard.call(abs, -n))) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(results) == list(range(20))


def test_the_public_name_is_there():
    """``moorline.resilient`` is the decorator."""
    assert moorline.resilient is resilient
    assert isinstance(moorline.resilient("x", guards=Guards()), Resilient)


def test_an_application_guards_by_its_settings():
    """``app.guard`` takes what ``[services.NAME]`` says, unless a policy is given."""
    app = moorline.Moorline(settings=Settings(services={"ledger": ServiceSettings(deadline=3, breaker_failures=2)}))
    guard = app.guard("ledger", guards=Guards())
    assert (guard._policy.deadline, guard._policy.breaker) == (3, Breaker(failures=2))
    assert app.guard("ledger", Policy(deadline=4), guards=Guards())._policy.deadline == 4
    assert guard.call(abs, -5) == 5
