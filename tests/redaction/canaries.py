"""Kinds of secret, each with a text in which it stands and the part of it that must not come out.

None was ever anyone's. ``LIVE`` have no look that one could know: they are registered, as an application's keys are.
"""

from __future__ import annotations

import base64
import html
import json
import re
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import quote

from moorline.secrets import Secret

__all__ = ["CANARIES", "LIVE", "Canary", "leaks", "register"]


class Canary(NamedTuple):
    """*text* is planted, *secret* searched for."""

    kind: str
    text: str
    secret: str


@dataclass
class Settings:
    """As an application keeps them, with a repr that shows all."""

    region: str
    password: str


def _shape(kind: str, secret: str) -> Canary:
    return Canary(kind, f"the service did not take {secret} today", secret[-14:])


_JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJjYW5hcnkifQ.c2lnbmF0dXJlLWNhbmFyeS1qd3Q"
_PEM = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BcanaryPEM01\n-----END PRIVATE KEY-----"

_SHAPES = [
    _shape("stripe live", "sk_live_51CanaryStripeLive01"),
    _shape("stripe restricted", "rk_test_51CanaryStripeRest02"),
    _shape("webhook secret", "whsec_Q2FuYXJ5V2ViaG9va1NlYw"),
    _shape("payment intent", "pi_3CanaryIntent_secret_YrKJUKcanary03"),
    _shape("sendgrid", "SG.canarySendgrid0004.qrstuvwxyz0123456789"),
    _shape("github token", "ghp_CanaryGithubPersonal0000000000005"),
    _shape("github app", "ghs_CanaryGithubApp00000000000000006"),
    _shape("github fine", "github_pat_11CANARY0fine_grained0007"),
    _shape("slack bot", "xoxb-123456789012-CanarySlackBot08"),
    Canary("slack hook", "POST https://hooks.slack.com/services/T00/B00/CanaryHook09 failed", "CanaryHook09"),
    _shape("aws key id", "AKIACANARY0000000010"),
    _shape("google api key", "AIzaSyCanaryGoogle11-1234567890abcdefgh"),
    _shape("google access", "ya29.a0CanaryGoogleAccess12"),
    _shape("google refresh", "1//0gCanaryGoogleRefresh13"),
    _shape("jwt", _JWT),
    Canary("pem", f"loaded {_PEM} from the disk", "canaryPEM01"),
    _shape("vault", "hvs.CAESICanaryVault0000000015"),
    _shape("square", "EAAACanarySquare000000000016"),
    _shape("mailgun", "key-0123456789abcdef01234567ca4a2017"),
    _shape("resend", "re_CanaryRe1_CanaryResend0000000018"),
    _shape("supabase", "sb_secret_CanarySupabase000000019"),
    _shape("hubspot", "pat-eu1-canary00-hubs-pot0-0000-000000000020"),
    _shape("onesignal", "os_v2_app_canaryonesignal000000021"),
    _shape("salesforce", "00DCanary0000022!AQEAQCanarySalesforce.00022"),
    _shape("new relic", "eu01xxcanarynewrelic0000000023"),
    _shape("google client", "GOCSPX-CanaryGoogleClient00000043"),
    _shape("stripe organization", "sk_org_live_CanaryStripeOrg0044"),
    _shape("stripe ephemeral", "ek_live_CanaryStripeEphemeral0045"),
    _shape("square application", "sq0csp-CanarySquareApp000000000046"),
    _shape("new relic user", "NRAK-CANARYNEWRELICUSER000047"),
    _shape("new relic licence", "0123456789canarynewreliclicence00048NRAL"),
    _shape("sentry", "sntrys_eyJpYXQiCanarySentry_0000049"),
    _shape("sentry user", "sntryu_0123456789abcdefca4a00000050"),
    _shape("supabase token", "sbp_0123456789abcdef0123ca4a00000051"),
    _shape("paypal access", "A21AACanaryPaypalAccess0123456789abcdefghijklmnopqrst0052"),
    _shape("vault recovery", "hvr.CAESICanaryVaultRecovery0053"),
    Canary("card", "charged 4242 4242 4242 4242 for it", "4242 4242 4242"),
]
_PLACES = [
    Canary("bearer", "sent Authorization: Bearer canary-bearer-0025", "canary-bearer-0025"),
    Canary("basic", f"sent Basic {base64.b64encode(b'canary:basic-0026').decode()}", "Y2FuYXJ5OmJhc2ljLTAwMjY"),
    Canary("cookie", "Cookie: session=canary-cookie-0027; theme=dark", "canary-cookie-0027"),
    Canary("header of a dict", repr({"X-Api-Key": "canary-header-0028"}), "canary-header-0028"),
    Canary("headers as pairs", repr([(b"x-api-key", b"canary-pairs-0029")]), "canary-pairs-0029"),
    Canary("json", json.dumps({"id": 1, "client_secret": "canary-json-0030"}), "canary-json-0030"),
    Canary("json in json", json.dumps({"e": json.dumps({"api_key": "canary-nest-0031"})}), "canary-nest-0031"),
    Canary("json list", json.dumps({"tokens": ["canary-list-0032", "b"]}), "canary-list-0032"),
    Canary("form", "amount=20&api_key=canary-form-0033&x=1", "canary-form-0033"),
    Canary("userinfo", "dsn postgresql://shop:canary-user-0034@db.test/shop", "canary-user-0034"),
    Canary("query", "GET https://api.test/v1?q=canary-query-0035 failed", "canary-query-0035"),
    Canary("oauth code", "GET /auth/google/callback?code=4/0canary0code0036&state=x", "4/0canary0code0036"),
    Canary("oauth grant", json.dumps({"grant_type": "authorization_code", "code": "canary-grant-0037"}), "grant-0037"),
    Canary("environment", "environ({'HOME': '/root', 'DB_PASSWORD': 'canary-env-0038'})", "canary-env-0038"),
    Canary("dataclass", repr(Settings("eu", "canary-data-0039")), "canary-data-0039"),
    Canary("xml", "<Answer><SessionToken>canary-xml-0040</SessionToken></Answer>", "canary-xml-0040"),
    Canary("xml attribute", '<Password Type="text">canary-attribute-0054</Password>', "canary-attribute-0054"),
    Canary("xml literal", "<Password><![CDATA[canary<literal>0055]]></Password>", "literal>0055"),
    Canary("named in a list", repr([{"name": "X-Api-Key", "value": "canary-named-0056"}]), "canary-named-0056"),
    Canary("keyed in a list", json.dumps({"Key": "db_password", "Value": "canary-keyed-0057"}), "canary-keyed-0057"),
    Canary("arrow", "{'api_key' => 'canary-arrow-0058'}", "canary-arrow-0058"),
    Canary("short name", "DB_PASS=canary-short-0059", "canary-short-0059"),
    Canary("name with value", json.dumps({"token_value": "canary-value-0060"}), "canary-value-0060"),
    Canary("argument", "ran tool --token canary-argument-0041 --fast", "canary-argument-0041"),
]
_VALUE = "correct/horse+battery=staple\"'<0042> cañary"
LIVE = ("plain-canary-value-without-a-look", _VALUE)
_LOWER = re.sub("%..", lambda found: found[0].lower(), quote(_VALUE, safe=""))
_BASE64 = base64.b64encode(f"ab:{_VALUE}:c".encode()).decode()
_ENCODED = [
    Canary("live", f"it said {LIVE[0]} to me", LIVE[0]),
    Canary("live, in a url", f"it said {quote(_VALUE, safe='')} to me", quote(_VALUE, safe="")),
    Canary("live, lower case", f"it said {_LOWER} to me", _LOWER),
    Canary("live, base64", f"it said {_BASE64} to me", _BASE64[8:40]),
    Canary("live, in json", json.dumps({"e": _VALUE}), "battery=staple"),
    Canary("live, in html", f"<p>{html.escape(_VALUE)}</p>", "battery=staple"),
    Canary("live, hex", f"it said {_VALUE.encode().hex()} to me", _VALUE.encode().hex()[8:-8]),
    Canary("live, numbered", "it said " + "".join(f"\\u{ord(one):04x}" for one in LIVE[0]), "\\u0063\\u0061\\u006e"),
]  # fmt: skip
CANARIES = {canary.kind: canary for canary in (*_SHAPES, *_PLACES, *_ENCODED)}


def register() -> None:
    """As loading them does."""
    for value in LIVE:
        Secret(value)


def leaks(output: str) -> list[str]:
    """The kinds whose secret stands in *output*, as it is or as JSON writes it."""
    return [
        one.kind
        for one in CANARIES.values()
        if one.secret in output or json.dumps(one.secret)[1:-1] in output or one.secret.replace("\n", "\\n") in output
    ]
