"""The relay's promise, walked at random: commits, publishing, lost answers, crashes at every step, two relays, time."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tests.events.relaying import Elsewhere, job, put
from tests.events.stored import fresh_store

from moorline.clock import ManualClock
from moorline.errors import StoreUnavailable
from moorline.events import Relay
from moorline.jobs.brokers.sql_outbox import oldest

LEASE = 10.0


class Crash(Exception):
    """The process is gone: whatever it knew is gone with it."""


class RelayStates(RuleBasedStateMachine):
    """One store, two relays (each new after a crash), a broker that repeats what is repeated, one clock."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock(auto=False)
        self.opened = fresh_store(self.clock)
        self.store = self.opened.__enter__()
        self.loop = asyncio.new_event_loop()
        self.broker: Any = Elsewhere()
        self.relays = [self.relay(), self.relay()]
        self.committed: dict[str, str | None] = {}

    def teardown(self) -> None:
        self.opened.__exit__(None, None, None)
        self.loop.close()

    def relay(self) -> Relay:
        return Relay(self.store, self.broker, batch=3, lease=LEASE, seed=1)

    @rule(keys=st.lists(st.sampled_from([None, "a", "b"]), min_size=1, max_size=4))
    def commit(self, keys: list[str | None]) -> None:
        rows = [job(self.store, order_key=key, priority=len(keys)) for key in keys]
        put(self.store, *rows)
        self.committed |= {row.id: row.order_key for row in rows}

    @rule(who=st.integers(0, 1))
    def work(self, who: int) -> None:
        self.loop.run_until_complete(self.relays[who].run_once())

    @rule(who=st.integers(0, 1), step=st.sampled_from(["before", "after"]))
    def fail(self, who: int, step: str) -> None:
        """The broker is away, or its answer is lost."""
        self.broker.at = self.broker.away(step)
        self.attempt(who, StoreUnavailable)

    @rule(who=st.integers(0, 1), step=st.sampled_from(["before", "after"]))
    def crash(self, who: int, step: str) -> None:
        """Before the broker has the batch, or between that and the deleting."""

        def die(now: str) -> None:
            if now == step:
                raise Crash

        self.broker.at = die
        if self.attempt(who, Crash):
            self.relays[who] = self.relay()

    @rule(who=st.integers(0, 1))
    def crash_idle(self, who: int) -> None:
        self.relays[who] = self.relay()

    @rule(who=st.integers(0, 1), seconds=st.sampled_from([1.0, LEASE + 1]))
    def overlap(self, who: int, seconds: float) -> None:
        """One sleeps while it publishes, perhaps past its lease, and the other one works meanwhile."""
        other = self.relays[1 - who]
        inner, self.broker.at = self.broker.at, lambda _: None

        async def both() -> None:
            broker, relay = self.broker, self.relays[who]

            class Sleeper(Elsewhere):
                async def enqueue(self, rows: Any, *, again: bool = False) -> list[str]:
                    relays.clock.advance(seconds)
                    await other.run_once()
                    return list(await broker.enqueue(rows, again=again))

            relays = self
            relay._broker, before = Sleeper(), relay._broker  # type: ignore[assignment]
            try:
                await relay.run_once()
            finally:
                relay._broker = before

        self.loop.run_until_complete(both())
        self.broker.at = inner

    @rule(seconds=st.sampled_from([1.0, LEASE / 2, LEASE + 1]))
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def attempt(self, who: int, expected: type[Exception]) -> bool:
        try:
            self.loop.run_until_complete(self.relays[who].run_once())
        except expected:
            return True
        finally:
            self.broker.at = lambda _: None
        return False

    def waiting(self) -> set[str]:
        return {row.id for row in self.store.read_sync(oldest, 10_000)}

    @invariant()
    def nothing_is_deleted_that_was_not_published(self) -> None:
        """Each committed row waits in the outbox, or the broker has it, or both; never neither."""
        assert self.committed.keys() == self.waiting() | {row.id for row in self.broker.kept}

    @invariant()
    def each_key_comes_in_its_order(self) -> None:
        """Repetitions left out, the jobs of a key came to the broker in the order of their commits, none passed over."""
        came = list(dict.fromkeys(row.id for row in self.broker.kept))
        for key in (None, "a", "b"):
            wanted = [id_ for id_, its in self.committed.items() if its == key]
            got = [id_ for id_ in came if self.committed[id_] == key]
            assert got == wanted[: len(got)]

    @rule()
    def settle(self) -> None:
        """After the leases are out, a new relay moves all that is left."""
        self.clock.advance(2 * LEASE)
        last = self.relay()
        while self.loop.run_until_complete(last.run_once()).jobs:
            pass
        assert self.waiting() == set()
        assert self.committed.keys() == {row.id for row in self.broker.kept}


TestRelayStates = RelayStates.TestCase
TestRelayStates.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
