"""``Version``: one of the values that a credential has at a time; two can be valid at once, in both directions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from moorline.errors import ConfigurationError
from moorline.secrets.secret import Secret

__all__ = ["NOTHING", "Found", "Stage", "Version", "fingerprint"]

Stage = Literal["pending", "current", "previous", "retired"]
_DIGITS: Final = 8


@dataclass(frozen=True, slots=True)
class Version:
    """One value of a credential. ``secret.not_after`` says when it ends, ``not_before`` (seconds since the epoch) when
    it begins.

    ``id`` is the source's own (AWS's version id, Vault's number), else a ``fingerprint``. ``origin`` says where it was
    found, such as ``env:STRIPE_SECRET_KEY`` or ``vault:secret/pay#key@3``. Neither shows anything of the value.
    """

    secret: Secret
    id: str
    stage: Stage = "current"
    not_before: float | None = None
    origin: str = ""


def fingerprint(secret: Secret) -> str:
    """Eight hexadecimal digits that name a value in all processes, where its source has no name for it.

    So few tell nothing of a value that is random, as keys of services are. They do bear out a guess of one that is not.
    """
    return hashlib.sha256(b"moorline secret version\0" + secret.reveal().encode()).hexdigest()[:_DIGITS]


class Found:
    """What is found of a credential: the versions, in the order of their use, and an error for each that is of no use.

    ``current`` is the one to send, None where there is none; ``failure`` says why, if it is there and of no use.
    """

    __slots__ = ("current", "failure", "problems", "secrets", "versions")

    def __init__(
        self,
        versions: Iterable[Version] = (),
        problems: Iterable[ConfigurationError] = (),
        *,
        failure: ConfigurationError | None = None,
    ) -> None:
        self.versions = tuple(versions)
        self.problems = tuple(problems)
        for one in (*self.problems, failure):
            if one is not None:
                one.__traceback__ = None  # its frames hold what was read
        self.secrets = tuple(one.secret for one in self.versions)
        self.failure = failure
        first = self.versions[0] if self.versions else None
        self.current = first.secret if first is not None and first.stage == "current" and failure is None else None

    def __bool__(self) -> bool:
        """Whether there is anything, be it of use or not."""
        return bool(self.versions or self.problems or self.failure)


NOTHING: Final = Found()
