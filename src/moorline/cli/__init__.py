"""The ``moorline`` command.

Exit codes: 0 fine, 1 failed, 2 misused (an unknown option, a wrong setting, an app that cannot be found).
"""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

__all__ = ["main"]


def main() -> None:
    """Run the command line; the console script's entry point."""
    from moorline import errors, redaction

    redaction.watch_crashes()  # before typer comes: its hook hands on to the one that it found
    _set_up_streams()
    from moorline.cli.root import cli

    try:
        cli()
    except errors.ConfigurationError as error:
        _end(error, 2)
    except errors.MoorlineError as error:
        _end(error, 1)


def _set_up_streams() -> None:
    """Standard output escapes what it cannot write, as standard error does; one that is closed goes nowhere."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 (until the process ends)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _end(error: Exception, code: int) -> None:
    from moorline import redaction

    print(f"moorline: {redaction.text(str(error))}", file=sys.stderr)
    sys.exit(code)
