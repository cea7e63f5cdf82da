"""Durable Calls: stored as jobs, sent by a worker, and never done twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from tests.app.conftest import Box
from tests.servers import until

from moorline import Breaker, Money, Moorline, Policy
from moorline.calls.guards import Guards
from moorline.clock import ManualClock
from moorline.errors import ConfigurationError, InvalidArguments, Misuse
from moorline.jobs.broker import JobFilter, WorkerInfo
from moorline.jobs.job import Job
from moorline.services import GitHub, SendGrid, Stripe
from moorline.services.email.protocol import Email

REFUNDS = "/v1/refunds"
MAILS = "/v3/mail/send"
ONCE = Policy(deadline=20.0, attempt_timeout=10.0, retry=None, breaker=None)
"""One attempt a Call, so that repeating is the job's business."""

HELLO = Email(to="ada@example.com", sender="shop@example.com", subject="Hello", text="Welcome.")


@pytest.fixture
def stripe(app: Moorline, box: Box, clock: ManualClock) -> Stripe:
    return app.service(Stripe, policy=ONCE, guards=Guards(clock))


@pytest.fixture
def sendgrid(app: Moorline, box: Box, clock: ManualClock) -> SendGrid:
    return app.service(SendGrid, policy=ONCE, guards=Guards(clock))


async def only_job(app: Moorline) -> Job:
    (job,) = await app.jobs.broker.list(JobFilter())
    return job


async def why(app: Moorline, job: Job) -> str:
    """What the last failure of the job said."""
    return (await app.jobs.broker.failures(job.id))[-1].message


async def paid(stripe: Stripe) -> str:
    """A payment of 20 dollars."""
    payment = await stripe.create_payment(Money(2000, "usd"), payment_method="pm_card_visa")
    return payment.id


# --- once


async def test_a_refund_whose_answer_is_lost_is_repeated_with_its_key_and_done_once(
    app: Moorline, stripe: Stripe, box: Box, clock: ManualClock
) -> None:
    """Stripe does the work, the answer is lost twice: three attempts of the job, one partial refund."""
    async with app:
        payment = await paid(stripe)
        box.arm(service="stripe", path=REFUNDS, kind="dropped", processed=True, count=2)
        handle = await stripe.refund(payment, Money(500, "usd")).enqueue()
        assert box.seen("stripe", REFUNDS) == []
        for _ in range(3):
            await app.worker().drain()
            clock.advance(60)
        job = await app.jobs.broker.get(handle.id)
        assert (job.state, job.attempts) == ("done", 3)
    assert len(box.seen("stripe", REFUNDS)) == 3
    assert [refund["amount"] for refund in box.state("stripe")["refunds"].values()] == [500]


async def test_a_refund_that_was_sent_by_a_worker_that_died_is_done_once(
    app: Moorline, stripe: Stripe, box: Box, clock: ManualClock
) -> None:
    """The next worker sends the same Call with the same key, and Stripe answers with the first refund."""
    async with app:
        payment = await paid(stripe)
        handle = await stripe.refund(payment, Money(500, "usd")).enqueue()
        await _sent_by_one_that_dies(app, clock)
        await app.worker().drain()
        job = await app.jobs.broker.get(handle.id)
        assert (job.state, job.crashes) == ("done", 1)
    assert len(box.seen("stripe", REFUNDS)) == 2
    assert len(box.state("stripe")["refunds"]) == 1


async def test_a_mail_that_was_sent_by_a_worker_that_died_is_not_sent_again(
    app: Moorline, sendgrid: SendGrid, box: Box, clock: ManualClock
) -> None:
    """SendGrid honours no keys, so the job is a dead letter that says why, for a person to decide."""
    async with app:
        await sendgrid.send(HELLO).enqueue()
        await _sent_by_one_that_dies(app, clock)
        await app.worker().drain()
        job = await only_job(app)
        assert (job.state, job.reason) == ("dead", "discarded")
        assert "worker died" in await why(app, job)
    assert len(box.seen("sendgrid", MAILS)) == 1


async def _sent_by_one_that_dies(app: Moorline, clock: ManualClock) -> None:
    """Claim the job, run it, store nothing, and let the lease run out."""
    dying = WorkerInfo("w-dying", "here", 1, ("default",), clock.wall(), 10.0)
    ((claim,), _) = _pair(await app.jobs.broker.claim(dying, 1))
    handler = app.jobs.find(claim.name)
    assert handler is not None
    await handler.function(claim)
    clock.advance(60)


