"""``Parameter``: what a service has to know of an account beside its key, and is no secret."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final, Self, overload

from moorline.errors import ConfigurationError
from moorline.secrets.secret import Secret

if TYPE_CHECKING:
    from moorline.calls.account import Account

__all__ = ["Parameter", "missing_of", "parameters_of"]

_ANY: Final = r"[!-~]+"


class Parameter:
    """An account's id, a domain, a merchant, as a service's class names it.

    It is given when the service is made, or found in the environment at each use::

        class Twilio(Service):
            account_sid = Parameter("TWILIO_ACCOUNT_SID", sandbox="AC…", like="AC[0-9a-f]{32}")

    ``Twilio(account_sid=…)`` wins over the variable *env*, which is also where a rotated one is seen. *sandbox* is the
    one of the sandbox, *default* what holds where there is none (an optional one), *like* the pattern it has to match
    in whole. One that is *secret* after all (an app's, beside the credential of whom it acts for) is masked in all that
    is shown. *grants* are the values of the parameter ``grant`` with which alone it is needed, where there is one.
    Reading one that is nowhere raises ConfigurationError, which says where it was looked for.
    """

    def __init__(
        self,
        env: str,
        *,
        sandbox: str = "",
        like: str = _ANY,
        default: str | None = None,
        secret: bool = False,
        grants: tuple[str, ...] = (),
    ) -> None:
        self.env, self.sandbox, self.default, self.secret, self.grants = env, sandbox, default, secret, grants
        self.like = re.compile(like)
        self.name = ""

    def __set_name__(self, owner: type[Account], name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type[Account]) -> Self: ...
    @overload
    def __get__(self, instance: Account, owner: type[Account]) -> str: ...
    def __get__(self, instance: Account | None, owner: type[Account]) -> Self | str:
        if instance is None:
            return self
        given = instance.parameters.get(self.name)
        if given is not None:
            return given
        found = os.environ.get(self.env, "").strip()
        if found:
            return self.checked(owner.name, found, f"the variable {self.env}")
        if instance.in_sandbox and self.sandbox:
            return self.sandbox
        if self.default is not None:
            return self.default
        raise ConfigurationError(
            f"{owner.name} has no {self.name}: set {self.env} in the environment, or pass {self.name} to "
            f"{owner.__name__}()"
        )

    def checked(self, service: str, value: object, where: str) -> str:
        """*value* itself. Raises ConfigurationError, naming *where* it stands, for one that does not fit."""
        if not isinstance(value, str) or not self.like.fullmatch(value):
            raise ConfigurationError(f"{service}.{self.name}: {where} does not hold what looks like one")
        if self.secret:
            Secret(value, name=f"{service}.{self.name}")  # it is masked from now on
        return value


def parameters_of(service: type[Account]) -> dict[str, Parameter]:
    """The parameters of a service class by name, those of its bases included."""
    return {
        name: member
        for kind in reversed(service.__mro__)
        for name, member in vars(kind).items()
        if isinstance(member, Parameter)
    }


def missing_of(service: type[Account]) -> list[str]:
    """The variables of parameters that *service* needs and that are not in the environment."""
    known = parameters_of(service)
    way = known.get("grant")
    grant = "" if way is None else os.environ.get(way.env, "").strip() or way.default or ""
    needed = [one for one in known.values() if one.default is None and (not one.grants or grant in one.grants)]
    return [one.env for one in needed if not os.environ.get(one.env)]
