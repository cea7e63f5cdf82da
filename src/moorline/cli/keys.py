"""``moorline keys``: the keys of services and the secrets of webhooks, and their rotation without a gap."""

from __future__ import annotations

import contextlib
import re
import sys
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from moorline.cli import master_keys
from moorline.cli.commands import Commands
from moorline.cli.replays import Actor, user
from moorline.cli.show import AsJson, DatabaseUrl, check_there, console, facts, print_json, rows, safe, when
from moorline.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moorline.app import Moorline
    from moorline.identity.rotation import Keys, KeyStatus, KeyVersion
    from moorline.secrets.rotation import Use

__all__ = ["cli"]

cli = Commands(
    help="The keys of services and the secrets of webhooks: who uses which version, and their rotation. NAME is the "
    "customary variable, such as STRIPE_SECRET_KEY; VERSION a fingerprint that `list` shows, or its first digits.",
    no_args_is_help=True,
)
cli.add_typer(master_keys.cli, name="master")

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_MOST: Final = 65_536
_GONE: Final = 5

Name = Annotated[str, typer.Argument(metavar="NAME", help="The credential's customary variable.")]
Version = Annotated[str, typer.Argument(metavar="VERSION", help="Its fingerprint, or the first digits of it.")]
Why = Annotated[str, typer.Option(help="The reason, for the audit.")]
Unused = Annotated[str, typer.Option(metavar="TIME", help="How long nobody must have used it: 30m, 24h, 7d.")]
App = Annotated[
    str | None,
    typer.Option(metavar="MODULE:APP", envvar="MOORLINE_APP", help="Whose database and settings count."),
]


@cli.command("list")
def list_(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="These only.")] = None,
    app: App = None,
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
) -> None:
    """List the versions of all credentials that something was decided on, or that some process has; and those here."""
    with _keys(app, database_url, looks=True) as keys:
        found = [keys.status_sync(name) for name in names or _all_names(keys)]
    if as_json:
        print_json([one.to_dict() for one in found if one.versions])
        return
    rows(
        ("name", "version", "status", "use", "last used (UTC)", "by", "ends (UTC)", "where"),
        ((one.name, *_line(version)) for one in found for version in one.versions),
        empty="no credential is known",
    )


@cli.command()
def status(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="The credential's customary variable.")] = None,
    unused: Unused = "24h",
    app: App = None,
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Show who has and uses which version of a credential, and what to do next; without NAME, the next step of each."""
    seconds = _seconds("--unused", unused)
    with _keys(app, database_url, looks=True) as keys:
        found = [keys.status_sync(one, unused=seconds) for one in ([name] if name else _all_names(keys))]
    if as_json:
        print_json(found[0].to_dict() if name else [one.to_dict() for one in found if one.versions])
        return
    if name is None:
        rows(("name", "next"), ((one.name, one.next) for one in found if one.versions), empty="no credential is known")
        return
    _show(found[0])


@cli.command()
def add(
    name: Name,
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="URL", help="Where the value is: vault:secret/pay#stripe, file:/run/secrets/x."),
    ] = None,
    why: Why = "",
    force: Annotated[bool, typer.Option("--force", help="Even one that was retired.")] = False,
    actor: Actor = None,
    app: App = None,
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Accept another version, used after all others until it is promoted.

    The value is read from standard input, or asked for without an echo; never from an argument. It is kept encrypted
    in the application's database (with MOORLINE_ENCRYPTION_KEY), where all processes find it; --from names another
    place.
    """
    value = None if source is not None else _value(name)
    with _keys(app, database_url) as keys:
        version = keys.add_sync(name, value, source=source, actor=actor or user(), why=why, force=force)
        _done(keys, name, f"version {version} is added", as_json)


