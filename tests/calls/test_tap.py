from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.calls.ledger import CANARY, Ledger, Script
from tests.warm import Warm
from typer.testing import CliRunner

from moorline import errors
from moorline.calls import story, tap
from moorline.calls.guards import Guards
from moorline.cli.root import cli
from moorline.policies.breaker import Breaker
from moorline.policies.bulkhead import Bulkhead
from moorline.policies.policy import Policy
from moorline.policies.retry import Retry

RUN = CliRunner()


@pytest.fixture
def folder(tmp_path_factory, monkeypatch) -> Path:
    """A folder of sockets for this test alone, with a short name: a Unix socket's path has a limit."""
    found: Path = tmp_path_factory.mktemp("run")
    found.chmod(0o700)
    monkeypatch.setenv(tap.FOLDER, str(found))
    return found


@pytest.fixture
def opened(folder) -> Iterator[Path]:
    tap.open_tap()
    yield folder / f"{os.getpid()}.sock"
    tap.close_tap()


def ask(path: Path, question: object) -> socket.SocketIO:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(10)
    connection.connect(str(path))
    connection.sendall(json.dumps(question).encode() + b"\n")
    stream = connection.makefile("rb")
    connection.close()  # the stream keeps it open
    return stream  # type: ignore[return-value]


def test_steps_are_told_as_they_happen(opened):
    """Who listens gets each step as a line of JSON, with the process's number; nobody listens any longer after that."""
    with ask(opened, {"want": "steps"}) as stream:
        assert json.loads(stream.readline()) == {"kind": "listening", "pid": os.getpid()}
        assert Script(503, 200).service(retry=Retry(jitter="none")).read("x").result() == "b_1"
        steps = [json.loads(line) for line in (stream.readline() for _ in range(4))]
    assert [step["kind"] for step in steps] == ["attempt", "retry", "attempt", "finished"]
    assert {step["pid"] for step in steps} == {os.getpid()}
    assert CANARY not in json.dumps(steps)
    deadline = time.monotonic() + 10
    while story.watchers and time.monotonic() < deadline:
        time.sleep(0.01)  # the tap finds out at its next line
    assert not story.watchers


def test_the_state_of_all_parts(opened):
    """Breaker, gate, bulkhead, budget and calls under way are answered by the service's name."""

    class Tapped(Ledger):
        name = "tapped"

    service = Script(500).service(Tapped, breaker=Breaker(failures=1), retry=None, bulkhead=Bulkhead(3))
    with pytest.raises(errors.ServiceUnavailable):
        service.read("x").result()
    with ask(opened, {"want": "state"}) as stream:
        answer = json.loads(stream.readline())
    parts = answer["services"]["tapped"]
    assert (answer["pid"], parts["breaker"]) == (os.getpid(), "open")
    assert parts["bulkhead"] == {"limit": 3, "busy": 0, "waiting": 0}
    assert (parts["under_way"], parts["rate_gate"]["waiting"]) == ({"": 0}, 0)


def test_what_a_service_is_called_hides_nothing_of_it(opened):
    """One whose name sounds like a secret, as where keys are fetched, is shown like any other."""
    guards = Guards()
    guards.guard("google keys", Policy())
    with ask(opened, {"want": "state"}) as stream:
        assert json.loads(stream.readline())["services"]["google keys"]["breaker"] == "closed"
    done = RUN.invoke(cli, ["calls", "status"])
    assert (done.exit_code, "google keys" in done.stdout) == (0, True)


def test_an_operator_forces_a_breaker(opened):
    """`moorline calls force` opens a breaker in a running process and gives it back."""
    service = Script(200).service()
    assert service.read("x").result() == "b_1"
    done = RUN.invoke(cli, ["calls", "force", "ledger", "open", "--json"])
    assert (done.exit_code, json.loads(done.stdout)["processes"]) == (0, 1)
    with pytest.raises(errors.CircuitOpen, match="forced by an operator"):
        service.read("x").result()
    assert RUN.invoke(cli, ["calls", "force", "ledger", "auto"]).exit_code == 0
    assert service.read("x").result() == "b_1"
    assert RUN.invoke(cli, ["calls", "force", "nobody", "open"]).exit_code == 1
    assert RUN.invoke(cli, ["calls", "force", "ledger", "ajar"]).exit_code == 2


def test_status_for_people_and_programs(opened):
    """`moorline calls status` prints a row for each service of each process, or the same as JSON."""
    service = Script(200).service()
    service.read("x").result()
    assert "ledger" in RUN.invoke(cli, ["calls", "status"]).stdout
    answers = json.loads(RUN.invoke(cli, ["calls", "status", "--json"]).stdout)
    assert [answer["pid"] for answer in answers] == [os.getpid()]
    assert service.name in answers[0]["services"]


