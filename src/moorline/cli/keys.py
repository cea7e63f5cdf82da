"""``moorline keys``: the keys that encrypt what an application keeps."""

from __future__ import annotations

import typer

__all__ = ["cli"]

cli = typer.Typer(help="The keys that encrypt sessions and the tokens of connected accounts.", no_args_is_help=True)
master = typer.Typer(help="Make encryption keys.", no_args_is_help=True)
cli.add_typer(master, name="master")


@master.command()
def new() -> None:
    """Print a new encryption key, for MOORLINE_ENCRYPTION_KEY. It is kept nowhere else.

    To rotate, put the new key before the old one, separated by a comma: the first encrypts, all of them decrypt.
    """
    from moorline.secrets.keyring import new_key

    typer.echo(new_key())
