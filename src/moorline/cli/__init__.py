"""The ``moorline`` command.

Exit codes: 0 fine, 1 failed, 2 misused (an unknown option, a wrong setting, an app that cannot be found).
"""

from __future__ import annotations

import io
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; the console script's entry point."""
    from moorline import errors, redaction

    redaction.watch_crashes()  # before typer comes: its hook hands on to the one that it found
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as standard error: what it cannot write is escaped
    from moorline.cli.root import cli

    try:
        cli()
    except errors.ConfigurationError as error:
        _end(error, 2)
    except errors.MoorlineError as error:
        _end(error, 1)


def _end(error: Exception, code: int) -> None:
    from moorline import redaction

    print(f"moorline: {redaction.text(str(error))}", file=sys.stderr)
    sys.exit(code)
