"""What runs in a process of ``moorline.jobs.processes``: functions, one after the other, as the parent says.

Between the two go tuples: a ``Task`` there; here ``("progress", done, message)``, and at the end ``("done", result)``
or ``("failed", pickled error, traceback)``.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import os
import pickle
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import parent_process
from typing import Any, NamedTuple

from moorline import redaction
from moorline.errors import ConfigurationError
from moorline.jobs.context import JobContext, entered

__all__ = ["Task", "check_importable", "serve"]


class Task(NamedTuple):
    """A function, by the module and name under which it is found there; ``run`` are the facts of ``JobContext``."""

    module: str
    qualname: str
    args: list[Any]
    kwargs: dict[str, Any]
    run: tuple[str, str, str, int, int, int]


def check_importable(name: str, function: Callable[..., Any]) -> None:
    """Raises ConfigurationError unless another process finds *function* by its name."""
    if "<" in getattr(function, "__qualname__", "<"):
        raise ConfigurationError(f"process: {name} is not at the top of a module, so another process cannot find it")


def serve(pipe: Connection) -> None:
    """Run what comes until the parent closes the pipe, or dies."""
    # Whoever ends the worker tells all of its group; what runs here may end within the worker's grace.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    redaction.watch_crashes()
    lock = threading.Lock()

    def send(*answer: Any) -> None:
        with lock:
            pipe.send(answer)

    while True:
        try:
            task: Task = pipe.recv()
        except EOFError:
            return
        except Exception as error:  # noqa: BLE001 -- an argument whose class cannot be had here
            _send_failure(send, error)
            continue
        try:
            answer = _run(task, lambda done, message: send("progress", done, message))
            send("done", answer)  # pickled whole before a byte of it is sent
        except (Exception, SystemExit) as error:  # noqa: BLE001 -- it is raised in the parent
            _send_failure(send, error)


def _run(task: Task, tell: Any) -> Any:
    entered(JobContext(*task.run, tell, {}))
    function = _found(task.module, task.qualname)
    answer = function(*task.args, **task.kwargs)
    return asyncio.run(_awaited(answer)) if inspect.isawaitable(answer) else answer


async def _awaited(answer: Any) -> Any:
    return await answer


def _found(module: str, qualname: str) -> Any:
    """The function itself, where that name now means the job that was made of it."""
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    return getattr(found, "__wrapped__", found)


def _send_failure(send: Any, error: BaseException) -> None:
    # Here, where the secrets that the function loaded are known; the parent may never have seen them.
    told = redaction.trace(error)
    error.args = tuple(redaction.text(one) if isinstance(one, str) else one for one in error.args)
    try:
        pickled = pickle.dumps(error)
        pickle.loads(pickled)  # noqa: S301 -- our own; many an exception can be pickled and not made again
    except Exception:  # noqa: BLE001
        pickled = pickle.dumps(RuntimeError(redaction.text(f"{type(error).__name__}: {error}")))
    send("failed", pickled, told)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
