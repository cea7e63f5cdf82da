"""Where secrets are kept: one module for each kind of place. Those that ask over the network with the pipeline of calls
lie above, and are loaded by their name, as those of other packages are (entry points of ``moorline.secret_sources``).
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from moorline.errors import ConfigurationError

if TYPE_CHECKING:
    from moorline.secrets.sources.base import Source

__all__ = ["GROUP", "KINDS", "kind"]

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
    else:
        from importlib import metadata

        points = {point.name: point for point in metadata.entry_points(group=GROUP)}
        if scheme not in points:
            known = ", ".join(f"{one}:" for one in ("env", *KINDS, *sorted(points)))
            raise ConfigurationError(f"no source of secrets is called {scheme!r}; known: {known}")
        found = points[scheme].load()
    return found  # type: ignore[no-any-return]
