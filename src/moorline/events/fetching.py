"""The only requests that receiving makes: certificates, and confirmations of subscriptions.

Addresses were checked by the scheme before; no redirects are followed, what comes back is bounded, and it passes
through the same pipeline as every call (named ``webhooks``: a retry, a breaker).
"""

from __future__ import annotations

from typing import Final

from moorline.errors import BadAnswer
from moorline.events.certificates import MAX_PEM
from moorline.policies.policy import Policy
from moorline.policies.retry import Retry

__all__ = ["fetch", "fetch_sync"]

_POLICY: Final = Policy(deadline=5.0, attempt_timeout=3.0, retry=Retry(retries=1, base=0.2))
_OK: Final = 200


async def fetch(url: str) -> bytes:
    """The body of a 200 to a GET, at most ``MAX_PEM`` bytes of it. Raises CallError."""
    import httpx2

    from moorline.calls.transport import AsyncTransport

    transport = AsyncTransport(_POLICY, name="webhooks")
    client = httpx2.AsyncClient(transport=transport, follow_redirects=False, trust_env=False)
    async with client, client.stream("GET", url) as answer:
        taken = _Taken(answer.status_code)
        async for part in answer.aiter_bytes():
            taken.add(part)
    return taken.body


def fetch_sync(url: str) -> bytes:
    """As ``fetch``, blocking."""
    import httpx2

    from moorline.calls.transport import Transport

    transport = Transport(_POLICY, name="webhooks")
    client = httpx2.Client(transport=transport, follow_redirects=False, trust_env=False)
    with client, client.stream("GET", url) as answer:
        taken = _Taken(answer.status_code)
        for part in answer.iter_bytes():
            taken.add(part)
    return taken.body


class _Taken:
    """What came of an answer, within its bound."""

    def __init__(self, status: int) -> None:
        if status != _OK:
            raise BadAnswer(f"the answer is {status}", retryable=False)
        self.body = b""

    def add(self, part: bytes) -> None:
        self.body += part
        if len(self.body) > MAX_PEM:
            raise BadAnswer(f"the answer is larger than {MAX_PEM} bytes", retryable=False)
