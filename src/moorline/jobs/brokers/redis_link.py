"""The connection to Redis: its URL, the script, what its failures mean, what it may lose, and who is woken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from hashlib import sha1
from importlib import resources
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from moorline.errors import ConfigurationError, StoreError, StoreUnavailable
from moorline.store.signals import Signals
from moorline.telemetry import logger

if TYPE_CHECKING:
    import redis

__all__ = ["SCHEMES", "Link", "RedisSignals", "Where", "failures", "translated"]

Argument = str | bytes | int | float

SCHEMES: Final = {
    "redis": "redis", "rediss": "rediss", "unix": "unix", "valkey": "redis", "valkeys": "rediss",
    "redis+sentinel": "redis", "rediss+sentinel": "rediss", "redis+cluster": "redis", "rediss+cluster": "rediss",
}  # fmt: skip
_CONNECT: Final = 5.0  # seconds
_ANSWER: Final = 10.0  # seconds; a script over thousands of jobs takes some hundredths
_CHECK: Final = 30.0  # seconds of rest after which a connection is tried before it is used
_RECONNECT: Final = 1.0
_LISTEN: Final = 0.5  # seconds between two looks whether to stop
_SCANNED: Final = 1_000  # keys
_AS_IT_STANDS: Final = str.maketrans({one: f"\\{one}" for one in "*?[]\\"})  # in a pattern of keys
_SENTINEL_PORT: Final = 26_379
_OLDEST: Final = (7, 0)  # scripts that may write when memory is full
_FLAGS: Final = {"enqueue": "", "counts": "no-writes", "page": "no-writes"}  # of deeds, to the server
_MAKES_ROOM: Final = "allow-oom"  # the others: when it is full, only what brings more is refused
_TRUE: Final = ("true", "yes", "on", "1")
_FALSE: Final = ("false", "no", "off", "0")
_OURS: Final = {"protocol": ("2",), "decode_responses": _FALSE, "legacy_responses": _TRUE}  # how answers are read
_SENTINELS: Final = ("sentinel_username", "sentinel_password", "sentinel_tls")  # options for them alone
_UNREADABLE: Final = "the URL of the queue cannot be read (are the odd characters of its password escaped?)"
_NOT_NOW: Final = (
    "BUSY ", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOPERM", "NOREPLICAS", "TRYAGAIN", "UNKILLABLE",
)  # fmt: skip

log = logger("jobs")


class Where:
    """A server, a cluster, or what sentinels say is the server, by one URL.

    ``redis://``, ``rediss://`` (TLS), ``unix://`` or the same with ``valkey``;
    ``redis+sentinel://HOST[:26379][,HOST…]/NAME[/DATABASE]``, where ``rediss`` is TLS to the sentinels too, unless
    ``?sentinel_tls=false``; ``redis+cluster://HOST:6379``. The options are those of redis-py's URLs; with sentinels the
    ones of TLS are for both. ``repr`` and ``shown`` leave user and password out. Raises ConfigurationError, without the
    URL, which may hold a password.
    """

    def __init__(self, url: str) -> None:
        scheme, separator, rest = url.partition("://")
        if not separator or scheme not in SCHEMES or not rest:
            raise ConfigurationError(f"the URL of the queue must begin with one of {', '.join(SCHEMES)}, then ://")
        try:
            parts = urlsplit(url)
        except ValueError:
            raise ConfigurationError(_UNREADABLE) from None
        # What a password with one of /?#@ in it, not escaped, would leave behind: never to be shown.
        if parts.fragment or "@" in parts.path + parts.query:
            raise ConfigurationError(_UNREADABLE)
        for name, value in parse_qsl(parts.query):
            if value.lower() not in _OURS.get(name, (value.lower(),)):
                raise ConfigurationError(
                    f"the URL of the queue: {name} can only be {_OURS[name][0]} here: leave it out"
                )
        self.kind = scheme.partition("+")[2] or "server"
        self._plain = f"{SCHEMES[scheme]}://{rest}"
        self._tls = scheme.startswith("rediss")
        self.shown = f"{scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    def __repr__(self) -> str:
        return f"<Where {self.shown}>"

    def connect(self) -> redis.Redis:
        """A client, which connects when it is first used, and never sends anything twice by itself."""
        try:
            import redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry
        except ImportError as error:
            raise ConfigurationError("the queue needs redis-py; pip install 'moorline[redis]'") from error
        options: dict[str, Any] = {
            "socket_connect_timeout": _CONNECT,
            "socket_timeout": _ANSWER,
            "health_check_interval": _CHECK,
            # A claim that is sent twice would hold jobs of which its worker does not know.
            "retry": Retry(NoBackoff(), 0),
            "client_name": "moorline",
            "protocol": 2,
        }
        try:
            if self.kind == "cluster":
                from redis.cluster import RedisCluster

                clustered: Any = RedisCluster.from_url(self._plain, **options)
                return clustered  # type: ignore[no-any-return]  # it answers to the same calls
            named = self.kind == "sentinel"
            client = self._by_sentinels(options) if named else redis.Redis.from_url(self._plain, **options)
            pool = client.connection_pool
            pool.connection_class(**pool.connection_kwargs)  # does not connect; an option that it has not is an error
            return client
        except (ValueError, TypeError):
            hint = "are its options, if it has any, ones that redis-py knows?"
            raise ConfigurationError(f"the URL of the queue at {self.shown} cannot be read ({hint})") from None
        except failures() as error:
            raise translated(error) from None

    def _by_sentinels(self, options: dict[str, Any]) -> redis.Redis:
        from redis.connection import parse_url
        from redis.sentinel import Sentinel

        parts = urlsplit(self._plain)
        hosts = [_host(one) for one in parts.netloc.rpartition("@")[2].split(",")]
        name, _, database = parts.path.strip("/").partition("/")
        if not name or not all(host for host, _ in hosts):
            raise ValueError
        untyped: Any = parse_url
        chosen: dict[str, Any] = untyped(f"redis://localhost?{parts.query}")
        del chosen["host"]
        user, password = (None if one is None else unquote(one) for one in (parts.username, parts.password))
        asking: dict[str, Any] = {key.removeprefix("sentinel_"): chosen.pop(key) for key in _SENTINELS if key in chosen}
        own = {"username": user, "password": password, "ssl": self._tls, "db": int(database or 0)}
        asking["ssl"] = self._tls and _yes(asking.pop("tls", "true"))
        if asking["ssl"]:
            asking |= {key: value for key, value in chosen.items() if key.startswith("ssl_")}
        # One that is silent is asked once, and not for long: there is the next one.
        asking |= {key: options[key] for key in ("socket_connect_timeout", "retry", "protocol")}
        asking["socket_timeout"] = _CONNECT
        untyped = Sentinel
        server: redis.Redis = untyped(hosts, sentinel_kwargs=asking).master_for(name, **options | own | chosen)
        return server


def _yes(text: str) -> bool:
    if text.lower() not in (*_TRUE, *_FALSE):
        raise ValueError
    return text.lower() in _TRUE


def _host(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, ""
    return host.strip("[]"), int(port or _SENTINEL_PORT)


class Link:
    """One thread's way to the server. Also what the store's writer takes for a connection: there is no transaction to
    begin or commit, since every deed is one.
    """

    def __init__(self, client: redis.Redis, prefix: str) -> None:
        self.client = client
        self.prefix = prefix

    def begin(self) -> Self:
        """See above."""
        return self

    def commit(self) -> None:
        """See above."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def close(self) -> None:
        """Close the connections; the next deed opens new ones."""
        self.client.close()

    def do(self, deed: str, *arguments: Argument) -> Any:
        """One deed of ``redis.lua``. Raises StoreUnavailable, and StoreError for what the server refuses."""
        from redis.exceptions import NoScriptError

        text, digest = _script(_FLAGS.get(deed, _MAKES_ROOM))
        try:
            try:
                return self.client.evalsha(digest, 1, self.prefix, deed, *arguments)
            except NoScriptError:  # it was started anew
                return self.client.eval(text, 1, self.prefix, deed, *arguments)
        except failures() as error:
            raise translated(error) from error

    def read(self, ask: Callable[[Any], Any], keys: Sequence[str]) -> list[Any]:
        """What the server answers to *ask*(pipeline, key) for each key below the prefix. Raises as ``do``."""
        try:
            with self.client.pipeline(transaction=False) as pipeline:
                for key in keys:
                    ask(pipeline)(self.prefix + key)
                return list(pipeline.execute())
        except failures() as error:
            raise translated(error) from error

    def facts(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Its INFO, and its settings of durability and memory: empty where it does not tell them. Raises as ``do``."""
        from redis.exceptions import ResponseError

        try:
            facts = _one(self.client.info())
            try:
                return facts, _one(self.client.config_get("append*", "maxmemory*"))
            except ResponseError:  # managed servers do not tell
                return facts, {}
        except failures() as error:
            raise translated(error) from error

    def clear(self) -> None:
        """Delete every key below the prefix; the server is looked through for them, some thousand keys a time."""
        try:
            found: list[bytes] = []
            for key in self.client.scan_iter(match=self.prefix.translate(_AS_IT_STANDS) + "*", count=_SCANNED):
                found.append(key)
                if len(found) == _SCANNED:
                    self.client.unlink(*found)
                    found.clear()
            if found:
                self.client.unlink(*found)
        except failures() as error:
            raise translated(error) from error

    def check(self) -> list[str]:
        """What of it may lose jobs, in words for the operator. Raises ConfigurationError when it is too old, or would
        throw jobs away to make room.
        """
        facts, told = self.facts()
        version = str(facts.get("redis_version", ""))
        if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < _OLDEST:
            raise ConfigurationError(f"the queue's Redis {version} is too old: 7.0 is needed")
        policy = str(facts.get("maxmemory_policy", "noeviction"))
        if policy.startswith("allkeys") and int(facts.get("maxmemory", 0)):
            raise ConfigurationError(
                f"the queue's Redis throws keys away when it is full (maxmemory-policy {policy}), and a job is one:"
                " set it to noeviction"
            )
        if not int(facts.get("aof_enabled", 0)):
            return ["it keeps no append-only file: all jobs since its last snapshot are lost when it crashes"]
        if told.get("appendfsync") == "always":
            return []
        return ["it flushes its file each second: the jobs of the last one are lost when its machine crashes"]


def _one(answer: Any) -> dict[str, Any]:
    """A cluster answers for each of its nodes; they are set up alike."""
    nested = [one for one in answer.values() if isinstance(one, dict)]
    return nested[0] if nested and len(nested) == len(answer) else answer


@cache
def _script(flags: str) -> tuple[str, str]:
    """The script, to be run with those flags, and its digest."""
    text = f"#!lua flags={flags}\n"
    text += resources.files("moorline.jobs.brokers").joinpath("redis.lua").read_text("utf-8")
    return text, sha1(text.encode()).hexdigest()  # noqa: S324 -- the name that Redis gives to a script


@cache
def failures() -> tuple[type[Exception], ...]:
    """What redis-py raises when the server, or a cluster as a whole, cannot be reached, or refuses."""
    from redis.exceptions import RedisClusterException, RedisError

    return RedisError, RedisClusterException, OSError


def translated(error: Exception) -> StoreError:
    """The moorline error for a failure of the server or the way to it; holds no argument."""
    from redis import exceptions

    words = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    if isinstance(error, exceptions.OutOfMemoryError):
        return StoreUnavailable("the queue's Redis is full (maxmemory)")
    if isinstance(error, exceptions.AuthenticationError):
        return StoreUnavailable(f"Redis refuses user or password: {words}")
    lost = (
        exceptions.ConnectionError, exceptions.TimeoutError, exceptions.ReadOnlyError, exceptions.RedisClusterException,
        OSError,
    )  # fmt: skip
    if isinstance(error, lost):
        return StoreUnavailable(f"Redis did not answer: {words}")
    if isinstance(error, exceptions.ResponseError) and words.startswith(_NOT_NOW):
        return StoreUnavailable(f"Redis cannot take jobs now: {words}")
    return StoreError(f"Redis refused: {words}")


class RedisSignals(Signals):
    """Wakes through Redis Pub/Sub, which forgets: who listens also polls."""

    def __init__(self, where: Where, channel: str) -> None:
        super().__init__()
        self._where = where
        self._name = channel
        self._away = False

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self._hear()
            except Exception as error:  # noqa: BLE001 -- whatever it is, workers poll meanwhile
                if not self._away:  # once for each time
                    log.warning("queue_wakes_lost", where=self._where.shown, error=type(error).__name__)
                self._away = True
                self._closed.wait(_RECONNECT)

    def _hear(self) -> None:
        client = self._where.connect()
        try:
            untyped: Any = client
            with untyped.pubsub(ignore_subscribe_messages=True) as heard:
                heard.subscribe(self._name)
                self._away = False
                self._call_all()  # whatever came while nobody listened
                while not self._closed.is_set():
                    if heard.get_message(timeout=_LISTEN) is not None:
                        self._call_all()
        finally:
            client.close()
