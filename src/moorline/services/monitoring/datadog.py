"""Datadog: the alerts of its monitors.

Facts: services/monitoring/datadog.md; contract: datadog.json.
"""

from __future__ import annotations

from moorline.events.delivery import Delivers
from moorline.events.schemes.shared_secret import SharedSecret
from moorline.events.sender import Sender

__all__ = ["Datadog"]


class Datadog(Sender):
    """Alerts by Datadog: its webhooks, which are not signed, and whose body is your template.

    The secret goes into a custom header (``{"Authorization": "Bearer …"}``), into the address as ``user:password@``, or
    at the end of its path. Put these into the template: ``"id": "$ID"`` and ``"date": "$DATE"`` (both, or the event has
    no id), ``"event_type": "$EVENT_TYPE"`` (the event's type) and ``"transition": "$ALERT_TRANSITION"`` (its action).
    Without an id two equal bodies are one event if they come within the same minute, because that is a retry, and two
    events otherwise: an alert that is raised again later often has the same words.
    Facts: services/monitoring/datadog.md; contract: datadog.json.
    """

    name, category = "datadog", "monitoring"
    docs = "services/monitoring/datadog.md, datadog.json"
    webhooks = SharedSecret(
        env="DATADOG_WEBHOOK_SECRET",  # ours: the sender gives it no name
        id=("id", "date"),  # the names of these variables are unconfirmed; an id alone may be the monitor's
        templated=True,
        lacking="digest",
        type=("event_type", "type"),
        typed=False,
        action="transition",
        repeats_after=60,
        delivers=Delivers(within=15, retries="5xx and lost connections, the latter 5 times; none after a 4xx"),
    )
