"""What Slack answers and tells, as values: messages, channels, users, files; events, commands, interactions.

Facts: services/business/slack.md; slack_sdk 3.47.0 (the arguments and answers of methods); the reference pages of
docs.slack.dev for the methods that slack.json does not have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from moorline.services.answers import flag, items, moment, optional_text, record, text, whole

if TYPE_CHECKING:
    from moorline.events.event import Event

__all__ = [
    "Hidden",
    "ScheduledMessage",
    "SlackChannel",
    "SlackCommand",
    "SlackEvent",
    "SlackFile",
    "SlackInteraction",
    "SlackMessage",
    "SlackUser",
    "channel_of",
    "file_of",
    "message_of",
    "read",
    "user_of",
]

_INTERACTIONS: Final = frozenset(
    {"block_actions", "block_suggestion", "message_action", "shortcut", "view_closed", "view_submission"}
)


class Hidden(str):
    """An address that is a secret in itself; its ``repr`` shows nothing of it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


@dataclass(frozen=True, slots=True)
class SlackMessage:
    """A message: *channel* and *ts* together are its id. *ts* is a text and no number: as a float it is another one.

    *user* or *bot_id* wrote it; *thread_ts* is the ts of the thread that it is in. *warning* is what Slack had to say
    of a request that it took.
    """

    channel: str
    ts: str
    text: str = ""
    user: str | None = None
    bot_id: str | None = None
    thread_ts: str | None = None
    subtype: str | None = None
    reply_count: int = 0
    warning: str | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class ScheduledMessage:
    """A message that Slack will post at *post_at*; *id* calls it off."""

    id: str
    channel: str
    post_at: datetime | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class SlackChannel:
    """A conversation: a channel, or a direct message (*name* is None then, *user* the other one)."""

    id: str
    name: str | None = None
    is_private: bool = False
    is_archived: bool = False
    is_member: bool = False
    topic: str = ""
    user: str | None = None
    members: int | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class SlackUser:
    """Somebody in a workspace. *email* is None without the scope ``users:read.email``; *deleted* are deactivated."""

    id: str
    name: str
    real_name: str | None = None
    email: str | None = field(default=None, repr=False)
    team_id: str | None = None
    is_bot: bool = False
    deleted: bool = False
    time_zone: str | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class SlackFile:
    """A file that was uploaded. Slack looks at it later: what it finds out (*mimetype*, *permalink*) may not be there
    yet.
    """

    id: str
    title: str | None = None
    name: str | None = None
    mimetype: str | None = None
    permalink: str | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class SlackEvent:
    """Something that happened, by the Events API: ``message``, ``app_mention``, ``reaction_added``, ….

    *channel* and *ts* are those of the message that it is about, also for a reaction (*reaction* is the emoji's name).
    *event* is the inner event as it came.
    """

    type: str
    id: str | None = None
    team_id: str | None = None
    user: str | None = None
    bot_id: str | None = None
    channel: str | None = None
    ts: str | None = None
    thread_ts: str | None = None
    text: str = ""
    subtype: str | None = None
    reaction: str | None = None
    at: datetime | None = None
    event: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def by_bot(self) -> bool:
        """Whether a bot wrote it, perhaps this one: who answers it may be answering itself for ever."""
        return self.bot_id is not None or self.subtype == "bot_message"

    @property
    def reply_to(self) -> str | None:
        """The *thread_ts* for a reply: that of its thread, else its own, which begins one."""
        return self.thread_ts or self.ts


@dataclass(frozen=True, slots=True)
class SlackCommand:
    """A slash command that *user* gave in *channel*. *text* is what stood behind it.

    *response_url* takes answers (``Slack.respond``) and is a secret; *trigger_id* opens a dialog within 3 seconds.
    """

    command: str
    text: str
    user: str
    channel: str
    team_id: str | None = None
    user_name: str | None = None
    trigger_id: str | None = field(default=None, repr=False)
    response_url: str | None = field(default=None, repr=False)
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class SlackInteraction:
    """A button that was pressed, a shortcut, a dialog that was sent or closed, by *user*.

    *actions* are the elements that were used, as Slack describes them; *values* the state of a dialog's or message's
    inputs by block and action; *name* the first ``action_id``, or the ``callback_id``. *channel* and *ts* are those of
    the message that it stands in. *response_url* and *trigger_id* are as for a command.
    """

    type: str
    user: str
    name: str | None = None
    team_id: str | None = None
    channel: str | None = None
    ts: str | None = None
    actions: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    values: Mapping[str, Any] = field(default_factory=dict, repr=False)
    trigger_id: str | None = field(default=None, repr=False)
    response_url: str | None = field(default=None, repr=False)
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


def message_of(value: object, channel: str | None = None, *, warning: str | None = None) -> SlackMessage:
    """A message of an answer; *channel* where it does not name its own. Raises BadAnswer."""
    found = record(value, "the message")
    return SlackMessage(
        channel=text(found, "channel") if channel is None else channel,
        ts=text(found, "ts"),
        text=optional_text(found, "text") or "",
        user=optional_text(found, "user"),
        bot_id=optional_text(found, "bot_id"),
        thread_ts=optional_text(found, "thread_ts"),
        subtype=optional_text(found, "subtype"),
        reply_count=whole(found, "reply_count", 0),
        warning=warning,
        raw=found,
    )


