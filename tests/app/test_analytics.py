"""What an application tells of itself outlives an outage of the vendor, and of the application."""

from __future__ import annotations

import pytest
from tests.app.conftest import Box

from moorline import Moorline, Policy
from moorline.errors import ConfigurationError
from moorline.services import GoogleAnalytics, Mixpanel, Segment

ONCE = Policy(retry=None, breaker=None)


async def test_what_is_said_in_an_outage_arrives_after_it(app: Moorline, box: Box):
    """The vendor is down when the application ends: the fact is a job by then, and a worker sends it later."""
    app.service(Segment, policy=ONCE)
    analytics = app.analytics(Segment)
    box.arm(kind="status", status=503, service="segment", count=100)
    async with app:
        fact = analytics.track("Order Paid", {"value": 12.5}, user_id="u-17")
    assert fact is not None
    assert analytics.counts["segment"].spilled == 1
    box.disarm()
    async with app:  # again: it is open for more
        assert analytics.track("Order Seen", user_id="u-17") is not None
        await app.worker().drain()
        await analytics.aflush()
    seen = [one["messageId"] for one in box.state("segment")["events"]]
    assert fact.message_id in seen
    assert len(seen) == 2


def test_its_services_are_the_applications(app: Moorline):
    """A class stands for the one that it has, or makes; something else is named."""
    segment = app.service(Segment)
    analytics = app.analytics(segment, Mixpanel, GoogleAnalytics)
    assert analytics.services[0] is segment
    assert set(app.services) >= {"segment", "mixpanel", "google_analytics"}
    with pytest.raises(ConfigurationError, match="dict"):
        app.analytics(dict)  # type: ignore[arg-type]
