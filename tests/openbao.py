"""OpenBao, the free fork of HashiCorp Vault with the same HTTP API, on free loopback ports, stopped by its own pid."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2
from tests.servers import free_port, until

__all__ = ["ROOT", "OpenBao"]

ROOT = "root"  # the token that may do anything, of a server in dev mode
_START_SECONDS = 30.0


class OpenBao:
    """A server for a ``with`` block: by default in memory, unsealed, its KV version 2 at ``secret/``, and the token
    ``root``. With a *folder* what it holds is kept there (raft), and it begins sealed: initialise it through ``ask``.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def start(self) -> None:
        """Start it, or start it again after ``kill``; back when it answers."""
        program = Path(sys.executable).with_name("bao")
        address = f"127.0.0.1:{self._port}"
        if self._folder is None:
            options = ["-dev", "-dev-no-store-token", f"-dev-root-token-id={ROOT}", f"-dev-listen-address={address}"]
        else:
            (self._folder / "data").mkdir(parents=True, exist_ok=True)
            config = self._folder / "bao.hcl"
            if not config.exists():
                config.write_text(
                    f'storage "raft" {{\n  path = "{self._folder / "data"}"\n  node_id = "n1"\n}}\n'
                    f'listener "tcp" {{\n  address = "{address}"\n  tls_disable = true\n}}\n'
                    f'api_addr = "{self.url}"\ncluster_addr = "http://127.0.0.1:{free_port()}"\n'
                )
            options = [f"-config={config}"]
        self._out = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the server)
        self._process = subprocess.Popen(
            [program, "server", *options], stdin=subprocess.DEVNULL, stdout=self._out, stderr=self._out,
            env={"PATH": os.environ.get("PATH", ""), "HOME": tempfile.gettempdir()}, start_new_session=True,
        )  # fmt: skip
        until(self._is_up, seconds=_START_SECONDS)

    def ask(self, method: str, path: str, json: Any = None, *, token: str = ROOT) -> Any:
        """Send a request of an operator to ``/v1/<path>``; the answer's JSON, None where it is empty. Raises for what
        is refused.
        """
        headers = {"X-Vault-Token": token}
        answer = httpx2.request(method, f"{self.url}/v1/{path}", json=json, headers=headers, timeout=60)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def kill(self) -> None:
        """``kill -9``, and wait for its end."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._out.close()

    def _is_up(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            self._out.seek(0)
            raise RuntimeError(f"OpenBao did not start:\n{self._out.read()[-2000:].decode(errors='replace')}")
        with contextlib.suppress(httpx2.TransportError):
            # A sealed one says 503, one that was not initialised 501: they answer.
            return httpx2.get(f"{self.url}/v1/sys/health").status_code != 500
        return False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
