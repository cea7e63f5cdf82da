"""Filters: values at places of the payload, or a function."""

from __future__ import annotations

import json
from typing import Any

import pytest

from moorline.errors import ConfigurationError, UnusableEvent
from moorline.events import Event
from moorline.events.where import filter_of

PAYLOAD = {"action": "closed", "pull_request": {"merged": True, "count": 1, "by": None}, "items": [{"id": "a"}]}
EVENT = Event("github", "1", "pull_request", json.dumps(PAYLOAD).encode(), {"x-github-event": "pull_request"}, "closed")


@pytest.mark.parametrize(
    ("where", "fits"),
    [
        ({"action": "closed", "pull_request.merged": True}, True),
        ({"action": "closed", "pull_request.merged": False}, False),
        ({"action": ["opened", "closed"]}, True),
        ({"action": ("opened", "reopened")}, False),
        ({"action": {"opened"}}, False),
        ({"pull_request.count": 1}, True),
        ({"pull_request.count": True}, False),
        ({"pull_request.merged": 1}, False),
        ({"pull_request.by": None}, True),
        ({"pull_request.gone": None}, False),
        ({"action.deeper": "closed"}, False),
        ({"items.0.id": "a"}, True),
        ({"items.1.id": "a"}, False),
        ({"items.x.id": "a"}, False),
        ({"header:X-GitHub-Event": "pull_request"}, True),
        ({"header:X-Other": "pull_request"}, False),
        (lambda event: event.payload["pull_request"]["merged"], True),
        (lambda event: "", False),
    ],
)
def test_an_event_fits_when_every_place_has_one_of_its_values(where: Any, fits: bool):
    """True is no 1, null is no absence, and a function decides by itself."""
    assert filter_of(where).fits(EVENT) is fits


def test_a_body_that_is_not_json_has_no_places():
    """The filter raises, as the handler would."""
    with pytest.raises(UnusableEvent):
        filter_of({"a": 1}).fits(Event("github", "1", "push", b"{"))


async def later(event): ...


@pytest.mark.parametrize(
    "where", [{}, 5, {"a": object()}, {"a": []}, {"a": {"b": 1}}, {"a..b": 1}, {"": 1}, {1: 1}, later]
)
def test_what_is_no_filter_is_refused(where: Any):
    """The error names the argument."""
    with pytest.raises(ConfigurationError, match="where"):
        filter_of(where)
