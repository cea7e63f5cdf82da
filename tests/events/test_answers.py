"""Functions that answer the sender, and never stand in its way."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from moorline import Moorline
from moorline.errors import ConfigurationError
from moorline.events import Event, Reply
from moorline.events.answers import Answers
from moorline.services import GitHub, Stripe


def event(type: str = "push", action: str | None = None) -> Event:
    return Event("github", "1", type, b"{}", action=action)


@pytest.mark.parametrize(
    ("value", "reply"),
    [
        ("text", Reply(200, b"text", "text/plain; charset=utf-8")),
        (b"\x00", Reply(200, b"\x00", "application/octet-stream")),
        ({"a": [1]}, Reply(200, b'{"a":[1]}', "application/json")),
        ([1], Reply(200, b"[1]", "application/json")),
        (Reply(201, b"<Response/>", "text/xml"), Reply(201, b"<Response/>", "text/xml")),
        (None, None),
        (object(), None),
        ({"a": object()}, None),
        (True, None),
    ],
)
@pytest.mark.parametrize("plain", [False, True])
async def test_what_the_function_returns_is_the_answer(value: object, reply: Reply | None, plain: bool):
    """Text, bytes, JSON or a whole Reply; None and what cannot be sent leave it to the scheme."""
    answers = Answers()

    def in_thread(event: Event) -> object:
        assert threading.current_thread() is not threading.main_thread()
        return value

    async def on_loop(event: Event) -> object:
        return value

    answers.on(GitHub, "push")(in_thread if plain else on_loop)
    assert await answers.answered(event()) == reply


async def test_the_finest_pattern_answers():
    """Type and action before type before all; other events have no answer."""
    answers = Answers()
    for pattern in ("*", "push", "push.made"):
        answers.on(GitHub, pattern)(lambda event, pattern=pattern: pattern)
    found = [await answers.answered(one) for one in (event("ping"), event(), event("push", "made"))]
    assert [reply.body for reply in found if reply] == [b"*", b"push", b"push.made"]
    assert await answers.answered(Event("stripe", "1", "push", b"{}")) is None


class Wordless(BaseException):
    """No Exception, and without a text."""

    def __str__(self) -> str:
        raise self


@pytest.mark.parametrize(
    "error",
    [ValueError("no"), TimeoutError("theirs"), asyncio.CancelledError("itself"), SystemExit(1), Wordless()],
)  # fmt: skip
@pytest.mark.parametrize("plain", [False, True])
async def test_a_function_that_fails_leaves_it_to_the_scheme(error: BaseException, plain: bool):
    """Whatever it raises, the caller hears nothing of it."""
    answers = Answers()

    def in_thread(event: Event) -> None:
        raise error

    async def on_loop(event: Event) -> None:
        raise error

    answers.on(GitHub)(in_thread if plain else on_loop)
    assert await answers.answered(event()) is None


async def test_a_late_function_is_not_waited_for():
    """One that resists its cancellation neither; the time is kept to within a little."""
    answers = Answers(at_once=2)
    ended = asyncio.Event()

    @answers.on(GitHub, within=0.02)
    async def stubborn(event: Event) -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0.1)
        ended.set()
        return "late"

    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await answers.answered(event()) is None
    assert loop.time() - began < 0.1
    await asyncio.wait_for(ended.wait(), 5)


async def test_too_many_at_once_are_left_to_the_scheme_and_a_slot_is_free_again_after_its_end():
    """A thread that is stuck keeps its slot, whoever has stopped waiting for it."""
    answers = Answers(at_once=1)
    release, seen = threading.Event(), []

    @answers.on(GitHub, within=0.02)
    def slow(event: Event) -> str:
        seen.append(event)
        release.wait(10)
        return "done"

    assert [await answers.answered(event()) for _ in range(3)] == [None] * 3
    assert len(seen) == 1
    release.set()
    async with asyncio.timeout(5):
        while (reply := await answers.answered(event())) is None:  # noqa: ASYNC110 -- a thread's end wakes nobody
            await asyncio.sleep(0.005)
    assert reply.body == b"done"


async def test_the_callers_cancellation_passes_through():
    """A server that gives up the request is not held."""
    answers = Answers(at_once=1)
    started = asyncio.Event()

    @answers.on(GitHub)
    async def waits(event: Event) -> None:
        started.set()
        await asyncio.Event().wait()

    asked = asyncio.create_task(answers.answered(event()))
    await asyncio.wait_for(started.wait(), 5)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    await asyncio.sleep(0)
    assert answers._slots.acquire(blocking=False)


def test_a_pattern_has_one_answering_function():
    """Two could not both be the answer; the same one again is harmless."""
    app = Moorline("sqlite:///x.db")

    @app.answer(GitHub, "push")
    def first(event: Event) -> None: ...

    app.answer(GitHub, "push")(first)
    app.answer(Stripe, "push")(len)
    with pytest.raises(ConfigurationError, match="first"):
        app.answer(GitHub, "push")(len)
    assert len(app.answers) == 2


@pytest.mark.parametrize(
    ("argument", "options"),
    [("service", {"service": "none_such"}), ("type", {"type": "a.*"}), ("within", {"within": 0}), ("within", {"within": 31})],
)  # fmt: skip
def test_a_bad_argument_is_named(argument: str, options: dict[str, Any]):
    """When the function is registered."""
    with pytest.raises(ConfigurationError, match=argument):
        Answers().on(**({"service": GitHub} | options))(len)
    with pytest.raises(ConfigurationError, match="function"):
        Answers().on(GitHub)(5)  # type: ignore[type-var]


@pytest.mark.parametrize(
    "wrong",
    [{"status": 302}, {"status": 410}, {"status": 100}, {"body": "text"}, {"media": "a\r\nb"}, {"headers": (("a", "b\n"),)}],
)  # fmt: skip
def test_a_reply_that_cannot_be_sent_is_refused(wrong: dict[str, Any]):
    """No redirect, no 'gone', no header that could be two."""
    with pytest.raises(ConfigurationError):
        Reply(**wrong)


@pytest.mark.parametrize("steps", range(5))
async def test_what_was_cancelled_before_it_began_gives_its_place_back(steps: int, monkeypatch: pytest.MonkeyPatch):
    """Else a process whose senders leave early would answer nobody after a while."""
    answers = Answers(at_once=1)
    answers.on(GitHub)(lambda _: "pong")

    async def no_thread_is_free(*_: object) -> None:
        await asyncio.Event().wait()

    with monkeypatch.context() as patched:
        patched.setattr(answers._threads, "run", no_thread_is_free)
        task = asyncio.ensure_future(answers.answered(event()))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    reply = await answers.answered(event())
    assert reply is not None
    assert reply.body == b"pong"
