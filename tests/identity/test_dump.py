"""Whoever steals the database, or a dump of it, finds no token, no session and no key in it, however it is spelled."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
import sqlalchemy as sa
from tests.identity.conftest import Issuer
from tests.identity.shop import ACCESS, SECRET, SHOP, Browser, Idp, shop_of

from moorline import Moorline
from moorline.clock import ManualClock
from moorline.errors import ReauthorizationRequired
from moorline.identity.connection import Granted, Tokens
from moorline.identity.own_secrets import OwnSecrets
from moorline.identity.refreshing import FreshToken
from moorline.identity.vault import Vault
from moorline.secrets.keyring import KeyRing, key_id, new_key
from moorline.secrets.secret import Secret
from moorline.store import Store
from moorline.store.encrypted import mark
from moorline.store.schema import meta

KEYS = [new_key(), new_key()]
EXTRA = "an-instance-secret-canary/0+1"


def spellings(secret: bytes) -> Iterator[bytes]:
    """*secret* as it may stand in a file: as it is, or as something has written it."""
    yield secret
    yield secret[::-1]
    yield from (secret.hex().encode(), secret.hex().upper().encode())
    for shift in range(3):  # wherever in a longer text it begins
        coded = base64.b64encode(b"\0" * shift + secret)
        core = coded[(shift * 8 + 5) // 6 : (shift + len(secret)) * 8 // 6]
        yield from (core, core.replace(b"+", b"-").replace(b"/", b"_"))
    try:
        text = secret.decode()
    except UnicodeDecodeError:
        return
    yield text.encode("utf-16-le")
    yield from (quote(text, safe="").encode(), json.dumps(text)[1:-1].encode())


def dumped(store: Store) -> bytes:
    """All that lies there: every byte of the files, the log that was not merged yet included; or every table, as text
    and in PostgreSQL's own form.
    """
    if store.dialect == "sqlite":
        file = Path(str(store.url.database))
        parts = [Path(f"{file}{end}") for end in ("", "-wal", "-shm")]
        assert parts[1].stat().st_size > 0
        return b"".join(part.read_bytes() for part in parts)
    url = store.url.set(drivername="postgresql").render_as_string(hide_password=False)
    found = []
    with psycopg.connect(url) as database:
        tables = database.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        assert len(tables) > 10
        for (name,) in tables:
            for form in ("text", "binary"):
                with database.cursor().copy(f'COPY "{name}" TO STDOUT (FORMAT {form})') as copy:
                    found += list(copy)
    return b"".join(bytes(part) for part in found)


def found_in(dump: bytes, secrets: list[bytes]) -> list[bytes]:
    """Those of *secrets* that stand there."""
    return [one for one in secrets if any(form in dump for form in spellings(one))]


async def lived(app: Moorline, idp: Idp, clock: ManualClock) -> list[bytes]:
    """A day of an application: users sign in, accounts are connected, refreshed and lost, keys are rotated. All that
    was secret.
    """
    browser = Browser(app)
    await browser.sign_in(idp)
    secret = {ACCESS, SECRET, *browser.cookies.values(), *KEYS}
    secret |= {value for form in idp.forms for name, value in form.items() if name in ("code", "code_verifier")}
    old, new = KeyRing([Secret(KEYS[0])]), KeyRing([Secret(KEYS[1]), Secret(KEYS[0])])
    vault = Vault(app.store, old)
    issuer = Issuer()
    for number in range(3):
        tokens = Tokens(Secret(f"access-{number:04}-canary"), Secret(issuer.good), {"instance_secret": EXTRA})
        row = await vault.keep("u_1", "provider", Granted(tokens, 10.0), account=str(number))
        secret |= {tokens.access.reveal(), EXTRA}
        fresh = FreshToken(vault, row.id, issuer.provider(clock).refreshed)
        clock.advance(11.0)
        await fresh.ready_async()
        secret |= {issuer.good, fresh.current().reveal(), f"access-{issuer.asked:04}-canary"}
    issuer.good = "another-refresh-canary"  # it was revoked there
    clock.advance(7_200.0)
    with pytest.raises(ReauthorizationRequired):
        await fresh.ready_async()
    stripe = Secret("sk_live_own_secret_canary+/1")
    await OwnSecrets(app.store, old).put("STRIPE_SECRET_KEY", stripe)
    secret.add(stripe.reveal())
    await app.store.write(mark, key_id(Secret(KEYS[1])))
    await Vault(app.store, new).reseal()
    await OwnSecrets(app.store, new).reseal()
    raw = [base64.urlsafe_b64decode(key) for key in KEYS]
    return [*(one.encode() for one in secret), *raw]


async def test_a_dump_shows_no_secret(database_url: str, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor its encodings; and each of them would have been found."""
    monkeypatch.setenv("MOORLINE_WEBHOOKS__PUBLIC_URL", SHOP)
    monkeypatch.setenv("MOORLINE_TAP", "false")
    idp = Idp()
    async with shop_of(database_url, clock, idp) as app:
        secrets = await lived(app, idp, clock)
        assert len(secrets) > 15
        assert min(map(len, secrets)) > 8
        dump = dumped(app.store)
        assert b"u_1" in dump
        assert found_in(dump, secrets) == []
        await app.store.write(plant, [one.decode() for one in spellings(ACCESS.encode()) if b"\0" not in one])
        planted = dumped(app.store)
        assert [one for one in spellings(ACCESS.encode()) if b"\0" not in one and one not in planted] == []
        assert found_in(planted, [ACCESS.encode()])


def plant(database: Any, payloads: list[list[str]]) -> list[None]:
    """Put it there, as a mistake would."""
    for number, value in enumerate(payloads[0]):
        database.execute(sa.insert(meta).values(key=f"canary {number}", value=f"a {value} b"))
    return [None]
