"""``moorline sandbox``: around a command, and alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from queue import Queue

import httpx2
import pytest
from tests.servers import free_port, until

SANDBOX = [sys.executable, "-m", "moorline.cli", "sandbox", "--port", "0"]


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("MOORLINE_")}


def _around(folder: Path, *command: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SANDBOX, *options, "--", *command],
        cwd=folder,
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_command_is_pointed_at_a_sandbox_that_answers(tmp_path: Path) -> None:
    """MOORLINE_SANDBOX_URL is in its environment, and any service of its own then talks to the stand-in."""
    script = """
import os
from moorline import Money
from moorline.services import Stripe
print(os.environ["MOORLINE_SANDBOX_URL"])
print(Stripe().create_payment(Money(2000, "usd"), payment_method="pm_card_visa").result().status)
"""
    done = _around(tmp_path, sys.executable, "-c", script)
    assert done.returncode == 0, done.stderr
    url, status = done.stdout.split()
    assert url.startswith("http://127.0.0.1:")
    assert status == "succeeded"
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(url, trust_env=False)


@pytest.mark.parametrize("code", [0, 1, 7])
def test_the_exit_code_is_the_commands(tmp_path: Path, code: int) -> None:
    """So that it can stand in a Makefile around a test run."""
    assert _around(tmp_path, sys.executable, "-c", f"raise SystemExit({code})").returncode == code


def test_a_command_that_a_signal_ended_gives_what_a_shell_gives(tmp_path: Path) -> None:
    """128 and the number of the signal."""
    done = _around(tmp_path, sys.executable, "-c", "import os; os.kill(os.getpid(), 9)")
    assert done.returncode == 128 + signal.SIGKILL


def test_the_commands_own_options_are_its_own(tmp_path: Path) -> None:
    """What follows "--" is passed on as it stands."""
    done = _around(tmp_path, sys.executable, "-c", "import sys; print(sys.argv[1:])", "--port", "-x", "--", "y")
    assert done.stdout.strip() == "['--port', '-x', '--', 'y']"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--", "no-such-command-anywhere"], "no-such-command-anywhere"),
        (["--port", "70000"], "--port"),
        (["--webhooks-to", "localhost:8000", "--", "true"], "--webhooks-to"),
        (["--host", "192.0.2.1", "--", "true"], "192.0.2.1"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_misuse_exits_with_2_and_names_what_is_wrong(tmp_path: Path, arguments: list[str], said: str) -> None:
    """A missing command, a wrong option or address: one clear line, no traceback."""
    done = subprocess.run(
        [*SANDBOX, *arguments],
        cwd=tmp_path,
        env=_environment() | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


STOPPABLE = """
import pathlib, signal, sys
def stop(*_):
    pathlib.Path("stopped").write_text("in order")
    sys.exit(5)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
pathlib.Path("up").touch()
signal.pause()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_passed_on_and_its_effect_waited_for(tmp_path: Path, number: signal.Signals) -> None:
    """The command stops in order, and does not outlive the sandbox."""
    process = subprocess.Popen(
        [*SANDBOX, "--", sys.executable, "-c", STOPPABLE],
        cwd=tmp_path,
        env=_environment(),
        stderr=subprocess.PIPE,
        start_new_session=True,  # no terminal that would send the signal to the command as well
    )
    until((tmp_path / "up").exists, seconds=30)
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 5, said
    assert (tmp_path / "stopped").read_text() == "in order"


class _Ear(BaseHTTPRequestHandler):
    heard: Queue[tuple[str, dict[str, str]]]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.heard.put((self.path, {name.lower(): value for name, value in self.headers.items()}))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def receiver() -> Iterator[tuple[str, Queue[tuple[str, dict[str, str]]]]]:
    """The URL of a server that takes any webhook, and what it heard."""
    heard: Queue[tuple[str, dict[str, str]]] = Queue()
    kind = type("Ear", (_Ear,), {"heard": heard})
    with HTTPServer(("127.0.0.1", 0), kind) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", heard
        server.shutdown()


def _registered(client: httpx2.Client) -> set[str]:
    return {hook["service"] for hook in client.get("/_sandbox/webhooks").json()["webhooks"]}


def test_alone_it_serves_until_told_to_stop_and_sends_webhooks(
    tmp_path: Path, receiver: tuple[str, Queue[tuple[str, dict[str, str]]]]
) -> None:
    """--webhooks-to sends every service's signed webhooks to URL/webhooks/{service}; SIGTERM ends it with 0."""
    target, heard = receiver
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "moorline.cli", "sandbox", "--port", str(port), "--webhooks-to", target + "/"],
        cwd=tmp_path,
        env=_environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        said = json.loads(process.stderr.readline())
        assert (said["event"], said["url"]) == ("serving", f"http://127.0.0.1:{port}")
        with httpx2.Client(base_url=said["url"], trust_env=False) as client:
            until(lambda: {"github", "stripe"} <= _registered(client))  # they are made one after the other
            for service, event in (("github", "push"), ("stripe", "payment_intent.succeeded")):
                client.post("/_sandbox/deliver", params={"service": service, "event": event}).raise_for_status()
    finally:
        process.terminate()
        _, rest = process.communicate(timeout=30)
    assert process.returncode == 0, rest
    got = dict(heard.get(timeout=5) for _ in range(2))
    assert "x-hub-signature-256" in got["/webhooks/github"]
    assert "stripe-signature" in got["/webhooks/stripe"]
