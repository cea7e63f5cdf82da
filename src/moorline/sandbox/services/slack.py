"""Slack's stand-in: messages, threads, schedules, channels with cursors, people, files, reactions, answers to commands.

Facts: services/business/slack.md, slack.json, slack_sdk 3.47.0. Tokens begin with ``xox``; those that end in ``wrong``,
``revoked`` or ``expired`` are refused so, and ``xoxb-read…`` may only read (``missing_scope``). The channels are
``C0GENERAL01`` (general), ``C0RANDOM001`` (the app is not in it), ``C0ARCHIVE01`` (archived), ``G0PRIVATE01`` (private)
and 25 berths, of which those from 6 to 20 are archived: a page of ten may hold less, or none, and go on. The users are
``ada``, ``bob`` (both ``…@example.com``) and the app's bot. An answer to a command goes to ``/hooks/commands/…``, five
times. The app ``sandbox.client`` with the secret ``sandbox`` gets tokens of 12 hours for the refresh token
``xoxe-1-sandbox``, each with the next refresh token. ``api.test`` gives back the error that it is asked for. All
messages, files and answers are in the state.

Accounts are connected at ``/oauth/v2/authorize``, by the client ``sandbox-client``: see :mod:`._oauth`.
They are ``acme`` and ``globex``, which share what is stored.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

from moorline.errors import ConfigurationError
from moorline.sandbox import signing
from moorline.sandbox.services import _slack_objects as objects
from moorline.sandbox.services._oauth import Accounts, Person, TokenPair
from moorline.sandbox.services._oauth import Refused as NotGranted
from moorline.sandbox.services._slack_files import Files, Responses
from moorline.sandbox.services._slack_objects import Refused, Thing
from moorline.sandbox.standin import Answer, Ask, Emission, Registration, Signed, Surroundings

__all__ = ["STAND_IN"]

_FORM = "application/x-www-form-urlencoded"
_FORMED = ("command", "block_actions", "view_submission", "shortcut")
_EVENTS = ("message", "app_mention", "reaction_added", "member_joined_channel", *_FORMED)
_TS = re.compile(r"\d{10}\.\d{6}")
_MOST_BLOCKS = 50
_READS = frozenset(
    {
        "api.test",
        "auth.test",
        "conversations.history",
        "conversations.list",
        "conversations.replies",
        "users.info",
        "users.lookupByEmail",
    }
)


_PEOPLE = (Person("acme", "Acme", {"team": "T0ACME0001"}), Person("globex", "Globex", {"team": "T0GLOBEX01"}))
_WORDS = {"invalid_grant": "invalid_refresh_token", "invalid_client": "bad_client_secret"}


def _granted(pair: TokenPair) -> Thing:
    team = {"id": pair.person.claims["team"], "name": pair.person.name}
    answer = {"ok": True, "access_token": pair.access, "token_type": "bot", "scope": ",".join(pair.scopes)}
    whose = {"bot_user_id": objects.BOT_USER, "app_id": objects.APP, "team": team, "authed_user": {"id": "U0ADA00001"}}
    return {**answer, **whose, "refresh_token": pair.refresh, "expires_in": pair.lasts}


def _not_granted(refused: NotGranted) -> Answer:
    return Answer(200, {"ok": False, "error": _WORDS.get(refused.error, refused.error)})


class SlackStandIn:
    """One workspace with one app in it."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._count = 0
        people = [("U0ADA000001", "ada", "Ada Lovelace"), ("U0BOB000001", "bob", "Bob Ferry")]
        self._users = {one[0]: objects.user(*one) for one in people}
        self._users[objects.BOT_USER] = objects.user(objects.BOT_USER, "moorline", "Moorline", bot=True)
        known = [
            objects.channel(objects.GENERAL, "general", general=True),
            objects.channel(objects.RANDOM, "random", member=False),
            objects.channel(objects.ARCHIVED, "archive", archived=True),
            objects.channel(objects.PRIVATE, "private", private=True),
        ]
        known += [objects.channel(f"C0BERTH{n:04}", f"berth-{n}", archived=6 <= n <= 20) for n in range(1, 26)]
        self._channels: dict[str, Thing] = {one["id"]: one for one in known}
        self._messages: dict[str, list[Thing]] = {}
        self._ephemeral: list[Thing] = []
        self._scheduled: dict[str, Thing] = {}
        self._files, self._responses = Files(around), Responses()
        self._refresh = "xoxe-1-sandbox"
        self._rotating: dict[str, float] = {}
        self._accounts = Accounts(
            around,
            "Slack",
            _PEOPLE,
            authorize="/oauth/v2/authorize",
            token="/oauth.v2.access",
            shared=True,
            rotates=True,
            lasts=43_200,
            prefix="xoxe.xoxb-",
            shape=_granted,
            failed=_not_granted,
        )
        self._methods: dict[str, Callable[[Thing], Thing]] = {
            "api.test": self._api_test,
            "auth.test": self._auth_test,
            "chat.postMessage": self._post_message,
            "chat.update": self._update,
            "chat.delete": self._delete,
            "chat.postEphemeral": self._post_ephemeral,
            "chat.scheduleMessage": self._schedule,
            "chat.deleteScheduledMessage": self._unschedule,
            "conversations.list": self._list,
            "conversations.history": self._history,
            "conversations.replies": self._replies,
            "conversations.open": self._open,
            "users.info": self._user,
            "users.lookupByEmail": self._lookup,
            "reactions.add": self._react,
            "reactions.remove": self._unreact,
            "files.completeUploadExternal": self._complete_upload,
        }

    # -- the protocol of a stand-in ------------------------------------------------------------------------------------

    async def handle(self, ask: Ask) -> Answer:
        """Answer one request: nearly always by a 200."""
        headers = {"X-Slack-Req-Id": self._around.id("", 32)}
        try:
            if ask.path.startswith("/hooks/"):
                return self._responses.take(ask)
            if ask.path.startswith("/upload/v1/"):
                return self._files.take(ask)
            connected = self._accounts.answer(ask)
            if connected is not None:
                return connected
            given = _given(ask)
            method = ask.path.removeprefix("/")
            self._admit(method, ask, given)
            await ask.work()
            found = self._called(method, ask, given)
            return Answer(200, {"ok": True, **found}, headers)
        except Refused as refused:
            return Answer(refused.answer.status, refused.answer.content, headers)

    def snapshot(self) -> dict[str, Any]:
        """Messages by channel, those that one alone saw, what is scheduled, files, and answers to commands."""
        return {
            "messages": self._messages,
            "ephemeral": self._ephemeral,
            "scheduled": self._scheduled,
            "files": self._files.held,
            "responses": self._responses.held,
        }

    def failure(self, status: int) -> Answer:
        """Slack's body for an injected status."""
        error = "ratelimited" if status == 429 else "internal_error" if status >= 500 else "invalid_arguments"
        return Answer(status, {"ok": False, "error": error})

    def sample(self, event: str) -> bytes:
        """An event of the Events API, a command, or an interaction; and the question that an address is asked first."""
        name, ts = event.partition(".")[0], self._ts()
        trigger = f"{self._around.now()}.{self._around.id('', 8)}"
        if name == "url_verification":
            asked = {"token": "deprecated", "challenge": self._around.id("", 40), "type": name}
            return json.dumps(asked, separators=(",", ":")).encode()
        if name == "command":
            return objects.command(trigger, "api to production")
        if name in _FORMED:
            return objects.interaction(name, trigger, ts)
        if name not in _EVENTS:
            raise ConfigurationError(f"'event': without a body the sandbox makes only {', '.join(_EVENTS)}")
        return self._delivery(objects.event(name, ts))

    def sign(self, emission: Emission, *, url: str, secrets: tuple[str, ...], hook_id: str, broken: bool) -> Signed:
        """The headers of a delivery; commands and interactions are forms."""
        formed = emission.event.partition(".")[0] in _FORMED
        headers = {
            "Content-Type": _FORM if formed else "application/json",
            "User-Agent": "Slackbot 1.0 (+https://api.slack.com/robots)",
        }
        now = self._around.clock.wall()
        return signing.signed("slack", emission, url=url, secrets=secrets, broken=broken, now=now, headers=headers)

    # -- the way to a method -------------------------------------------------------------------------------------------

    def _admit(self, method: str, ask: Ask, given: Thing) -> None:
        if method not in (*self._methods, "files.getUploadURLExternal", "oauth.v2.access", "auth.revoke"):
            raise Refused("unknown_method", req_method=method)
        if method in ("api.test", "oauth.v2.access"):
            return
        scheme, _, token = ask.headers.get("authorization", "").partition(" ")
        sent_as_json = ask.headers.get("content-type", "").startswith("application/json")
        if scheme.lower() != "bearer" or not token:
            token = "" if sent_as_json else str(given.get("token", ""))
        if not token:
            raise Refused("not_authed")
        for word, error in (("revoked", "token_revoked"), ("expired", "token_expired"), ("wrong", "invalid_auth")):
            if token.endswith(word):
                raise Refused(error)
        if not token.startswith("xox") or token.startswith("xoxe-"):
            raise Refused("invalid_auth")
        if self._accounts.knows(token):
            if self._accounts.allowed(token) is None:
                raise Refused("token_expired")
            return
        if token.startswith("xoxe.") and self._around.clock.wall() >= self._rotating.get(token, 0.0):
            raise Refused("token_expired" if token in self._rotating else "invalid_auth")
        if token.startswith("xoxb-read") and method not in _READS:
            raise Refused("missing_scope", needed="chat:write", provided="channels:read,users:read")

    def _called(self, method: str, ask: Ask, given: Thing) -> Thing:
        if method == "files.getUploadURLExternal":
            return self._files.asked(ask, given)
        if method == "auth.revoke":
            self._accounts.revoke(ask.headers.get("authorization", "").partition(" ")[2])
            return {"revoked": True}
        return self._rotate(ask, given) if method == "oauth.v2.access" else self._methods[method](given)

    def _api_test(self, given: Thing) -> Thing:
        if given.get("error"):
            raise Refused(str(given["error"]), args=given)
        return {"args": given}

    def _auth_test(self, given: Thing) -> Thing:
        names = {"url": "https://sandbox.slack.com/", "team": "Sandbox", "user": "moorline"}
        return names | {"team_id": objects.TEAM, "user_id": objects.BOT_USER, "bot_id": objects.BOT}

    def _rotate(self, ask: Ask, given: Thing) -> Thing:
        """Another token; the app proves itself in the form, or by Basic authentication as slack_sdk does."""
        app = f"{given.get('client_id')}:{given.get('client_secret')}"
        scheme, _, shown = ask.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic":
            try:
                app = base64.b64decode(shown, validate=True).decode()
            except ValueError:
                app = ""
        if app.partition(":")[0] != "sandbox.client":
            raise Refused("invalid_client_id")
        if app != "sandbox.client:sandbox":
            raise Refused("bad_client_secret")
        if given.get("grant_type") != "refresh_token" or given.get("refresh_token") != self._refresh:
            raise Refused("invalid_refresh_token")
        self._refresh = self._around.id("xoxe-1-", 40)
        token = self._around.id("xoxe.xoxb-1-", 40)
        self._rotating[token] = self._around.clock.wall() + 43_200
        found = {"access_token": token, "expires_in": 43_200, "refresh_token": self._refresh, "token_type": "bot"}
        return found | {"bot_user_id": objects.BOT_USER, "app_id": objects.APP, "team": {"id": objects.TEAM}}

    # -- messages ------------------------------------------------------------------------------------------------------

    def _ts(self) -> str:
        self._count += 1
        return f"{self._around.now():010}.{self._count:06}"

    def _delivery(self, inner: Thing) -> bytes:
        return objects.delivery(inner, id=self._around.id("Ev0", 8).upper(), at=self._around.now())

    def _emit(self, inner: Thing) -> None:
        body = self._delivery(inner)
        self._around.emit(Emission(inner["type"], body, json.loads(body)["event_id"]))

    def _channel(self, given: Thing, *, writes: bool = True) -> Thing:
        """The channel; one with a user is opened by writing to the user."""
        name = str(given.get("channel") or "")
        if name in self._users:
            return self._direct([name])
        found = self._channels.get(name)
        found = found or next((one for one in self._channels.values() if one.get("name") == name.lstrip("#")), None)
        if found is None or not name:
            raise Refused("channel_not_found")
        if writes and found.get("is_archived"):
            raise Refused("is_archived")
        if writes and not found.get("is_member", True):
            raise Refused("not_in_channel")
        return found

    def _content(self, given: Thing) -> Thing:
        found = dict(given)
        for name in ("blocks", "attachments", "metadata"):
            if isinstance(found.get(name), str):  # in forms they are JSON
                try:
                    found[name] = json.loads(found[name])
                except ValueError:
                    raise Refused(f"invalid_{name}") from None
        blocks = found.get("blocks") or []
        if not isinstance(blocks, list) or not all(isinstance(one, dict) and one.get("type") for one in blocks):
            raise Refused("invalid_blocks", "must be an array of blocks [json-pointer:/blocks]")
        if len(blocks) > _MOST_BLOCKS:
            raise Refused("invalid_blocks", f"no more than {_MOST_BLOCKS} items allowed [json-pointer:/blocks]")
        words = str(found.get("text") or found.get("markdown_text") or "")
        if not (words.strip() or blocks or found.get("attachments")):
            raise Refused("no_text")
        if len(words) > 40_000:
            found["text"] = words[:40_000]
        if len(str(found.get("markdown_text") or "")) > 12_000:
            raise Refused("msg_too_long")
        return found

    def _thread(self, channel: Thing, given: Thing) -> None:
        ts = given.get("thread_ts")
        if ts is None:
            return
        parent = self._found(channel, ts, "thread_not_found")
        parent["reply_count"] = parent.get("reply_count", 0) + 1
        parent["thread_ts"] = ts

    def _found(self, channel: Thing, ts: object, error: str = "message_not_found") -> Thing:
        if not isinstance(ts, str) or not _TS.fullmatch(ts):
            raise Refused("invalid_arguments" if ts else "missing_argument", "ts must be a string")
        for one in self._messages.get(channel["id"], []):
            if one["ts"] == ts:
                return one
        raise Refused(error)

    def _post_message(self, given: Thing) -> Thing:
        channel, content = self._channel(given), self._content(given)
        self._thread(channel, content)
        said = objects.message(self._ts(), content)
        self._messages.setdefault(channel["id"], []).append(said)
        self._emit({**said, "channel": channel["id"], "event_ts": said["ts"]})
        answer: Thing = {"channel": channel["id"], "ts": said["ts"], "message": said}
        if len(str(given.get("text") or "")) > 40_000:
            note = "[WARN] Your message was truncated but still posted."
            answer["response_metadata"] = {"messages": [note], "warnings": ["message_truncated"]}
        return answer

    def _update(self, given: Thing) -> Thing:
        channel = self._channel(given)
        said, content = self._found(channel, given.get("ts")), self._content(given)
        if said.get("bot_id") != objects.BOT:
            raise Refused("cant_update_message")
        said["text"] = content.get("text") or content.get("markdown_text") or ""
        if "blocks" in content:
            said["blocks"] = content["blocks"]
        shown = {name: value for name, value in said.items() if name != "ts" and (name != "blocks" or value)}
        return {"channel": channel["id"], "ts": said["ts"], "text": said["text"], "message": shown}

    def _delete(self, given: Thing) -> Thing:
        channel = self._channel(given)
        said = self._found(channel, given.get("ts"))
        self._messages[channel["id"]].remove(said)
        return {"channel": channel["id"], "ts": said["ts"]}

    def _post_ephemeral(self, given: Thing) -> Thing:
        channel, content = self._channel(given), self._content(given)
        if given.get("user") not in self._users:
            raise Refused("user_not_in_channel")
        said = objects.message(self._ts(), content)
        self._ephemeral.append({**said, "channel": channel["id"], "user": given["user"]})
        return {"message_ts": said["ts"]}

    def _schedule(self, given: Thing) -> Thing:
        channel, content = self._channel(given), self._content(given)
        at, now = int(given.get("post_at") or 0), self._around.now()
        if at <= now:
            raise Refused("time_in_past")
        if at > now + 120 * 86_400:
            raise Refused("time_too_far")
        key = self._around.id("Q", 10).upper()
        self._scheduled[key] = {
            "channel": channel["id"],
            "post_at": at,
            "message": objects.message(self._ts(), content),
        }
        return {
            "channel": channel["id"],
            "scheduled_message_id": key,
            "post_at": at,
            "message": {"text": given.get("text")},
        }

    def _unschedule(self, given: Thing) -> Thing:
        self._channel(given)
        if self._scheduled.pop(str(given.get("scheduled_message_id")), None) is None:
            raise Refused("invalid_scheduled_message_id")
        return {}

    def _react(self, given: Thing) -> Thing:
        channel = self._channel(given)
        said, name = self._found(channel, given.get("timestamp")), str(given.get("name") or "")
        if not re.fullmatch(r"[a-z0-9_+-]+", name):
            raise Refused("invalid_name")
        held = said.setdefault("reactions", [])
        if any(one["name"] == name for one in held):
            raise Refused("already_reacted")
        held.append({"name": name, "count": 1, "users": [objects.BOT_USER]})
        item = {"type": "message", "channel": channel["id"], "ts": said["ts"]}
        self._emit({"type": "reaction_added", "user": objects.BOT_USER, "reaction": name, "item": item})
        return {}

    def _unreact(self, given: Thing) -> Thing:
        said = self._found(self._channel(given), given.get("timestamp"))
        held = said.get("reactions", [])
        if not any(one["name"] == given.get("name") for one in held):
            raise Refused("no_reaction")
        said["reactions"] = [one for one in held if one["name"] != given["name"]]
        return {}

    # -- conversations and people --------------------------------------------------------------------------------------

    def _list(self, given: Thing) -> Thing:
        kinds = str(given.get("types") or "public_channel").split(",")
        known = {"public_channel", "private_channel", "mpim", "im"}
        if not set(kinds) <= known:
            raise Refused("invalid_types")
        rows = [one for one in self._channels.values() if _kind(one) in kinds]
        shown, after = _page(rows, given, 100)
        if str(given.get("exclude_archived", "false")).lower() in ("true", "1"):  # which the page is not filled up for
            shown = [one for one in shown if not one.get("is_archived")]
        return {"channels": shown, "response_metadata": {"next_cursor": after}}

    def _history(self, given: Thing) -> Thing:
        channel = self._channel(given, writes=False)
        if not channel.get("is_member", True):
            raise Refused("not_in_channel")
        rows = [one for one in self._messages.get(channel["id"], []) if one.get("thread_ts", one["ts"]) == one["ts"]]
        oldest, latest = str(given.get("oldest") or "0"), str(given.get("latest") or "9999999999.999999")
        shown, after = _page([one for one in rows if oldest < one["ts"] < latest][::-1], given, 100)
        return {"messages": shown, "has_more": bool(after), "response_metadata": {"next_cursor": after}}

    def _replies(self, given: Thing) -> Thing:
        channel = self._channel(given, writes=False)
        first = self._found(channel, given.get("ts"), "thread_not_found")
        rows = [one for one in self._messages[channel["id"]] if one.get("thread_ts", one["ts"]) == first["ts"]]
        shown, after = _page(rows, given, 1000)
        return {"messages": shown, "has_more": bool(after), "response_metadata": {"next_cursor": after}}

    def _direct(self, users: list[str]) -> Thing:
        key = ("D" if len(users) == 1 else "G") + "".join(users).replace("U0", "")[:10].ljust(10, "0")
        return self._channels.setdefault(key, objects.direct(key, users))

    def _open(self, given: Thing) -> Thing:
        users = [one for one in str(given.get("users") or "").split(",") if one]
        if not users:
            raise Refused("users_list_not_supplied")
        if any(one not in self._users for one in users):
            raise Refused("user_not_found")
        found = self._direct(users)
        whole = str(given.get("return_im", "")).lower() in ("true", "1")
        return {"channel": found if whole or len(users) > 1 else {"id": found["id"]}}

    def _user(self, given: Thing) -> Thing:
        found = self._users.get(str(given.get("user")))
        if found is None:
            raise Refused("user_not_found")
        return {"user": found}

    def _lookup(self, given: Thing) -> Thing:
        wanted = str(given.get("email") or "").lower()
        for one in self._users.values():
            if one["profile"].get("email") == wanted:
                return {"user": one}
        raise Refused("users_not_found")

    def _complete_upload(self, given: Thing) -> Thing:
        """The last step of an upload: the file is shared, if it was told where."""
        channel = self._channel({"channel": given["channel_id"]}) if given.get("channel_id") else None
        files = self._files.complete(given)
        if channel is not None:
            self._thread(channel, given)
            words = {"text": given.get("initial_comment"), "thread_ts": given.get("thread_ts")}
            shared = {"files": [{"id": one["id"]} for one in files]}
            self._messages.setdefault(channel["id"], []).append({**objects.message(self._ts(), words), **shared})
        return {"files": files}


