"""``moorline sandbox``: alone, or around a command that then talks to nothing else."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from moorline.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["run"]


def run(command: list[str], *, host: str, port: int, seed: int, webhooks_to: str | None) -> int:
    """Serve until stopped, or until ``command`` ends; gives the exit code."""
    from moorline import telemetry
    from moorline.sandbox import server

    telemetry.configure(level="INFO", format="auto")
    log = telemetry.logger("sandbox")

    def ready(url: str) -> None:
        from moorline.sandbox.standin import registrations

        log.info("serving", url=url, services=sorted(registrations()), use=f"MOORLINE_SANDBOX_URL={url}")

    if not command:
        announce = _then_target(ready, webhooks_to)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _stopped)
        server.serve(host, port, seed=seed, ready=announce)
        return 0
    with server.running(seed=seed, host=host, port=port) as url:
        _then_target(ready, webhooks_to)(url)
        return _around(command, {**os.environ, "MOORLINE_SANDBOX_URL": url})


def _stopped(*_: object) -> None:
    # uvicorn stops in order and then raises the signal again; being told to stop is no failure.
    sys.exit(0)


def _around(command: list[str], environment: dict[str, str]) -> int:
    """Run it to its end; gives its exit code, as a shell does 128 and the signal's number if a signal ended it."""
    try:
        process = subprocess.Popen(command, env=environment)
    except OSError as error:
        raise ConfigurationError(f"cannot run {command[0]!r}: {error.strerror}") from error
    with _signals_passed_on(process):
        code = process.wait()
    return 128 - code if code < 0 else code


@contextlib.contextmanager
def _signals_passed_on(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """The command decides what SIGTERM and SIGINT mean, and has the time it needs; the sandbox stays up until then."""

    def pass_on(number: int, _: object) -> None:
        # Ctrl-C reaches the whole foreground group from the terminal; twice would make many programs skip their stop.
        if number != signal.SIGINT or not _in_the_foreground():
            process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _in_the_foreground() -> bool:
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    finally:
        os.close(terminal)


def _then_target(ready: Callable[[str], None], webhooks_to: str | None) -> Callable[[str], None]:
    """Say that it is up, then send webhooks where they are wanted."""
    if webhooks_to is None:
        return ready
    if not webhooks_to.startswith(("http://", "https://")):
        raise ConfigurationError(f"--webhooks-to: {webhooks_to!r} is no http or https URL")

    def announce(url: str) -> None:
        import threading

        ready(url)
        # The server calls this from its own loop, which must be free to answer.
        threading.Thread(target=_register, args=(url, webhooks_to.rstrip("/")), daemon=True).start()

    return announce


def _register(url: str, receiver: str) -> None:
    import httpx2

    with httpx2.Client(base_url=url, timeout=10, trust_env=False) as client:
        known: dict[str, Any] = client.get("/_sandbox/").raise_for_status().json()["services"]
        for name, facts in known.items():
            if facts.get("events"):
                target = {"service": name, "url": f"{receiver}/webhooks/{name}", "ping": False}
                client.post("/_sandbox/webhooks", json=target).raise_for_status()
