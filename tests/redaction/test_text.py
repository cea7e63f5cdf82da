from __future__ import annotations

import base64
import hashlib
import json
import string
from collections.abc import Callable
from urllib.parse import quote, quote_plus, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorline import live_values, redaction


@pytest.fixture(autouse=True)
def _own_values(monkeypatch) -> None:
    for name in ("_values", "_anchors", "_odd"):
        monkeypatch.setattr(live_values, name, {})
    monkeypatch.setattr(live_values, "_keys", set())


# Look like what they stand for, and were never anyone's.
SHAPES = [
    "sk_live_51HxAbCdEfGhIjKl",
    "rk_test_51HxAbCdEfGhIjKl",
    "whsec_Wm9yZw+/bGluZQ==",
    "pi_3MtwBw_secret_YrKJUKribcBjcG8HVhfZluoGH",
    "SG.abcdefghijklmnop.qrstuvwxyz_0123-456789",
    "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
    "gho_16C7e42F292c6912E7710c838347Ae178B4a",
    "ghs_16C7e42F292c6912E7710c838347Ae178B4a",
    "github_pat_11ABCDEFG0abcdefghijkl_mnopqrstuvwxyz",
    "glpat-abcdefghij0123456789",
    "xoxb-123456789012-123456789012-AbCdEfGhIjKlMnOp",
    "xoxe.xoxp-1-Mi0yLTEyMzQ1Njc4OTAx",
    "xapp-1-A012ABCD-123456-abcdef0123",
    "AKIAIOSFODNN7EXAMPLE",
    "ASIAIOSFODNN7EXAMPLE",
    "AIzaSyD-1234567890abcdefghijklmnopqrstu",
    "ya29.a0AfH6SMBx0123456789",
    "hvs.CAESIJ0123456789abcdef",
    "shpat_0123456789abcdef",
    "sk-proj-0123456789abcdefghij",
    "key-0123456789abcdef0123456789abcdef",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.dBjftJeZ4CVP-mB92K27uhbUJU1p1r",
    "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADAN\nBgkqhkiG9w0B\n-----END PRIVATE KEY-----",
    "-----BEGIN RSA PRIVATE KEY-----\\nMIIEvQIBADANBgkqhkiG9w0B",
]
AROUND = [
    "{}",
    "key {} was refused",
    "['{}']",
    "\\n{}\\n",
    "<{}>",
    "a={},b=1",
    '{{"message": "bad: {}"}}',
    "({})",
    "{}.",
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("around", AROUND)
def test_known_shapes_are_masked_wherever_they_stand(shape, around):
    """A key in a vendor's format is masked though nobody registered it."""
    shown = redaction.text(around.format(shape))
    assert redaction.MASK in shown
    # No piece of it that one could search for is left.
    secret = shape.rpartition("_")[2][-8:]
    assert secret not in shown


ORDINARY = [
    "",
    "call finished service=stripe operation=create_payment status=200 attempts=1 ms=12.4 outcome=done",
    "a basic understanding of bearer certificates and token buckets",
    "basic Authentication and Bearer authentication are schemes",
    "wrong token: expected a string",
    "the risk_test_suite and the task_live_view ran",
    "idempotency_key=4f1c2b7e-7c57-4b52-9a54-0c0c9e5f7a11 request_id=req_8fj3kd92ks",
    "Idempotency-Key: 4f1c2b7e-7c57-4b52-9a54-0c0c9e5f7a11",
    "pk_live_51HxAbCdEfGhIjKl is a publishable key",
    "token=None secret='' password=null cookie",
    "job send_welcome failed: KeyError: 'user'",
    'File "/srv/app/tokens.py", line 12, in refresh_token',
    "monkey=banana turkey: 12 pieces",
    "bearer \u0130api_keys",
    "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
    "see https://docs.stripe.com/error-codes/card-declined for more",
    "1.5 s, 100 %, 2026-11-23T10:00:00Z, ünïcödé ✓",
]


@pytest.mark.parametrize("line", ORDINARY)
def test_ordinary_text_is_unchanged(line):
    """Lines that hold no secret come back as they are."""
    assert redaction.text(line) == line


@given(
    st.lists(
        st.sampled_from(
            [
                "call",
                "job",
                "event",
                "stripe",
                "github",
                "retry",
                "status",
                "queue",
                "worker",
                "attempt",
                "done",
                "200",
                "12.5",
            ]
        )
    )
)
def test_ordinary_words_are_unchanged_with_live_secrets(words):
    """Live secrets do not change a text in which none of them stands."""
    redaction.register("correct-horse-battery-staple-42")
    line = " ".join(words)
    assert redaction.text(line) == line


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("Authorization: Bearer abc.def-123456", "Authorization: ***"),
        ("sent Bearer abcdef0123456789 today", "sent Bearer *** today"),
        ("proxy said Basic dXNlcjpwYXNz", "proxy said Basic ***"),
        ("{'Authorization': 'token 0123abcd'}", "{'Authorization': '***'}"),
        ("Cookie: session=abc; theme=dark\nnext", "Cookie: ***\nnext"),
        ("password=hunter2 user=ann", "password=*** user=ann"),
        ("password: hunter2", "password: ***"),
        ('{"client_secret": "a b\\" c", "id": 1}', '{"client_secret": "***", "id": 1}'),
        ("{'access_token': 'abc', 'n': 1}", "{'access_token': '***', 'n': 1}"),
        ('"{\\"api_key\\": \\"abc\\"}"', '"{\\"api_key\\": \\"***\\"}"'),
        ("X-Api-Key: 0123", "X-Api-Key: ***"),
        ("GET https://ann:pw@api.test/v1/x?q=1&token=abc failed", "GET https://api.test/v1/x?q=***&token=*** failed"),
        ("dsn postgresql+psycopg://app:s3cret@db/prod", "dsn postgresql+psycopg://db/prod"),
        ("POST https://hooks.slack.com/services/T00/B00/XXXX", "POST https://hooks.slack.com/***"),
        ("POST https://hooks.slack.com/commands/T00/123/XXXX", "POST https://hooks.slack.com/***"),
        ("POST https://hooks.slack.com/actions/T00/123/XXXX", "POST https://hooks.slack.com/***"),
        ("POST https://files.slack.com/upload/v1/ABC123", "POST https://files.slack.com/upload/v1/***"),
        (
            "https://api.telegram.org/bot123456:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw/getMe",
            "https://api.telegram.org/bot***/getMe",
        ),
    ],
)
def test_assignments_headers_and_urls_in_text(line, shown):
    """What is assigned to a sensitive name, and the credentials of URLs, are masked inside a longer text."""
    assert redaction.text(line) == shown


