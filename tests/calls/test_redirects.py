from __future__ import annotations

import asyncio
import gzip
import tracemalloc
import zlib

import pytest
from tests.calls.fault_server import FaultServer
from tests.calls.ledger import CANARY, Ledger, Script, both, run

from moorline import errors
from moorline.calls.guards import Guards
from moorline.policies.policy import Policy
from moorline.policies.retry import Retry


def _to(location: str, status: int = 302) -> tuple[int, dict[str, str], bytes]:
    return (status, {"location": location}, b"")


class TestRedirects:
    @both
    def test_nothing_of_ours_goes_elsewhere(self, colour):
        """Another origin, a port of the same host among them, gets no header of the service or of the Call."""
        for there in ("https://other.example/x", "https://ledger.example:8443/x", "//other.example/x"):
            script = Script(_to(there), 200)
            call = script.service().read("1").using(headers={"X-Api-Key": CANARY, "Cookie": f"s={CANARY}"})
            run(colour, call)
            home, away = script.requests
            assert home.headers["x-api-key"] == CANARY
            assert CANARY not in str(away.headers.raw)
            assert {name.lower() for name in away.headers} == {"host", "user-agent", "accept"}

    @both
    def test_same_origin_keeps_them(self, colour):
        """Within the origin the credential stays; and what was lost elsewhere does not come back on the way home."""
        script = Script(_to("/b"), _to("https://other.example/c"), _to("https://ledger.example/d"), 200)
        run(colour, script.service().read("1"))
        assert ["authorization" in request.headers for request in script.requests] == [True, True, False, False]

    @both
    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_writes_are_not_followed(self, colour, status):
        """A POST that is redirected is sent once, and never becomes a GET."""
        script = Script(_to("/elsewhere", status))
        with pytest.raises(errors.BadAnswer) as caught:
            run(colour, script.service().book(5))
        assert [request.method for request in script.requests] == ["POST"]
        assert caught.value.status == status

    @both
    @pytest.mark.parametrize(
        ("location", "why", "sent"),
        [
            ("https://ledger.example/bookings/1", "to itself", 1),
            ("http://ledger.example/x", "plain http", 1),
            ("https://user@ledger.example/x", "not followed", 1),
            ("ftp://ledger.example/x", "not followed", 1),
            ("https://[::1/x", "no URL", 1),
            ("https://ledger.example:99999/x", "no URL", 1),
        ],
    )
    def test_what_is_not_followed_says_why(self, colour, location, why, sent):
        """A redirect that leads nowhere is an error that says so, and is not tried again."""
        script = Script(_to(location))
        with pytest.raises(errors.BadAnswer, match=why) as caught:
            run(colour, script.service().read("1"))
        assert (len(script.requests), caught.value.status, caught.value.retryable) == (sent, 302, False)

    @both
    def test_hops_have_a_bound(self, colour):
        """The sixth redirect in a row is an error; five are followed."""
        script = Script(*[_to(f"/{number}") for number in range(5)], 200)
        assert run(colour, script.service().read("1")) == "b_1"
        script = Script(_to("/b"), _to("/c"), _to("/b"), _to("/c"), _to("/b"), _to("/c"))
        with pytest.raises(errors.BadAnswer, match="more than 5 times"):
            run(colour, script.service().read("1"))
        assert len(script.requests) == 6

    @both
    def test_hops_share_a_connection_and_a_deadline(self, colour):
        """Each hop's body is read, so that one connection serves all; a hop that is slow ends at the call's deadline."""
        connections = set()

        async def hop(head, _reader, writer):
            connections.add(writer)
            if b"/bookings/slow" in head or b"/silent" in head:
                if b"/silent" in head:
                    await asyncio.sleep(30)
                writer.write(b"HTTP/1.1 302 Found\r\nLocation: /silent\r\nContent-Length: 4\r\n\r\nover")
            elif b"/bookings/1" in head:
                writer.write(b"HTTP/1.1 302 Found\r\nLocation: /there\r\nContent-Length: 4\r\n\r\nover")
            else:
                writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"id": 1}')
            await writer.drain()

        with FaultServer(hop) as server:
            service = Ledger(CANARY, base_url=server.url, policy=Policy(deadline=0.4), guards=Guards())
            assert run(colour, service.read("1")) == 1
            assert len(connections) == 1
            with pytest.raises(errors.DeadlineExceeded, match=r"0\.4 s"):
                run(colour, service.read("slow"))
            service.close()


class TestSizes:
    """``max_body``, in bytes of the decoded answer."""

    @staticmethod
    def _service(server: FaultServer, most: int) -> Ledger:
        policy = Policy(retry=Retry(), deadline=10)
        return Ledger(CANARY, base_url=server.url, max_body=most, policy=policy, guards=Guards())

    @both
    def test_a_gzip_bomb_is_left_early(self, colour):
        """100 MB of zeros in 100 kB end at the limit: neither memory nor time goes into decoding them."""
        packer = zlib.compressobj(9, wbits=31)
        bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(100)) + packer.flush()

        async def explode(_head, _reader, writer):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb))
            writer.write(bomb)
            await writer.drain()

        with FaultServer(explode) as server:
            service = self._service(server, 100_000)
            tracemalloc.start()
            try:
                with pytest.raises(errors.BadAnswer, match="larger than 100000 bytes"):
                    run(colour, service.read("1"))
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            assert len(server.heads) == 1
            # A slice of 4 kB is decoded at a time, at gzip's most 1032 times its size.
            assert peak < 16_000_000
            service.close()

    @both
    @pytest.mark.parametrize("framing", ["chunked", "length", "none"])
    def test_however_it_is_framed(self, colour, framing):
        """Chunks without end, a length that is too long, and a body until the end of the connection are all cut off."""

        async def endless(_head, _reader, writer):
            said = {"chunked": b"Transfer-Encoding: chunked\r\n", "length": b"Content-Length: 999999999999\r\n"}
            writer.write(b"HTTP/1.1 200 OK\r\n" + said.get(framing, b"Connection: close\r\n") + b"\r\n")
            while True:
                writer.write(b"400\r\n" + b"x" * 1024 + b"\r\n" if framing == "chunked" else b"x" * 1024)
                await writer.drain()

        with FaultServer(endless) as server:
            service = self._service(server, 50_000)
            with pytest.raises(errors.BadAnswer, match="larger than 50000 bytes") as caught:
                run(colour, service.read("1"))
            assert (len(server.heads), caught.value.retryable) == (1, False)
            service.close()

    @both
    def test_at_the_limit_it_passes(self, colour):
        """A decoded answer of exactly the limit is whole."""
        body = b'{"id": "%s"}' % (b"x" * 989)
        packed = gzip.compress(body)

        async def small(_head, _reader, writer):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed))
            writer.write(packed)
            await writer.drain()

        with FaultServer(small) as server:
            service = self._service(server, len(body))
            assert len(run(colour, service.read("1"))) == 989
            service.close()
