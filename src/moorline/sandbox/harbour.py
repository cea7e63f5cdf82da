"""The sandbox's application: requests to the services pass the faults, requests to ``/_sandbox/`` are the control API.

The control API is documented in :mod:`moorline.sandbox.server`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from moorline.clock import SYSTEM, Clock
from moorline.errors import ConfigurationError
from moorline.sandbox import signing, wire
from moorline.sandbox.accepted import Accepted
from moorline.sandbox.deliveries import Deliveries, Target, parse_target
from moorline.sandbox.faults import Fault, Faults, Ruling, broken_json
from moorline.sandbox.standin import Answer, Ask, Emission, StandIn, Surroundings, registrations

__all__ = ["Harbour"]

_MAX_BODY = 64 * 1024 * 1024
_Control = Callable[[Request], Awaitable[Response]]


class Harbour:
    """All stand-ins, the faults, the webhook targets and their logs."""

    def __init__(self, *, seed: int = 0, clock: Clock = SYSTEM) -> None:
        self.seed = seed
        self.clock = clock
        self.registrations = registrations()
        self.deliveries = Deliveries(clock)
        self.faults = Faults(seed)
        self.accepted = Accepted()
        self.requests: deque[dict[str, Any]] = deque(maxlen=5000)
        self.stand_ins: dict[str, StandIn] = {}
        self._ids = itertools.count(1)
        self.reset()

    def reset(self) -> None:
        """Forget everything but the seed."""
        self.faults = Faults(self.seed)
        self.accepted = Accepted()
        self.requests.clear()
        self.deliveries.targets.clear()
        self.deliveries.log.clear()
        self._ids = itertools.count(1)
        self.stand_ins = {
            name: record.make(Surroundings(self.seed, self.clock, self._emitter(name)))
            for name, record in self.registrations.items()
        }

    def _emitter(self, service: str) -> Callable[[Emission], None]:
        return lambda emission: self.deliveries.send(service, self.stand_ins[service], emission)

    def application(self) -> ASGIApp:
        """The ASGI application."""
        control = [
            Route("/", _guarded(self._about), methods=["GET"]),
            Route("/faults", _guarded(self._faults), methods=["GET", "POST", "DELETE"]),
            Route("/keys", _guarded(self._keys), methods=["GET", "POST", "DELETE"]),
            Route("/webhooks", _guarded(self._webhooks), methods=["GET", "POST", "DELETE"]),
            Route("/deliver", _guarded(self._deliver), methods=["POST"]),
            Route("/deliveries", _guarded(self._deliveries), methods=["GET"]),
            Route("/state", _guarded(self._state), methods=["GET"]),
            Route("/requests", _guarded(self._requests), methods=["GET"]),
            Route("/reset", _guarded(self._reset), methods=["POST"]),
            Route("/certificate", _guarded(self._certificate), methods=["GET"]),
        ]
        return Starlette(
            routes=[Mount("/_sandbox", routes=control), Mount("/", app=self._serve)], lifespan=self._lifespan
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        yield
        await self.deliveries.close()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request to a service."""
        request = Request(scope, receive)
        name, _, rest = scope["path"].removeprefix(scope.get("root_path", "")).lstrip("/").partition("/")
        stand_in = self.stand_ins.get(name)
        if stand_in is None:
            known = ", ".join(sorted(self.stand_ins))
            await JSONResponse({"error": f"the sandbox has no service {name!r}; it has {known}"}, 404)(
                scope, receive, send
            )
            return
        try:
            body = await _body(request)
        except ConfigurationError as error:
            await JSONResponse({"error": str(error)}, 413)(scope, receive, send)
            return
        path = "/" + rest
        ruling = self.faults.rule(name, request.method, path)
        entry = {"service": name, "method": request.method, "path": path, "status": None, "fault": None}
        if ruling.fault is not None:
            entry["fault"] = ruling.fault.kind
        self.requests.append(entry)
        ask = Ask(
            method=request.method,
            path=path,
            query=scope["query_string"].decode("latin-1"),
            headers={key.lower(): value for key, value in request.headers.items()},
            body=body,
            base=f"{scope['scheme']}://{request.headers.get('host', 'sandbox')}/{name}",
        )
        if self.accepted.refuses(name, ask.headers):
            answer = stand_in.failure(401)
        else:
            answer = await self._answer(stand_in, ask, ruling)
        entry["status"] = answer.status
        await _transmit(scope, receive, send, ruling, answer)

    async def _answer(self, stand_in: StandIn, ask: Ask, ruling: Ruling) -> Answer:
        waiting = ruling.delay

        async def work() -> None:
            nonlocal waiting
            seconds, waiting = waiting, 0.0
            if seconds:
                await asyncio.sleep(seconds)

        answer = Answer(500)
        if ruling.fault is None or ruling.fault.acts:
            answer = await stand_in.handle(Ask(ask.method, ask.path, ask.query, ask.headers, ask.body, ask.base, work))
        await work()
        if ruling.fault is not None and ruling.fault.kind == "status":
            return _failed(stand_in, ruling.fault)
        return answer

    # -- the control API -------------------------------------------------------------------------------------------

    async def _about(self, _: Request) -> Response:
        services = {
            name: {"webhook_secret": record.secret, "events": list(record.events)}
            for name, record in self.registrations.items()
        }
        return JSONResponse({"ok": True, "seed": self.seed, "services": services})

    async def _faults(self, request: Request) -> Response:
        if request.method == "POST":
            given = await _json(request)
            faults = [Fault.parse(record) for record in (given if isinstance(given, list) else [given])]
            for fault in faults:
                self._known(fault.service)
            return JSONResponse({"numbers": [self.faults.add(fault) for fault in faults]}, 201)
        if request.method == "DELETE":
            service = self._known(request.query_params.get("service"))
            return JSONResponse({"removed": self.faults.clear(service, _number(request, "number"))})
        return JSONResponse({"faults": self.faults.listing()})

    async def _keys(self, request: Request) -> Response:
        if request.method == "POST":
            record = await _json(request)
            service = self._known(record.get("service") if isinstance(record, dict) else None)
            if service is None:
                raise ConfigurationError("keys: 'service' is needed")
            self.accepted.narrow(service, record)
        elif request.method == "DELETE":
            return JSONResponse({"removed": self.accepted.widen(self._known(request.query_params.get("service")))})
        return JSONResponse(self.accepted.listing())

    async def _webhooks(self, request: Request) -> Response:
        targets = self.deliveries.targets
        if request.method == "POST":
            record = await _json(request)
            target = parse_target(record, self.registrations, str(400_000_000 + next(self._ids)))
            targets[target.id] = target
            ping = self.registrations[target.service].ping
            if ping is not None and record.get("ping", True) and target.wants(ping):
                emission = Emission(ping, self.stand_ins[target.service].sample(ping), str(uuid.uuid4()))
                await self.deliveries.deliver(target, self.stand_ins[target.service], emission, repeat=1)
            return JSONResponse(target.shown(), 201)
        if request.method == "DELETE":
            wanted = request.query_params.get("id")
            gone = [known for known in targets if wanted in {None, known}]
            for known in gone:
                del targets[known]
            return JSONResponse({"removed": len(gone)})
        return JSONResponse({"webhooks": [target.shown() for target in targets.values()]})

    async def _deliver(self, request: Request) -> Response:
        ask = request.query_params
        service, event = self._known(ask.get("service")), ask.get("event")
        if service is None or not event:
            raise ConfigurationError("deliver: 'service' and 'event' are needed in the query")
        repeat = _number(request, "repeat")
        if repeat is not None and not 1 <= repeat <= 1000:
            raise ConfigurationError("deliver: 'repeat' must be from 1 to 1000")
        stand_in = self.stand_ins[service]
        targets = [target for target in self.deliveries.targets.values() if target.service == service]
        if "target" in ask:
            targets = [target for target in targets if target.id == ask["target"]]
        if not targets:
            raise ConfigurationError(f"deliver: no webhook target of {service} is registered, or not the one named")
        body = await _body(request) or stand_in.sample(event)
        emission = Emission(event, body, ask.get("id") or str(uuid.uuid4()))
        broken = ask.get("broken_signature", "false").lower() in ("1", "true", "yes")
        await asyncio.gather(
            *(self.deliveries.deliver(target, stand_in, emission, broken=broken, repeat=repeat) for target in targets)
        )
        sent = [entry for entry in self.deliveries.log if entry["id"] == emission.id][-(_total(targets, repeat)) :]
        return JSONResponse({"id": emission.id, "deliveries": sent})

    async def _deliveries(self, request: Request) -> Response:
        if request.query_params.get("settle", "false").lower() in ("1", "true", "yes"):
            await self.deliveries.settle()
        service = self._known(request.query_params.get("service"))
        log = [entry for entry in self.deliveries.log if service in (None, entry["service"])]
        return JSONResponse({"deliveries": log})

    async def _state(self, request: Request) -> Response:
        service = self._known(request.query_params.get("service"))
        held = {name: one.snapshot() for name, one in self.stand_ins.items() if service in (None, name)}
        return JSONResponse(held)

    async def _requests(self, request: Request) -> Response:
        service = self._known(request.query_params.get("service"))
        return JSONResponse({"requests": [entry for entry in self.requests if service in (None, entry["service"])]})

    async def _reset(self, _: Request) -> Response:
        await self.deliveries.settle()
        self.reset()
        return JSONResponse({"ok": True})

    async def _certificate(self, _: Request) -> Response:
        return Response(await asyncio.to_thread(signing.certificate), media_type="application/x-pem-file")

    def _known(self, service: str | None) -> str | None:
        if service is not None and service not in self.registrations:
            raise ConfigurationError(f"'service' must be one of {', '.join(sorted(self.registrations))}")
        return service


