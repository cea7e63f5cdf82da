"""What is kept of a source: single flight, fetched anew before it is too old, good while the source is down."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tests.secrets.places import Told, among, texts

from moorline.clock import ManualClock
from moorline.errors import ConfigurationError, SecretUnavailable
from moorline.policies.deadline import deadline, remaining
from moorline.secrets import sources
from moorline.secrets.locker import SecretAt, Secrets
from moorline.secrets.secret import Secret
from moorline.secrets.sources.base import Address, Content

DOWN = SecretUnavailable("told: it is down")


def test_it_is_asked_once_and_again_before_its_time_is_over():
    """Calls get what is known, the same objects; a change is there after the next fetch."""
    clock, place = ManualClock(), Told(KEY="first-value")
    held = among(place, clock)
    found = held.versions("KEY")
    assert [(one.secret.reveal(), one.id, one.origin) for one in found] == [("first-value", "1", "told:#KEY@1")]
    clock.advance(60)
    held.tend()
    assert held.versions("KEY") is found
    assert place.fetches == 1
    place.put(KEY="second-value")
    clock.advance(15)  # three quarters of the hundred seconds
    held.tend()
    assert place.fetches == 2
    assert texts(held.load_all("KEY")) == ["second-value"]
    clock.advance(75)
    held.tend()
    again = held.versions("KEY")
    assert again is held.versions("KEY")
    assert place.fetches == 3


def test_what_can_be_watched_is_fetched_when_it_changes():
    """A look each second costs no fetch."""
    clock, place = ManualClock(), Told(KEY="first-value")
    held = among(place, clock)
    held.load("KEY")
    place.put(KEY="second-value")
    place.mark = "changed"
    held.tend()
    assert texts(held.load_all("KEY")) == ["first-value"]
    clock.advance(1)
    held.tend()
    assert texts(held.load_all("KEY")) == ["second-value"]
    assert place.fetches == 2


def test_while_a_source_is_down_the_last_good_value_is_used_up_to_a_limit(caplog: pytest.LogCaptureFixture) -> None:
    """With a warning now and then; after the limit asking is an error that names the place; it mends by itself."""
    clock, place = ManualClock(), Told(KEY="good-value-1")
    held = among(place, clock, keep=1000.0)
    held.load("KEY")
    place.failure = DOWN
    with caplog.at_level("INFO"):
        for _ in range(90):
            clock.advance(10)
            held.tend()
            assert texts(held.load_all("KEY")) == ["good-value-1"]
        warned = [one.getMessage() for one in caplog.records if "secret_source_down" in one.getMessage()]
        assert 5 < len(warned) <= 15
        assert "told:#KEY" in warned[0]
        assert "good-value-1" not in caplog.text
        fetches = place.fetches
        assert fetches < 25  # it is not stormed while it is down
        clock.advance(101)
        held.tend()
        with pytest.raises(SecretUnavailable, match=r"told:#KEY: it could not be read for 10\d\d s.*it is down"):
            held.load("KEY")
        place.failure = None
        clock.advance(60)
        held.tend()
        assert texts(held.load_all("KEY")) == ["good-value-1"]


def test_a_failure_at_first_is_that_of_all_who_ask_for_a_while():
    """Nobody waits again for what just failed; then one tries again."""
    clock, place = ManualClock(), Told(KEY="good-value-1")
    place.failure = DOWN
    held = among(place, clock)
    for _ in range(5):
        with pytest.raises(SecretUnavailable, match="it is down"):
            held.load("KEY")
    assert place.fetches == 1
    place.failure = None
    clock.advance(5)
    assert texts(held.load_all("KEY")) == ["good-value-1"]


def test_an_error_of_a_library_shows_nothing_of_its_text():
    """What it says may hold what it has read."""
    place = Told()
    place.failure = RuntimeError("cannot parse good-value-1")
    with pytest.raises(SecretUnavailable, match=r"told:#KEY: it cannot be read \(RuntimeError\)") as caught:
        among(place).load("KEY")
    assert "good-value" not in str(caught.value)


def test_what_is_gone_is_believed_at_the_second_look(caplog: pytest.LogCaptureFixture) -> None:
    """Files are replaced by taking them away first. What was never there is looked for again soon."""
    clock, place = ManualClock(), Told(KEY="good-value-1")
    held = among(place, clock)
    held.load("KEY")
    kept, place.contents = place.contents, {}
    clock.advance(75)
    held.tend()
    assert texts(held.load_all("KEY")) == ["good-value-1"]
    place.contents = kept
    clock.advance(5)
    held.tend()
    assert texts(held.load_all("KEY")) == ["good-value-1"]
    place.contents = {}
    for seconds in (75, 5):
        clock.advance(seconds)
        held.tend()
    assert held.load("KEY") is None
    assert [one for one in caplog.records if "secret_removed" in one.getMessage()]
    place.contents = kept
    clock.advance(30)
    held.tend()
    assert texts(held.load_all("KEY")) == ["good-value-1"]


def test_all_who_ask_at_once_wait_for_one_fetch():
    """Single flight, while nothing is known; later nobody waits."""
    place = Told(KEY="good-value-1")
    place.gate = threading.Event()
    held = among(place)
    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(held.load, "KEY") for _ in range(8)]
        assert place.begun.wait(20)
        place.gate.set()
        assert {one.result(20) for one in asked} == {Secret("good-value-1")}
    assert place.fetches == 1


def test_nobody_waits_for_a_fetch_while_a_value_is_known():
    """It happens elsewhere."""
    place = Told(KEY="good-value-1")
    held = among(place)
    held.load("KEY")
    place.gate = threading.Event()
    place.begun.clear()
    thread = threading.Thread(target=held.refresh, args=("KEY",))
    thread.start()
    assert place.begun.wait(20)
    assert texts(held.load_all("KEY")) == ["good-value-1"]
    place.gate.set()
    thread.join(20)


def test_a_thread_of_its_own_fetches_anew():
    """It begins with the first question, and ends with ``close``."""
    place = Told(KEY="good-value-1")
    held = Secrets()
    held.configure(["told:"], ttl=0.05)
    held.attach(place)
    assert held.load("KEY")
    place.begun.clear()
    place.put(KEY="good-value-2")
    assert place.begun.wait(20)
    threads = [one for one in threading.enumerate() if one.name == "moorline-secrets-told"]
    assert threads
    assert all(one.daemon for one in threads)
    held.close()
    for one in threads:
        one.join(20)
        assert not one.is_alive()


def test_on_an_event_loop_the_first_question_is_asked_in_a_thread():
    """A source may use what blocks, which is not allowed on a loop."""
    place = Told(KEY="good-value-1")
    held = among(place)
    loops: list[Any] = []

    def fetch(unit: str, fetch: Any = place.fetch) -> Any:
        try:
            loops.append(asyncio.get_running_loop())
        except RuntimeError:
            loops.append(None)
        return fetch(unit)

    place.fetch = fetch  # type: ignore[method-assign]

    async def ask() -> str:
        found = held.load("KEY")
        assert found is not None
        return found.reveal()

    assert asyncio.run(ask()) == "good-value-1"
    assert loops == [None]


def test_the_deadline_of_one_who_asks_is_not_that_of_the_fetch():
    """What fails for want of time would be the failure of all."""
    place = Told(KEY="good-value-1")
    held = among(place)
    left: list[float | None] = []
    fetch = place.fetch

    def fetched(unit: str) -> Sequence[Content]:
        left.append(remaining())
        return fetch(unit)

    place.fetch = fetched  # type: ignore[method-assign]
    with deadline(0.5):
        assert remaining() is not None
        held.load("KEY")
    assert left == [None]


def test_a_source_is_not_asked_for_what_it_needs_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own key is looked for in the others."""
    monkeypatch.setenv("OWN_KEY", "of-the-environment")
    seen: list[Secret] = []

    class Needy(Told):
        def fetch(self, unit: str) -> Any:
            seen.extend(held.load_all("OWN_KEY"))
            return super().fetch(unit)

    place = Needy(KEY="good-value-1", OWN_KEY="of-itself")
    held = among(place)
    held.configure(["told:", "env:"])
    assert texts(held.load_all("KEY")) == ["good-value-1"]
    assert texts(seen) == ["of-the-environment"]
    assert texts(held.load_all("OWN_KEY")) == ["of-itself"]


