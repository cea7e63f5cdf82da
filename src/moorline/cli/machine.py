"""What the machine is, for whoever compares figures."""

from __future__ import annotations

import os
import platform
from pathlib import Path

__all__ = ["machine"]

_GIB = 1 << 30


def machine() -> dict[str, str]:
    """Processor, cores that this process may use, memory, Python, system; ``unknown`` where it is not told."""
    return {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or "unknown"),
        "memory": _memory(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": _system(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:  # not Linux
        lines = []
    names = [
        value.strip() for name, _, value in (line.partition(":") for line in lines) if name.strip() == "model name"
    ]
    return f"{names[0] if names else platform.processor() or 'unknown'} ({platform.machine()})"


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / _GIB:.1f} GiB"
    except (ValueError, OSError, AttributeError):  # Windows has no sysconf
        return "unknown"


def _system() -> str:
    kernel = f"{platform.system()} {platform.release()}"
    try:
        return f"{platform.freedesktop_os_release()['PRETTY_NAME']}, {kernel}"
    except (OSError, KeyError):
        return kernel
