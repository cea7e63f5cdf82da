"""What makes two requests the same: for coalescing, for the cache and for last good answers."""

from __future__ import annotations

import os
from collections.abc import Iterable
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from moorline.calls.sending import ServiceRequest

__all__ = ["identity", "place"]

_SIZE: Final = 24
_SALT: Final = os.urandom(32)  # so that what is kept tells nothing of a credential, not even to who can guess it


def identity(request: ServiceRequest, tenant: str | None) -> bytes:
    """A digest of all that could change the answer: method, URL, every header (the credential among them), body,
    and the tenant.

    The whole of the headers is in it, so that an answer is never given to another credential, nor to another variant
    of a request whose service forgot to say ``Vary``.
    """
    named = sorted((name.lower(), text) for name, text in request.headers.items())
    return _digest((request.method, request.url, tenant, named), request.body or b"")


def place(request: ServiceRequest, credential: Iterable[str], tenant: str | None) -> bytes:
    """A digest of the address and of who asks: what a write to the same address makes outdated."""
    return _digest((request.url.partition("?")[0], tenant, *credential))


def _digest(parts: tuple[object, ...], body: bytes = b"") -> bytes:
    # The text of a tuple says itself where it ends, so nothing can be moved from one part to the next.
    return blake2b(repr(parts).encode() + body, key=_SALT, digest_size=_SIZE).digest()
