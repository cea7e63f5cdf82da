"""Our errors that are an SDK's own exceptions as well, so that both ``except`` clauses of its users catch them."""

from __future__ import annotations

from typing import Any, Final, TypeVar

from moorline.errors import CallError

__all__ = ["as_theirs"]

E = TypeVar("E", bound=CallError)

_ATTRIBUTES: Final = tuple(vars(CallError("")))
_kinds: Final[dict[tuple[type[CallError], type[Exception]], Any]] = {}


def as_theirs(error: E, theirs: type[Exception], /, **facts: Any) -> E:
    """*error* as an exception that is also one of *theirs*. *facts* are the attributes that their users read.

    The constructor of *theirs* is not run. A pickle keeps of the facts only what our error has as well: the others may
    hold requests, with credentials.
    """
    made: Any = _kind(type(error), theirs)(error.message)
    vars(made).update(vars(error))
    vars(made).update(facts, _facts=tuple(fact for fact in facts if fact not in vars(error)))
    made.__cause__ = error.__cause__
    return made  # type: ignore[no-any-return]


def _kind(ours: type[CallError], theirs: type[Exception]) -> Any:
    known = _kinds.get((ours, theirs))
    if known is not None:
        return known

    def construct(self: Any, message: str) -> None:
        self.args = (message,)
        self.message = message

    def reduce(self: Any) -> tuple[Any, ...]:
        state = vars(self)
        kept = {name: value for name, value in state.items() if name not in state["_facts"]}
        return _rebuild, (ours, theirs, self.message, kept | {"_facts": ()})

    body = {
        "__init__": construct,
        "__reduce__": reduce,
        "__repr__": ours.__repr__,
        "__module__": ours.__module__,
        "__doc__": ours.__doc__,
    }
    shadowed = [name for name in _ATTRIBUTES if hasattr(getattr(theirs, name, None), "__set__")]
    made = _kinds[ours, theirs] = type(ours.__name__, (ours, theirs), body | {name: _ours(name) for name in shadowed})
    return made


def _ours(name: str) -> property:
    """The attribute that our errors have, where *theirs* has something computed under the same name."""
    return property(lambda self: vars(self)[name], lambda self, value: vars(self).update({name: value}))


def _rebuild(ours: type[CallError], theirs: type[Exception], message: str, state: dict[str, Any]) -> CallError:
    error = _kind(ours, theirs)(message)
    vars(error).update(state)
    return error  # type: ignore[no-any-return]
