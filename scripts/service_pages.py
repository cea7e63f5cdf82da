"""The page of each service, read off its class: how to use it, what it needs, what it does, what its errors mean."""

from __future__ import annotations

import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any

__all__ = ["index_page", "service_pages"]

_NO_CALLS = ("send_many", "verify_blocking", "verify_session", "verify_token")
"""What a service does by several Calls, or by none."""
_ERRORS = (("declined", "PaymentDeclined"), ("limited", "RateLimited"), ("key_reused", "IdempotencyConflict"))


def service_pages() -> dict[str, str]:
    """Pages by file name, one for each service that can be called."""
    return {f"{kind.name}.md": _page(kind) for kind in _kinds() if kind.credentials is not None}


def index_page() -> str:
    """All services by category, those that are only received from among them."""
    lines = ["# Services", "", "`moorline services` prints the same with what is configured where you are.", ""]
    lines += ["| service | category | key | operations | events |", "| --- | --- | --- | --- | --- |"]
    for kind in _kinds():
        called = kind.credentials is not None
        title = f"[{kind.__name__}](../services/{kind.name}.md)" if called else kind.__name__
        key = f"`{kind.credentials.env}`" if called and kind.credentials.env else "-"
        key = "connected accounts" if called and not kind.credentials.env else key
        done = ", ".join(f"`{name}`" for name in _operations(kind)) if called else "received from only"
        events = f"[`/webhooks/{kind.name}`](senders.md)" if kind.webhooks is not None else "-"
        lines.append(f"| {title} | {kind.category} | {key} | {done} | {events} |")
    lines += ["", "Those without a page are only received from, so far:", ""]
    for kind in _kinds():
        if kind.credentials is None:
            lines += [f"## {kind.__name__}", "", inspect.getdoc(kind) or "", ""]
    return "\n".join(lines)


def _kinds() -> list[Any]:
    from moorline import registry

    found = [registry.service(name) for name in registry.names()]
    return sorted(found, key=lambda kind: (kind.category, kind.name))


def _page(kind: Any) -> str:
    parts = [f"# {kind.__name__}", inspect.getdoc(kind) or ""]
    if kind.usage:
        parts += ["```python", kind.usage.strip(), "```"]
        parts = [*parts[:2], "\n".join(parts[2:])]
    parts += ["## What it needs", "\n".join(_needs(kind))]
    if kind.oauth is not None:
        parts += ["## Connected accounts", _connected(kind)]
    parts += ["## Operations", *_described(kind)]
    if kind.lacks:
        parts += ["## What it lacks", "\n".join(f"- `{name}`: {why}" for name, why in sorted(kind.lacks.items()))]
    parts += ["## When it fails", "\n\n".join(_failures(kind))]
    if kind.webhooks is not None:
        parts += ["## Events", _events(kind)]
    parts += ["## Sandbox", _sandbox(kind)]
    return "\n\n".join(parts) + "\n"


def _needs(kind: Any) -> Iterator[str]:
    from moorline.calls.parameters import parameters_of

    yield "| what | argument | variable |"
    yield "| --- | --- | --- |"
    own = f"`{kind.credentials.env}`" if kind.credentials.env else "none: it is that of a connected account"
    yield f"| the secret | `api_key` | {own} |"
    for name, one in parameters_of(kind).items():
        optional = "" if one.default is None else " (optional)"
        optional += f" (for {' and '.join(one.grants)})" if one.grants else ""
        yield f"| {name.replace('_', ' ')}{optional} | `{name}` | `{one.env}` |"
    regions = {"the default": kind.endpoints.default, **kind.endpoints.regions}
    yield ""
    yield "| `region` | requests go to |"
    yield "| --- | --- |"
    for name, url in regions.items():
        yield f"| {name if name == 'the default' else f'`{name}`'} | `{url}` |"


def _connected(kind: Any) -> str:
    oauth, name = kind.oauth, kind.__name__
    prefix = (oauth.client or kind.name).upper()
    asked = ", ".join(f"`{one}`" for one in oauth.scopes) or "none"
    told = "disconnecting revokes the grant" if oauth.revoke else "it knows no revocation"
    return (
        f"Users connect accounts of theirs after `app.connect({name}, scopes=(…))`; "
        f"`app.connections.get(owner, {name})` acts for them. Register `https://your.host/auth/{kind.name}/callback` "
        f"there, and set `{prefix}_CLIENT_ID` and `{prefix}_CLIENT_SECRET`. Scopes that are always asked for: {asked}; "
        f"{told}."
    )