def _pair(claimed: Any) -> tuple[Any, Any]:
    return claimed.jobs, claimed.next_at


async def test_a_mail_whose_fate_is_unknown_is_dead_and_not_sent_twice(
    app: Moorline, sendgrid: SendGrid, box: Box, clock: ManualClock
) -> None:
    """SendGrid may have sent it: the job is a dead letter at once, whatever attempts it has left."""
    async with app:
        box.arm(service="sendgrid", path=MAILS, kind="dropped", processed=True)
        await sendgrid.send(HELLO).enqueue()
        for _ in range(3):
            await app.worker().drain()
            clock.advance(600)
        job = await only_job(app)
        assert (job.state, job.reason, job.attempts) == ("dead", "discarded", 1)
        assert "outcome unknown" in await why(app, job)
    assert len(box.seen("sendgrid", MAILS)) == 1


async def test_a_mail_that_certainly_did_not_leave_is_sent_again(
    app: Moorline, sendgrid: SendGrid, box: Box, clock: ManualClock
) -> None:
    """A 503 with Retry-After says that nothing was done, key or no key."""
    async with app:
        box.arm(service="sendgrid", path=MAILS, kind="status", status=503, retry_after=5)
        await sendgrid.send(HELLO).enqueue()
        await app.worker().drain()
        assert (await only_job(app)).state == "ready"
        clock.advance(60)
        await app.worker().drain()
        assert (await only_job(app)).state == "done"
    assert len(box.seen("sendgrid", MAILS)) == 2


@pytest.mark.parametrize("service", ["stripe", "sendgrid"])
async def test_a_call_that_is_cut_short_by_the_end_of_its_worker_is_not_done_twice(
    service: str, app: Moorline, stripe: Stripe, sendgrid: SendGrid, box: Box, clock: ManualClock
) -> None:
    """Stopped in flight, a Call with a key is given back and sent again; one without is a dead letter that says why."""
    path = {"stripe": REFUNDS, "sendgrid": MAILS}[service]
    async with app:
        call: Any = (
            stripe.refund(await paid(stripe), Money(500, "usd")) if service == "stripe" else sendgrid.send(HELLO)
        )
        box.arm(service=service, path=path, kind="latency", seconds=1.5)
        await call.enqueue()
        worker = app.worker()
        running = asyncio.create_task(worker.run(signals=False))
        await asyncio.to_thread(until, lambda: len(box.seen(service, path)) == 1)
        worker.stop(now=True)
        await asyncio.wait_for(running, 30)
        job = await only_job(app)
        if service == "stripe":
            assert (job.state, job.attempts) == ("ready", 0)
            # The service goes on with what it got; until it is done, the same key is refused with 409.
            await asyncio.to_thread(until, lambda: len(box.state("stripe")["refunds"]) == 1)
            for _ in range(5):
                clock.advance(60)
                await app.worker().drain()
            assert (await only_job(app)).state == "done"
            assert len(box.state("stripe")["refunds"]) == 1
        else:
            assert (job.state, job.reason) == ("dead", "discarded")
            assert "stopped" in await why(app, job)
            assert len(box.seen(service, path)) == 1


async def test_a_declined_payment_is_dead_at_once_with_the_banks_reason(
    app: Moorline, stripe: Stripe, box: Box
) -> None:
    """The bank will say the same again, so no attempt is wasted, and the dead letter holds its code."""
    async with app:
        await stripe.create_payment(Money(2000, "usd"), payment_method="pm_card_visa_chargeDeclined").enqueue()
        await app.worker().drain()
        job = await only_job(app)
        assert (job.state, job.reason, job.attempts) == ("dead", "discarded", 1)
        assert "card_declined" in await why(app, job)


async def test_a_service_that_names_a_time_is_asked_again_then_and_no_attempt_is_spent(
    app: Moorline, stripe: Stripe, box: Box, clock: ManualClock
) -> None:
    """429 with Retry-After 120: the job waits 120 s and has all its attempts left."""
    async with app:
        payment = await paid(stripe)
        box.arm(service="stripe", path=REFUNDS, kind="status", status=429, retry_after=120)
        await stripe.refund(payment).enqueue()
        await app.worker().drain()
        waiting = await only_job(app)
        assert (waiting.state, waiting.attempts, waiting.snoozes) == ("ready", 0, 1)
        assert 120 <= waiting.run_at - clock.wall() <= 122
        clock.advance(122)
        await app.worker().drain()
        assert (await only_job(app)).state == "done"


