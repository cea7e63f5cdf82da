from __future__ import annotations

import asyncio
import ipaddress
import ssl
import threading
import time

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.calls.fault_server import FaultServer
from tests.calls.ledger import CANARY, Ledger, both, request, run
from tests.calls.tls_server import tls_server

from moorline import errors
from moorline.calls import clients
from moorline.calls.addresses import PublicAddresses
from moorline.calls.async_sockets import async_transport
from moorline.calls.guards import Guards
from moorline.calls.resolving import RESOLVER, Resolver
from moorline.calls.sockets import clamped_transport
from moorline.policies.policy import Policy
from moorline.transport import AsyncTransport, Transport

PRIVATE = [
    "0.0.0.0", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.9.9.9", "169.254.169.254", "172.16.0.1",
    "192.0.0.192", "192.0.2.1", "192.168.1.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255",
    "168.63.129.16", "::", "::1", "fd00:ec2::254", "fe80::1", "fec0::1", "ff02::1", "2001:db8::1",
    "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "2002:7f00:1::", "2002:0808:0808::",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2", "64:ff9b::10.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b:1::a00:1",
]  # fmt: skip
PUBLIC = ["8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "64:ff9b::8.8.8.8"]
ODD = [
    "https://2130706433/", "https://0x7f000001/", "https://0177.0.0.1/", "https://127.1/", "https://127.0.0.1./",
    "https://0x7f.0.0.1/", "https://010.8.8.8/", "https://example.com./", "https://exämple.com/", "https://[fe80::1%25eth0]/",
    "https://[::1%lo]/", "https://user@example.com/", "https://user:pw@example.com/", "https://@example.com/",
    "https://example.com\\@10.0.0.1/", "https://exa mple.com/", "https://example.com\n/", "https://%31%32%37.0.0.1/",
    "https:///x", "https://", "example.com", "https://1.2.3.0x4/", "https://\uff11\uff12\uff17.0.0.1/", "https://a..b/", "https://[1.2.3.4]/",
    "https://example.com:99999/", "https://-a.com/", "https://example.com:22/", "http://example.com/", "file:///etc/passwd",
]  # fmt: skip


@pytest.mark.parametrize("text", PRIVATE)
def test_what_is_not_public_is_refused(text):
    """Addresses of this machine, its neighbours, its cloud and of no one are refused, as are wrapped ones."""
    assert not PublicAddresses().accepts(ipaddress.ip_address(text))
    with pytest.raises(errors.InvalidRequest) as caught:
        PublicAddresses().check_url(f"https://[{text}]/" if ":" in text else f"https://{text}/")
    assert caught.value.outcome == "not_sent"


@pytest.mark.parametrize("text", PUBLIC)
def test_public_addresses_pass(text):
    """What the world can reach passes, just beside the private ranges too, and through DNS64."""
    PublicAddresses().check_url(f"https://[{text}]/" if ":" in text else f"https://{text}/")


@pytest.mark.parametrize("url", ODD)
def test_odd_spellings_are_refused(url):
    """What parsers read in different ways, and what is no https URL at port 443, is refused unresolved."""
    with pytest.raises(errors.InvalidRequest):
        PublicAddresses().check_url(url)


@pytest.mark.parametrize("url", ["https://example.com/x?y=1", "https://xn--exmple-cua.com", "https://a_b.example:443/"])
def test_usual_urls_pass(url):
    """Names pass without being resolved."""
    PublicAddresses().check_url(url)


def test_options():
    """Ports, schemes and networks can be added; wrong ones are refused by name."""
    own = PublicAddresses(ports=(8443, 80), schemes=("https", "http"), allow=["10.1.0.0/16"])
    own.check_url("https://10.1.2.3:8443/")
    own.check_url("http://example.com/")
    with pytest.raises(errors.InvalidRequest, match="public"):
        own.check_url("https://10.2.0.1:8443/")
    for wrong in ({"ports": ()}, {"ports": (0,)}, {"schemes": ("ftp",)}, {"allow": ("10.0.0.1/8",)}, {"allow": "::/0"}):
        with pytest.raises(errors.ConfigurationError, match=rf"PublicAddresses\.{next(iter(wrong))}"):
            PublicAddresses(**wrong)


@given(st.ip_addresses())
def test_nothing_passes_that_the_standard_library_calls_private(address):
    """Whatever is accepted is global by the standard library too, unless it is DNS64's form of such an address."""
    if PublicAddresses().accepts(address):
        inner = address
        if address.version == 6 and address in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        assert inner.is_global
        kinds = ("private", "multicast", "reserved", "unspecified", "loopback", "link_local")
        assert not any(getattr(inner, f"is_{kind}") for kind in kinds)


@given(st.ip_addresses(v=4), st.sampled_from(["::ffff:0:0", "::", "2002::", "64:ff9b::", "64:ff9b:1::", "2001::"]))
def test_wrapped_addresses_are_no_way_in(address, prefix):
    """An IPv4 address inside an IPv6 one passes through DNS64 at most, and only if it passes by itself."""
    shift = 80 if prefix == "2002::" else 0
    wrapped = ipaddress.IPv6Address(int(ipaddress.IPv6Address(prefix)) | int(address) << shift)
    if PublicAddresses().accepts(wrapped):
        assert prefix == "64:ff9b::"
        assert PublicAddresses().accepts(address)


@given(st.text(alphabet="0123456789abcdefx.:[]%@/\\-_ é", max_size=24))
def test_what_passes_is_an_address_or_a_name(text):
    """A host that passes is canonical: an address as the library writes it, or labels that end in no number."""
    try:
        PublicAddresses().check_url(f"https://{text}/")
    except errors.InvalidRequest:
        return
    host = httpx2.URL(f"https://{text}/").host
    assert "@" not in text.split("/")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        assert not host.rsplit(".", maxsplit=1)[-1].isdigit()
    else:
        assert address.is_global


async def _ok(_head, _reader, writer):
    writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{"id": 11}')
    await writer.drain()


def _service(server: FaultServer, addresses: PublicAddresses, **policy: object) -> Ledger:
    port = server.url.rsplit(":", 1)[1]
    return Ledger(
        CANARY,
        base_url=f"http://localhost:{port}",
        addresses=addresses,
        policy=Policy(**policy),  # type: ignore[arg-type]
        guards=Guards(),
    )


class Names:
    """A name server whose answers change: one set for each question, the last for ever."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, int]] = []

    def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append((host, port))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def _addresses(server: FaultServer, names: Names, *allow: str) -> PublicAddresses:
    port = int(server.url.rsplit(":", 1)[1])
    return PublicAddresses(ports=(port,), schemes=("http",), allow=allow, resolve=names)


@both
def test_one_private_answer_refuses_the_name(colour):
    """A name with a private address among its answers is not called, nor asked again, and the error tells none."""
    with FaultServer(_ok) as server:
        names = Names(["8.8.8.8", "127.0.0.1"])
        with pytest.raises(errors.InvalidRequest, match="'localhost' does not lead to a public address") as caught:
            run(colour, _service(server, _addresses(server, names)).read("1"))
        assert (caught.value.outcome, caught.value.retryable, len(caught.value.attempts)) == ("not_sent", False, 1)
        assert "127.0.0.1" not in str(caught.value)
        assert (server.heads, len(names.asked)) == ([], 1)


@both
def test_the_connection_goes_where_the_check_looked(colour):
    """A name server that changes its mind after the check changes nothing: the name is resolved once, Host stays."""
    with FaultServer(_ok) as server:
        names = Names(["127.0.0.1"], ["127.0.0.66"])
        assert run(colour, _service(server, _addresses(server, names, "127.0.0.1/32")).read("1")) == 11
        assert len(names.asked) == 1
        assert b"host: localhost:" in server.heads[0].lower()


@both
def test_each_connection_is_checked(colour):
    """The name server changes its mind between two calls: the second connection is not made."""

    async def once(head, reader, writer):
        await _ok(head, reader, writer)
        raise ConnectionResetError

    with FaultServer(once) as server:
        names = Names(["127.0.0.1"], ["10.0.0.1"])
        service = _service(server, _addresses(server, names, "127.0.0.1/32"))
        assert run(colour, service.read("1")) == 11
        RESOLVER.forget()  # as some seconds later
        with pytest.raises(errors.InvalidRequest, match="public"):
            run(colour, service.read("1"))
        assert (len(server.heads), len(names.asked)) == (1, 2)


@both
@pytest.mark.parametrize("name", ["shop.example", "127.0.0.1"])
def test_the_certificate_is_for_the_name_and_not_for_the_address(colour, name, tmp_path):
    """TLS is spoken with the host of the URL, wherever the checked address leads."""
    asked: list[str | None] = []
    with tls_server(tmp_path, name, asked) as (port, authority):
        clients.tls().load_verify_locations(authority)
        addresses = PublicAddresses(ports=(port,), allow=("127.0.0.1/32",), resolve=lambda _host, _port: ["127.0.0.1"])
        service = Ledger(
            "k",
            base_url=f"https://shop.example:{port}",
            addresses=addresses,
            guards=Guards(),
            policy=Policy(retry=None),
        )
        if name == "shop.example":
            assert run(colour, service.read("1")) == "b_1"
        else:
            with pytest.raises(errors.ConnectFailed, match="CERTIFICATE_VERIFY_FAILED"):
                run(colour, service.read("1"))
        assert asked == ["shop.example"]
        service.close()


@both
def test_each_redirect_is_checked(colour):
    """A redirect to an address that must not be called is refused before a connection is made."""

    async def away(_head, _reader, writer):
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: https://169.254.169.254/latest\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    with FaultServer(away) as server:
        service = _service(server, _addresses(server, Names(["127.0.0.1"]), "127.0.0.1/32"))
        with pytest.raises(errors.InvalidRequest) as caught:
            run(colour, service.read("1"))
        assert (len(server.heads), caught.value.retryable) == (1, False)


def test_the_url_is_checked_before_the_key_is_read():
    """A base URL at a private address is refused with the service's name, and nothing is asked."""
    service = Ledger(base_url="https://10.0.0.1", addresses=PublicAddresses())
    with pytest.raises(errors.InvalidRequest, match="public") as caught:
        service.read("1").result()
    assert (caught.value.service, caught.value.operation) == ("ledger", "read")
    with pytest.raises(errors.ConfigurationError, match="addresses"):
        Ledger("key", addresses="public")  # type: ignore[arg-type]


def test_plain_transports_are_pinned_too():
    """The transports under plain clients check ports and addresses as well, with the name for TLS left as it was."""
    guard, limits = PublicAddresses(resolve=lambda _host, _port: ["127.0.0.1"]), httpx2.Limits()
    context = ssl.create_default_context()
    with httpx2.Client(transport=clamped_transport(context, limits, guard)) as client:
        for url in ("https://name.example/", "https://name.example:22/", "https://10.0.0.1/", "https://0x7f.1/"):
            with pytest.raises(errors.InvalidRequest):
                client.get(url)

    async def on_the_loop() -> None:
        async with httpx2.AsyncClient(transport=async_transport(context, limits, guard)) as client:
            for url in ("https://name.example/", "https://name.example:22/", "https://10.0.0.1/"):
                with pytest.raises(errors.InvalidRequest):
                    await client.get(url)

    asyncio.run(on_the_loop())


@both
def test_a_hanging_resolver_does_not_hold_the_call(colour):
    """The deadline holds while the name server is silent, and the error says that nothing was sent."""
    hang = threading.Event()

    def silent(_host: str, _port: int) -> list[str]:
        hang.wait(10)
        return []

    addresses = PublicAddresses(resolve=silent)
    service = Ledger(
        "key", base_url="https://name.example", addresses=addresses, policy=Policy(deadline=0.3, retry=None)
    )
    begun = time.monotonic()
    with pytest.raises(errors.DeadlineExceeded) as caught:
        run(colour, service.read("1"))
    assert time.monotonic() - begun < 0.4
    assert caught.value.outcome == "not_sent"
    hang.set()


class TestTheResolver:
    def test_known_names_and_addresses_need_no_thread(self):
        """A literal address asks nobody; a name is asked once, by one thread, and is known for a while."""
        names, resolver = Names(["8.8.8.8"]), Resolver()
        assert resolver.resolve("::1", 1, 1.0, names) == ("::1",)
        assert resolver._crew.threads == 0
        assert {tuple(resolver.resolve("name", 1, 5.0, names)) for _ in range(50)} == {("8.8.8.8",)}
        assert (len(names.asked), resolver._crew.threads) == (1, 1)

    def test_failures_are_not_kept(self):
        """A name that could not be resolved is asked again, and each caller gets an error of its own."""
        asked = []

        def broken(host: str, _port: int) -> list[str]:
            asked.append(host)
            raise UnicodeError("label too long")

        resolver = Resolver()
        for _ in range(2):
            with pytest.raises(OSError, match="UnicodeError"):
                resolver.resolve("name", 1, 5.0, broken)
        assert asked == ["name", "name"]

    def test_a_thread_that_is_asked_while_all_is_forgotten_answers(self):
        """It works on for who had asked it, and nobody waits for a thread that is not there."""
        resolver = Resolver(threads=1)
        answers = [resolver.resolve(f"name{number}", 1, 5.0, Names(["8.8.8.8"])) for number in range(3)]
        crew, asking, go = resolver._crew, threading.Event(), threading.Event()

        def slow(_host: str, _port: int) -> list[str]:
            asking.set()
            go.wait(10)
            return ["9.9.9.9"]

        before = crew.lookup("slow", 1, slow)
        assert asking.wait(5)
        resolver.forget()
        assert resolver.resolve("name", 1, 5.0, Names(["8.8.4.4"])) == ("8.8.4.4",)
        go.set()
        assert before.done.wait(5)
        assert (before.result(), answers) == (("9.9.9.9",), [("8.8.8.8",)] * 3)
        assert resolver._crew is not crew
        assert (crew.threads, resolver._crew.threads) == (1, 1)

    def test_threads_have_a_bound(self):
        """Silent name servers hold no more threads than allowed, one question each, and all waiters leave in time."""
        hang, resolver = threading.Event(), Resolver(threads=2)

        def silent(_host: str, _port: int) -> list[str]:
            hang.wait(10)
            return ["8.8.8.8"]

        for name in ("a", "a", "b", "c", "d"):
            with pytest.raises(TimeoutError):
                resolver.resolve(name, 1, 0.02, silent)
        assert resolver._crew.threads == 2
        hang.set()
        assert resolver.resolve("d", 1, 5.0, silent) == ("8.8.8.8",)


@both
def test_plain_transports_keep_to_public_addresses(colour):
    """A plain client of a transport with *addresses* gets an error that is httpx2's as well, and nothing is sent; a name
    that resolves to a private address is refused when the connection is opened, once.
    """
    asked: list[str] = []

    def resolve(host: str, _port: int) -> list[str]:
        asked.append(host)
        return ["10.0.0.1"]

    kind = Transport if colour == "sync" else AsyncTransport
    guard = PublicAddresses(resolve=resolve)
    for url in ("https://127.0.0.1/", "http://example.com/", "https://inside.example/"):
        with pytest.raises(httpx2.LocalProtocolError) as caught:
            request(colour, Policy(), "GET", url, kind(addresses=guard))
        assert isinstance(caught.value, errors.InvalidRequest)
        assert (caught.value.outcome, caught.value.retryable, len(caught.value.attempts)) in (
            ("not_sent", False, 0),
            ("not_sent", False, 1),
        )
    assert asked == ["inside.example"]
    with pytest.raises(errors.ConfigurationError, match="addresses needs our own wire"):
        kind(addresses=guard, wire=httpx2.MockTransport(lambda _request: httpx2.Response(200)))
    with pytest.raises(errors.ConfigurationError, match="must be a PublicAddresses"):
        kind(addresses="public")  # type: ignore[arg-type]
