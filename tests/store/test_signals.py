"""Who wakes others may do so while the store closes."""

from __future__ import annotations

import threading

import pytest

from moorline.store import signals


class _Quiet(signals.Signals):
    def _run(self) -> None:
        self._closed.wait(5)


def test_closing_waits_for_a_thread_that_is_being_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a delayed notification falls due in that instant: the thread is there, and not started yet."""
    quiet, made = _Quiet(), threading.Event()

    class Late(threading.Thread):
        def start(self) -> None:
            made.set()
            quiet._closed.wait(5)  # until the other one closes
            super().start()

    with monkeypatch.context() as patch:
        starter = threading.Thread(target=quiet.listen, args=("jobs", print))
        patch.setattr(threading, "Thread", Late)
        starter.start()
        assert made.wait(5)
        quiet.close()
        starter.join(5)
    assert quiet._thread is not None
    assert not quiet._thread.is_alive()
