"""What Sentry's own Spotlight reads of our envelopes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.services.test_sentry import FULL, LINES, POINTS, fail_in_group
from tests.spotlight import SpotlightServer

from moorline.calls.call import Call
from moorline.calls.guards import Guards
from moorline.services.monitoring.sentry import CheckIn, Item, Sentry
from moorline.services.reports import report

pytestmark = pytest.mark.oracles


@pytest.fixture(scope="module")
def spotlight() -> Iterator[SpotlightServer]:
    """It, for the tests of this file."""
    with SpotlightServer() as server:
        yield server


def test_it_reads_all_that_we_send(spotlight: SpotlightServer):
    """Events, logs, metrics, check-ins and attachments come out as they went in, and its log names nothing malformed."""
    sentry = Sentry(spotlight.dsn, guards=Guards())
    failed = report(fail_in_group(), locals=True)

    def act() -> None:
        assert sentry.check().result()
        for call in (
            sentry.capture(FULL),
            sentry.capture(failed),
            sentry.send_logs(LINES),
            sentry.send_metrics(POINTS),
            sentry.check_in(CheckIn("nightly", "ok", 1.5)),
            sentry.send_envelope([Item("attachment", b"a\nb", {"filename": "a.txt"}), Item("session", {"sid": "1"})]),
        ):
            call.result()

    read = spotlight.read(act, 7)
    assert "Malformed" not in spotlight.log()
    assert [[item[0]["type"] for item in items] for _, items in read] == [
        [], ["event"], ["event"], ["log"], ["trace_metric"], ["check_in"], ["attachment", "session"],
    ]  # fmt: skip
    event = read[1][1][0][1]
    assert (read[1][0]["event_id"], event["logentry"]["formatted"]) == (FULL.id, FULL.message)
    values = read[2][1][0][1]["exception"]["values"]
    assert [one["type"] for one in values] == [one.type for one in failed.exceptions]
    assert all(one["stacktrace"]["frames"][-1]["context_line"] for one in values if "stacktrace" in one)
    assert [one["body"] for one in read[3][1][0][1]["items"]] == [LINES[0].message]


def test_it_would_have_said_so(spotlight: SpotlightServer):
    """A wrong length is noticed: silence means that all was well."""
    sentry = Sentry(spotlight.dsn, guards=Guards())
    plan = sentry.post(
        "/api/1/envelope/",
        content=b'{}\n{"type":"event","length":1}\n{}\n',
        headers={"Content-Type": "application/x-sentry-envelope"},
        blank=True,
        parse=lambda _: None,
    )
    Call.of(sentry, "malformed", plan).result()
    assert "Malformed" in spotlight.log()
