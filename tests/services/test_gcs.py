from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx2
import pytest
from google.auth import crypt
from tests.contracts import Contract
from tests.object_servers import FakeGcsServer
from tests.services.conftest import Box, sandbox_key
from tests.services.recorder import Recorder
from tests.services.storage_suite import BIG, PART, QUICK, Make, Run, StorageSuite
from tests.tcp_proxy import TcpProxy

from moorline import errors
from moorline.calls.guards import Guards
from moorline.clock import ManualClock
from moorline.policies.policy import Policy
from moorline.services.storage.gcs import GCS

KEY = sandbox_key(GCS, "https://sandbox.example")
SESSION = "/upload/storage/v1/b/moorline-sandbox/o?uploadType=resumable&upload_id=u"
CALLS: list[Callable[[GCS], Any]] = [
    lambda s: s.put("a", b"x", metadata={"a": "b"}),
    lambda s: s.head("a"),
    lambda s: s.list_objects("a").page(),
    lambda s: s.delete("a"),
    lambda s: s.check(),
    lambda s: s._rewrite("a", "b", "moorline-sandbox", "1", None, {}, False),
    lambda s: s._begin_session("a", {"name": "a"}, {}, 5),
    lambda s: s._send_chunk(SESSION, b"x", "bytes 0-0/1"),
    lambda s: s._end_session(SESSION),
]


class TestFakeServer(StorageSuite):
    """fake-gcs-server, which checks no credentials and no signatures."""

    algorithm = big_algorithm = "md5"
    verifies_signatures = tells_state = False
    sender = "_send_chunk"

    def test_an_upload_goes_on(self, make: Make, at: str, run: Run):
        """It takes the question how much is there for the end, and stores the beginning alone: that this is not what was
        sent is found by the MD5, and the wrong object is taken away again.
        """
        with self.proxied(make) as (proxy, storage):
            proxy.cut_after(7 << 20, of_answers=False)
            with pytest.raises(errors.BadAnswer) as caught:
                run(storage.upload(f"{at}/a", BIG, part_size=PART))
            assert (caught.value.code, caught.value.operation) == ("checksum_mismatch", "upload")
            with pytest.raises(errors.NotFound):
                run(storage.head(f"{at}/a"))

    @pytest.fixture
    def make(self, fake_gcs: FakeGcsServer, monkeypatch: pytest.MonkeyPatch) -> Callable[..., GCS]:
        self.proxy = fake_gcs.proxy
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"127.0.0.1:{fake_gcs.proxy.port}")

        def made(**options: Any) -> GCS:
            options.setdefault("guards", Guards())
            return GCS(KEY, bucket="moorline-sandbox", **options)

        return made

    @contextmanager
    def proxied(self, make: Make, **options: Any) -> Iterator[tuple[TcpProxy, Any]]:
        """The proxy that is always there."""
        yield self.proxy, make(**{"policy": QUICK, **options})
        self.proxy.flow()

    def arguments(self, service: Any) -> tuple[list[Any], dict[str, Any]]:
        return [], {"bucket": "moorline-sandbox"}


class TestStandIn(StorageSuite):
    """The sandbox's Google."""

    algorithm = big_algorithm = "md5"
    sender = "_send_chunk"

    @pytest.fixture
    def make(self, box: Box) -> Callable[..., GCS]:
        def made(through: int | None = None, **options: Any) -> GCS:
            if through is not None:
                options["base_url"] = f"http://127.0.0.1:{through}/gcs"
            return box.service(GCS, options.pop("secret", None), **options)

        return made

    def arguments(self, service: Any) -> tuple[list[Any], dict[str, Any]]:
        return [service.secret().reveal()], {"bucket": "moorline-sandbox", "base_url": service.base_url}

    def wrong(self, make: Any) -> GCS:
        account = json.loads(make().secret().reveal())
        account["client_email"] = "WRONG"
        account["private_key_id"] = account["private_key_id"][:-10] + "AAAAAAAAAA"
        return make(secret=json.dumps(account))  # type: ignore[no-any-return]


