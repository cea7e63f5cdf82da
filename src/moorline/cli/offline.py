"""``moorline sandbox``: alone, or around a command that then talks to nothing else."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Any

from moorline.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["run"]


def run(command: list[str], *, host: str, port: int, seed: int, webhooks_to: str | None) -> int:
    """Serve until stopped, or until ``command`` ends; gives the exit code."""
    from moorline import telemetry
    from moorline.sandbox import server

    telemetry.configure(level="INFO", format="auto")
    log = telemetry.logger("sandbox")

    def ready(url: str) -> None:
        from moorline import registry

        log.info("serving", url=url, services=registry.names(), use=f"MOORLINE_SANDBOX_URL={url}")

    if not command:
        server.serve(host, port, seed=seed, ready=_then_target(ready, webhooks_to))
        return 0
    with server.running(seed=seed, host=host, port=port) as url:
        _then_target(ready, webhooks_to)(url)
        try:
            return subprocess.call(command, env={**os.environ, "MOORLINE_SANDBOX_URL": url})
        except OSError as error:
            raise ConfigurationError(f"cannot run {command[0]!r}: {error.strerror}") from error


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
