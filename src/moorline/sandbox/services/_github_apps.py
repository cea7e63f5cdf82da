"""GitHub's side of a GitHub App, for its stand-in: the app's JWT, its installations and their tokens; deliveries of
webhooks, and their redelivery.

Facts: services/business/github.md, github.json; docs.github.com on registering an app from a manifest, which is how the
sandbox's app hands its private key out (``POST /app-manifests/sandbox/conversions``).
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from moorline.sandbox import signing
from moorline.sandbox.services import _github_objects as objects
from moorline.sandbox.services._github_objects import Refused, Thing
from moorline.sandbox.standin import Answer, Ask, Emission, Surroundings

__all__ = ["APP_ID", "CLIENT_ID", "INSTALLATION", "SUSPENDED", "Apps", "Hooks"]

APP_ID, CLIENT_ID = 123456, "Iv23liSandbox0000000"
INSTALLATION, SUSPENDED = 7654321, 7654322
_HOUR = 3600
_LONGEST = 600
_SKEW = 60


class Apps:
    """One app, with an installation on the organisation and a suspended one."""

    def __init__(self, around: Surroundings, secret: str) -> None:
        self._around = around
        self._secret = secret
        self._tokens: dict[str, float] = {}

    def routes(self) -> list[tuple[str, str, Callable[..., Answer]]]:
        """What it answers to."""
        return [
            ("GET", r"/app", self._app),
            ("GET", r"/app/installations", self._installations),
            ("POST", r"/app/installations/(\d+)/access_tokens", self._token),
        ]

    def good(self, token: str) -> bool:
        """Whether it is a token of an installation that is not over."""
        return self._around.clock.wall() < self._tokens.get(token, 0.0)

    def register(self) -> Answer:
        """The app as it is made of a manifest: the only time that its key is shown."""
        shown = {"client_id": CLIENT_ID, "client_secret": "sandbox", "webhook_secret": self._secret}
        return Answer(201, {**self._shown("https://api.github.com"), **shown, "pem": signing.private_key()})

    def prove(self, token: str) -> None:
        """Refuse what is no JWT of the app, for now."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import padding, rsa
        from cryptography.x509 import load_pem_x509_certificate

        try:
            head, body, mark = token.split(".")
            claims, key = json.loads(_decoded(body)), load_pem_x509_certificate(signing.certificate()).public_key()
            if json.loads(_decoded(head))["alg"] != "RS256" or not isinstance(key, rsa.RSAPublicKey):
                raise Refused(401, "A JSON web token could not be decoded")
            key.verify(_decoded(mark), f"{head}.{body}".encode(), padding.PKCS1v15(), hashes.SHA256())
            begun, ends, issuer = claims["iat"], claims["exp"], str(claims["iss"])
        except (InvalidSignature, ValueError, KeyError, TypeError):
            raise Refused(401, "A JSON web token could not be decoded") from None
        now = self._around.now()
        if not isinstance(begun, int) or begun > now + _SKEW:
            raise Refused(401, "'Issued at' claim ('iat') must be an Integer representing the time in the past")
        if not isinstance(ends, int) or ends <= now:
            raise Refused(401, "'Expiration time' claim ('exp') must be a numeric value in the future")
        if ends > now + _LONGEST:
            raise Refused(401, "'Expiration time' claim ('exp') is too far in the future")
        if issuer not in (str(APP_ID), CLIENT_ID):
            raise Refused(404, "Integration not found")

    def _shown(self, base: str) -> Thing:
        at = objects.moment(self._around.clock.wall())
        return {
            "id": APP_ID,
            "slug": "harbour-pilot",
            "node_id": objects.node("A", APP_ID),
            "client_id": CLIENT_ID,
            "owner": objects.user(base, "quay", 9919, kind="Organization"),
            "name": "Harbour Pilot",
            "description": None,
            "external_url": "https://example.com",
            "html_url": "https://github.com/apps/harbour-pilot",
            "created_at": at,
            "updated_at": at,
            "permissions": {"issues": "write", "checks": "write", "contents": "write", "metadata": "read"},
            "events": ["issues", "push", "check_run"],
        }

    def _app(self, ask: Ask) -> Answer:
        return Answer(200, {**self._shown(ask.base), "installations_count": 2})

    def installation(self, base: str, number: int = INSTALLATION) -> Thing:
        """An installation with what lists and events show of it."""
        at = objects.moment(self._around.clock.wall())
        return {
            "id": number,
            "account": objects.user(base, "quay", 9919, kind="Organization"),
            "repository_selection": "all",
            "access_tokens_url": f"{base}/app/installations/{number}/access_tokens",
            "repositories_url": f"{base}/installation/repositories",
            "html_url": f"https://github.com/organizations/quay/settings/installations/{number}",
            "app_id": APP_ID,
            "app_slug": "harbour-pilot",
            "target_id": 9919,
            "target_type": "Organization",
            "permissions": {"issues": "write", "metadata": "read"},
            "events": ["issues"],
            "created_at": at,
            "updated_at": at,
            "single_file_name": None,
            "suspended_by": None,
            "suspended_at": at if number == SUSPENDED else None,
        }

    def _installations(self, ask: Ask) -> Answer:
        return Answer(200, [self.installation(ask.base), self.installation(ask.base, SUSPENDED)])

    def _token(self, ask: Ask, number: str) -> Answer:
        wanted = objects.given(ask.body)
        if int(number) == SUSPENDED:
            raise Refused(403, "This installation has been suspended")
        if int(number) != INSTALLATION:
            raise Refused(404, "Not Found")
        permissions = wanted.get("permissions") or {"issues": "write", "checks": "write", "metadata": "read"}
        if not isinstance(permissions, dict) or set(permissions) - {"issues", "checks", "contents", "metadata"}:
            raise Refused(422, "The permissions requested are not granted to this installation.")
        token, ends = self._around.id(f"ghs_{APP_ID}_", 60), self._around.clock.wall() + _HOUR
        self._tokens[token] = ends
        some = bool(wanted.get("repositories") or wanted.get("repository_ids"))
        made = {"token": token, "expires_at": objects.moment(ends), "permissions": permissions}
        return Answer(201, {**made, "repository_selection": "selected" if some else "all"})


