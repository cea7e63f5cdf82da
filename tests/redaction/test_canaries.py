"""Seventy kinds of secret are planted wherever an application may drop them, and searched for in all that comes out."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pickle
import sqlite3
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.redaction.canaries import CANARIES, leaks, register
from typer.testing import CliRunner

from moorline import Money, Moorline, Policy, errors, redaction, telemetry
from moorline.calls import story
from moorline.cli.root import cli
from moorline.jobs import current, process_child
from moorline.sandbox import server
from moorline.services import GitHub, Stripe
from moorline.services.envelopes import event_of
from moorline.services.reports import report
from moorline.transport import Transport

SECRET = "canaries-webhook-secret"
KINDS = list(CANARIES)
# Several at a time where each costs a command; one by one they are looked for above.
PLANTED = ["\n".join(CANARIES[kind].text for kind in KINDS[start::2]) for start in range(2)]
# What senders and applications hand over to be kept is kept as it is; only what is *shown* of it is redacted.
VERBATIM = {("events", "body"), ("events", "headers"), ("jobs", "payload")}


def test_there_are_forty_kinds():
    """Each with a secret of its own that does stand in its text."""
    assert len(CANARIES) >= 40
    assert len({one.secret for one in CANARIES.values()}) >= 45
    assert leaks("\n".join(one.text for one in CANARIES.values())) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_leaves_by_none_of_the_doors(kind: str):
    """Text, data, headers, bodies of all kinds and tracebacks: what is around it stays, it does not."""
    register()
    planted = CANARIES[kind].text
    nested = {"note": [planted], planted: 1}
    error = ValueError(planted)
    error.add_note(f"seen with {planted}")
    shown = {
        "text": redaction.text(planted),
        "multi-line": redaction.text(f"a\n{planted}\nb"),
        "repr": redaction.text(repr({"x": planted})),
        "data": json.dumps(redaction.data(nested)),
        "headers": str(redaction.headers({"X-Note": planted})),
        "json": redaction.body(json.dumps(nested).encode(), "application/json"),
        "text body": redaction.body(planted.encode(), "text/plain"),
        "form": redaction.body(f"a=1&note={httpx2.QueryParams({'n': planted})}".encode(), "application/x-www-form-urlencoded"),
        "trace": redaction.trace(error),
    }  # fmt: skip
    assert {door: leaks(out) for door, out in shown.items() if leaks(out)} == {}
    assert all(redaction.text(out) == out for out in shown.values())


class Shop:
    """An application whose jobs fail with what was planted, after they logged it in all ways."""

    def __init__(self) -> None:
        self.app = Moorline()
        self.jobs: list[Any] = [
            self.app.job(retries=0)(self.fail),
            self.app.job(keep_result=True)(self.tell),
            self.app.job(retries=0)(self.carry),
        ]

    @staticmethod
    def fail(group: int) -> None:
        planted = PLANTED[group]
        logging.getLogger("shop").error("a line with %s", planted)
        logging.getLogger("moorline.shop").error("a line of our name with %s", planted)
        telemetry.logger("shop").warning(planted, value=planted, values={"deep": [planted]})
        try:
            raise ValueError(planted)
        except ValueError as cause:
            telemetry.logger("shop").exception("it_broke")
            logging.getLogger("shop").exception("it broke")
            error = RuntimeError(f"because of {planted}")
            error.add_note(f"while at {planted}")
            raise error from cause

    @staticmethod
    def tell(group: int) -> None:
        current().progress(1, of=2, message=PLANTED[group])

    @staticmethod
    def carry(group: int, notes: dict[str, Any]) -> None: ...

    async def day(self) -> None:
        """Jobs that fail, events that carry secrets, requests that are refused."""
        wire = httpx2.ASGITransport(app=self.app)
        fail, tell, carry = self.jobs
        async with (
            self.app.running(worker=True),
            httpx2.AsyncClient(transport=wire, base_url="http://shop.test", trust_env=False) as client,
        ):
            groups = range(len(PLANTED))
            await fail.enqueue_many([(group,) for group in groups])
            await tell.enqueue_many([(group,) for group in groups])
            await carry.enqueue_many([(group, {"api_key": "x", "said": PLANTED[group]}) for group in groups])
            for group, planted in enumerate(PLANTED):
                await self._delivered(client, group, planted)
            for _ in range(2_000):
                counts = await self.app.jobs.broker.counts()
                if not any(state in {"ready", "running"} for _queue, state in counts):
                    break
                await asyncio.sleep(0.01)

    @staticmethod
    async def _delivered(client: httpx2.AsyncClient, number: int, planted: str) -> None:
        body = json.dumps({"ref": planted, "number": number}).encode()
        said = planted.replace("\n", " ").encode()
        headers: dict[str, Any] = {"X-GitHub-Event": "push", "X-GitHub-Delivery": f"d{number}"}
        headers |= {"Content-Type": "application/json", "X-Note": said, "Referer": said}
        signed = {**headers, **GitHub.webhooks.sign(body, SECRET)}
        taken = await client.post("/webhooks/github", content=body, headers=signed)
        assert taken.status_code == 200, taken.text
        forged = {**headers, "X-Hub-Signature-256": said}
        refused = await client.post("/webhooks/github", content=body, headers=forged)
        assert refused.status_code == 401


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """It has no settings but its own."""
    for name in list(os.environ):
        if name.startswith(("MOORLINE_", "GITHUB_", "STRIPE_")) and not name.startswith("MOORLINE_TEST"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("GITHUB_WEBHOOK_SECRET", SECRET)
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "moorline.toml").write_text('database_url = "sqlite:///shop.db"\n')
    register()
    return Shop()


def _cli(*arguments: str) -> str:
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, (arguments, done.output, done.exception)
    return done.output


def _stored(path: Path) -> dict[str, str]:
    """All columns of the database, as text, but for what is kept as it came."""
    found: dict[str, str] = {}
    with closing(sqlite3.connect(path)) as database:
        for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            rows = database.execute(f"SELECT * FROM {table}")
            names = [one[0] for one in rows.description]
            for row in rows:
                for name, value in zip(names, row, strict=True):
                    if (table, name) not in VERBATIM:
                        shown = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
                        found[f"{table}.{name}"] = found.get(f"{table}.{name}", "") + shown + "\n"
    return found


@pytest.mark.parametrize("format", ["json", "console"])
def test_a_bad_day_leaks_nothing(shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str], format: Any):
    """Logs, what is stored of jobs and refused requests, and all that commands show of them, hold none of the secrets."""
    telemetry.configure(format=format)
    asyncio.run(shop.day())
    logs = capsys.readouterr().err
    assert logs.count("a line with") == len(PLANTED)
    assert leaks(logs) == []
    stored = _stored(tmp_path / "shop.db")
    assert {"job_errors.message", "job_errors.traceback", "job_notes.message", "rejected.headers"} <= stored.keys()
    assert {column: leaks(text) for column, text in stored.items() if leaks(text)} == {}
    if format == "console":
        return
    shown = {}
    listed = [("jobs", "list", "--limit", "200"), ("events", "list", "--limit", "100"), ("events", "rejected")]
    for command in (*listed, ("doctor",), ("services", "github", "stripe"), ("calls", "status")):
        shown[command] = _cli(*command) + _cli(*command, "--json")
    jobs = json.loads(_cli("jobs", "list", "--limit", "200", "--json"))
    events = json.loads(_cli("events", "list", "--limit", "100", "--json"))
    refused = json.loads(_cli("events", "rejected", "--json"))
    assert (len(jobs), len(events), len(refused)) == (3 * len(PLANTED), len(PLANTED), len(PLANTED))
    for job in jobs:
        shown["jobs", "show", job["id"]] = _cli("jobs", "show", job["id"]) + _cli("jobs", "show", job["id"], "--json")
    for event in events:
        which = event["inbox_id"] if "inbox_id" in event else event["id"]
        shown["events", "show", which] = _cli("events", "show", which) + _cli("events", "show", which, "--json")
        shown["events", "export", which] = _cli("events", "export", which, "--redact")
    for one in refused:
        shown["events", "rejected", one["id"]] = _cli("events", "rejected", one["id"])
    assert {command: leaks(text) for command, text in shown.items() if leaks(text)} == {}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[str]:
    """Its address."""
    with server.running() as url:
        yield url


@pytest.mark.parametrize("kind", KINDS[::3])
def test_a_failing_call_leaks_nothing(sandbox: str, kind: str, monkeypatch: pytest.MonkeyPatch):
    """A service that repeats what it was sent, key included: in the error, its causes as Python itself prints them, what
    is told of the call, and what is told to a monitor.
    """
    key = "sk_test_CanaryKeyOfTheCall"
    register()
    monkeypatch.setenv("MOORLINE_SANDBOX_URL", sandbox)
    planted = CANARIES[kind].text
    said = {
        "error": {"message": f"{planted} for {key}", "code": planted, "type": "invalid_request_error", "x": [planted]}
    }
    fault = {"kind": "status", "service": "stripe", "status": 400, "count": 1, "body": said}
    told: list[Any] = []
    stop = story.watch(told.append)
    try:
        with httpx2.Client(base_url=sandbox, trust_env=False) as control:
            assert control.post("/_sandbox/faults", json=fault).status_code == 201
            stripe = Stripe(key)
            with pytest.raises(errors.CallError) as caught:
                stripe.create_payment(Money(1000, "eur"), metadata={"note": planted}).result()
            transport = Transport(Policy(retry=None))
            with httpx2.Client(transport=transport) as lone, pytest.raises(errors.NetworkFault) as lost:
                lone.get(f"http://ann:{key}@127.0.0.1:9/x?token={key}")
            stripe.close()
            noted = control.get("/_sandbox/requests").text
    finally:
        stop()
    for error in (caught.value, lost.value):
        vars(error).pop("_request", None)  # the caller's own, which httpx hands back with the error
        raw = "".join(traceback.format_exception(error))  # as it is, for whoever does not ask the redactor
        out = [str(error), repr(error), str(error.args), str(vars(error)), raw, str([one.to_dict() for one in told])]
        out += [json.dumps(event_of(report(error)))]
        assert [leaks(text) for text in out if leaks(text)] == []
        assert not any(key in text for text in (*out, noted))


def test_a_job_in_another_process_leaks_nothing():
    """What it raised there is redacted there, where the secrets that it loaded are known."""
    register()
    sent: list[Any] = []
    for planted in PLANTED:
        error = ValueError(planted, 7)
        process_child._send_failure(lambda *answer: sent.append(answer), error)
    for _failed, pickled, told in sent:
        again = pickle.loads(pickled)
        assert again.args[1] == 7
        assert leaks(str(again) + told) == []


CRASH = """
import asyncio, sys, threading
from tests.redaction.canaries import CANARIES, register
from moorline import Moorline