def _given(ask: Ask) -> Thing:
    """The arguments: of the query, and of a form or a JSON object."""
    found: Thing = dict(ask.parameters)
    kind = ask.headers.get("content-type", "").partition(";")[0].strip()
    if not ask.body or ask.method == "GET":
        return found
    if kind == "application/json":
        try:
            given = json.loads(ask.body)
        except ValueError:
            raise Refused("invalid_json") from None
        if not isinstance(given, dict):
            raise Refused("json_not_object")
        return found | given
    if kind != _FORM:
        raise Refused("invalid_post_type")
    return found | dict(parse_qsl(ask.body.decode("utf-8", "replace"), keep_blank_values=True))


def _kind(channel: Thing) -> str:
    if channel.get("is_im"):
        return "im"
    if channel.get("is_mpim"):
        return "mpim"
    return "private_channel" if channel.get("is_private") else "public_channel"


def _page(rows: list[Thing], given: Thing, default: int) -> tuple[list[Thing], str]:
    """The rows of a page, and the cursor of the next one: empty at the end."""
    size = min(max(int(given.get("limit") or default), 1), 1000)
    cursor = str(given.get("cursor") or "")
    if cursor and not re.fullmatch(r"next:\d{1,6}", cursor):
        raise Refused("invalid_cursor")
    start = int(cursor.removeprefix("next:")) if cursor else 0
    return rows[start : start + size], f"next:{start + size}" if len(rows) > start + size else ""


STAND_IN = Registration(
    name="slack", make=SlackStandIn, secret="8f742231b10e8888abcd99yyyzzz85a5", events=_EVENTS, ping="url_verification"
)
