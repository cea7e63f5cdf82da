from __future__ import annotations

import http.client
import socket
import ssl
import urllib.error
from email.message import Message
from types import SimpleNamespace
from typing import Any

import aiohttp
import botocore.exceptions
import grpc
import httpx
import httpx2
import pytest
import requests
import stripe
import urllib3.exceptions
from slack_sdk.errors import SlackApiError
from twilio.base.exceptions import TwilioRestException

from moorline import errors
from moorline.calls.adapters.failures import failure_of


class Rpc(grpc.RpcError):  # type: ignore[misc]  # grpc ships no types
    """As grpc's own private class has it."""

    def __init__(self, code: grpc.StatusCode) -> None:
        super().__init__(code)
        self._code = code

    def code(self) -> grpc.StatusCode:
        """The status."""
        return self._code


def answered(status: int, **headers: str) -> requests.Response:
    response = requests.Response()
    response.status_code = status
    response.headers.update(headers)
    return response


def aws(status: int, **headers: str) -> Exception:
    told: Any = {"Error": {"Code": "X"}, "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers}}
    return botocore.exceptions.ClientError(told, "Send")  # type: ignore[no-any-return]


KEY: Any = aiohttp.client_reqrep.ConnectionKey("h", 1, False, True, None, None, None)
INFO: Any = SimpleNamespace(real_url="https://h")

KINDS: list[tuple[Exception, type[errors.CallError] | None]] = [
    (ConnectionRefusedError(), errors.ConnectFailed),
    (socket.gaierror(), errors.ConnectFailed),
    (ssl.SSLCertVerificationError(), errors.ConnectFailed),
    (ssl.SSLError(), errors.ConnectionLost),
    (TimeoutError(), errors.AttemptTimeout),
    (BrokenPipeError(), errors.ConnectionLost),
    (http.client.RemoteDisconnected("no"), errors.ConnectionLost),
    (http.client.IncompleteRead(b""), errors.ConnectionLost),
    (urllib.error.URLError("no"), errors.ConnectionLost),
    (urllib.error.HTTPError("https://h", 503, "no", Message(), None), errors.ServiceUnavailable),
    (urllib.error.HTTPError("https://h", 404, "no", Message(), None), None),
    (FileNotFoundError(), None),
    (EOFError(), None),
    (ZeroDivisionError(), None),
    (httpx.ConnectTimeout(""), errors.ConnectFailed),
    (httpx.PoolTimeout(""), errors.ConnectFailed),
    (httpx.ReadTimeout(""), errors.AttemptTimeout),
    (httpx.RemoteProtocolError(""), errors.ConnectionLost),
    (httpx2.ReadError(""), errors.ConnectionLost),
    (httpx2.LocalProtocolError(""), None),
    (httpx2.TooManyRedirects(""), None),
    (requests.ConnectTimeout(), errors.ConnectFailed),
    (requests.ReadTimeout(), errors.AttemptTimeout),
    (requests.ConnectionError(), errors.ConnectionLost),
    (requests.exceptions.MissingSchema(), None),
    (requests.HTTPError(response=answered(502)), errors.ServiceUnavailable),
    (requests.HTTPError(response=answered(400)), None),
    (requests.exceptions.JSONDecodeError("no", "", 0), None),
    (aiohttp.ClientConnectorError(KEY, OSError()), errors.ConnectFailed),
    (aiohttp.ConnectionTimeoutError(), errors.ConnectFailed),
    (aiohttp.ServerTimeoutError(), errors.AttemptTimeout),
    (aiohttp.ServerDisconnectedError(), errors.ConnectionLost),
    (aiohttp.ClientPayloadError(), errors.ConnectionLost),
    (aiohttp.ClientResponseError(INFO, (), status=503), errors.ServiceUnavailable),
    (aiohttp.ClientResponseError(INFO, (), status=401), None),
    (aiohttp.InvalidURL("x"), None),
    (urllib3.exceptions.ReadTimeoutError(SimpleNamespace(), "/", ""), errors.AttemptTimeout),  # type: ignore[arg-type]
    (urllib3.exceptions.ProtocolError(), errors.ConnectionLost),
    (botocore.exceptions.EndpointConnectionError(endpoint_url="u"), errors.ConnectFailed),
    (botocore.exceptions.ConnectionClosedError(endpoint_url="u"), errors.ConnectionLost),
    (botocore.exceptions.ParamValidationError(report="r"), None),
    (aws(503), errors.ServiceUnavailable),
    (aws(429), errors.RateLimited),
    (aws(404), None),
    (Rpc(grpc.StatusCode.UNAVAILABLE), errors.ServiceUnavailable),
    (Rpc(grpc.StatusCode.RESOURCE_EXHAUSTED), errors.RateLimited),
    (Rpc(grpc.StatusCode.DEADLINE_EXCEEDED), errors.AttemptTimeout),
    (Rpc(grpc.StatusCode.NOT_FOUND), None),
    (stripe.APIError(http_status=500), errors.ServiceUnavailable),
    (stripe.RateLimitError(http_status=429), errors.RateLimited),
    (stripe.InvalidRequestError("no", None, http_status=400), None),
    (TwilioRestException(503, "/"), errors.ServiceUnavailable),
    (TwilioRestException(400, "/"), None),
    (SlackApiError("no", SimpleNamespace(status_code=429, headers={"Retry-After": "3"})), errors.RateLimited),
]


@pytest.mark.parametrize(("error", "kind"), KINDS, ids=[f"{type(error).__name__}-{kind}" for error, kind in KINDS])
def test_whose_fault_an_exception_is(error, kind):
    """Exceptions of the usual clients and SDKs are told apart without loading any of them."""
    found = failure_of(error)
    assert (None if found is None else type(found.error)) is kind


@pytest.mark.parametrize(
    "error",
    [
        requests.HTTPError(response=answered(429, **{"Retry-After": "3"})),
        aws(503, **{"retry-after": "3"}),
    ],
)
def test_headers_are_found_in_any_case(error):
    """What the answer said of waiting is found, however its headers are spelt."""
    found = failure_of(error)
    assert found is not None
    assert found.header("retry-after") == "3"
    assert found.header("x-other", "none") == "none"
