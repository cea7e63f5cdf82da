"""Secrets in the keyring of the operating system (macOS Keychain, Windows Credential Locker, Secret Service, KWallet):
``keyring:shop``, under the service ``shop`` with the name as its user (``keyring set shop STRIPE_SECRET_KEY``).

By the package ``keyring`` (the extra of that name), whose backends may ask the user to unlock it: it fits a developer's
machine, not a server. ``…_PREVIOUS`` is the older value, as in the environment.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from moorline.errors import ConfigurationError, SecretUnavailable
from moorline.secrets.sources.base import Address, Content, Source
from moorline.secrets.sources.environment import PREVIOUS, UNTIL, moment

__all__ = ["Keyring"]


class Keyring(Source):
    """A service in the keyring of the operating system."""

    scheme: ClassVar[str] = "keyring"
    ttl: ClassVar[float] = 300.0

    def __init__(self, address: Address, *, whole: bool = False) -> None:
        super().__init__(address, whole=whole)
        if not address.path:
            raise ConfigurationError("keyring: which service? such as keyring:shop")

    def fetch(self, unit: str) -> Sequence[Content]:
        """The value, and the one before it."""
        if not unit:
            raise ConfigurationError(f"{self.address}: whose password? such as {self.address}#STRIPE_SECRET_KEY")
        found = [] if (value := self._password(unit)) is None else [Content(text=value)]
        previous = self._password(unit + PREVIOUS)
        if previous is not None:
            until = self._password(unit + UNTIL)
            end = None if until is None else moment(unit + UNTIL, {unit + UNTIL: until})
            found.append(Content(stage="previous", text=previous, not_after=end))
        return found

    def _password(self, name: str) -> str | None:
        try:
            import keyring
            from keyring.errors import KeyringError
        except ImportError as error:
            raise ConfigurationError(f"{self.address} needs keyring; pip install 'moorline[keyring]'") from error
        try:
            return keyring.get_password(self.address.path, name)
        except KeyringError as error:
            why = f"the keyring does not give it ({type(error).__name__})"
            raise SecretUnavailable(f"{self.where(name)}: {why}") from None
