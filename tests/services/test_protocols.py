"""The values that all services of a category share: how texts are counted, what numbers are, what a push may be."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorline import errors
from moorline.services.push.protocol import Push, PushReport, PushResult
from moorline.services.sms.protocol import SMS, Segments, international, phone_number, segments

GSM = "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡AÄÖÑÜ§¿aäöñüà"
ESCAPED = "\f^{}\\[~]|€"


@pytest.mark.parametrize(
    ("text", "counted"),
    [
        ("", Segments("GSM-7", 0, 1)),
        ("a" * 160, Segments("GSM-7", 160, 1)),
        ("a" * 161, Segments("GSM-7", 161, 2)),
        ("a" * 306, Segments("GSM-7", 306, 2)),
        ("a" * 307, Segments("GSM-7", 307, 3)),
        ("€" * 80, Segments("GSM-7", 160, 1)),
        ("€" * 81, Segments("GSM-7", 162, 2)),
        ("a" * 152 + "€" + "a" * 152, Segments("GSM-7", 306, 3)),  # the euro does not fit into the first part
        ("ç", Segments("UCS-2", 1, 1)),  # only the capital one is in the alphabet
        ("`", Segments("UCS-2", 1, 1)),
        ("ж" * 70, Segments("UCS-2", 70, 1)),
        ("ж" * 71, Segments("UCS-2", 71, 2)),
        ("ж" * 134, Segments("UCS-2", 134, 2)),
        ("😀" * 35, Segments("UCS-2", 70, 1)),
        ("😀" * 36, Segments("UCS-2", 72, 2)),
        ("ж" * 66 + "😀" + "ж" * 66, Segments("UCS-2", 134, 3)),
        ("\u2019" + "a" * 70, Segments("UCS-2", 71, 2)),
    ],
)
def test_segments(text: str, counted: Segments):
    """As 3GPP TS 23.038 and 23.040 count: 160 and 153 septets, 70 and 67 code units, no character divided."""
    assert segments(text) == counted


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("447700900000", "+447700900000"),
        ("+447700900000", "+447700900000"),
        ("60777", "60777"),
        ("07700900000", "07700900000"),
        ("Moorline", "Moorline"),
        ("", ""),
    ],
)
def test_a_number_gets_its_plus(said: str, shown: str):
    """What is no international number (a short code, a name) stays as it is."""
    assert international(said) == shown


@given(st.text(st.sampled_from(GSM + ESCAPED), max_size=700))
def test_gsm_text_is_counted_in_septets(text: str):
    """Every text of the alphabet is GSM-7; the parts hold it, and no fewer would."""
    found = segments(text)
    units = len(text) + sum(letter in ESCAPED for letter in text)
    assert (found.encoding, found.units) == ("GSM-7", units)
    if units <= 160:
        assert found.count == 1
    else:
        assert -(-units // 153) <= found.count <= -(-units // 152)


@given(st.text(max_size=300))
def test_any_text_is_counted(text: str):
    """Whatever is written, the count is that of UTF-16 where the alphabet does not have it."""
    found = segments(text)
    if found.encoding == "UCS-2":
        assert found.units == len(text.encode("utf-16-le", "surrogatepass")) // 2
    assert found.count >= 1


@pytest.mark.parametrize("number", ["+447700900000", "+15005550006", "+4915123456789", "+390612345678"])
def test_numbers(number: str):
    """Numbers that a numbering plan allows, and test numbers of vendors among them."""
    assert phone_number(number) == number


@pytest.mark.parametrize(
    "wrong",
    ["", "447700900000", "+0123456789", "+44 7700 900000", "07700900000", "+1", "+44770090000000000", "+999123456789",
     "+44\uff17700900000", "+447700900000\n", "tel:+447700900000", 447700900000, None],
)  # fmt: skip
def test_what_is_no_number(wrong: Any):
    """It is refused by name, and nothing is guessed."""
    with pytest.raises(errors.InvalidRequest, match=r"^to:"):
        phone_number(wrong)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"to": "0770"}, "to"),
        ({"text": ""}, "text"),
        ({"text": 5}, "text"),
        ({"sender": ""}, "sender"),
        ({"sender": "+0"}, "sender"),
        ({"sender": "a\nb"}, "sender"),
        ({"callback": "ftp://x"}, "callback"),
        ({"reference": "a\r\nb"}, "reference"),
    ],
)
def test_what_is_no_message(change: dict[str, Any], field: str):
    """A message that nobody could send cannot be made."""
    with pytest.raises(errors.InvalidRequest, match=f"^{field}:"):
        SMS(**{"to": "+447700900000", "text": "Hi", **change})


def test_without_phonenumbers_it_is_said():
    """The extra is named."""
    code = (
        "import sys; sys.modules['phonenumbers'] = None\n"
        "from moorline.services.sms.protocol import SMS\n"
        "try:\n    SMS('+447700900000', 'x')\nexcept Exception as e:\n    print(type(e).__name__, e)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "ConfigurationError" in done.stdout
    assert "moorline[sms]" in done.stdout


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"body": None}, "body"),
        ({"data": {"a": 1}}, "data"),
        ({"ttl": -1}, "ttl"),
        ({"ttl": 1.5}, "ttl"),
        ({"ttl": True}, "ttl"),
        ({"priority": "urgent"}, "priority"),
        ({"title": 5}, "title"),
    ],
)
def test_what_is_no_push(change: dict[str, Any], field: str):
    """A notification that nobody could send cannot be made."""
    with pytest.raises(errors.InvalidRequest, match=f"^{field}"):
        Push(**{"body": "x", **change})


def test_a_report_tells_dead_from_busy():
    """Which targets to delete, which to try again, and which neither."""
    again = errors.ServiceUnavailable("later", retryable=True, outcome="not_sent")
    report = PushReport(
        (
            PushResult("a", id="1"),
            PushResult("b", dead=True, error=errors.NotFound("gone")),
            PushResult("c", error=again),
            PushResult("d", error=errors.InvalidRequest("no", retryable=False)),
        )
    )
    assert (report.sent, report.dead, report.again) == (1, ("b",), ("c",))
    assert [one.target for one in report.failed] == ["c", "d"]


HALF = "A\ud800"


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: SMS("+447700900000", HALF), "text"),
        (lambda: Push(body=HALF), "body"),
        (lambda: Push(body="x", title=HALF), "title"),
        (lambda: Push(body="x", data={"a": HALF}), r"data\[a\]"),
        (lambda: Push(body="x", data={HALF: "a"}), "data"),
    ],
)
def test_half_a_surrogate_pair_is_refused(make: Callable[[], object], field: str):
    """It comes out of ordinary JSON, and no request can carry it: the error names the field."""
    with pytest.raises(errors.InvalidRequest, match=f"^{field}"):
        make()
