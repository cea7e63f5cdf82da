"""Encryption keys that AWS KMS and Transit wrap: against moto's KMS and a real OpenBao."""

from __future__ import annotations

import asyncio
import base64
import logging
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from tests.openbao import ROOT, OpenBao
from tests.servers import free_port
from tests.sqs_servers import REGION, MotoServer, aws_environment

from moorline import redaction
from moorline.calls.key_management import KeyManagement
from moorline.calls.secret_sources import vault_session
from moorline.errors import ConfigurationError, KeyUnavailable
from moorline.policies.retry import Retry
from moorline.secrets import rings, wrapped
from moorline.secrets.keyring import KeyRing, new_key
from moorline.secrets.rings import ENCRYPTION_KEY, encryption_ring, ring_keys
from moorline.secrets.wrapped import Wrapped, wrap_new

MOUNT = "envelope/transit"


@pytest.fixture(scope="module")
def moto() -> Iterator[MotoServer]:
    with MotoServer() as server:
        yield server


@pytest.fixture
def kms(moto: MotoServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The ARN of a key there, where AWS is."""
    with aws_environment():
        monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", moto.endpoint)
        monkeypatch.setenv("AWS_REGION", REGION)
        arn: str = moto.client("kms").create_key()["KeyMetadata"]["Arn"]
        yield arn


@pytest.fixture(scope="module")
def engine(openbao: OpenBao) -> OpenBao:
    """With Transit at a mount of our own, and a token that may do with its key what the class says, and no more."""
    openbao.ask("POST", f"sys/mounts/{MOUNT}", {"type": "transit"})
    return openbao


@pytest.fixture
def transit(engine: OpenBao, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a key there, where Vault is; of one that derives keys, if so asked."""
    derived = getattr(request, "param", False)
    key = f"app-{derived}"
    engine.ask("POST", f"{MOUNT}/keys/{key}", {"derived": derived})
    paths = (f"decrypt/{key}", f"datakey/plaintext/{key}", f"rewrap/{key}")
    rules = "\n".join(f'path "{MOUNT}/{path}" {{ capabilities = ["update"] }}' for path in paths)
    engine.ask("PUT", f"sys/policies/acl/{key}", {"policy": rules})
    token = engine.ask("POST", "auth/token/create", {"policies": [key]})["auth"]["client_token"]
    monkeypatch.setenv("VAULT_ADDR", engine.url)
    monkeypatch.setenv("VAULT_TOKEN", token)
    return f"{MOUNT}/{key}"


@pytest.fixture(autouse=True)
def _as_after_a_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is unwrapped yet, and a failure is tried again soon."""
    monkeypatch.setattr(wrapped, "_unwrapped", {})
    for kind in (KeyManagement, vault_session._Api):
        quick = replace(kind.default_policy, retry=Retry(retries=2, base=0.01))
        monkeypatch.setattr(kind, "default_policy", quick)
    for name in (ENCRYPTION_KEY, "MOORLINE_SANDBOX_URL", "VAULT_ROLE_ID", "VAULT_KUBERNETES_ROLE", "VAULT_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/nonexistent")


def forget() -> None:
    """As another process."""
    wrapped._unwrapped.clear()


def held(*keys: object) -> KeyRing:
    """The ring of another process, with these in its variable."""
    forget()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ENCRYPTION_KEY, ",".join(map(str, keys)))
        return encryption_ring()


# --- AWS KMS


def test_kms_wraps_a_key(moto: MotoServer, kms: str) -> None:
    """What is kept names the key's ARN and decrypts in another process; AWS's own client says it is the same."""
    moto.client("kms").create_alias(AliasName="alias/shop", TargetKeyId=kms)
    kept, secret = wrap_new("aws-kms:alias/shop")
    assert kept.by == f"aws-kms:{kms}"
    ring = held(kept)
    assert ring.current_id == KeyRing([secret]).current_id
    blob = base64.b64decode(kept.rest.rpartition(":")[2])
    context = {"moorline": "encryption key"}
    theirs = moto.client("kms").decrypt(CiphertextBlob=blob, EncryptionContext=context)["Plaintext"]
    assert base64.urlsafe_b64decode(secret.reveal()) == theirs
    with pytest.raises(ClientError, match="InvalidCiphertext"):
        moto.client("kms").decrypt(CiphertextBlob=blob)  # the context is a part of it


def test_kms_wraps_the_same_key_anew(kms: str) -> None:
    """Another ciphertext, the same key."""
    kept, secret = wrap_new(f"aws-kms:{kms}")
    again = kept.rewrapped()
    assert (again == kept, again.by) == (False, kept.by)
    assert held(again).current_id == KeyRing([secret]).current_id


def test_the_region_of_an_arn_goes_before(kms: str) -> None:
    """A process in another region asks where the key is."""
    arn = "arn:aws:kms:eu-west-1:111122223333:key/1"
    assert KeyManagement()._at(arn).region == "eu-west-1"
    assert KeyManagement()._at("alias/shop").region == REGION
    assert KeyManagement(region="us-east-2")._at(arn).region == "us-east-2"


# --- Transit


@pytest.mark.parametrize("transit", [False, True], indirect=True, ids=["plain", "derived"])
def test_transit_wraps_a_key(engine: OpenBao, transit: str) -> None:
    """With a token that may do no more; the server's own answer is the same key."""
    kept, secret = wrap_new(f"vault-transit:{transit}")
    assert str(kept).startswith(f"vault-transit:{transit}:vault:v1:")
    assert kept.by == f"vault-transit:{transit}"
    assert held(kept).current_id == KeyRing([secret]).current_id
    mount, _, name = transit.rpartition("/")
    context = base64.b64encode(b"moorline encryption key").decode()
    body = {"ciphertext": kept.rest.partition(":")[2], "context": context}
    theirs = engine.ask("POST", f"{mount}/decrypt/{name}", body)["data"]["plaintext"]
    assert base64.b64decode(theirs) == base64.urlsafe_b64decode(secret.reveal())


def test_the_key_in_transit_is_rotated(engine: OpenBao, transit: str) -> None:
    """What the old version wrapped is good until it is disallowed there; before that it is wrapped by the new one."""
    kept, secret = wrap_new(f"vault-transit:{transit}")
    mount, _, name = transit.rpartition("/")
    engine.ask("POST", f"{mount}/keys/{name}/rotate")
    newest = engine.ask("GET", f"{mount}/keys/{name}")["data"]["latest_version"]
    assert held(kept).current_id == KeyRing([secret]).current_id
    again = kept.rewrapped()
    assert f":vault:v{newest}:" in str(again)
    engine.ask("POST", f"{mount}/keys/{name}/config", {"min_decryption_version": newest})
    assert held(again).current_id == KeyRing([secret]).current_id
    with pytest.raises(KeyUnavailable, match=rf"vault-transit:{transit} wraps.*too old"):
        held(kept)


def test_transit_is_asked_in_its_namespace(engine: OpenBao, monkeypatch: pytest.MonkeyPatch) -> None:
    """``VAULT_NAMESPACE``: the same mount elsewhere."""
    engine.ask("POST", "sys/namespaces/envelope-team")
    engine.ask("POST", f"envelope-team/sys/mounts/{MOUNT}", {"type": "transit"})
    engine.ask("POST", f"envelope-team/{MOUNT}/keys/other")
    monkeypatch.setenv("VAULT_ADDR", engine.url)
    monkeypatch.setenv("VAULT_TOKEN", ROOT)
    with pytest.raises(KeyUnavailable):
        held(*_other(monkeypatch))
    monkeypatch.setenv("VAULT_NAMESPACE", "envelope-team")
    assert held(*_other(monkeypatch)).ids


def _other(monkeypatch: pytest.MonkeyPatch) -> list[Wrapped]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VAULT_NAMESPACE", "envelope-team")
        return [wrap_new(f"vault-transit:{MOUNT}/other")[0]]


# --- the ring


def test_both_kinds_stand_side_by_side(kms: str, transit: str) -> None:
    """From a plain key to a wrapped one and to another's, without a moment at which something cannot be read."""
    plain = new_key()
    by_transit, by_kms = (wrap_new(by)[0] for by in (f"vault-transit:{transit}", f"aws-kms:{kms}"))
    rows: list[bytes] = []
    for ring in (held(plain), held(by_transit, plain), held(by_kms, by_transit, plain)):
        rows.append(ring.encrypt(b"token", purpose="p", place="1"))
        assert [ring.decrypt(row, purpose="p", place="1") for row in rows] == [b"token"] * len(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ENCRYPTION_KEY, f"{by_kms},{by_transit} {plain}")
        keys = ring_keys()
    assert [one.wrapped_by for one in keys] == [f"aws-kms:{kms}", f"vault-transit:{transit}", None]
    assert [one.id for one in keys] == list(held(by_kms, by_transit, plain).ids)


def test_it_is_unwrapped_once(engine: OpenBao, transit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has begun goes on while the key service is gone."""
    kept, _ = wrap_new(f"vault-transit:{transit}")
    forget()
    monkeypatch.setenv(ENCRYPTION_KEY, str(kept))
    first = encryption_ring()
    monkeypatch.setenv("VAULT_ADDR", f"http://127.0.0.1:{free_port()}")
    assert encryption_ring().ids == first.ids


async def test_on_a_running_loop_it_is_unwrapped_too(transit: str) -> None:
    """Servers import applications on their loop; there is one start, so it may wait."""
    assert asyncio.get_running_loop().is_running()
    kept, secret = wrap_new(f"vault-transit:{transit}")
    assert held(kept).current_id == KeyRing([secret]).current_id


def test_a_service_that_is_down_is_named(
    transit: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is tried three times, and said; nothing shows the key."""
    caplog.set_level(logging.DEBUG)
    kept, secret = wrap_new(f"vault-transit:{transit}")
    monkeypatch.setenv("VAULT_ADDR", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(KeyUnavailable, match=rf"vault-transit:{transit} wraps cannot be had: .*3 attempts") as caught:
        held(kept)
    text = str(caught.value) + repr(caught.value) + caplog.text
    assert secret.reveal().rstrip("=") not in text
    assert kept.rest.rpartition(":")[2] not in text


def test_transit_knows_us_by_approle(engine: OpenBao, transit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As secrets in Vault do: no token has to stand in the environment."""
    engine.ask("POST", "sys/auth/envelope-approle", {"type": "approle"})
    engine.ask("POST", "auth/envelope-approle/role/app", {"token_policies": [transit.rpartition("/")[2]]})
    monkeypatch.delenv("VAULT_TOKEN")
    monkeypatch.setenv("VAULT_APPROLE_MOUNT", "envelope-approle")
    monkeypatch.setenv("VAULT_ROLE_ID", engine.ask("GET", "auth/envelope-approle/role/app/role-id")["data"]["role_id"])
    monkeypatch.setenv(
        "VAULT_SECRET_ID", engine.ask("POST", "auth/envelope-approle/role/app/secret-id")["data"]["secret_id"]
    )
    kept, secret = wrap_new(f"vault-transit:{transit}")
    assert held(kept).current_id == KeyRing([secret]).current_id


@pytest.mark.parametrize(
    ("token", "said"), [("nonsense", "permission denied"), ("", "VAULT_TOKEN")], ids=["refused", "missing"]
)
def test_a_service_that_refuses_says_why(transit: str, monkeypatch: pytest.MonkeyPatch, token: str, said: str) -> None:
    """A wrong token, or none."""
    kept, _ = wrap_new(f"vault-transit:{transit}")
    monkeypatch.setenv("VAULT_TOKEN", token)
    with pytest.raises((KeyUnavailable, ConfigurationError), match=said):
        held(kept)


def test_the_key_cannot_lie_behind_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """What opens the key service must not be kept encrypted with the key that it unwraps."""

    class Behind:
        def unwrap(self, text: str) -> bytes:
            del text
            encryption_ring()
            raise AssertionError

        def wrapped_by(self, text: str) -> str:
            return text

    monkeypatch.setattr(wrapped, "wrapper", lambda scheme: Behind())
    monkeypatch.setenv(ENCRYPTION_KEY, "aws-kms:circle")
    with pytest.raises(ConfigurationError, match="cannot be kept encrypted with that key"):
        encryption_ring()

    async def on_a_loop() -> None:
        encryption_ring()

    with pytest.raises(ConfigurationError, match="cannot be kept encrypted with that key"):
        asyncio.run(on_a_loop())


@pytest.mark.parametrize(
    "text",
    [
        "aws-kms:alias/x",
        "aws-kms:alias/x:not base64",
        "aws-kms::QUJD",
        "aws-kms:alias/x:" + "A" * 9_000,
        "vault-transit:transit/app",
        "vault-transit:app:vault:v1:QUJD",
        "vault-transit:../sys/app:vault:v1:QUJD",
        "vault-transit:transit/app?x:vault:v1:QUJD",
        "gcp-kms:projects/x:QUJD",
    ],
)
def test_what_is_no_wrapped_key_is_said(text: str) -> None:
    """At the start, and nobody is asked."""
    with pytest.raises(ConfigurationError) as caught:
        held(*text.split(" "))
    assert "QUJD" not in str(caught.value)


def test_a_key_of_another_length_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a key service gives."""

    class Short:
        def unwrap(self, text: str) -> bytes:
            del text
            return b"short"

        def wrapped_by(self, text: str) -> str:
            return text

    monkeypatch.setattr(wrapped, "wrapper", lambda scheme: Short())
    with pytest.raises(ConfigurationError, match="5 bytes"):
        held("aws-kms:x")


def test_beside_the_sandbox_there_is_one_key_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks gets the same: what one of them encrypts another reads."""
    monkeypatch.setenv("MOORLINE_SANDBOX_URL", "http://127.0.0.1:4010")
    assert encryption_ring().ids == encryption_ring().ids
    monkeypatch.delenv("MOORLINE_SANDBOX_URL")
    with pytest.raises(ConfigurationError, match=ENCRYPTION_KEY):
        encryption_ring()


def test_a_wrapping_that_ends_in_v1_is_no_part_of_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment takes a comma behind ``v1`` for a part of a value (``v1,whsec_…``)."""
    one, two = "A" * 40 + "/v1", new_key()
    monkeypatch.setenv(ENCRYPTION_KEY, f"{one},{two}")
    assert [key.kept.reveal() for key in ring_keys()] == [one, two]


def test_a_key_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a source makes of the value: lines, a previous value beside it."""
    old, new = new_key(), new_key()
    monkeypatch.setenv(ENCRYPTION_KEY, f"{new},\n {old}\n")
    monkeypatch.setenv(f"{ENCRYPTION_KEY}_PREVIOUS", f"{old},{new}")
    assert [key.kept.reveal() for key in ring_keys()] == [new, old]


def test_what_is_unwrapped_is_masked(transit: str) -> None:
    """As any secret that was loaded."""
    _, secret = wrap_new(f"vault-transit:{transit}")
    assert secret.reveal() not in redaction.text(f"the key is {secret.reveal()}")


def test_plain_keys_load_no_client() -> None:
    """Who has no wrapped key pays for none."""
    program = (
        "import os, sys; from moorline.secrets.rings import encryption_ring; encryption_ring();"
        "print([name for name in sys.modules if name in ('httpx2', 'botocore', 'moorline.calls')])"
    )
    root = Path(rings.__file__).parents[2]
    environment: dict[str, Any] = {"PYTHONPATH": str(root), ENCRYPTION_KEY: new_key()}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_wrapped_key_is_known_by_its_colon() -> None:
    """A plain key has no colon; what has is read as wrapped."""
    assert Wrapped.read(new_key()) is None
    assert Wrapped.read(" aws-kms:a:b\n") == Wrapped("aws-kms", "a:b")
