from __future__ import annotations

import asyncio
import gc
import pickle
import threading
import time
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.calls.adapters.grpc_server import GrpcServer
from tests.calls.ledger import both

from moorline import errors
from moorline.calls.adapters.grpc import ClientInterceptor, aio_interceptors, channel_options, intercept
from moorline.calls.adapters.grpc_status import Ended, error_of, pushback, retry_delay
from moorline.calls.guards import Guards
from moorline.clock import ManualClock
from moorline.policies.breaker import Breaker
from moorline.policies.bulkhead import Bulkhead
from moorline.policies.policy import Policy
from moorline.policies.retry import Retry

Code = grpc.StatusCode
GET, PUT = "/pkg.Files/Get", "/pkg.Files/Put"
SAFE = (GET, "/pkg.Slow/Get")


class Client:
    """A real channel of either colour on the pipeline, and how to call through it."""

    def __init__(self, colour: str, target: str, policy: Policy | None = None, **options: Any) -> None:
        self.colour, self.target, self.policy = colour, target, policy
        self.given = channel_options(options.pop("options", ()))
        self.options = {"guards": Guards(ManualClock()), "safe": SAFE, **options}

    def unary(self, method: str, request: bytes = b"x", **given: Any) -> Any:
        if self.colour == "sync":
            with grpc.insecure_channel(self.target, options=self.given) as channel:
                return intercept(channel, self.policy, **self.options).unary_unary(method)(request, **given)

        async def call():
            async with self.channel() as channel:
                return await channel.unary_unary(method)(request, **given)

        return asyncio.run(call())

    def stream(self, method: str) -> list[bytes]:
        if self.colour == "sync":
            with grpc.insecure_channel(self.target) as channel:
                return list(intercept(channel, self.policy, **self.options).unary_stream(method)(b""))

        async def call():
            async with self.channel() as channel:
                return [answer async for answer in channel.unary_stream(method)(b"")]

        return asyncio.run(call())

    def channel(self) -> grpc.aio.Channel:
        interceptors = aio_interceptors(self.policy, **self.options)
        return grpc.aio.insecure_channel(self.target, options=self.given, interceptors=interceptors)


@both
def test_a_safe_call_is_repeated(colour):
    """What is declared safe, by name or by a function, is called again after UNAVAILABLE and INTERNAL."""
    for safe in (SAFE, lambda method: method == GET):
        with GrpcServer(Code.UNAVAILABLE, Code.INTERNAL, b"ok") as server:
            assert Client(colour, server.target, safe=safe).unary(GET) == b"ok"
            assert server.calls == [GET] * 3


@both
@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.INTERNAL, Code.RESOURCE_EXHAUSTED, Code.DEADLINE_EXCEEDED])
def test_what_may_have_acted_is_not_repeated(colour, code):
    """A call that is not declared safe is sent once; an unanswered one has an unknown outcome."""
    with GrpcServer(code) as server:
        with pytest.raises(grpc.RpcError) as caught:
            Client(colour, server.target).unary(PUT)
        error: Any = caught.value
        assert isinstance(caught.value, errors.CallError)
        assert (error.code(), error.code, error.details()) == (code, code.name, "said the server")
        assert caught.value.outcome == ("unknown" if code in {Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED} else "done")
        assert server.calls == [PUT]


@both
@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED])
def test_a_time_for_another_try_is_kept(colour, code):
    """Where the server names a time, any call is sent again, no earlier; where it forbids one, none is."""
    details = b"\x08\x08" + _detail("type.googleapis.com/google.rpc.RetryInfo", b"\x0a\x04\x08\x07\x10\x00")
    for hint in (("grpc-retry-pushback-ms", "7000"), ("grpc-status-details-bin", details), ("retry-after", "7")):
        clock = ManualClock()
        with GrpcServer((code, (hint,)), b"ok") as server:
            assert Client(colour, server.target, guards=Guards(clock)).unary(PUT) == b"ok"
        assert max(clock.slept) >= 7
    with GrpcServer((code, (("grpc-retry-pushback-ms", "-1"),))) as server:
        with pytest.raises(grpc.RpcError):
            Client(colour, server.target).unary(GET)
        assert len(server.calls) == 1


