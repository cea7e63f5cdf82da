"""A secret that is shown: every place where it may stand, and that nothing is open by accident."""

from __future__ import annotations

import base64
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.events.test_senders import sent

from moorline.clock import ManualClock
from moorline.errors import ConfigurationError, InvalidSignature
from moorline.events import Inbox, Receiver, SharedSecret, verify
from moorline.store.store import Store

SECRET = "Zm9v-s3cret"
SCHEME = SharedSecret(env="X_SECRET", header="X-Token", id="id", type="type")
BODY = b'{"id":"1","type":"x"}'


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


def checked(headers: dict[str, str], secrets: Any = SECRET) -> Any:
    return verify(SCHEME, headers=headers, body=BODY, secrets=secrets)


@pytest.mark.parametrize(
    ("headers", "secret"),
    [
        ({"X-Token": SECRET}, SECRET),
        ({"Authorization": SECRET}, SECRET),
        ({"Authorization": f"Bearer {SECRET}"}, SECRET),
        ({"Authorization": f"bearer  {SECRET}"}, SECRET),
        ({"Authorization": f"Bearer {SECRET}"}, f"Bearer {SECRET}"),
        ({"Authorization": basic(f"anybody:{SECRET}")}, SECRET),
        ({"Authorization": basic(f"user:{SECRET}")}, f"user:{SECRET}"),
        ({"Authorization": basic(f"u:a:{SECRET}")}, f"a:{SECRET}"),
    ],
)
def test_each_place_of_the_secret(headers: dict[str, str], secret: str):
    """A header of its own, ``Authorization`` as it stands or as Bearer, Basic with or without the user's name."""
    assert checked(headers, ["old", secret]).secret_index == 1
    with pytest.raises(InvalidSignature):
        checked(headers, secret + "x")


@pytest.mark.parametrize(
    "headers",
    [
        {}, {"X-Token": ""}, {"Authorization": ""}, {"Authorization": "Bearer"}, {"Authorization": "Bearer "},
        {"Authorization": "Basic"}, {"Authorization": "Basic !!!"}, {"Authorization": basic("user:")},
        {"Authorization": basic("user")}, {"Authorization": basic(":")}, {"Authorization": "Basic " + "=" * 8},
        {"Authorization": "Digest " + SECRET}, {"X-Token": SECRET.upper()}, {"X-Token": SECRET[:-1]},
        {"X-Token": f"{SECRET}, {SECRET}"}, {"X-Other": SECRET}, {"Cookie": SECRET}, {"X-Token": "é"},
    ],
)  # fmt: skip
def test_what_shows_no_secret_is_refused(headers: dict[str, str]):
    """Nothing, half of it, another case, twice in one header, another place."""
    with pytest.raises(InvalidSignature):
        checked(headers)


@pytest.mark.parametrize("secrets", [[], "", " ", [""], ["good", ""], None])
def test_no_secret_or_an_empty_one_is_an_error_of_configuration(secrets: Any):
    """An empty secret beside a good one would be open to everybody."""
    for headers in ({}, {"Authorization": "Bearer "}, {"X-Token": "good"}):
        with pytest.raises(ConfigurationError, match="secrets"):
            checked(headers, secrets)


@given(shown=st.text(st.characters(codec="latin-1"), max_size=40))
def test_only_the_secret_opens(shown: str):
    """No other text does, wherever it stands."""
    for headers in ({"X-Token": shown}, {"Authorization": shown}, {"Authorization": f"Bearer {shown}"}):
        if SECRET not in shown:
            with pytest.raises(InvalidSignature):
                checked(headers)


async def test_the_end_of_the_path_is_a_place_and_not_the_query(tmp_path: Path):
    """``/webhooks/x/<secret>`` opens; the same as a query, or a longer or shorter path, does not."""
    with Store(f"sqlite:///{tmp_path / 'moorline.db'}") as store:
        inbox = Inbox(store)
        receiver = Receiver(
            inbox,
            lambda name: [SECRET] if name == "x" else (),
            lambda name: SCHEME if name in ("x", "bare") else None,
            clock=ManualClock(1.0),
        )

        async def status(path: str) -> int:
            answer = await sent(
                receiver, {"content-type": "application/json"}, BODY, f"https://shop.example{path}", "POST"
            )
            assert SECRET not in answer.body.decode()
            return answer.status

        assert await status(f"/webhooks/x/{SECRET}") == 200
        for path in ("/webhooks/x", "/webhooks/x/", f"/webhooks/x?{SECRET}", f"/webhooks/x?token={SECRET}",
                     f"/webhooks/x/{SECRET}/", f"/webhooks/x/{SECRET}x", f"/webhooks/x//{SECRET}"):  # fmt: skip
            assert await status(path) == 401, path
        assert await status("/webhooks/bare/") == 404
        assert len(await inbox.recent()) == 1


@pytest.mark.parametrize("header", ["X-Partner", "X-Key-Signature"])
async def test_the_header_that_shows_the_secret_is_masked_wherever_it_is_kept(tmp_path: Path, header: str):
    """Whatever it is called: in the stored event, and among the refused requests."""
    scheme = SharedSecret(env="X_SECRET", header=header, id="id", type="type")
    with Store(f"sqlite:///{tmp_path / 'moorline.db'}") as store:
        inbox = Inbox(store)
        receiver = Receiver(inbox, lambda _: [SECRET], {"x": scheme}.get, clock=ManualClock(1.0))
        url = "https://shop.example/webhooks/x"
        for shown, status in ((SECRET, 200), (f"nearly {SECRET}", 401)):
            headers = {"content-type": "application/json", header.lower(): shown}
            assert (await sent(receiver, headers, BODY, url, "POST")).status == status
        assert inbox.ledger is not None
        inbox.ledger.flush()
        for query in ("SELECT headers FROM events", "SELECT headers FROM rejected"):
            kept = store.read_sync(partial(_first, query))
            assert header.lower() in kept
            assert SECRET not in kept


def _first(query: str, connection: Any) -> str:
    return str(connection.exec_driver_sql(query).scalar())
