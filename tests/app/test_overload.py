"""The measurement of ``benchmarks/overload.py``, smaller: twice the load that can be taken, and what is promised then."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from benchmarks.overload import failed, overloaded

pytestmark = [pytest.mark.crash, pytest.mark.timeout(170)]


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def test_twice_the_load_is_answered_and_nothing_acknowledged_is_lost(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Every event is answered 200 or 503 with Retry-After, each 200 is stored, and memory stays bounded."""
    url = f"sqlite:///{tmp_path}/moorline.db" if kind == "sqlite" else request.getfixturevalue("postgres_url")
    found = await asyncio.to_thread(overloaded, url, seconds=4.0, times=2.0, warm=1.5)
    assert not failed(found), found
    assert found["acknowledged_200"] > 0
    assert found["resident_mb"]["peak"] < found["resident_mb"]["before"] + 300
