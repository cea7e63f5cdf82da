"""What GitHub wants of every request: a token or an app's proof, a version; and how it speaks of limits and errors.

Facts: services/business/github.md, github.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, cast
from urllib.parse import SplitResult, urlsplit

from moorline.calls.dialects import LimitFields
from moorline.calls.service import (
    BearerKey,
    Endpoints,
    ErrorMap,
    Exchange,
    Parameter,
    RateLimitHeaders,
    Service,
    segment,
)
from moorline.calls.signed_tokens import SignedTokens
from moorline.calls.tokens import Grant, Request, Token, TokenService
from moorline.errors import BadAnswer, Conflict, NotFound
from moorline.identity.connection import Tokens
from moorline.identity.oauth import Client, OAuth, Revocation
from moorline.secrets.secret import Secret
from moorline.services.github_objects import token_of

__all__ = ["GitHubAccount"]

API_VERSION: Final = "2022-11-28"  # 2026-03-10 exists and has breaking changes
_SECONDARY_WAIT: Final = 60.0  # at least, when a secondary limit says nothing else
_LIMITED: Final = (403, 429)
_SKEW: Final = 60  # seconds by which clocks may differ
_LIFETIME: Final = 540  # of the 600 that are allowed
_REUSED: Final = 420.0
_APP: Final = ("/app/", "/app?")


def _is_limit(exchange: Exchange) -> bool:
    """Whether a 403 is a limit and no lack of rights: nothing remains, a time is named, or the message says so."""
    if exchange.status not in _LIMITED:
        return False
    if exchange.header("x-ratelimit-remaining") == "0" or exchange.header("retry-after") is not None:
        return True
    return b"rate limit" in exchange.body[:4096].lower()


@dataclass(frozen=True, slots=True)
class _OfInstallation:
    """How an app gets a token for its installation: with a JWT that its private key signs."""

    def account(self, service: Service, secret: Secret) -> tuple[str, ...]:  # noqa: ARG002
        """The app, and its installation."""
        github = cast("GitHubAccount", service)
        return github.base_url, github.app(), github.installation_id

    def request(self, service: Service, secret: Secret, now: float) -> Request:
        """The request. Raises ConfigurationError for a key that cannot be used."""
        github = cast("GitHubAccount", service)
        path = f"/app/installations/{segment(github.installation_id, 'installation_id')}/access_tokens"
        proof = {"Authorization": f"Bearer {github.app_token(secret).reveal()}"}

        def found(exchange: Exchange) -> Token:
            made = token_of(exchange.data)
            ends = now + 3600 if made.expires_at is None else made.expires_at.timestamp()
            if ends <= now:
                raise BadAnswer("the token is over already")
            return Token(made.token, ends - now)

        return Request(github.base_url + path, json={}, headers={**GitHubAccount.default_headers, **proof}, read=found)


def _authority(url: SplitResult) -> str:
    """Host and port as one and the same is written in one way, and whom it names as a user."""
    return url.netloc.lower().removesuffix(":443" if url.scheme == "https" else ":80")


def _revocation(client: Client, tokens: Tokens) -> Revocation:
    """The whole grant (github_signin.json: ``apps/delete-authorization``)."""
    path = f"/applications/{segment(client.id, 'client_id')}/grant"
    return Revocation("DELETE", path, json={"access_token": tokens.access.reveal()}, basic=True)


def _levels(name: str) -> dict[str, tuple[str, ...]]:
    return {f"admin:{name}": (f"write:{name}",), f"write:{name}": (f"read:{name}",)}


class GitHubAccount(TokenService):
    """The base of what speaks with GitHub: a token's, or an app's."""

    endpoints = Endpoints("https://api.github.com")
    credentials = BearerKey(env="GITHUB_TOKEN", sandbox="github_pat_sandbox")
    # Facts: signin/github.md. A GitHub App's rights are its own, and not asked for; its tokens end and are refreshed.
    oauth = OAuth(
        authorize="https://github.com/login/oauth/authorize",
        token="https://github.com/login/oauth/access_token",  # noqa: S106 (an address)
        revoke=_revocation,
        device="https://github.com/login/device/code",
        # docs.github.com, "Scopes for OAuth apps" (unconfirmed); answers leave out what another one gives.
        implies={
            "repo": ("public_repo", "repo:invite", "repo:status", "repo_deployment", "security_events"),
            "user": ("read:user", "user:email", "user:follow"),
            "project": ("read:project",),
            "write:packages": ("read:packages",),
            **_levels("org"), **_levels("public_key"), **_levels("repo_hook"), **_levels("gpg_key"),
        },
        rotates=True,
        whoami="/user",
        account="id",
        ended=("bad_refresh_token",),
    )  # fmt: skip
    app_id = Parameter("GITHUB_APP_ID", default="")
    installation_id = Parameter("GITHUB_INSTALLATION_ID", like=r"\d+", default="")
    limits = RateLimitHeaders(
        fields=(
            LimitFields(
                remaining="X-RateLimit-Remaining",
                limit="X-RateLimit-Limit",
                reset="X-RateLimit-Reset",
                reset_as="epoch",
                bucket="X-RateLimit-Resource",  # core, search, graphql, …: each for itself
            ),
        ),
        silent=_SECONDARY_WAIT,
    )
    redirects_writes = True  # of what was renamed
    errors = ErrorMap(
        code="errors.0.code",
        message="message",
        request_id="header:X-GitHub-Request-Id",
        kinds={"already_exists": Conflict},
        # What is followed is not seen here: all but a redirect elsewhere. ``detail`` says where it is now.
        statuses=dict.fromkeys((301, 302, 307, 308), NotFound),
        is_limit=_is_limit,
    )
    default_headers: ClassVar[Mapping[str, str]] = {
        "Accept": "application/vnd.github+json",
        "X-GitHub-Api-Version": API_VERSION,
    }
    _signer: SignedTokens | None = None

    def app_token(self, private_key: Secret | None = None) -> Secret:
        """The JWT of the app, for what is asked of ``/app``. Raises ConfigurationError for an unusable key."""
        now, issuer = self.clock.wall(), self.app()
        if self._signer is None:
            self._signer = SignedTokens(self.name, reused=_REUSED)

        def claims() -> dict[str, Any]:
            return {"iat": int(now) - _SKEW, "exp": int(now) + _LIFETIME, "iss": issuer}

        return self._signer.token(private_key or self.secret(), issuer, now, claims)

    def key(self) -> Secret:
        """The token, that of the installation, or the app's JWT where it names none."""
        return self.app_token() if self.fetched is None and self.app() else super().key()

    def authorized(
        self, key: Secret, method: str, url: str, headers: dict[str, str], body: bytes | None
    ) -> dict[str, str]:
        """The headers of an attempt: ``/app`` wants the app's JWT, not the token of an installation."""
        path = url.removeprefix(self.base_url)
        if self.fetched is not None and (path == "/app" or path.startswith(_APP)):
            key = self.app_token()
        return super().authorized(key, method, url, headers, body)

    def is_own(self, url: str) -> bool:
        """Where further pages are, and where the files of releases go: to ``uploads.`` in place of ``api.``, or, on
        Enterprise Server, to the same host.
        """
        if " " in url or not url.isprintable():
            return False
        try:
            base, there = urlsplit(self.base_url), urlsplit(url)
        except ValueError:
            return False
        host = _authority(base)
        known = {host, f"uploads.{host.removeprefix('api.')}"} if host.startswith("api.") else {host}
        return there.scheme == base.scheme and _authority(there) in known

    def app(self) -> str:
        """The app that this is, or nothing where a token acts."""
        return "" if self._key is not None and "app_id" not in self.parameters else self.app_id

    def _key_variable(self) -> str:
        return "GITHUB_APP_PRIVATE_KEY" if self.app() else self.credentials.env

    def _grant(self) -> Grant | None:
        return _OfInstallation() if self.app() and self.installation_id else None
