"""Where secrets are kept: one module for each kind of place. Those that ask over the network with the pipeline of calls
lie above, and are loaded by their name, as those of other packages are (entry points of ``moorline.secret_sources``).
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from moorline.errors import ConfigurationError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from moorline.secrets.sources.base import Source

__all__ = ["GROUP", "KINDS", "kind", "known"]

GROUP: Final = "moorline.secret_sources"
KINDS: Final = {
    "dotenv": "moorline.secrets.sources.dotenv:DotEnv",
    "file": "moorline.secrets.sources.files:Files",
    "keyring": "moorline.secrets.sources.keyring:Keyring",
    "aws-sm": "moorline.calls.secret_sources.aws_secrets_manager:AwsSecretsManager",
    "vault": "moorline.calls.secret_sources.vault:Vault",
    "store": "moorline.identity.own_secrets:OwnSecrets",
}
"""The classes by the scheme of their URLs."""


@cache
def kind(scheme: str) -> type[Source]:
    """The class of that scheme. Raises ConfigurationError where there is none, naming those that there are."""
    named = KINDS.get(scheme)
    if named is not None:
        module, _, name = named.partition(":")
        found: Any = getattr(importlib.import_module(module), name)
    elif scheme in _foreign():
        found = _foreign()[scheme].load()
    else:
        listed = ", ".join(f"{one}:" for one in known())
        raise ConfigurationError(f"no source of secrets is called {scheme!r}; known: {listed}")
    return found  # type: ignore[no-any-return]


def known() -> tuple[str, ...]:
    """The schemes of all sources that can be had here."""
    return ("env", *KINDS, *sorted(_foreign()))


@cache
def _foreign() -> dict[str, EntryPoint]:
    from importlib import metadata

    return {point.name: point for point in metadata.entry_points(group=GROUP)}
