"""The arguments that all adapters take: a policy, a name, and the registry behind it."""

from __future__ import annotations

from typing import Any

from moorline.calls.guards import PROCESS, Guards
from moorline.errors import ConfigurationError
from moorline.policies.policy import Policy

__all__ = ["checked"]


def checked(owner: str, policy: Any, name: Any, guards: Any) -> tuple[Policy, Guards]:
    """The policy and the registry to use. A call without a *name* shares nothing with others of this process.

    Raises ConfigurationError naming the argument of *owner*.
    """
    if policy is not None and not isinstance(policy, Policy):
        raise ConfigurationError(f"{owner}.policy must be a Policy or None, not {type(policy).__name__}")
    if name is not None and (not isinstance(name, str) or not name):
        raise ConfigurationError(f"{owner}.name must be a string that is not empty, not {name!r}")
    if guards is not None and not isinstance(guards, Guards):
        raise ConfigurationError(f"{owner}.guards must be a Guards or None, not {type(guards).__name__}")
    return Policy() if policy is None else policy, guards or (PROCESS if name else Guards())
