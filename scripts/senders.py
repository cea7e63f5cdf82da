"""The table of senders: how each proves itself, what it is deduplicated by, what it asks, what it gets."""

from __future__ import annotations

from typing import Any

__all__ = ["senders_page"]

_COLUMNS = ("sender", "path", "proof", "secret", "id", "type", "handshake", "answer", "waits", "retries")
_INTRODUCTION = """\
Who can send to `/webhooks/{service}`, read off the records in `services/`. Where the id is not covered by the
signature, or is another in each try (marked *), an event is known by a digest of its content, so that a replay under a
new id is noticed. Where a token is signed in place of the content (marked +), that counts once, and the id once in four
days. A sender without a secret here is answered 404, as one that does not exist.
"""


def senders_page() -> str:
    """One row for each service with webhooks, and for the generic scheme."""
    from moorline import registry
    from moorline.events.verification import GENERIC

    kinds = [registry.service(name) for name in registry.names()]
    found = [(kind.__name__, kind.name, kind.webhooks) for kind in kinds if kind.webhooks is not None]
    found += [(name, name, scheme) for name, scheme in GENERIC.items()]
    lines = ["# Senders", "", _INTRODUCTION]
    lines += ["| " + " | ".join(_COLUMNS) + " |", "| " + " | ".join(["---"] * len(_COLUMNS)) + " |"]
    lines += ["| " + " | ".join(_row(*one)) + " |" for one in found]
    return "\n".join(lines) + "\n"


def _row(title: str, name: str, scheme: Any) -> tuple[str, ...]:
    waits = scheme.delivers.within
    answer = scheme.answer.body.decode() if scheme.answer is not None else ""
    believed = not scheme.id or (scheme.dedup == "id" and scheme.believes(_several(scheme.id)[-1]))
    return (
        title,
        f"`/webhooks/{name}`",
        _cell(scheme.how),
        f"`{scheme.env}`",
        (_places(scheme.id) or "digest of the content") + _mark(scheme, believed=believed) + _otherwise(scheme),
        _places(scheme.type),
        ", ".join(type(one).__name__ for one in scheme.handshakes) or "-",
        f"`{_cell(answer)}`" if answer else "200",
        "not known" if waits is None else f"{waits:g} s",
        _cell(scheme.delivers.retries),
    )


def _otherwise(scheme: Any) -> str:
    """What else an event is known by, where its id may be missing."""
    slot = f" within {scheme.repeats_after:g} s" if scheme.repeats_after else ""
    if scheme.lacking == "refuse":
        return f" (content{slot})" if slot else ""
    return f", else the content{slot}"


def _mark(scheme: Any, *, believed: bool) -> str:
    return " +" if scheme.once else "" if believed else " *"


def _several(given: str | tuple[str, ...]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else given


def _places(given: str | tuple[str, ...]) -> str:
    return ", ".join(f"`{_cell(place)}`" for place in _several(given) if place)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
