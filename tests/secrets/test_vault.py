"""Vault as OpenBao speaks it: what lies in its key-value engines, who we are to it, and what becomes of us without it."""

from __future__ import annotations

import base64
import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from tests.calls.tls_server import tls_server
from tests.openbao import ROOT, OpenBao
from tests.secrets.places import texts
from tests.servers import until

from moorline.calls.secret_sources.vault import Vault
from moorline.clock import SYSTEM, ManualClock
from moorline.errors import ConfigurationError, SecretUnavailable
from moorline.secrets.locker import SecretAt, Secrets
from moorline.secrets.sources.base import Address

VARIABLES = (
    "VAULT_ADDR", "VAULT_TOKEN", "VAULT_NAMESPACE", "VAULT_ROLE_ID", "VAULT_SECRET_ID", "VAULT_CACERT",
    "VAULT_APPROLE_MOUNT", "VAULT_KUBERNETES_ROLE", "VAULT_KUBERNETES_MOUNT", "VAULT_KUBERNETES_TOKEN_FILE",
)  # fmt: skip


@pytest.fixture(autouse=True)
def nobodys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No server and no token of who runs the tests."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def bao(openbao: OpenBao, monkeypatch: pytest.MonkeyPatch) -> OpenBao:
    """The shared server, and its root token in the environment."""
    monkeypatch.setenv("VAULT_ADDR", openbao.url)
    monkeypatch.setenv("VAULT_TOKEN", ROOT)
    return openbao


@pytest.fixture
def path() -> str:
    """A path that nobody else uses."""
    return f"t{uuid4().hex[:8]}/pay"


def keeping(clock: ManualClock | None = None, **names: str) -> Secrets:
    held = Secrets(clock=clock or ManualClock(), background=False)
    held.configure(["env:"], names)
    return held


def put(bao: OpenBao, path: str, token: str = ROOT, **fields: Any) -> None:
    bao.ask("POST", f"secret/data/{path}", {"data": fields}, token=token)


def test_a_field_of_a_path_and_the_version_before_it(bao: OpenBao, path: str) -> None:
    """The number is the version's id; a source of all secrets has a field for each name."""
    put(bao, path, key="old-value", other="x")
    put(bao, path, key="new-value", NUMBER=5)
    held = keeping(KEY=f"vault:secret/{path}#key")
    found = [(one.secret.reveal(), one.id, one.stage, one.origin) for one in held.versions("KEY")]
    assert found == [
        ("new-value", "2", "current", f"vault:secret/{path}#key@2"),
        ("old-value", "1", "previous", f"vault:secret/{path}#key@1"),
    ]
    held = Secrets(clock=ManualClock(), background=False)
    held.configure([f"vault:secret/{path}"], {"ALONE": f"vault:secret/{path}"})
    assert texts(held.load_all("NUMBER")) == ["5"]
    assert held.load("MISSING") is None
    assert held.load("ALONE") is None  # there are two
    put(bao, path, key="only-value")
    for name in ("ALONE", "NUMBER"):
        held.refresh(name)
    assert texts(held.load_all("ALONE")) == ["only-value", "new-value"]
    assert SecretAt(f"vault:secret/{path}#key", among=held)().reveal() == "only-value"


def test_versions_that_were_deleted_or_destroyed_are_not_there(bao: OpenBao, path: str) -> None:
    """They answer 404 with a body; one that will be deleted has its end."""
    for number in (1, 2, 3):
        put(bao, path, key=f"value-{number}")
    bao.ask("PUT", f"secret/destroy/{path}", {"versions": [2]})
    assert texts(keeping(KEY=f"vault:secret/{path}#key").load_all("KEY")) == ["value-3"]
    bao.ask("DELETE", f"secret/data/{path}")
    assert keeping(KEY=f"vault:secret/{path}#key").load("KEY") is None
    with pytest.raises(ConfigurationError, match=rf"KEY \(stripe\) is not in vault:secret/{path}#key"):
        keeping(KEY=f"vault:secret/{path}#key").check({"KEY": "stripe"})
    bao.ask("POST", f"secret/undelete/{path}", {"versions": [3]})
    bao.ask("POST", f"secret/metadata/{path}", {"delete_version_after": "1h"})
    put(bao, path, key="value-4")
    current = keeping(KEY=f"vault:secret/{path}#key").versions("KEY")[0]
    assert current.secret.not_after is not None
    assert abs(current.secret.not_after - SYSTEM.wall() - 3600) < 60


