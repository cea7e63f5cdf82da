from __future__ import annotations

import json
import logging
import subprocess
import sys
from typing import Literal

import pytest

from moorline import telemetry
from moorline.errors import ConfigurationError
from moorline.secrets import Secret

CANARY = "log-canary-a1b2c3d4e5f6g7h8"


def _run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)


def test_a_library_is_quiet_below_warning():
    """Unconfigured, information goes nowhere, a warning goes where the host's logging sends it."""
    done = _run(
        "from moorline.telemetry import logger\n"
        "import sys\n"
        "log = logger('calls'); log.info('quiet'); log.debug('quiet')\n"
        "assert 'structlog' not in sys.modules\n"
        "log.warning('loud', n=1)\n"
    )
    assert done.stdout == ""
    assert done.stderr == "loud n=1\n"


def test_lines_go_to_the_hosts_logging(caplog):
    """A host sees our lines as records of moorline.<room>, rendered and redacted, with the bound values."""
    caplog.set_level(logging.INFO)
    telemetry.logger("calls").bind(service="stripe").info("call", ms=1.5, api_key="abc")
    assert caplog.record_tuples == [("moorline.calls", logging.INFO, "call service='stripe' ms=1.5 api_key='***'")]


def test_configured_lines_are_json(capsys):
    """Off a terminal, each line is one JSON object on standard error with level, time and room."""
    telemetry.configure("info")
    telemetry.logger("jobs").info("job", id="j1")
    out = capsys.readouterr()
    line = json.loads(out.err)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "job", "id": "j1", "level": "info", "logger": "moorline.jobs"}
    assert out.out == ""


def test_configuring_twice_writes_each_line_once(capsys):
    """A second configure replaces the first."""
    telemetry.configure("INFO", "json")
    telemetry.configure("WARNING", "json")
    telemetry.logger("jobs").info("no")
    telemetry.logger("jobs").warning("yes")
    assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == ["yes"]


def test_other_libraries_lines_are_redacted_too(capsys):
    """Records of any library get our form, without secrets and without the query of a URL."""
    Secret(CANARY)
    telemetry.configure("DEBUG", "json")
    other = logging.getLogger("someone.else")
    other.info("GET https://u:p@api.test/x?q=%s and %s", "search-words", CANARY)
    try:
        raise ValueError(CANARY)
    except ValueError:
        other.exception("failed")
    logging.getLogger("httpx2").info("HTTP Request: GET https://api.test/?token=1")
    first, second = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert first["event"] == "GET https://api.test/x?q=*** and ***"
    assert "ValueError: ***" in second["exception"]
    assert first["logger"] == "someone.else"


def _fail_deep() -> None:
    try:
        raise KeyError(CANARY)
    except KeyError as error:
        error.add_note(f"while using {CANARY}")
        raise RuntimeError(f"https://api.test/v1?key={CANARY}") from error


@pytest.mark.parametrize("form", ["plain", "json", "console"])
def test_no_canary_leaves_by_any_way(form, capsys, caplog):
    """A secret in an event, a value, a key, a URL, a header, an exception, its cause or its note is never written."""
    secret = Secret(CANARY, name="KEY")
    if form != "plain":
        telemetry.configure("DEBUG", form)
    caplog.set_level(logging.DEBUG)
    log = telemetry.logger("canary").bind(bound=CANARY)
    log.debug(f"event {CANARY}", value=CANARY, secret=secret, nested={"a": [CANARY, {"b": CANARY.encode()}]})
    log.info("url", url=f"https://u:{CANARY}@api.test/{CANARY}?q={CANARY}#t={CANARY}", **{CANARY: 1})
    log.warning("headers", headers={"Authorization": f"Bearer {CANARY}", "x-other": CANARY})
    log.critical("object", thing=ValueError(CANARY))
    try:
        _fail_deep()
    except RuntimeError as error:
        log.exception("failed")
        log.error("failed", exc_info=error)
    written = capsys.readouterr().err + caplog.text + "".join(record.getMessage() for record in caplog.records)
    assert "RuntimeError" in written
    assert len(caplog.records) == 6
    assert CANARY not in written


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(("LOUD",), "log level 'LOUD' is unknown; use one of DEBUG"), (("INFO", "xml"), "log format 'xml' is unknown")],
)
def test_unknown_settings_are_named(arguments, says):
    """A wrong level or format is refused by name, and nothing changes."""
    handlers = list(logging.getLogger().handlers)
    with pytest.raises(ConfigurationError, match=says):
        telemetry.configure(*arguments)
    assert logging.getLogger().handlers == handlers


@pytest.mark.parametrize("format", ["json", "console"])
def test_a_value_that_is_no_utf_8_is_written_all_the_same(format: Literal["json", "console"], capsys):
    """A path with a lone surrogate, which anybody can send, costs neither the line nor the handler behind it."""
    telemetry.configure("INFO", format)
    telemetry.logger("events").info("event_refused", service="\udcff")
    line = capsys.readouterr().err
    assert "event_refused" in line
    assert line.encode("utf-8")
