"""Which functions are registered for which events."""

from __future__ import annotations

from typing import Any

import pytest

from moorline.errors import ConfigurationError
from moorline.events import Handlers
from moorline.services import GitHub, Stripe


def names(handlers: Handlers, *event: Any) -> list[str]:
    return [handler.name for handler in handlers.matching(*event)]


def test_a_type_matches_whatever_the_action():
    """``pull_request`` gets all its actions, ``pull_request.closed`` that one, ``*`` everything of the service."""
    handlers = Handlers()

    @handlers.on(GitHub, "pull_request")
    def every(event): ...

    @handlers.on(GitHub, "pull_request.closed")
    async def closed(event): ...

    @handlers.on(GitHub)
    def all_of_github(event): ...

    assert names(handlers, "github", "pull_request", "closed") == [
        "github.all_of_github",
        "github.every",
        "github.closed",
    ]
    assert names(handlers, "github", "pull_request", "opened") == ["github.all_of_github", "github.every"]
    assert names(handlers, "github", "push", None) == ["github.all_of_github"]
    assert names(handlers, "stripe", "pull_request", "closed") == []


def test_a_dotted_type_is_matched_whole():
    """Stripe's types hold dots and have no action."""
    handlers = Handlers()

    @handlers.on(Stripe, "payment_intent.succeeded")
    def paid(event): ...

    assert names(handlers, "stripe", "payment_intent.succeeded") == ["stripe.paid"]
    assert names(handlers, "stripe", "payment_intent") == []


def test_one_function_under_several_patterns_is_one_handler():
    """However many of its patterns match, it gets one job an event."""
    handlers = Handlers()

    @handlers.on(GitHub, "push")
    @handlers.on(GitHub, "ping")
    @handlers.on(GitHub, "*")
    def seen(event): ...

    assert names(handlers, "github", "push") == ["github.seen"]
    assert len(handlers) == 1
    found = handlers.named("github.seen")
    assert found is not None
    assert found.function is seen
    assert (found.job, list(handlers)) == ("event:github.seen", [found])


def test_registering_gives_the_function_back():
    """The decorator changes nothing, so the function can be called and tested as it is."""
    handlers = Handlers()

    def plain(event: object) -> str:
        return "x"

    assert handlers.on(GitHub, "push", name="mine", retries=0)(plain) is plain
    found = handlers.named("mine")
    assert found is not None
    assert found.retries == 0


def test_a_name_belongs_to_one_function():
    """Two functions under one name would take each other's jobs."""
    handlers = Handlers()
    handlers.on(GitHub, "push", name="mine")(len)
    with pytest.raises(ConfigurationError, match="mine"):
        handlers.on(GitHub, "push", name="mine")(repr)
    with pytest.raises(ConfigurationError, match="mine"):
        handlers.on(GitHub, "push", name="mine", retries=1)(len)


@pytest.mark.parametrize(
    ("argument", "options"),
    [
        ("type", {"type": "payment_intent.*"}),
        ("type", {"type": ""}),
        ("type", {"type": None}),
        ("retries", {"retries": -1}),
        ("retries", {"retries": True}),
        ("retries", {"retries": "5"}),
        ("name", {"name": ""}),
        ("name", {"name": "a\nb"}),
        ("service", {"service": "no_such"}),
        ("service", {"service": None}),
    ],
)
def test_a_bad_argument_is_named(argument: str, options: dict[str, Any]):
    """Each argument that cannot be used gives an error with its name."""
    arguments: dict[str, Any] = {"service": GitHub, "type": "push"} | options
    with pytest.raises(ConfigurationError, match=argument):
        Handlers().on(**arguments)(len)


def test_a_function_without_a_name_needs_one():
    """A lambda's name would be another one's tomorrow."""
    with pytest.raises(ConfigurationError, match="name"):
        Handlers().on(GitHub, "push")(lambda event: None)
    with pytest.raises(ConfigurationError, match="function"):
        Handlers().on(GitHub, "push")(5)  # type: ignore[type-var]
