"""An application with something of everything: what an operator finds at two in the morning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from moorline import Moorline
from moorline.clock import ManualClock
from moorline.events.event import Event
from moorline.identity.connection import Granted, Tokens
from moorline.identity.vault import Vault
from moorline.jobs.broker import Completion, WorkerInfo
from moorline.jobs.job import JobFailure, JobRow
from moorline.secrets.keyring import KeyRing, new_key
from moorline.secrets.secret import Secret
from moorline.store.steps import perform

__all__ = ["TOKEN", "Seeded", "row", "seeded"]

TOKEN = "two-in-the-morning-0001"


@dataclass(frozen=True)
class Seeded:
    """The ids of what is there."""

    ready: str
    dead: str
    event: str
    refusal: str
    good: str
    ended: str


async def seeded(app: Moorline, clock: ManualClock, text: str = "an ordinary word", error: str = "it broke") -> Seeded:
    """Fill the open *app*: wherever a stranger's words may stand, they are *text*, and in errors *error*."""

    @app.on("github", "push", name="on_push")
    async def on_push(event: Event) -> None: ...

    now = clock.wall()
    event = Event(
        "github", f"id {text}", "push", f'{{"ref": "{error}"}}'.encode(), {"x-note": text}, received_at=now - 90
    )
    stored = await app.inbox.add(event)
    clock.advance(0.01)
    app.inbox.ledger.stored("github", now - 90, 3, 1)
    refusal = {"status": 401, "reason": text, "forged": True, "method": "POST", "headers": {"x-note": text}, "size": 12}
    app.inbox.ledger.refused("github", now, **refusal)
    app.inbox.ledger.flush()
    dead = await _dead(app, clock, text, error)
    (ready,) = await app.jobs.broker.enqueue(
        [row(app, name=text, queue="mail", payload=b'{"to": "ada"}', at=now - 400)]
    )
    good, ended = await _connections(app, text, error)

    async def refusals(*_: Any) -> Any: ...

    found = await app.store.read(_refusals)
    return Seeded(ready, dead, str(stored.event_id), found, good, ended)


def _refusals(connection: Any) -> str:
    from moorline.events.refusals import refusals

    return refusals(connection, None, 1)[0].id


def row(app: Moorline, *, name: str, queue: str = "default", payload: bytes = b"{}", at: float | None = None) -> JobRow:
    now = app.clock.wall()
    return JobRow(app.store.new_id(), name, payload, now if at is None else at, now, queue)


async def _dead(app: Moorline, clock: ManualClock, text: str, error: str) -> str:
    """The id of a job that has failed for good."""
    broker, now = app.jobs.broker, clock.wall()
    (job,) = await broker.enqueue([row(app, name=text, payload=f'{{"order": "{error}"}}'.encode())])
    worker = WorkerInfo(app.store.new_id(), text, 4242, ("default",), now, 600.0)
    for claim in (await broker.claim(worker, 10)).jobs:
        failure = JobFailure(1, now, text, error, f"Traceback\n  {error}")
        dead = claim.id == job
        done = Completion(
            claim.id,
            claim.deliveries,
            "dead" if dead else "done",
            reason="failed" if dead else None,
            error=failure if dead else None,
        )
        await broker.finish([done])
    return job


async def _connections(app: Moorline, text: str, error: str) -> tuple[str, str]:
    vault = Vault(app.store, KeyRing([Secret(new_key())]))
    granted = Granted(Tokens(Secret("access-token-canary-7")), 3600.0, frozenset({"contacts"}))
    good = await vault.keep(f"good {text}", "hubspot", granted, account=text)
    bad = await vault.keep(f"ended {text}", "slack", granted)
    await perform(app.store, vault.ended(bad, error))
    return good.id, bad.id
