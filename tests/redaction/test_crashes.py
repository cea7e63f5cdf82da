"""What is said of exceptions when nobody caught them, and of lines that could not be logged."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading

import pytest
from markupsafe import Markup
from tests.redaction.canaries import CANARIES, leaks, register

from moorline import redaction, telemetry

PLANTED = "\n".join(one.text for one in CANARIES.values())


def _fall() -> None:
    register()
    raise ValueError(PLANTED)


class Mute(Exception):
    """Its text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError(PLANTED)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> None:
    for holder, name in ((sys, "excepthook"), (threading, "excepthook"), (sys, "unraisablehook")):
        monkeypatch.setattr(holder, name, getattr(holder, name))  # to be put back
    redaction.watch_crashes()


@pytest.mark.usefixtures("watched")
def test_threads_and_the_process_end_with_redacted_words(capsys: pytest.CaptureFixture[str]):
    """The thread is named, the traceback is whole, and a thread that calls sys.exit says nothing."""
    for work, name in ((_fall, "faller"), (sys.exit, "leaver")):
        thread = threading.Thread(target=work, name=name)
        thread.start()
        thread.join()
    with pytest.raises(ValueError, match="the service did not take") as caught:
        _fall()
    sys.excepthook(caught.type, caught.value, caught.tb)
    said = capsys.readouterr().err
    assert said.count("in _fall") == 2
    assert "Exception in thread faller" in said
    assert "leaver" not in said
    assert leaks(said) == []


def test_an_exception_whose_text_cannot_be_had_is_told_all_the_same():
    """By its kind, and without what its own code raised."""
    told = redaction.trace(Mute())
    assert "Mute" in told
    assert leaks(told) == []


def test_a_group_is_told_with_all_of_its_parts():
    """Causes, notes and the parts of groups within groups."""
    register()
    inner = ExceptionGroup(PLANTED, [ValueError(PLANTED), KeyError(PLANTED)])
    inner.add_note(PLANTED)
    told = redaction.trace(ExceptionGroup("outer", [inner]))
    assert "KeyError" in told
    assert leaks(told) == []


def test_what_asyncio_finds_is_logged_redacted(capsys: pytest.CaptureFixture[str]):
    """A task that fails and that nobody asks."""
    telemetry.configure(format="json")
    register()

    async def main() -> None:
        asyncio.get_running_loop().call_exception_handler({"message": PLANTED, "exception": ValueError(PLANTED)})

    asyncio.run(main())
    said = capsys.readouterr().err
    assert '"logger": "asyncio"' in said
    assert leaks(said) == []


def test_a_line_that_cannot_be_made_says_where_and_not_what(capsys: pytest.CaptureFixture[str]):
    """The standard library prints the arguments of such a line as they are."""
    telemetry.configure(format="json")
    register()
    (ours,) = (one for one in logging.getLogger().handlers if isinstance(one, telemetry._Handler))
    ours.handle(logging.LogRecord("shop", logging.ERROR, __file__, 7, "%s and %s", (PLANTED,), None))
    said = capsys.readouterr().err
    assert "test_crashes.py" in said
    assert "TypeError" in said
    assert leaks(said) == []


def test_pages_show_values_redacted():
    """As a filter of templates: text, data, bytes; HTML stays HTML."""
    register()
    for value in (PLANTED, {"a": [PLANTED], "token": "x"}, PLANTED.encode(), ValueError(PLANTED), Markup(PLANTED)):
        assert leaks(redaction.show(value)) == []
    assert redaction.show({"token": "x"}) == '{\n  "token": "***"\n}'
    assert redaction.show(Markup("<b>token=abc1</b>")) == Markup("<b>token=***")
    assert isinstance(redaction.show(Markup("<b>")), Markup)
    assert redaction.show(12) == "12"
