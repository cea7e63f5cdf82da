"""Jobs in processes of their own: results, limits, and what becomes of processes that die or must."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.jobs import computing
from tests.servers import until

from moorline.errors import ConfigurationError
from moorline.jobs import JobHandle, stopping
from moorline.jobs.brokers.sql import SqlBroker
from moorline.jobs.registry import Jobs
from moorline.jobs.worker import Worker
from moorline.store import Store


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    with Store(f"sqlite:///{tmp_path}/m.db", auto_migrate=True) as store:
        yield Jobs(SqlBroker(store))


async def drained(jobs: Jobs, *handles: JobHandle) -> None:
    await Worker(jobs, processes=1).drain()


def alive(pid: int) -> bool:
    """Whether it runs; a dead one that nobody has buried does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_functions_run_elsewhere_and_tell_and_return(jobs: Jobs) -> None:
    """One process for one after the other; coroutines too. Progress, context, results and outcomes come through."""
    plain = jobs.function(computing.where, process=True, keep_result=True)
    coroutine = jobs.function(computing.on_a_loop, process=True, keep_result=True)
    snoozed = await jobs.function(computing.snoozes, process=True).enqueue()
    first, second = await plain.enqueue_many([(), ()])
    third = await coroutine.enqueue("x")
    await drained(jobs)
    pid = await first.result()
    assert pid == await second.result() != os.getpid()
    assert not alive(pid)
    assert await third.result() == "x in 1 of 6"
    progress = await first.progress()
    assert progress is not None
    assert (progress.done, progress.message) == (1.0, "where")
    assert (await snoozed.job()).snoozes == 1


async def test_failures_are_those_of_the_function(jobs: Jobs) -> None:
    """With its own traceback, though the exception cannot be sent; a process that dies is one, and the next job has
    another process.
    """
    failing = await jobs.function(computing.fails, process=True, retries=0).enqueue()
    dying = await jobs.function(computing.dies, process=True, retries=0).enqueue()
    fine = await jobs.function(computing.where, process=True).enqueue()
    await drained(jobs)
    assert (await failing.job()).last_error == "RuntimeError: Unpicklable: 1 and 2"
    (failure,) = await jobs.broker.failures(failing.id)
    assert "raise Unpicklable(1, 2)" in failure.traceback
    dead = await dying.job()
    assert (dead.state, dead.last_error) == ("dead", "JobProcessDied: the job's process died of signal 9")
    assert (await fine.job()).state == "done"


async def test_one_that_died_while_idle_fails_no_job(jobs: Jobs) -> None:
    """The next job, which has but one attempt, gets another process."""
    function = jobs.function(computing.where, process=True, keep_result=True, retries=0)
    worker = Worker(jobs, processes=1)
    running = asyncio.create_task(worker.run(signals=False))
    try:
        first = await (await function.enqueue()).result()
        os.kill(first, signal.SIGKILL)
        until(lambda: not alive(first))
        assert await (await function.enqueue()).result() not in (first, os.getpid())
    finally:
        worker.stop()
        await running


async def test_a_plain_function_has_a_timeout_there(jobs: Jobs, tmp_path: Path) -> None:
    """Its process is killed, however busy it is."""
    mark = tmp_path / "pid"
    handle = await jobs.function(computing.spins, process=True, retries=0, timeout=1.5).enqueue(str(mark))
    await drained(jobs)
    assert (await handle.job()).last_error == "TimeoutError: the job took longer than its timeout of 1.5 s"
    assert not alive(int(mark.read_text()))


async def test_it_is_stopped_by_a_person_or_with_the_worker(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled in the first case; given back without an attempt in the second."""
    monkeypatch.setattr(stopping, "LOOK", 0.02)
    function = jobs.function(computing.spins, process=True)
    handles = await function.enqueue_many([(str(tmp_path / "0"),), (str(tmp_path / "1"),)])
    worker = Worker(jobs, processes=2, grace=0.0)
    task = asyncio.create_task(worker.run(signals=False))
    await asyncio.to_thread(until, lambda: all((tmp_path / name).exists() for name in "01"))
    await handles[0].stop("enough")
    for _ in range(2000):
        if (await handles[0].job()).state == "cancelled":
            break
        await asyncio.sleep(0.01)
    worker.stop()
    await task
    stopped, back = [await handle.job() for handle in handles]
    assert (stopped.state, stopped.reason) == ("cancelled", "enough")
    assert (back.state, back.attempts) == ("ready", 0)
    assert not any(alive(int((tmp_path / name).read_text())) for name in "01")


async def test_a_signal_to_the_whole_group_does_not_end_it(jobs: Jobs, tmp_path: Path) -> None:
    """As when a service manager stops the worker: what runs has the worker's grace."""
    mark = tmp_path / "mark"
    await jobs.function(computing.ends_late, process=True, retries=0).enqueue(str(mark))
    await drained(jobs)
    assert mark.read_text() == "whole"


def test_it_dies_with_a_worker_that_is_killed(tmp_path: Path) -> None:
    """Else the job would run twice at the same time, here and where it was taken over."""
    script = f"""
import asyncio
from tests.jobs import computing
from moorline.jobs.brokers.sql import SqlBroker
from moorline.jobs.registry import Jobs
from moorline.jobs.worker import Worker
from moorline.store import Store

if __name__ == "__main__":
    with Store("sqlite:///{tmp_path}/m.db", auto_migrate=True) as store:
        jobs = Jobs(SqlBroker(store))
        jobs.function(computing.outlives, process=True).enqueue("{tmp_path}/pid").result()
        asyncio.run(Worker(jobs).run())
"""
    (tmp_path / "script.py").write_text(script)
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}:{root / 'src'}"}
    mark = tmp_path / "pid"
    with subprocess.Popen([sys.executable, str(tmp_path / "script.py")], env=environment) as process:
        until(lambda: mark.exists() and mark.read_text() != "")
        process.kill()
    until(lambda: not alive(int(mark.read_text())))


def test_only_what_another_process_can_find(jobs: Jobs) -> None:
    """Told when the job is made, not when it runs."""

    def local() -> None: ...

    with pytest.raises(ConfigurationError, match="top of a module"):
        jobs.function(local, process=True)
    with pytest.raises(ConfigurationError, match="process=True"):
        jobs.function(local, timeout=1)
    with pytest.raises(ConfigurationError, match="processes"):
        Worker(jobs, processes=0)