async def test_a_service_that_is_down_until_a_time_is_not_asked_before(
    app: Moorline, stripe: Stripe, box: Box, clock: ManualClock
) -> None:
    """503 with Retry-After 300 spends an attempt, and the next one waits for the 300 s, not for the job's own backoff."""
    async with app:
        payment = await paid(stripe)
        box.arm(service="stripe", path=REFUNDS, kind="status", status=503, retry_after=300)
        await stripe.refund(payment).enqueue()
        await app.worker().drain()
        waiting = await only_job(app)
        assert (waiting.state, waiting.attempts) == ("ready", 1)
        assert 300 <= waiting.run_at - clock.wall() <= 302
        clock.advance(302)
        await app.worker().drain()
        assert (await only_job(app)).state == "done"


async def test_an_open_breaker_puts_jobs_off_without_spending_attempts(
    app: Moorline, box: Box, clock: ManualClock
) -> None:
    """While the breaker is open nothing is sent; when it may be tried again the jobs go through."""
    policy = Policy(retry=None, breaker=Breaker(failures=1, reset=30.0))
    stripe = app.service(Stripe, policy=policy, guards=Guards(clock))
    async with app:
        payment = await paid(stripe)
        box.arm(service="stripe", path=REFUNDS, kind="status", status=500)
        for _ in range(3):
            await stripe.refund(payment, Money(500, "usd")).enqueue()
        await app.worker(concurrency=1).drain()
        assert len(box.seen("stripe", REFUNDS)) == 1
        jobs = await app.jobs.broker.list(JobFilter(state="ready"))
        assert sorted(job.attempts for job in jobs) == [0, 0, 1]
        for _ in range(3):
            clock.advance(32)
            await app.worker(concurrency=1).drain()
        assert await app.jobs.broker.list(JobFilter(state="ready")) == []
    assert len(box.state("stripe")["refunds"]) == 3


async def test_a_worker_that_never_named_the_service_sends_its_calls(
    app: Moorline, stripe: Stripe, box: Box, tmp_path: Path
) -> None:
    """A process of its own for the worker needs the service's key in the environment, and nothing else."""
    async with app:
        payment = await paid(stripe)
        await stripe.refund(payment).enqueue()
    async with Moorline(f"sqlite:///{tmp_path}/app.db", clock=app.clock) as other:
        assert await other.worker().drain() == 1
        assert (await only_job(other)).state == "done"
    assert len(box.state("stripe")["refunds"]) == 1


async def test_options_of_the_call_and_of_the_job_are_kept(
    app: Moorline, stripe: Stripe, box: Box, clock: ManualClock
) -> None:
    """``using`` travels with the Call; ``delay``, ``queue``, ``priority``, ``unique`` and ``retries`` are the job's."""
    async with app:
        payment = await paid(stripe)
        call = stripe.refund(payment).using(timeout=7.0, idempotency_key="mine-1")
        asked: dict[str, Any] = {"delay": 60, "queue": "slow", "priority": 1, "unique": "r-1", "retries": 2}
        first, second = await call.enqueue(**asked), await call.enqueue(**asked)
        assert (second.id, second.duplicate) == (first.id, True)
        job = await only_job(app)
        assert (job.queue, job.priority, job.max_attempts) == ("slow", 1, 3)
        assert job.run_at == clock.wall() + 60
        assert b'"mine-1"' in job.payload
        assert b'{"timeout": 7.0}' in job.payload
        assert await app.worker(queues=["slow"]).drain() == 0
        clock.advance(61)
        assert await app.worker(queues=["slow"]).drain() == 1
    assert len(box.state("stripe")["refunds"]) == 1


def test_a_call_is_enqueued_from_a_script(app: Moorline, stripe: Stripe, box: Box) -> None:
    """``.enqueue().result()`` needs no event loop, and sends nothing."""
    with app.opened():
        assert stripe.refund("pi_1").enqueue().result().id
    assert box.seen("stripe", REFUNDS) == []


