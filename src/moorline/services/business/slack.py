"""Slack: messages, threads, channels, people and files of a workspace; what happens there, and what people do: events,
commands, buttons, dialogs.

Facts: services/business/slack.md; contract: slack.json; slack_sdk 3.47.0 (``web/client.py``: the arguments of methods,
and the three steps of an upload); the reference pages of docs.slack.dev for scheduled messages and the tiers of methods
that the card does not name. Slack honours no idempotency keys: a message that was sent and not
answered is OutcomeUnknown.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

from moorline.calls.service import Exchange, Page, Plan, listing, operation
from moorline.calls.upload import Upload
from moorline.errors import BadAnswer
from moorline.events.delivery import Delivers, Reply
from moorline.events.handshakes import BodyEcho
from moorline.events.schemes.hmac_signature import HMACSignature
from moorline.services import slack_objects as objects
from moorline.services.answers import items, moment, optional_text, record, text
from moorline.services.limits import as_text, at_most, refused
from moorline.services.slack_account import HOOK, SlackAccount
from moorline.services.slack_objects import (
    Hidden,
    ScheduledMessage,
    SlackChannel,
    SlackCommand,
    SlackEvent,
    SlackFile,
    SlackInteraction,
    SlackMessage,
    SlackUser,
)
from moorline.services.slack_rules import ERRORS, JSON, content_of, given_id, given_ts, notes, present

if TYPE_CHECKING:
    from moorline.events.event import Event

__all__ = ["Slack"]

T = TypeVar("T")


_FARTHEST: Final = 120 * 86_400  # seconds: how far ahead a message can be scheduled
_ALT: Final = 1000
_PAGE: Final = 200
_MOST: Final = 1000


class Slack(SlackAccount):
    """Slack, with a bot's or a user's token. Its webhooks are the Events API, slash commands and interactivity, all at
    one address.

    Where tokens rotate give the refresh token (``xoxe-…``, SLACK_REFRESH_TOKEN) with ``client_id`` and
    ``client_secret``: tokens of 12 hours are fetched with it, and renewed. Each ends the refresh token before it: a
    source of the key that has a method ``rotated`` is given the next one to keep. Limits are kept for each operation,
    as Slack keeps them for each method: by tiers of 1, 20, 50 and 100 calls a minute, and one message a second in each
    channel.

    An event's type is that of the inner event (``message``, with ``subtype`` for its action), ``command`` with the
    command for its action (``command./deploy``), or the interaction's (``block_actions``, ``view_submission``) with the
    ``action_id`` or ``callback_id``. Every answer is an empty 200: Slack shows any text to whoever gave the command;
    answer by ``respond``. What must be answered with a content (``block_suggestion``, errors in a dialog) is not served
    by that.

    Workspaces are connected as bots; who acts for users makes a class of its own: ``class Person(Slack): oauth =
    USER_OAUTH`` (of ``moorline.services.slack_account``).

    Facts: services/business/slack.md; contract: slack.json.
    """

    name, category = "slack", "business"
    docs = "services/business/slack.md, slack.json"
    webhooks = HMACSignature(
        header="X-Slack-Signature",
        signed="v0:{timestamp}:{body}",
        prefix="v0=",
        timestamp="header:X-Slack-Request-Timestamp",
        env="SLACK_SIGNING_SECRET",  # whether the old one holds on for a while after it is regenerated is unconfirmed
        id="event_id|trigger_id|form:trigger_id",
        lacking="digest",  # app_rate_limited, view_closed and block_suggestion have neither
        type=("event.type", "type", "has:form:command"),
        action="form:command|event.subtype|actions.0.action_id|callback_id|view.callback_id",
        answer=Reply(200, b""),
        handshakes=(BodyEcho(field="type", value="url_verification", echo="challenge"),),
        delivers=Delivers(within=3, retries="events 3 times: at once, after 1 min, after 5 min; commands never"),
    )
    usage = """
from moorline.services import Slack

