"""``Keys``: rotation in an application's code and for its operators. ``app.keys`` is one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from moorline.identity.rotation import sql
from moorline.identity.rotation.deciding import Deciding
from moorline.identity.rotation.minting import Rotated, rotate
from moorline.secrets.rings import configured_ring
from moorline.secrets.rotation import UNUSED
from moorline.store.steps import perform, perform_sync

if TYPE_CHECKING:
    from moorline.calls.service import Service
    from moorline.identity.own_secrets import OwnSecrets
    from moorline.identity.rotation.advice import KeyStatus, KeyVersion
    from moorline.secrets.secret import Secret
    from moorline.store.store import Store

__all__ = ["Keys"]


class Keys(Deciding):
    """The credentials of an application, by their customary variables (``STRIPE_SECRET_KEY``,
    ``GITHUB_WEBHOOK_SECRET``), and what was decided of their versions.

    A version is named by its fingerprint, or the first digits of it. What is decided here holds in this process at
    once, and in the others within a few seconds. *actor* is who decides, for the audit, *why* the reason.
    Methods come in two colours. They raise RotationRefused, StoreError, and Misuse where the application is not open.
    """

    def __init__(self, store: Store, own: Callable[[], OwnSecrets]) -> None:
        super().__init__(store)
        self._own = own

    def __repr__(self) -> str:
        return f"<Keys of {self.store!r}>"

    def begin(self) -> None:
        """Follow what was decided, from now on; the application's opening does it. Blocking."""
        ring = configured_ring()
        if ring is not None:
            self.watch.attach(self._own())
        self.watch.begin(ring)

    # --- looking

    async def versions(self, name: str) -> list[KeyVersion]:
        """All versions of that credential that are known, in the order of their use; the retired ones last."""
        return list((await perform(self.store, self.status_steps(name))).versions)

    def versions_sync(self, name: str) -> list[KeyVersion]:
        """As ``versions``, blocking."""
        return list(perform_sync(self.store, self.status_steps(name)).versions)

    async def status(self, name: str, *, unused: float = UNUSED) -> KeyStatus:
        """Who has and uses which version, who decided what, and what to do next. *unused* is for how many seconds the
        old one must not have been used, to be retired.
        """
        return await perform(self.store, self.status_steps(name, unused))

    def status_sync(self, name: str, *, unused: float = UNUSED) -> KeyStatus:
        """As ``status``, blocking."""
        return perform_sync(self.store, self.status_steps(name, unused))

    async def names(self) -> list[str]:
        """The credentials of which something was decided, or that some process uses."""
        return await self.store.read(_names)

    def names_sync(self) -> list[str]:
        """As ``names``, blocking."""
        return self.store.read_sync(_names)

    # --- deciding

    async def add(
        self,
        name: str,
        value: Secret | str | None = None,
        *,
        source: str | None = None,
        actor: str = "code",
        why: str = "",
        force: bool = False,
    ) -> str:
        """Accept another version, which is used after all others until it is promoted; its fingerprint.

        The *value* is kept encrypted in the application's database; or it is found at the URL *source*, such as
        ``vault:secret/pay#stripe``. One that was retired needs *force*. Raises ConfigurationError where there is no
        such place, or nothing in it.
        """
        return await perform(self.store, self.add_steps(name, value, source, actor, why, force=force))

    def add_sync(
        self,
        name: str,
        value: Secret | str | None = None,
        *,
        source: str | None = None,
        actor: str = "code",
        why: str = "",
        force: bool = False,
    ) -> str:
        """As ``add``, blocking."""
        return perform_sync(self.store, self.add_steps(name, value, source, actor, why, force=force))

    async def promote(
        self, name: str, version: str, *, actor: str = "code", why: str = "", force: bool = False
    ) -> KeyStatus:
        """Use that version first; the one before it stays accepted. *force*: even where a running process lacks it."""
        return await perform(self.store, self.promote_steps(name, version, actor, why, force=force))

    def promote_sync(
        self, name: str, version: str, *, actor: str = "code", why: str = "", force: bool = False
    ) -> KeyStatus:
        """As ``promote``, blocking."""
        return perform_sync(self.store, self.promote_steps(name, version, actor, why, force=force))

    async def retire(
        self,
        name: str,
        version: str,
        *,
        unused: float = UNUSED,
        actor: str = "code",
        why: str = "",
        force: bool = False,
    ) -> KeyStatus:
        """Accept that version no more. Refused, saying who and when, if it was used within *unused* seconds, or was
        used first until then; with *force* it is refused only where somebody would be left without a key.
        """
        return await perform(self.store, self.retire_steps(name, version, unused, actor, why, force=force))

    def retire_sync(
        self,
        name: str,
        version: str,
        *,
        unused: float = UNUSED,
        actor: str = "code",
        why: str = "",
        force: bool = False,
    ) -> KeyStatus:
        """As ``retire``, blocking."""
        return perform_sync(self.store, self.retire_steps(name, version, unused, actor, why, force=force))

    async def rollback(self, name: str, *, actor: str = "code", why: str = "") -> KeyStatus:
        """Undo the last decision on that credential."""
        return await perform(self.store, self.rollback_steps(name, actor, why))

    def rollback_sync(self, name: str, *, actor: str = "code", why: str = "") -> KeyStatus:
        """As ``rollback``, blocking."""
        return perform_sync(self.store, self.rollback_steps(name, actor, why))

    async def rotate(
        self,
        service: Service,
        with_key: Callable[[Secret], Service] | None = None,
        *,
        unused: float = UNUSED,
        wait: float = 0.0,
        actor: str = "code",
        force: bool = False,
        at_once: bool = False,
    ) -> Rotated:
        """Rotate the key of a service that can make keys itself, or go on with what was begun: mint, add, check,
        promote, wait, retire, revoke. *with_key* makes such a service with the given key, to check it.

        It waits at most *wait* seconds until the old key was not used for *unused* seconds; where that is not enough,
        the next run goes on. It waits for a minute, too, until the service and all running processes have the new key;
        *at_once*, for a page, it leaves that to the next run after a few seconds.

        Raises ConfigurationError for a service that makes no keys, CallError.
        """
        made = with_key or _same(service)
        return await perform(
            self.store, rotate(self, service, made, actor=actor, unused=unused, wait=wait, force=force, at_once=at_once)
        )

    def rotate_sync(
        self,
        service: Service,
        with_key: Callable[[Secret], Service] | None = None,
        *,
        unused: float = UNUSED,
        wait: float = 0.0,
        actor: str = "code",
        force: bool = False,
        at_once: bool = False,
    ) -> Rotated:
        """As ``rotate``, blocking."""
        made = with_key or _same(service)
        return perform_sync(
            self.store, rotate(self, service, made, actor=actor, unused=unused, wait=wait, force=force, at_once=at_once)
        )


def _same(service: Service) -> Callable[[Secret], Service]:
    """One like *service*, with another key and guards of its own."""

    def made(key: Secret) -> Service:
        from moorline.calls.guards import Guards

        options: dict[str, Any] = {"policy": service.policy, "wire": service.wire, "clock": service.clock}
        options["guards"] = Guards(service.clock)  # what a key that is not in use meets is no news of the service
        return type(service)(key, base_url=service.base_url, **(options | service.parameters))

    return made


def _names(connection: Any) -> list[str]:
    found = {name for name, _, _ in sql.uses(connection)}
    return sorted(found | set(sql.load_all(connection)))
