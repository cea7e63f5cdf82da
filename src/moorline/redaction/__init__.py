"""The one place that decides what may be shown: headers, URLs, bodies, structured data, exceptions and plain text.

Three rules together, because each alone misses something:

* **names**: a header, field or query key called ``*token``, ``*secret``, ``*key``, ``*signature``, ``*password``, … is
  masked;
* **shapes**: ``sk_live_…``, ``whsec_…``, ``ghp_…``, JWTs, private keys, card numbers, ``Bearer …`` are masked wherever
  they stand;
* **live values**: each value given to :func:`register` (every ``Secret`` does it) is masked raw and as it looks after
  the encodings that it meets: URL-encoded, JSON- and HTML-escaped, in hexadecimal, inside base64.

URLs are shown by default-deny: scheme, host, path and the *names* of the query. E-mail addresses and phone numbers are
masked where :func:`mask_personal` asks for it.
"""

from __future__ import annotations

from moorline.live_values import register
from moorline.redaction.addresses import url
from moorline.redaction.bodies import body
from moorline.redaction.crashes import trace, watch_crashes
from moorline.redaction.names import MASK, SENSITIVE_HEADERS, is_sensitive
from moorline.redaction.personal import mask_personal
from moorline.redaction.plain import beginning, text
from moorline.redaction.structures import data, headers, show

__all__ = [
    "MASK",
    "SENSITIVE_HEADERS",
    "beginning",
    "body",
    "data",
    "headers",
    "is_sensitive",
    "mask_personal",
    "register",
    "show",
    "text",
    "trace",
    "url",
    "watch_crashes",
]