# Held against Google's own words --------------------------------------------------------------------------------------


def contract_of(folder: Path) -> Contract:
    return Contract(folder, "gcs")


def test_requests_are_of_the_contract(contracts_dir: Path):
    """Each request of the JSON API is at a path that the contract has, with parameters that it names and a body of its
    schema.
    """
    contract = contract_of(contracts_dir)
    recorder = Recorder(200, b"{}", {"location": f"https://storage.googleapis.com{SESSION}"})
    gcs = recorder.service(GCS, key=KEY, policy=Policy(retry=None))
    made = [make(gcs) for make in CALLS[:7]]
    made += [gcs._rewrite("a", "b", "moorline-sandbox", "1", None, gcs.facts("b", "x/y", {"a": "b"}), True)]
    for call in made:
        with contextlib.suppress(errors.BadAnswer):  # of an answer that says nothing
            call.result()
    for request in recorder.requests:
        path = request.url.raw_path.decode().partition("?")[0]
        _, operation = contract._operation(request.method, path)
        known = {one.get("name") for one in operation.get("parameters", [])} | {"uploadType", "alt"}
        assert set(request.url.params) <= known, path
        kind = request.headers.get("content-type", "")
        if kind == "application/json":
            assert contract.problems(contract.component("Object"), json.loads(request.content)) == []
        elif kind.startswith("multipart/related"):
            fields = request.content.split(b"\r\n\r\n", 2)[1].partition(b"\r\n")[0]
            assert contract.problems(contract.component("Object"), json.loads(fields)) == []


def test_answers_of_the_stand_in_are_of_the_contract(box: Box, contracts_dir: Path):
    """What the sandbox says of objects, listings and copies has the schemas that Google publishes."""
    contract, gcs = contract_of(contracts_dir), box.service(GCS)
    stored = gcs.put("a/b", b"hello", content_type="text/plain", metadata={"a": "b"}).result()
    assert contract.problems(contract.component("Object"), stored.raw) == []
    assert contract.problems(contract.component("Object"), gcs.head("a/b").result().raw) == []
    listed = gcs.list_objects("a", delimiter="/").page().response().result().data
    assert contract.problems(contract.component("Objects"), listed) == []
    copied = gcs._rewrite("a/b", "c", "moorline-sandbox", "", None, {}, False).result()
    assert contract.problems(contract.component("RewriteResponse"), copied) == []


def test_addresses_are_signed_as_google_auth_would(box: Box):
    """The signature is the one that google-auth's signer makes over the text that Google's documents describe, which is
    put together here anew.
    """
    account = json.loads(sandbox_key(GCS, box.url))
    gcs = GCS(json.dumps(account), bucket="my-bucket", clock=ManualClock(1_570_147_200.0))
    signed = gcs.presign_put(
        "cat's/ü +.jpeg", 900, content_type="image/jpeg", metadata={"Owner": "4  2"}, if_absent=True
    )
    url = urlsplit(signed.result().reveal())
    pairs = parse_qsl(url.query, strict_parsing=True)
    assert (url.netloc, url.path) == ("storage.googleapis.com", "/my-bucket/cat%27s/%C3%BC%20%2B.jpeg")
    assert dict(pairs)["X-Goog-Date"] == "20191004T000000Z"
    assert dict(pairs)["X-Goog-Credential"] == f"{account['client_email']}/20191004/auto/storage/goog4_request"
    headers = (
        "content-type:image/jpeg\nhost:storage.googleapis.com\nx-goog-if-generation-match:0\nx-goog-meta-owner:4 2\n"
    )
    names = "content-type;host;x-goog-if-generation-match;x-goog-meta-owner"
    query = url.query.rpartition("&X-Goog-Signature=")[0]
    assert query == "&".join(sorted(query.split("&")))
    canonical = f"PUT\n{url.path}\n{query}\n{headers}\n{names}\nUNSIGNED-PAYLOAD"
    scope = "20191004/auto/storage/goog4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    signer = crypt.RSASigner.from_service_account_info(account)
    expected = signer.sign(f"GOOG4-RSA-SHA256\n20191004T000000Z\n{scope}\n{digest}".encode())
    assert pairs[-1] == ("X-Goog-Signature", expected.hex())


