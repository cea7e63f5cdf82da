"""Every place at which the package prints, formats a traceback, or touches hooks and loggers; and what redacts there."""

from __future__ import annotations

import ast
from pathlib import Path

import moorline

ROOT = Path(moorline.__file__).parent

_OWN_WORDS = "our own words and numbers"
_STORED = "through rows, facts, say or print_json, which redact; else our own words and numbers"

EXITS = {
    ("calls/adapters/twilio.py", "logging.getLogger"): "the SDK's own logger, which its base class asks for",
    ("cli/__init__.py", "print"): "redaction.text",
    ("cli/bench.py", "console.print"): _OWN_WORDS,
    ("cli/calls.py", "console.print"): _STORED,
    ("cli/demo/__init__.py", "console.print"): _OWN_WORDS,
    ("cli/demo/stage.py", "self._console.print"): _OWN_WORDS,
    ("cli/events.py", "console.print"): "redaction.data",
    ("cli/jobs.py", "console.print"): _STORED,
    ("cli/jobs.py", "typer.echo"): _OWN_WORDS,
    ("cli/connections.py", "console.print"): "safe, which redacts",
    ("cli/connections.py", "typer.echo"): "safe, which redacts; and the code that its user types in elsewhere",
    ("cli/keys.py", "console.print"): "safe, which redacts",
    ("cli/master_keys.py", "console.print"): _OWN_WORDS,
    ("cli/master_keys.py", "typer.echo"): "a new key, which is what was asked for; else our own words and ids",
    ("cli/replays.py", "console.print"): _OWN_WORDS,
    ("cli/replays.py", "typer.echo"): _OWN_WORDS,
    ("cli/root.py", "typer.echo"): _OWN_WORDS,
    ("cli/services.py", "console.print"): "safe, which redacts",
    ("cli/services.py", "typer.echo"): _OWN_WORDS,
    ("cli/show.py", "console.print"): "safe, which redacts",
    ("cli/show.py", "typer.echo"): "redaction.data",
    ("cli/syncs.py", "console.print"): _STORED,
    ("cli/upkeep.py", "console.print"): _OWN_WORDS,
    ("cli/upkeep.py", "typer.echo"): "an export: as it was stored unless --redact is given, and the path of its file",
    ("redaction/crashes.py", "sys.excepthook"): "redaction.trace",
    ("redaction/crashes.py", "sys.stderr.write"): "redaction.trace",
    ("redaction/crashes.py", "sys.unraisablehook"): "redaction.trace",
    ("redaction/crashes.py", "threading.excepthook"): "redaction.trace",
    ("redaction/crashes.py", "traceback.format_exception"): "redaction.trace itself",
    ("services/monitor_hooks.py", "sys.excepthook"): "reports, whose texts are redacted; then the hook that was there",
    ("services/monitor_hooks.py", "threading.excepthook"): "reports, whose texts are redacted; then the hook that was there",
    ("telemetry.py", "logging.getLogger"): "lines are redacted before they reach a handler",
    ("telemetry.py", "self.formatException"): "redaction.text",
    ("telemetry.py", "sys.stderr.write"): "redaction.trace",
}  # fmt: skip
_LAST = {
    "echo", "format_exc", "format_exception", "format_tb", "formatException", "getLogger", "print", "print_exc",
    "print_exception", "print_tb",
}  # fmt: skip
_WHOLE = {"sys.stdout.write", "sys.stderr.write", "sys.stdout.buffer.write"}
_HOOKS = {"excepthook", "unraisablehook"}


def _found() -> set[tuple[str, str]]:
    found = set()
    for path in sorted(ROOT.rglob("*.py")):
        place = str(path.relative_to(ROOT))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                if name in _WHOLE or name.rpartition(".")[2] in _LAST:
                    found.add((place, name))
            elif isinstance(node, ast.Attribute) and node.attr in _HOOKS and isinstance(node.ctx, ast.Store):
                found.add((place, ast.unparse(node)))
    return found


def test_each_exit_is_known():
    """A new one is written into the table, with what redacts it; so nobody adds one without thinking of it."""
    assert _found() == EXITS.keys()
