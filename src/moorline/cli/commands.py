"""``Commands``: a group of commands whose words are text; a path may be any bytes, as on the system."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import typer
from typer.core import TyperCommand

from moorline.texts import is_utf8

__all__ = ["Commands"]

_NO_TEXT: Final = "it is not in UTF-8; if it is, set a locale that is too, such as LC_ALL=C.UTF-8"

F = TypeVar("F", bound=Callable[..., Any])


class Commands(typer.Typer):
    """As Typer's. An id, a name or a URL that is no text ends as misuse that names the option or argument."""

    def command(self, name: str | None = None, **options: Any) -> Callable[[F], F]:
        """As Typer's."""
        return super().command(name, cls=_Command, **options)


class _Command(TyperCommand):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        left: list[str] = super().parse_args(ctx, args)
        parameter: Any
        for parameter in self.params:
            given = ctx.params.get(parameter.name)
            for one in given if isinstance(given, list | tuple) else (given,):
                if isinstance(one, str) and not is_utf8(one):
                    raise typer.BadParameter(_NO_TEXT, ctx, parameter)  # not what was given: a URL has a password
        return left
