"""Small pictures, as numbers: where the bars of a chart stand. The templates draw them in SVG, with no inline style."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

__all__ = ["columns", "shares"]

WIDTH: Final = 240
HEIGHT: Final = 48
_GAP: Final = 1.0
_BAR: Final = 10


def columns(series: Sequence[tuple[str, Sequence[float]]], words: str) -> dict[str, Any]:
    """Columns side by side, the series of each stacked; *words* tell the same to who does not see it.

    ``series``: pairs of a kind (a class of the style sheet) and a value for each column, all of one length.
    """
    length = max((len(values) for _, values in series), default=0)
    top = max((sum(values[at] for _, values in series) for at in range(length)), default=0.0)
    width = WIDTH / length if length else 0.0
    bars: list[dict[str, Any]] = []
    for at in range(length):
        below = 0.0
        for kind, values in series:
            tall = HEIGHT * values[at] / top if top else 0.0
            if tall:
                tall = max(tall, 1.5)  # what is there is seen
                place = {"x": round(at * width, 2), "y": round(HEIGHT - below - tall, 2)}
                bars.append({**place, "width": round(max(width - _GAP, 0.5), 2), "height": round(tall, 2), "of": kind})
                below += tall
    return {"bars": bars, "width": WIDTH, "height": HEIGHT, "words": words, "most": top}


def shares(parts: Sequence[tuple[str, float]], most: float, words: str) -> dict[str, Any]:
    """One bar, cut by the *parts* (kind and value), that is as long as *most* would be; what is there can be seen."""
    bars: list[dict[str, Any]] = []
    left = 0.0
    for kind, value in parts:
        if value:
            wide = max(WIDTH * value / max(most, value), 3.0)
            bar = {"x": round(left, 2), "y": 0, "width": round(wide - _GAP, 2), "height": _BAR, "of": kind}
            bars.append(bar)
            left += wide
    return {"bars": bars, "width": max(round(left), WIDTH), "height": _BAR, "words": words, "most": most}
