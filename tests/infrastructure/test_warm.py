"""What is forked is as good as what is started anew."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.warm import Warm, run

LOOK = (
    "import os, sys; print(os.getppid(), os.getcwd(), sys.argv[1:], sorted({*os.environ} - {'LC_CTYPE'})); sys.exit(3)"
)


@pytest.mark.parametrize("how", ["-c", "-m", "file"])
def test_it_has_its_own_folder_arguments_environment_and_code(tmp_path: Path, how: str) -> None:
    """Nothing of the process that is forked is seen, nor of the one before; it is a child of ours."""
    (tmp_path / "look.py").write_text(LOOK)
    command = {"-c": ["-c", LOOK], "-m": ["-m", "look"], "file": [str(tmp_path / "look.py")]}[how]
    for environment in ({"ONE": "1"}, {"TWO": "2"}):
        done = run([sys.executable, *command, "a", "b"], cwd=tmp_path, env=environment)
        assert done.stdout == f"{os.getpid()} {tmp_path} ['a', 'b'] {list(environment)}\n"
        assert done.returncode == 3


def test_an_error_is_told_as_usual() -> None:
    """A traceback on stderr, and 1."""
    done = run([sys.executable, "-c", "1 / 0"])
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n")


def test_it_is_spoken_to_and_killed() -> None:
    """Its pipes are ours, and so is its death."""
    script = "import sys, time; print(sys.stdin.readline(), flush=True); time.sleep(60)"
    with Warm([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("hello\n")
        process.stdin.flush()
        assert process.stdout.readline() == "hello\n"
        assert process.poll() is None
        process.kill()
        assert process.wait(20) == -signal.SIGKILL
