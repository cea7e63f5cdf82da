"""``moorline keys``."""

from __future__ import annotations

from typer.testing import CliRunner

from moorline.cli.root import cli
from moorline.secrets.keyring import KeyRing
from moorline.secrets.secret import Secret


def test_a_new_key_is_one_and_another_each_time():
    """What is printed is all that a ring needs."""
    printed = [CliRunner().invoke(cli, ["keys", "master", "new"]) for _ in range(2)]
    assert [one.exit_code for one in printed] == [0, 0]
    assert len({KeyRing([Secret(one.output.strip())]).current_id for one in printed}) == 2