# What is Google's alone -----------------------------------------------------------------------------------------------


def test_what_was_stored_otherwise_is_taken_away(box: Box, run: Run):
    """Where Google has another content than was sent, that is an error, and the wrong object is deleted."""
    gcs = box.service(GCS, policy=QUICK)
    source = [BIG]
    uploaded = gcs._send_chunk
    gcs._send_chunk = lambda session, body, span: uploaded(session, body[:-1] + b"?" if body else body, span)  # type: ignore[method-assign]
    with pytest.raises(errors.BadAnswer) as caught:
        run(gcs.upload("a", source, part_size=PART))
    assert caught.value.code == "checksum_mismatch"
    with pytest.raises(errors.NotFound):
        run(gcs.head("a"))


def test_a_source_that_changed_is_not_mixed(box: Box, tmp_path: Path):
    """An upload that goes on holds what was sent against the file as it is now."""
    gcs, path = box.service(GCS, policy=QUICK), tmp_path / "in"
    path.write_bytes(BIG)

    class Stop(Exception):
        pass

    def stop(_done: int, _total: int | None) -> None:
        raise Stop

    with pytest.raises(Stop):
        gcs.upload("a", path, part_size=PART, resume=True, progress=stop).result()
    path.write_bytes(b"?" + BIG[1:])
    with pytest.raises(errors.BadAnswer) as caught:
        gcs.upload("a", path, part_size=PART, resume=True).result()
    assert caught.value.code == "source_changed"
    with pytest.raises(errors.InvalidRequest, match="multiple"):
        gcs.upload("a", path, part_size=PART + 1).result()


def test_large_copies_take_steps(box: Box, run: Run):
    """A copy goes on with its token until it is done."""
    gcs = box.service(GCS, policy=QUICK)
    run(gcs.upload("a", BIG[: 3 << 20], content_type="x/y", metadata={"a": "1"}))
    run(gcs.copy("a", "b", metadata={"b": "2"}))
    assert len([one for one in box.seen() if "rewriteTo" in one["path"]]) == 3
    head = run(gcs.head("b"))
    assert (head.size, head.content_type, dict(head.metadata)) == (3 << 20, "x/y", {"b": "2"})


def test_a_token_that_ends_is_renewed(box: Box, run: Run):
    """A reading that is refused for its token fetches another, once."""
    clock = ManualClock(time.time())
    gcs = box.service(GCS, policy=QUICK, guards=Guards(clock=clock), clock=clock)
    run(gcs.put("a", b"hello"))
    clock.advance(60.0)  # a token that was fetched just now would not be doubted
    httpx2.post(f"{box.url}/_sandbox/reset", trust_env=False)  # it forgets its tokens, and all else
    with pytest.raises(errors.NotFound):
        run(gcs.get_range("a", 0, 1))


def test_emulators_need_no_key(monkeypatch: pytest.MonkeyPatch):
    """An emulator is asked without a credential; an address of its own, or the sandbox, goes before."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "127.0.0.1:4443")
    assert GCS(bucket="bucket").base_url == "http://127.0.0.1:4443"
    assert GCS(bucket="bucket").emulated
    assert not GCS(bucket="bucket", base_url="https://storage.europe-west3.rep.googleapis.com").emulated
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://storage.example:4443")
    with pytest.raises(errors.ConfigurationError, match="STORAGE_EMULATOR_HOST"):
        GCS(bucket="bucket").check().result()
