"""How the server and the worker of a process end together."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from moorline import Moorline
from moorline.cli import runner
from moorline.errors import ConfigurationError


class _Failing:
    """A worker that ends with that, as one does whose broker cannot be used."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = errors

    async def run(self, *, signals: bool) -> None:
        raise ExceptionGroup("unhandled errors in a TaskGroup", self._errors)

    def stop(self, *, now: bool = False) -> None: ...


def _run(folder: Path, worker: Any) -> None:
    runner.run(Moorline(f"sqlite:///{folder}/shop.db"), worker=worker)


def test_a_wrong_setting_that_the_worker_finds_is_told_as_one(tmp_path: Path) -> None:
    """Not as a group with tracebacks: the command then ends with 2, and its supervisor does not start it for ever."""
    with pytest.raises(ConfigurationError, match="no credentials"):
        _run(tmp_path, _Failing(ConfigurationError("SQS: no credentials")))


def test_what_is_no_error_of_ours_keeps_its_traceback(tmp_path: Path) -> None:
    """Also beside one that is."""
    with pytest.raises(ExceptionGroup):
        _run(tmp_path, _Failing(ConfigurationError("SQS: no credentials"), ZeroDivisionError("a bug")))


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)])
def test_addresses_of_both_kinds_are_listened_on(host: str, family: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kind is that of the address."""
    asked: list[Any] = []
    monkeypatch.setattr(socket, "create_server", lambda address, **options: asked.append((address, options["family"])))
    runner.listen(host, 8000)
    assert asked == [((host, 8000), family)]


def test_an_address_that_is_not_ours_is_not_called_a_taken_port() -> None:
    """Another port would not help."""
    with pytest.raises(ConfigurationError, match="choose another --host or --port"):
        runner.listen("192.0.2.1", 0)
