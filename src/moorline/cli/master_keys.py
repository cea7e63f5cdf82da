"""``moorline keys master``: the keys that encrypt what an application keeps.

What goes into the variable is printed on standard output, alone; what to do with it on standard error.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from moorline.cli.commands import Commands
from moorline.cli.show import AsJson, DatabaseUrl, console, opened_store, print_json, rows
from moorline.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from moorline.secrets.ring_rotation import Next
    from moorline.secrets.rings import RingKey
    from moorline.secrets.secret import Secret
    from moorline.store import Store
    from moorline.store.encrypted import Encrypted, Resealed

__all__ = ["cli"]

cli = Commands(help="The keys that encrypt cookies and the tokens of connected accounts.", no_args_is_help=True)

_PASSES: Final = 5
_NEXT: Final = {
    "make": "nothing is to be done; `moorline keys master rotate` makes a new key",
    "first": "a new key waits behind the others: when all processes know it, `moorline keys master rotate` goes on",
    "reseal": "older keys still hold rows: `moorline keys master rotate` encrypts them anew",
    "remove": "the older keys hold nothing and can be taken out: `moorline keys master rotate` says how",
    "done": "the rotation is over; `moorline keys master rotate` closes it",
    "missing": "a key is missing from the variable: put it back before anything else",
}

Kms = Annotated[
    str | None, typer.Option("--kms", metavar="KEY", help="Let AWS KMS wrap it: an ARN, an id, or alias/NAME.")
]
InTransit = Annotated[
    str | None, typer.Option("--transit", metavar="MOUNT/KEY", help="Let Vault's or OpenBao's Transit wrap it.")
]
To = Annotated[
    Path | None, typer.Option("--to", metavar="FILE", help="Write the value to this new file (0600); print nothing.")
]


@cli.command()
def new(kms: Kms = None, transit: InTransit = None) -> None:
    """Print a new encryption key, for MOORLINE_ENCRYPTION_KEY. It is kept nowhere else.

    With --kms or --transit it is a data key that is wrapped by a key there, and opens nothing without it.
    In place of a key that is in use: moorline keys master rotate.
    """
    _look()
    typer.echo(_made(_by(kms, transit)).reveal())


@cli.command()
def status(
    check: Annotated[bool, typer.Option("--check", help="Decrypt every row, to see whether that can be done.")] = False,
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Show the keys, how many rows each still holds, and what is next; exit code 1 if some row no key decrypts."""
    from moorline.secrets.rings import ring_keys
    from moorline.store.encrypted import all_encrypted, unreadable
    from moorline.store.steps import perform_sync

    _look(database_url)
    keys = ring_keys()
    kept = all_encrypted()
    with opened_store(database_url) as store:
        held = _held(store, kept)
        following = _following(store, keys, held)
        bad: dict[str, Sequence[str]] = {}
        if check:
            ring = _ring(keys)
            bad = {one.name: perform_sync(store, unreadable(one, ring)) for one in kept}
    lost = _lost(keys, held)
    if as_json:
        print_json(
            {
                "ring": [{**_facts(n, one), "rows": _rows_of(one.id, held)} for n, one in enumerate(keys)],
                "lost": [{"id": one, "rows": _rows_of(one, held)} for one in lost],
                "unreadable": {name: list(ids) for name, ids in bad.items()} if check else None,
                "next": following.step,
            }
        )
    else:
        lines = [(*_facts(n, one).values(), *_rows_of(one.id, held).values()) for n, one in enumerate(keys)]
        lines += [(one, "is missing", "-", *_rows_of(one, held).values()) for one in lost]
        rows(("id", "does", "kept", *(one.name for one in kept)), lines, empty="no key")
        for name, ids in bad.items():
            console.print(f"{name}: {_unreadable(ids)}" if ids else f"{name}: every row can be decrypted")
        console.print(f"next: {_NEXT[following.step]}")
    if lost or any(bad.values()):
        raise typer.Exit(1)


