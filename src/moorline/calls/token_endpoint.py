"""The place where a service's tokens are had, as a service of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from moorline.calls.call import Call
from moorline.calls.exchange import Exchange
from moorline.calls.faults import ErrorMap
from moorline.calls.open_service import OpenService
from moorline.calls.service import Service
from moorline.calls.tokens import Request, Token, token_of
from moorline.errors import AuthenticationFailed, InvalidRequest
from moorline.policies.policy import Policy

__all__ = ["TokenEndpoint"]

T = TypeVar("T")

_PATIENCE: Final = Policy(deadline=15.0, attempt_timeout=5.0)


class TokenEndpoint(OpenService):
    """One origin: its failures do not count against the service that wants the tokens."""

    category = "tokens"
    errors = ErrorMap(
        code="error|category|status",  # HubSpot's are as its other errors
        message="error_description|message",
        kinds={
            **dict.fromkeys(("invalid_client", "invalid_grant", "unauthorized_client"), AuthenticationFailed),
            **dict.fromkeys(("invalid_request", "invalid_scope", "unsupported_grant_type"), InvalidRequest),
        },
        statuses={400: AuthenticationFailed},  # in words of its own: what it was shown is all that there is to refuse
    )

    def __init__(self, owner: Service, origin: str) -> None:
        options = {"guards": owner.guards, "clock": owner.clock, "wire": owner.wire, "addresses": owner.addresses}
        super().__init__(owner.name, origin, policy=_PATIENCE, max_body=100_000, **options)

    def asked(self, request: Request, made: Callable[[Token], T]) -> Call[T]:
        """The Call that fetches a token."""
        read = request.read or token_of

        def parse(exchange: Exchange) -> T:
            return made(read(exchange))

        plan = self.post(
            request.url, form=request.form, json=request.json, headers=request.headers, parse=parse, repeatable=True
        )
        return Call.of(self, "token", plan, (), {})
