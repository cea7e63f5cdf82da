"""Two layers of retries multiply: where an SDK, a client or a decorator brings its own, it is found and named here.

Settings are those of requests 2.34 and urllib3 2.8 (``max_retries``), stripe 16 (``max_network_retries``), openai,
anthropic and other Stainless clients (``max_retries``), botocore 1.44 (``Config.retries``), twilio 9.13
(``TwilioHttpClient(max_retries)``), slack_sdk 3.47 (``retry_handlers``), aiohttp-retry 2.9 (``RetryClient``) and
tenacity 9 (``@retry``). SDKs are known by their modules' names, so that none of them is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from moorline import telemetry
from moorline.errors import ConfigurationError
from moorline.policies.policy import Policy

__all__ = ["Double", "check_function", "doubles", "refuse_doubles", "retries_of", "switch_off"]


class Double(NamedTuple):
    """An SDK's own retries: *setting* has *value*; *fix* is what to write, *off* does it where that is safe."""

    setting: str
    value: str
    fix: str
    off: Callable[[], None] | None = None


def doubles(sdk: Any) -> list[Double]:
    """The retries that *sdk* (a client, a session, an adapter, a function) brings along; empty when there are none."""
    for kind in type(sdk).__mro__:
        look = _SDKS.get(kind.__module__.partition(".")[0])
        if look is not None:
            return look(sdk)
    return _of_function(sdk) if callable(sdk) and hasattr(sdk, "__wrapped__") else _stainless(sdk)


def refuse_doubles(sdk: Any) -> None:
    """Raise ConfigurationError, with what to write instead, if *sdk* retries by itself."""
    for double in doubles(sdk):
        raise ConfigurationError(_message(double))


def switch_off(sdk: Any, *, service: str = "") -> list[Double]:
    """Switch the retries of *sdk* off where that is safe, with a line in the log each; returns what was switched off.

    Raises ConfigurationError for retries that only their owner can switch off.
    """
    found = doubles(sdk)
    for double in found:
        if double.off is None:
            raise ConfigurationError(_message(double))
    for double in found:
        assert double.off is not None
        double.off()
        telemetry.logger("calls").warning(
            "double_retries_off",
            service=service,
            setting=double.setting,
            value=double.value,
            instead="Policy(retry=Retry(...))",
        )
    return found


def check_function(function: Any, policy: Policy) -> None:
    """Raise ConfigurationError for a function with retries of its own, unless the policy has none."""
    if policy.retry is not None:
        for double in _of_function(function):
            raise ConfigurationError(_message(double))


def retries_of(retry: Any) -> int:
    """How often urllib3's ``Retry`` (or a number, or False) repeats at most."""
    if isinstance(retry, bool) or retry is None:
        return 0
    if isinstance(retry, int):
        return max(retry, 0)
    counts = [getattr(retry, name, None) for name in ("total", "connect", "read", "status", "other")]
    numbers = [count for count in counts if isinstance(count, int) and not isinstance(count, bool)]
    total = counts[0]
    if isinstance(total, int) and not isinstance(total, bool):
        return max(total, 0)
    return max(numbers, default=0)


def _message(double: Double) -> str:
    return f"{double.setting} is {double.value}, and retries would multiply: {double.fix}"


def _of_function(function: Any) -> list[Double]:
    """Tenacity leaves its controller on the function."""
    controller = getattr(function, "retry", None)
    if controller is None or not callable(getattr(function, "retry_with", None)):
        return []
    name = getattr(function, "__qualname__", type(function).__name__)
    fix = "take tenacity.retry off, or give moorline Policy(retry=None)"
    return [Double(f"@retry of {name}", type(controller).__name__, fix)]