@pytest.mark.parametrize("line", ["--token2 abc123x", "run --tokens abc123x", "--sessionid abc123x --fast"])
def test_arguments_of_numbered_and_plural_names(line):
    """The quick look knows each name that the rule for arguments knows."""
    assert "abc123x" not in redaction.text(line)


def test_the_end_of_a_secret_far_behind_its_hint_is_masked():
    """A word that resembles a part of a shape, five hundred characters before one, leaves nothing of its end."""
    secret = "pi_3MtwBw_secret_YrKJUKribcBjcG8HVhfZluoGH"
    token = "/bot123456789:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw"
    for gap in range(400, 520):
        filler = "x " * (gap // 2) + "-" * (gap % 2)
        assert redaction.text(f"a_secret_ {filler}{secret} end").endswith("*** end")
        assert redaction.text(f"/bot123456 {filler}{token}/end").endswith("/bot***/end")


SECRETS = st.text(string.ascii_letters + string.digits + '-_+/=.!$&ü"\\ ', min_size=8, max_size=60).filter(
    lambda value: len(value.strip()) >= 8
)
FILLER = st.text(string.ascii_letters + string.digits + " .,:;/?&=\"'\\\n{}[]()é", max_size=80)


@given(secret=SECRETS, before=FILLER, after=FILLER)
def test_no_text_with_a_planted_secret_leaves(secret, before, after):
    """Whatever stands around it, a live value does not come out."""
    redaction.register(secret)
    assert secret not in redaction.text(before + secret + after)


ENCODINGS: dict[str, Callable[[str], str]] = {
    "json": lambda value: json.dumps({"x": value}),
    "json, unescaped": lambda value: json.dumps({"x": value}, ensure_ascii=False),
    "repr": lambda value: repr(value)[1:-1],
    "quote": lambda value: quote(value, safe=""),
    "quote_plus": quote_plus,
    "form": lambda value: urlencode({"x": value}),
    "hex": lambda value: value.encode().hex(),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(secret=SECRETS, before=FILLER)
def test_encoded_secrets_do_not_leave(encoding, secret, before):
    """A live value is found after the encodings that it meets on its way into a log."""
    redaction.register(secret)
    coded = ENCODINGS[encoding](secret)
    assert coded not in redaction.text(before + coded)


@given(secret=st.text(string.ascii_letters + string.digits + "+/", min_size=12, max_size=60), user=st.text(max_size=12))
def test_secret_inside_base64_does_not_leave(secret, user):
    """A live value is found inside the base64 of a longer text, wherever it begins."""
    redaction.register(secret)
    for coded in (base64.b64encode, base64.urlsafe_b64encode):
        line = coded(f"{user}:{secret}:end".encode()).decode()
        assert line not in redaction.text(f"sent {line}")
        assert redaction.MASK in redaction.text(f"sent {line}")


@given(FILLER, SECRETS, FILLER)
def test_redaction_twice_is_redaction_once(before, secret, after):
    """Text that was redacted passes unchanged."""
    redaction.register(secret)
    once = redaction.text(f"{before} password={secret} {after}")
    assert redaction.text(once) == once


def test_overlapping_secrets_leave_no_rest():
    """Of two secrets that share characters, nothing of either stays."""
    redaction.register("AAAAAAAA-shared-part")
    redaction.register("shared-part-BBBBBBBB")
    assert redaction.text("x AAAAAAAA-shared-part-BBBBBBBB y") == "x *** y"


def test_short_secrets_are_masked_where_they_stand_alone():
    """A value of four to seven characters is masked as a word, and no part of another word is."""
    redaction.register("tiger")
    assert redaction.text("pw tiger, tigers") == "pw ***, tigers"


def test_tiny_values_are_not_registered():
    """Masking every "a" would only garble the text."""
    redaction.register("a")
    assert redaction.text("a b") == "a b"


def test_the_oldest_values_go_first(monkeypatch):
    """The number of live values is bounded, and those registered last stay."""
    monkeypatch.setattr(live_values, "_MOST_VALUES", 3)
    values = [f"value-number-{number}-of-some-length" for number in range(5)]
    for value in values:
        redaction.register(value)
    assert [redaction.text(value) for value in values] == [*values[:2], *["***"] * 3]
    assert {form for window in live_values._keys for form in live_values._filed(window)} == {
        form for forms in live_values._values.values() for form in forms if len(form) >= 15
    }
    assert live_values._keys == set(live_values._anchors)


def test_many_secrets_cost_a_clean_line_nothing_more():
    """With thousands of live values a clean line is looked up by its windows, not compared with each value."""
    for number in range(3000):
        redaction.register(f"sk_live_{number:05d}_{hashlib.sha256(bytes(number)).hexdigest()}")
    assert not live_values._odd
    assert max(len(live_values._filed(window)) for window in live_values._keys) < 10
    assert redaction.text("service=stripe status=200 ms=12.4") == "service=stripe status=200 ms=12.4"


@pytest.mark.parametrize("filler", ["x ", "ä ", "漢 ", "🌊 "])
def test_a_secret_is_found_at_every_place_of_a_long_line(filler):
    """Whatever stands before it, in characters of one to four bytes, and across the borders at which long lines are cut."""
    secret = "canary0long0line0secret0value"
    redaction.register(secret)
    for length in (*range(40), *range(1_000, 1_060), *range(2_030, 2_060)):
        before = (filler * length)[:length]
        assert redaction.text(f"{before} {secret} end") == f"{before} {redaction.MASK} end"


MARKS = ["://", "a://", ":\\/\\/", "://a", "@://", "https://a", "://?"]


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize("end", [" a://b@c", "=1", "@c", " x=1"])
def test_addresses_without_an_end_are_read_once(mark: str, end: str):
    """However many marks of an address follow each other: looking on from each of them would take minutes."""
    redaction.text(mark * 100_000 + end)


@pytest.mark.parametrize("length", range(40, 60))
def test_a_basic_credential_is_known_wherever_it_is_cut(length: int):
    """As it stands at the end of what is shown of a long header."""
    coded = base64.b64encode(b"user:" + b"p" * 100).decode()
    assert redaction.beginning(f"Proxy: Basic {coded}"[: 13 + length], 500) == "Proxy: Basic ***"


def test_of_a_long_text_no_more_than_its_beginning_is_read():
    """A secret that begins in what is shown is masked, however far it goes on."""
    redaction.register("live-" + "x" * 2_000)
    assert redaction.beginning("a " * 249 + "live-" + "x" * 2_000 + " b" * 1_000_000, 500) == "a " * 249 + "**"
    assert redaction.beginning("k=1 token=" + "y" * 5_000, 500) == "k=1 token=***"
    assert redaction.beginning("word " * 1_000, 10) == "word word "


PLANTED = "canary-lines-0061"
LINES = {
    "environment in yaml": f"env:\n  - name: STRIPE_SECRET_KEY\n    value: {PLANTED}\n  - name: COLOUR\n    value: shown",
    "text in yaml": f"private_key: |-\n  first\n  {PLANTED}\n\n  last\ncolour: shown",
    "folded text in yaml": f"a:\n  token: >\n    {PLANTED}\n  colour: shown",
    "list in yaml": f"a:\n  tokens:\n  - first\n  - {PLANTED}\n  colour: shown",
    "json on lines": f'{{\n "name": "API_KEY",\n "value": "{PLANTED}"\n}}, shown',
    "part of a form": f'--b\r\nContent-Disposition: form-data; name="password"\r\n\r\n{PLANTED}\r\n--b\r\nshown',
    "file in a form": f'filename="a.txt"; name="secret"\r\nContent-Type: text/plain\r\n\r\n{PLANTED}\r\n--b--shown',
    "form in a repr": repr(f'name="password"\r\n\r\n{PLANTED}\r\n--b--shown'),
    "field of pydantic": f"api_key\n  Not a number [type=int, input_value='{PLANTED}', input_type=str]\nshown",
    "inner field of pydantic": f"a.0.token\n  Too long [type=x, input_value={PLANTED}, input_type=str]\nshown",
    "block of pgp": f"-----BEGIN PGP PRIVATE KEY BLOCK-----\n\n{PLANTED}\n-----END PGP PRIVATE KEY BLOCK-----\nshown",
}


@pytest.mark.parametrize("kind", LINES)
def test_values_on_other_lines_are_masked(kind: str):
    """Of YAML, forms in parts and pydantic's messages; what stands beside them is shown."""
    shown = redaction.text(LINES[kind])
    assert "lines-0061" not in shown
    assert "first" not in shown
    assert shown.endswith(("shown", "shown'"))


@pytest.mark.parametrize(
    "line",
    [
        "bypass=1 compass: north",
        "3 tests pass: all good",
        "colour\n  Not a number [type=int, input_value='red', input_type=str]",
        "name: COLOUR\nvalue: red",
        '{"name": "colour", "value": "red"}',
        "keys are many => values are few",
        "x = [token for token in words if token > limit and limit < 3]",
    ],
)
def test_what_only_looks_alike_is_shown(line: str):
    """Names that hold no secret, in the same places."""
    assert redaction.text(line) == line


def test_pairs_and_labelled_values_are_masked_in_data():
    """As headers and variables are listed; a list of words is none, and no name of a value is hidden."""
    given = {
        "headers": [["X-Api-Key", PLANTED], ("Authorization", f"Token {PLANTED}"), ["accept", "*/*"]],
        "env": [{"name": "A_KEY", "value": PLANTED}, {"name": "COLOUR", "value": "red"}],
        "tags": {"Key": "db_password", "Value": PLANTED},
        "scopes": ["token", "secret"],
    }
    assert redaction.data(given) == {
        "headers": [["X-Api-Key", "***"], ["Authorization", "***"], ["accept", "*/*"]],
        "env": [{"name": "A_KEY", "value": "***"}, {"name": "COLOUR", "value": "red"}],
        "tags": {"Key": "db_password", "Value": "***"},
        "scopes": ["token", "secret"],
    }
