"""``Secrets``: where the credentials of a process are looked for, by the names that they customarily have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from moorline.secrets.secret import Secret
from moorline.secrets.sources.base import Place
from moorline.secrets.sources.environment import Variable
from moorline.secrets.versions import NOTHING, Found, Version

__all__ = ["Arrange", "Secrets", "secrets"]

Arrange = Callable[[str, tuple[Version, ...]], tuple[Version, ...]]


class Secrets:
    """Credentials by name, which is the customary variable: ``STRIPE_SECRET_KEY``. Unless told otherwise they are
    looked for in the environment alone.

    ``arrange(name, versions)`` may put the versions of a credential in another order, leave some out and add others:
    the first is sent, all are accepted. It is asked at each call, and gives back the same tuple where nothing changes.
    """

    def __init__(self) -> None:
        self.arrange: Arrange | None = None
        self._places: dict[str, tuple[Place, ...]] = {}
        self._arranged: dict[str, tuple[Found, Found]] = {}

    def versions(self, name: str) -> tuple[Version, ...]:
        """All usable versions of the credential, in the order of their use; none where there is none.

        Raises ConfigurationError for a name that is none.
        """
        return self.found(name).versions

    def load(self, name: str) -> Secret | None:
        """The value to send: the first version, and without ``arrange`` never a previous one; None where there is none.

        Raises ConfigurationError when *name* is no name, and when what is there cannot be used.
        """
        if self.arrange is None and name in self._places:  # each call comes by here
            found = self._places[name][0].now()
            if found.current is not None:
                return found.current
        found = self.found(name)
        if found.current is None and found.failure is not None:
            raise type(found.failure)(*found.failure.args)
        return found.current

    def load_all(self, name: str) -> tuple[Secret, ...]:
        """All accepted values, in the order of their use, each once.

        Raises ConfigurationError when *name* is no name, and when some of what is there cannot be used.
        """
        found = self.found(name)
        for problem in found.problems:
            raise type(problem)(*problem.args)
        return found.secrets

    def found(self, name: str) -> Found:
        """What ``versions`` gives, with the errors of what cannot be used. The same object as long as nothing changes.

        Raises ConfigurationError for a name that is none.
        """
        for place in self._places.get(name) or self._looked_for(name):
            found = place.now()
            if found.versions or found.problems:
                break
        else:
            found = NOTHING
        return found if self.arrange is None else self._in_order(name, found, self.arrange)

    def where(self, name: str) -> str:
        """Where the credential is looked for, for errors: ``the environment``."""
        return " or ".join(place.where for place in self._places.get(name) or self._looked_for(name))

    def _looked_for(self, name: str) -> tuple[Place, ...]:
        made = self._places[name] = (Variable(name),)
        return made

    def _in_order(self, name: str, found: Found, arrange: Arrange) -> Found:
        versions = arrange(name, found.versions)
        if versions is found.versions:
            return found
        known = self._arranged.get(name)
        if known is None or known[0] is not found or known[1].versions is not versions:
            known = self._arranged[name] = found, _arranged(found, versions)
        return known[1]


def _arranged(found: Found, versions: tuple[Version, ...]) -> Found:
    made = Found(versions, found.problems)
    made.current = versions[0].secret if versions else None  # whatever its source calls it
    return made


_PROCESS: Final = Secrets()


def secrets() -> Secrets:
    """Those of this process."""
    return _PROCESS
