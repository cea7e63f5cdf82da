"""Secrets in HashiCorp Vault or OpenBao: ``vault:secret/pay#stripe_key``, the field ``stripe_key`` of what lies at
``pay`` in the key-value engine that is mounted at ``secret`` (version 2, or 1).

``VAULT_ADDR`` and ``VAULT_NAMESPACE`` say where, unless the URL does (``vault:secret/pay?address=…&namespace=…``);
``VAULT_CACERT`` names a certificate authority of your own; ``vault_session`` says how we prove who we are. Of version 2
the version before the current one is the previous value. Facts: services/secrets/vault.md; contract: vault.json.
"""

from __future__ import annotations

import json
import os
import re
import threading
import weakref
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Final, NamedTuple

from moorline.calls.secret_sources.vault_session import Session
from moorline.clock import Clock
from moorline.errors import CallError, ConfigurationError, NotFound, PermissionDenied, SecretUnavailable
from moorline.secrets.sources.base import Address, Content, Source
from moorline.secrets.versions import Found, Stage

__all__ = ["Vault"]

_PATH: Final = re.compile(r"[^\s/#?]+(?:/[^\s/#?]+)+")
_sessions: weakref.WeakValueDictionary[tuple[str, str, int], Session] = weakref.WeakValueDictionary()
_sessions_lock: Final = threading.Lock()


class _Mount(NamedTuple):
    path: str
    version: int


class Vault(Source):
    """What lies at one path of Vault."""

    scheme: ClassVar[str] = "vault"
    ttl: ClassVar[float] = 60.0

    def __init__(self, address: Address, *, whole: bool = False) -> None:
        super().__init__(address, whole=whole)
        path, self._options = address.options("address", "namespace", "mount", "version")
        self._path = path.strip("/")
        if not _PATH.fullmatch(self._path) or ".." in self._path.split("/"):
            raise ConfigurationError(f"{self.address}: expected a mount and a path, such as vault:secret/pay#key")
        if self._options.get("version", "2") not in ("1", "2"):
            raise ConfigurationError(f"{self.address}: version must be 1 or 2, that of the key-value engine")
        self._mount = self._told_mount()
        self._session: Session | None = None

    def unit(self, name: str) -> str:
        """All that lies there."""
        del name
        return ""

    def where(self, name: str) -> str:
        """The path, and the field."""
        return f"vault:{self._path}" + (f"#{name}" if name else "")

    def fetch(self, unit: str) -> Sequence[Content]:  # noqa: ARG002 (there is one)
        """The current version, and the one before it. A version that is deleted or destroyed is not there."""
        try:
            session = self._opened()
            mount = self._mount = self._mount or self._found_mount(session)
            return self._of_first(session) if mount.version == 1 else self._of_second(session, mount)
        except CallError as error:
            raise SecretUnavailable(f"vault:{self._path}: {error}") from error

    def picked(self, contents: Sequence[Content], name: str, called: str) -> Found:
        """Of a URL without a field: that of the credential's name, or the only one."""
        fields = (contents[0].fields if contents else None) or {}
        if self.whole and name not in fields and len(fields) == 1:
            name = next(iter(fields))
        return super().picked(contents, name, called)

    def tend(self) -> None:
        """Keep the token alive."""
        if self._session is not None:
            self._session.tend()

    def close(self) -> None:
        """Close the connections; others who use them make new ones."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def _opened(self) -> Session:
        if self._session is None:
            server = self._options.get("address") or os.environ.get("VAULT_ADDR", "").strip()
            namespace = self._options.get("namespace") or os.environ.get("VAULT_NAMESPACE", "")
            if not server:
                raise ConfigurationError(
                    f"vault:{self._path}: where is it? set VAULT_ADDR, https://vault.example.com:8200"
                )
            self._session = _session(server, namespace.strip(" /"), self.clock)
        return self._session

    def _told_mount(self) -> _Mount | None:
        mount, version = self._options.get("mount"), self._options.get("version")
        if mount is None and version is None:
            return None
        named = (mount or self._path.partition("/")[0]).strip("/")
        if not self._path.startswith(f"{named}/"):
            raise ConfigurationError(f"{self.address}: the path does not begin with its mount")
        return _Mount(named, int(version or 2))

    def _found_mount(self, session: Session) -> _Mount:
        """Where the engine is mounted, and of which version it is: everybody who may read there may ask."""
        try:
            said = session.read(f"sys/internal/ui/mounts/{self._path}")
        except (NotFound, PermissionDenied):
            return _Mount(self._path.partition("/")[0], 2)
        data = _mapping(said.get("data"))
        path = str(data.get("path") or "").strip("/") or self._path.partition("/")[0]
        return _Mount(path, 1 if _mapping(data.get("options")).get("version") in (None, "1", 1) else 2)

    def _of_first(self, session: Session) -> Sequence[Content]:
        said = session.read(self._path, accept=_absent)
        data = _mapping(said.get("data"))
        return (Content(fields=_fields(data)),) if data else ()

    def _of_second(self, session: Session, mount: _Mount) -> Sequence[Content]:
        path = f"{mount.path}/data/{self._path.removeprefix(mount.path + '/')}"
        current, version = self._version(session, path, "current")
        if current is None:
            return ()
        previous = self._version(session, path, "previous", version - 1)[0] if version > 1 else None
        return (current,) if previous is None else (current, previous)

    def _version(self, session: Session, path: str, stage: Stage, number: int = 0) -> tuple[Content | None, int]:
        """The version of that number, by default the last, and its number; None where it is no more."""
        said = session.read(path, query={"version": number} if number else None, accept=_absent)
        held = _mapping(said.get("data"))
        facts = _mapping(held.get("metadata"))
        version = facts.get("version")
        if not isinstance(held.get("data"), dict) or facts.get("destroyed") or not isinstance(version, int):
            return None, 0
        until = _moment(facts.get("deletion_time"))
        return Content(str(version), stage, fields=_fields(held["data"]), not_after=until), version


def _session(server: str, namespace: str, clock: Clock) -> Session:
    with _sessions_lock:
        known = _sessions.get((server, namespace, id(clock)))
        if known is None:
            known = _sessions[server, namespace, id(clock)] = Session(server, namespace, clock)
        return known


def _absent(error: CallError) -> dict[str, Any] | None:
    """A path where nothing is, or a version that was deleted: both are 404, the second with a body."""
    return {} if isinstance(error, NotFound) else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _fields(data: Mapping[str, Any]) -> dict[str, str]:
    """Texts as they are, other values as JSON."""
    there = {name: value for name, value in data.items() if value is not None}
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in there.items()}


def _moment(text: Any) -> float | None:
    """The time of RFC 3339, with up to nine digits of a second, in seconds since the epoch; None for none."""
    if not isinstance(text, str) or not text:
        return None
    try:
        return datetime.fromisoformat(re.sub(r"(\.[0-9]{6})[0-9]+", r"\1", text)).timestamp()
    except ValueError:
        return None
