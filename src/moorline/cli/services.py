"""``moorline services`` and ``moorline doctor``: what can be called and received here, and whether it works."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.table import Table
from rich.text import Text

from moorline.cli.show import AsJson, address, console, print_json, safe

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

    _look_for_secrets()
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
    console.print(table)


def _look_for_secrets() -> None:
    """Look where the settings say; what lies in the database is taken for there."""
    from moorline.settings import load

    settings = load()
    if settings.secrets.configured:
        from moorline.identity.loading import look_for_secrets
        from moorline.identity.own_secrets import OwnSecrets
        from moorline.secrets.rings import encryption_ring
        from moorline.store import Store

        store = Store(settings.database_url)
        look_for_secrets(settings.secrets, lambda: OwnSecrets(store, encryption_ring))


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
        "env": env or None,
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
    from moorline.identity.connector import client_variables

    if service.credentials is None:
        return [] if _is_there(service.webhooks.env) else [service.webhooks.env]
    own = [service.credentials.env] if service.credentials.env else client_variables(service)
    return [*(name for name in own if not _is_there(name)), *missing_of(service)]


def _is_there(name: str) -> bool:
    """Whether the credential is there, or nobody can say: then asking with it tells why."""
    from moorline.errors import SecretUnavailable
    from moorline.secrets.locker import secrets

    try:
        return secrets().load(name) is not None
    except SecretUnavailable:
        return True


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
    """A verdict for each, the database first; credentials may lie in it."""
    from moorline import registry
    from moorline.calls.service import Service

    kinds = [registry.service(name) for name in names or registry.names()]
    called = [one for one in kinds if issubclass(one, Service)]
    limit = asyncio.Semaphore(_AT_ONCE)

    def there() -> list[type[Service]]:
        # Without a key of its own it is asked for connected accounts alone.
        own = [one for one in called if one.credentials.env]
        return called if names is not None else [one for one in own if not _missing(one) or one.name in app.services]

    async def one_of(kind: type[Service]) -> dict[str, Any]:
        async with limit:
            return await _asked(app, kind, timeout)

    try:
        database = await asyncio.to_thread(_database, app)
        keys = await asyncio.to_thread(_keys, app)
        chosen = await asyncio.to_thread(there)
        return [database, *keys, *await asyncio.gather(*(one_of(kind) for kind in chosen))]
    finally:
        await asyncio.to_thread(app.store.close)


def _database(app: Moorline) -> dict[str, Any]:
    from moorline.errors import MoorlineError

    begun = time.perf_counter()
    at = app.store.url.render_as_string(hide_password=True)
    row: dict[str, Any] = {"name": "database", "at": at, "ok": True, "says": "it answers"}
    try:
        if app.settings.migrate and app.store.revision() is None:
            row["says"] = f"there is none yet at {address(app.store)}; the application makes it when it starts"
        else:
            app.store.open()
            app.store.ping()
    except MoorlineError as error:
        row |= {"ok": False, "says": str(error), "error": type(error).__name__}
    return row | {"ms": round((time.perf_counter() - begun) * 1000, 1)}


def _keys(app: Moorline) -> list[dict[str, Any]]:
    """A row for each credential that ``[secrets]`` names: where it was found, and nothing of it."""
    from moorline.errors import MoorlineError
    from moorline.secrets.locker import secrets

    rows = []
    for name in dict.fromkeys((*app.settings.secrets.names, *app.settings.secrets.required)):
        begun = time.perf_counter()
        row: dict[str, Any] = {"name": name, "at": "-", "ok": False}
        try:
            row["at"] = secrets().where(name)
            found = secrets().versions(name)
            if found:
                row |= {"ok": True, "says": f"it is there ({', '.join(one.stage for one in found)})"}
                row["key_from"] = found[0].origin
            else:
                row["says"] = "it is not there"
        except MoorlineError as error:
            row |= {"says": str(error), "error": type(error).__name__}
        rows.append(row | {"ms": round((time.perf_counter() - begun) * 1000, 1)})
    return rows


async def _asked(app: Moorline, kind: type[Service], timeout: float) -> dict[str, Any]:
    from moorline.calls.health import advice, verdict
    from moorline.errors import MoorlineError

    begun = time.perf_counter()
    try:
        service = app.services.get(kind.name) or app.service(kind)
    except MoorlineError as error:
        row = {"name": kind.name, "at": "-", "ok": False, "says": str(error), "error": type(error).__name__}
        return row | {"advice": advice(error, kind), "ms": round((time.perf_counter() - begun) * 1000, 1)}
    try:
        return await verdict(service, timeout)
    finally:
        await service.aclose()


def _printed(found: list[dict[str, Any]]) -> None:
    table = Table("", "what", "where", "key from", "it says", "ms")
    for one in found:
        mark = Text("ok", style="green") if one["ok"] else Text("no", style="bold red")
        said = f"{one.get('error', '')}: {one['says']}" if one.get("error") else one["says"]
        advice = f"\n{one['advice']}" if one.get("advice") else ""
        words = (one["name"], one["at"], one.get("key_from", ""), said + advice, f"{one['ms']:g}")
        table.add_row(mark, *(Text(safe(word)) for word in words))  # services have written some: no markup
    console.print(table)
    if len(found) == 1:
        typer.echo("No service is configured here; `moorline services` says which variables each needs.")
