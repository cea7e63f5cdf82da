"""``moorline connections``: the accounts that owners have connected: look at them, refresh them, take them back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moorline.cli.commands import Commands
from moorline.cli.show import AsJson, DatabaseUrl, console, opened_store, plain, print_json, rows, safe, when
from moorline.cli.target import find
from moorline.errors import CallError, ConfigurationError, ConnectionNotFound, DecryptionFailed, SignInFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from moorline.app import Moorline
    from moorline.identity.connection import Connection
    from moorline.identity.vault_sql import Which

__all__ = ["cli"]

_STATES = ("good", "ended", "revoking")

cli = Commands(help="Make, list, refresh and revoke connected accounts.", no_args_is_help=True)

Target = Annotated[str, typer.Argument(metavar="MODULE:APP", help="The application, such as shop.main:app.")]
Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="The connections.")]
Owner = Annotated[str | None, typer.Option(help="Of this owner only.")]
Service = Annotated[str | None, typer.Option(help="Of this service only.")]
State = Annotated[str | None, typer.Option(help="good, ended or revoking.")]
Limit = Annotated[int, typer.Option(min=1, max=10_000, help="At most so many, newest first.")]


@cli.command("list")
def list_(
    owner: Owner = None,
    service: Service = None,
    state: State = None,
    limit: Limit = 100,
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
) -> None:
    """List connections, newest first: whose, at which service, for what, and how they are. Tokens are never shown."""
    from moorline.identity import vault_sql

    which = _which(owner, service, state, limit)
    with opened_store(database_url) as store:
        found = store.read_sync(vault_sql.find, which)
    if as_json:
        print_json([row.to_dict() for row in found])
        return
    rows(
        ("id", "owner", "service", "account", "state", "token ends (UTC)", "scopes", "reason"),
        (
            (r.id, r.owner, r.service, r.account or "-", r.state, when(r.expires_at), " ".join(sorted(r.scopes)) or "-",
             r.reason or "-")
            for r in found
        ),
        empty="no such connection",
    )  # fmt: skip


@cli.command()
def refresh(
    target: Target,
    ids: Ids = None,
    owner: Owner = None,
    service: Service = None,
    limit: Limit = 100,
    as_json: AsJson = False,
) -> None:
    """Refresh the tokens of connections now: those named, or all good ones that fit (--owner, --service).

    Exit code 1 where one could not be.
    """
    app = find(target)

    async def refreshed(row: Connection) -> dict[str, Any]:
        done = await app.connections.refreshed(row)
        return {"outcome": "refreshed", "expires_at": done.expires_at}

    _each(app, ids, _which(owner, service, "good", limit), refreshed, as_json=as_json)


@cli.command()
def revoke(
    target: Target,
    ids: Ids = None,
    owner: Owner = None,
    service: Service = None,
    state: State = None,
    limit: Limit = 100,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take connections back: the services are told, then the tokens are deleted. Those named, or all that fit.

    A service that does not answer is told later by a worker (outcome "later", exit code 1).
    """
    from moorline.store.steps import perform

    app = find(target)

    async def revoked(row: Connection) -> dict[str, Any]:
        done = await perform(app.store, app.connections.revoked(row))
        return {"outcome": "changed meanwhile" if done is None else _TOLD[done.told]}

    question = None if yes or as_json else "Revoke {} connection(s)?"
    _each(app, ids, _which(owner, service, state, limit), revoked, as_json=as_json, question=question)


@cli.command()
def connect(
    target: Target,
    service: Annotated[str, typer.Argument(metavar="SERVICE", help="Such as github.")],
    owner: Annotated[str, typer.Option(help="Whose account it is.")],
    scope: Annotated[list[str] | None, typer.Option(help="To be granted besides what the application needs.")] = None,
    as_json: AsJson = False,
) -> None:
    """Connect an account from here: its owner types a code in at the service, in whatever browser (RFC 8628).

    Exit code 1 where they refuse, or take too long.
    """
    app = find(target)

    async def connected() -> Connection:
        async with app:
            flow = app.connections.device(service)
            code = await flow.begin(scope or ())
            where = f" (or open {code.complete})" if code.complete else ""
            asked = f"Open {code.verification_uri} and type {code.user_code}{where}"
            typer.echo(plain(asked), err=as_json)
            return await flow.connect(owner, code)

    try:
        row = asyncio.run(connected())
    except (SignInFailed, CallError) as error:
        typer.echo(safe(str(error)), err=True)
        raise typer.Exit(1) from None
    if as_json:
        print_json(row.to_dict())
    else:
        typer.echo(safe(f"connected {row.service} {row.account or '-'} of {row.owner}"))


_TOLD = {"now": "revoked", "later": "later", "never": "deleted (the service knows no revocation)"}
_FAILED = ("later", "changed meanwhile", "failed")


def _each(
    app: Moorline,
    ids: list[str] | None,
    which: Which,
    action: Callable[[Connection], Awaitable[dict[str, Any]]],
    *,
    as_json: bool,
    question: str | None = None,
) -> None:
    """Do it to each, and tell of each; exit code 1 where one failed."""
    if not ids and which.owner is None and which.service is None and which.state in (None, "good"):
        raise ConfigurationError("which connections? Name them, or give --owner or --service")

    async def all_of() -> list[dict[str, Any]]:
        async with app:
            found = await _chosen(app, ids, which)
            if question is not None and found:
                typer.confirm(question.format(len(found)), abort=True)
            return [await _done(row, action) for row in found]

    try:
        done = asyncio.run(all_of())
    except ConnectionNotFound as error:
        console.print(safe(str(error)), markup=False)
        raise typer.Exit(1) from None
    if as_json:
        print_json(done)
    else:
        names = ("id", "owner", "service", "account", "outcome")
        rows(names, ([one[name] for name in names] for one in done), empty="no such connection")
    raise typer.Exit(1 if any(one["outcome"].startswith(_FAILED) for one in done) else 0)


async def _done(row: Connection, action: Callable[[Connection], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
    told = {"id": row.id, "owner": row.owner, "service": row.service, "account": row.account or "-"}
    try:
        return told | await action(row)
    except (CallError, ConnectionNotFound, ConfigurationError, DecryptionFailed) as error:
        return told | {"outcome": f"failed: {error}"}


async def _chosen(app: Moorline, ids: list[str] | None, which: Which) -> list[Connection]:
    if not ids:
        return await app.connections.vault.connections(which)
    found = [await app.connections.find(id_) for id_ in ids]
    missing = [id_ for id_, row in zip(ids, found, strict=True) if row is None]
    if missing:
        raise ConnectionNotFound(f"no connection has the id {', '.join(missing)}")
    return [row for row in found if row is not None]


def _which(owner: str | None, service: str | None, state: str | None, limit: int) -> Which:
    from moorline.identity.vault_sql import Which

    if state is not None and state not in _STATES:
        raise ConfigurationError(f"--state must be one of {', '.join(_STATES)}, not {state!r}")
    return Which(owner, service, None, state, limit=limit)
