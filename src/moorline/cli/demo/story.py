"""The chapters. Each plays one thing that goes wrong, and writes down what was promised against what happened."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

from moorline import Breaker, Money, Policy, Retry, errors
from moorline.cli.demo.processes import until
from moorline.jobs.broker import JobFilter
from moorline.services import Stripe

if TYPE_CHECKING:
    from pathlib import Path

    from moorline.cli.demo.stage import Stage

__all__ = ["tell"]

POISON_LIMIT = 3


def tell(stage: Stage, github_payloads: Path | None) -> None:
    """Play the whole day."""
    stage.target("stripe", secret=os.environ["STRIPE_WEBHOOK_SECRET"], repeat=3)
    github = stage.target("github", secret=os.environ["GITHUB_WEBHOOK_SECRET"])
    files = sorted(github_payloads.glob("*.json")) if github_payloads else []
    bodies = [(path.name.partition(".")[0], path.read_bytes()) for path in files]
    asyncio.run(_day(stage, bodies, github))


async def _day(stage: Stage, bodies: list[tuple[str, bytes]], github: str) -> None:
    async with stage.app:
        poison = await _poison_is_taken(stage)
        await _signup(stage)
        await _payment_in_bad_weather(stage)
        await _declined(stage)
        await _deliveries_from_github(stage, bodies, github)
        await _breaker(stage)
        await _poison_is_dead_and_mended(stage, poison)
        _nothing_shown(stage)


async def _poison_is_taken(stage: Stage) -> str:
    from moorline.cli.demo.app import import_ledger

    stage.ledger.chapter("Poison", "A job is enqueued that kills its worker. The rest of the day goes on meanwhile.")
    job = await import_ledger.enqueue()
    return job.id


async def _signup(stage: Stage) -> None:
    from moorline.cli.demo.app import send_welcome

    stage.ledger.chapter("Signup", "A customer signs up. SendGrid answers 429, Retry-After 1, at first.")
    stage.fault(kind="status", service="sendgrid", status=429, retry_after=1, count=1)
    await send_welcome.enqueue("u_1")
    await _until(lambda: stage.book("welcomed") == ["u_1"], "the welcome e-mail is sent")
    stage.ledger.equal("the welcome e-mail is sent once", 1, len(stage.state("sendgrid")["messages"]), "e-mail")
    stage.ledger.note("Another one signs up. SendGrid answers 503 to everything now.")
    stage.fault(kind="status", service="sendgrid", status=503)
    await send_welcome.enqueue("u_2")
    await _until(lambda: stage.book("welcomed") == ["u_1", "u_2"], "the second welcome e-mail is sent")
    stage.calm()
    stage.ledger.equal("when SendGrid is down Resend sends it", 1, len(stage.state("resend")["emails"]), "e-mail")
    stage.ledger.equal("and it is sent once", 1, len(stage.state("sendgrid")["messages"]), "e-mail by SendGrid")


async def _payment_in_bad_weather(stage: Stage) -> None:
    ledger = stage.ledger
    ledger.chapter("Payment", "Stripe answers 503, then charges and loses its answer, then 429 with Retry-After 1.")
    before = len(stage.requests("stripe", "POST"))
    stage.fault(kind="status", service="stripe", method="POST", status=503, count=1)
    stage.fault(kind="dropped", service="stripe", method="POST", count=1, processed=True)
    stage.fault(kind="status", service="stripe", method="POST", status=429, retry_after=1, count=1)
    stripe = stage.app.service(Stripe, policy=Policy(retry=Retry(base=0.2)))
    began = time.monotonic()
    payment = await stripe.create_payment(Money(2000, "usd"), payment_method="pm_card_visa", confirm=True)
    took = time.monotonic() - began
    stage.calm()
    made = stage.state("stripe")["payment_intents"]
    ledger.equal("a payment gets through all that", "succeeded", payment.status)
    ledger.equal("it takes 4 attempts, no more", 4, len(stage.requests("stripe", "POST")) - before, "attempt")
    ledger.equal("the customer is charged once", 1, len(made), "charge")
    ledger.promise("Retry-After is waited for in full", f"{took:.1f} s in all", took >= 1.0)
    ledger.note("Stripe sends the webhook of it three times.")
    sent = await asyncio.to_thread(stage.deliveries, "stripe")
    succeeded = [one["status"] for one in sent if one["event"] == "payment_intent.succeeded"]
    ledger.equal("each webhook is answered 2xx", [200] * 3, succeeded)
    await _until(lambda: payment.id in stage.book("booked"), "the payment is booked")
    stored = [event for event in await stage.app.events(service="stripe") if event.type == "payment_intent.succeeded"]
    ledger.equal("the webhook is stored once", 1, len(stored), "event")
    ledger.equal("the other two are counted", 2, sum(one.duplicates for one in stored), "duplicate")
    ledger.equal("the payment is booked once", 1, stage.book("booked").count(payment.id), "booking")


async def _declined(stage: Stage) -> None:
    stage.ledger.chapter("Declined", "A card without money.")
    before = len(stage.requests("stripe", "POST"))
    stripe = stage.app.service(Stripe)
    try:
        await stripe.create_payment(
            Money(99900, "usd"), payment_method="pm_card_visa_chargeDeclinedInsufficientFunds", confirm=True
        )
        said = "no error at all"
    except errors.PaymentDeclined as error:
        said = f"{type(error).__name__}: {error.decline_code}"
    stage.ledger.equal("a declined card is a typed error", "PaymentDeclined: insufficient_funds", said)
    stage.ledger.equal(
        "a declined card is not tried again", 1, len(stage.requests("stripe", "POST")) - before, "attempt"
    )


async def _deliveries_from_github(stage: Stage, bodies: list[tuple[str, bytes]], target: str) -> None:
    ledger = stage.ledger
    whose = f"{len(bodies)} real deliveries" if bodies else "Deliveries of the sandbox's own making"
    ledger.chapter("GitHub", f"{whose} come in, each twice, and a forged one.")
    statuses: list[int] = []
    for event, body in bodies or [("push", b""), ("issues", b""), ("ping", b"")]:
        statuses += await asyncio.to_thread(stage.deliver, "github", event, body, target=target, repeat=2)
    count = len(statuses) // 2
    ledger.equal(
        f"{len(statuses)} true deliveries are answered 2xx", len(statuses), sum(200 <= one < 300 for one in statuses)
    )
    forged = await asyncio.to_thread(
        stage.deliver, "github", "push", bodies[0][1] if bodies else b"", target=target, broken_signature="true"
    )
    ledger.equal("the forged one is refused", [401], forged)
    await _until(lambda: len(stage.book("followed")) >= count, "GitHub's events are handled")
    stored = await stage.app.events(service="github")
    ledger.equal("stored once each, and nothing forged", count, len(stored), "event")
    ledger.equal("every event is handled", count, len(set(stage.book("followed"))), "event")
    ledger.equal("none of them is handled twice", count, len(stage.book("followed")), "run")


async def _breaker(stage: Stage) -> None:
    ledger = stage.ledger
    ledger.chapter("Outage", "Stripe answers 500 to everything.")
    stripe = stage.app.service(Stripe, policy=Policy(retry=None, breaker=Breaker(failures=5, reset=1.5)))
    stage.fault(kind="status", service="stripe", method="GET", status=500)
    failures = 0
    for _ in range(5):
        try:
            await stripe.get_payment("pi_none")
        except errors.ServiceUnavailable:
            failures += 1
    ledger.note(f"{failures} calls in a row fail.")
    before = len(stage.requests("stripe"))
    began = time.monotonic()
    opened: errors.CircuitOpen | None = None
    try:
        await stripe.get_payment("pi_none")
    except errors.CircuitOpen as error:
        opened = error
    took = time.monotonic() - began
    ledger.equal("after 5 failures the breaker opens", "CircuitOpen", type(opened).__name__)
    ledger.promise("an open breaker answers at once", f"{took * 1000:.1f} ms", took < 0.1)
    ledger.equal("it does so without asking Stripe", 0, len(stage.requests("stripe")) - before, "request")
    stage.calm()
    until_probe = (opened.retry_at or 0.0) - time.time() if opened else 0.0
    ledger.note(f"Stripe is mended. One probe may pass in {until_probe:.1f} s, as the error said.")
    await asyncio.sleep(max(until_probe, 0.0) + 0.05)
    made = next(iter(stage.state("stripe")["payment_intents"]))
    payment = await stripe.get_payment(made if isinstance(made, str) else made["id"])
    ledger.equal("the breaker recovers by itself", "succeeded", payment.status)


async def _poison_is_dead_and_mended(stage: Stage, poison: str) -> None:
    ledger = stage.ledger
    ledger.chapter("Poison again", "What has become of the job that kills its worker.")
    await _state(stage, poison, "dead")
    job = await stage.app.jobs.broker.get(poison)
    ledger.equal(f"a job that kills {POISON_LIMIT} workers is dead", ("dead", "crashed"), (job.state, job.reason))
    ledger.equal("it kills no more workers than that", POISON_LIMIT, len(stage.book("killed")), "worker")
    (stage.folder / "mended").touch()
    ledger.note("Its cause is mended, and it is retried (moorline jobs retry).")
    await stage.app.jobs.broker.retry(poison)
    await _until(lambda: stage.book("imported") == ["ledger"], "the mended job runs")
    ledger.equal("mended and retried, it is done", "done", await _state(stage, poison, "done"))
    left = [one for one in await stage.app.jobs.broker.list(JobFilter(limit=1000)) if one.state != "done"]
    ledger.equal("no other job is lost or dead", 0, len(left), "job")


def _nothing_shown(stage: Stage) -> None:
    stage.ledger.chapter(
        "Discretion", "All processes logged at DEBUG; their logs are searched for the keys of the day."
    )
    leaks = [name for name, text in stage.outputs() if "0canary0" in text]
    lines = sum(text.count("\n") for _, text in stage.outputs())
    stage.ledger.promise(
        "no key is in any log", f"{lines} lines, {len(leaks)} logs with a key", lines > 0 and not leaks
    )


async def _state(stage: Stage, job_id: str, wanted: str) -> str:
    """The job's state, once it is the one wanted or patience is at its end."""
    for _ in range(300):
        state = (await stage.app.jobs.broker.get(job_id)).state
        if state == wanted:
            break
        await asyncio.sleep(0.05)
    return state


async def _until(happened: object, what: str) -> None:
    await asyncio.to_thread(until, happened, what)  # type: ignore[arg-type]
