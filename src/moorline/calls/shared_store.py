"""The store behind shared state: one Redis or Valkey, asked by one thread for all calls of the process.

A call leaves its question and waits for the answer, at most ``patience`` seconds; meanwhile the questions of other
calls gather and go in the same round trip. So one connection serves both colours, and whatever the server or the
network do, a call knows after that time that local state has to decide alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from moorline import telemetry
from moorline.calls import story
from moorline.clock import SYSTEM, Clock
from moorline.errors import ConfigurationError
from moorline.policies.bulkhead import Wake

if TYPE_CHECKING:
    import redis

__all__ = ["Message", "Question", "SharedStore"]

Message = dict[str, Any]
"""What is told or asked: its deed under ``do``, its facts, and under ``keys`` the parts of the state it is about."""

_log: Final = telemetry.logger("calls")
_SCHEMES: Final = {"redis": "redis", "rediss": "rediss", "unix": "unix", "valkey": "redis", "valkeys": "rediss"}
_MOST: Final = 256  # messages in one round trip
_MOST_TOLD: Final = 10_000  # waiting to be told; more is forgotten, the oldest first
_LINGER: Final = 0.25  # seconds that what is not urgent waits for a question to ride with
_SOCKET: Final = 1.0  # seconds for connecting, and for an answer
_LONGEST_PAUSE: Final = 5.0  # seconds between attempts to find it again


class Question:
    """A message whose answer a call waits for, as for a ticket of the bulkhead. ``answer`` is None where none came.

    *undone* makes the messages that take an answer back which came when nobody waited for it any longer.
    """

    __slots__ = ("_lock", "_undone", "_wake", "abandoned", "answer", "granted", "message")

    def __init__(self, message: Message, undone: Callable[[Message], list[Message]] | None = None) -> None:
        self.message = message
        self.answer: Message | None = None
        self.granted = False
        self.abandoned = False
        self._undone = undone
        self._wake: Wake | None = None
        self._lock = threading.Lock()

    def when_granted(self, wake: Wake) -> None:
        """Call *wake* as soon as there is an answer or none will come; at once if it is so."""
        with self._lock:
            if not self.granted:
                self._wake = wake
                return
        wake()

    def abandon(self) -> list[Message]:
        """Nobody waits any longer. Returns what takes back an answer that has come nevertheless."""
        with self._lock:
            self.abandoned = True
            return self._taken_back()

    def answered(self, answer: Message | None) -> list[Message]:
        """Here is the answer. Returns what takes it back, where nobody waits for it."""
        with self._lock:
            self.answer = answer
            self.granted = True
            if self.abandoned:
                return self._taken_back()
            wake, self._wake = self._wake, None
        return self.abandon() if wake is not None and wake() is False else []

    def _taken_back(self) -> list[Message]:
        return [] if self.answer is None or self._undone is None else self._undone(self.answer)


class SharedStore:
    """One server, by its URL: ``redis://``, ``rediss://`` (TLS), ``unix://``, or the same with ``valkey``. *patience*
    is how many seconds a call waits for an answer.

    ``up`` tells whether it is worth asking. It begins so, ends with the first question that gets no answer in time, and
    begins again when the server answers a ping as fast as that. The time is the server's, unless a *clock* gives it.

    Raises ConfigurationError, without the URL, which may hold a password.
    """

    def __init__(self, url: str, *, patience: float = 0.05, clock: Clock = SYSTEM) -> None:
        scheme, separator, rest = url.partition("://")
        if not separator or scheme not in _SCHEMES or not rest:
            known = ", ".join(f"{known}://" for known in _SCHEMES)
            raise ConfigurationError(f"the URL of shared state must begin with one of {known}")
        self.where = f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"
        self.patience = patience
        self._clock = clock
        self.up = True
        self._url = f"{_SCHEMES[scheme]}://{rest}"
        self._thread: threading.Thread | None = None
        self._client: redis.Redis | None = None
        self._connected()
        self._forget()
        _all.add(self)

    def __repr__(self) -> str:
        return f"<SharedStore {self.where} {'up' if self.up else 'down'}>"

    def same(self, other: SharedStore) -> bool:
        """Whether both are the same server, database and user."""
        return self._url == other._url

    # For calls -------------------------------------------------------------------------------------------------------

    def ask(self, question: Question) -> None:
        """Send it with the next round trip. Who waits for it uses ``when_granted``."""
        with self._news:
            self._questions.append(question)
            self._run()
            self._news.notify()

    def unheard(self, question: Question) -> None:
        """No answer came in time: local state decides, for all calls, until the server answers again."""
        self.given_up(question)
        self._gone(f"no answer within {self.patience:g} s")

    def given_up(self, question: Question) -> None:
        """Who asked was cancelled."""
        for message in question.abandon():
            self.tell(message)

    def tell(self, message: Message) -> None:
        """Let all processes know at once, without waiting for it. Forgotten while the server is away."""
        if not self.up:
            return
        with self._news:
            self._told.append(message)
            self._run()
            self._news.notify()

    def count(self, message: Message, *, slow: bool) -> None:
        """One more good answer of which *message* tells: they are added up, and told with the next question."""
        if not self.up:
            return
        name = message["keys"]["breaker"], message["generation"], message["slow"]
        with self._news:
            known = self._counts.get(name)
            if known is None:
                known = self._counts[name] = message
                if len(self._counts) == 1:
                    self._run()
                    self._news.notify()  # so that it is told even when no question comes
            known["calls"] += 1
            known["slowed"] += slow

    def close(self) -> None:
        """Tell what is left, and end the thread and the connection. A later question begins anew."""
        with self._news:
            thread, self._thread = self._thread, None
            self._news.notify()
        if thread is not None:
            thread.join(2 * _SOCKET)

    # The thread ------------------------------------------------------------------------------------------------------

    def _forget(self) -> None:
        """Begin anew; in a forked child the thread, the lock and the connection are the parent's."""
        self._news = threading.Condition(threading.Lock())
        self._questions: deque[Question] = deque()
        self._told: deque[Message] = deque(maxlen=_MOST_TOLD)
        self._counts: dict[tuple[str, float, float | None], Message] = {}
        self._thread = None
        self._client = None

    def _run(self) -> None:
        """Have a thread; under the lock."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="moorline-shared-state", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        me = threading.current_thread()
        while True:
            questions, told = self._next(me)
            if self._thread is not me and not questions and not told:
                break
            waiting = [question for question in questions if not question.abandoned]
            try:
                answers = self._sent([*told, *(question.message for question in waiting)])[len(told) :]
            except Exception as error:  # noqa: BLE001 (whatever the server or the library does, calls go on)
                self._lost(error, waiting)
                self._find_again(me)
            else:
                for question, answer in zip(waiting, answers, strict=True):
                    for message in question.answered(answer):
                        self.tell(message)
                if not self.up:  # it answered, but too late for who asked
                    self._find_again(me)
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _next(self, me: threading.Thread) -> tuple[list[Question], list[Message]]:
        """What to send: questions as soon as there are any, and all that waits to be told with them."""
        with self._news:
            while not self._questions and not self._told and self._thread is me:
                lingering = bool(self._counts)
                if not self._news.wait(_LINGER if lingering else None) and lingering:
                    break
            told = [self._told.popleft() for _ in range(min(len(self._told), _MOST))]
            told += self._counts.values()
            self._counts = {}
            questions = [self._questions.popleft() for _ in range(min(len(self._questions), _MOST))]
        return questions, told

    def _sent(self, messages: Sequence[Message]) -> list[Message | None]:
        """The answers, each in its message's place: one script for each service, all in one round trip."""
        if not messages:
            return []
        from redis.exceptions import NoScriptError

        services: dict[str, list[int]] = {}
        for place, message in enumerate(messages):
            services.setdefault(message["keys"]["service"], []).append(place)
        scripts = [_script([messages[place] for place in places]) for places in services.values()]
        client = self._client = self._client or self._connected()
        text, digest = _lua()
        now = "" if self._clock is SYSTEM else repr(self._clock.monotonic())
        with client.pipeline(transaction=False) as pipeline:
            for keys, body in scripts:
                pipeline.evalsha(digest, len(keys), *keys, body, now)
            found = pipeline.execute(raise_on_error=False)
        answers: list[Message | None] = [None] * len(messages)
        for (keys, body), places, answer in zip(scripts, services.values(), found, strict=True):
            if isinstance(answer, NoScriptError):  # it was started anew
                answer = client.eval(text, len(keys), *keys, body, now)  # noqa: PLW2901
            if isinstance(answer, Exception):
                raise answer
            for place, one in zip(places, json.loads(answer), strict=True):
                answers[place] = one
        return answers

    def _connected(self) -> redis.Redis:
        """A client, which connects at its first question."""
        try:
            import redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry
        except ImportError as error:
            raise ConfigurationError("shared state needs redis-py; pip install 'moorline[redis]'") from error
        try:
            return redis.Redis.from_url(
                self._url,
                socket_timeout=_SOCKET,
                socket_connect_timeout=_SOCKET,
                retry=Retry(NoBackoff(), 0),  # the state of a moment ago is worth nothing
                client_name="moorline",
                protocol=2,
                max_connections=1,
            )
        except (ValueError, TypeError):
            raise ConfigurationError(f"the URL of shared state at {self.where} cannot be read") from None

    # When it is gone -------------------------------------------------------------------------------------------------

    def _lost(self, error: Exception, waiting: Sequence[Question]) -> None:
        self._gone(f"{type(error).__name__}: {str(error)[:200]}")
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(Exception):
                client.close()
        for question in waiting:
            question.answered(None)

    def _find_again(self, me: threading.Thread) -> None:
        """Ping until it answers in time; meanwhile nobody asks, and what was to be told is forgotten."""
        pause = self.patience
        while self._thread is me:
            with self._news:
                self._told.clear()
                self._counts.clear()
                questions = list(self._questions)
                self._questions.clear()
            for question in questions:
                question.answered(None)
            with self._news:
                if self._thread is me:
                    self._news.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            try:
                client = self._client = self._client or self._connected()
                client.ping()
                begun = time.monotonic()
                client.ping()
                if time.monotonic() - begun < self.patience:
                    self._back()
                    return
            except Exception:  # noqa: BLE001, S110 (it is still gone)
                pass

    def _gone(self, reason: str) -> None:
        if self.up:
            self.up = False
            _log.warning("shared_state_lost", where=self.where, reason=reason, instead="each process by itself")
            story.changed("shared state", self.where, SYSTEM.wall(), "up", "away", reason)

    def _back(self) -> None:
        self.up = True
        _log.info("shared_state_back", where=self.where)
        story.changed("shared state", self.where, SYSTEM.wall(), "away", "up", "it answers in time again")


def _script(messages: Sequence[Message]) -> tuple[list[str], str]:
    """The keys that they name, and the messages with the numbers of those keys."""
    keys: dict[str, int] = {}
    numbered = []
    for message in messages:
        facts = {name: fact for name, fact in message.items() if name != "keys"}
        for name, key in message["keys"].items():
            if name != "service":
                facts[name] = keys.setdefault(key, len(keys) + 1) if key else 0
        numbered.append(facts)
    return list(keys), json.dumps(numbered)


@cache
def _lua() -> tuple[str, str]:
    """The script and the name that the server gives it."""
    import hashlib

    text = resources.files("moorline.calls").joinpath("shared.lua").read_text("utf-8")
    return text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


_all: Final[weakref.WeakSet[SharedStore]] = weakref.WeakSet()


def _forget_all() -> None:
    for store in list(_all):
        store._forget()  # noqa: SLF001 (of this module)


os.register_at_fork(after_in_child=_forget_all)