def test_check_names_all_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key, what it is for, and where it was looked for."""
    monkeypatch.delenv("A_KEY", raising=False)
    place = Told(KEY="good-value-1")
    held = among(place)
    held.configure(["env:", "told:"], {"B_KEY": "told:#elsewhere"})
    held.check({"KEY": "stripe"})
    with pytest.raises(ConfigurationError) as caught:
        held.check({"A_KEY": "stripe", "B_KEY": "github", "KEY": ""})
    assert str(caught.value) == (
        "A_KEY (stripe) is not in the environment or told:#A_KEY; B_KEY (github) is not in told:#elsewhere"
    )
    place.failure = DOWN
    with pytest.raises(ConfigurationError, match=r"C_KEY \(mail\) cannot be had: told: it is down"):
        held.check({"C_KEY": "mail"})


@pytest.mark.parametrize("url", ["nothing", "vault", ":x", "Vault:x", "env:#"])
def test_what_is_no_url_is_named(url: str) -> None:
    """When it is configured."""
    with pytest.raises(ConfigurationError, match=url):
        Secrets().configure([url])
    with pytest.raises(ConfigurationError, match=url):
        SecretAt(url)


def test_an_unknown_kind_of_source_names_those_that_there_are():
    """When it is asked for the first time."""
    held = Secrets()
    held.configure(["azure:x"])
    with pytest.raises(ConfigurationError, match=r"azure.*known: env:, dotenv:, file:"):
        held.load("KEY")
    with pytest.raises(ConfigurationError, match="azure"):
        held.check({})
    with pytest.raises(ConfigurationError, match="belongs to a name"):
        held.configure(["told:x#y"])


def test_a_source_of_another_package_is_known_by_its_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    """By an entry point of the group ``moorline.secret_sources``."""

    class Elsewhere(Told):
        scheme = "elsewhere"

        def __init__(self, address: Address, *, whole: bool = False) -> None:
            super().__init__(KEY=f"of {address.path}, {whole}")

    class Point:
        def load(self) -> type[Elsewhere]:
            return Elsewhere

    monkeypatch.setattr(sources, "_foreign", lambda: {"elsewhere": Point()})
    sources.kind.cache_clear()
    held = Secrets(background=False)
    held.configure(["elsewhere:there"], {"OTHER": "elsewhere:else#KEY"})
    assert texts([*held.load_all("KEY"), *held.load_all("OTHER")]) == ["of there, False", "of else, False"]
    assert "elsewhere" in sources.known()
    sources.kind.cache_clear()


def test_a_value_that_is_too_large_is_named():
    """And what is beside it is there."""
    place = Told(KEY="x")
    place.contents["KEY"] = (Content("2", text="x" * 70_000), Content("1", "previous", text="old-value-1"))
    held = among(place)
    with pytest.raises(ConfigurationError, match=r"KEY is larger than 65536 bytes \(in told:#KEY\)"):
        held.load("KEY")
    assert [one.secret.reveal() for one in held.versions("KEY")] == ["old-value-1"]


def test_a_secret_at_a_url_is_asked_anew_when_told():
    """``source(…)`` in place of a key: ``refresh`` fetches at once, for all who use it."""
    place = Told(one="good-value-1")
    held = among(place)
    key = SecretAt("told:#one", among=held)
    assert repr(key) == "<SecretAt told:#one>"
    assert key().reveal() == "good-value-1"
    place.put(one="good-value-2")
    assert key().reveal() == "good-value-1"
    key.refresh()
    assert key().reveal() == "good-value-2"
    assert [one.secret.reveal() for one in key.versions()] == ["good-value-2"]
    with pytest.raises(ConfigurationError, match="there is no secret at told:#two"):
        SecretAt("told:#two", among=held)()


def test_a_forked_process_goes_on():
    """Its threads are its own; what was known is known."""
    place = Told(KEY="good-value-1")
    held = Secrets()
    held.configure(["told:"], ttl=30)
    held.attach(place)
    held.load("KEY")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        held.refresh("KEY")
        alive = [one.name for one in threading.enumerate()]
        known = held.load("KEY")
        os.write(writer, f"{known.reveal() if known else ''} {'moorline-secrets-told' in alive}".encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 100) == b"good-value-1 True"
    held.close()


class Outages(RuleBasedStateMachine):
    """Whatever a source does: a good value that is not too old is always given, and never one that was never there."""

    def __init__(self) -> None:
        super().__init__()
        self.clock, self.place = ManualClock(), Told(KEY="value-0000")
        self.held = among(self.place, self.clock, keep=500.0)
        self.number = 0
        self.held.load("KEY")
        self.good_at = self.clock.monotonic()
        self.last = "value-0000"

    @rule()
    def changes(self) -> None:
        self.number += 1
        self.place.put(KEY=f"value-{self.number:04}")
        self.place.mark = self.number

    @rule(down=st.booleans())
    def goes_down_or_up(self, down: bool) -> None:
        self.place.failure = DOWN if down else None

    @rule(seconds=st.integers(1, 200))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds)
        before = self.place.fetches
        self.held.tend()
        if self.place.fetches > before and self.place.failure is None:
            self.good_at = self.clock.monotonic()
            self.last = f"value-{self.number:04}"

    @rule()
    def is_refreshed(self) -> None:
        self.held.refresh("KEY")
        if self.place.failure is None:
            self.good_at = self.clock.monotonic()
            self.last = f"value-{self.number:04}"

    @invariant()
    def gives_the_last_good_value(self) -> None:
        age = self.clock.monotonic() - self.good_at
        try:
            assert texts(self.held.load_all("KEY")) == [self.last]
        except SecretUnavailable:
            assert age >= 500


Outages.TestCase.settings = settings(max_examples=40, stateful_step_count=25)
TestOutages = Outages.TestCase


def test_nothing_of_a_value_is_shown_by_what_holds_it():
    """Contents, sources and what is kept are safe to print."""
    content = Content("1", text="good-value-1", fields={"a": "good-value-2"})
    assert "good-value" not in repr(content)
    place = Told(KEY="good-value-1")
    held = among(place)
    held.load("KEY")
    assert "good-value" not in repr([place, held, held.versions("KEY"), *held._kept.values()])
