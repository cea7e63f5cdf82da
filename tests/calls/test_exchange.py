"""What an answer's body is read as, and what is said of one that cannot be."""

from __future__ import annotations

import pytest

from moorline.calls.exchange import Exchange
from moorline.errors import BadAnswer


@pytest.mark.parametrize(
    "body",
    [b'{"secret": "canary-4711"', b"canary-4711", b"\xff\xfecanary-4711", b"[" * 100_000 + b"canary-4711"],
    ids=["truncated", "no JSON", "no UTF-8", "too deep"],
)
def test_an_answer_that_is_no_json_is_in_no_part_of_the_error(body: bytes):
    """Decoders' errors hold the whole text: neither as cause nor as context do they come along."""
    exchange = Exchange(200, {"content-type": "application/json"}, body)
    with pytest.raises(BadAnswer, match=f"not JSON \\({len(body)} bytes of application/json\\)") as caught:
        exchange.data  # noqa: B018 (it is read when it is asked for)
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
    assert "canary" not in f"{caught.value!r} {vars(caught.value)}"
