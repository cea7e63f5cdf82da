"""``moorline services`` and ``moorline doctor``: what can be called and received here, and whether it works."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from moorline.cli.show import AsJson, print_json, safe

if TYPE_CHECKING:
    from moorline.app import Moorline
    from moorline.calls.service import Service
    from moorline.events.sender import Sender

__all__ = ["doctor", "services"]

_AT_ONCE: Final = 8

Named = Annotated[list[str] | None, typer.Argument(metavar="[SERVICE]...", help="Only these; all by default.")]


def services(names: Named = None, as_json: AsJson = False) -> None:
    """List the services: what they can do, what is received from them, and whether they are configured here."""
    from moorline import registry

    rows = [_described(registry.service(name)) for name in names or registry.names()]
    if as_json:
        print_json(rows)
        return
    table = Table("service", "category", "operations", "webhooks", "sandbox", "configured")
    for row in sorted(rows, key=lambda one: (one["category"], one["name"])):
        table.add_row(
            row["name"],
            row["category"],
            ", ".join(row["operations"]) or "(received from only)",
            "yes" if row["webhooks"] else "-",
            "yes" if row["sandbox"] else "-",
            "yes" if row["configured"] else f"no: set {', '.join(row['missing'])}",
        )
    Console().print(table)


def _described(service: type[Service | Sender]) -> dict[str, Any]:
    """A service as a row: all of it is read off the class."""
    from moorline.sandbox.standin import registrations

    missing = _missing(service)
    called = service.credentials is not None
    env = service.webhooks.env if service.credentials is None else service.credentials.env
    return {
        "name": service.name,
        "category": service.category,
        "operations": [*_operations(service), "request"] if called else [],
        "webhooks": service.webhooks is not None,
        "sandbox": called and service.name in registrations(),
        "env": env,
        "missing": missing,
        "configured": not missing,
        "docs": service.docs,
    }


def _operations(service: type[Service | Sender]) -> list[str]:
    return sorted(
        name for name in dir(service) if not name.startswith("_") and hasattr(getattr(service, name), "operation")
    )


def _missing(service: type[Service | Sender]) -> list[str]:
    """The variables that it needs and that are not there."""
    from moorline.calls.parameters import missing_of
    from moorline.secrets.sources import environment

    if service.credentials is None:
        return [] if environment.load(service.webhooks.env) is not None else [service.webhooks.env]
    needed = missing_of(service)
    if environment.load(service.credentials.env) is None:
        needed.insert(0, service.credentials.env)
    return needed


def doctor(
    names: Named = None,
    app: Annotated[
        str | None,
        typer.Option(metavar="MODULE:APP", help="The application whose services and settings to check."),
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, max=600, help="Seconds for each service.")] = 10.0,
    as_json: AsJson = False,
) -> None:
    """Ask each configured service, by a cheap call that changes nothing, whether its key is good; and the database.

    Exits with 1 if one of them says no. Services that are named are asked even if nothing of them is configured.
    """
    from moorline.app import Moorline
    from moorline.cli.target import find

    application = Moorline() if app is None else find(app)
    found = asyncio.run(_examined(application, names, timeout))
    if as_json:
        print_json(found)
    else:
        _printed(found)
    raise typer.Exit(0 if all(one["ok"] for one in found) else 1)


async def _examined(app: Moorline, names: list[str] | None, timeout: float) -> list[dict[str, Any]]:
    """A verdict for each, the database first."""
    from moorline import registry
    from moorline.calls.service import Service

    kinds = [registry.service(name) for name in names or registry.names()]
    called = [one for one in kinds if issubclass(one, Service)]
    chosen = [one for one in called if names is not None or not _missing(one) or one.name in app.services]
    limit = asyncio.Semaphore(_AT_ONCE)

    async def one_of(kind: type[Service]) -> dict[str, Any]:
        async with limit:
            return await _asked(app, kind, timeout)

    return [await asyncio.to_thread(_database, app), *await asyncio.gather(*(one_of(kind) for kind in chosen))]


def _database(app: Moorline) -> dict[str, Any]:
    from moorline.errors import MoorlineError

    begun = time.perf_counter()
    where = app.store.url.render_as_string(hide_password=True)
    row: dict[str, Any] = {"name": "database", "at": where, "ok": True, "says": "it answers"}
    try:
        app.store.open()
        app.store.ping()
    except MoorlineError as error:
        row |= {"ok": False, "says": str(error), "error": type(error).__name__}
    finally:
        app.store.close()
    return row | {"ms": round((time.perf_counter() - begun) * 1000, 1)}


async def _asked(app: Moorline, kind: type[Service], timeout: float) -> dict[str, Any]:
    from moorline.errors import MoorlineError

    row: dict[str, Any] = {"name": kind.name, "at": "-", "ok": False}
    begun = time.perf_counter()
    try:
        service: Any = app.services.get(kind.name) or app.service(kind)
        try:
            row["at"] = service.base_url
            good = await service.check().using(timeout=timeout, attempt_timeout=timeout, retry=None)
        finally:
            await service.aclose()
        row |= {"ok": bool(good), "says": "the key is good" if good else "the key works, and may not do what it is for"}
    except MoorlineError as error:
        row |= {"says": str(error), "error": type(error).__name__, "advice": _advice(error, kind)}
    return row | {"ms": round((time.perf_counter() - begun) * 1000, 1)}


def _advice(error: Exception, kind: type[Service]) -> str:
    """What to do about it."""
    from moorline import errors

    if isinstance(error, errors.AuthenticationFailed):
        return f"{kind.credentials.env} is not taken by {kind.name}: is the key of this account, and of this mode?"
    if isinstance(error, errors.PermissionDenied):
        return "the key is known, and lacks a right or scope that its operations need"
    if isinstance(error, errors.RateLimited):
        return "its limit is used up; the key is likely good"
    if isinstance(error, errors.ConfigurationError):
        return "see its page: moorline services"
    return "the service, or the way there, is in trouble: nothing is wrong with the key as far as one can see"


def _printed(found: list[dict[str, Any]]) -> None:
    table = Table("", "what", "where", "it says", "ms")
    for one in found:
        mark = Text("ok", style="green") if one["ok"] else Text("no", style="bold red")
        said = f"{one.get('error', '')}: {one['says']}" if one.get("error") else one["says"]
        advice = f"\n{one['advice']}" if one.get("advice") else ""
        table.add_row(mark, one["name"], safe(one["at"]), safe(said + advice), f"{one['ms']:g}")
    Console().print(table)
    if len(found) == 1:
        typer.echo("No service is configured here; `moorline services` says which variables each needs.")
