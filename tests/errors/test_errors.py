from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from moorline import errors

KINDS = sorted(
    (
        kind
        for _name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.MoorlineError) and kind.__module__ == errors.__name__
    ),
    key=lambda kind: kind.__name__,
)
ATTEMPTS = (
    errors.Attempt(1, 1_800_000_000.5, 0.25, None, "the connection broke", 1.5),
    errors.Attempt(2, 1_800_000_002.25, 0.5, 503, "answered 503"),
)
FACTS: dict[str, Any] = {
    "service": "ledger",
    "operation": "book",
    "status": 402,
    "code": "declined",
    "request_id": "req_1",
    "outcome": "unknown",
    "retryable": True,
    "retry_at": 1_800_000_060.0,
    "idempotency_key": "k-1",
    "attempts": ATTEMPTS,
    "detail": {"error": {"code": "declined"}},
}
MORE: dict[type[errors.MoorlineError], dict[str, Any]] = {
    errors.PaymentDeclined: {"decline_code": "do_not_honor", "may_retry": False},
    errors.ReauthorizationRequired: {
        "connection": "c_1",
        "reconnect": "https://shop.example/connect",
        "missing": frozenset({"files"}),
    },
    errors.InvalidSignature: {"reason": "too old"},
    errors.InvalidToken: {"reason": "expired"},
    errors.SignInFailed: {"reason": "provider", "code": "server_error"},
    errors.StoreOverloaded: {"retry_after": 2.5},
}


def made(kind: type[errors.MoorlineError]) -> errors.MoorlineError:
    """An error of *kind* all of whose fields differ from what they are by default."""
    facts = FACTS if issubclass(kind, errors.CallError) else {}
    error = kind("what happened", **facts, **MORE.get(kind, {}))
    if isinstance(error, errors.AllServicesFailed):
        error.errors = (errors.RateLimited("busy", **FACTS), errors.PaymentDeclined("no", decline_code="x"))
    return error


def seen(error: BaseException) -> dict[str, Any]:
    """All that an error holds, the errors within it as well."""
    fields = {name: value for name, value in vars(error).items() if name != "errors"}
    within = [seen(each) for each in getattr(error, "errors", ())]
    return {"kind": type(error), "text": str(error), "args": error.args, "fields": fields, "within": within}


@pytest.mark.parametrize("again", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy])
@pytest.mark.parametrize("kind", KINDS)
def test_errors_survive_a_pickle(kind: type[errors.MoorlineError], again: Callable[[Any], Any]) -> None:
    """Each class of the tree comes out of a pickle, or a copy, of the same kind and with all its fields."""
    error = made(kind)
    assert seen(again(error)) == seen(error)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if issubclass(kind, errors.CallError)])
def test_no_field_is_left_at_its_default_above(kind: type[errors.CallError]) -> None:
    """The test above sees each field of a CallError: a new one has to be added there."""
    plain, full = vars(kind("what happened")), vars(made(kind))
    assert plain.keys() <= full.keys()
    same = {name for name, value in plain.items() if full[name] == value}
    assert same - {"message", "outcome", "retryable"} == set()
