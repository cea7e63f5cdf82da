"""The keys that requests to AWS are signed with: given ones, the environment's, or what AWS's own tools would find.

Facts: botocore's ``credentials.py`` (1.44).
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from moorline import telemetry
from moorline.calls.renewal import Renewal
from moorline.errors import (
    AuthenticationFailed,
    CallError,
    ConfigurationError,
    DeadlineExceeded,
    MoorlineError,
    ServiceUnavailable,
)
from moorline.policies.deadline import remaining
from moorline.secrets.secret import Secret

if TYPE_CHECKING:
    from moorline.calls.aws import AwsService

__all__ = ["TOKEN", "Keys", "Pair", "need_botocore"]

TOKEN: Final = "AWS_SESSION_TOKEN"  # noqa: S105 (the name of a variable)
_SECRET: Final = "AWS_SECRET_ACCESS_KEY"  # noqa: S105 (likewise)
_AGAIN_AFTER: Final = 30.0
_FAILED_FOR: Final = 5.0  # seconds for which a failure to find keys is that of all who ask
_KEPT: Final = 4
_log: Final = telemetry.logger("calls")


def need_botocore(service: str) -> None:
    """Raise ConfigurationError, naming the extra, where botocore is not installed."""
    try:
        import botocore  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(f"{service} needs botocore; pip install 'moorline[aws]'") from error


class Pair(NamedTuple):
    """Keys that belong together; never shown."""

    access_key: str
    secret_key: str
    token: str | None = None

    def __repr__(self) -> str:
        return "<AWS keys>"


class Keys:
    """``FetchedKey`` for a service of AWS: a Secret stands for each pair, the token's or the secret key's.

    What AWS's own tools find (profiles, containers, instances, which are asked over the network) is looked up by one
    caller for all that wait. Temporary keys are renewed by botocore, from a quarter of an hour before their end on;
    as long as that fails, the old ones serve until then.
    """

    def __init__(self, owner: AwsService, source: Any) -> None:
        self._owner = owner
        self._renewal = Renewal(owner.name, source, self.current, owner.clock)
        self._lock = threading.Lock()
        self._waiting: tuple[asyncio.AbstractEventLoop, asyncio.Lock] | None = None
        self._chain: Any = None
        self._found: Pair | None = None
        self._looked = -_AGAIN_AFTER
        self._failure: tuple[float, MoorlineError] | None = None
        self._now: tuple[Secret, Pair] | None = None
        self._known: dict[Secret, Pair] = {}

    def pair(self, key: Secret) -> Pair:
        """The keys that *key* stands for."""
        return self._known[key]

    def current(self) -> Secret:
        """What stands for the keys, in place of a key that is sent: a rotation reaches a call under way."""
        own = self._owner.own_keys()
        if own is None and self._found is None:
            self.ready()
        kept = self._kept(own or self._found)
        if own is not None and self._owner.variable is not None:
            kept.tally = self._owner.secret().tally  # a use of them is a use of that
        return kept

    def ready(self) -> None:
        """Have keys. Raises ConfigurationError where there are none, CallError where they cannot be had now."""
        own = self._owner.own_keys()
        if own is None and self._wanted():
            self._look()
        self._kept(own or self._found)

    async def ready_async(self) -> None:
        """As ``ready``: what asks the network or reads files does it in a thread, within the call's deadline."""
        own = self._owner.own_keys()
        if own is None and self._wanted():
            left = remaining(clock=self._owner.clock)
            try:
                async with asyncio.timeout(left), self._one_at_a_time():
                    if self._wanted():
                        await asyncio.to_thread(self._look)
            except TimeoutError:
                raise DeadlineExceeded("AWS's keys were not there within the deadline", outcome="not_sent") from None
        self._kept(own or self._found)

    def newer(self, refused: Secret, timeout: float | None = None) -> bool:
        """Whether other keys are there than those that were refused."""
        if self._owner.own_keys() is not None:
            return self._other(refused) or self._renewal.newer(refused, timeout)
        self._doubt()
        self.ready()
        return self.current() != refused

    async def newer_async(self, refused: Secret) -> bool:
        """As ``newer``."""
        if self._owner.own_keys() is not None:
            return self._other(refused) or await self._renewal.newer_async(refused)
        self._doubt()
        await self.ready_async()
        return self.current() != refused

    def close(self) -> None:
        """Nothing is open."""

    async def aclose(self) -> None:
        """Nothing is open."""

    def _other(self, refused: Secret) -> bool:
        """Whether there is another accepted version of them: only where both are one value, ``ID:SECRET``, as an id
        goes with no other secret.
        """
        pair = self._known.get(refused)
        return pair is not None and self._owner.refused(Secret(f"{pair.access_key}:{pair.secret_key}"))

    def _doubt(self) -> None:
        """Look for others, though not again and again: what is really refused must not become a storm elsewhere."""
        if self._owner.clock.monotonic() >= self._looked + _AGAIN_AFTER:
            self._chain = None

    def _wanted(self) -> bool:
        """Whether it is time to ask botocore."""
        chain = self._chain
        if chain is None or self._found is None:
            return True
        needed = getattr(chain, "refresh_needed", None)
        if not callable(needed) or not needed():
            return False
        return bool(needed(0)) or self._owner.clock.monotonic() >= self._looked + _AGAIN_AFTER

    def _look(self) -> None:
        """Ask botocore, unless another thread just did."""
        with self._lock:
            if not self._wanted():
                return
            now = self._owner.clock.monotonic()
            if self._failure is not None and now < self._failure[0] + _FAILED_FOR:
                raise self._again(self._failure[1])
            try:
                self._found = self._asked()
                self._failure = None
            except (CallError, ConfigurationError) as error:
                self._endure(error, now)
            finally:
                self._looked = now

    def _asked(self) -> Pair:
        need_botocore(self._owner.name)
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.session import get_session

        try:
            if self._chain is None:
                self._chain = get_session().get_credentials()
            frozen = None if self._chain is None else self._chain.get_frozen_credentials()
        except (BotoCoreError, ClientError, KeyError, OSError, ValueError) as error:
            raise _failure(self._owner.name, error) from None  # its text may hold what a file held
        if frozen is None or not frozen.access_key or not frozen.secret_key:
            raise ConfigurationError(
                f"{self._owner.name} has no keys: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, pass access_key_id "
                f"and api_key to {type(self._owner).__name__}(), or give the machine a role"
            )
        return Pair(frozen.access_key, frozen.secret_key, frozen.token)

    def _endure(self, error: MoorlineError, now: float) -> None:
        """Go on with keys that are not over yet. Raises *error* where there are none."""
        over = getattr(self._chain, "refresh_needed", None)
        if self._found is None or not callable(over) or over(0):
            self._failure = now, error
            raise error
        _log.warning("aws_keys_not_renewed", service=self._owner.name, reason=str(error))

    def _again(self, error: MoorlineError) -> MoorlineError:
        """The same failure for another caller, who may say more of it."""
        if isinstance(error, CallError):
            return type(error)(error.message, code=error.code, outcome="not_sent")
        return type(error)(*error.args)

    def _kept(self, pair: Pair | None) -> Secret:
        assert pair is not None
        if self._now is not None and self._now[1] == pair:
            return self._now[0]
        secret = Secret(pair.secret_key, name=_SECRET)  # both are masked from now on
        if pair.token:
            secret = Secret(pair.token, name=TOKEN)  # it is what changes when temporary keys are renewed
        self._known = {**dict(list(self._known.items())[-_KEPT:]), secret: pair}  # calls under way may hold older ones
        self._now = secret, pair
        return secret

    def _one_at_a_time(self) -> asyncio.Lock:
        loop = asyncio.get_running_loop()
        if self._waiting is None or self._waiting[0] is not loop:
            self._waiting = loop, asyncio.Lock()
        return self._waiting[1]


def _failure(service: str, error: Exception) -> MoorlineError:
    from botocore.exceptions import ClientError, CredentialRetrievalError, HTTPClientError, MetadataRetrievalError

    why = f"AWS's keys cannot be had ({type(error).__name__})"
    if isinstance(error, ClientError):
        code = str(error.response.get("Error", {}).get("Code") or "") or None
        return AuthenticationFailed(why, code=code, outcome="not_sent")
    if isinstance(error, (CredentialRetrievalError, HTTPClientError, MetadataRetrievalError)):
        return ServiceUnavailable(why, outcome="not_sent")
    return ConfigurationError(f"{service}: {why}")
