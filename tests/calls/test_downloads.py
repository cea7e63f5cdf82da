"""Downloads that break off: the rest is asked for where that is safe, and a file is never made of two versions."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc
from typing import Any

import pytest
from tests.calls.fault_server import FaultServer
from tests.calls.ledger import CANARY, Ledger, both, run
from tests.calls.shelf import (
    FIRST,
    NEW,
    OLD,
    PLAIN,
    SECOND,
    TAG,
    UNFIT,
    Shelf,
    asked_from,
    asked_version,
    gives,
    left_in,
    says,
    service_at,
    steps_of,
    wire_bytes,
)

from moorline import errors, watch
from moorline.calls import story
from moorline.calls.guards import Guards
from moorline.clock import ManualClock
from moorline.policies.policy import Policy


class TestTheRest:
    @both
    def test_it_is_asked_for_and_added(self, colour, tmp_path):
        """Two bodies break off, each next request names the version and the byte, and the file is what it should be."""
        told: list[tuple[int, int | None]] = []
        with FaultServer(Shelf(gives(FIRST, cut=300), gives(FIRST, cut=200), gives(FIRST))) as server:
            service = service_at(server)
            call = service.read("1")
            download = call.download(tmp_path / "file", progress=lambda done, total: told.append((done, total)))
            assert run(colour, download) == len(FIRST)
            service.close()
        assert (tmp_path / "file").read_bytes() == FIRST
        assert left_in(tmp_path) == ["file"]
        assert [asked_from(head) for head in server.heads] == [None, 300, 500]
        assert [asked_version(head) for head in server.heads] == ["", '"1"', '"1"']
        assert all(b"\r\nAccept-Encoding: identity\r\n" in head for head in server.heads)
        assert told == sorted(told)
        assert told[-1] == (1024, 1024)
        assert {total for _done, total in told} == {1024}

    @both
    def test_it_is_told(self, colour, tmp_path):
        """Each resumption is a line of the story, and a typed step for those who watch."""
        seen: list[story.Step] = []
        with FaultServer(Shelf(gives(FIRST, cut=300), gives(FIRST))) as server:
            service = service_at(server)
            call = service.read("1")
            stop = watch(seen.append)
            try:
                run(colour, call.download(tmp_path / "file"))
            finally:
                stop()
            service.close()
        (resuming,) = [step for step in seen if isinstance(step, story.Resuming)]
        assert (resuming.start, resuming.total) == (300, 1024)
        assert resuming.call
        assert story.step_of(resuming.to_dict()) == resuming
        lines = call.explain().splitlines()
        assert lines[0].startswith("ledger.read: answered 206 after 1.000 s, 2 attempts")
        assert "attempt 1: 200 after 0.000 s (the body broke off after 300 of 1024 bytes: " in lines[1]
        assert "retry 1 in 1 s: the body broke off after 300 of 1024 bytes" in lines[2]
        assert lines[3] == "  +1.000 s  the body broke off after 300 of 1024 bytes; asked for the rest"

    @both
    def test_of_a_stalled_body(self, colour, tmp_path):
        """Nothing comes for the time of an attempt: the rest is asked for."""
        with FaultServer(Shelf(gives(FIRST, cut=300, stall=True), gives(FIRST))) as server:
            service = service_at(server, attempt_timeout=0.2)
            call = service.read("1")
            assert run(colour, call.download(tmp_path / "file")) == len(FIRST)
            assert "after 300 of 1024 bytes: nothing came for 0.2 s" in call.explain()
            service.close()
        assert (tmp_path / "file").read_bytes() == FIRST

    @both
    def test_by_date(self, colour, tmp_path):
        """Without an ETag the version is named by a Last-Modified that is a minute old or more, as it was sent."""
        with FaultServer(Shelf(gives(FIRST, OLD, cut=300), gives(FIRST, OLD))) as server:
            service = service_at(server)
            run(colour, service.read("1").download(tmp_path / "file"))
            service.close()
        assert [asked_version(head) for head in server.heads] == ["", OLD["Last-Modified"]]
        assert (tmp_path / "file").read_bytes() == FIRST

    @both
    def test_of_an_unknown_length(self, colour, tmp_path):
        """The first answer came in chunks; the range of the second says how many bytes there are."""

        def chunked(_head: bytes) -> tuple[bytes, Any]:
            headers = {"Transfer-Encoding": "chunked", **TAG}
            return wire_bytes(200, b"c8\r\n" + FIRST[:200] + b"\r\n", headers), "hang up"

        told: list[tuple[int, int | None]] = []
        with FaultServer(Shelf(chunked, gives(FIRST))) as server:
            service = service_at(server)
            call = service.read("1")
            run(colour, call.download(tmp_path / "file", progress=lambda done, total: told.append((done, total))))
            assert "after 200 bytes; asked for the rest" in call.explain()
            service.close()
        assert (tmp_path / "file").read_bytes() == FIRST
        assert (told[0], told[-1]) == ((200, None), (1024, 1024))

    @both
    def test_in_several_parts(self, colour, tmp_path):
        """A service may send less than the rest: then there is another rest."""
        some = says(206, FIRST[300:600], Content_Range="bytes 300-599/1024", ETag='"1"')
        with FaultServer(Shelf(gives(FIRST, cut=300), some, gives(FIRST))) as server:
            service = service_at(server)
            run(colour, service.read("1").download(tmp_path / "file"))
            service.close()
        assert (tmp_path / "file").read_bytes() == FIRST
        assert [asked_from(head) for head in server.heads] == [None, 300, 600]

    @both
    def test_all_bytes_and_no_end(self, colour, tmp_path):
        """What breaks off after the last of the announced bytes is complete."""

        def unended(_head: bytes) -> tuple[bytes, Any]:
            headers = {"Transfer-Encoding": "chunked", "Content-Range": "bytes 300-1023/1024", **TAG}
            return wire_bytes(206, b"2d4\r\n" + FIRST[300:] + b"\r\n", headers), "hang up"

        with FaultServer(Shelf(gives(FIRST, cut=300), unended)) as server:
            service = service_at(server)
            assert run(colour, service.read("1").download(tmp_path / "file")) == len(FIRST)
            service.close()
        assert (tmp_path / "file").read_bytes() == FIRST
        assert len(server.heads) == 2

    @both
    def test_failures_on_the_way(self, colour, tmp_path):
        """A 503 and a refused key in between are what they are for any call; the rest is asked for all the same."""

        class Keys:
            key = "old"

            def __call__(self) -> str:
                return self.key

            def refresh(self) -> None:
                self.key = "new"

        replies = Shelf(gives(FIRST, cut=300), says(503), says(401), gives(FIRST))
        with FaultServer(replies) as server:
            service = Ledger(
                Keys(), base_url=server.url, policy=Policy(retry=PLAIN, breaker=None), guards=Guards(ManualClock())
            )
            run(colour, service.read("1").download(tmp_path / "file"))
            service.close()
        assert (tmp_path / "file").read_bytes() == FIRST
        assert [asked_from(head) for head in server.heads] == [None, 300, 300, 300]
        assert b"Bearer new" in server.heads[-1]

    @both
    def test_behind_a_redirect(self, colour, tmp_path):
        """The rest is asked for where the bytes are, without the credential, and with another signature."""
        signatures = iter("ab")
        with FaultServer(Shelf(gives(FIRST, cut=300), gives(FIRST))) as store:
            place = store.url.replace("127.0.0.1", "localhost")

            def onward(_head: bytes) -> tuple[bytes, Any]:
                location = f"{place}/blob?signature={next(signatures)}"
                return wire_bytes(302, b"", {"Location": location, "Content-Length": "0"}), None

            with FaultServer(Shelf(onward)) as server:
                service = service_at(server)
                run(colour, service.read("1").download(tmp_path / "file"))
                service.close()
            assert [asked_from(head) for head in store.heads] == [None, 300]
            assert CANARY.encode() not in b"".join(store.heads)
            assert all(b"\r\nAccept-Encoding: identity\r\n" in head for head in store.heads)
        assert (tmp_path / "file").read_bytes() == FIRST

    @both
    def test_a_large_file_is_never_in_memory(self, colour, tmp_path):
        """32 MB with a break in the middle pass through in a few MB of memory."""
        size = 32 << 20

        async def large(head: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            start = asked_from(head) or 0
            span = {"Content-Range": f"bytes {start}-{size - 1}/{size}"} if start else {}
            fields = {"Content-Length": str(size - start), **TAG, **span}
            writer.write(wire_bytes(206 if start else 200, b"", fields))
            for _ in range((size - start if start else size // 2) >> 16):
                writer.write(bytes(1 << 16))
                await writer.drain()
            if not start:
                raise ConnectionResetError

        with FaultServer(large) as server:
            service = service_at(server)
            tracemalloc.start()
            try:
                assert run(colour, service.read("1").download(tmp_path / "file")) == size
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            service.close()
        assert (tmp_path / "file").stat().st_size == size
        assert peak < 10_000_000
        assert len(server.heads) == 2


class TestNoRest:
    @both
    @pytest.mark.parametrize(
        ("headers", "why"),
        [
            ({"Age": "0"}, "no strong validator"),
            ({"ETag": 'W/"1"'}, "no strong validator"),
            ({"ETag": 'W/"1"', **OLD}, "no strong validator"),
            ({"ETag": "1"}, "no strong validator"),
            ({**OLD, "Date": "Tue, 02 Jan 2024 03:04:06 GMT"}, "no strong validator"),
            ({**OLD, "Date": "now"}, "no strong validator"),
            ({"Last-Modified": OLD["Last-Modified"], "Date": ""}, "no strong validator"),
            ({**TAG, "Accept-Ranges": "none"}, "takes no ranges"),
            ({**TAG, "Content-Encoding": "gzip"}, "came encoded"),
        ],
    )
    def test_of_an_answer_that_cannot_be_told_from_another(self, colour, headers, why, tmp_path):
        """Then a body that breaks off is the failure that it is, the story says why, and no file is left."""
        content = gzip.compress(FIRST) if "Content-Encoding" in headers else FIRST
        with FaultServer(Shelf(gives(content, headers, cut=20))) as server:
            service = service_at(server)
            call = service.read("1")
            with pytest.raises(errors.BadAnswer, match="truncated") as caught:
                run(colour, call.download(tmp_path / "file"))
            service.close()
        assert (len(server.heads), left_in(tmp_path)) == (1, [])
        assert (caught.value.status, caught.value.retryable) == (200, True)
        assert why in call.explain()

    @both
    @pytest.mark.parametrize(
        ("method", "headers", "options", "why"),
        [
            ("POST", None, {}, "POST"),
            ("GET", {"range": "bytes=0-999"}, {}, "of its own"),
            ("GET", {"If-Match": '"1"'}, {}, "of its own"),
            ("GET", None, {"resume": False}, "switched off"),
        ],
    )
    def test_of_a_request_that_does_not_allow_it(self, colour, method, headers, options, why, tmp_path):
        """Only plain GETs are resumed, unless that is switched off."""
        with FaultServer(Shelf(gives(FIRST, cut=300))) as server:
            service = service_at(server)
            call = service.request(method, "/file", headers=headers)
            with pytest.raises(errors.BadAnswer, match="after 300 of 1024 bytes"):
                run(colour, call.download(tmp_path / "file", **options))
            assert why in call.explain()
            service.close()
        assert (len(server.heads), left_in(tmp_path)) == (1, [])
        assert b"\r\nAccept-Encoding" not in server.heads[0]

    @both
    def test_a_post_is_retried_until_there_is_a_body(self, colour, tmp_path):
        """What failed before the body is for the retries of any call."""
        with FaultServer(Shelf(says(503), says(200, b"hello"))) as server:
            service = service_at(server)
            assert run(colour, service.request("POST", "/file").download(tmp_path / "file")) == 5
            service.close()

    @both
    def test_of_nothing(self, colour, tmp_path):
        """A body that breaks off before its first byte is asked for again, whatever its version."""
        with FaultServer(Shelf(gives(FIRST, {}, cut=0), gives(SECOND, {}))) as server:
            service = service_at(server)
            run(colour, service.read("1").download(tmp_path / "file"))
            service.close()
        assert (tmp_path / "file").read_bytes() == SECOND
        assert [asked_from(head) for head in server.heads] == [None, None]

    @both
    def test_a_part_of_the_callers_own(self, colour, tmp_path):
        """Who asks for a part gets it; who does not, gets no part for the whole."""
        some = says(206, FIRST[:10], Content_Range="bytes 0-9/1024", ETag='"1"')
        with FaultServer(Shelf(some)) as server:
            service = service_at(server)
            call = service.read("1").using(headers={"Range": "bytes=0-9"})
            assert run(colour, call.download(tmp_path / "part")) == 10
            with pytest.raises(errors.BadAnswer, match="asked for all bytes, the service answered with a part"):
                run(colour, service.read("1").download(tmp_path / "file"))
            service.close()
        assert left_in(tmp_path) == ["part"]

    @both
    def test_an_odd_option(self, colour, tmp_path):
        """``resume`` is a truth value."""
        with pytest.raises(errors.ConfigurationError, match=r"download\.resume"):
            Ledger(CANARY).read("1").download(tmp_path / "file", resume=3)  # type: ignore[arg-type]


class TestAnotherVersion:
    @both
    def test_begins_anew(self, colour, tmp_path):
        """The service has another version by now and sends all of it: the file is that, and progress goes back to 0."""
        told: list[tuple[int, int | None]] = []
        replies = Shelf(gives(FIRST, cut=300), gives(SECOND[:700], NEW))
        with FaultServer(replies) as server:
            service = service_at(server)
            call = service.read("1")
            run(colour, call.download(tmp_path / "file", progress=lambda done, total: told.append((done, total))))
            service.close()
        assert (tmp_path / "file").read_bytes() == SECOND[:700]
        assert (0, 700) in told
        assert told[-1] == (700, 700)
        assert [step.start for step in steps_of(call, story.Resuming)] == [300, 0]
        assert "all of it comes: it is another version" in call.explain()

    @both
    @pytest.mark.parametrize("size", [100, 3 << 20])
    def test_of_another_size(self, colour, size, tmp_path):
        """Nothing of the old version stays in the file, though a part of it was written already."""
        old, new = bytes(5 << 19), b"x" * size
        with FaultServer(Shelf(gives(old, cut=3 << 19), gives(new, NEW))) as server:
            service = service_at(server)
            assert run(colour, service.read("1").download(tmp_path / "file")) == size
            service.close()
        assert (tmp_path / "file").read_bytes() == new

    @both
    def test_of_a_size_that_nobody_knows(self, colour, tmp_path):
        """Neither the first answer nor the range of the second says how many bytes there are: all is asked for again."""

        def chunked(_head: bytes) -> tuple[bytes, Any]:
            headers = {"Transfer-Encoding": "chunked", **TAG}
            return wire_bytes(200, b"c8\r\n" + FIRST[:200] + b"\r\n", headers), "hang up"

        some = says(206, FIRST[200:], Content_Range="bytes 200-1023/*", ETag='"1"')
        with FaultServer(Shelf(chunked, some, gives(FIRST))) as server:
            service = service_at(server)
            call = service.read("1")
            run(colour, call.download(tmp_path / "file"))
            service.close()
        assert (tmp_path / "file").read_bytes() == FIRST
        assert [asked_from(head) for head in server.heads] == [None, 200, None]
        assert "does not say how many bytes there are" in call.explain()

    @both
    def test_that_breaks_off_too(self, colour, tmp_path):
        """From then on the rest of the new version is asked for."""
        replies = Shelf(gives(FIRST, cut=600), gives(SECOND, NEW, cut=100), gives(SECOND, NEW))
        with FaultServer(replies) as server:
            service = service_at(server)
            run(colour, service.read("1").download(tmp_path / "file"))
            service.close()
        assert (tmp_path / "file").read_bytes() == SECOND
        assert [(asked_from(head), asked_version(head)) for head in server.heads] == [
            (None, ""),
            (600, '"1"'),
            (100, '"2"'),
        ]

    @both
    @pytest.mark.parametrize("answer", UNFIT.values(), ids=UNFIT.keys())
    def test_what_does_not_fit_is_not_added(self, colour, answer, tmp_path):
        """All of it is asked for once more, and that is the file."""
        with FaultServer(Shelf(gives(FIRST, cut=300), answer, gives(SECOND, NEW))) as server:
            service = service_at(server)
            call = service.read("1")
            run(colour, call.download(tmp_path / "file"))
            service.close()
        assert (tmp_path / "file").read_bytes() == SECOND
        assert left_in(tmp_path) == ["file"]
        assert [asked_from(head) for head in server.heads] == [None, 300, None]
        assert "asked for all of it" in call.explain()

    @both
    @pytest.mark.parametrize("answer", UNFIT.values(), ids=UNFIT.keys())
    def test_twice_is_the_end(self, colour, answer, tmp_path):
        """A service that answers so again is not asked a third time: the error says what was wrong with the answer."""
        cut = gives(FIRST, cut=300)
        with FaultServer(Shelf(cut, answer, cut, answer, gives(FIRST))) as server:
            service = service_at(server)
            call = service.read("1")
            with pytest.raises(errors.BadAnswer) as caught:
                run(colour, call.download(tmp_path / "file"))
            service.close()
        assert (len(server.heads), left_in(tmp_path)) == (4, [])
        assert caught.value.message in call.explain()
        assert caught.value.status == (416 if "416" in caught.value.message else caught.value.status)

    @both
    def test_from_another_address(self, colour, tmp_path):
        """A redirect that leads elsewhere the second time leads to other bytes, whatever their tag."""
        places = iter(("/1", "/2", "/2"))

        def onward(head: bytes) -> tuple[bytes, Any]:
            if b"GET /bookings" in head:
                return wire_bytes(302, b"", {"Location": next(places), "Content-Length": "0"}), None
            return (gives(FIRST, cut=300) if b"GET /1" in head else gives(SECOND))(head)

        with FaultServer(Shelf(onward)) as server:
            service = service_at(server)
            run(colour, service.read("1").download(tmp_path / "file"))
            service.close()
        assert (tmp_path / "file").read_bytes() == SECOND

    @both
    def test_by_date_from_another_query(self, colour, tmp_path):
        """A date speaks of one URL only: what a redirect to another query gives is not added."""
        places = iter(("/?v=1", "/?v=2", "/?v=2"))

        def onward(head: bytes) -> tuple[bytes, Any]:
            if b"GET /bookings" in head:
                return wire_bytes(302, b"", {"Location": next(places), "Content-Length": "0"}), None
            version = gives(FIRST, OLD, cut=300) if b"v=1" in head else gives(SECOND, OLD)
            return version(head)

        with FaultServer(Shelf(onward)) as server:
            service = service_at(server)
            run(colour, service.read("1").download(tmp_path / "file"))
            service.close()
        assert (tmp_path / "file").read_bytes() == SECOND
