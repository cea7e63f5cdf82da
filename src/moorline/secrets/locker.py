"""``Secrets``: where the credentials of a process are looked for, by the names that they customarily have."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from moorline.clock import SYSTEM, Clock
from moorline.errors import ConfigurationError, MoorlineError, SecretUnavailable
from moorline.secrets.secret import Secret
from moorline.secrets.sources import kind
from moorline.secrets.sources.base import Address, Place, Source, Writable
from moorline.secrets.sources.environment import Variable
from moorline.secrets.versions import NOTHING, Found, Version

if TYPE_CHECKING:
    from moorline.secrets.kept import Keeper, Kept

__all__ = ["Arrange", "KeyOf", "SecretAt", "Secrets", "secrets", "source"]

Arrange = Callable[[str, tuple[Version, ...]], tuple[Version, ...]]
_ENVIRONMENT: Final = ("env:",)
_AT_ONCE: Final = 8


class Secrets:
    """Credentials by name, which is the customary variable: ``STRIPE_SECRET_KEY``. Unless told otherwise they are
    looked for in the environment alone.

    ``arrange(name, versions)`` may put the versions of a credential in another order, leave some out and add others:
    the first is sent, all are accepted. It is asked at each call, and gives back the same tuple where nothing changes.
    ``retired(name)`` gives those that it leaves out as they are retired, so that it can be said who still uses one.

    With *background* threads fetch anew what is about to be too old; without, ``tend`` does.
    """

    def __init__(self, *, clock: Clock = SYSTEM, background: bool = True) -> None:
        self.arrange: Arrange | None = None
        self.retired: Callable[[str], tuple[Secret, ...]] = lambda _: ()
        self._clock = clock
        self._background = background
        self._lock = threading.RLock()
        self._arranged: dict[str, tuple[Found, Found]] = {}
        self._attached: dict[str, Source] = {}
        self._sources: tuple[str, ...] = _ENVIRONMENT
        self._names: dict[str, str] = {}
        self._keep: float = 86_400.0
        self._ttl: float | None = None
        self._forget()
        _all.add(self)

    def _forget(self) -> None:
        self.generation = getattr(self, "generation", 0) + 1
        self._places: dict[str, tuple[Place, ...]] = {}
        self._made: dict[tuple[str, bool], Source] = {}
        self._kept: dict[tuple[Source, str], Kept] = {}
        self._keepers: dict[str, Keeper] = {}

    # --- being told where

    def configure(
        self,
        sources: Iterable[str] = _ENVIRONMENT,
        names: Mapping[str, str] | None = None,
        *,
        keep: float = 86_400.0,
        ttl: float | None = None,
    ) -> None:
        """Look for every name in *sources*, in that order, and for each of *names* where that says. Nothing is asked
        yet; what was known of other sources is forgotten.

        *keep* is for how many seconds a last good value is used while its source is down, *ttl* after how many each
        source is asked anew (by default what fits the source). Raises ConfigurationError for a URL that is none.
        """
        chosen, where = tuple(sources), dict(names or {})
        for url in chosen:
            if Address.of(url).field is not None:
                raise ConfigurationError(f"{url}: a source of all secrets has no '#'; that belongs to a name")
        for url in where.values():
            Address.of(url)
        with self._lock:
            if (chosen, where, keep, ttl) == (self._sources, self._names, self._keep, self._ttl):
                return
            self.close()
            self._sources, self._names, self._keep, self._ttl = chosen, where, keep, ttl

    def attach(self, source: Source) -> None:
        """Let *source* be what the URL ``scheme:`` of its scheme means here."""
        with self._lock:
            self._attached[source.scheme] = source
            source.clock = self._clock
            if isinstance(source, Writable):
                source.changed = self.refresh
            for name, places in list(self._places.items()):
                if any(not isinstance(one, Variable) for one in places):
                    del self._places[name]
            self.generation += 1
            self._kept = {at: kept for at, kept in self._kept.items() if at[0].scheme != source.scheme}

    def close(self) -> None:
        """Forget what is known, and let go of threads and connections. What is asked after that is fetched anew."""
        with self._lock:
            for keeper in self._keepers.values():
                keeper.close()
            for made in self._made.values():
                made.close()
            self._forget()

    @property
    def configured(self) -> bool:
        """Whether there is anything but the environment."""
        return bool(self._names) or self._sources != _ENVIRONMENT

    # --- giving

    def versions(self, name: str) -> tuple[Version, ...]:
        """All usable versions of the credential, in the order of their use; none where there is none.

        Raises ConfigurationError for a name that is none, SecretUnavailable where its source does not answer.
        """
        return self.found(name).versions

    def load(self, name: str) -> Secret | None:
        """The value to send: the first version, and without ``arrange`` never a previous one; None where there is none.

        Raises as ``versions``, and ConfigurationError when what is there cannot be used.
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

        Raises as ``versions``, and ConfigurationError when some of what is there cannot be used.
        """
        found = self.found(name)
        for problem in found.problems:
            raise type(problem)(*problem.args)
        return found.secrets

    def found(self, name: str) -> Found:
        """What ``versions`` gives, with the errors of what cannot be used. The same object as long as nothing changes.

        Raises as ``versions``.
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

    def refresh(self, name: str) -> None:
        """Fetch the credential anew, blocking: a service has refused it, or it was just put there. Failures are logged,
        and the last good value stays.
        """
        for place in self._places.get(name) or self._looked_for(name):
            place.refresh()

    def at(self, url: str, called: str = "") -> Place:
        """Where that URL leads, for a credential that has no customary name. Raises ConfigurationError."""
        address = Address.of(url)
        with self._lock:
            return self._place(address, address.field or called, called or url, whole=address.field is None)

    def writable(self, name: str) -> Writable | None:
        """The first source of that name that values can be put into. Raises ConfigurationError."""
        with self._lock:
            for url in self._urls(name):
                address = Address.of(url)
                if address.scheme != "env":
                    found = self._source(address, whole=False)
                    if isinstance(found, Writable):
                        return found
        return None

    # --- at start, and while it runs

    def check(self, wanted: Mapping[str, str]) -> None:
        """Load each name of *wanted*, blocking; the values say what it is for.

        Raises ConfigurationError for all that are not there, or cannot be had: each with what it is for, and where it
        was looked for. And for a source that cannot be.
        """
        with self._lock:
            for address in map(Address.of, self._sources):
                if address.scheme != "env":
                    self._source(address, whole=False)
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="moorline-secrets-check") as threads:
            failures = [one for one in threads.map(self._missing, wanted.items()) if one]
        if failures:
            raise ConfigurationError("; ".join(failures))

    def _missing(self, one: tuple[str, str]) -> str:
        name, what_for = one
        said = f"{name} ({what_for})" if what_for else name
        try:
            found = self.found(name)
        except SecretUnavailable as error:
            return f"{said} cannot be had: {error}"
        except MoorlineError as error:
            return f"{said}: {error}"
        if found.versions:
            return ""
        return f"{said} cannot be used: {found.problems[0]}" if found.problems else self._nowhere(said, name)

    def _nowhere(self, said: str, name: str) -> str:
        return f"{said} is not in {self.where(name)}"

    def tend(self) -> None:
        """Look for changes, and fetch what is due: what the threads of *background* do."""
        for keeper in list(self._keepers.values()):
            keeper.run_once()

    # --- finding the places

    def _urls(self, name: str) -> tuple[str, ...]:
        named = self._names.get(name)
        return self._sources if named is None else (named,)

    def _looked_for(self, name: str) -> tuple[Place, ...]:
        with self._lock:
            places = []
            for url in self._urls(name):
                address = Address.of(url)
                whole = name in self._names and address.field is None
                places.append(self._place(address, address.field or name, name, whole=whole))
            made = self._places[name] = tuple(places)
            return made

    def _place(self, address: Address, name: str, called: str, *, whole: bool) -> Place:
        if address.scheme == "env":
            return Variable(address.path or name)
        from moorline.secrets.kept import Keeper, Kept, Shelf, Terms

        found = self._source(address, whole=whole)
        unit = found.unit(name)
        kept = self._kept.get((found, unit))
        if kept is None:
            kept = self._kept[found, unit] = Kept(found, unit, self._clock, Terms(self._keep, self._ttl))
            keeper = self._keepers.get(found.scheme)
            if keeper is None:
                keeper = self._keepers[found.scheme] = Keeper(found.scheme, self._clock)
            keeper.add(kept)
            if self._background:
                keeper.start()
        return Shelf(kept, name, called)

    def _source(self, address: Address, *, whole: bool) -> Source:
        attached = self._attached.get(address.scheme)
        if attached is not None:
            return attached
        at = str(address._replace(field=None)), whole
        if at not in self._made:
            made = self._made[at] = kind(address.scheme)(address, whole=whole)
            made.clock = self._clock
        return self._made[at]

    def _in_order(self, name: str, found: Found, arrange: Arrange) -> Found:
        versions = arrange(name, found.versions)
        if versions is found.versions:
            return found
        known = self._arranged.get(name)
        if known is None or known[0] is not found or known[1].versions is not versions:
            known = self._arranged[name] = found, _arranged(found, versions)
        return known[1]

    def _forked(self) -> None:
        self._lock = threading.RLock()
        for keeper in self._keepers.values():
            keeper.forked()


