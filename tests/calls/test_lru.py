from __future__ import annotations

import threading
from collections import OrderedDict

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.calls.ledger import Ledger

from moorline.calls.cache import Cache
from moorline.calls.guards import Guards
from moorline.calls.identity import identity
from moorline.calls.lru import Lru
from moorline.calls.sending import ServiceRequest
from moorline.errors import ConfigurationError

STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "get", "remove"]), st.integers(0, 5), st.integers(1, 12)), max_size=40
)


@given(STEPS)
def test_it_is_a_model_of_itself(steps):
    """Beside a plain model: the same values, the bounds kept after each step, and each one that leaves is told once."""
    gone: list[tuple[int, int]] = []
    lru: Lru[int, int] = Lru("test", max_bytes=20, max_entries=3, dropped=lambda key, value: gone.append((key, value)))
    model: OrderedDict[int, tuple[int, int]] = OrderedDict()
    left: list[tuple[int, int]] = []
    for number, (step, key, size) in enumerate(steps):
        if step == "get":
            assert lru.get(key) == (model[key][0] if key in model else None)
            if key in model:
                model.move_to_end(key)
            continue
        if key in model:
            left.append((key, model.pop(key)[0]))
        if step == "remove":
            lru.remove(key)
        else:
            assert lru.put(key, number, size)
            model[key] = number, size
            while len(model) > 3 or sum(size for _, size in model.values()) > 20:
                oldest, (value, _) = model.popitem(last=False)
                left.append((oldest, value))
        assert (len(lru), lru.bytes) == (len(model), sum(size for _, size in model.values()))
        assert gone == left
    lru.clear()
    assert (len(lru), lru.bytes) == (0, 0)


@pytest.mark.parametrize("wrong", [{"max_bytes": 0, "max_entries": 1}, {"max_bytes": 1, "max_entries": True}])
def test_bounds_are_checked(wrong):
    """A bound is a positive integer."""
    with pytest.raises(ConfigurationError, match=r"test\.max_"):
        Lru("test", **wrong)


HEADERS = st.dictionaries(st.sampled_from(["A", "B", "C"]), st.text("ab',()", max_size=4), max_size=3)
REQUESTS = st.builds(
    ServiceRequest,
    st.sampled_from(["GET", "HEAD"]),
    st.sampled_from(["https://x.example/a", "https://x.example/b"]),
    HEADERS,
    st.none() | st.binary(max_size=4),
    st.just(1),
    state=st.none(),
    streamed=st.just(False),
    upload=st.none(),
    patience=st.none(),
)
TENANTS = st.none() | st.text("ab'", max_size=2)


@given(REQUESTS, REQUESTS, TENANTS, TENANTS)
def test_two_requests_are_equal_if_and_only_if_all_of_them_is(one, other, tenant, others):
    """The digests of two requests are equal when method, address, headers, body and tenant are, and only then."""
    wanted, wants = (each._replace(body=each.body or b"")[:5] for each in (one, other))
    equal = (wanted, tenant) == (wants, others)
    assert (identity(one, tenant) == identity(other, others)) == equal


def test_threads_share_a_cache():
    """Eight threads that read, write and clear leave a cache whose books are right."""
    cache = Cache(max_entries=5)

    def serve(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(
            200, headers={"etag": '"a"', "cache-control": "max-age=1"}, json={"id": request.url.path}
        )

    ledger = Ledger("k", wire=httpx2.MockTransport(serve), guards=Guards(), cache=cache)
    wrong: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for number in range(60):
                which = str((seed * 7 + number) % 9)
                assert ledger.read(which).result() == f"/bookings/{which}"
                if number % 10 == 3:
                    ledger.request("PUT", f"/bookings/{which}", json={}).result()
                if number == 30:
                    cache.clear()
        except BaseException as error:  # noqa: BLE001 (told to the test)
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert wrong == []
    assert cache.answers <= 5
    assert {key for keys in cache._places.values() for key in keys} == set(cache._entries._kept)