register()
PLANTED = [one.text for one in CANARIES.values()]


class Broken:
    def __del__(self):
        raise ValueError("\\n".join(PLANTED))


def fall():
    raise KeyError(*PLANTED)


threading.Thread(target=fall, name="faller").start()
Broken()
for planted in PLANTED:
    print(planted, file=open("planted.txt", "a"))
try:
    raise ValueError(PLANTED)
except ValueError as cause:
    error = ExceptionGroup("\\n".join(PLANTED), [ValueError(one) for one in PLANTED])
    error.add_note("\\n".join(PLANTED))
    raise error from cause
"""


def test_a_crash_leaks_nothing(tmp_path: Path):
    """The last words of a command's process, of its threads, and of what Python cannot raise."""
    (tmp_path / "crash.py").write_text(CRASH)
    (tmp_path / "moorline.toml").write_text('database_url = "sqlite:///shop.db"\n')
    command = [sys.executable, "-m", "moorline.cli", "worker", "crash:app"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MOORLINE_")}
    paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = {**kept, "PYTHONPATH": paths}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, timeout=60, check=False, capture_output=True, text=True
    )
    said = done.stdout + done.stderr
    assert done.returncode == 1
    assert leaks((tmp_path / "planted.txt").read_text())
    assert all(words in said for words in ("Exception in thread faller", "Exception ignored", "ExceptionGroup"))
    assert leaks(said) == []