# --- in the caller's own transaction


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def shared(request: pytest.FixtureRequest, tmp_path: Path, box: Box) -> tuple[Moorline, str, str]:
    """An application, and the URLs by which its database is reached from the caller's own engines, sync and async."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/app.db"
        return Moorline(url), url, url.replace("sqlite", "sqlite+aiosqlite", 1)
    url = request.getfixturevalue("postgres_url")
    return Moorline(url), url, url.replace("psycopg", "asyncpg", 1)


Enqueue = Callable[[Any], Any]


async def _in_session(url: str, enqueue: Enqueue, *, commit: bool) -> None:
    engine = sa.create_engine(url)
    with Session(engine) as session:
        await enqueue(session)
        session.commit() if commit else session.rollback()
    engine.dispose()


async def _in_async_session(url: str, enqueue: Enqueue, *, commit: bool) -> None:
    engine = create_async_engine(url)
    async with AsyncSession(engine) as session:
        await enqueue(session)
        await (session.commit() if commit else session.rollback())
    await engine.dispose()


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
async def test_a_call_enqueued_in_a_transaction_is_sent_if_and_only_if_that_commits(
    shared: tuple[Moorline, str, str], box: Box, asynchronous: bool
) -> None:
    """Of two sessions, one rolled back and one committed, the second's Call is sent, and the first's never existed."""
    app, url, async_url = shared
    stripe = app.service(Stripe)
    async with app:
        payment = await paid(stripe)
        for commit, amount in ((False, 300), (True, 500)):
            call = stripe.refund(payment, Money(amount, "usd"))
            if asynchronous:
                await _in_async_session(async_url, lambda s, c=call: c.enqueue(within=s), commit=commit)  # type: ignore[misc]
            else:
                await _in_session(url, lambda s, c=call: c.enqueue(within=s), commit=commit)  # type: ignore[misc]
            assert len(await app.jobs.broker.list(JobFilter())) == int(commit)
        await app.worker().drain()
        assert (await only_job(app)).state == "done"
    assert [refund["amount"] for refund in box.state("stripe")["refunds"].values()] == [500]


async def test_a_session_of_another_database_is_refused(app: Moorline, stripe: Stripe, tmp_path: Path) -> None:
    """Two databases share no transaction: the error names both, and nothing is stored."""
    async with app:
        with pytest.raises(ConfigurationError, match=r"within: .*other\.db.*app\.db"):
            await _in_session(
                f"sqlite:///{tmp_path}/other.db", lambda s: stripe.refund("pi_1").enqueue(within=s), commit=True
            )
        assert await app.jobs.broker.list(JobFilter()) == []


# --- misuse


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dealy": 5}, "'dealy' is no option of a job; known: retries, delay"),
        ({"retries": -1}, "retries"),
        ({"retries": "five"}, "retries"),
        ({"delay": -1}, "delay"),
        ({"delay": float("nan")}, "delay"),
        ({"delay": "soon"}, "delay"),
        ({"delay": 5, "at": 5}, "delay, at"),
        ({"at": "tomorrow"}, "at"),
        ({"priority": 11}, "priority"),
        ({"priority": "high"}, "priority"),
        ({"queue": ""}, "queue"),
        ({"queue": 7}, "queue"),
        ({"unique": ""}, "unique"),
        ({"unique": 7}, "unique"),
        ({"within": "session"}, "within"),
    ],
)
async def test_a_wrong_option_of_enqueue_is_named(
    app: Moorline, stripe: Stripe, options: dict[str, Any], said: str
) -> None:
    """The error says which option it is, and nothing is stored."""
    async with app:
        with pytest.raises(ConfigurationError, match=said):
            await stripe.refund("pi_1").enqueue(**options)
        assert await app.jobs.broker.list(JobFilter()) == []


def test_a_service_without_an_application_refuses_and_says_what_to_do() -> None:
    """There is no queue to put it in: bind the service to an application, or send the Call now."""
    with pytest.raises(Misuse, match=r"belongs to no application; use app\.service\(Stripe\), or send"):
        Stripe().refund("pi_1").enqueue()


def test_what_no_queue_can_carry_is_refused(app: Moorline, stripe: Stripe) -> None:
    """A fallback is code, and code does not survive a queue."""
    with pytest.raises(Misuse, match="fallback"):
        stripe.refund("pi_1").or_else(None).enqueue()


def test_arguments_that_do_not_fit_are_named_before_anything_is_stored(app: Moorline) -> None:
    """An argument that has no JSON form is an error at ``enqueue``, not in the worker at night."""
    with pytest.raises((InvalidArguments, ConfigurationError), match="json"):
        app.service(GitHub).request("POST", "/markdown", json={"text": object()}).enqueue()


async def test_enqueueing_before_the_application_is_open_says_so(app: Moorline, stripe: Stripe) -> None:
    """The store is opened by the application's lifespan, ``running()`` or ``opened()``; the error says that it is not."""
    with pytest.raises(Misuse, match="open"):
        await stripe.refund("pi_1").enqueue()