@both
def test_a_limit_that_lasts_is_both_libraries_error(colour):
    """RESOURCE_EXHAUSTED given up is RateLimited and an RpcError with its trailers; others wait behind the gate."""
    guards = Guards(ManualClock())
    with GrpcServer((Code.RESOURCE_EXHAUSTED, (("grpc-retry-pushback-ms", "600000"), ("x-why", "busy")))) as server:
        with pytest.raises(errors.RateLimited) as caught:
            Client(colour, server.target, guards=guards).unary(GET)
        error: Any = caught.value
        assert (error.code(), error.status) == (Code.RESOURCE_EXHAUSTED, 429)
        assert dict(error.trailing_metadata())["x-why"] == "busy"
        assert error.retry_at == pytest.approx(guards.clock.wall() + 600)
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), again.code()) == (type(error), str(error), Code.RESOURCE_EXHAUSTED)
        with pytest.raises(grpc.RpcError) as refused:
            Client(colour, server.target, guards=guards).unary(PUT)
        assert isinstance(refused.value, errors.RateLimited)
        assert refused.value.outcome == "not_sent"
        assert len(server.calls) == 1


@both
def test_callers_faults_are_no_failures(colour):
    """Statuses that blame the caller or its credential are typed, sent once, and leave the breaker closed."""
    kinds = {
        Code.INVALID_ARGUMENT: errors.InvalidRequest,
        Code.NOT_FOUND: errors.NotFound,
        Code.ALREADY_EXISTS: errors.Conflict,
        Code.UNIMPLEMENTED: errors.InvalidRequest,
        Code.UNAUTHENTICATED: errors.AuthenticationFailed,
        Code.PERMISSION_DENIED: errors.PermissionDenied,
    }
    with GrpcServer(*kinds, b"ok") as server:
        client = Client(colour, server.target, Policy(breaker=Breaker(failures=1)))
        for code, kind in kinds.items():
            with pytest.raises(kind) as caught:
                client.unary(GET)
            error: Any = caught.value
            assert error.code() is code
        assert client.unary(GET) == b"ok"
        assert len(server.calls) == len(kinds) + 1


@both
def test_an_open_breaker_is_an_rpc_error(colour):
    """After failures the call is refused at once, with UNAVAILABLE; clients of one name share that, and without a name
    those of one gRPC service.
    """
    guards, policy = Guards(ManualClock()), Policy(retry=None, breaker=Breaker(failures=1))
    with GrpcServer(Code.UNKNOWN) as server:
        for options in ({}, {"name": "files"}):
            with pytest.raises(errors.ServiceUnavailable):
                Client(colour, server.target, policy, guards=guards, **options).unary(GET)
            with pytest.raises(grpc.RpcError) as caught:
                Client(colour, server.target, policy, guards=guards, **options).unary(PUT)
            error: Any = caught.value
            assert isinstance(caught.value, errors.CircuitOpen)
            assert (error.code(), error.service) == (Code.UNAVAILABLE, options.get("name", "pkg.Files"))
        with pytest.raises(errors.ServiceUnavailable):
            Client(colour, server.target, policy, guards=guards).unary("/pkg.Other/Get")


@both
def test_a_refused_connection_was_not_sent(colour):
    """Where nobody listens, any call is tried again, and its outcome is known."""
    with GrpcServer(b"") as server:
        gone = server.target
    with pytest.raises(errors.ConnectFailed) as caught:
        Client(colour, gone, Policy(retry=Retry(retries=2))).unary(PUT)
    error: Any = caught.value
    assert (error.outcome, len(error.attempts), error.code()) == ("not_sent", 3, Code.UNAVAILABLE)


def test_without_the_channel_nothing_passes_for_unsent():
    """Where it cannot be seen whether the channel stands, a call that found nobody may have been sent."""
    with GrpcServer(b"") as server:
        gone = server.target
    with grpc.insecure_channel(gone) as plain:
        put = grpc.intercept_channel(plain, ClientInterceptor(guards=Guards(ManualClock()))).unary_unary(PUT)
        with pytest.raises(errors.ServiceUnavailable) as caught:
            put(b"")
    assert caught.value.outcome == "unknown"


def test_a_servers_words_are_no_proof():
    """A server that repeats what its own client said has got the call: it may have acted."""
    said = "failed to connect to all addresses; last error: UNKNOWN: ipv4:10.0.0.1:1: Connection refused"
    error = error_of(Ended(None, Code.UNAVAILABLE, said))
    assert isinstance(error, errors.ServiceUnavailable)
    assert error.outcome == "unknown"


