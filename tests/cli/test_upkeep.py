"""``moorline events export``, ``rejected``, ``alerts`` and ``prune``, run as a user runs them."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from pathlib import Path

import pytest
from tests.cli.test_commands import _json, _moorline
from tests.databases import migrated_sqlite
from tests.events.stored import add_all, pull

from moorline.events import Inbox
from moorline.store.store import Store
from moorline.testing import load_event


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A database with one old event, one young, three refusals and a row of forgeries."""
    (tmp_path / "moorline.toml").write_text('database_url = "sqlite:///shop.db"\n[webhooks]\ncompress_over = 0\n')
    migrated_sqlite(tmp_path / "shop.db")
    with Store(f"sqlite:///{tmp_path}/shop.db", auto_migrate=False) as store:
        add_all(Inbox(store), [pull(0, at=1_600_000_000.0), pull(1, at=time.time(), api_key="canary-value")])
    with contextlib.closing(sqlite3.connect(tmp_path / "shop.db")) as connection, connection:
        # The ids of this process are younger than the event: as if it had been stored when it came.
        connection.execute("UPDATE events SET id = '0174' || substr(id, 5) WHERE received_at < 1700000000")
        for n, service in enumerate(("github", "github", "stripe")):
            connection.execute(
                "INSERT INTO rejected (id, service, at, status, reason, method, headers, size, digest)"
                " VALUES (?, ?, ?, 401, 'mismatch', 'POST', ?, 20, 'sha256:ab')",
                (f"r{n}", service, 1_790_000_000 + n, json.dumps({"x-github-event": "push", "cookie": "canary-value"})),
            )
    return tmp_path


def test_an_event_is_exported_for_tests(folder: Path) -> None:
    """To a file or to standard output; with --redact nothing secret of the body is left."""
    assert "fixture.json" in _moorline(folder, "events", "export", "7:1", "--to", "fixture.json")
    assert load_event(folder / "fixture.json").payload == {"number": 1, "api_key": "canary-value"}
    assert "canary" not in _moorline(folder, "events", "export", "7:1", "--redact")
    assert "7:9" in _moorline(folder, "events", "export", "7:9", expect=1)
    assert "--to" in _moorline(folder, "events", "export", "7:1", "--to", "no/such/folder.json", expect=2)


def test_refused_requests_are_listed_and_shown(folder: Path) -> None:
    """Newest first, by service; one with its headers, secrets masked."""
    assert [one["id"] for one in _json(folder, "events", "rejected")] == ["r2", "r1", "r0"]
    (one,) = _json(folder, "events", "rejected", "--service", "stripe")
    assert (one["status"], one["reason"], one["method"], one["size"], one["digest"]) == (
        401,
        "mismatch",
        "POST",
        20,
        "sha256:ab",
    )
    assert "mismatch" in _moorline(folder, "events", "rejected")
    shown = _moorline(folder, "events", "rejected", "r1")
    assert "x-github-event" in shown
    assert "canary" not in shown
    assert _json(folder, "events", "rejected", "r1")["headers"]["x-github-event"] == "push"
    assert "r9" in _moorline(folder, "events", "rejected", "r9", expect=1)


def test_alerts_are_shown_with_an_exit_code(folder: Path) -> None:
    """0 and a word when nothing fires; 1 and what it is otherwise."""
    assert "nothing fires" in _moorline(folder, "events", "alerts")
    with contextlib.closing(sqlite3.connect(folder / "shop.db")) as connection, connection:
        values = (int(time.time() // 60), 20)
        connection.execute("INSERT INTO event_counts (service, minute, forged) VALUES ('github', ?, ?)", values)
    assert "not signed" in _moorline(folder, "events", "alerts", expect=1)
    (alert,) = json.loads(_moorline(folder, "events", "alerts", "--json", expect=1))
    assert (alert["rule"], alert["service"], alert["value"]) == ("failures", "github", 100.0)


def test_an_event_names_the_secret_that_had_signed_it(folder: Path) -> None:
    """Its variable, never its value: so that it is seen who still uses the old one."""
    with contextlib.closing(sqlite3.connect(folder / "shop.db")) as connection, connection:
        connection.execute("UPDATE events SET secret = 'GITHUB_WEBHOOK_SECRET_PREVIOUS'")
    assert "GITHUB_WEBHOOK_SECRET_PREVIOUS" in _moorline(folder, "events", "show", "7:1")
    assert _json(folder, "events", "show", "7:1")["signed_with"] == "GITHUB_WEBHOOK_SECRET_PREVIOUS"


def test_a_secret_that_ends_is_among_the_alerts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service's or a source's, as this environment has them."""
    with (folder / "moorline.toml").open("a") as settings:
        settings.write(
            '[webhooks.sources.partner]\nscheme = "hmac"\nheader = "X-Sig"\nenv = "PARTNER_KEY"\nid = "id"\n'
        )
    ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 86_400))
    for variable in ("STRIPE_WEBHOOK_SECRET", "PARTNER_KEY"):
        monkeypatch.setenv(variable, "canary-value-1")
        monkeypatch.setenv(f"{variable}_PREVIOUS", "canary-value-2")
        monkeypatch.setenv(f"{variable}_PREVIOUS_UNTIL", ends)
    found = json.loads(_moorline(folder, "events", "alerts", "--json", expect=1))
    assert [(one["rule"], one["service"], one["label"]) for one in found] == [
        ("secret", "partner", "PARTNER_KEY_PREVIOUS"),
        ("secret", "stripe", "STRIPE_WEBHOOK_SECRET_PREVIOUS"),
    ]
    assert "canary" not in json.dumps(found)


def test_old_events_are_pruned_by_hand(folder: Path) -> None:
    """The dry run says what would go; the run does it, and keeps who did."""
    assert _json(folder, "events", "prune", "--dry-run")["deleted"] == 1
    assert "actor" in _moorline(folder, "events", "prune", "--actor", "  ", expect=2)
    assert "1 events deleted" in _moorline(folder, "events", "prune", "--actor", "ada")
    assert [one["sender_id"] for one in _json(folder, "events", "list")] == ["7:1"]
    with contextlib.closing(sqlite3.connect(folder / "shop.db")) as connection:
        assert connection.execute("SELECT actor, action FROM audit").fetchall() == [("ada", "events.prune")]
        connection.execute("UPDATE events SET encoding = 'pruned'")
        connection.commit()
    assert "no longer kept" in _moorline(folder, "events", "show", "7:1", expect=1)
    assert "pruned" in _moorline(folder, "events", "list")


def test_what_strangers_send_is_shown_as_it_is(folder: Path) -> None:
    """Neither markup nor what a terminal would obey: a header or a type cannot break or dress up a command's output."""
    with contextlib.closing(sqlite3.connect(folder / "shop.db")) as connection, connection:
        hostile = "[/red] [bold]x[/] \x1b]0;title\x07"
        connection.execute("UPDATE rejected SET headers = ?, reason = ?", (json.dumps({"x-a": hostile}), hostile))
        connection.execute("UPDATE events SET type = ?, headers = ?", (hostile, json.dumps({"[/x]": hostile})))
        connection.execute("UPDATE events SET body = ?, encoding = NULL", (b"\x1b[31m not JSON",))
    for arguments in (("rejected",), ("rejected", "r1"), ("list",), ("show", "7:1")):
        shown = _moorline(folder, "events", *arguments)
        assert "[/red] [bold]x[/] \\x1b]0;title\\x07" in shown
        assert "\x1b" not in shown
    assert "[/x]" in _moorline(folder, "events", "show", "7:1")
