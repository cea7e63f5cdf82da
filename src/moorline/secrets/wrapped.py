"""Encryption keys that something else has wrapped: ``aws-kms:<key>:<ciphertext>``, ``vault-transit:<mount>/<key>:…``.

Such a key opens nothing by itself: a key service (AWS KMS, Vault's or OpenBao's Transit) unwraps it, once a process,
and what comes of that is kept in memory alone. Which module does it is found by the scheme, as ``moorline.registry``
finds services: the clients speak HTTP, so they stand above this room, which must not know them, and each is loaded only
where a key names it. Another package adds a scheme by an entry point of the group ``moorline.key_wrappers``.
"""

from __future__ import annotations

import asyncio
import base64
import importlib
import re
import threading
from collections.abc import Callable
from contextvars import copy_context
from importlib import metadata
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from moorline.errors import ConfigurationError, KeyUnavailable, MoorlineError
from moorline.secrets.secret import Secret

__all__ = ["GROUP", "DataKey", "Wrapped", "Wrapper", "unwrap", "wrap_new", "wrapper"]

T = TypeVar("T")

GROUP: Final = "moorline.key_wrappers"
_BUILT_IN: Final = {
    "aws-kms": "moorline.calls.key_management:KeyManagement",
    "vault-transit": "moorline.calls.transit:Transit",
}
_FORM: Final = re.compile(r"([a-z][a-z0-9+.-]*):(\S+)")
_KEY: Final = 32
_LONGEST: Final = 16_384

_unwrapped: dict[str, Secret] = {}


class DataKey(NamedTuple):
    """A new key: how it is written where it is kept (*wrapped*, without the scheme), and what it is."""

    wrapped: str
    plain: bytes

    def __repr__(self) -> str:
        return "<a data key>"


class Wrapper(Protocol):
    """A key service. Each method blocks, and raises MoorlineError. *key* names what wraps (an ARN, ``transit/app``);
    *wrapped* is what stands behind the scheme.
    """

    def new(self, key: str) -> DataKey:
        """A new data key of 32 bytes, wrapped by *key*."""
        ...

    def unwrap(self, wrapped: str) -> bytes:
        """The data key."""
        ...

    def rewrap(self, wrapped: str) -> str:
        """The same data key, wrapped by the newest version of what wraps it."""
        ...

    def wrapped_by(self, wrapped: str) -> str:
        """The *key* that wraps it, by its text alone. Raises ConfigurationError for what has not the form."""
        ...


class Wrapped(NamedTuple):
    """A wrapped key as it stands in the ring."""

    scheme: str
    rest: str

    @classmethod
    def read(cls, text: str) -> Wrapped | None:
        """*text* as a wrapped key; None where it is a plain one, which has no colon."""
        found = _FORM.fullmatch(text.strip())
        return None if found is None or len(text) > _LONGEST else cls(found[1], found[2])

    def __str__(self) -> str:
        return f"{self.scheme}:{self.rest}"

    @property
    def by(self) -> str:
        """What wraps it, with the scheme: ``aws-kms:arn:aws:kms:…``. Raises ConfigurationError."""
        return f"{self.scheme}:{wrapper(self.scheme).wrapped_by(self.rest)}"

    def rewrapped(self) -> Wrapped:
        """See ``Wrapper.rewrap``. Raises KeyUnavailable, ConfigurationError."""
        return Wrapped(self.scheme, _asked(self.by, lambda: wrapper(self.scheme).rewrap(self.rest)))


def wrapper(scheme: str) -> Wrapper:
    """What unwraps keys of that scheme. Raises ConfigurationError where nothing does."""
    if scheme in _BUILT_IN:
        module, _, name = _BUILT_IN[scheme].partition(":")
        found: Wrapper = getattr(importlib.import_module(module), name)()
        return found
    for point in metadata.entry_points(group=GROUP, name=scheme):
        made: Wrapper = point.load()()
        return made
    raise ConfigurationError(f"an encryption key is wrapped by {scheme!r}, which is none of {', '.join(_BUILT_IN)}")


def wrap_new(by: str) -> tuple[Wrapped, Secret]:
    """A new key that is wrapped by what *by* names (``aws-kms:alias/app``, ``vault-transit:transit/app``): as it is
    kept, and itself. Raises KeyUnavailable, ConfigurationError.
    """
    parts = Wrapped.read(by)
    if parts is None:
        raise ConfigurationError(f"what wraps a key is named as aws-kms:KEY or vault-transit:MOUNT/KEY, not {by!r}")
    made = _asked(by, lambda: wrapper(parts.scheme).new(parts.rest))
    wrapped = Wrapped(parts.scheme, made.wrapped)
    return wrapped, _kept(wrapped, made.plain)


def unwrap(wrapped: Wrapped) -> Secret:
    """The key itself, as a ring takes it: asked for once, and kept in memory.

    Raises KeyUnavailable, naming what should unwrap it, while that is down or refuses; ConfigurationError for what is
    no wrapped key.
    """
    known = _unwrapped.get(str(wrapped))  # without a lock: who comes at the same time asks too, and gets the same
    return known or _kept(wrapped, _asked(wrapped.by, lambda: wrapper(wrapped.scheme).unwrap(wrapped.rest)))


def _kept(wrapped: Wrapped, plain: bytes) -> Secret:
    if len(plain) != _KEY:
        raise ConfigurationError(f"{wrapped.by} gave a key of {len(plain)} bytes; an encryption key has {_KEY}")
    found = Secret(base64.urlsafe_b64encode(plain).decode("ascii"), name=f"the key that {wrapped.by} unwraps")
    _unwrapped[str(wrapped)] = found
    return found


def _asked(by: str, ask: Callable[[], T]) -> T:
    """What *ask* gives, in a thread where a loop runs in this one: applications are often imported on a loop."""
    try:
        return _in_thread(ask) if _on_loop() else ask()
    except ConfigurationError:
        raise
    except MoorlineError as error:
        raise KeyUnavailable(f"the encryption key that {by} wraps cannot be had: {error}") from error


def _in_thread(ask: Callable[[], T]) -> T:
    done: list[Any] = []

    def run() -> None:
        try:
            done.append((True, ask()))
        except BaseException as error:  # noqa: BLE001 (raised again in the thread that waits)
            done.append((False, error))

    thread = threading.Thread(target=copy_context().run, args=(run,), name="moorline-unwrap")
    thread.start()
    thread.join()
    good, found = done[0]
    if good:
        result: T = found
        return result
    raise found


def _on_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