def _arranged(found: Found, versions: tuple[Version, ...]) -> Found:
    made = Found(versions, found.problems)
    made.current = versions[0].secret if versions else None  # whatever its source calls it
    return made


class SecretAt:
    """A credential at a URL, as a service takes it in place of a key: what is there now, and asked anew after a 401.

    Raises ConfigurationError for a URL that is none.
    """

    def __init__(self, url: str, *, among: Secrets | None = None) -> None:
        self.url = str(Address.of(url))
        self._among = among
        self._known: tuple[Secrets, int, Place] | None = None

    def __repr__(self) -> str:
        return f"<SecretAt {self.url}>"

    def __call__(self) -> Secret:
        """The value to send. Raises ConfigurationError where there is none, SecretUnavailable where nobody can say."""
        found = self._place().now()
        if found.current is not None:
            return found.current
        for problem in found.problems:
            raise type(problem)(*problem.args)
        raise ConfigurationError(f"there is no secret at {self.url}")

    def versions(self) -> tuple[Version, ...]:
        """All that are there, in the order of their use. Raises SecretUnavailable."""
        return self._place().now().versions

    def refresh(self) -> None:
        """Fetch it anew, blocking."""
        self._place().refresh()

    async def arefresh(self) -> None:
        """As ``refresh``, without blocking the loop."""
        await asyncio.to_thread(self.refresh)

    def _place(self) -> Place:
        among = self._among or secrets()
        known = self._known
        if known is None or known[0] is not among or known[1] != among.generation:
            known = self._known = among, among.generation, among.at(self.url)
        return known[2]


source = SecretAt


class KeyOf:
    """What asks for the credential of that name anew after a 401, for ``Renewal``: ``refresh`` is there only where
    something is cached.
    """

    def __init__(self, name: Callable[[], str]) -> None:
        self._name = name

    @property
    def refresh(self) -> Callable[[], Any] | None:
        """None where the environment is all: it is looked at each time."""
        return self._anew if secrets().configured else None

    @property
    def arefresh(self) -> Callable[[], Any] | None:
        """As ``refresh``, without blocking the loop."""
        return partial(asyncio.to_thread, self._anew) if secrets().configured else None

    def _anew(self) -> None:
        name = self._name()
        if name:
            secrets().refresh(name)


def secrets() -> Secrets:
    """Those of this process."""
    return _PROCESS


_all: Final[weakref.WeakSet[Secrets]] = weakref.WeakSet()
_PROCESS: Final = Secrets()


def _after_fork() -> None:
    for one in list(_all):
        one._forked()  # noqa: SLF001 (of this module)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