@both
def test_the_deadline_goes_along_and_holds(colour):
    """The server sees what is left, and the call is back by then: ours, or the sooner one of the call's own user."""
    with GrpcServer(b"ok") as server:
        client = Client(colour, server.target, Policy(deadline=0.3, attempt_timeout=None), guards=Guards())
        for sooner, most in ((None, 0.3), (0.1, 0.1)):
            begun = time.monotonic()
            with pytest.raises(grpc.RpcError) as caught:
                client.unary("/pkg.Slow/Get", timeout=sooner)
            assert time.monotonic() - begun < most + 0.3
            error: Any = caught.value
            assert isinstance(caught.value, errors.DeadlineExceeded)
            assert error.code() is Code.DEADLINE_EXCEEDED
            left = server.left[-1]
            assert left is not None
            assert left <= most + 0.01
        with pytest.raises(errors.OutcomeUnknown):
            client.unary("/pkg.Slow/Put")


@both
def test_a_slow_attempt_is_followed_by_another(colour):
    """An attempt that takes too long is given up for another, where that is safe."""
    with GrpcServer(b"ok") as server:
        client = Client(colour, server.target, Policy(attempt_timeout=0.1, retry=Retry(retries=1)))
        with pytest.raises(errors.AttemptTimeout) as caught:
            client.unary("/pkg.Slow/Get")
        assert len(caught.value.attempts) == 2


@both
def test_what_the_error_of_a_stream_knows(colour):
    """A stream that breaks off has its attempt in the error, and is not worth another try: its answers were given out."""
    with GrpcServer(Code.UNAVAILABLE) as server:
        client = Client(colour, server.target, guards=Guards())
        with pytest.raises(errors.ServiceUnavailable) as caught:
            client.stream("/pkg.Files/Stream")
    assert ([each.number for each in caught.value.attempts], caught.value.retryable) == ([1], False)
    assert (caught.value.outcome, caught.value.operation) == ("unknown", "pkg.Files/Stream")


@both
def test_streams_are_counted_and_bounded(colour):
    """A stream's answers come through; its failure is typed and counted, and the deadline ends it."""
    policy = Policy(deadline=0.3, breaker=Breaker(failures=1))
    with GrpcServer(b"", Code.UNAVAILABLE) as server:
        client = Client(colour, server.target, policy)
        assert client.stream("/pkg.Files/Stream") == [b"1", b"2"]
        with pytest.raises(grpc.RpcError) as caught:
            client.stream("/pkg.Files/Stream")
        assert isinstance(caught.value, errors.ServiceUnavailable)
        with pytest.raises(errors.CircuitOpen):
            client.stream("/pkg.Files/Stream")
        assert len(server.calls) == 2
        begun = time.monotonic()
        with pytest.raises(grpc.RpcError) as late:
            Client(colour, server.target, policy, guards=Guards()).stream("/pkg.Slow/Stream")
        assert time.monotonic() - begun < 0.7
        assert isinstance(late.value, errors.DeadlineExceeded)
        error: Any = late.value
        assert error.code() is Code.DEADLINE_EXCEEDED


@both
def test_many_requests_go_through(colour):
    """Calls of many requests work in both shapes, and are never repeated."""
    with GrpcServer(b"", b"", Code.UNAVAILABLE) as server:
        client = Client(colour, server.target, safe=lambda _method: True)
        if colour == "sync":
            with grpc.insecure_channel(server.target) as plain:
                channel = intercept(plain, client.policy, **client.options)
                assert channel.stream_unary("/pkg.Files/Many")(iter([b"a", b"b"])) == b"ab"
                assert list(channel.stream_stream("/pkg.Files/ManyStream")(iter([b"a"]))) == [b"1", b"2"]
                with pytest.raises(errors.ServiceUnavailable):
                    channel.stream_unary("/pkg.Files/Many")(iter([b"a"]))
        else:
            asyncio.run(_many(client))
        assert len(server.calls) == 3


async def _many(client: Client) -> None:
    async with client.channel() as channel:
        call = channel.stream_unary("/pkg.Files/Many")()
        await call.write(b"a")
        await call.write(b"b")
        await call.done_writing()
        assert await call == b"ab"
        both_ways = channel.stream_stream("/pkg.Files/ManyStream")()
        await both_ways.write(b"a")
        await both_ways.done_writing()
        assert [await both_ways.read(), await both_ways.read()] == [b"1", b"2"]
        assert await both_ways.read() is grpc.aio.EOF
        with pytest.raises(errors.ServiceUnavailable):
            await channel.stream_unary("/pkg.Files/Many")(iter([b"a"]))


