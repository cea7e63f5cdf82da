"""An application with something of everything: what an operator finds at two in the morning."""

from __future__ import annotations

from dataclasses import dataclass

from moorline import Moorline
from moorline.clock import ManualClock
from moorline.events.event import Event
from moorline.events.refusals import refusals
from moorline.identity.connection import Granted, Tokens
from moorline.identity.vault import Vault
from moorline.jobs.broker import Completion, WorkerInfo
from moorline.jobs.job import JobFailure, JobRow
from moorline.secrets.keyring import KeyRing, new_key
from moorline.secrets.secret import Secret
from moorline.store.steps import perform

__all__ = ["TOKEN", "Seeded", "paths", "row", "seeded"]

TOKEN = "two-in-the-morning-0001"
RING = KeyRing([Secret(new_key())])


@dataclass(frozen=True)
class Seeded:
    """The ids of what is there."""

    ready: str
    dead: str
    event: str
    refusal: str
    good: str
    ended: str


def paths(there: Seeded) -> list[str]:
    """Every page, below ``/dashboard``."""
    ones = [f"/jobs/{there.dead}", f"/jobs/{there.ready}", f"/events/{there.event}", f"/rejected/{there.refusal}"]
    return [
        "",
        "/jobs",
        "/jobs?state=all",
        "/events",
        "/rejected",
        "/connections",
        "/keys",
        "/keys/A_KEY",
        "/services",
        *ones,
    ]


def row(app: Moorline, name: str, queue: str = "default", payload: bytes = b"{}", at: float | None = None) -> JobRow:
    """A job of that name, due now."""
    now = app.clock.wall()
    return JobRow(app.store.new_id(), name, payload, now if at is None else at, now, queue)


async def seeded(app: Moorline, clock: ManualClock, text: str = "a word", error: str = "it broke") -> Seeded:
    """Fill the open *app*: wherever a stranger's words may stand, they are *text*, and in errors *error*."""
    if app.handlers.named("on_push") is None:
        app.on("github", "*", name="on_push")(_on_push)
    now = clock.wall()
    body = f'{{"ref": "{text}", "x": '.encode()  # cut off: whatever is in it, it is no JSON
    came = {"x-note": text, "content-type": "application/json"}
    event = Event("github", f"id {text}", f"push {text}", body, came, secret=text, received_at=now - 90)
    stored = await app.inbox.add(event)
    assert app.inbox.ledger is not None
    app.inbox.ledger.stored("github", now - 90, 3, 1)
    app.inbox.ledger.refused("github", now, status=401, reason=error, forged=True, method="P", headers=came, size=12)
    app.inbox.ledger.flush()
    refused = await app.store.read(refusals, None, 1)
    dead = await _dead(app, text, error)
    (ready,) = await app.jobs.broker.enqueue([row(app, text, f"mail {text}", error.encode(), now - 400)])
    vault = Vault(app.store, RING)
    granted = Granted(Tokens(Secret("access-token-canary-7")), 3600.0, frozenset({"contacts"}))
    good = await vault.keep(f"good {text}", text, granted, account=text)
    bad = await vault.keep(f"ended {text}", text, granted)
    await perform(app.store, vault.ended(bad, error))
    return Seeded(ready, dead, stored.event_id, refused[0].id, good.id, bad.id)


async def _on_push(event: Event) -> None:
    """Nothing: no worker runs here."""


async def _dead(app: Moorline, text: str, error: str) -> str:
    """The id of a job that has failed for good."""
    broker, now = app.jobs.broker, app.clock.wall()
    (job,) = await broker.enqueue([row(app, text, payload=error.encode(), at=now - 3600)])
    worker = WorkerInfo(app.store.new_id(), text, 4242, ("default",), now, 600.0)
    (claim,) = (await broker.claim(worker, 1)).jobs
    assert claim.id == job
    failure = JobFailure(1, now, text, error, f"Traceback\n  {error}")
    await broker.finish([Completion(job, claim.deliveries, "dead", reason="failed", error=failure)])
    return job
