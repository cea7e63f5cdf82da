"""The pictures of examples/pictures, resized by a worker as a user starts it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from tests.examples.conftest import ROOT
from tests.servers import until

from moorline.jobs.broker import JobFilter
from moorline.jobs.brokers.sql import SqlBroker
from moorline.jobs.job import Job
from moorline.store import Store

MOORLINE = (sys.executable, "-m", "moorline.cli")


def _environment(folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": f"{ROOT / 'examples/pictures'}:{ROOT / 'src'}",
        "MOORLINE_DATABASE_URL": f"sqlite:///{folder}/pictures.db",
        "MOORLINE_WORKER__PROCESSES": "2",
    }


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """``moorline worker main:moor``, which ends well when it is told to."""
    command = [*MOORLINE, "worker", "main:moor"]
    with subprocess.Popen(command, cwd=tmp_path, env=_environment(tmp_path), stderr=subprocess.PIPE, text=True) as one:
        yield one
        one.send_signal(signal.SIGTERM)
        _, said = one.communicate(timeout=30)
        assert one.returncode == 0, said


def _dead(folder: Path) -> list[Job]:
    if not (folder / "pictures.db").exists():
        return []
    with Store(f"sqlite:///{folder}/pictures.db", auto_migrate=True) as store:
        return asyncio.run(SqlBroker(store).list(JobFilter(state="dead")))


def test_pictures_are_resized_and_put_on_a_sheet(tmp_path: Path, worker: subprocess.Popen[str]) -> None:
    """Three widths of each, one sheet of all; what is no picture is dead, and the sheet waits until it is mended."""
    names = [f"p{number}.png" for number in range(5)]
    for number, name in enumerate(names):
        Image.new("RGB", (900 + 10 * number, 600), (40 * number, 0, 99)).save(tmp_path / name)
    (tmp_path / "p3.png").write_bytes(b"no picture")
    command = [sys.executable, str(ROOT / "examples/pictures/main.py"), *(str(tmp_path / name) for name in names)]
    with subprocess.Popen(command, cwd=tmp_path, env=_environment(tmp_path), stdout=subprocess.PIPE, text=True) as run:
        until(lambda: bool(_dead(tmp_path)), seconds=30)
        (dead,) = _dead(tmp_path)
        assert dead.reason == "discarded"
        assert "p3.png" in str(dead.last_error)
        until(lambda: len(list(tmp_path.glob("*-200.webp"))) == 4, seconds=30)
        assert not (tmp_path / "contact-sheet.png").exists()
        Image.new("RGB", (500, 500), "red").save(tmp_path / "p3.png")
        subprocess.run([*MOORLINE, "jobs", "retry", dead.id], cwd=tmp_path, env=_environment(tmp_path), check=True)
        said, _ = run.communicate(timeout=30)
    assert said.splitlines()[-1] == "contact-sheet.png"
    assert "5 of 5 pictures, 100%" in said
    assert not list(tmp_path.glob("*.part"))
    for name in names:
        for width in (1600, 800, 200):
            with Image.open(tmp_path / f"{Path(name).stem}-{width}.webp") as picture:
                assert picture.width == width
    with Image.open(tmp_path / "contact-sheet.png") as sheet:
        assert sheet.size == (800, 400)
