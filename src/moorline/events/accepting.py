"""Which secrets a service's deliveries may be signed by: what is found, looked at for each delivery."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from moorline.errors import ConfigurationError
from moorline.secrets.locker import secrets as of_process
from moorline.telemetry import logger

if TYPE_CHECKING:
    from moorline.events.scheme import Scheme
    from moorline.events.signatures import Key

__all__ = ["EnvironmentSecrets", "named", "retired", "used"]

log = logger("events")


class EnvironmentSecrets:
    """The secrets of a service by its name: those of its scheme's variable, else those that ``otherwise`` gives.

    They are those of this process (``moorline.secrets.locker``): the environment's, unless it is told otherwise.
    """

    def __init__(
        self,
        schemes: Callable[[str], Scheme | None],
        otherwise: Callable[[str], Sequence[Key]] | None = None,
    ) -> None:
        self._schemes = schemes
        self._otherwise = otherwise
        self._told: dict[str, Sequence[ConfigurationError]] = {}

    def __call__(self, service: str) -> Sequence[Key]:
        """Raises ConfigurationError when a variable holds something, and nothing of it can be used."""
        scheme = self._schemes(service)
        if scheme is None:
            return ()
        found = self.of(scheme.env)
        return found if found or self._otherwise is None else self._otherwise(service)

    def of(self, variable: str) -> Sequence[Key]:
        """The secrets that the variable holds, and those before them, without what cannot be used; that is logged once.
        None that is retired: nothing is believed for its sake, even where no other is left.

        Raises ConfigurationError when nothing of what is set can be used.
        """
        found = of_process().found(variable)
        if found.problems and self._told.get(variable) is not found.problems:
            self._told[variable] = found.problems
            for problem in found.problems:
                log.warning("secret_unusable", variable=variable, reason=str(problem))
        if found.problems and not found.secrets:
            raise ConfigurationError(str(found.problems[0]))
        if found.versions and found.versions[0].stage == "retired":
            return ()
        return found.secrets


def named(secrets: Sequence[Key], index: int) -> str:
    """What the secret at that place is called: its variable, and which of several in it; where it was found elsewhere,
    the place and the version there.
    """
    if index >= len(secrets):
        return ""
    tally = getattr(secrets[index], "tally", None)
    if tally is not None and tally.called:
        found: str = tally.called  # by its source, whatever the order of use is
        return found
    name: str = getattr(secrets[index], "name", "")
    if not name:
        return ""
    before = sum(getattr(secret, "name", "") == name for secret in secrets[:index])
    return f"{name}#{before + 1}" if before else name


def used(secrets: Sequence[Key], at: float) -> None:
    """Count that a delivery was signed with these, where a rotation wants to know."""
    for secret in secrets:
        tally = getattr(secret, "tally", None)
        if tally is not None:
            tally.worked(at)


def retired(variable: str, signed_by: Callable[[Sequence[Key]], int | None], at: float) -> str:
    """The fingerprint of the retired secret that a delivery was signed with, which *signed_by* says the place of; empty
    where it was none. It is counted: the sender has still to be told of the new one.
    """
    known = of_process().retired(variable)
    place = signed_by(known) if known else None
    tally = None if place is None else known[place].tally
    if tally is None:
        return ""
    tally.refused += 1
    tally.refused_at = at
    return tally.version
