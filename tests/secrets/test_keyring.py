"""What is kept encrypted, and the keys that come and go."""

from __future__ import annotations

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from moorline.errors import ConfigurationError, DecryptionFailed
from moorline.secrets.keyring import KeyRing, new_key
from moorline.secrets.secret import Secret

OLD, NEW = Secret(new_key(), name="OLD"), Secret(new_key(), name="NEW")


@given(st.binary(max_size=2000), st.text(max_size=20), st.text(max_size=20))
def test_what_is_encrypted_comes_back(plain: bytes, purpose: str, place: str):
    """Anything, for any purpose and place; twice the same gives other bytes, which hold nothing of it."""
    ring = KeyRing([NEW])
    sealed = ring.encrypt(plain, purpose=purpose, place=place)
    assert ring.decrypt(sealed, purpose=purpose, place=place) == plain
    assert sealed != ring.encrypt(plain, purpose=purpose, place=place)
    assert len(plain) < 8 or plain not in sealed


@given(st.binary(min_size=1, max_size=50), st.data())
def test_nothing_that_was_changed_is_read(plain: bytes, data: st.DataObject):
    """One byte anywhere, a part cut off, something behind it: DecryptionFailed, whatever it is."""
    ring = KeyRing([NEW])
    sealed = ring.encrypt(plain, purpose="p", place="1")
    at = data.draw(st.integers(0, len(sealed) - 1))
    changed = bytearray(sealed)
    changed[at] ^= data.draw(st.integers(1, 255))
    for wrong in (bytes(changed), sealed[:at], sealed + b"\0", data.draw(st.binary(max_size=80))):
        with pytest.raises(DecryptionFailed):
            ring.decrypt(wrong, purpose="p", place="1")


@pytest.mark.parametrize(("purpose", "place"), [("tokens", "2"), ("session", "1"), ("token", "s1"), ("tokens1", "")])
def test_it_is_bound_to_its_place(purpose: str, place: str):
    """A row that is swapped, or used for something else, does not decrypt."""
    ring = KeyRing([NEW])
    with pytest.raises(DecryptionFailed, match="moved from another place"):
        ring.decrypt(ring.encrypt(b"x", purpose="tokens", place="1"), purpose=purpose, place=place)


def test_keys_come_and_go():
    """The newest encrypts; older ones still decrypt, until they are taken out: then it says which key is missing."""
    before = KeyRing([OLD]).encrypt(b"x", purpose="p", place="1")
    ring = KeyRing([NEW, OLD])
    assert ring.decrypt(before, purpose="p", place="1") == b"x"
    assert not ring.is_current(before)
    after = ring.encrypt(b"x", purpose="p", place="1")
    assert ring.is_current(after)
    assert KeyRing([NEW]).decrypt(after, purpose="p", place="1") == b"x"
    with pytest.raises(DecryptionFailed, match=KeyRing([OLD]).current_id):
        KeyRing([NEW]).decrypt(before, purpose="p", place="1")
    assert ring.ids == (KeyRing([NEW]).current_id, KeyRing([OLD]).current_id)


def test_the_form_is_what_the_docstring_says():
    """Version, id, nonce, AES-256-GCM under a key of the purpose, head, purpose and place bound: read by another hand."""
    raw = base64.urlsafe_b64decode(NEW.reveal())
    sealed = KeyRing([NEW]).encrypt(b"secret", purpose="tokens", place="row 7")
    head, nonce, rest = sealed[:9], sealed[9:21], sealed[21:]
    assert head == b"\x01" + hashlib.sha256(b"moorline key id\0" + raw).digest()[:8]
    key = HKDF(SHA256(), 32, salt=None, info=b"moorline tokens").derive(raw)
    bound = head + b"\0\0\0\x06" + b"tokens" + b"row 7"
    assert AESGCM(key).decrypt(nonce, rest, bound) == b"secret"


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_keys_of_other_tools_are_taken(encode):
    """Both alphabets of base64, with and without padding, are the same key."""
    text = encode(b"\xfb\xff" * 16).decode()
    rings = [KeyRing([Secret(one)]) for one in (text, text.rstrip("="), f" {text}\n")]
    assert len({ring.current_id for ring in rings}) == 1


@pytest.mark.parametrize("wrong", ["x", "not base64!", base64.b64encode(b"half a key long.").decode(), "é" * 43])
def test_what_is_no_key_is_named_and_not_shown(wrong: str):
    """The error says which variable, and never what it holds; none at all says what to do."""
    with pytest.raises(ConfigurationError, match="MY_KEY") as caught:
        KeyRing([Secret(wrong, name="MY_KEY")])
    assert wrong not in str(caught.value)
    with pytest.raises(ConfigurationError, match="keys master new"):
        KeyRing([])
    with pytest.raises(ConfigurationError, match="too many"):
        KeyRing([Secret(new_key()) for _ in range(65)])


def test_a_ring_shows_no_key():
    """Its repr has an id."""
    shown = repr(KeyRing([NEW, OLD]))
    assert NEW.reveal() not in shown
    assert KeyRing([NEW]).current_id in shown
