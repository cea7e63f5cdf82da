from __future__ import annotations

import asyncio
import time

import httpx2
import pytest
from tests.calls import fault_server
from tests.calls.fault_server import FaultServer
from tests.calls.ledger import Ledger, Script, both, request, run

import moorline
from moorline import errors
from moorline.calls import story
from moorline.calls.guards import Guards
from moorline.clock import ManualClock
from moorline.policies import deadline as deadlines
from moorline.policies.breaker import Breaker
from moorline.policies.bulkhead import Bulkhead
from moorline.policies.policy import Policy
from moorline.policies.rate import RateLimit
from moorline.policies.retry import Retry


class TestTheCallersDeadline:
    @both
    def test_it_bounds_the_waits(self, colour):
        """A call in a block with 3 s left does not sleep beyond them, whatever its own deadline says."""
        script = Script(503)
        with moorline.deadline(3, clock=script.clock):
            with pytest.raises(errors.ServiceUnavailable) as caught:
                run(colour, script.service(retry=Retry(jitter="none")).read("x"))
            assert deadlines.remaining(clock=script.clock) == pytest.approx(2.0)
        assert [attempt.wait for attempt in caught.value.attempts] == [1.0, 0.0]
        assert deadlines.remaining(clock=script.clock) is None

    @both
    @pytest.mark.parametrize("behaviour", [fault_server.drip, fault_server.silent, fault_server.stalled_body])
    def test_it_bounds_the_wire(self, colour, behaviour):
        """The body is inside the caller's deadline as well."""
        with FaultServer(behaviour) as server, moorline.deadline(0.3):
            begun = time.monotonic()
            with pytest.raises(errors.DeadlineExceeded) as caught:
                request(colour, Policy(retry=None), "GET", server.url)
            assert time.monotonic() - begun < 0.5
            assert "deadline" in str(caught.value)

    async def test_tasks_inherit_it(self):
        """What the block starts as a task, or in a thread, has the same deadline; an inner block cannot lengthen it."""
        with moorline.deadline(5), moorline.deadline(50):
            left = [deadlines.remaining()]
            left.append(await asyncio.create_task(self._left()))
            left.append(await asyncio.to_thread(deadlines.remaining))
        assert all(seconds is not None and 0 < seconds <= 5 for seconds in left)

    async def _left(self) -> float | None:
        return deadlines.remaining()

    @both
    def test_over_means_nothing_is_sent(self, colour):
        """A call that begins after the caller's deadline sends nothing and says so."""
        script = Script(200)
        with moorline.deadline(1, clock=script.clock):
            script.clock.advance(2)
            with pytest.raises(errors.DeadlineExceeded) as caught:
                run(colour, script.service().read("x"))
        assert (script.requests, caught.value.outcome) == ([], "not_sent")

    @pytest.mark.parametrize("seconds", [0, -1, float("nan"), "2", None])
    def test_odd_lengths(self, seconds):
        """What is no positive number of seconds is refused by name."""
        with pytest.raises(errors.ConfigurationError, match=r"deadline\.seconds"), moorline.deadline(seconds):
            pass


class TestAdmission:
    async def test_one_more_is_refused_at_once(self):
        """With the cap reached a call is refused without a wait; a place is free again when one ends, however."""
        gate = asyncio.Event()

        async def answer(_request):
            await gate.wait()
            return httpx2.Response(200, json={"id": "b_1"})

        policy = Policy(admission=2, bulkhead=Bulkhead(1, queue=10))
        service = Ledger("key", wire=httpx2.MockTransport(answer), policy=policy, guards=Guards())
        first, second = (asyncio.ensure_future(service.read("x")) for _ in range(2))
        await asyncio.sleep(0)
        with pytest.raises(errors.BulkheadFull, match="2 calls are under way") as caught:
            await service.read("x")
        assert (caught.value.retryable, caught.value.outcome, caught.value.attempts) == (True, "not_sent", ())
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        third = asyncio.ensure_future(service.read("x"))
        gate.set()
        assert [await first, await third] == ["b_1", "b_1"]
        assert service._guard(service.base_url, service.policy).admission.under_way == 0  # type: ignore[union-attr]

    def test_tenants_have_a_cap_and_a_budget_each(self):
        """One tenant's calls take nothing from another's budget and cap; breaker and gate are common to them."""
        guards, policy = Guards(ManualClock()), Policy(bulkhead=Bulkhead(1), rate=RateLimit(1))
        one, other, again = (guards.guard("ledger", policy, tenant) for tenant in ("a", "b", "a"))
        kept = [each.admission for each in (one, other, again)]
        assert (kept[0] is kept[2], kept[0] is kept[1]) == (True, False)
        assert (one.budget is again.budget, one.budget is other.budget) == (True, False)
        assert (one.breaker, one.gate, one.bulkhead) == (other.breaker, other.gate, other.bulkhead)

    def test_accounts_have_limits_each(self):
        """Several accounts at one service, which counts each by itself: only the rate gate is an account's own. Whose
        limits are known, or whose calls wait, operators see, of many accounts the busiest; with a bound, like tenants.
        """
        guards, policy = Guards(ManualClock()), Policy(bulkhead=Bulkhead(1))
        service, one, other, again = (guards.guard("ledger", policy, account=each) for each in ("", "a", "b", "a"))
        assert again.gate is one.gate
        assert len({id(each.gate) for each in (service, one, other)}) == 3
        for part in ("breaker", "budget", "admission", "bulkhead"):
            assert getattr(service, part) is getattr(one, part) is getattr(other, part)
        one.gate.close(60.0)
        told: list[story.Step] = []
        stop = story.watch(told.append)
        assert (one.gate.take(1.0).ok, other.gate.take(1.0).ok, service.gate.take(1.0).ok) == (False, True, True)
        stop()
        assert [(step.service, step.reason) for step in told] == [("ledger", "the service asked to wait, for a")]
        found = guards.snapshot()["ledger"]
        assert (found["rate_gate"]["limits"], list(found["rate_gates"])) == ((), ["a"])
        assert found["rate_gates"]["a"]["limits"] == ("the service asked to wait, 60 s more",)
        held = [guards.guard("ledger", policy, account=f"{number:02}").gate for number in range(30)]
        for gate in held:
            gate.close(60.0)
        waits = held[-1].take(100.0)
        shown = list(guards.snapshot()["ledger"]["rate_gates"])
        assert (waits.state, shown[:2], len(shown)) == ("waiting", ["29", "00"], 20)

    def test_idle_tenants_are_forgotten(self, monkeypatch):
        """The number of tenants that are remembered has a bound; those that called last stay."""
        monkeypatch.setattr("moorline.calls.guards._MOST", 3)
        guards, policy = Guards(ManualClock()), Policy()
        first = guards.guard("ledger", policy, "0")
        for number in range(5):
            guards.guard("ledger", policy, str(number))
            assert guards.guard("ledger", policy, "0").budget is first.budget
        assert len(guards._budgets) == 3