@cli.command()
def promote(
    name: Name,
    version: Version,
    why: Why = "",
    force: Annotated[bool, typer.Option("--force", help="Even where a running process does not have it.")] = False,
    actor: Actor = None,
    app: App = None,
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Use that version first, in all processes within some seconds; the one before it stays accepted."""
    with _keys(app, database_url) as keys:
        keys.promote_sync(name, version, actor=actor or user(), why=why, force=force)
        _done(keys, name, f"version {version} is used first", as_json)


@cli.command()
def retire(
    name: Name,
    version: Version,
    unused: Unused = "24h",
    why: Why = "",
    force: Annotated[
        bool, typer.Option("--force", help="Even if it was used lately; never the last one that somebody has.")
    ] = False,
    actor: Actor = None,
    app: App = None,
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Accept that version no more. Refused, with who and when, if it was used lately."""
    seconds = _seconds("--unused", unused)
    with _keys(app, database_url) as keys:
        keys.retire_sync(name, version, unused=seconds, actor=actor or user(), why=why, force=force)
        _done(keys, name, f"version {version} is accepted no more", as_json)


@cli.command()
def rollback(
    name: Name,
    why: Why = "",
    actor: Actor = None,
    app: App = None,
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Undo the last decision on a credential."""
    with _keys(app, database_url) as keys:
        keys.rollback_sync(name, actor=actor or user(), why=why)
        _done(keys, name, "the last decision is undone", as_json)


@cli.command()
def rotate(
    service: Annotated[str, typer.Argument(metavar="SERVICE", help="A service that makes keys by its API.")],
    unused: Unused = "24h",
    wait: Annotated[str, typer.Option(metavar="TIME", help="Wait so long for the old key to fall out of use.")] = "0s",
    force: Annotated[
        bool, typer.Option("--force", help="Retire the old key at once, and promote where a process lacks the new one.")
    ] = False,
    actor: Actor = None,
    app: App = None,
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Rotate a service's key all the way: mint, add, check, promote, and once the old one is unused retire and revoke.

    Each step is written down: run it again after a crash, or when it waits, and it goes on. Exit code 0 while it waits
    and when it is done.
    """
    from moorline import registry

    times = _seconds("--unused", unused), _seconds("--wait", wait)
    kind = registry.service(service)
    with _opened(app, database_url) as opened:
        made: Any = opened.services.get(service) or opened.service(kind)
        done = opened.keys.rotate_sync(made, unused=times[0], wait=times[1], actor=actor or user(), force=force)
    if as_json:
        print_json({"step": done.step, "done": done.done, "told": list(done.told), "next": done.next})
        return
    for line in done.told:
        console.print(safe(line), markup=False)
    console.print(safe(f"next: {done.next}"), markup=False)


@contextlib.contextmanager
def _opened(app: str | None, database_url: str | None, *, looks: bool = False) -> Iterator[Moorline]:
    """The application's database, for one who looks and decides, and has no part in the calls.

    Raises ConfigurationError where there is none for one who only *looks*.
    """
    from moorline.app import Moorline
    from moorline.cli.target import find

    if app is not None and database_url is not None:
        raise ConfigurationError("--database-url: the application's own database is used; leave it out, or --app")
    application = Moorline(database_url) if app is None else find(app)
    if looks:
        check_there(application.store)
    application.keys.watch.tells = False
    with application.opened():
        yield application


@contextlib.contextmanager
def _keys(app: str | None, database_url: str | None, *, looks: bool = False) -> Iterator[Keys]:
    with _opened(app, database_url, looks=looks) as opened:
        yield opened.keys


def _all_names(keys: Keys) -> list[str]:
    """Those that are known, and those that services have here."""
    from moorline import registry
    from moorline.errors import MoorlineError
    from moorline.secrets.locker import secrets

    known: set[str] = set()
    for one in registry.names():
        service = registry.service(one)
        places = [getattr(service, "credentials", None), getattr(service, "webhooks", None)]
        known |= {str(getattr(place, "env", "")) for place in places} - {""}
    for name in known:
        with contextlib.suppress(MoorlineError):
            secrets().versions(name)
    return sorted({*keys.names_sync(), *keys.watch.names})


def _value(name: str) -> str:
    from moorline.secrets.secret import bare

    if sys.stdin.isatty():
        value: str = typer.prompt(f"{name} (not shown)", hide_input=True)
    else:
        value = sys.stdin.read(_MOST + 1)
    value = bare(value)
    if not value:
        raise ConfigurationError(f"{name}: no value came on standard input")
    if len(value) > _MOST:
        raise ConfigurationError(f"{name}: a value has at most {_MOST} characters")
    return value


def _seconds(option: str, text: str) -> float:
    found = re.fullmatch(r"([0-9]{1,6})([smhd])", text)
    if found is None:
        raise ConfigurationError(f"{option}: write 30s, 45m, 24h or 7d, not {text!r}")
    return float(int(found[1]) * _UNITS[found[2]])


def _line(one: KeyVersion) -> tuple[object, ...]:
    use = "-" if one.place is None else "first" if one.place == 1 else f"{one.place}."
    where = ", ".join(one.origins) or "-"
    return one.version, one.status, use, when(one.last_at), one.last_by or "-", when(one.not_after), where


def _done(keys: Keys, name: str, said: str, as_json: bool) -> None:
    found = keys.status_sync(name)
    if as_json:
        print_json(found.to_dict())
        return
    console.print(safe(f"{name}: {said}"), markup=False)
    console.print(safe(f"next: {found.next}"), markup=False)


def _shown(one: KeyVersion, now: float) -> list[Use]:
    """The processes that run, and of those that are gone the last ones that have used it."""
    running = [use for use in one.uses if use.alive(now)]
    return running + [use for use in one.uses if not use.alive(now) and use.last_at is not None][:_GONE]


def _show(found: KeyStatus) -> None:
    """All of one credential: its versions, who has them, who decided what, and the next step."""
    rows(
        ("version", "status", "use", "last used (UTC)", "by", "ends (UTC)"),
        (_line(one)[:-1] for one in found.versions),
        empty=f"no version of {found.name} is known",
    )
    lines = [
        (
            use.version,
            use.who,
            "yes" if use.alive(found.at) else "no",
            when(use.last_at),
            use.accepted,
            use.refused,
            when(use.refused_at),
        )
        for one in found.versions
        for use in _shown(one, found.at)
    ]
    if lines:
        columns = ("version", "process", "running", "last used (UTC)", "accepted", "refused", "last refused (UTC)")
        rows(columns, lines, empty="")
    if found.trail:
        told = ("when (UTC)", "who", "what", "version", "why")
        decided = (
            (when(one["at"]), one["actor"], one["action"], one.get("version", "-"), one.get("why", ""))
            for one in found.trail
        )
        rows(told, decided, empty="")
    # An address may be as long as it likes: not in the table, all of whose lines would be.
    places = [(f"{one.version} is in", ", ".join(one.origins)) for one in found.versions if one.origins]
    facts([*places, ("next", found.next)])