def test_what_goes_on_holds_its_slot_until_it_ends():
    """A future and an open stream keep their slot while they go on; results, cancelling and forgetting free it."""
    policy = Policy(bulkhead=Bulkhead(1), retry=None)
    with GrpcServer(b"ok") as server, grpc.insecure_channel(server.target) as plain:
        channel = intercept(plain, policy, name="one", guards=Guards())
        get, stream = channel.unary_unary(GET), channel.unary_stream("/pkg.Slow/Stream")
        future = channel.unary_unary("/pkg.Slow/Get").future(b"x")
        with pytest.raises(errors.BulkheadFull) as caught:
            get(b"x")
        error: Any = caught.value
        assert error.code() is Code.RESOURCE_EXHAUSTED
        refused = get.future(b"x")
        assert isinstance(refused.exception(), errors.BulkheadFull)
        freed = _over(future)
        server.go.set()
        assert future.result(10) == b"ok"
        assert freed.wait(10)
        assert get(b"x") == b"ok"
        server.go.clear()
        open_ = stream(b"")
        assert next(open_) == b"1"
        with pytest.raises(errors.BulkheadFull):
            get(b"x")
        freed = _over(open_)
        open_.cancel()
        with pytest.raises(grpc.RpcError) as cancelled:
            list(open_)
        assert not isinstance(cancelled.value, errors.CallError)
        assert freed.wait(10)
        assert get(b"x") == b"ok"


def _over(call: Any) -> threading.Event:
    """Set once the call is over and all that was to be told before knows."""
    over = threading.Event()
    call.add_done_callback(lambda _call: over.set())
    return over


async def test_a_cancelled_call_frees_its_slot():
    """On the loop, a call or a stream that is cancelled frees what it held, and is no failure of the service."""
    policy = Policy(bulkhead=Bulkhead(1), retry=None, breaker=Breaker(failures=1))
    with GrpcServer(b"ok") as server:
        async with Client("async", server.target, policy, name="one").channel() as channel:
            task = asyncio.ensure_future(_await(channel.unary_unary("/pkg.Slow/Get")(b"x")))
            assert await asyncio.to_thread(server.came.wait, 10)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await channel.unary_unary(GET)(b"x") == b"ok"
            stream = channel.unary_stream("/pkg.Slow/Stream")(b"")
            assert await stream.read() == b"1"
            stream.cancel()
            with pytest.raises(asyncio.CancelledError):
                await stream.read()
            assert await channel.unary_unary(GET)(b"x") == b"ok"


def test_a_forgotten_stream_frees_its_slot():
    """A stream that its reader leaves in the middle, without a word, is cancelled and frees its slot for who waits."""
    policy = Policy(bulkhead=Bulkhead(1, queue=1), retry=None, deadline=5)
    with GrpcServer(b"ok") as server, grpc.insecure_channel(server.target) as plain:
        channel = intercept(plain, policy, name="one", guards=Guards())
        assert next(channel.unary_stream("/pkg.Slow/Stream")(b"")) == b"1"
        gc.collect()
        begun = time.monotonic()
        assert channel.unary_unary(GET)(b"x") == b"ok"
        assert time.monotonic() - begun < 4


async def _await(call: Any) -> Any:
    return await call


@both
def test_the_call_says_what_grpcs_own_does(colour):
    """Status, details and trailers are there on the call, for a good end and a bad one."""
    with GrpcServer(b"ok", Code.NOT_FOUND) as server:
        client = Client(colour, server.target)
        if colour == "sync":
            with grpc.insecure_channel(server.target) as plain:
                get = intercept(plain, **client.options).unary_unary(GET)
                answer, call = get.with_call(b"x")
                assert (answer, call.code()) == (b"ok", Code.OK)
                bad = get.future(b"x")
                assert (bad.exception(10).code(), bad.done()) == (Code.NOT_FOUND, True)
        else:

            async def run():
                async with client.channel() as channel:
                    call = channel.unary_unary(GET)(b"x")
                    assert (await call, await call.code()) == (b"ok", Code.OK)
                    bad = channel.unary_unary(GET)(b"x")
                    assert (await bad.code(), await bad.details()) == (Code.NOT_FOUND, "said the server")
                    assert bad.done()

            asyncio.run(run())


@both
def test_too_large_a_message_is_the_callers_affair(colour):
    """A message beyond the channel's own limit was never sent, and is no rate limit."""
    options = [("grpc.max_send_message_length", 4)]
    with GrpcServer(b"") as server:
        with pytest.raises(errors.InvalidRequest) as caught:
            Client(colour, server.target, options=options).unary(GET, b"12345")
        assert caught.value.outcome == "not_sent"
        assert server.calls == []


