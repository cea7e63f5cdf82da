"""The pipeline as an httpx2 transport: ``AsyncTransport`` and ``Transport``."""

from __future__ import annotations

from moorline.calls.transport import AsyncTransport, Transport

__all__ = ["AsyncTransport", "Transport"]
