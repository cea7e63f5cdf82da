"""``OpenService``: a host that is asked without a credential, as a service with breaker and limits of its own."""

from __future__ import annotations

from typing import Any, Final

from moorline.calls.dialects import BearerKey, Endpoints
from moorline.calls.service import Service
from moorline.secrets.secret import Secret

__all__ = ["OpenService"]


class OpenService(Service):
    """One origin: what it answers is public, or each request proves itself. It is told apart from the service of the
    same *name* by its ``category``.
    """

    endpoints = Endpoints("https://nowhere.invalid")  # never used: the origin is given
    credentials = BearerKey(env="")

    def __init__(self, name: str, origin: str, **options: Any) -> None:
        self.name = name  # type: ignore[misc]
        super().__init__(base_url=origin, **options)

    def _guard_name(self, base: str) -> str:
        return f"{super()._guard_name(base)} {self.category}"

    def key(self) -> Secret:
        """None: there is nothing to prove, or the request does."""
        return _NOTHING

    def authorized(
        self,
        key: Secret,  # noqa: ARG002
        method: str,  # noqa: ARG002
        url: str,  # noqa: ARG002
        headers: dict[str, str],
        body: bytes | None,  # noqa: ARG002
    ) -> dict[str, str]:
        """*headers* themselves."""
        return headers


_NOTHING: Final = Secret("none: nothing is proved by a key")