class Hooks:
    """The webhooks of a repository (1), of the organisation (2) and of the app, and what was delivered to each: at
    first one event that was taken, one that failed, and one that failed and was redelivered.
    """

    def __init__(self, around: Surroundings, sample: Callable[[str], bytes]) -> None:
        self._around = around
        self._sample = sample
        self._ids = 12_345_000
        self._log: dict[str, list[Thing]] = {"1": [], "2": [], "app": []}
        self._bodies: dict[str, bytes] = {}

    def routes(self, repository: str) -> list[tuple[str, str, Callable[..., Answer]]]:
        """What it answers to; *repository* is the pattern of one."""
        of_repository, of_org, of_app = repository + r"/hooks/(\d+)", r"/orgs/([\w.-]+)/hooks/(\d+)", r"/app/hook"
        return [
            ("GET", of_repository + "/deliveries", lambda ask, _owner, _name, hook: self._list(ask, hook)),
            ("GET", of_org + "/deliveries", lambda ask, _org, hook: self._list(ask, hook)),
            ("GET", of_app + "/deliveries", lambda ask: self._list(ask, "app")),
            ("POST", of_repository + r"/deliveries/(\d+)/attempts", lambda _, _owner, _name, *one: self._again(*one)),
            ("POST", of_org + r"/deliveries/(\d+)/attempts", lambda _, _org, *one: self._again(*one)),
            ("POST", of_app + r"/deliveries/(\d+)/attempts", lambda _, one: self._again("app", one)),
        ]

    def delivered(self, emission: Emission) -> None:
        """Note that an event went out to all webhooks."""
        self._bodies[emission.id] = emission.body
        for hook in self._log:
            self._add(hook, emission.event, emission.id)

    def _add(self, hook: str, event: str, guid: str, *, ok: bool = True, again: bool = False) -> None:
        self._ids += 1
        name, _, action = event.partition(".")
        self._log[hook].insert(
            0,
            {
                "id": self._ids,
                "guid": guid,
                "delivered_at": objects.moment(self._around.clock.wall()),
                "redelivery": again,
                "duration": 0.03,
                "status": "OK" if ok else "Invalid HTTP Response: 502",
                "status_code": 200 if ok else 502,
                "event": name,
                "action": action or None,
                "installation_id": None,
                "repository_id": 1_296_272,
                "throttled_at": None,
            },
        )

    def _known(self, hook: str) -> list[Thing]:
        if hook not in self._log:
            raise Refused(404, "Not Found")
        if not self._log[hook]:
            for number, tries in enumerate(((True,), (False,), (False, True)), 1):
                guid = f"0b989ba4-242f-11e5-81e1-{hook:0>8}{number:04}"
                for count, ok in enumerate(tries):
                    self._add(hook, "push", guid, ok=ok, again=count > 0)
        return self._log[hook]

    def _list(self, ask: Ask, hook: str) -> Answer:
        asked = dict(ask.parameters)
        rows = self._known(hook)
        if asked.get("status") in ("success", "failure"):
            rows = [one for one in rows if (one["status"] == "OK") is (asked["status"] == "success")]
        elif "status" in asked:
            raise Refused(422, "Invalid request.\n\nFor 'status', it is not one of success, failure.")
        cursor = asked.get("cursor", "")
        if cursor and not re.fullmatch(r"v1_\d{1,10}", cursor):
            raise Refused(400, "Invalid cursor")
        size, start = min(max(int(asked.get("per_page", "30")), 1), 100), int(cursor.removeprefix("v1_") or 0)
        link = {}
        if len(rows) > start + size:
            query = urlencode({**asked, "cursor": f"v1_{start + size}"})
            link = {"Link": f'<{ask.base}{ask.path}?{query}>; rel="next"'}
        return Answer(200, rows[start : start + size], link)

    def _again(self, hook: str, number: str) -> Answer:
        for one in self._known(hook):
            if one["id"] == int(number):
                event = f"{one['event']}.{one['action']}" if one["action"] else one["event"]
                self._add(hook, event, one["guid"], again=True)
                body: Any = self._bodies.get(one["guid"])
                self._around.emit(Emission(event, body or self._sample(event), one["guid"]))
                return Answer(202, {})
        raise Refused(404, "Not Found")


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
