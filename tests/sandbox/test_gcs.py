from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from moorline.calls.tokens import ServiceAccount, key_file
from moorline.clock import SYSTEM
from moorline.secrets.secret import Secret
from moorline.services.storage.gcs import GCS

OBJECTS = "/gcs/storage/v1/b/moorline-sandbox/o"
UPLOAD = "/gcs/upload/storage/v1/b/moorline-sandbox/o"


@pytest.fixture
def google(wire: httpx2.Client, sandbox_url: str) -> httpx2.Client:
    """A client with a token."""
    key = Secret(GCS.credentials.sandbox.replace("{sandbox}", sandbox_url))
    request = ServiceAccount(GCS.tokens.scope).request(GCS(bucket="bucket"), key, SYSTEM.wall())
    assert request.url == key_file(key, "gcs")["token_uri"]
    token = wire.post(request.url, data=dict(request.form or {})).json()["access_token"]
    wire.headers["authorization"] = f"Bearer {token}"
    return wire


def reason(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["errors"][0]["reason"]


def test_who_has_no_token(wire: httpx2.Client):
    """Without one, or with another's, nothing is told."""
    assert reason(wire.get(OBJECTS)) == (401, "authError")
    assert reason(wire.get(OBJECTS, headers={"authorization": "Bearer x"})) == (401, "authError")
    assert wire.get("/gcs/moorline-sandbox/a").status_code == 401


def test_media_and_metadata(google: httpx2.Client):
    """A simple upload is an object; the JSON of it is no content, the XML API's is."""
    made = google.post(
        UPLOAD, params={"uploadType": "media", "name": "a/b"}, content=b"hello", headers={"content-type": "x/y"}
    )
    assert made.json()["name"] == "a/b"
    assert google.get(f"{OBJECTS}/a%2Fb").json()["size"] == "5"
    content = google.get("/gcs/moorline-sandbox/a/b", headers={"range": "bytes=1-2"})
    assert (content.status_code, content.content, content.headers["content-range"]) == (206, b"el", "bytes 1-2/5")
    assert google.get("/gcs/moorline-sandbox/a/b", params={"generation": "1"}).status_code == 404
    assert reason(google.get(f"{OBJECTS}/c")) == (404, "notFound")
    assert google.delete(f"{OBJECTS}/a%2Fb").status_code == 204
    assert reason(google.delete(f"{OBJECTS}/a%2Fb")) == (404, "notFound")


@pytest.mark.parametrize(
    ("query", "fields", "expected"),
    [
        ({}, {"name": "a"}, (400, "invalid")),
        ({"uploadType": "resumable"}, {}, (400, "required")),
        ({"uploadType": "resumable"}, {"name": "a", "nonsense": 1}, (400, "invalid")),
        ({"uploadType": "resumable"}, {"name": "a", "metadata": {"a": 1}}, (400, "invalid")),
        ({"uploadType": "resumable", "ifGenerationMatch": "5"}, {"name": "a"}, (412, "conditionNotMet")),
    ],
)
def test_what_an_upload_is_refused_for(google: httpx2.Client, query: Any, fields: Any, expected: tuple[int, str]):
    """Unknown types and fields, no name, and a condition that does not hold."""
    assert reason(google.post(UPLOAD, params=query, json=fields)) == expected


def test_a_session(google: httpx2.Client):
    """A session takes its parts in order, says how much it has, ignores what it has already, and ends in an object."""
    begun = google.post(UPLOAD, params={"uploadType": "resumable"}, json={"name": "a", "contentType": "x/y"})
    session, part = begun.headers["location"], b"x" * (1 << 18)

    def put(body: bytes, span: str) -> httpx2.Response:
        return google.put(session, content=body, headers={"content-range": span})

    assert put(b"", "bytes */*").headers.get("range") is None
    assert put(part, "bytes 0-262143/*").headers["range"] == "bytes=0-262143"
    assert put(b"", "bytes */*").status_code == 308
    assert put(part, "bytes 0-262143/*").headers["range"] == "bytes=0-262143"
    assert reason(put(part, "bytes 300000-562143/*")) == (400, "invalid")
    assert reason(put(b"x", "bytes 262144-262144/*")) == (400, "invalid")
    assert reason(put(b"x", "nonsense")) == (400, "invalid")
    done = put(b"end", "bytes 262144-262146/262147")
    assert (done.status_code, done.json()["size"], done.json()["contentType"]) == (200, "262147", "x/y")
    assert put(b"", "bytes */*").json() == done.json()
    begun = google.post(UPLOAD, params={"uploadType": "resumable"}, json={"name": "b"})
    assert google.delete(begun.headers["location"]).status_code == 499
    assert google.put(begun.headers["location"], content=b"x").status_code == 404


def test_a_wrong_checksum(google: httpx2.Client):
    """What does not fit its MD5 is not stored."""
    boundary = "b"
    fields = json.dumps({"name": "a", "md5Hash": "AAAAAAAAAAAAAAAAAAAAAA=="})
    body = (
        f"--b\r\nContent-Type: application/json\r\n\r\n{fields}\r\n--b\r\nContent-Type: x/y\r\n\r\nhello\r\n--b--\r\n"
    )
    headers = {"content-type": f"multipart/related; boundary={boundary}"}
    answer = google.post(UPLOAD, params={"uploadType": "multipart"}, content=body.encode(), headers=headers)
    assert reason(answer) == (400, "invalid")
    assert google.get(OBJECTS).json() == {"kind": "storage#objects"}


def test_pages(google: httpx2.Client):
    """Names come in pages; an empty listing has no items at all."""
    for name in ("a", "b/1", "b/2", "c"):
        google.post(UPLOAD, params={"uploadType": "media", "name": name}, content=b"x")
    first = google.get(OBJECTS, params={"maxResults": 2, "delimiter": "/"}).json()
    assert ([one["name"] for one in first["items"]], first["prefixes"]) == (["a"], ["b/"])
    second = google.get(OBJECTS, params={"delimiter": "/", "pageToken": first["nextPageToken"]}).json()
    assert ([one["name"] for one in second["items"]], "nextPageToken" in second) == (["c"], False)
    assert [one["name"] for one in google.get(OBJECTS, params={"startOffset": "b/2"}).json()["items"]] == ["b/2", "c"]
