from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.contracts import decoded_multipart

from moorline.calls.multipart import File, encode_multipart
from moorline.errors import ConfigurationError

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
# "%" and line breaks are escaped as browsers do it, and no parser turns that back.
names = st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters='"%\\'), min_size=1, max_size=20)
files = st.builds(File, names, st.binary(max_size=60), st.sampled_from(["application/pdf", "image/png"]))


@given(st.lists(st.tuples(names, texts | files), min_size=1, max_size=6))
def test_a_form_decodes_back(fields: list[tuple[str, str | File]]):
    """A parser of another project reads the very fields and files that were encoded, each as often as it came."""
    body, content_type = encode_multipart(fields)
    assert decoded_multipart(body, content_type) == [
        (name, one if isinstance(one, str) else (one.filename, one.type, one.content)) for name, one in fields
    ]


def test_the_spelling():
    """Equal fields give equal bytes; quotes and line breaks in names cannot end a header."""
    fields: list[tuple[str, str | File]] = [
        ("o:tag", "a\r\nb"),
        ('x"\r\ny', File('ü".pdf\n', b"\x00\r\n--", "text/plain")),
    ]
    body, content_type = encode_multipart(fields)
    line = "--" + content_type.partition("boundary=")[2]
    assert body.decode() == (
        f'{line}\r\nContent-Disposition: form-data; name="o:tag"\r\n\r\na\r\nb\r\n'
        f'{line}\r\nContent-Disposition: form-data; name="x%22%0D%0Ay"; filename="ü%22.pdf%0A"\r\n'
        f"Content-Type: text/plain\r\n\r\n\x00\r\n--\r\n{line}--\r\n"
    )
    assert encode_multipart(fields) == (body, content_type)
    assert encode_multipart([*fields, ("a", "b")])[1] != content_type


@pytest.mark.parametrize("value", [File("a", b"", "text/plain\r\nX: y"), "\ud800"])
def test_what_cannot_be_sent_is_named(value: str | File):
    """A type that would smuggle in a header, and half a character, are refused by the field's name."""
    with pytest.raises(ConfigurationError, match=r"multipart\.field"):
        encode_multipart([("field", value)])
