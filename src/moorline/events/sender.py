"""``Sender``: the record of a service that we receive events from, and do not call (yet)."""

from __future__ import annotations

from typing import ClassVar

from moorline.events.scheme import Scheme

__all__ = ["Sender"]


class Sender:
    """A service of which only the webhooks are known: its ``name``, its ``category``, where its facts stand (``docs``),
    and its scheme.
    """

    credentials: ClassVar[None] = None
    name: ClassVar[str]
    category: ClassVar[str]
    docs: ClassVar[str] = ""
    webhooks: ClassVar[Scheme]
