"""``Verification``: a token that is about to be verified, in either colour, as a Call is about to be sent."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from moorline.clock import Clock
from moorline.identity.keys import KeyCache
from moorline.identity.keyset import KeySet
from moorline.identity.tokens import Claims, Rules, proven, read

__all__ = ["Steps", "Verification", "Verifies", "Wanted", "checked"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Wanted:
    """The keys that a verification needs to go on."""

    cache: KeyCache
    key_id: str | None


Steps = Generator[Wanted, KeySet, T]
"""A verification, step by step: it asks for keys, and ends with what the token says."""


class Verification(Generic[T]):
    """``await`` it on a loop, or ``.result()`` blocking: what the token says, once it is verified.

    Nothing is sent unless the issuer's keys have to be fetched. Raises InvalidToken for a token that must not be
    believed, CallError where the keys cannot be had, Misuse for ``.result()`` on a loop that would have to wait.
    """

    __slots__ = ("_steps",)

    def __init__(self, steps: Callable[[], Steps[T]]) -> None:
        self._steps = steps

    def __await__(self) -> Generator[object, None, T]:
        return self._verified().__await__()

    async def _verified(self) -> T:
        steps = self._steps()
        try:
            wanted = next(steps)
            while True:
                wanted = steps.send(await wanted.cache.keys_async(wanted.key_id))
        except StopIteration as stop:
            verified: T = stop.value
            return verified

    def result(self) -> T:
        """Verify it, blocking where keys have to be fetched."""
        steps = self._steps()
        try:
            wanted = next(steps)
            while True:
                wanted = steps.send(wanted.cache.keys(wanted.key_id))
        except StopIteration as stop:
            verified: T = stop.value
            return verified


class Verifies(Protocol[T]):
    """Whoever can tell from a token who the user is: the services of the category ``auth``, or an object of yours."""

    def verify_token(self, token: str) -> Verification[T]:
        """The verification of a token that came with a request."""
        ...


def checked(
    token: str, keys: KeyCache | KeySet, rules: Rules, clock: Clock, *, nonce: str | None = None
) -> Steps[Claims]:
    """The steps by which a token is verified with the keys of one issuer. Raises InvalidToken."""
    unproven = read(token, rules)
    found = keys if isinstance(keys, KeySet) else (yield Wanted(keys, unproven.key_id))
    return proven(unproven, found, rules, now=clock.wall(), nonce=nonce)
