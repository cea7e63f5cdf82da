"""Asking the taps of this user's running processes (see ``tap``): what they answer to one question."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moorline.errors import ConfigurationError

__all__ = ["asked", "connected", "sockets"]


def sockets() -> Iterator[Path]:
    """The sockets of the taps, whether or not their processes live. Raises ConfigurationError as ``tap_folder``."""
    from moorline.calls.tap import tap_folder

    yield from sorted(tap_folder().glob("*.sock"))


def connected(path: Path) -> socket.socket | None:
    """A connection; None, and the socket's file removed, when its process is gone. Raises ConfigurationError."""
    try:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(path))
    except ConnectionRefusedError:
        connection.close()
        path.unlink(missing_ok=True)
        return None
    except OSError as error:
        connection.close()
        raise ConfigurationError(f"{path} cannot be listened to: {error.strerror}") from error
    return connection


def asked(question: dict[str, Any], *, seconds: float = 5.0, but: int | None = None) -> list[dict[str, Any]]:
    """The answers of all processes to one question, *but* that one; each has *seconds*. Raises ConfigurationError."""
    answers = []
    for path in sockets():
        connection = None if path.stem == str(but) else connected(path)
        if connection is None:
            continue
        with connection, connection.makefile("rwb") as stream, contextlib.suppress(OSError, ValueError):
            connection.settimeout(seconds)
            stream.write(json.dumps(question).encode() + b"\n")
            stream.flush()
            answers.append(json.loads(stream.readline()))
    return answers