def test_version_one_and_mounts_with_slashes(bao: OpenBao) -> None:
    """Where the engine is mounted is asked, or told by the URL."""
    mount = f"team/m{uuid4().hex[:8]}"
    bao.ask("POST", f"sys/mounts/{mount}", {"type": "kv", "options": {"version": "1"}})
    bao.ask("POST", f"{mount}/pay", {"key": "of-version-one"})
    two = f"team/n{uuid4().hex[:8]}"
    bao.ask("POST", f"sys/mounts/{two}", {"type": "kv", "options": {"version": "2"}})
    bao.ask("POST", f"{two}/data/pay", {"data": {"key": "of-version-two"}})
    held = keeping(
        A=f"vault:{mount}/pay#key", B=f"vault:{two}/pay#key", C=f"vault:{mount}/pay?mount={mount}&version=1#key",
        D=f"vault:{mount}/none#key",
    )  # fmt: skip
    assert [texts(held.load_all(name)) for name in "ABCD"] == [
        ["of-version-one"], ["of-version-two"], ["of-version-one"], [],
    ]  # fmt: skip


def test_namespaces(bao: OpenBao, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the variable, or by the URL."""
    name = f"ns{uuid4().hex[:8]}"
    bao.ask("POST", f"sys/namespaces/{name}", {})
    bao.ask("POST", f"{name}/sys/mounts/secret", {"type": "kv", "options": {"version": "2"}})
    bao.ask("POST", f"{name}/secret/data/{path}", {"data": {"key": "of the namespace"}})
    put(bao, path, key="of the root")
    held = keeping(A=f"vault:secret/{path}#key", B=f"vault:secret/{path}?namespace={name}#key")
    assert texts([*held.load_all("A"), *held.load_all("B")]) == ["of the root", "of the namespace"]
    monkeypatch.setenv("VAULT_NAMESPACE", name)
    assert texts(keeping(A=f"vault:secret/{path}#key").load_all("A")) == ["of the namespace"]


# Who we are ------------------------------------------------------------------------------------------------------------


def role(bao: OpenBao, path: str, **settings: Any) -> tuple[str, str]:
    """An AppRole that may read *path* alone: its id and a secret id."""
    name = f"r{uuid4().hex[:8]}"
    if "approle/" not in bao.ask("GET", "sys/auth"):
        bao.ask("POST", "sys/auth/approle", {"type": "approle"})
    rule = f'path "secret/data/{path}" {{ capabilities = ["read"] }}'
    bao.ask("PUT", f"sys/policies/acl/{name}", {"policy": rule})
    bao.ask("POST", f"auth/approle/role/{name}", {"token_policies": name, **settings})
    known = bao.ask("GET", f"auth/approle/role/{name}/role-id")["data"]["role_id"]
    return known, bao.ask("POST", f"auth/approle/role/{name}/secret-id", {})["data"]["secret_id"]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that Vault is asked for."""
    from moorline.calls.call import Call

    seen: list[str] = []
    result = Call.result

    def counted(call: Any) -> Any:
        if call.service.category == "secrets":
            seen.append(call.operation)
        return result(call)

    monkeypatch.setattr(Call, "result", counted)
    return seen


def test_we_log_in_by_approle_renew_and_log_in_again(
    bao: OpenBao, path: str, monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    """A token is renewed at two thirds of its time; near its longest, or when it is refused, there is another."""
    put(bao, path, key="value-1")
    monkeypatch.delenv("VAULT_TOKEN")
    name, secret = role(bao, path, token_ttl="60s", token_max_ttl="1h")
    monkeypatch.setenv("VAULT_ROLE_ID", name)
    monkeypatch.setenv("VAULT_SECRET_ID", secret)
    clock = ManualClock()
    held = keeping(clock, KEY=f"vault:secret/{path}#key")
    assert texts(held.load_all("KEY")) == ["value-1"]
    assert asked.count("log_in") == 1
    clock.advance(41)
    held.tend()
    assert asked.count("renew") == 1
    # The server's own time has not passed: what it has of the token is revoked, as at its end.
    source = next(iter(held._made.values()))
    assert isinstance(source, Vault)
    session = source._session
    assert session is not None
    bao.ask("POST", "auth/token/revoke", {"token": session._shown().reveal()})
    put(bao, path, key="value-2")
    held.refresh("KEY")
    assert texts(held.load_all("KEY")) == ["value-2", "value-1"]
    assert asked.count("log_in") == 2
    clock.advance(61)  # it is over by our own clock
    held.refresh("KEY")
    assert asked.count("log_in") == 3


def test_a_token_that_has_expired_is_replaced(
    bao: OpenBao, path: str, monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    """At the server, by its own clock, of which ours knows nothing: it says 403, and there is no other sign."""
    put(bao, path, key="value-1")
    monkeypatch.delenv("VAULT_TOKEN")
    name, secret = role(bao, path, token_ttl="1s", token_max_ttl="1h")
    monkeypatch.setenv("VAULT_ROLE_ID", name)
    monkeypatch.setenv("VAULT_SECRET_ID", secret)
    held = keeping(KEY=f"vault:secret/{path}#key")
    held.load("KEY")
    source = next(iter(held._made.values()))
    assert isinstance(source, Vault)
    assert source._session is not None
    token = source._session._shown().reveal()
    put(bao, path, key="value-2")

    def over() -> bool:
        headers = {"X-Vault-Token": token}
        return httpx2.get(f"{bao.url}/v1/auth/token/lookup-self", headers=headers).status_code == 403

    until(over, seconds=30)
    held.refresh("KEY")
    assert texts(held.load_all("KEY")) == ["value-2", "value-1"]
    assert asked.count("log_in") == 2


@pytest.mark.parametrize("kind", ["service", "batch"])
def test_a_token_that_cannot_be_renewed_is_replaced_in_time(
    bao: OpenBao, path: str, monkeypatch: pytest.MonkeyPatch, asked: list[str], kind: str
) -> None:
    """One at its longest time, and one that has no renewal at all."""
    put(bao, path, key="value-1")
    monkeypatch.delenv("VAULT_TOKEN")
    longest = {"token_type": "batch"} if kind == "batch" else {"token_explicit_max_ttl": "60s", "token_max_ttl": "60s"}
    name, secret = role(bao, path, token_ttl="60s", **longest)
    monkeypatch.setenv("VAULT_ROLE_ID", name)
    monkeypatch.setenv("VAULT_SECRET_ID", secret)
    clock = ManualClock()
    held = keeping(clock, KEY=f"vault:secret/{path}#key")
    held.load("KEY")
    if kind == "service":
        # What is left of its longest time is less than a tenth of what it was given: as the server would say then.
        monkeypatch.setattr("moorline.calls.secret_sources.vault_session._WORTH", 1.5)
    clock.advance(41)
    held.tend()
    assert asked.count("log_in") == 2
    assert asked.count("renew") == (1 if kind == "service" else 0)


def test_a_token_that_was_given_is_renewed(
    bao: OpenBao, path: str, monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    """It cannot be replaced: that is said, and another one in the environment is used at once."""
    put(bao, path, key="value-1")
    made = bao.ask("POST", "auth/token/create", {"ttl": "60s", "renewable": True, "policies": ["root"]})["auth"]
    monkeypatch.setenv("VAULT_TOKEN", made["client_token"])
    clock = ManualClock()
    held = keeping(clock, KEY=f"vault:secret/{path}#key")
    held.load("KEY")
    assert "log_in" not in asked
    clock.advance(41)
    held.tend()
    assert asked.count("renew") == 1
    bao.ask("POST", "auth/token/revoke", {"token": made["client_token"]})
    put(bao, path, key="value-2")
    held.refresh("KEY")
    assert texts(held.load_all("KEY")) == ["value-1"]  # the last good one
    monkeypatch.setenv("VAULT_TOKEN", ROOT)
    held.refresh("KEY")
    assert texts(held.load_all("KEY")) == ["value-2", "value-1"]


def test_the_token_of_the_program_counts_where_nothing_else_is_set(
    bao: OpenBao, path: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """``vault login`` leaves it at home."""
    put(bao, path, key="value-1")
    monkeypatch.delenv("VAULT_TOKEN")
    with pytest.raises(ConfigurationError, match="vault needs a token: set VAULT_TOKEN"):
        keeping(KEY=f"vault:secret/{path}#key").load("KEY")
    (tmp_path / ".vault-token").write_text(f"{ROOT}\n")
    assert texts(keeping(KEY=f"vault:secret/{path}#key").load_all("KEY")) == ["value-1"]


class Reviews(BaseHTTPRequestHandler):
    """As much of Kubernetes as Vault asks whose token it is (``TokenReview``): that of ``web`` in ``shop``."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))["spec"]
        groups = ["system:serviceaccounts", "system:serviceaccounts:shop", "system:authenticated"]
        user = {"username": "system:serviceaccount:shop:web", "uid": "u-1", "groups": groups}
        status = {"authenticated": True, "user": user, "audiences": asked.get("audiences", [])}
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status}
        sent = json.dumps(review).encode()
        self.send_response(201)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *_: Any) -> None:
        pass


def of_the_pod() -> str:
    """The token of a service account, as far as Vault reads it by itself: Kubernetes checks who signed it."""
    now = int(SYSTEM.wall())
    claims = {
        "iat": now - 60, "nbf": now - 60, "iss": "kubernetes/serviceaccount", "sub": "system:serviceaccount:shop:web", "exp": now + 600,
        "kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": "web", "uid": "u-1"}},
    }  # fmt: skip
    parts = [json.dumps({"alg": "RS256", "typ": "JWT"}).encode(), json.dumps(claims).encode(), b"x" * 256]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def test_a_service_account_of_kubernetes_logs_in_with_its_file(
    bao: OpenBao, path: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With what the file holds at that time; OpenBao asks Kubernetes whose it is."""
    put(bao, path, key="value-1")
    name, mount = f"r{uuid4().hex[:8]}", f"k{uuid4().hex[:8]}"
    cluster = HTTPServer(("127.0.0.1", 0), Reviews)
    Thread(target=cluster.serve_forever, daemon=True).start()
    with tls_server(tmp_path) as (_, authority):
        held = {"kubernetes_ca_cert": authority.read_text(), "disable_local_ca_jwt": True}
    host = f"http://127.0.0.1:{cluster.server_port}"
    bao.ask("POST", f"sys/auth/{mount}", {"type": "kubernetes"})
    reviewer = {"kubernetes_host": host, "token_reviewer_jwt": of_the_pod(), **held}
    bao.ask("POST", f"auth/{mount}/config", reviewer)
    rule = f'path "secret/data/{path}" {{ capabilities = ["read"] }}'
    bao.ask("PUT", f"sys/policies/acl/{name}", {"policy": rule})
    bound = {"bound_service_account_names": "web", "bound_service_account_namespaces": "shop", "token_policies": name}
    bao.ask("POST", f"auth/{mount}/role/{name}", bound)
    monkeypatch.delenv("VAULT_TOKEN")
    monkeypatch.setenv("VAULT_KUBERNETES_ROLE", name)
    monkeypatch.setenv("VAULT_KUBERNETES_MOUNT", mount)
    monkeypatch.setenv("VAULT_KUBERNETES_TOKEN_FILE", str(tmp_path / "token"))
    with pytest.raises(ConfigurationError, match=r"token cannot be read \(FileNotFoundError\)"):
        keeping(KEY=f"vault:secret/{path}#key").load("KEY")
    (tmp_path / "token").write_text(f"{of_the_pod()}\n")
    assert texts(keeping(KEY=f"vault:secret/{path}#key").load_all("KEY")) == ["value-1"]
    cluster.shutdown()
    cluster.server_close()


def test_an_authority_of_ones_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """``VAULT_CACERT`` names it; without it the server is nobody whom we know."""
    monkeypatch.setenv("VAULT_TOKEN", "hvs.some-token")
    with tls_server(tmp_path) as (port, authority):
        url = f"vault:secret/pay?address=https://localhost:{port}&version=2#key"
        with pytest.raises(SecretUnavailable, match=r"vault:secret/pay: .*certificate"):
            keeping(KEY=url).load("KEY")
        monkeypatch.setenv("VAULT_CACERT", str(authority))
        assert keeping(KEY=url).load("KEY") is None  # it answers, with something else
        monkeypatch.setenv("VAULT_CACERT", str(tmp_path / "none"))
        with pytest.raises(ConfigurationError, match=r"VAULT_CACERT: .*FileNotFoundError"):
            keeping(KEY=url).load("KEY")


def test_refusals_name_the_path_and_show_no_proof(bao: OpenBao, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong secret id, and a path that is not allowed."""
    put(bao, path, key="value-1")
    monkeypatch.delenv("VAULT_TOKEN")
    name, secret = role(bao, path)
    monkeypatch.setenv("VAULT_ROLE_ID", name)
    with pytest.raises(ConfigurationError, match="VAULT_ROLE_ID needs VAULT_SECRET_ID in the environment"):
        keeping(KEY=f"vault:secret/{path}#key").load("KEY")
    monkeypatch.setenv("VAULT_SECRET_ID", "wrong-canary-0123")
    with pytest.raises(SecretUnavailable, match=f"vault:secret/{path}: .*invalid role or secret ID") as caught:
        keeping(KEY=f"vault:secret/{path}#key").load("KEY")
    assert "canary" not in str(caught.value)
    monkeypatch.setenv("VAULT_SECRET_ID", secret)
    assert keeping(KEY=f"vault:secret/{path}#key").load("KEY")
    with pytest.raises(SecretUnavailable, match=r"vault:secret/another/path: .*permission denied"):
        keeping(KEY="vault:secret/another/path#key").load("KEY")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("vault:secret", "expected a mount and a path"),
        ("vault:secret/../sys#x", "expected a mount and a path"),
        ("vault:secret/pay?version=3", "version must be 1 or 2"),
        ("vault:secret/pay?mount=other", "does not begin with its mount"),
        ("vault:secret/pay?adress=x", "no option 'adress'"),
    ],
)
def test_wrong_addresses_are_named(url: str, says: str) -> None:
    """When they are used for the first time."""
    with pytest.raises(ConfigurationError, match=says):
        Vault(Address.of(url))
    with pytest.raises(ConfigurationError, match="set VAULT_ADDR"):
        keeping(KEY="vault:secret/pay#key").load("KEY")


# What becomes of us without it -----------------------------------------------------------------------------------------


def test_sealed_killed_and_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With what it holds on a disk (raft): the last good value is used and warned of while it is sealed, while it is
    dead, and while it is sealed again; once it is open the new value is there.
    """
    with OpenBao(tmp_path) as server:
        made = server.ask("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1}, token="")
        root, share = made["root_token"], made["keys"][0]

        def unseal() -> None:
            server.ask("PUT", "sys/unseal", {"key": share}, token="")
            until(lambda: httpx2.get(f"{server.url}/v1/sys/health").status_code == 200, seconds=30)

        unseal()
        server.ask("POST", "sys/mounts/secret", {"type": "kv", "options": {"version": "2"}}, token=root)
        until(lambda: written(server, root, "value-1"), seconds=30)
        monkeypatch.setenv("VAULT_ADDR", server.url)
        monkeypatch.setenv("VAULT_TOKEN", root)
        clock = ManualClock()
        held = keeping(clock, KEY="vault:secret/pay#key")
        assert texts(held.load_all("KEY")) == ["value-1"]

        def still(value: list[str], warnings: int) -> None:
            clock.advance(61)
            held.tend()
            assert texts(held.load_all("KEY")) == value
            assert caplog.text.count("secret_source_down") == warnings

        server.ask("PUT", "sys/seal", {}, token=root)
        still(["value-1"], 1)
        with pytest.raises(SecretUnavailable, match=r"vault:secret/pay: .*503"):
            keeping(KEY="vault:secret/pay#key").load("KEY")
        unseal()
        until(lambda: written(server, root, "value-2"), seconds=30)
        still(["value-2", "value-1"], 1)
        server.kill()
        still(["value-2", "value-1"], 2)
        server.start()
        still(["value-2", "value-1"], 3)
        unseal()
        until(lambda: written(server, root, "value-3"), seconds=30)
        still(["value-3", "value-2"], 3)
        assert "value-" not in caplog.text


def written(server: OpenBao, token: str, value: str) -> bool:
    """Whether it could be: a mount is upgraded, and a leader elected, for a moment."""
    try:
        put(server, "pay", token, key=value)
    except httpx2.HTTPStatusError:
        return False
    return True