def test_what_cannot_be_read_or_written_is_no_failure_of_the_service():
    """A request that cannot be serialised was not sent; an answer that cannot be read is a BadAnswer."""

    def broken(_message: Any) -> bytes:
        raise ValueError("no bytes")

    with GrpcServer(b"ok") as server, grpc.insecure_channel(server.target) as plain:
        channel = intercept(plain, guards=Guards(ManualClock()))
        with pytest.raises(errors.InvalidRequest) as caught:
            channel.unary_unary(GET, request_serializer=broken)(b"")
        assert caught.value.outcome == "not_sent"
        with pytest.raises(errors.BadAnswer):
            channel.unary_unary(GET, response_deserializer=broken)(b"")


@both
def test_two_of_us_are_refused(colour):
    """Interceptors of ours twice around one channel would multiply retries, and are refused with what to do."""
    with GrpcServer(b"") as server, pytest.raises(errors.ConfigurationError, match="twice"):
        (_twice if colour == "sync" else _twice_on_the_loop)(server.target)


def _twice(target: str) -> None:
    with grpc.insecure_channel(target) as plain:
        intercept(intercept(plain)).unary_unary(GET)(b"")


def _twice_on_the_loop(target: str) -> None:
    async def call() -> None:
        interceptors = [*aio_interceptors(), *aio_interceptors()]
        async with grpc.aio.insecure_channel(target, interceptors=interceptors) as channel:
            await channel.unary_unary(GET)(b"")

    asyncio.run(call())


def test_retries_of_the_channel_are_refused():
    """A service config with a retry or hedging policy is refused, unless the channel's retries are off."""
    for policy in ("retryPolicy", "hedgingPolicy"):
        config = f'{{"methodConfig": [{{"name": [{{"service": "pkg.Files"}}], "{policy}": {{"maxAttempts": 3}}}}]}}'
        with pytest.raises(errors.ConfigurationError, match=rf"{policy} for pkg\.Files/.*enable_retries"):
            channel_options([("grpc.service_config", config)])
        assert channel_options([("grpc.service_config", config), ("grpc.enable_retries", 0)])
    for harmless in ('{"loadBalancingConfig": []}', "no json", "[]"):
        channel_options([("grpc.service_config", harmless)])


def test_arguments_are_checked():
    """Each wrong argument is named."""
    wrong: Any
    for wrong, named in (({"policy": 3}, "policy"), ({"safe": GET}, "safe"), ({"safe": ("Get",)}, "safe")):
        with pytest.raises(errors.ConfigurationError, match=rf"grpc\.{named}"):
            ClientInterceptor(**wrong)
        with pytest.raises(errors.ConfigurationError, match=rf"grpc\.{named}"):
            aio_interceptors(**wrong)


def _varint(value: int) -> bytes:
    return bytes([value]) if value < 0x80 else bytes([value & 0x7F | 0x80]) + _varint(value >> 7)


def _field(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _detail(kind: str, value: bytes) -> bytes:
    return _field(3, _field(1, kind.encode()) + _field(2, value))


@given(st.integers(0, 31_000_000), st.integers(0, 999_999_999), st.binary(max_size=20), st.booleans())
def test_a_retry_delay_is_found_among_other_details(seconds, nanos, other, first):
    """The delay is read wherever RetryInfo stands among the details."""
    delay = b"\x08" + _varint(seconds) + b"\x10" + _varint(nanos)
    info = _detail("type.googleapis.com/google.rpc.RetryInfo", _field(1, delay))
    more = _detail("type.googleapis.com/google.rpc.ErrorInfo", other)
    message = b"\x08\x0e" + _field(2, b"busy") + (info + more if first else more + info)
    assert retry_delay(message) == pytest.approx(seconds + nanos / 1e9)


@given(st.binary(max_size=200))
def test_no_details_break_the_reader(message):
    """Whatever the bytes are, they are a delay or none."""
    found = retry_delay(message)
    assert found is None or found >= 0


@given(st.text(max_size=20) | st.integers(-(2**40), 2**40).map(str))
def test_a_pushback_is_a_time_or_a_no(text):
    """Milliseconds from 0 are a wait; all else forbids another try."""
    found = pushback(text)
    assert found == int(text) / 1000 if text.isascii() and text.isdigit() and len(text) < 16 else found is False
