"""Supabase Auth (GoTrue): its HTTP hooks.

Facts: services/auth/supabase_auth.md; contract: supabase_auth.json.
"""

from __future__ import annotations

from moorline.events.delivery import Delivers, Reply
from moorline.events.schemes.standard_webhooks import StandardWebhooks
from moorline.events.sender import Sender

__all__ = ["SupabaseAuth"]


class SupabaseAuth(Sender):
    """Users by Supabase Auth: its hooks over HTTP, for which a sign-in waits.

    They are answered ``{}``, which means "go on": right for send-sms, send-email, before- and after-user-created, whose
    work a handler does afterwards. Hooks that decide (customize-access-token, mfa- and password-verification) want an
    answer of their own: receive those by ``moorline.events.verify`` in a route of yours. Most hooks do not say what
    they are (their type is empty). A retry comes with a new id, so events are known by their content, but no longer
    than 10 s: retries end after 5, and a later hook with the same content (a second wrong password) is another event.
    Database webhooks (pg_net) are another product, and unsigned. The secret is ``v1,whsec_…`` as shown.
    Facts: services/auth/supabase_auth.md; contract: supabase_auth.json.
    """

    name, category = "supabase_auth", "auth"
    docs = "services/auth/supabase_auth.md, supabase_auth.json"
    webhooks = StandardWebhooks(
        env="SUPABASE_AUTH_HOOK_SECRET",  # no name is customary in the card: unconfirmed
        type="metadata.name",
        commas=True,  # several signatures are joined by a comma and a space
        dedup="content",
        repeats_after=10,
        answer=Reply(200, b"{}"),
        delivers=Delivers(
            within=5, retries="up to 3 tries within those 5 s: connection errors, and 429 or 503 with Retry-After"
        ),
    )
