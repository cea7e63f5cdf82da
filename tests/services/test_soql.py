"""Values in SOQL are values, whatever they hold."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorline import errors
from moorline.sandbox.services._soql import Malformed, parsed
from moorline.services.soql import Like, field_name, quoted, soql, written

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
hostile = st.text(st.sampled_from("'\\\"%_{} \n\tOR=()1"), max_size=20)


@given(texts | hostile)
def test_a_text_stays_one_value(text: str):
    """Whatever a text holds, the query has the one condition that its template has, with that very text; control
    characters that have no form are refused.
    """
    try:
        query = soql("SELECT Id FROM Contact WHERE Email = {email} AND A = 1", email=text)
    except errors.InvalidRequest as error:
        assert error.code == "email"  # noqa: PT017
        assert any(one < " " or one == "\x7f" for one in text)
        return
    read = parsed(query)
    assert [(name, sign, str(value)) for name, sign, value in read.conditions] == [
        ("Email", "=", text),
        ("A", "=", "1.0"),
    ]


@given(text=hostile, other=hostile)
def test_a_pattern_means_its_text(text: str, other: str):
    """A Like matches what begins with its text, whatever wildcards are in that, and nothing else."""
    read = parsed(soql("SELECT Id FROM Contact WHERE Name LIKE {name}", name=Like(text)))
    assert read.matches({"Name": text + other})
    assert read.matches({"Name": other}) is other.lower().startswith(text.lower())


@given(st.lists(texts | hostile, min_size=1, max_size=4))
def test_a_list_stays_a_list(values: list[str]):
    """Each of its values stays one."""
    try:
        query = soql("SELECT Id FROM A WHERE B IN {values} LIMIT 5", values=values)
    except errors.InvalidRequest:
        return
    [(_, _, found)] = parsed(query).conditions
    assert [str(one) for one in found] == values


@pytest.mark.parametrize(
    ("value", "literal"),
    [
        ("O'Brien \\", "'O\\'Brien \\\\'"),
        ('say "hi"\n', "'say \\\"hi\\\"\\n'"),
        (True, "true"),
        (None, "null"),
        (17, "17"),
        (-1.5, "-1.5"),
        (1e22, "10000000000000000000000"),
        (Decimal("12.50"), "12.50"),
        (date(2026, 11, 28), "2026-11-28"),
        (datetime(2026, 11, 28, 10, 0, 0, 123_000, tzinfo=UTC), "2026-11-28T10:00:00.123Z"),
        (["a", 1], "('a', 1)"),
        (Like("50%_x"), "'50\\%\\_x%'"),
        (Like("a'b", before="%", after=""), "'%a\\'b'"),
    ],
)
def test_literals(value: Any, literal: str):
    """Each kind of value has the form that SOQL gives it."""
    assert quoted(value) == literal


@pytest.mark.parametrize(
    ("template", "values", "field"),
    [
        ("SELECT Id FROM A WHERE B = {b}", {}, "b"),
        ("SELECT Id FROM A", {"b": 1}, "b"),
        ("SELECT Id FROM A WHERE B = '{b}'", {"b": 1}, "b"),
        ("SELECT Id FROM A WHERE B = 'it\\'s {b}'", {"b": 1}, "b"),
        ("WHERE B IN {b}", {"b": []}, "b"),
        ("WHERE B = {b}", {"b": b"x"}, "b"),
        ("WHERE B = {b}", {"b": math.nan}, "b"),
        ("WHERE B = {b}", {"b": "\x00"}, "b"),
        ("WHERE B = {b}", {"b": datetime(2026, 1, 1)}, "b"),  # noqa: DTZ001
    ],
)
def test_what_is_refused(template: str, values: dict[str, Any], field: str):
    """A hole without a value, a value without a hole, a hole in quotes, and what has no form: each is named."""
    with pytest.raises(errors.InvalidRequest) as caught:
        soql(template, **values)
    assert (caught.value.code, caught.value.outcome) == (field, "not_sent")


def test_a_hole_after_quotes_is_filled():
    """Quotes that are closed, and escaped ones within them, do not matter; what a value holds is no hole."""
    assert soql("WHERE A = 'it\\'s' AND B = {b}", b="{c}") == "WHERE A = 'it\\'s' AND B = '{c}'"
    with pytest.raises(errors.InvalidRequest):
        Like("x", before="a")


@given(texts | hostile)
def test_names_are_names(name: str):
    """Only letters, figures, '_' and the dots between them are a name of a field."""
    try:
        assert field_name(name) == name
    except errors.InvalidRequest:
        return
    assert parsed(f"SELECT {name} FROM A").fields == (name,)


def test_records_are_written():
    """Times are in UTC, dates and decimals as Salesforce takes them, all else as it is."""
    at = datetime(2026, 11, 28, 11, tzinfo=UTC)
    fields = {"At": at, "On": date(2026, 11, 28), "Amount": Decimal("1.5"), "Name": "x", "Owner": {"Ext__c": "1"}}
    assert written(fields) == {
        "At": "2026-11-28T11:00:00.000Z",
        "On": "2026-11-28",
        "Amount": 1.5,
        "Name": "x",
        "Owner": {"Ext__c": "1"},
    }


@pytest.mark.parametrize(
    "query",
    ["", "SELECT", "SELECT Id", "SELECT Id FROM", "SELECT Id FROM A WHERE", "SELECT Id FROM A WHERE B", "SELECT Id FROM A X",
     "SELECT Id FROM A WHERE B = 'x", "SELECT Id FROM A WHERE B IN 'x'", "SELECT Id FROM A WHERE B IN ('x'",
     "SELECT Id FROM A WHERE B = x", "SELECT Id FROM A LIMIT x", "SELECT Id FROM A WHERE B ( 1", "SELECT Id; FROM A"],
)  # fmt: skip
def test_the_sandbox_knows_what_is_no_query(query: str):
    """What is no query is told as Salesforce tells it."""
    with pytest.raises(Malformed):
        parsed(query)


def test_the_sandbox_compares_as_salesforce_does():
    """Texts without case, times as moments, numbers as numbers, and null; an order, both ways, and a limit."""
    read = parsed(
        "SELECT Id FROM A WHERE B = 'X' AND C < 3 AND D >= 2026-01-01T00:00:00Z AND E = null AND F != true AND G IN (1, 'y')"
    )
    good = {"B": "x", "C": 2, "D": "2026-01-01T01:00:00.000+0000", "E": None, "F": False, "G": "Y"}
    assert read.matches(good)
    for name, value in (
        ("B", "y"),
        ("C", 3),
        ("C", None),
        ("D", "2025-12-31T23:00:00Z"),
        ("E", 1),
        ("F", True),
        ("G", 2),
    ):
        assert not read.matches(good | {name: value}), name
    rows: list[dict[str, Any]] = [{"A": 1, "B": "b"}, {"A": 2, "B": "a"}, {"A": 2, "B": "b"}]
    ordered = parsed("SELECT A FROM X ORDER BY A DESC, B LIMIT 2").ordered(rows)
    assert ordered == [{"A": 2, "B": "a"}, {"A": 2, "B": "b"}]
    with pytest.raises(Malformed):
        parsed("SELECT A FROM X WHERE A LIKE 5").matches({"A": "x"})
