"""Auth0: log streams and event streams to an address of ours.

Facts: services/auth/auth0.md; contracts: auth0.json (the Management API's event streams).
"""

from __future__ import annotations

from moorline.events.delivery import Delivers
from moorline.events.schemes.shared_secret import SharedSecret
from moorline.events.sender import Sender

__all__ = ["Auth0"]


class Auth0(Sender):
    """Users by Auth0: log streams (custom webhook) and event streams (CloudEvents), neither of which is signed.

    The secret is the token that you type there: for a log stream the ``Authorization`` header as it stands, for an
    event stream ``bearer``, or ``basic`` with ``user:password`` as the secret. A log stream may send JSON lines, an
    array or single objects: each record is an event, known by its ``log_id``, with a type such as ``ss`` (signed up).
    Auth0 holds one token at a time: accept old and new here, then change it there.
    Facts: services/auth/auth0.md; contract: auth0.json.
    """

    name, category = "auth0", "auth"
    docs = "services/auth/auth0.md, auth0.json"
    webhooks = SharedSecret(
        env="AUTH0_WEBHOOK_TOKEN",  # ours: the sender gives it no name
        id="log_id|id",
        type=("type", "data.type"),
        each="lines",
        delivers=Delivers(
            retries="event streams: 4 tries, 1, 2, 4 s apart, none after a 4xx; log streams: switched off after errors"
        ),
    )
