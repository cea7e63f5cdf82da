"""``python -m moorline.cli.demo.member PARENT COMMAND…``: ``moorline COMMAND`` that dies with the process PARENT."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def _die_with(parent: int) -> None:
    # Linux only: even a demonstration that is killed with -9 leaves nothing running.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was gone before we asked
        sys.exit(1)


if __name__ == "__main__":
    _die_with(int(sys.argv.pop(1)))
    # Held back by whoever started us, until it had us in its books.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})

    from moorline.cli import main

    main()
