"""The call pipeline as a picture, in the order in which a call passes it."""

from __future__ import annotations

from html import escape
from itertools import pairwise

from moorline import Breaker, Policy, Retry

__all__ = ["EACH", "WHOLE", "picture"]


def _backoff(retry: Retry) -> str:
    waits = [min(retry.base * retry.factor**number, retry.cap) for number in range(retry.retries)]
    return f"{', '.join(f'{wait:g}' for wait in waits)} s, {retry.jitter} jitter"


def _trips(breaker: Breaker) -> str:
    share = "" if breaker.rate is None else f"; {breaker.rate:.0%} of {breaker.minimum} failed or slow"
    probes = "one probe" if breaker.probes == 1 else f"{breaker.probes} probes"
    return f"{breaker.failures} failures in a row{share}; {probes} after {breaker.reset:g} s"


_POLICY = Policy()

# (name, what it does, what it says when a call does not pass)
WHOLE = (
    ("fallback", "a value, a function, the last good answer, another service", "gives it, instead of the error"),
    ("total deadline", f"{_POLICY.deadline:g} s, waits and body included; or the caller's own", "DeadlineExceeded"),
    ("admission cap", "calls under way, of each service and tenant", "BulkheadFull, at once"),
    ("prepare once", "idempotency key, the body, headers", "ConfigurationError, InvalidRequest"),
    (
        "retry with budget",
        f"{_backoff(_POLICY.retry or Retry())}; Retry-After; only what is safe",
        "the last error, with all attempts",
    ),
)
EACH = (
    ("breaker", _trips(_POLICY.breaker or Breaker()), "CircuitOpen, with retry_at"),
    ("rate gate", "the service's limits and your own; first come, first served", "RateLimited, with retry_at"),
    ("bulkhead", "attempts in flight, and a bounded queue", "BulkheadFull"),
    ("fresh credentials", "the key as it is now; after a 401 a newer one, once", "AuthenticationFailed"),
    (
        "attempt timeout",
        f"{_POLICY.attempt_timeout:g} s, or what is left of the deadline",
        "AttemptTimeout, OutcomeUnknown",
    ),
    ("the wire", "httpx2, or another client; redirects are ours", "ConnectFailed, ConnectionLost, 5xx"),
)
LEFT, WIDTH, HEIGHT, GAP, RIGHT = 40, 470, 46, 12, 545
STYLE = """
  text { font: 14px system-ui, sans-serif; fill: #1f2328 }
  .what { font-size: 12px; fill: #59636e }
  .says { font: 12px ui-monospace, monospace; fill: #a40e26 }
  rect { fill: #f6f8fa; stroke: #59636e }
  .each { fill: none; stroke-dasharray: 5 4 }
  path { stroke: #59636e; fill: none; stroke-width: 1.5 }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc } .what { fill: #9198a1 } .says { fill: #ff7b72 }
    rect { fill: #151b23; stroke: #9198a1 } .each { fill: none } path { stroke: #9198a1 }
  }
"""


def _box(name: str, what: str, says: str, y: int) -> list[str]:
    return [
        f'  <rect x="{LEFT}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="6"/>',
        f'  <text x="{LEFT + 14}" y="{y + 19}" font-weight="600">{escape(name)}</text>',
        f'  <text class="what" x="{LEFT + 14}" y="{y + 37}">{escape(what)}</text>',
        f'  <text class="says" x="{RIGHT}" y="{y + 28}">{escape(says)}</text>',
    ]


def picture() -> str:
    """The picture as SVG, for light and dark pages."""
    lines: list[str] = []
    y = 40
    tops = []
    for stage in WHOLE:
        tops.append(y)
        lines += _box(*stage, y)
        y += HEIGHT + GAP
    top = y + 12
    y = top + 30
    for stage in EACH:
        tops.append(y)
        lines += _box(*stage, y)
        y += HEIGHT + GAP
    middle = LEFT + WIDTH // 2
    for above, below in pairwise(tops):
        lines.append(f'  <path d="M{middle} {above + HEIGHT} V{below}" marker-end="url(#tip)"/>')
    retry = tops[len(WHOLE) - 1] + HEIGHT // 2
    lines += [
        f'  <rect class="each" x="{LEFT - 14}" y="{top}" width="{WIDTH + 28}" height="{y - top}" rx="8"/>',
        f'  <text x="{LEFT}" y="{top + 20}" class="what">for each attempt</text>',
        f'  <path d="M{LEFT - 14} {y - 40} H14 V{retry} H{LEFT}" marker-end="url(#tip)"/>',
        f'  <text class="what" x="{RIGHT}" y="24">what a call says that does not pass</text>',
    ]
    height = y + 24
    title = "The pipeline of a call: " + " > ".join(name for name, *_ in (*WHOLE, *EACH))
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 880 {height}" role="img" aria-labelledby="title">',
        f'  <title id="title">{escape(title)}</title>',
        f"  <style>{STYLE}  </style>",
        '  <marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">',
        '    <path d="M0 0 L8 4 L0 8"/>',
        "  </marker>",
    ]
    return "\n".join([*head, *lines, "</svg>", ""])
