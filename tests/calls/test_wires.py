"""One suite for all wires: whichever library speaks HTTP, calls behave the same."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import os
import socket
import socketserver
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.calls import fault_server
from tests.calls.fault_server import FaultServer
from tests.calls.ledger import CANARY, Ledger, Mail, both, run
from tests.calls.tls_server import tls_server

from moorline import errors
from moorline.app import Moorline
from moorline.calls import clients, wiring
from moorline.calls.addresses import PublicAddresses
from moorline.calls.exchange import Exchange
from moorline.calls.guards import Guards
from moorline.calls.sending import ServiceRequest
from moorline.policies.policy import Policy
from moorline.policies.retry import Retry
from moorline.settings import ServiceSettings, Settings

GOOD = b'{"id":"b_1"}'
wires = pytest.mark.parametrize("wire", wiring.WIRES)


def answering(*answers: bytes):
    """A behaviour that gives these bytes in turn, the last one for ever."""
    left = list(answers)

    async def behave(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        if length:
            behave.bodies.append(await reader.readexactly(int(length[0].partition(b":")[2])))  # type: ignore[attr-defined]
        writer.write(left.pop(0) if len(left) > 1 else left[0])
        await writer.drain()

    behave.bodies = []  # type: ignore[attr-defined]
    return behave


def answer(status: int = 200, body: bytes = GOOD, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Some", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def service(url: str, wire: str, kind: type[Ledger] = Ledger, **options: Any) -> Ledger:
    policy = options.pop("policy", Policy(retry=None))
    return kind(CANARY, base_url=url, wire=wire, policy=policy, guards=Guards(), **options)


def exchanged(colour: str, made: Ledger) -> Exchange:
    """The whole answer to a read."""
    call = made.read("x")
    if colour == "sync":
        return made.send_call_blocking(call)

    async def send() -> Exchange:
        return await made.send_call(call)

    return asyncio.run(send())


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def closing() -> Iterator[int]:
    """The port of a server that closes each connection at once."""

    class Close(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(64)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Close) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@wires
@both
class TestAnswers:
    def test_a_body_goes_out_and_comes_back(self, wire, colour):
        """The request is what the service asked for, and nothing that a library adds on its own."""
        behave = answering(answer())
        with FaultServer(behave) as server:
            assert run(colour, service(server.url, wire).book(5)) == {"id": "b_1"}
            assert behave.bodies == [b"amount=5"]
            first, *lines = server.heads[0].decode().strip().split("\r\n")
        assert first == "POST /bookings HTTP/1.1"
        sent = dict(line.lower().split(": ", 1) for line in lines)
        assert sent.pop("idempotency-key")
        assert sent == {
            "host": server.url.removeprefix("http://"),
            "user-agent": "moorline/0.1",
            "accept": "application/json",
            "authorization": f"bearer {CANARY}",
            "content-type": "application/x-www-form-urlencoded",
            "content-length": "8",
        } | ({"connection": "keep-alive"} if "connection" in sent else {})

    def test_a_post_without_a_body_says_so(self, wire, colour):
        """Servers that insist on a length get one of 0."""
        with FaultServer(answering(answer())) as server:
            run(colour, service(server.url, wire).request("POST", "/x"))
            assert b"content-length: 0" in server.heads[0].lower()

    def test_headers(self, wire, colour):
        """Names are in lower case and repeated values joined, as a service's reader expects."""
        with FaultServer(answering(answer(200, GOOD, "X-One: 1", "X-Two: a", "x-two: b"))) as server:
            got = exchanged(colour, service(server.url, wire))
        assert (got.status, got.headers["x-one"], got.headers["x-two"]) == (200, "1", "a, b")
        assert type(got.body) is bytes

    @pytest.mark.parametrize("raw", [b"caf\xe9", "caf\u00e9".encode()], ids=["latin-1", "utf-8"])
    def test_headers_that_are_not_ascii(self, wire, colour, raw):
        """They break nothing, and what is told of them can be stored."""
        with FaultServer(answering(b"HTTP/1.1 200 OK\r\nX-One: 1\r\nX-Two: " + raw + answer()[17:])) as server:
            got = exchanged(colour, service(server.url, wire))
        assert (got.data, got.headers["x-one"]) == ({"id": "b_1"}, "1")
        assert got.headers.get("x-two", raw.decode("latin-1")) == raw.decode("latin-1")

    def test_a_length_with_zeros_in_front(self, wire, colour):
        """It is a length, or the answer is refused; the body is never cut."""
        with FaultServer(answering(b"HTTP/1.1 200 OK\r\nContent-Length: %025d\r\n\r\n" % 12 + GOOD)) as server:
            try:
                assert run(colour, service(server.url, wire).read("x")) == "b_1"
            except errors.ConnectionLost as error:
                assert "Content-Length" in str(error)  # noqa: PT017 (both are right)

    def test_chunks_and_the_end_of_the_connection(self, wire, colour):
        """A body without a length is read to its end."""
        chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n" + GOOD[:5] + b"\r\n7\r\n"
        with FaultServer(answering(chunked + GOOD[5:] + b"\r\n0\r\n\r\n")) as server:
            assert run(colour, service(server.url, wire).read("x")) == "b_1"

    def test_no_body(self, wire, colour):
        """204, and HEAD with a length that is another's."""
        with FaultServer(answering(b"HTTP/1.1 204 None\r\n\r\n")) as server:
            assert run(colour, service(server.url, wire).request("DELETE", "/x")) is None
        with FaultServer(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n")) as server:
            assert run(colour, service(server.url, wire).request("HEAD", "/x")) is None

    @pytest.mark.parametrize(("name", "encode"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
    def test_encoded_answers(self, wire, colour, name, encode):
        """A body that is encoded unasked is decoded."""
        with FaultServer(answering(answer(200, encode(GOOD), f"Content-Encoding: {name}"))) as server:
            assert run(colour, service(server.url, wire).read("x")) == "b_1"

    def test_a_body_that_cannot_be_decoded(self, wire, colour):
        """It is a bad answer, of a request that was done."""
        with FaultServer(answering(answer(200, b"no gzip", "Content-Encoding: gzip"))) as server:
            with pytest.raises(errors.BadAnswer, match="decoded") as caught:
                run(colour, service(server.url, wire).read("x"))
            assert caught.value.outcome == "done"

    @pytest.mark.parametrize("how", ["length", "chunks", "bomb"])
    def test_the_size_cap(self, wire, colour, how):
        """More than max_body is refused: announced, unannounced, or unpacked."""
        large = b"x" * 300_000
        made = {
            "length": answer(200, large),
            "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n"
            % (len(large), large),
            "bomb": answer(200, gzip.compress(large), "Content-Encoding: gzip"),
        }
        with FaultServer(answering(made[how])) as server, pytest.raises(errors.BadAnswer, match="larger than 100000"):
            run(colour, service(server.url, wire, max_body=100_000).read("x"))

    def test_redirects_are_ours(self, wire, colour):
        """The library follows nothing; we do, and the credential stays with its origin."""
        with FaultServer(answering(answer())) as other:
            moved = answer(302, b"", f"Location: {other.url}/elsewhere")
            with FaultServer(answering(moved)) as server:
                assert run(colour, service(server.url, wire).read("x")) == "b_1"
            assert CANARY.encode() not in other.heads[0]
            assert b"Authorization" not in other.heads[0]

    def test_nothing_of_the_environment_or_of_earlier_calls(self, wire, colour, monkeypatch):
        """A proxy in the environment is not asked, and a cookie is not kept."""
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
        monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{free_port()}")
        with FaultServer(answering(answer(200, GOOD, "Set-Cookie: a=b; Path=/"))) as server:
            made = service(server.url, wire)

            async def twice() -> None:
                await made.read("x")
                await made.read("y")

            if colour == "sync":
                made.read("x").result(), made.read("y").result()
            else:
                asyncio.run(twice())
            assert not any(b"cookie" in head.lower() for head in server.heads)


@wires
@both
class TestFailures:
    @pytest.mark.parametrize(
        "behaviour", [fault_server.drip, fault_server.silent, fault_server.stalled_body], ids=lambda one: one.__name__
    )
    @pytest.mark.parametrize("size", [1, 12_000_000], ids=["small", "large"])
    def test_the_deadline_holds(self, wire, colour, behaviour, size):
        """Whatever stalls, the answer or the upload, the call is back in time and says that the outcome is unknown."""
        with FaultServer(behaviour) as server:
            begun = time.monotonic()
            with pytest.raises(errors.OutcomeUnknown) as caught:
                run(colour, service(server.url, wire, policy=Policy(retry=None, deadline=0.6)).book(1, x="x" * size))
            assert time.monotonic() - begun < 0.6 + 0.5
            assert caught.value.outcome == "unknown"

    def test_refused(self, wire, colour):
        """Nobody listens: a POST without a key was not sent, and is tried again."""
        made = service(f"http://127.0.0.1:{free_port()}", wire, Mail, policy=Policy(retry=Retry(retries=1, base=0.01)))
        with pytest.raises(errors.ConnectFailed) as caught:
            run(colour, made.book(1))
        assert (caught.value.outcome, len(caught.value.attempts)) == ("not_sent", 2)

    def test_no_such_name(self, wire, colour):
        """Nor when the name does not exist."""
        with pytest.raises(errors.ConnectFailed) as caught:
            run(colour, service("https://nobody.invalid", wire, Mail).book(1))
        assert caught.value.outcome == "not_sent"

    def test_no_tls(self, wire, colour):
        """Nor when the handshake fails."""
        with closing() as port, pytest.raises(errors.ConnectFailed) as caught:
            run(colour, service(f"https://127.0.0.1:{port}", wire, Mail).book(1))
        assert caught.value.outcome == "not_sent"

    def test_a_certificate_of_nobody_we_know(self, wire, colour, tmp_path):
        """It is refused, before anything of the request is out."""
        with tls_server(tmp_path) as (port, _), pytest.raises(errors.ConnectFailed) as caught:
            run(colour, service(f"https://localhost:{port}", wire, Mail).read("x"))
        assert caught.value.outcome == "not_sent"

    def test_hung_up(self, wire, colour):
        """A POST without a key whose connection breaks is not sent again; its outcome is unknown."""
        with FaultServer(fault_server.hang_up) as server:
            with pytest.raises(errors.OutcomeUnknown):
                run(colour, service(server.url, wire, Mail, policy=Policy(retry=Retry(retries=3, base=0.01))).book(1))
            assert len(server.heads) == 1

    def test_no_second_try_behind_our_back(self, wire, colour):
        """A GET on a kept connection that breaks is an attempt that failed, and the library sends it no second time."""
        seen: list[asyncio.StreamWriter] = []

        async def once(_head: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if writer in seen:
                raise ConnectionResetError
            seen.append(writer)
            writer.write(answer())
            await writer.drain()

        with FaultServer(once) as server:
            made = service(server.url, wire)

            async def twice() -> None:
                assert await made.read("x") == "b_1"
                await made.read("y")

            def twice_blocking() -> None:
                assert made.read("x").result() == "b_1"
                made.read("y").result()

            with pytest.raises(errors.ConnectionLost) as caught:
                twice_blocking() if colour == "sync" else asyncio.run(twice())
            assert (len(server.heads), len(caught.value.attempts)) == (2, 1)

    def test_truncated(self, wire, colour):
        """Half a body is no answer, but the request was done."""
        with (
            FaultServer(fault_server.truncated) as server,
            pytest.raises(errors.BadAnswer, match="truncated") as caught,
        ):
            run(colour, service(server.url, wire).read("x"))
        assert caught.value.outcome == "done"

    def test_nonsense(self, wire, colour):
        """What is no HTTP is a broken connection."""
        with (
            FaultServer(answering(b"220 mail.example ESMTP\r\n\r\n")) as server,
            pytest.raises(errors.CallError) as caught,
        ):
            run(colour, service(server.url, wire, Mail).book(1))
        assert caught.value.outcome == "unknown"

    def test_no_address_in_what_is_said(self, wire, colour):
        """A key that a service wants in the query is in no error, nor in what caused it."""
        canary = "canary0query0key"
        for behaviour in (fault_server.hang_up, fault_server.truncated):
            with FaultServer(behaviour) as server, pytest.raises(errors.CallError) as caught:
                run(colour, service(server.url, wire).request("GET", "/x", query={"api_secret": canary}))
            chain: BaseException | None = caught.value
            while chain is not None:
                assert canary not in f"{chain} {chain!r} {getattr(chain, 'details', '')}"
                chain = chain.__cause__


@wires
class TestPools:
    async def test_a_full_pool(self, wire, monkeypatch):
        """Who finds no free connection in time sent nothing, and hears that it was the pool."""
        monkeypatch.setattr(clients, "MAX_CONNECTIONS", 2)
        for name in ("pyreqwest_wire", "aiohttp_wire"):
            monkeypatch.setattr(f"moorline.calls.{name}.MAX_CONNECTIONS", 2)
        with FaultServer(fault_server.silent) as server:
            made = service(server.url, wire, policy=Policy(retry=None, deadline=None, attempt_timeout=0.5))
            await made.aclose()  # the pools of earlier tests are larger
            wiring._fast_of.cache_clear()
            holding = [asyncio.create_task(_hold(made)) for _ in range(2)]
            await server.arrived(2)
            with pytest.raises(errors.ConnectFailed, match="pool") as caught:
                await made.book(1)
            assert caught.value.outcome == "not_sent"
            for task in holding:
                task.cancel()
            await asyncio.gather(*holding, return_exceptions=True)
            await made.aclose()
        wiring._fast_of.cache_clear()

    async def test_cancelled_calls_leave_nothing(self, wire):
        """300 calls that are cancelled in the middle leave no place taken and no task behind."""
        calm = asyncio.Event()

        async def behave(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if calm.is_set():
                writer.write(answer())
            else:
                await fault_server.silent(head, reader, writer)

        with FaultServer(behave) as server:
            made = service(server.url, wire, policy=Policy(breaker=None, retry=None))
            before = len(asyncio.all_tasks())
            for wave in range(3):
                tasks = [asyncio.ensure_future(_hold(made)) for _ in range(100)]
                if wave == 1:
                    await asyncio.sleep(0)
                elif wave == 2:
                    await server.arrived(len(server.heads) + 50)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            calm.set()
            for _ in range(110):
                assert await made.read("x") == "b_1"
            assert len(asyncio.all_tasks()) <= before + 2
            await made.aclose()

    def test_one_service_on_many_loops_and_threads(self, wire):
        """Each loop has connections of its own, which end with it."""
        with FaultServer(answering(answer())) as server:
            made = service(server.url, wire)

            async def some() -> list[Any]:
                return await asyncio.gather(*(made.read(str(number)) for number in range(20)))

            for _ in range(3):
                assert asyncio.run(some()) == ["b_1"] * 20
                assert made.read("x").result() == "b_1"
            made.close()
            assert made.read("x").result() == "b_1"

    def test_a_forked_process(self, wire):
        """A child can call as well, with whichever library works there."""
        with FaultServer(answering(answer())) as server:
            made = service(server.url, wire)
            assert made.read("x").result() == run("async", made.read("x")) == "b_1"
            child = os.fork()
            if child == 0:
                good = False
                with contextlib.suppress(BaseException):
                    good = made.read("x").result() == run("async", made.read("x")) == "b_1"
                os._exit(0 if good else 1)
            assert os.waitpid(child, 0)[1] == 0

    async def test_answers_in_parts(self, wire):
        """A streamed answer works under any choice."""
        with FaultServer(answering(answer())) as server:
            async with service(server.url, wire).read("x").stream() as parts:
                assert b"".join([part async for part in parts]) == GOOD


async def _hold(made: Ledger) -> Any:
    return await made.read("x").using(attempt_timeout=30, timeout=30)


@both
def test_a_client_that_was_closed(colour):
    """A request to a client that was closed meanwhile is not sent, to a server that would answer."""
    from moorline.calls.pyreqwest_wire import PyreqwestPools

    async def on_loop(request: ServiceRequest) -> None:
        wire = PyreqwestPools().open_async()
        await wire.aclose()
        await wire.send(request, 5.0)

    def blocking(request: ServiceRequest) -> None:
        wire = PyreqwestPools().open_blocking()
        wire.close()
        wire.send(request, 5.0)

    with FaultServer(answering(answer())) as server:
        request = ServiceRequest("GET", f"{server.url}/x", {}, None, 100)
        with pytest.raises(errors.ConnectFailed, match="the client was closed") as raised:
            blocking(request) if colour == "sync" else asyncio.run(on_loop(request))
        assert server.heads == []
    assert raised.value.outcome == "not_sent"


@wires
@pytest.mark.parametrize("name", ["localhost", "elsewhere.example"])
def test_the_certificates_that_the_environment_names(wire, name, tmp_path):
    """SSL_CERT_FILE names whom to believe; a certificate for another name is refused all the same."""
    code = """
import asyncio, sys
from moorline import Policy
from tests.calls.ledger import Ledger
made = Ledger("key", base_url=sys.argv[1], wire=sys.argv[2], policy=Policy(retry=None))
print(made.read("x").result(), asyncio.run(made.read("x")._answered_async()))
"""
    with tls_server(tmp_path, name) as (port, authority):
        done = subprocess.run(
            [sys.executable, "-c", code, f"https://localhost:{port}", wire],
            env={**os.environ, "SSL_CERT_FILE": str(authority), "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            check=False,
        )
    if name == "localhost":
        assert done.stdout.split() == ["b_1", "b_1"], done.stderr
    else:
        assert "ConnectFailed" in done.stderr


class TestTheChoice:
    @pytest.mark.parametrize("wire", ["curl", "", "HTTPX2"])
    def test_unknown(self, wire):
        """A word that is none is refused with those that are."""
        with pytest.raises(errors.ConfigurationError, match=r"ledger\.wire must be one of httpx2, pyreqwest, aiohttp"):
            Ledger(CANARY, wire=wire)

    def test_something_else(self):
        """So is what is neither a word nor a transport."""
        with pytest.raises(errors.ConfigurationError, match="or an httpx2 transport, not int"):
            Ledger(CANARY, wire=5)  # type: ignore[arg-type]

    def test_not_installed(self, monkeypatch):
        """A library that is missing is named, with the way to get it."""
        monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
        with pytest.raises(errors.ConfigurationError, match=r"pip install 'moorline\[fast\]'"):
            Ledger(CANARY, wire="pyreqwest")

    def test_addresses_need_httpx2(self):
        """Where requests may go to some addresses only, another wire is refused; one from the environment gives way."""
        with pytest.raises(errors.ConfigurationError, match="httpx2"):
            Ledger(CANARY, wire="aiohttp", addresses=PublicAddresses())

    @both
    def test_the_environment(self, colour, monkeypatch):
        """MOORLINE_WIRE holds for services that say nothing; a wrong word is told at the first call."""
        monkeypatch.setenv("MOORLINE_WIRE", "pyreqwest")
        with FaultServer(answering(answer())) as server:
            made = Ledger(CANARY, base_url=server.url, guards=Guards())
            assert run(colour, made.read("x")) == "b_1"
            assert made._wires._chosen == "pyreqwest"
            run(colour, Ledger(CANARY, base_url=server.url, wire="httpx2", guards=Guards()).read("x"))
        monkeypatch.setenv("MOORLINE_WIRE", "curl")
        with pytest.raises(errors.ConfigurationError, match="MOORLINE_WIRE must be one of"):
            run(colour, Ledger(CANARY, guards=Guards()).read("x"))

    def test_the_settings(self, monkeypatch):
        """A line for all services, another for one, an argument over both."""
        monkeypatch.delenv("MOORLINE_WIRE", raising=False)
        settings = Settings(wire="aiohttp", services={"mail": ServiceSettings(wire="pyreqwest")})
        app = Moorline(settings=settings)
        assert app.service(Ledger, api_key=CANARY)._wires._name() == "aiohttp"
        assert app.service(Mail, api_key=CANARY)._wires._name() == "pyreqwest"
        assert app.service(Mail, api_key=CANARY, wire="httpx2")._wires._name() == "httpx2"
        assert app.service(Mail, api_key=CANARY, addresses=PublicAddresses())._wires._name() == "httpx2"
        transport = httpx2.MockTransport(lambda _request: httpx2.Response(200, json={"id": "b_2"}))
        assert app.service(Ledger, api_key=CANARY, wire=transport).read("x").result() == "b_2"

    def test_nothing_is_loaded_for_the_others(self):
        """Who says nothing loads neither library."""
        code = "import sys, moorline.calls.service, moorline.calls.wires; print([n for n in ('aiohttp', 'pyreqwest') if n in sys.modules])"
        said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
        assert said.strip() == "[]"
