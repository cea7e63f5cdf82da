"""``Tally``: what has become of using one version of a credential, counted in this process, with nothing but additions.

A ``Secret`` carries the tally of its version, so that who uses it has it at hand. A rotation writes them down now and
then; without one they only remember which version a service has refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from moorline.telemetry import logger

if TYPE_CHECKING:
    from moorline.secrets.secret import Secret
    from moorline.secrets.versions import Version

__all__ = ["Tally", "beside", "instead", "refused"]

_SHUNNED: Final = 300.0
"""Seconds for which a version that was refused is not tried again, as long as there is another one."""

log = logger("secrets")


class Tally:
    """Uses that were *accepted* and *refused*; seconds since the epoch, but ``shunned_until`` is on the monotonic clock
    (0: it is not). ``called`` is where the version was found, as its source has it; "" where nobody follows it.
    """

    __slots__ = (
        "accepted",
        "called",
        "first_at",
        "last_at",
        "name",
        "refused",
        "refused_at",
        "shunned_until",
        "version",
    )

    def __init__(self, name: str, version: str) -> None:
        self.name = name
        self.version = version
        self.called = ""
        self.accepted = self.refused = 0
        self.first_at: float | None = None
        self.last_at: float | None = None
        self.refused_at: float | None = None
        self.shunned_until = 0.0

    def worked(self, at: float) -> None:
        """It was used, and accepted."""
        self.accepted += 1
        self.last_at = at
        if self.first_at is None:
            self.first_at = at
        if self.shunned_until:
            self.shunned_until = 0.0
            log.info("key_accepted_again", variable=self.name, version=self.version)


def instead(first: Secret, versions: Sequence[Version], now: float) -> Secret:
    """What to send in the place of *first*, which was refused a while ago: the next version that was not. The first
    itself where all of them were, and when it is time to see whether it is accepted again.
    """
    tally = first.tally
    if tally is None or now >= tally.shunned_until:
        if tally is not None:
            tally.shunned_until = 0.0
        return first
    for version in versions:
        other = version.secret.tally
        if other is None or not other.shunned_until or now >= other.shunned_until:
            return version.secret
    return first


def beside(key: Secret, versions: Sequence[Version], now: float) -> Secret | None:
    """The first version that is another one than *key*, which is one, and was not refused of late."""
    others = [one.secret for one in versions if one.secret != key]
    if len(others) == len(versions):
        return None
    return next((one for one in others if one.tally is None or now >= one.tally.shunned_until), None)


def refused(name: str, key: Secret, versions: Sequence[Version], *, service: str, now: float, at: float) -> bool:
    """A service has refused *key*: shun it for a while, and say so. Whether there is another version to send."""
    known = next((one for one in versions if one.secret == key), None)
    if known is None:
        return False
    tally = known.secret.tally
    if tally is None:
        tally = known.secret.tally = Tally(name, known.id)
    # Calls that are under way find out together; one of them tells.
    told = tally.shunned_until > now
    tally.refused += 1
    tally.refused_at = at
    tally.shunned_until = now + _SHUNNED
    other = instead(versions[0].secret, versions, now)
    if other == key or (other.tally is not None and other.tally.shunned_until > now):
        if len(versions) > 1 and not told:
            log.error("key_refused", service=service, variable=name, version=tally.version, use="all were refused")
        return False
    if not told:
        used = next(one for one in versions if one.secret is other)
        log.warning("key_refused", service=service, variable=name, version=tally.version, use=_called(used))
    return True


def _called(version: Version) -> str:
    return version.id if version.secret.tally is None else version.secret.tally.version
