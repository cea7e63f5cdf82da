"""A service's model in botocore, as the contract of requests and answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

import httpx2
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.parsers import create_parser

from moorline.calls.exchange import Exchange

__all__ = ["Model"]


class Model:
    """The model of that name."""

    def __init__(self, name: str) -> None:
        self.service = ServiceModel(Loader().load_service_model(name, "service-2"), name)
        self._parse: Callable[..., Any] = create_parser(self.service.resolved_protocol).parse

    def read(self, operation: str, exchange: Exchange) -> Any:
        """An answer as botocore reads it; it has a request id."""
        answer = {"status_code": exchange.status, "headers": dict(exchange.headers), "body": exchange.body}
        found = self._parse(answer, self.service.operation_model(operation).output_shape)
        assert found.pop("ResponseMetadata")["RequestId"]
        return found

    def error(self, exchange: Exchange) -> Any:
        """The ``Error`` of an answer as botocore reads it."""
        answer = {"status_code": exchange.status, "headers": dict(exchange.headers), "body": exchange.body}
        return self._parse(answer, None)["Error"]


def form(request: httpx2.Request) -> dict[str, str]:
    """What a request of a query API asks, each name once."""
    pairs = parse_qsl(request.content.decode(), keep_blank_values=True, strict_parsing=True)
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)
