"""What is done in the background, by one process at a time: encrypting anew whatever an older key has encrypted, batch
by batch; and, where accounts are connected, telling services what could not be told when one was disconnected.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from moorline.identity import vault_sql
from moorline.identity.rotation.deciding import Blocking
from moorline.identity.vault_sql import Which
from moorline.store.encrypted import Encrypted, all_encrypted, reseal_batch
from moorline.store.leases import Lease, take_leases
from moorline.store.schema import connections as _connected
from moorline.store.steps import Read, Steps, Write, perform, perform_sync
from moorline.telemetry import logger

if TYPE_CHECKING:
    from moorline.identity.connection import Connection
    from moorline.identity.connections import Connections
    from moorline.secrets.keyring import KeyRing
    from moorline.store.store import Store

__all__ = ["Kept", "Upkeep"]

_LEASE: Final = 90.0  # renewed after each batch, and after each service that was told
_NAME: Final = "connections"
_GIVEN_UP: Final = 7 * 86_400.0  # seconds after which a service is not told any more
_SOME: Final = 100

log = logger("identity")


@dataclass(frozen=True, slots=True)
class Kept:
    """What one run did: how many rows were encrypted anew, and *unreadable* by any key of the ring; how many
    were taken back at their services, and given up.
    """

    resealed: int = 0
    unreadable: int = 0
    revoked: int = 0
    given_up: int = 0


class Upkeep:
    """``run_once`` does all that is to be done; nothing while another holder does.

    *ring* gives the application's keys, None where it has none: it is asked at each run, and may block. *connections*
    gives the connected accounts, which may be encrypted with keys of their own; None where there can be none.
    """

    def __init__(
        self, store: Store, ring: Callable[[], KeyRing | None], connections: Callable[[], Connections | None]
    ) -> None:
        self._store = store
        self._ring = ring
        self._connections = connections
        self._told = 0

    async def run_once(self, holder: str) -> Kept:
        """See the class. Raises StoreUnavailable."""
        return await perform(self._store, self._run(holder))

    def run_once_sync(self, holder: str) -> Kept:
        """As ``run_once``, blocking."""
        return perform_sync(self._store, self._run(holder))

    def _run(self, holder: str) -> Steps[Kept]:
        own: KeyRing | None = yield cast("Any", Blocking(self._ring))
        connections = self._connections()
        if own is None and connections is None:
            return Kept()
        resealed, unreadable = 0, 0
        for kept in all_encrypted():
            rings, after = _rings(kept, own, connections), ""
            if not rings:
                continue
            while (yield from self._leased(holder)):
                done, after = yield from reseal_batch(kept, rings, after)
                resealed += done.changed
                unreadable += len(done.unreadable)
                if not after:
                    break
            else:
                return Kept(resealed, unreadable)
        if resealed:
            log.info("encrypted_anew", count=resealed)
        if unreadable != self._told:  # once, not at each run
            self._told = unreadable
            log.error("encrypted_unreadable", count=unreadable, hint="no key of the ring decrypts them")
        if connections is None:
            return Kept(resealed, unreadable)
        revoked, given_up = yield from self._revoke(connections, holder)
        return Kept(resealed, unreadable, revoked, given_up)

    def _revoke(self, connections: Connections, holder: str) -> Steps[tuple[int, int]]:
        done, given_up, before = 0, 0, None
        while True:
            found: list[Connection] = yield Read(vault_sql.find, Which(state="revoking", before=before, limit=_SOME))
            for row in found:
                if not (yield from self._leased(holder)):
                    return done, given_up
                if self._store.clock.wall() >= row.updated_at + _GIVEN_UP:
                    log.error("connection_not_revoked", connection=row.id, service=row.service, reason=row.reason)
                    given_up += yield from connections.vault.gone(row)
                else:
                    end = yield from connections.revoked(row)
                    done += end is not None and end.told != "later"
            if not found:
                return done, given_up
            before = found[-1].id

    def _leased(self, holder: str) -> Steps[bool]:
        lease = Lease(_NAME, holder, self._store.clock.wall(), _LEASE)
        taken: bool = yield Write(take_leases, lease)
        return taken


def _rings(kept: Encrypted, own: KeyRing | None, connections: Connections | None) -> list[KeyRing]:
    """What decrypts it. Tokens of services lie among those of connected accounts, and have the application's keys."""
    found = [connections.vault.ring] if connections is not None and kept.table is _connected else []
    if own is not None and not any(own.ids == ring.ids for ring in found):
        found.append(own)
    return found