def channel_of(value: object) -> SlackChannel:
    """A channel of an answer. Raises BadAnswer."""
    found = record(value, "a channel")
    topic = found.get("topic")
    return SlackChannel(
        id=text(found, "id"),
        name=optional_text(found, "name"),
        is_private=flag(found, "is_private"),
        is_archived=flag(found, "is_archived"),
        is_member=flag(found, "is_member"),
        topic="" if topic is None else optional_text(record(topic, "topic"), "value") or "",
        user=optional_text(found, "user"),
        members=whole(found, "num_members") if "num_members" in found else None,
        raw=found,
    )


def user_of(value: object) -> SlackUser:
    """A user of an answer. Raises BadAnswer."""
    found = record(value, "the user")
    profile = record(found.get("profile") or {}, "profile")
    return SlackUser(
        id=text(found, "id"),
        name=text(found, "name"),
        real_name=optional_text(found, "real_name") or optional_text(profile, "real_name"),
        email=optional_text(profile, "email"),
        team_id=optional_text(found, "team_id"),
        is_bot=flag(found, "is_bot"),
        deleted=flag(found, "deleted"),
        time_zone=optional_text(found, "tz"),
        raw=found,
    )


def file_of(value: object) -> SlackFile:
    """A file of an answer. Raises BadAnswer."""
    found = record(value, "the file")
    return SlackFile(
        id=text(found, "id"),
        title=optional_text(found, "title"),
        name=optional_text(found, "name"),
        mimetype=optional_text(found, "mimetype"),
        permalink=optional_text(found, "permalink"),
        raw=found,
    )


def read(event: Event) -> SlackEvent | SlackCommand | SlackInteraction | None:
    """What an event of Slack's means; None for what is none of the three. Raises BadAnswer."""
    told = record(event.payload, "the event")
    if event.type == "command":
        return _command(told)
    kind = optional_text(told, "type")
    if kind == "event_callback":
        return _event(told, record(told.get("event"), "event"))
    if kind == "app_rate_limited":
        return SlackEvent(
            kind, team_id=optional_text(told, "team_id"), at=moment(told, "minute_rate_limited"), raw=told
        )
    return _interaction(told) if kind in _INTERACTIONS else None


def _command(told: Mapping[str, Any]) -> SlackCommand:
    return SlackCommand(
        command=text(told, "command"),
        text=optional_text(told, "text") or "",
        user=text(told, "user_id"),
        channel=text(told, "channel_id"),
        team_id=optional_text(told, "team_id"),
        user_name=optional_text(told, "user_name"),
        trigger_id=optional_text(told, "trigger_id"),
        response_url=optional_text(told, "response_url"),
        raw=told,
    )


def _event(told: Mapping[str, Any], inner: Mapping[str, Any]) -> SlackEvent:
    # A reaction names its message under "item"; an edit has the new text under "message".
    item = inner.get("item")
    about = record(item, "item") if isinstance(item, dict) else inner
    edited = inner.get("message")
    content = record(edited, "message") if isinstance(edited, dict) else inner
    return SlackEvent(
        type=text(inner, "type"),
        id=optional_text(told, "event_id"),
        team_id=optional_text(told, "team_id"),
        user=_id(inner.get("user")) or _id(content.get("user")) or _id(inner.get("user_id")),
        bot_id=optional_text(content, "bot_id"),
        channel=_id(about.get("channel")) or _id(inner.get("channel_id")),
        ts=optional_text(about, "ts") if content is inner else optional_text(content, "ts"),
        thread_ts=optional_text(content, "thread_ts"),
        text=optional_text(content, "text") or "",
        subtype=optional_text(inner, "subtype"),
        reaction=optional_text(inner, "reaction"),
        at=moment(told, "event_time"),
        event=inner,
        raw=told,
    )


def _interaction(told: Mapping[str, Any]) -> SlackInteraction:
    actions = tuple(record(one, "an action") for one in items(told.get("actions") or [], "actions"))
    view = record(told.get("view") or {}, "view")
    state = record(view.get("state") or told.get("state") or {}, "state")
    container = record(told.get("container") or told.get("message") or {}, "the message")
    urls = items(told.get("response_urls") or [], "response_urls")  # of dialogs that ask for them
    named = record(urls[0], "response_urls") if urls else {}
    return SlackInteraction(
        type=text(told, "type"),
        user=text(record(told.get("user"), "user"), "id"),
        name=(optional_text(actions[0], "action_id") if actions else None)
        or optional_text(told, "action_id")
        or optional_text(told, "callback_id")
        or optional_text(view, "callback_id"),
        team_id=_id(told.get("team")),
        channel=_id(told.get("channel")) or optional_text(container, "channel_id"),
        ts=optional_text(container, "message_ts") or optional_text(container, "ts"),
        actions=actions,
        values=record(state.get("values") or {}, "values"),
        trigger_id=optional_text(told, "trigger_id"),
        response_url=optional_text(told, "response_url") or optional_text(named, "response_url"),
        raw=told,
    )


def _id(value: object) -> str | None:
    """The id of what is named by its id, or described with it (events of new channels and users)."""
    if isinstance(value, dict):
        value = value.get("id")
    return value if isinstance(value, str) else None
