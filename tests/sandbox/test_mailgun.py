from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.contracts import Contract

from moorline.sandbox.services.mailgun import STAND_IN
from moorline.sandbox.standin import Surroundings

PATH = "/v3/mg.shop.example/messages"
MAIL: dict[str, Any] = {
    "from": "Shop <shop@mg.shop.example>",
    "to": ["Ada <ada@customer.example>", "b@customer.example, c@customer.example"],
    "subject": "Receipt ✓",
    "text": "Thanks",
    "h:X-Order": "42",
    "v:order": "42",
    "o:tag": "receipt",
}
FILE = {"attachment": ("r ü.pdf", b"%PDF-\r\n--x\r\n", "application/pdf")}


async def send(
    box: httpx2.AsyncClient, mail: Any, *, files: Any = None, path: str = PATH, key: str = "key-1", user: str = "api"
) -> httpx2.Response:
    return await box.post(f"/mailgun{path}", data=mail, files=files, auth=(user, key))


async def held(box: httpx2.AsyncClient) -> list[dict[str, Any]]:
    state = (await box.get("/_sandbox/state", params={"service": "mailgun"})).json()
    found: list[dict[str, Any]] = state["mailgun"]["messages"]
    return found


async def test_accepted(box: httpx2.AsyncClient):
    """A form of another client, with a file, without one, or URL-encoded, is taken, and lies in the state."""
    response = await send(box, MAIL, files=FILE)
    assert (response.status_code, response.json()["message"]) == (200, "Queued. Thank you.")
    [message] = await held(box)
    assert response.json()["id"] == f"<{message['id']}>"
    assert message["files"] == [{"field": "attachment", "filename": "r ü.pdf", "type": "application/pdf", "size": 12}]
    assert (message["fields"]["to"], message["fields"]["subject"]) == (MAIL["to"], ["Receipt ✓"])
    assert (await send(box, MAIL)).status_code == 200
    assert (await held(box))[1]["fields"] == message["fields"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"from": ""}, "from parameter is missing"),
        ({"to": []}, "to parameter is missing"),
        ({"subject": ""}, "subject parameter is missing"),
        ({"text": None}, "Need at least one of"),
        ({"from": "nobody"}, "from parameter is not a valid address"),
        ({"to": "nobody"}, "to parameter is not a valid address. please check documentation"),
        ({"cc": "a@b@c"}, "cc parameter is not a valid address"),
        ({"to": [f"a{n}@customer.example" for n in range(1001)]}, "1000"),
        ({"subject": ["a", "b"]}, "several times"),
        ({"recipient-variables": "{"}, "recipient-variables parameter is not a valid JSON"),
        ({"t:variables": "[]"}, "t:variables parameter is not a valid JSON"),
        ({"o:tag": [str(n) for n in range(11)]}, "o:tag"),
        ({"o:testmode": "true"}, "o:testmode"),
        ({"o:tracking": "maybe"}, "o:tracking"),
        ({"o:deliverytime": "soon"}, "o:deliverytime"),
        ({"h:X-Ä": "1"}, "not a header"),
        ({"h:X-A": "b\r\nBcc: c@customer.example"}, "not a header"),
        ({"v:big": "x" * 17_000}, "16kB"),
        ({"attachment": "x"}, "not a file"),
    ],
)
async def test_validation(box: httpx2.AsyncClient, changes: dict[str, Any], words: str):
    """What Mailgun refuses is a 400 with a message, and nothing is kept."""
    mail = {name: value for name, value in {**MAIL, **changes}.items() if value is not None}
    response = await send(box, mail)
    assert response.status_code == 400
    assert words in response.json()["message"]
    assert await held(box) == []


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"key": "key-wrong"}, 401),
        ({"key": "nonsense"}, 401),
        ({"user": "me"}, 401),
        ({"key": "key-large"}, 403),
        ({"path": "/v3/unknown.example/messages"}, 404),
        ({"path": "/v3/x/y/z"}, 404),
        ({"path": "/v3/unverified.example/messages"}, 400),
        ({"path": "/v3/sandbox1.mailgun.org/messages"}, 400),
    ],
)
async def test_keys_and_domains(box: httpx2.AsyncClient, options: dict[str, Any], status: int):
    """Keys, rights, domains and the sandbox's recipients are looked at; the body of a 401 is plain text."""
    response = await send(box, MAIL, **options)
    assert response.status_code == status
    assert (response.text == "Forbidden") is (status == 401)
    assert await held(box) == []


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"\xff", "application/x-www-form-urlencoded"),
        (b"to=x", "multipart/form-data"),
        (b"", "multipart/form-data; boundary=x"),
        (b"--x\r\n\r\nto\r\n--x--\r\n", "multipart/form-data; boundary=x"),
        (b'--x\r\nContent-Disposition: form-data; name="to"\r\n\r\na', "multipart/form-data; boundary=x"),
        (b'--x\r\nContent-Disposition: form-data; name="to"\r\n--x--\r\n', "multipart/form-data; boundary=x"),
    ],
)
async def test_what_is_no_form(box: httpx2.AsyncClient, body: bytes, kind: str):
    """A body that is no form is a 400."""
    response = await box.post(f"/mailgun{PATH}", content=body, headers={"Content-Type": kind}, auth=("api", "key-1"))
    assert (response.status_code, response.json()) == (400, {"message": "The request's body is no form."})


async def test_other_methods(box: httpx2.AsyncClient):
    """There is one thing to do with messages; no credential at all is a 401."""
    assert (await box.get(f"/mailgun{PATH}", auth=("api", "key-1"))).status_code == 405
    assert (await box.post(f"/mailgun{PATH}", data=MAIL)).status_code == 401


async def test_answers_fit_the_contract(box: httpx2.AsyncClient, contracts_dir: Path):
    """Every answer is what mailgun.json describes; 403 and 404 are in the card only, and a 401's text is no JSON."""
    contract = Contract(contracts_dir, "mailgun")
    for response in (await send(box, MAIL), await send(box, {})):
        assert contract.answer_problems("POST", PATH, response.status_code, response.content) == []
    stand_in = STAND_IN.make(Surroundings())
    for status in (429, 500):
        assert contract.answer_problems("POST", PATH, status, stand_in.failure(status).encoded()[0]) == []
