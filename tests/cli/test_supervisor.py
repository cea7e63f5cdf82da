"""Several processes under one: crashes, stops, replacements, and a supervisor that is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.servers import until

ROOT = Path(__file__).parents[2]

_SUPERVISE = """
import asyncio, sys
from moorline.cli.supervisor import Supervisor
child = [sys.executable, "-c", open("child.py").read()]
grace, at_once = map(float, sys.argv[2:])
supervisor = Supervisor(child, int(sys.argv[1]), grace=grace, first_pause=0.05, settled=1.0, at_once=at_once)
sys.exit(asyncio.run(supervisor.run()))
"""
_CHILD = """
import os, signal, sys, time
from moorline.cli.supervisor import end_with_parent
def ended(*_):
    open("ended", "a").write(f"{os.getpid()}\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, ended)
end_with_parent()
open("began", "a").write(f"{os.getpid()}\\n")
"""
_WAIT = """
while True:
    time.sleep(0.05)
"""
_DEAF = f"""
signal.signal(signal.SIGTERM, lambda *_: open("heard", "a").write("1\\n"))
open("deaf", "x")
{_WAIT}"""


def lines(path: Path) -> list[int]:
    """The processes that wrote there."""
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def alive(pid: int) -> bool:
    """Whether it runs, and not only waits to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A supervisor of so many processes that do that after they have begun."""
    with contextlib.ExitStack() as stack:

        def begin(then: str, count: int, *, grace: float = 60.0, at_once: float = 60.0) -> subprocess.Popen[str]:
            (tmp_path / "child.py").write_text(_CHILD + then)
            environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
            command = [sys.executable, "-c", _SUPERVISE, str(count), str(grace), str(at_once)]
            process = stack.enter_context(subprocess.Popen(command, cwd=tmp_path, env=environment, text=True))
            stack.callback(process.kill)
            return process

        yield begin


def test_one_that_is_killed_is_started_again_and_the_others_go_on(start: Start, tmp_path: Path) -> None:
    """A SIGTERM to the supervisor then ends all of them in order, and is no failure."""
    supervisor = start(_WAIT, 2)
    until(lambda: len(lines(tmp_path / "began")) == 2)
    victim, other = lines(tmp_path / "began")
    os.kill(victim, signal.SIGKILL)
    until(lambda: len(lines(tmp_path / "began")) == 3)
    assert alive(other)
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(20) == 0
    assert set(lines(tmp_path / "ended")) == set(lines(tmp_path / "began")) - {victim}


def test_one_that_always_crashes_is_not_started_in_a_loop(start: Start, tmp_path: Path) -> None:
    """Each time it waits longer; a stop does not wait for that."""
    supervisor = start("sys.exit(7)", 1)
    until(lambda: len(lines(tmp_path / "began")) >= 3)
    supervisor.send_signal(signal.SIGINT)
    assert supervisor.wait(20) == 0
    assert not any(map(alive, lines(tmp_path / "began")))


def test_a_wrong_setting_ends_all(start: Start, tmp_path: Path) -> None:
    """It would be wrong the next time too: the exit code is that of misuse."""
    supervisor = start('if not os.path.exists("first"):\n    open("first", "x")\n    sys.exit(2)\n' + _WAIT, 2)
    assert supervisor.wait(20) == 2
    until(lambda: not any(map(alive, lines(tmp_path / "began"))))


def test_they_are_replaced_one_after_the_other(start: Start, tmp_path: Path) -> None:
    """By SIGHUP, as after a deployment; none is killed."""
    supervisor = start(_WAIT, 2)
    until(lambda: len(lines(tmp_path / "began")) == 2)
    before = lines(tmp_path / "began")
    supervisor.send_signal(signal.SIGHUP)
    until(lambda: len(lines(tmp_path / "began")) == 4)
    until(lambda: sorted(lines(tmp_path / "ended")) == sorted(before))
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(20) == 0


def test_the_next_one_is_replaced_when_the_new_one_has_stayed(start: Start, tmp_path: Path) -> None:
    """So that most work meanwhile; a SIGHUP that comes during that replaces all once more."""
    supervisor = start(_WAIT, 2)
    until(lambda: len(lines(tmp_path / "began")) == 2)
    supervisor.send_signal(signal.SIGHUP)
    until(lambda: len(lines(tmp_path / "began")) == 3)
    assert len(lines(tmp_path / "ended")) == 1
    supervisor.send_signal(signal.SIGHUP)
    until(lambda: len(lines(tmp_path / "began")) == 6)
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(20) == 0


@pytest.mark.parametrize("code", [2, 7])
def test_a_new_one_that_does_not_start_keeps_the_others(start: Start, tmp_path: Path, code: int) -> None:
    """A deployment with a wrong setting, or that crashes, takes one process and not all; mended, it goes on."""
    supervisor = start(f'if os.path.exists("wrong"):\n    sys.exit({code})\n' + _WAIT, 2)
    until(lambda: len(lines(tmp_path / "began")) == 2)
    before = lines(tmp_path / "began")
    (tmp_path / "wrong").touch()
    supervisor.send_signal(signal.SIGHUP)
    until(lambda: len(lines(tmp_path / "began")) >= 6)  # by then the next would have been told
    assert sum(map(alive, before)) == 1
    (tmp_path / "wrong").unlink()
    until(lambda: sum(map(alive, lines(tmp_path / "began"))) == 2)
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(20) == 0


def test_one_that_cannot_be_started_keeps_the_others(tmp_path: Path) -> None:
    """No memory, or an interpreter that is just being installed, is waited for as a crash is."""
    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    (tmp_path / "child.py").write_text(_CHILD + _WAIT)
    code = _SUPERVISE.replace("sys.executable", repr(str(python)))
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen([sys.executable, "-c", code, "2", "5.0", "5.0"], cwd=tmp_path, env=environment) as supervisor:
        try:
            until(lambda: len(lines(tmp_path / "began")) == 2)
            victim, other = lines(tmp_path / "began")
            python.unlink()
            os.kill(victim, signal.SIGKILL)
            with pytest.raises(subprocess.TimeoutExpired):
                supervisor.wait(1.5)
            assert alive(other)
            python.symlink_to(sys.executable)
            until(lambda: len(lines(tmp_path / "began")) == 3)
            supervisor.send_signal(signal.SIGTERM)
            assert supervisor.wait(20) == 0
        finally:
            supervisor.kill()


def test_they_stop_when_the_supervisor_is_killed(start: Start, tmp_path: Path) -> None:
    """In order, as if it had told them."""
    supervisor = start(_WAIT, 2)
    until(lambda: len(lines(tmp_path / "began")) == 2)
    supervisor.kill()
    until(lambda: sorted(lines(tmp_path / "ended")) == sorted(lines(tmp_path / "began")))


def test_the_third_signal_kills(start: Start, tmp_path: Path) -> None:
    """Whatever they do."""
    supervisor = start(_DEAF, 1)
    until((tmp_path / "deaf").exists)
    supervisor.send_signal(signal.SIGTERM)
    until(lambda: len(lines(tmp_path / "heard")) == 1)
    supervisor.send_signal(signal.SIGTERM)
    until(lambda: len(lines(tmp_path / "heard")) == 2)
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(20) == 0


def test_one_that_hangs_at_its_end_is_killed_after_the_grace(start: Start, tmp_path: Path) -> None:
    """One signal is enough for a deployment to go on."""
    supervisor = start(_DEAF, 1, grace=0.5)
    until((tmp_path / "deaf").exists)
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(20) == 0
    assert len(lines(tmp_path / "heard")) == 1
    assert not any(map(alive, lines(tmp_path / "began")))


def test_after_the_second_signal_one_that_hangs_is_killed_soon(start: Start, tmp_path: Path) -> None:
    """It has the seconds that giving back takes, however long its grace."""
    supervisor = start(_DEAF, 1, at_once=0.5)
    until((tmp_path / "deaf").exists)
    supervisor.send_signal(signal.SIGTERM)
    until(lambda: len(lines(tmp_path / "heard")) == 1)
    supervisor.send_signal(signal.SIGTERM)
    until(lambda: len(lines(tmp_path / "heard")) == 2)
    assert supervisor.wait(20) == 0
    assert not any(map(alive, lines(tmp_path / "began")))


def test_the_command_runs_jobs_in_several_processes(tmp_path: Path) -> None:
    """``moorline worker --workers 2``: one is killed by a job, and all jobs are done, that one too."""
    (tmp_path / "shop.py").write_text(
        "import os, signal\nfrom moorline import Moorline\napp = Moorline()\n"
        "def tell() -> None:\n    open('done', 'a').write(f'{os.getpid()}\\n')\n"
        "@app.job\nasync def fine(number: int) -> None:\n    tell()\n"
        "@app.job\nasync def poison() -> None:\n    if os.path.exists('killed'):\n        tell()\n        return\n"
        "    open('killed', 'x')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    (tmp_path / "moorline.toml").write_text('database_url = "sqlite:///shop.db"\n[worker]\nlease = 0.5\ngrace = 2.0\n')
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    enqueue = "import shop\nwith shop.app.opened():\n    shop.poison.enqueue().result()\n"
    enqueue += "    shop.fine.enqueue_many([(n,) for n in range(5)]).result()\n"
    subprocess.run([sys.executable, "-c", enqueue], cwd=tmp_path, env=environment, check=True)
    command = [sys.executable, "-m", "moorline.cli", "worker", "shop:app", "--workers", "2"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as supervisor:
        until(lambda: len(lines(tmp_path / "done")) >= 6, seconds=60)
        supervisor.send_signal(signal.SIGTERM)
        _, said = supervisor.communicate(timeout=30)
    assert supervisor.returncode == 0, said
    assert "process_ended" in said


def test_an_application_that_cannot_be_found_is_told_once(tmp_path: Path) -> None:
    """By the supervisor, which starts nothing."""
    command = [sys.executable, "-m", "moorline.cli", "worker", "nothing:app", "--workers", "3"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("no module named 'nothing'") == 1
