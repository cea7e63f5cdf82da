from __future__ import annotations

import pickle

import httpx2
import pytest

from moorline import errors
from moorline.calls import httpx_errors
from moorline.calls.httpx_errors import as_httpx_error

KINDS = [
    (errors.RateLimited, httpx2.TransportError),
    (errors.BulkheadFull, httpx2.PoolTimeout),
    (errors.BadAnswer, httpx2.RemoteProtocolError),
    (errors.CircuitOpen, httpx2.TransportError),
    (errors.InvalidRequest, httpx2.LocalProtocolError),
    (errors.ConnectFailed, httpx2.ConnectTimeout),
    (errors.AttemptTimeout, httpx2.ReadTimeout),
    (errors.ConnectionLost, httpx2.ReadError),
    (errors.DeadlineExceeded, httpx2.TimeoutException),
    (errors.OutcomeUnknown, httpx2.ReadError),
    (errors.DeadlineOutcomeUnknown, httpx2.TimeoutException),
]
REQUEST = httpx2.Request("GET", "https://x.example", headers={"Authorization": "Bearer sk_live_canary"})


def test_every_error_of_the_transport_is_listed():
    """No class that a plain transport may raise is left out of these tests."""
    assert {ours for ours, _theirs in KINDS} == set(httpx_errors._DUALS)


@pytest.mark.parametrize(("ours", "theirs"), KINDS)
def test_dual(ours, theirs):
    """An error is ours and httpx2's of that kind, carries the request, and pickles without it."""
    dual = as_httpx_error(ours("said", service="s", status=503, retry_at=5.0), REQUEST)
    assert isinstance(dual, ours)
    assert isinstance(dual, theirs)
    assert dual.request is REQUEST
    pickled = pickle.dumps(dual)
    assert b"canary" not in pickled
    copy = pickle.loads(pickled)
    assert type(copy) is type(dual)
    assert (str(copy), copy.status, copy.retry_at) == (str(dual), 503, 5.0)
    with pytest.raises(RuntimeError):
        _ = copy.request


@pytest.mark.parametrize(
    ("error", "cause", "theirs"),
    [
        (errors.ConnectFailed("x"), httpx2.ConnectError("refused"), httpx2.ConnectError),
        (errors.ConnectFailed("x", code="pool"), None, httpx2.PoolTimeout),
        (errors.ConnectionLost("x"), httpx2.RemoteProtocolError("cut"), httpx2.RemoteProtocolError),
        (errors.OutcomeUnknown("x"), errors.AttemptTimeout("slow"), httpx2.ReadTimeout),
    ],
)
def test_the_cause_chooses_the_finer_kind(error, cause, theirs):
    """What httpx2 raised, or would have, is what its users can catch; such errors pickle too."""
    error.__cause__ = cause
    dual = as_httpx_error(error, REQUEST)
    assert isinstance(dual, theirs)
    assert isinstance(dual, type(error))
    assert type(pickle.loads(pickle.dumps(dual))) is type(dual)


def test_other_errors_stay_as_they_are():
    """An error that httpx2 has no word for is not changed."""
    error = errors.NotFound("x")
    assert as_httpx_error(error, REQUEST) is error