slack = Slack()
posted = slack.post_message("C0GENERAL01", "Build 42 failed").result()
slack.post_message(posted.channel, "Log attached", thread_ts=posted.ts).result()
print(slack.find_user("ada@example.com").result().name, [one.name for one in slack.list_channels()])
"""

    # Messages --------------------------------------------------------------------------------------------------------

    @operation
    def post_message(
        self,
        /,
        channel: str,
        text: str | None = None,
        *,
        blocks: Sequence[Mapping[str, Any]] = (),
        thread_ts: str | None = None,
        reply_broadcast: bool | None = None,
        unfurl_links: bool | None = None,
        unfurl_media: bool | None = None,
        metadata: Mapping[str, Any] | None = None,
        markdown_text: str | None = None,
        **extra: object,
    ) -> Plan[SlackMessage]:
        """Post a message to *channel* (an id; a user's id writes to the user). With *thread_ts*, the ``ts`` of a
        thread's first message, it is a reply there, and with *reply_broadcast* it is shown in the channel too.

        *blocks* are Block Kit's, passed through; with them *text* is what notifications show. Escape ``&``, ``<`` and
        ``>`` in text by ``Slack.escape``. *extra* are further fields by Slack's names (``username``, ``attachments``).

        Raises InvalidRequest, naming field and limit, before anything is sent: no content, more than 40,000 characters
        of text (Slack would cut it off), 12,000 of Markdown, 50 blocks, a *thread_ts* that is no text. Raises NotFound,
        Conflict (not in the channel, archived), PermissionDenied, OutcomeUnknown. One a second in each channel.
        """
        content = content_of(text, blocks, extra, markdown_text=markdown_text, metadata=metadata)
        options = {
            "thread_ts": None if thread_ts is None else given_ts("thread_ts", thread_ts),
            "reply_broadcast": reply_broadcast,
            "unfurl_links": unfurl_links,
            "unfurl_media": unfurl_media,
        }
        return self._write("chat.postMessage", {"channel": given_id("channel", channel), **content, **options}, _posted)

    @operation
    def update_message(
        self,
        /,
        channel: str,
        ts: str,
        text: str | None = None,
        *,
        blocks: Sequence[Mapping[str, Any]] | None = None,
        metadata: Mapping[str, Any] | None = None,
        markdown_text: str | None = None,
        **extra: object,
    ) -> Plan[SlackMessage]:
        """Put another content in the place of a message's. Its blocks stay where none are given; ``blocks=[]`` takes
        them away. It is sent again after a lost answer: the second changes nothing more. Tier 3.

        Raises as ``post_message``; NotFound, Conflict (``cant_update_message``, ``edit_window_closed``).
        """
        content = content_of(text, blocks or (), extra, markdown_text=markdown_text, metadata=metadata)
        if blocks is not None and not blocks:
            content["blocks"] = []
        body = {"channel": given_id("channel", channel), "ts": given_ts("ts", ts), **content}
        return self._write("chat.update", body, _posted, again=True)

    @operation
    def delete_message(self, channel: str, ts: str) -> Plan[None]:
        """Delete a message. A bot deletes its own only. Raises NotFound, Conflict (``cant_delete_message``). Tier 3."""
        return self._write("chat.delete", {"channel": given_id("channel", channel), "ts": given_ts("ts", ts)}, _done)

    @operation
    def post_ephemeral(
        self,
        /,
        channel: str,
        user: str,
        text: str | None = None,
        *,
        blocks: Sequence[Mapping[str, Any]] = (),
        thread_ts: str | None = None,
        **extra: object,
    ) -> Plan[str]:
        """Show a message in *channel* to *user* alone, who must be in it and is not told later what was missed. The
        result is its ``ts``, by which it can be neither changed nor deleted. Raises as ``post_message``. Tier 4.
        """
        content = content_of(text, blocks, extra)
        body = {"channel": given_id("channel", channel), "user": given_id("user", user), **content}
        body["thread_ts"] = None if thread_ts is None else given_ts("thread_ts", thread_ts)
        return self._write("chat.postEphemeral", body, lambda exchange: _ts_of(exchange, "message_ts"))

    @operation
    def schedule_message(
        self,
        /,
        channel: str,
        post_at: datetime,
        text: str | None = None,
        *,
        blocks: Sequence[Mapping[str, Any]] = (),
        thread_ts: str | None = None,
        **extra: object,
    ) -> Plan[ScheduledMessage]:
        """Have Slack post a message at *post_at* (with a time zone), within 120 days. It takes at most 30 within 5
        minutes for one channel; and with ``metadata`` it would never be posted (docs.slack.dev). Tier 3.

        Raises as ``post_message``, and InvalidRequest for a time that is past, too far, or has no zone.
        """
        if post_at.tzinfo is None:
            raise refused("post_at", "needs a time zone")
        if "metadata" in extra:
            raise refused("metadata", "keeps Slack from posting a scheduled message")
        ahead = post_at.timestamp() - self.clock.wall()
        if not 0 < ahead <= _FARTHEST:
            raise refused("post_at", "must be in the future, and within 120 days")
        body = {"channel": given_id("channel", channel), "post_at": int(post_at.timestamp())} | content_of(
            text, blocks, extra
        )
        body["thread_ts"] = None if thread_ts is None else given_ts("thread_ts", thread_ts)
        return self._write("chat.scheduleMessage", body, _scheduled)

    @operation
    def cancel_scheduled_message(self, channel: str, scheduled_message_id: str) -> Plan[None]:
        """Call off a message that was scheduled. Raises InvalidRequest for one that is not, or not any more. Tier 3."""
        body = {
            "channel": given_id("channel", channel),
            "scheduled_message_id": given_id("scheduled_message_id", scheduled_message_id),
        }
        return self._write("chat.deleteScheduledMessage", body, _done)

    @operation
    def respond(
        self,
        /,
        response_url: str,
        text: str | None = None,
        *,
        blocks: Sequence[Mapping[str, Any]] = (),
        in_channel: bool = False,
        replace_original: bool | None = None,
        delete_original: bool | None = None,
        **extra: object,
    ) -> Plan[None]:
        """Answer a command or interaction at its *response_url*: seen by that user, or with *in_channel* by all. Slack
        takes 5 answers within 30 minutes. No token is sent. The URL is a secret, which a queued Call holds.

        Raises InvalidRequest for content as ``post_message``, and for a URL that is not at https://hooks.slack.com;
        whatever Slack's word is for one that is used up.
        """
        hook = HOOK.fullmatch(as_text("response_url", response_url))
        if hook is None:
            raise refused("response_url", "must be an address of https://hooks.slack.com, as Slack gave it")
        options = {"replace_original": replace_original, "delete_original": delete_original}
        content: dict[str, Any] = dict(extra) if delete_original and not text else content_of(text, blocks, extra)
        body = {"response_type": "in_channel" if in_channel else "ephemeral", **content, **options}
        # With another base_url (the sandbox) the hooks are there as well: nothing leaves it.
        elsewhere = self.base_url != self.endpoints.default
        path = f"{self.base_url}/hooks{hook[1]}" if elsewhere else response_url
        return self.post(Hidden(path), json=present(body), headers=JSON, parse=_answered, text=True)

    # Conversations ---------------------------------------------------------------------------------------------------

    @listing
    def list_channels(
        self,
        /,
        *,
        types: Sequence[str] = ("public_channel",),
        exclude_archived: bool = True,
        page_size: int = _PAGE,
        **filters: object,
    ) -> Plan[Page[SlackChannel]]:
        """The channels that the token may see; *types* are ``public_channel``, ``private_channel``, ``mpim``, ``im``.

        *page_size* is 1 to 1000; pages may hold fewer, or nothing, and go on all the same. Tier 2.
        """
        query = {"types": ",".join(types), "exclude_archived": exclude_archived, **filters}
        return self._paged("conversations.list", query, page_size, "channels", objects.channel_of)

    @listing
    def list_messages(
        self,
        /,
        channel: str,
        *,
        oldest: str | None = None,
        latest: str | None = None,
        page_size: int = _PAGE,
        **filters: object,
    ) -> Plan[Page[SlackMessage]]:
        """The messages of *channel*, the newest first, without the replies in threads; between two ``ts``, if given.

        *page_size* is 1 to 999 (docs.slack.dev). Tier 3; for apps that are sold outside of Slack's marketplace once a
        minute, with 15 messages.
        """
        query = {"channel": given_id("channel", channel), "oldest": oldest, "latest": latest, **filters}
        return self._messages("conversations.history", query, page_size, channel)

    @listing
    def list_replies(
        self, /, channel: str, thread_ts: str, *, page_size: int = _PAGE, **filters: object
    ) -> Plan[Page[SlackMessage]]:
        """A thread: its first message, then the replies, the oldest first. Limits as for ``list_messages``."""
        query = {"channel": given_id("channel", channel), "ts": given_ts("thread_ts", thread_ts), **filters}
        return self._messages("conversations.replies", query, page_size, channel)

    @operation
    def open_conversation(self, users: Sequence[str]) -> Plan[SlackChannel]:
        """The direct message with one user, or the group of up to 8, opened if need be: post to its id. Tier 3."""
        if isinstance(users, str) or not 1 <= len(users) <= 8:
            raise refused("users", "must be a list of 1 to 8 ids")
        body = {"users": ",".join(given_id("users", user) for user in users), "return_im": True}

        def parse(exchange: Exchange) -> SlackChannel:
            return objects.channel_of(record(exchange.data).get("channel"))

        return self._write("conversations.open", body, parse, again=True)  # opening what is open changes nothing

    @operation
    def add_reaction(self, channel: str, ts: str, name: str) -> Plan[None]:
        """React to a message with the emoji *name* (``eyes``, without colons). Raises Conflict (``already_reacted``).
        Tier 3.
        """
        return self._write("reactions.add", _reaction(channel, ts, name), _done)

    @operation
    def remove_reaction(self, channel: str, ts: str, name: str) -> Plan[None]:
        """Take a reaction of one's own back. Raises Conflict (``no_reaction``). Tier 2."""
        return self._write("reactions.remove", _reaction(channel, ts, name), _done)

    # People ----------------------------------------------------------------------------------------------------------

    @operation
    def find_user(self, email: str) -> Plan[SlackUser]:
        """The user with that e-mail address. Raises NotFound, PermissionDenied without the scope ``users:read.email``.
        Tier 3.
        """
        return self.get("/users.lookupByEmail", query={"email": given_id("email", email)}, parse=_user)

    @operation
    def get_user(self, user: str) -> Plan[SlackUser]:
        """A user by the id. Raises NotFound. Tier 4."""
        return self.get("/users.info", query={"user": given_id("user", user)}, parse=_user)

    # Files -----------------------------------------------------------------------------------------------------------

    @operation
    def upload_file(
        self,
        /,
        file: Any,
        filename: str,
        *,
        channel: str | None = None,
        title: str | None = None,
        initial_comment: str | None = None,
        thread_ts: str | None = None,
        alt_txt: str | None = None,
        snippet_type: str | None = None,
        **extra: object,
    ) -> Plan[SlackFile]:
        """Upload bytes, the file at a path, or an ``Upload`` of known size, and share it in *channel*, with a comment,
        or in a thread; without a channel it stays private.

        In three steps within one deadline: an address is asked for, the bytes are sent there (without the token), and
        the upload is completed. What goes wrong before the last was not shared. For large files give more time by
        ``.using(timeout=…)``. Tier 4.

        Raises InvalidRequest for an empty file, one of unknown size, and an *alt_txt* of more than 1000 characters;
        OSError for a path that cannot be read.
        """
        upload = file if isinstance(file, Upload) else Upload(file)
        if not upload.size:
            raise refused("file", "must not be empty" if upload.size == 0 else "must have a known size")
        at_most("alt_txt", alt_txt or "", _ALT, "characters")
        about = {
            "filename": given_id("filename", filename),
            "length": upload.size,
            "alt_txt": alt_txt,
            "snippet_type": snippet_type,
        }

        def complete(file_id: str) -> Plan[SlackFile]:
            files = json.dumps([{"id": file_id, "title": title or filename}])
            form = {
                "files": files,
                "channel_id": channel,
                "initial_comment": initial_comment,
                "thread_ts": None if thread_ts is None else given_ts("thread_ts", thread_ts),
                **extra,
            }
            return self.post("/files.completeUploadExternal", form=present(form), parse=_file)

        def send(ticket: tuple[str, str]) -> Plan[SlackFile]:
            url, file_id = ticket
            if not self.is_own(url):
                raise BadAnswer("the answer names an address for the upload that is none of Slack's")
            # Nobody sees a file before it is completed: sent twice it is one.
            sent = self.post(Hidden(url), upload=upload, parse=lambda _: file_id, text=True, repeatable=True, acts=True)
            return self.post_after(sent, complete, parse=_file)

        # Nor is an address that is asked for, and not used, a file.
        asked = self.post("/files.getUploadURLExternal", form=present(about), parse=_ticket, repeatable=True, acts=True)
        return self.post_after(asked, send, parse=_file)

    # -----------------------------------------------------------------------------------------------------------------

    @operation
    def check(self) -> Plan[bool]:
        """True if the token is good: ``auth.test``. Raises AuthenticationFailed if not."""
        return self.get("/auth.test", parse=lambda exchange: bool(text(record(exchange.data), "user_id")))

    @staticmethod
    def escape(words: str) -> str:
        """*words* for a message's text, with nothing in them taken for a mention, a link or markup of Slack's."""
        return words.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

    @classmethod
    def read_event(cls, event: Event) -> SlackEvent | SlackCommand | SlackInteraction | None:
        """What an event means: a SlackEvent, a SlackCommand, a SlackInteraction; None for what is none of them. Raises
        BadAnswer for an event of another shape.
        """
        return objects.read(event)

    def _write(
        self, method: str, body: Mapping[str, Any], parse: Callable[[Exchange], T], *, again: bool = False
    ) -> Plan[T]:
        """A write, which may be sent *again* after a lost answer."""
        may = True if again else None
        return self.post(f"/{method}", json=present(body), headers=JSON, parse=parse, repeatable=may, acts=again)

    def _paged(
        self, method: str, query: Mapping[str, object], size: int, name: str, one: Callable[[object], T]
    ) -> Plan[Page[T]]:
        if not 1 <= size <= _MOST:
            raise refused("page_size", f"must be from 1 to {_MOST}")

        def parse(exchange: Exchange) -> Page[T]:
            answer = record(exchange.data)
            found = tuple(one(each) for each in items(answer.get(name), name))
            after = optional_text(record(answer.get("response_metadata") or {}, "response_metadata"), "next_cursor")
            following = self._paged(method, {**query, "cursor": after}, size, name, one) if after else None
            return Page(found, following)

        return self.get(f"/{method}", query={**query, "limit": size}, parse=parse)

    def _messages(self, method: str, query: Mapping[str, object], size: int, channel: str) -> Plan[Page[SlackMessage]]:
        return self._paged(method, query, size, "messages", lambda one: objects.message_of(one, channel))


def _reaction(channel: str, ts: str, name: str) -> dict[str, str]:
    return {
        "channel": given_id("channel", channel),
        "timestamp": given_ts("ts", ts),
        "name": given_id("name", name).strip(":"),
    }


def _posted(exchange: Exchange) -> SlackMessage:
    answer = record(exchange.data)
    message = {**record(answer.get("message") or {}, "message"), "ts": text(answer, "ts")}
    warnings = [optional_text(answer, "warning"), *notes(answer)]
    warning = "; ".join(one for one in warnings if isinstance(one, str)) or None
    return replace(objects.message_of(message, text(answer, "channel"), warning=warning), raw=answer)


def _scheduled(exchange: Exchange) -> ScheduledMessage:
    answer = record(exchange.data)
    return ScheduledMessage(
        text(answer, "scheduled_message_id"), text(answer, "channel"), moment(answer, "post_at"), raw=answer
    )


def _ts_of(exchange: Exchange, name: str) -> str:
    return text(record(exchange.data), name)


def _user(exchange: Exchange) -> SlackUser:
    return objects.user_of(record(exchange.data).get("user"))


def _ticket(exchange: Exchange) -> tuple[str, str]:
    answer = record(exchange.data)
    return text(answer, "upload_url"), text(answer, "file_id")


def _file(exchange: Exchange) -> SlackFile:
    files = items(record(exchange.data).get("files"), "files")
    if len(files) != 1:
        raise BadAnswer("the answer does not hold one file")
    return objects.file_of(files[0])


def _done(exchange: Exchange) -> None:
    record(exchange.data)


def _answered(exchange: Exchange) -> None:
    """``ok``, as text; an error that comes as JSON with a 200 is one."""
    if exchange.body.strip() == b"ok":
        return
    error = ERRORS.failure(exchange)
    if error is not None:
        raise error
    record(exchange.data)