class TestTheStory:
    def told(self, colour, call):
        steps: list[story.Step] = []
        stop = story.watch(steps.append)
        try:
            run(colour, call)
        except errors.CallError:
            pass
        finally:
            stop()
        return [(step.kind, step.reason) for step in steps]

    @both
    def test_a_call_that_worked(self, colour):
        """An ordinary call is an attempt and an end."""
        assert self.told(colour, Script(200).service().read("x")) == [("attempt", "answered"), ("finished", "answered")]

    @both
    def test_each_retry_says_why(self, colour):
        """Attempts, retries with their waits, and why no other followed."""
        script = Script(503, 200)
        told = self.told(colour, script.service(retry=Retry(jitter="none")).read("x"))
        assert told == [
            ("attempt", "answered 503"),
            ("retry", "answered 503"),
            ("attempt", "answered"),
            ("finished", "answered"),
        ]

    @both
    @pytest.mark.parametrize(
        ("answers", "policy", "why"),
        [
            ((503,), {"retry": Retry(retries=1, jitter="none")}, "all 1 retries are used up"),
            ((503,), {"retry": None}, "retries are switched off"),
            ((404,), {}, "the same request would get the same answer"),
            ((503,), {"deadline": 0.5, "retry": Retry(jitter="none")}, "in 1 s, beyond the deadline"),
            (((429, {"retry-after": "90"}, b""),), {"deadline": None}, "the service asked to wait 90 s"),
            (((503, {"x-should-retry": "false"}, b""),), {}, "the service says not to try again"),
        ],
    )
    def test_why_no_other_attempt_follows(self, colour, answers, policy, why):
        """A call that is given up says why: used up, off, useless, deadline, too long a wait, told so."""
        told = self.told(colour, Script(*answers).service(**policy).read("x"))
        assert why in next(reason for kind, reason in told if kind == "gave_up")

    @both
    def test_a_write_without_a_key(self, colour):
        """A POST that may have acted is not repeated, and the reason names the missing key."""
        from tests.calls.ledger import Mail

        told = self.told(colour, Script(500).service(Mail).book(1))
        assert ("gave_up", "it may have acted: book carries no idempotency key") in told

    @both
    def test_the_budget(self, colour):
        """When the retry budget is spent, that is the reason."""
        script = Script(503)
        service = script.service(retry=Retry(jitter="none", base=0.001), breaker=None)
        reasons = [
            reason for _ in range(12) for kind, reason in self.told(colour, service.read("x")) if kind == "gave_up"
        ]
        assert "the retry budget of the service is spent" in reasons

    @both
    def test_an_open_circuit(self, colour):
        """The breaker's change of state is a step with before and after; a refusal names the part that refused."""
        script = Script(500)
        service = script.service(retry=None, breaker=Breaker(failures=1))
        steps: list[story.Step] = []
        stop = story.watch(steps.append)
        for _ in range(2):
            with pytest.raises(errors.CallError):
                run(colour, service.read("x"))
        stop()
        changed = [step for step in steps if isinstance(step, story.StateChanged)]
        assert [(step.service, step.before, step.after) for step in changed] == [("ledger", "closed", "open")]
        assert [step.part for step in steps if isinstance(step, story.Refused)] == ["breaker"]
        assert len({step.call for step in steps if step.call}) == 2

    def test_a_watcher_that_fails_is_dropped(self):
        """A fault in watching is no fault of the call; the watcher is told no more."""
        told = []

        def broken(step):
            told.append(step)
            raise ValueError("broken")

        stop = story.watch(broken)
        assert Script(200).service().read("x").result() == "b_1"
        stop()
        assert len(told) == 1
        assert not story.watchers

    def test_steps_are_json(self):
        """A step as a dictionary names its kind first and holds what it knows."""
        step = story.Retrying(
            at=1.0, service="ledger", operation="read", call=3, reason="answered 503", number=1, seconds=2
        )
        assert next(iter(step.to_dict().items())) == ("kind", "retry")
        assert step.to_dict()["seconds"] == 2


class TestOutcomes:
    def test_how_to_find_out(self):
        """An unknown outcome says how to learn what happened, by whether the key still makes a repeat safe."""
        with_key = errors.OutcomeUnknown("x", idempotency_key="k", retryable=True)
        too_old = errors.OutcomeUnknown("x", idempotency_key="k")
        bare = errors.OutcomeUnknown("x")
        assert "send the same Call again" in with_key.find_out
        assert "no longer knows" in too_old.find_out
        assert "look the object up" in bare.find_out
