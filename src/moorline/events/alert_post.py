"""Posts an alert to a URL, as JSON, through moorline's own transport."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from moorline import redaction
from moorline.calls.dialects import LOOPBACK
from moorline.errors import CallError, ConfigurationError
from moorline.policies.policy import Policy

if TYPE_CHECKING:
    from moorline.events.alerts import Alert

__all__ = ["AlertPost", "check_alert_url"]

_POLICY: Final = Policy(deadline=30.0, attempt_timeout=5.0)


def check_alert_url(url: str) -> None:
    """Raises ConfigurationError unless it is https, or http to this machine. Does not show it: it may hold a token."""
    try:
        parts = urlsplit(url)
        host, port_known = parts.hostname or "", parts.port is None or parts.port > 0
    except ValueError:
        host, port_known = "", False
    if not host or not port_known or parts.username is not None:
        raise ConfigurationError("url: expected a URL such as https://hooks.example.com/alerts")
    if parts.scheme != "https" and not (parts.scheme == "http" and LOOPBACK.fullmatch(host)):
        raise ConfigurationError("url: must be https; plain http is for this machine (localhost) only")


class AlertPost:
    """A hook for ``AlertWatch``. Beside the alert's fields the body has ``text``, which Slack and its like show.

    Retried as any call, with an idempotency key. Raises ConfigurationError for a URL that may not be used; each call
    raises a CallError when the alert could not be delivered.
    """

    def __init__(self, url: str, *, wire: Any = None) -> None:
        check_alert_url(url)
        self._url = url
        self._wire = wire

    async def __call__(self, alert: Alert) -> None:
        """Post it."""
        import httpx2

        from moorline.calls.transport import AsyncTransport

        body = redaction.data({"text": f"{alert.state}: {alert.message}", **alert.to_dict()})
        key = hashlib.sha256(repr(alert).encode()).hexdigest()[:32]
        transport = AsyncTransport(_POLICY, name="alerts", wire=self._wire)
        async with httpx2.AsyncClient(transport=transport, trust_env=False) as client:
            answer = await client.post(self._url, json=body, headers={"Idempotency-Key": key})
        if not answer.is_success:
            raise CallError("the alert was refused", service="alerts", operation="post", status=answer.status_code)
