"""Which events a Selection means: filters, payloads, pages."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.events.stored import START, add_all, fresh_store, pull

from moorline.errors import ConfigurationError
from moorline.events import Handlers, Inbox
from moorline.events.selection import Selection, fits
from moorline.events.selection_sql import read_page, resolve_ids
from moorline.services import GitHub, Stripe
from moorline.store.store import Store


def everything() -> Handlers:
    handlers = Handlers()
    handlers.on(GitHub, "*", name="all")(len)
    handlers.on(Stripe, "*", name="money")(len)
    return handlers


def read_all(store: Store, selection: Selection, *, limit: int = 200, handler: str | None = None) -> list[str]:
    """The ids of what is selected, page by page to the end."""
    handlers, ids, position, final = everything(), [], None, False
    while not final:
        page = store.read_sync(read_page, selection, handlers, handler, position, limit)
        assert len(page.chosen) <= limit
        ids += [one.head.id for one in page.chosen]
        position, final = page.position, page.final
    return ids


@pytest.fixture
def filled(store: Store) -> tuple[Store, list[str]]:
    """Twelve events: GitHub's, every third Stripe's, every fourth opened instead of closed."""
    inbox = Inbox(store, everything())
    events = [
        pull(
            number,
            service="stripe" if number % 3 == 0 else "github",
            action="opened" if number % 4 == 0 else "closed",
            customer=f"cus_{number % 2}",
        )
        for number in range(12)
    ]
    return store, add_all(inbox, events)


def test_each_field_narrows(filled: tuple[Store, list[str]]):
    """Service, type with and without action, ids from and to, times from and before: each alone, and together."""
    store, ids = filled
    cases: list[tuple[Selection, Any]] = [
        (Selection(), range(12)),
        (Selection(type="*"), range(12)),
        (Selection(service="stripe"), (0, 3, 6, 9)),
        (Selection(type="pull_request"), range(12)),
        (Selection(type="pull_request.opened"), (0, 4, 8)),
        (Selection(type="opened"), ()),
        (Selection(first=ids[3], last=ids[5]), (3, 4, 5)),
        (Selection(since=START + 10), (10, 11)),
        (Selection(until=START + 2), (0, 1)),
        (Selection(ids=(ids[2], ids[7])), (2, 7)),
        (Selection(where={"customer": "cus_1"}), (1, 3, 5, 7, 9, 11)),
        (Selection(where={"customer": "cus_1", "number": 5}), (5,)),
        (Selection(service="stripe", since=START + 3, until=START + 9), (3, 6)),
        (Selection(service="nobody"), ()),
    ]
    for selection, numbers in cases:
        for limit in (1, 2, 200):
            assert read_all(store, selection, limit=limit) == [ids[n] for n in numbers], selection
    assert read_all(store, Selection(), handler="money") == [ids[n] for n in (0, 3, 6, 9)]


def test_ids_are_found_by_either_name(filled: tuple[Store, list[str]], rows: Any):
    """The inbox's id, the sender's, and the one that is kept beside a key of another kind; unknown ones find nothing."""
    store, ids = filled

    def own(connection: Any, payloads: list[str]) -> list[None]:
        for id_ in payloads:
            connection.exec_driver_sql(f"UPDATE events SET sender_id = 'guid-4' WHERE id = '{id_}'")
        return [None]

    store.write_sync(own, ids[4])
    given_ = ["7:3", ids[5], "guid-4", "nothing", "\x00"]
    found = store.read_sync(resolve_ids, given_)
    assert found == {"7:3": [ids[3]], ids[5]: [ids[5]], "guid-4": [ids[4]], "nothing": [], "\x00": []}


def test_only_the_handlers_whose_last_job_ended_badly(store: Store):
    """A handler that worked, or was mended since, is left alone; one that will be tried again has failed and is not dead."""
    handlers = everything()
    handlers.on(GitHub, "*", name="other")(len)
    inbox = Inbox(store, handlers)
    ids = add_all(inbox, [pull(n) for n in range(5)])

    def play(connection: Any, payloads: list[Any]) -> list[None]:
        def set_(number: int, name: str, values: str) -> None:
            connection.exec_driver_sql(
                f"UPDATE jobs SET {values} WHERE event_id = '{ids[number]}' AND name = 'event:{name}'"
            )

        set_(0, "all", "state = 'done'")
        set_(1, "all", "state = 'dead', last_error = 'x'")
        set_(2, "all", "last_error = 'x'")
        set_(3, "all", "state = 'dead', last_error = 'x'")
        set_(4, "all", "state = 'done', last_error = 'x'")
        return [None]

    store.write_sync(play, None)
    (mended,) = inbox.replay_sync(ids[3], handler="all")

    def mend(connection: Any, payloads: list[str]) -> list[None]:
        connection.exec_driver_sql(f"UPDATE jobs SET state = 'done' WHERE id = '{payloads[0]}'")
        return [None]

    store.write_sync(mend, mended)

    def chosen(selection: Selection) -> list[tuple[str, list[str]]]:
        page = store.read_sync(read_page, selection, handlers, None, None, 100)
        return [(one.head.id, [handler.name for handler in one.handlers]) for one in page.chosen]

    assert chosen(Selection(ended="dead")) == [(ids[1], ["all"])]
    assert chosen(Selection(ended="failed")) == [(ids[1], ["all"]), (ids[2], ["all"])]


def test_a_payload_is_looked_into_by_dotted_places():
    """Objects by name, lists by number; text also stands for the number or word that is written like it."""
    payload = {
        "data": {"object": {"customer": "cus_1", "paid": True, "amount": 20, "none": None, "items": [{"id": 7}]}}
    }
    place = "data.object."
    for where in (
        {place + "customer": "cus_1"},
        {place + "paid": True},
        {place + "paid": "true"},
        {place + "amount": 20},
        {place + "amount": "20"},
        {place + "amount": 20.0},
        {place + "none": None},
        {place + "none": "null"},
        {place + "items.0.id": 7},
        {},
    ):
        assert fits(payload, where), where
    for where in (
        {place + "customer": "cus_2"},
        {place + "paid": 1},
        {place + "amount": True},
        {place + "missing": None},
        {place + "items.1.id": 7},
        {place + "items.x": 7},
        {place + "customer.x": 7},
        {place + "items": "[]"},
    ):
        assert not fits(payload, where), where
    assert not fits([], {"x": 1})


def test_bodies_that_are_not_json_have_no_values(store: Store):
    """They are passed over by a payload filter, and selected without one."""
    ids = add_all(Inbox(store), [pull(0, body=b"\xff"), pull(1)])
    assert read_all(store, Selection(where={"number": 1})) == [ids[1]]
    assert read_all(store, Selection()) == ids


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ids", "evt_1"),
        ("ids", ("",)),
        ("ids", ("x",) * 10_001),
        ("service", "\x00"),
        ("type", 7),
        ("since", "yesterday"),
        ("until", float("nan")),
        ("until", True),
        ("ended", "done"),
        ("where", ["a"]),
        ("where", {"a..b": 1}),
        ("where", {"a": [1]}),
    ],
)
def test_a_wrong_field_is_named(field: str, value: Any):
    """ConfigurationError begins with the name of the field."""
    with pytest.raises(ConfigurationError, match=f"^{field}:"):
        Selection(**{field: value})


texts = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=5)
selections = st.builds(
    Selection,
    ids=st.lists(texts, max_size=3).map(tuple),
    service=st.none() | texts,
    type=st.none() | texts,
    since=st.none() | st.floats(0, 1e12),
    ended=st.sampled_from([None, "dead", "failed"]),
    where=st.dictionaries(texts.filter(lambda text: "." not in text), st.none() | st.integers() | texts, max_size=2),
)


@given(selections)
@example(Selection())
def test_a_selection_survives_being_stored(selection: Selection):
    """What a replay is resumed with is what it was started with."""
    assert Selection.from_json(selection.to_json()) == selection
    assert selection.is_everything == (selection == Selection())


@given(
    kinds=st.lists(
        st.tuples(st.sampled_from(["github", "stripe"]), st.sampled_from(["opened", "closed"])), max_size=40
    ),
    service=st.sampled_from([None, "github", "stripe"]),
    action=st.sampled_from([None, "opened"]),
    since=st.none() | st.integers(-1, 41),
    until=st.none() | st.integers(-1, 41),
    limit=st.integers(1, 50),
    stretch=st.integers(1, 50),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
def test_pages_of_any_size_are_the_whole(
    monkeypatch: pytest.MonkeyPatch,
    kinds: list[tuple[str, str]],
    service: str | None,
    action: str | None,
    since: int | None,
    until: int | None,
    limit: int,
    stretch: int,
):
    """Whatever the sizes of pages and stretches: each selected event once, in the order of arrival."""
    monkeypatch.setattr("moorline.events.selection_sql.STRETCH", stretch)
    selection = Selection(
        service=service,
        type=f"pull_request.{action}" if action else None,
        since=None if since is None else max(START + since, 0),
        until=None if until is None else START + until,
    )
    with fresh_store() as store:
        events = [pull(n, service=sender, action=act) for n, (sender, act) in enumerate(kinds)]
        ids = add_all(Inbox(store), events)
        expected = [
            id_
            for n, (id_, event) in enumerate(zip(ids, events, strict=True))
            if service in (None, event.service)
            and action in (None, event.action)
            and (since is None or n >= since)
            and (until is None or n < until)
        ]
        assert read_all(store, selection, limit=limit) == expected
        some = dataclasses.replace(selection, ids=tuple(ids[::2]))
        assert read_all(store, some, limit=limit) == [one for one in expected if one in some.ids]