def test_status_of_accounts(opened):
    """Accounts whose limits hold calls up stand beside those of the service's own key."""
    guards = Guards()
    kept = [guards.guard("hailed", Policy(), account=account) for account in ("", "'u_1'", "'u_2'")]
    kept[1].gate.close(60.0)
    answers = json.loads(RUN.invoke(cli, ["calls", "status", "--json"]).stdout)
    assert list(answers[0]["services"]["hailed"]["rate_gates"]) == ["'u_1'"]
    shown = " ".join(RUN.invoke(cli, ["calls", "status"], env={"COLUMNS": "1000"}).stdout.split())
    assert "free; 'u_1': the service asked to wait" in shown


def test_nonsense_gets_no_answer(opened):
    """What is no question is closed without an answer, and the tap goes on."""
    questions: tuple[object, ...] = ("", [], {"want": "secrets"}, {})
    for question in questions:
        with ask(opened, question) as stream:
            assert stream.readline() == b""
    with ask(opened, {"want": "state"}) as stream:
        assert json.loads(stream.readline())["pid"] == os.getpid()


def test_only_this_user_may_enter(folder):
    """A folder that others may enter, or that is none, is refused by name; the process goes on without a tap."""
    folder.chmod(0o755)
    with pytest.raises(errors.ConfigurationError, match="nobody else may enter"):
        tap.tap_folder()
    tap.open_tap()
    tap.close_tap()
    assert not list(folder.iterdir())
    folder.chmod(0o700)
    assert stat.S_IMODE(tap.tap_folder().stat().st_mode) == 0o700


def test_a_path_that_no_socket_can_have(monkeypatch, tmp_path):
    """A folder with too long a path is refused by name."""
    monkeypatch.setenv(tap.FOLDER, str(tmp_path / ("x" * 90)))
    with pytest.raises(errors.ConfigurationError, match=r"MOORLINE_RUN_DIR: .* too long for sockets"):
        tap.tap_folder()


def test_the_socket_goes_with_its_last_user(folder):
    """It is opened once for all applications of the process, and its file is removed at the end."""
    tap.open_tap()
    tap.open_tap()
    tap.close_tap()
    assert [path.name for path in folder.iterdir()] == [f"{os.getpid()}.sock"]
    tap.close_tap()
    assert not list(folder.iterdir())


def test_a_socket_that_was_left_is_removed(folder):
    """The file of a process that was killed is cleared away by who looks next."""
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(folder / "1.sock"))
    left.close()
    assert RUN.invoke(cli, ["calls", "status", "--json"]).stdout.strip() == "[]"
    assert not list(folder.iterdir())


PROGRAM = """
import asyncio, sys
import httpx2
from moorline import Moorline, Policy, Retry
from moorline.services import GitHub

answers = iter([503] + [200] * 10_000)

async def main():
    async with Moorline() as app:
        wire = httpx2.MockTransport(lambda request: httpx2.Response(next(answers), json={}))
        github = app.service(GitHub, api_key="ghp_canary0canary0canary0", wire=wire, policy=Policy(retry=Retry(base=0.01)))
        print("ready", flush=True)
        for line in iter(sys.stdin.readline, ""):
            await github.request("GET", "/zen")
            print("done", flush=True)

asyncio.run(main())
"""


def test_tail_of_another_process(folder, tmp_path):
    """`moorline calls tail` prints what the calls of another process do and why, and ends on Ctrl-C with code 0."""
    (tmp_path / "program.py").write_text(PROGRAM)
    environment = {**os.environ, tap.FOLDER: str(folder), "MOORLINE_DATABASE_URL": f"sqlite:///{tmp_path}/x.db"}
    program = Warm(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdout
    assert program.stdin
    try:
        assert program.stdout.readline() == "ready\n"
        tail = Warm(
            [sys.executable, "-m", "moorline.cli", "calls", "tail", "--json"],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert tail.stdout
        assert json.loads(tail.stdout.readline())["kind"] == "listening"
        program.stdin.write("\n")
        program.stdin.flush()
        assert program.stdout.readline() == "done\n"
        steps = [json.loads(tail.stdout.readline()) for _ in range(4)]
        tail.send_signal(signal.SIGINT)
        assert tail.wait(20) == 0
        tail.stdout.close()
    finally:
        program.stdin.close()
        program.wait(20)
        program.stdout.close()
    assert [step["kind"] for step in steps] == ["attempt", "retry", "attempt", "finished"]
    assert {(step["service"], step["pid"]) for step in steps} == {("github", program.pid)}
