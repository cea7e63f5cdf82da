"""Services that limit, and workers that call them, in simulated time: no sleep, no thread, the same run each time."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Generator
from typing import Any

from moorline.calls.limits import RateLimitHeaders
from moorline.policies.gate import Gate, Pass
from moorline.policies.rate import RateLimit

EPOCH = 1_800_000_000.0
Headers = dict[str, str]


class Answer:
    def __init__(self, status: int, headers: Headers) -> None:
        self.status, self.headers = status, headers

    def header(self, name: str, default: str | None = None) -> str | None:
        return self.headers.get(name, default)


class Server:
    """Lets *limit* calls in *window* seconds through; how it counts is the subclass's, how it says so is *dialect*."""

    def __init__(self, limit: int, window: float, dialect: str) -> None:
        self.limit, self.window, self.dialect = limit, window, dialect
        self.served = self.refused = 0

    def admit(self, now: float) -> bool:
        raise NotImplementedError

    def left(self, now: float) -> int:
        raise NotImplementedError

    def resets(self, now: float) -> float:
        raise NotImplementedError

    def opens(self, now: float) -> float:
        """Seconds until one more call passes."""
        return self.resets(now)

    def __call__(self, now: float) -> Answer:
        admitted = self.admit(now)
        self.served += admitted
        self.refused += not admitted
        headers = self.says(now)
        if not admitted:
            headers["retry-after"] = str(math.ceil(self.opens(now)))
        return Answer(200 if admitted else 429, headers)

    def says(self, now: float) -> Headers:
        left, resets = self.left(now), self.resets(now)
        if self.dialect == "x":
            reset = str(math.ceil(EPOCH + now + resets))
            return {
                "x-ratelimit-limit": str(self.limit),
                "x-ratelimit-remaining": str(left),
                "x-ratelimit-reset": reset,
            }
        if self.dialect == "ietf":
            policy = f'"default";q={self.limit};w={max(round(self.window), 1)}'
            return {"ratelimit": f'"default";r={left};t={math.ceil(resets)}', "ratelimit-policy": policy}
        return {}


class FixedWindow(Server):
    """Begins anew at each multiple of its window."""

    used, number = 0, -1

    def admit(self, now: float) -> bool:
        if int(now // self.window) != self.number:
            self.number, self.used = int(now // self.window), 0
        self.used += self.used < self.limit + 1
        return self.used <= self.limit

    def left(self, now: float) -> int:
        return max(self.limit - self.used, 0)

    def resets(self, now: float) -> float:
        return (self.number + 1) * self.window - now


class Quota(Server):
    """Lets its calls through once, and always says that the next are an hour away."""

    def admit(self, now: float) -> bool:
        return self.served < self.limit

    def left(self, now: float) -> int:
        return self.limit - self.served

    def resets(self, now: float) -> float:
        return 3600.0


class SlidingWindow(Server):
    """Counts the calls of the last window; its reset is when the oldest of them is forgotten."""

    def __init__(self, limit: int, window: float, dialect: str) -> None:
        super().__init__(limit, window, dialect)
        self.log: deque[float] = deque()

    def admit(self, now: float) -> bool:
        while self.log and self.log[0] <= now - self.window:
            self.log.popleft()
        if len(self.log) >= self.limit:
            return False
        self.log.append(now)
        return True

    def left(self, now: float) -> int:
        return self.limit - len(self.log)

    def resets(self, now: float) -> float:
        return self.log[0] + self.window - now


class ForgetfulWindow(SlidingWindow):
    """A sliding window whose reset is when it will be empty."""

    def resets(self, now: float) -> float:
        return self.log[-1] + self.window - now

    def opens(self, now: float) -> float:
        return self.log[0] + self.window - now


class Bucket(Server):
    """A bucket that is refilled at a steady rate; its reset is when it will be full."""

    def __init__(self, limit: int, window: float, dialect: str) -> None:
        super().__init__(limit, window, dialect)
        self.tokens, self.at = float(limit), 0.0

    def admit(self, now: float) -> bool:
        self.tokens = min(self.tokens + (now - self.at) * self.limit / self.window, self.limit)
        self.at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True

    def left(self, now: float) -> int:
        return int(self.tokens)

    def resets(self, now: float) -> float:
        return (self.limit - self.tokens) * self.window / self.limit

    def opens(self, now: float) -> float:
        return (1 - self.tokens) * self.window / self.limit


class DrippingBucket(Bucket):
    """A bucket whose reset is when its next token comes."""

    def resets(self, now: float) -> float:
        return max(1 - self.tokens % 1, 0.0) * self.window / self.limit


class World:
    """Workers in simulated time; ``run`` tells how many calls were served and refused."""

    def __init__(self, server: Server, *, gates: int = 1, wakes: bool = True, seed: int = 1, **gate: Any) -> None:
        self.now, self.server, self.wakes = 0.37, server, wakes
        self.random = random.Random(seed)
        self.limits = RateLimitHeaders()
        self.gates = [Gate(lambda: self.now, **gate) for _ in range(gates)]
        self.order = itertools.count()
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.passed: list[float] = []

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self.events, (self.now + seconds, next(self.order), act))

    def worker(self, gate: Gate, pause: float) -> Generator[Any, None, None]:
        yield self.random.random() * 0.05
        while True:
            held = None
            if not gate.free:
                held = gate.take(math.inf)
                while held.wait:
                    yield held
                    gate.again(held, math.inf)
            self.passed.append(self.now)
            yield self.random.uniform(0.01, 0.1)
            answer = self.server(self.now)
            yield self.random.uniform(0.01, 0.1)
            readings = self.limits.readings(answer, EPOCH + self.now)
            if answer.status == 429:
                gate.close(self.limits.asked_wait(answer, EPOCH + self.now) or 0.0)
                gate.limited(held, known=bool(readings))
            if held is not None or readings:
                gate.heed(readings, held)
            if pause:
                yield pause

    def run(self, seconds: float, workers: int = 50, pause: float = 0.0) -> Server:
        for number in range(workers):
            steps = self.worker(self.gates[number % len(self.gates)], pause)
            self.after(0.0, self._stepper(steps))
        while self.events and self.events[0][0] <= seconds:
            self.now, _, act = heapq.heappop(self.events)
            act()
        return self.server

    def _stepper(self, steps: Generator[Any, None, None]) -> Callable[[], None]:
        turn = itertools.count()
        awaited = [-1]

        def step() -> None:
            waits = next(steps)
            awaited[0] = number = next(turn)

            def resume() -> None:
                if awaited[0] == number:
                    awaited[0] = -1
                    step()

            if isinstance(waits, Pass):
                self.after(waits.wait, resume)
                if self.wakes:
                    waits.when_granted(lambda: self.after(0.0, resume))
            else:
                self.after(waits, resume)

        return step


def own(limit: int, per: float = 1.0, burst: int | None = None) -> RateLimit:
    return RateLimit(limit, per, burst)