def _total(targets: list[Target], repeat: int | None) -> int:
    return sum(repeat or target.repeat for target in targets)


def _failed(stand_in: StandIn, fault: Fault) -> Answer:
    answer = stand_in.failure(fault.status)
    headers = dict(answer.headers)
    if fault.retry_after is not None:
        after = fault.retry_after
        headers["retry-after"] = f"{after:g}" if isinstance(after, int | float) else after
    headers.update({name.lower(): str(value) for name, value in fault.headers.items()})
    return Answer(fault.status, answer.content if fault.body is None else fault.body, headers)


async def _transmit(scope: Scope, receive: Receive, send: Send, ruling: Ruling, answer: Answer) -> None:
    kind = ruling.fault.kind if ruling.fault else None
    if kind == "dropped":
        await wire.drop(scope, receive)
        return
    body, headers = answer.encoded()
    if kind == "malformed":
        body = broken_json(body, seed=ruling.number)
    if answer.status not in (204, 304):
        headers["content-length"] = str(len(body))
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    if kind == "truncated":
        # An empty answer cannot be cut: promise a byte that never comes.
        promised = [pair for pair in raw if pair[0] != b"content-length"]
        promised.append((b"content-length", str(max(len(body), 1)).encode()))
        await wire.truncate(scope, receive, send, status=answer.status, headers=promised, body=body)
        return
    await send({"type": "http.response.start", "status": answer.status, "headers": raw})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


async def _body(request: Request) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > _MAX_BODY:
            raise ConfigurationError(f"the sandbox takes bodies up to {_MAX_BODY} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


async def _json(request: Request) -> Any:
    try:
        return await request.json()
    except ValueError as error:
        raise ConfigurationError(f"the body is not JSON: {error}") from error


def _number(request: Request, key: str) -> int | None:
    text = request.query_params.get(key)
    if text is None:
        return None
    if not text.isdecimal():
        raise ConfigurationError(f"{key!r} must be a whole number")
    return int(text)


def _guarded(control: _Control) -> _Control:
    async def answer(request: Request) -> Response:
        try:
            return await control(request)
        except ConfigurationError as error:
            return JSONResponse({"error": str(error)}, 400)

    return answer