@cli.command()
def rotate(
    kms: Kms = None,
    transit: InTransit = None,
    plain: Annotated[bool, typer.Option("--plain", help="Let nothing wrap it.")] = False,
    at_once: Annotated[
        bool,
        typer.Option(
            "--at-once",
            help="Let the new key encrypt at once: where there is one process, or all are started anew together.",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what is next, and change nothing.")] = False,
    to: To = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Put a new encryption key in the place of the old one, a step at each call: it finds out which is next.

    1 a key is made, which every process learns; 2 it encrypts; 3 what older keys hold is encrypted anew; 4 they go.
    Between the steps you change MOORLINE_ENCRYPTION_KEY to what is printed, and start the processes anew. Nothing is
    lost where it stops: call it again. A new key is wrapped as the present one is, unless you say otherwise.
    """
    from moorline.secrets.rings import ring_keys
    from moorline.store.encrypted import all_encrypted

    if sum((plain, kms is not None, transit is not None)) > 1:
        raise ConfigurationError("--kms, --transit or --plain, not several")
    if to is not None and to.exists():
        raise ConfigurationError(f"--to: {to} is there already")
    _look(database_url)
    keys = ring_keys()
    kept = all_encrypted()
    with opened_store(database_url) as store:
        held = _held(store, kept)
        following = _following(store, keys, held)
        for one in _lost(keys, held):
            _say(f"Careful: {_amount(held, one)} are of the key {one}, which is not in the variable. {_PUT_BACK}")
        if following.step == "missing":
            raise typer.Exit(1)
        if following.step == "make":
            by = None if plain else _by(kms, transit) or keys[0].wrapped_by
            _make(store, keys, by, at_once=at_once, dry_run=dry_run, to=to)
        elif following.step == "first":
            _put_first(keys, following, dry_run=dry_run, to=to)
        elif following.step == "done":
            _close(store, keys[0].id, dry_run=dry_run)
        else:
            _renew(store, keys, kept, dry_run=dry_run, to=to)


_PUT_BACK: Final = "Put it back if you have it; without it their owners have to connect their accounts again."


@cli.command()
def rewrap(to: To = None) -> None:
    """Print the variable with each wrapped key wrapped by the newest version of what wraps it.

    After a rotation in AWS KMS or in Transit, before its old version is disallowed there. The keys stay the same: no
    row has to be encrypted anew, and processes need the new value at their next start only.
    """
    from moorline.secrets.rings import ring_keys
    from moorline.secrets.secret import Secret
    from moorline.secrets.wrapped import Wrapped

    _look()
    values: list[Secret] = []
    count = 0
    for one in ring_keys():
        found = Wrapped.read(one.kept.reveal())
        values.append(one.kept if found is None else Secret(str(found.rewrapped()), name=one.kept.name))
        count += found is not None
    if not count:
        raise ConfigurationError("no key of the ring is wrapped")
    _say(f"{count} of {len(values)} keys were wrapped anew. Set {_variable()} to this, and keep the old value until a")
    _say("process has started with the new one:")
    _deliver(values, to)


# --- the steps


def _make(
    store: Store, keys: Sequence[RingKey], by: str | None, *, at_once: bool, dry_run: bool, to: Path | None
) -> None:
    from moorline.secrets import rings
    from moorline.store.encrypted import mark

    how = _how(by)
    if dry_run:
        _say(f"Step 1 of 4 would make a key, kept {how}, beside {_named(keys)}. Nothing was changed.")
        return
    kept = _made(by)
    made = rings.opened(kept)
    store.write_sync(mark, made.id)
    old = [one.kept for one in keys]
    _say(f"Step {'2' if at_once else '1'} of 4. A new key was made, {made.id}, kept {how}.")
    if at_once:
        _say(f"It stands first in the value below, and encrypts. Set {_variable()} to it, and start all processes anew")
        _say("together: one that runs on with the old value cannot read what the new key encrypts. Then, for step 3:")
    else:
        _say(f"It stands last in the value below: it is known, and encrypts nothing yet. Set {_variable()} to it, and")
        _say("start every process anew, one after the other. When all have it, for step 2:")
    _say("    moorline keys master rotate")
    _deliver([kept, *old] if at_once else [*old, kept], to)


def _put_first(keys: Sequence[RingKey], following: Next, *, dry_run: bool, to: Path | None) -> None:
    if dry_run:
        _say(f"Step 2 of 4 would put the key {following.ring[0]} first. Nothing was changed.")
        return
    known = {one.id: one.kept for one in keys}
    _say(f"Step 2 of 4. The new key {following.ring[0]} stands first in the value below, and encrypts. Every process")
    _say(
        f"must know it by now: if one was not started anew since step 1, do that first. Set {_variable()} to the value,"
    )
    _say("and start every process anew. When all have it, for step 3:")
    _say("    moorline keys master rotate")
    _deliver([known[one] for one in following.ring], to)


def _renew(store: Store, keys: Sequence[RingKey], kept: Sequence[Encrypted], *, dry_run: bool, to: Path | None) -> None:
    old = [one.id for one in keys[1:]]
    if dry_run:
        held = _held(store, kept)
        due = ", ".join(f"{sum(held[one.name].get(key, 0) for key in old):,} {one.name}" for one in kept)
        _say(f"Step 3 of 4 would encrypt anew with the key {keys[0].id}: {due}. Nothing was changed.")
        return
    from moorline.identity.rotation.marks import reseal_marks

    _say(f"Step 3 of 4. What older keys have encrypted is encrypted anew with {keys[0].id}.")
    ring = _ring(keys)
    left = 0
    for one in kept:
        done = _resealed(store, one, ring)
        still = _held(store, [one])[one.name]
        left += max(0, sum(still.get(key, 0) for key in old) - len(done.unreadable))
        _say(f"{one.name}: {done.changed:,} encrypted anew")
        if done.unreadable:
            _say(f"{one.name}: {_unreadable(done.unreadable)}")
    if not reseal_marks(store, ring):
        _say("No key decrypts the one of fingerprints (`moorline keys list`): find the key that does, and keep it.")
    if left:
        _say(f"{left:,} rows were encrypted with an older key meanwhile: some process still has the old value.")
        _say("Start it anew, and call this again.")
        raise typer.Exit(1)
    _say(f"Step 4 of 4. No row is left of the older keys ({', '.join(old)}), and they can be taken out:")
    _say(f"set {_variable()} to the value below, and start every process anew.")
    _say("Cookies that they have encrypted end with them. Each is encrypted anew as it is used, so if you wait for")
    _say("sign_in.idle (a day), nobody has to sign in again. Keep old keys beside old backups, which need them.")
    _deliver([keys[0].kept], to)


def _resealed(store: Store, one: Encrypted, ring: Any) -> Resealed:
    """Pass by pass, as rows may change meanwhile; all that was done."""
    from moorline.store.encrypted import Resealed, reseal
    from moorline.store.steps import perform_sync

    changed = 0
    for _ in range(_PASSES):
        total = sum(count for key, count in _held(store, [one])[one.name].items() if key != ring.current_id)
        with _progress(one.name, total) as told:
            done = perform_sync(store, reseal(one, ring, told))
        changed += done.changed
        if not done.changed:
            break
    return Resealed(changed, done.unreadable)


def _close(store: Store, key: str, *, dry_run: bool) -> None:
    from moorline.store.encrypted import mark

    if not dry_run:
        store.write_sync(mark, None)
    _say(f"The rotation is over: {key} encrypts, and it is the only key. To begin another, call this again.")


# --- what they are made of


def _look(database_url: str | None = None) -> None:
    """Let credentials be looked for where the settings say, but not where this very key would be needed for it."""
    from moorline.secrets.locker import secrets
    from moorline.secrets.sources.base import Address
    from moorline.settings import load

    chosen = load(database_url=database_url).secrets
    if chosen.configured:
        sources = tuple(url for url in chosen.sources if Address.of(url).scheme != "store") or ("env:",)
        secrets().configure(sources, chosen.names, keep=chosen.keep, ttl=chosen.refresh)


def _by(kms: str | None, transit: str | None) -> str | None:
    if kms is not None and transit is not None:
        raise ConfigurationError("--kms or --transit, not both")
    if kms is not None:
        return f"aws-kms:{kms}"
    return None if transit is None else f"vault-transit:{transit}"


def _made(by: str | None) -> Secret:
    """A new key, as it is kept."""
    from moorline.secrets.keyring import new_key
    from moorline.secrets.secret import Secret
    from moorline.secrets.wrapped import wrap_new

    return Secret(new_key() if by is None else str(wrap_new(by)[0]), name="the new key")


def _ring(keys: Sequence[RingKey]) -> Any:
    from moorline.secrets.keyring import KeyRing

    return KeyRing([one.secret for one in keys])


def _held(store: Store, kept: Sequence[Encrypted]) -> dict[str, dict[str, int]]:
    """How many rows of each table each key holds."""
    from moorline.store.encrypted import counts

    return {one.name: store.read_sync(counts, one) for one in kept}


def _following(store: Store, keys: Sequence[RingKey], held: dict[str, dict[str, int]]) -> Next:
    from moorline.secrets.ring_rotation import next_step
    from moorline.store.encrypted import marked

    total: dict[str, int] = {}
    for counted in held.values():
        for key, count in counted.items():
            total[key] = total.get(key, 0) + count
    return next_step([one.id for one in keys], total, store.read_sync(marked))


def _lost(keys: Sequence[RingKey], held: dict[str, dict[str, int]]) -> list[str]:
    """The ids of keys that have encrypted rows, and are not in the ring."""
    return sorted({key for counted in held.values() for key in counted} - {one.id for one in keys})


def _facts(number: int, one: RingKey) -> dict[str, str]:
    return {
        "id": one.id,
        "does": "encrypts" if number == 0 else "decrypts",
        "kept": _how(one.wrapped_by),
    }


def _how(by: str | None) -> str:
    return "in the clear" if by is None else f"wrapped by {by}"


def _rows_of(key: str, held: dict[str, dict[str, int]]) -> dict[str, int]:
    return {name: counted.get(key, 0) for name, counted in held.items()}


def _amount(held: dict[str, dict[str, int]], key: str) -> str:
    return ", ".join(f"{counted[key]:,} {name}" for name, counted in held.items() if counted.get(key))


def _unreadable(ids: Sequence[str]) -> str:
    shown = ", ".join(ids[:20])
    return f"{len(ids):,} rows no key decrypts: {shown}{', …' if len(ids) > 20 else ''}"


def _named(keys: Sequence[RingKey]) -> str:
    return ", ".join(one.id for one in keys)


def _variable() -> str:
    from moorline.secrets.rings import ENCRYPTION_KEY
    from moorline.secrets.sources.environment import PREVIOUS

    older = f"{ENCRYPTION_KEY}{PREVIOUS}"
    return f"{ENCRYPTION_KEY} (and remove {older})" if os.environ.get(older, "").strip() else ENCRYPTION_KEY


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _deliver(values: Sequence[Secret], to: Path | None) -> None:
    """Print the variable's new value, or write it where nobody else reads it."""
    text = ",".join(one.reveal().strip() for one in values)
    if to is None:
        typer.echo(text)
        return
    try:
        with os.fdopen(os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(text + "\n")
    except OSError as error:
        raise ConfigurationError(f"--to: {to} cannot be written: {error.strerror or error}") from error
    _say(f"The value is in {to}.")


@contextmanager
def _progress(name: str, total: int) -> Iterator[Callable[[Resealed], None]]:
    """A bar for people, on standard error."""
    import sys

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(name, total=total)
        yield lambda done: bar.update(task, completed=done.changed + len(done.unreadable))