def _operations(kind: Any) -> list[str]:
    from moorline.calls.operations import Operation

    names = [name for base in reversed(kind.__mro__) for name, one in vars(base).items() if _is(one, Operation)]
    more = [name for name in _NO_CALLS if callable(getattr(kind, name, None))]
    return sorted({name for name in names if name[0] != "_"} | set(more))


def _is(member: Any, operation: type) -> bool:
    """Whether it is one request, or something that takes several."""
    several = str(getattr(member, "__annotations__", {}).get("return", "")).startswith(("Content", "Work["))
    return several or isinstance(getattr(member, "operation", None), operation)


def _described(kind: Any) -> Iterator[str]:
    for name in _operations(kind):
        method = getattr(kind, name)
        yield f"### `{name}`"
        yield f"```text\n{name}{_signature(method)}\n```"
        yield inspect.getdoc(method) or ""
    yield "Any other endpoint: `request(method, path, …)`, with the same guard."


def _signature(method: Any) -> str:
    """As the operation is called: without self, and with what the Call gives in place of the Plan."""
    found = inspect.signature(inspect.unwrap(method))
    given = [one for one in found.parameters.values() if one.name != "self"]
    result = re.sub(r"^Plan\[Page\[(.*)\]\]$", r"Pages[\1]", str(found.return_annotation))
    result = re.sub(r"^Plan\[", "Call[", result)
    shown = ", ".join(_parameters(given))
    line = f"({shown}) -> {result}"
    if len(line) < 90:
        return line
    return "(\n" + "".join(f"    {one},\n" for one in _parameters(given)) + f") -> {result}"


def _parameters(given: list[inspect.Parameter]) -> Iterator[str]:
    starred = False
    for one in given:
        if one.kind is inspect.Parameter.KEYWORD_ONLY and not starred:
            starred = True
            yield "*"
        yield str(one).replace("'", "")


def _failures(kind: Any) -> Iterator[str]:
    errors = kind.errors
    rows: list[tuple[str, str]] = []
    for attribute, name in _ERRORS:
        rows += [(f"`{code}`", name) for code in sorted(getattr(errors, attribute))]
    rows += [(f"`{code}`", one.__name__) for code, one in sorted(errors.kinds.items())]
    rows += [(f"status {status}", one.__name__) for status, one in sorted(errors.statuses.items())]
    yield "Errors are those of [the reference](../reference/errors.md); statuses mean what they usually do."
    if rows:
        table = ["| it says | which is |", "| --- | --- |", *(f"| {code} | `{name}` |" for code, name in rows)]
        yield "\n".join(table)
    key = kind.idempotency
    dedupe: str = getattr(kind, "dedupe", "")
    if key is None and dedupe:
        yield dedupe
    elif key is None:
        yield (
            "It honours no idempotency key: a write that was sent and not answered is `OutcomeUnknown`, and is never "
            "repeated by itself."
        )
    else:
        hours = key.window / 3600
        yield (
            f"Writes carry an idempotency key, which it remembers for {hours:g} hours: they are repeated safely within "
            "that time."
        )


def _events(kind: Any) -> str:
    scheme = kind.webhooks
    told = f"`POST /webhooks/{kind.name}`, proved by {scheme.how}; the secret is `{scheme.env}`. "
    told += "See [senders](../reference/senders.md)."
    reader = getattr(kind, "read_event", None)
    if reader is not None:
        text = (inspect.getdoc(reader) or "").strip()
        told += f"\n\n`{kind.__name__}.read_event(event)`: {text}"
    return told


def _sandbox(kind: Any) -> str:
    from moorline.sandbox.standin import registrations

    record = registrations()[kind.name]
    module = importlib.import_module(record.make.__module__)
    text = textwrap.dedent(inspect.getdoc(module) or "")
    told = f"`moorline sandbox` serves it at `/{kind.name}/`.\n\n{text}"
    if record.events:
        told += "\n\nIt sends " + ", ".join(f"`{name}`" for name in record.events) + "."
    return told
