"""``Account``: where a service is asked, for whom, and with which credential; the base of ``Service``."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final

from moorline.calls.dialects import Credentials, Endpoints, base_address
from moorline.calls.parameters import parameters_of
from moorline.errors import ConfigurationError
from moorline.secrets.locker import secrets
from moorline.secrets.secret import Secret
from moorline.secrets.tally import beside, instead, refused

if TYPE_CHECKING:
    from moorline.calls.renewal import FetchedKey
    from moorline.clock import Clock

__all__ = ["Account", "KeySource"]

KeySource = str | Secret | Callable[[], "str | Secret"]
_SANDBOX: Final = "MOORLINE_SANDBOX_URL"
_HOLE: Final = re.compile(r"\{([a-z_]+)\}")
_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_LABELS: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*", re.ASCII)
# Each call looks for this variable, and os.environ raises and catches for one that is not there: that is a twentieth of
# a call. It says at once what it has in the dictionary behind it, where there is one.
_environment: Final[dict[Any, Any] | None] = getattr(os.environ, "_data", None)
_in_environment: Final = os.environ.__contains__ if _environment is None else _environment.__contains__
_SANDBOX_KEY: Final[Any] = _SANDBOX if _environment is None else os.environ.encodekey(_SANDBOX)


class Account:
    """What one object of a service was told of an account, and what the environment says of it at each use."""

    name: ClassVar[str]
    endpoints: ClassVar[Endpoints]
    credentials: ClassVar[Credentials]
    fetched: FetchedKey | None = None
    clock: Clock

    def __init__(
        self,
        api_key: KeySource | None,
        base_url: str | None,
        region: str | None,
        parameters: Mapping[str, str | None],
    ) -> None:
        self.parameters = self._checked_parameters(parameters)
        self._key = self._checked_key(api_key)
        self._base_url = None if base_url is None else base_address(base_url, f"{self.name}.base_url")
        self._region = self._checked_region(region)
        self._sandbox_key: tuple[str, Secret] | None = None

    @property
    def base_url(self) -> str:
        """Where requests go: the argument, else the sandbox if the environment names one, else the endpoint."""
        if self._base_url is not None:
            return self._base_url
        if _in_environment(_SANDBOX_KEY) and (sandbox := os.environ.get(_SANDBOX)):
            return f"{base_address(sandbox, _SANDBOX)}/{self.name}"
        return self._endpoint()

    def _endpoint(self) -> str:
        """The service's own address."""
        return self._filled(self.endpoints.of(self.region))

    def _filled(self, address: str) -> str:
        """*address* with the parameters that stand in it."""
        return address if "{" not in address else _HOLE.sub(self._in_host, address)

    def _in_host(self, hole: re.Match[str]) -> str:
        """A parameter as a part of a host. What is no DNS label could lead the credential to another one."""
        value = str(getattr(self, hole[1])).lower()
        if not _LABELS.fullmatch(value):
            raise ConfigurationError(f"{self.name}.{hole[1]}: it stands in the service's address, but is no DNS label")
        return value

    @property
    def region(self) -> str | None:
        """The region that was given, None for the usual one. A service whose region stands in the environment overrides
        it.
        """
        return self._region

    def address(self, host: str = "") -> str:
        """Where requests to that one of ``Endpoints.hosts`` go; the base URL itself, unless it is the service's own."""
        if not host or self._base_url is not None or os.environ.get(_SANDBOX):
            return self.base_url
        return self._filled(self.endpoints.hosts[host].of(self.region))

    def located(self, url: str) -> str:
        """Where the request to *url* goes, for services whose token says so. It is asked once the token is there."""
        return url

    def key(self) -> Secret:
        """The credential to send now: the configured one, or the one that was fetched with it.

        Raises ConfigurationError, saying where it was looked for, when there is none.
        """
        return self.secret() if self.fetched is None else self.fetched.current()

    def secret(self) -> Secret:
        """The configured credential. Raises as ``key``."""
        given = self._key
        if given is not None:
            return given if isinstance(given, Secret) else self._fetched(given())
        name = self._key_variable()
        found = secrets().load(name) if name else None
        if found is not None:
            tally = found.tally
            if tally is None or not tally.shunned_until:
                return found
            return instead(found, secrets().versions(name), self.clock.monotonic())
        if self.in_sandbox and self.credentials.sandbox:
            return self._of_sandbox(os.environ[_SANDBOX])
        own = type(self).__name__
        if not name:
            raise ConfigurationError(
                f"{self.name} has no key of its own: users connect accounts of theirs (app.connect({own})), and "
                f"app.connections.get(owner, {own}) asks it for them"
            )
        raise ConfigurationError(
            f"{self.name} has no key: set {name} in {secrets().where(name)}, or pass api_key to {own}()"
        )

    def other(self, key: Secret) -> Secret | None:
        """Another accepted version of the configured *key*, which has lacked a right; None where there is none."""
        name = self._key_variable()
        if self._key is not None or self.fetched is not None or not name:
            return None
        return beside(key, secrets().versions(name), self.clock.monotonic())

    def refused(self, key: Secret) -> bool:
        """The service has refused the configured *key*: whether there is another accepted version of it, which is then
        sent for some minutes, until the first is tried again. Keys that were given as an argument have no others.
        """
        name, now = self._key_variable(), self.clock.monotonic()
        if self._key is not None or not name:
            return False
        return refused(name, key, secrets().versions(name), service=self.name, now=now, at=self.clock.wall())

    def _of_sandbox(self, sandbox: str) -> Secret:
        known = self._sandbox_key
        if known is None or known[0] != sandbox:
            made = self.credentials.sandbox.replace("{sandbox}", sandbox.rstrip("/"))
            known = self._sandbox_key = sandbox, Secret(made, name=f"the sandbox key of {self.name}")
        return known[1]

    @property
    def key_ends(self) -> tuple[str, float] | None:
        """What the configured credential is called, and when it ends (seconds since the epoch), where that is known."""
        given: object = self._key
        if given is None:
            name = self._key_variable()
            try:
                given = secrets().load(name) if name else None
            except ConfigurationError:
                return None  # a call says what is wrong with it
        if not isinstance(given, Secret) or given.not_after is None:
            return None
        return given.name or f"{self.name}.api_key", given.not_after

    @property
    def variable(self) -> str | None:
        """The variable by whose name the credential is found; None where one was given as an argument, or is for no
        variable to hold.
        """
        return None if self._key is not None else self._key_variable() or None

    @property
    def needed_variable(self) -> str | None:
        """The variable that has to hold the credential; None where one was given, or can be had elsewhere."""
        return None if self._key is not None or self.in_sandbox else self._key_variable() or None

    @property
    def key_origin(self) -> str:
        """Where the configured credential was found, such as ``env:STRIPE_SECRET_KEY``; "" where it is not known.

        Raises SecretUnavailable where a source does not answer.
        """
        given = self._key
        if given is not None:
            return getattr(given, "url", "") or "api_key"
        name = self._key_variable()
        found = secrets().versions(name) if name else ()
        return found[0].origin if found else "the sandbox" if self.in_sandbox else ""

    def _key_variable(self) -> str:
        """The variable that holds the credential, empty where none does. A service that takes several kinds overrides
        it.
        """
        return self.credentials.env

    @property
    def in_sandbox(self) -> bool:
        """Whether the environment points it at the sandbox."""
        return bool(os.environ.get(_SANDBOX)) and self._base_url is None

    def authorized(
        self,
        key: Secret,
        method: str,  # noqa: ARG002 (for those that sign the whole request)
        url: str,  # noqa: ARG002
        headers: dict[str, str],
        body: bytes | None,  # noqa: ARG002
    ) -> dict[str, str]:
        """All headers of one attempt: *headers* and those that prove who sends it. A service that signs its requests
        overrides it.
        """
        return {**headers, **self.credentials.headers(key)}

    def presented(self, key: Secret, url: str, body: bytes | None) -> tuple[str, bytes | None]:  # noqa: ARG002
        """Address and body of one attempt. A service that wants its key there, and not in a header, overrides it: what
        an operation plans is shown and kept, and holds no key.
        """
        return url, body

    def renewed_credential(self, successor: Secret) -> None:
        """The service gave another credential in the place of the configured one: its source may want to keep it."""
        rotated = getattr(self._key, "rotated", None)
        if callable(rotated):
            rotated(successor)

    def keeps_successors(self) -> bool:
        """Whether the configured credential's source keeps such another credential itself."""
        return callable(getattr(self._key, "rotated", None))

    def is_own(self, url: str) -> bool:  # noqa: ARG002
        """Whether a Plan may name *url*, which is of another origin than ``base_url``. A service that has further hosts
        overrides it: for those alone, as requests there carry what ``authorized`` gives them.
        """
        return False

    def _fetching(self) -> FetchedKey | None:
        """What fetches the key that requests carry, for services whose configured credential is not that key."""
        return None

    def _checked_parameters(self, given: Mapping[str, str | None]) -> dict[str, str]:
        known = parameters_of(type(self))
        for name in given:
            if name not in known:
                words = ", ".join(sorted(known)) or "none besides those of all services"
                raise ConfigurationError(f"{type(self).__name__}() takes no {name!r}; its own arguments: {words}")
        return {
            name: known[name].checked(self.name, value, "the argument")
            for name, value in given.items()
            if value is not None
        }

    def _checked_key(self, given: KeySource | None) -> Secret | Callable[[], str | Secret] | None:
        if given is None or isinstance(given, Secret) or callable(given):
            return given
        return Secret(given, name=f"{self.name}.api_key")

    def _fetched(self, value: str | Secret) -> Secret:
        return value if isinstance(value, Secret) else Secret(value, name=f"{self.name}.api_key")

    def _checked_region(self, region: str | None) -> str | None:
        if region is not None and region not in self.endpoints.regions:
            known = ", ".join(sorted(self.endpoints.regions)) or "none"
            raise ConfigurationError(f"{self.name}.region {region!r} is unknown; known: {known}")
        return region
