"""How often somebody may try to get in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from moorline.clock import ManualClock
from moorline.dashboard.attempts import Attempts

STEPS = st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.floats(0, 200)), max_size=60)


@given(STEPS)
def test_no_more_than_so_many_fail_in_any_stretch_of_time(steps: list[tuple[str, float]]) -> None:
    """By address and of all, whoever tries when; who waits as long as he is told may try again."""
    clock = ManualClock()
    attempts = Attempts(clock.monotonic, most=3, everywhere=5, seconds=300.0)
    failed: list[tuple[str, float]] = []
    for address, pause in steps:
        clock.advance(pause)
        now = clock.monotonic()
        recent = [one for one, at in failed if now - at < 300.0]
        allowed = recent.count(address) < 3 and len(recent) < 5
        assert (attempts.wait(address) == 0) == allowed
        if allowed:
            attempts.failed(address)
            failed.append((address, now))


def test_addresses_of_one_network_are_one() -> None:
    """A customer has 2⁶⁴ addresses of IPv6; an IPv4 address is the same in either spelling; forgetting is bounded."""
    attempts = Attempts(ManualClock().monotonic, most=1, everywhere=100_000)
    attempts.failed("2001:db8:0:1::1%eth0")
    attempts.failed("::ffff:192.0.2.1")
    attempts.failed("unknown")
    waits = {one: attempts.wait(one) > 0 for one in ("2001:db8:0:1:ffff::2", "2001:db8:0:2::1", "192.0.2.1", "unknown")}
    assert waits == {"2001:db8:0:1:ffff::2": True, "2001:db8:0:2::1": False, "192.0.2.1": True, "unknown": True}
    for number in range(10_050):
        attempts.failed(f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}")
    assert len(attempts._by) == 10_000