def _of_requests(sdk: Any) -> list[Double]:
    adapters = getattr(sdk, "adapters", None)
    named = dict(adapters) if isinstance(adapters, Mapping) else {"": sdk}
    found = []
    for prefix, adapter in named.items():
        retry = getattr(adapter, "max_retries", None)
        count = retries_of(retry)
        if count:
            where = f"max_retries of the adapter for {prefix!r}" if prefix else "HTTPAdapter.max_retries"

            def off(adapter: Any = adapter, retry: Any = retry) -> None:
                adapter.max_retries = type(retry)(0, read=False)

            found.append(Double(where, str(count), "give HTTPAdapter(max_retries=0), which is its default", off))
    return found


def _of_urllib3(sdk: Any) -> list[Double]:
    count = retries_of(sdk if type(sdk).__name__ == "Retry" else getattr(sdk, "connection_pool_kw", {}).get("retries"))
    return [Double("urllib3 retries", str(count), "give retries=False")] if count else []


def _of_stripe(sdk: Any) -> list[Double]:
    options: Any = getattr(getattr(sdk, "_requestor", None), "_options", None)
    count = getattr(options, "max_network_retries", None)
    if not count:
        return []

    def off() -> None:
        options.max_network_retries = 0

    return [Double("stripe max_network_retries", str(count), "give StripeClient(..., max_network_retries=0)", off)]


def _of_botocore(sdk: Any) -> list[Double]:
    config = getattr(getattr(sdk, "meta", None), "config", None)
    if config is None:
        return []
    retries = getattr(config, "retries", None) or {}
    most = retries.get("total_max_attempts")
    if most == 1:
        return []
    mode = retries.get("mode", "standard")
    return [
        Double(
            f"retries of botocore's client ({mode})",
            "not set" if most is None else f"{most} attempts",
            'give config=botocore.config.Config(retries={"total_max_attempts": 1, "mode": "standard"})',
        )
    ]


def _of_twilio(sdk: Any) -> list[Double]:
    client = getattr(sdk, "http_client", sdk)
    session = getattr(client, "session", None)
    found = _of_requests(session) if hasattr(session, "adapters") else []
    fix = "give TwilioHttpClient(max_retries=None), or moorline's http_client"
    return [double._replace(setting=f"twilio: {double.setting}", fix=fix) for double in found]


def _of_slack(sdk: Any) -> list[Double]:
    handlers = getattr(sdk, "retry_handlers", None)
    if not isinstance(handlers, list):
        return []
    theirs = [each for each in handlers if type(each).__module__.startswith("slack_sdk.")]
    if not theirs:
        return []

    def off() -> None:
        handlers[:] = [each for each in handlers if each not in theirs]

    names = ", ".join(type(each).__name__ for each in theirs)
    return [Double("slack_sdk retry_handlers", names, "give WebClient(retry_handlers=[])", off)]


def _of_aiohttp_retry(sdk: Any) -> list[Double]:
    options = getattr(sdk, "retry_options", None) or getattr(sdk, "_retry_options", None)
    count = getattr(options, "attempts", 1)
    return [Double("aiohttp_retry attempts", str(count), "use aiohttp.ClientSession itself")] if count > 1 else []


def _of_httpx(sdk: Any) -> list[Double]:
    transport = getattr(sdk, "_transport", sdk)
    count = getattr(getattr(transport, "_pool", None), "_retries", 0)
    return [Double("HTTPTransport(retries=...)", str(count), "leave retries out")] if count else []


def _stainless(sdk: Any) -> list[Double]:
    """openai, anthropic and others that are generated alike: an attribute, read for each request."""
    count = getattr(sdk, "max_retries", None)
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        return []

    def off() -> None:
        sdk.max_retries = 0

    name = f"{type(sdk).__module__.partition('.')[0]} max_retries"
    return [Double(name, str(count), f"give {type(sdk).__name__}(..., max_retries=0)", off)]


_SDKS: Final[dict[str, Callable[[Any], list[Double]]]] = {
    "aiohttp_retry": _of_aiohttp_retry,
    "botocore": _of_botocore,
    "httpx": _of_httpx,
    "httpx2": _of_httpx,
    "requests": _of_requests,
    "slack_sdk": _of_slack,
    "stripe": _of_stripe,
    "twilio": _of_twilio,
    "urllib3": _of_urllib3,
}
