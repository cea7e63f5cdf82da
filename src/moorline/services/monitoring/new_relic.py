"""New Relic: the notifications of its alert workflows.

Facts: services/monitoring/new_relic.md; contract: new_relic.schema.json.
"""

from __future__ import annotations

from moorline.events.delivery import Delivers
from moorline.events.schemes.shared_secret import SharedSecret
from moorline.events.sender import Sender

__all__ = ["NewRelic"]


class NewRelic(Sender):
    """Alerts by New Relic: the webhooks of a workflow, which are not signed, and whose body is your template.

    The destination carries the secret as Basic or Bearer authorization, as a custom ``Authorization`` header, or at the
    end of its path. Keep ``"id": {{json issueId}}``, ``"state": {{json state}}`` and ``"updatedAt": {{json
    updatedAt}}`` in the template: together they are the event's id (an issue tells of itself many times), the state
    is its type. Without all three, two equal bodies are one event if they come within the same minute, and two
    otherwise.
    Facts: services/monitoring/new_relic.md; contract: new_relic.schema.json.
    """

    name, category = "new_relic", "monitoring"
    docs = "services/monitoring/new_relic.md, new_relic.schema.json"
    webhooks = SharedSecret(
        env="NEW_RELIC_WEBHOOK_SECRET",  # ours: the sender gives it no name
        id=("id", "state", "updatedAt"),  # the names of these variables are unconfirmed
        templated=True,
        lacking="digest",
        type=("event_type", "state"),
        typed=False,
        action="trigger",
        repeats_after=60,
        delivers=Delivers(),
    )
