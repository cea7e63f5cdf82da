"""Slack's users, channels, messages and deliveries as slack.json and the card describe them, for its stand-in."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

from moorline.sandbox.standin import Answer

Thing = dict[str, Any]

TEAM = "T0SANDBOX01"
APP = "A0SANDBOX01"
BOT_USER, BOT = "U0BOT000001", "B0BOT000001"
GENERAL, RANDOM, ARCHIVED, PRIVATE = "C0GENERAL01", "C0RANDOM001", "C0ARCHIVE01", "G0PRIVATE01"
RESPONSE_URL = "https://hooks.slack.com/commands/T0SANDBOX01/1234567890/sandboxsandboxsandbox"


class Refused(Exception):
    """What Slack refuses: by a 200, and a word."""

    def __init__(self, error: str, *messages: str, **more: Any) -> None:
        super().__init__(error)
        metadata = {"response_metadata": {"messages": [f"[ERROR] {one}" for one in messages]}} if messages else {}
        self.answer = Answer(200, {"ok": False, "error": error, **more, **metadata})


def user(id: str, name: str, real_name: str, *, bot: bool = False) -> Thing:
    """A user with a profile; bots have no address."""
    first, _, last = real_name.partition(" ")
    profile = {"real_name": real_name, "display_name": name, "first_name": first, "last_name": last, "team": TEAM}
    return {
        "id": id,
        "team_id": TEAM,
        "name": name,
        "real_name": real_name,
        "deleted": False,
        "tz": "Europe/Berlin",
        "tz_label": "Central European Time",
        "tz_offset": 3600,
        "profile": profile if bot else {**profile, "email": f"{name}@example.com"},
        "is_bot": bot,
        "is_app_user": False,
        "updated": 1_785_578_400,
    }


def channel(
    id: str, name: str, *, private: bool = False, archived: bool = False, member: bool = True, general: bool = False
) -> Thing:
    """A channel with all the fields that slack.json requires."""
    return {
        "id": id,
        "name": name,
        "name_normalized": name,
        "created": 1_785_578_400,
        "creator": "U0ADA000001",
        "is_channel": not private,
        "is_group": private,
        "is_im": False,
        "is_mpim": False,
        "is_private": private,
        "is_archived": archived,
        "is_general": general,
        "is_shared": False,
        "is_org_shared": False,
        "is_member": member,
        "num_members": 3,
        "topic": {"value": f"about {name}", "creator": "", "last_set": 0},
        "purpose": {"value": "", "creator": "", "last_set": 0},
    }


def direct(id: str, users: list[str]) -> Thing:
    """A direct message, or a group of them."""
    if len(users) > 1:
        return {**channel(id, "mpdm-" + "--".join(users).lower(), private=True), "is_mpim": True}
    return {"id": id, "created": 1_785_578_400, "is_im": True, "is_org_shared": False, "user": users[0], "priority": 0}


def message(ts: str, given: Thing, *, bot: bool = True) -> Thing:
    """A message that the app, or else Ada, wrote."""
    written = {"user": BOT_USER, "bot_id": BOT} if bot else {"user": "U0ADA000001"}
    found = {"type": "message", "ts": ts, "text": given.get("text") or given.get("markdown_text") or "", "team": TEAM}
    optional = ("blocks", "attachments", "thread_ts", "metadata", "username")
    return found | written | {name: given[name] for name in optional if given.get(name)}


def event(name: str, ts: str) -> Thing:
    """The inner event of that name, by Ada."""
    said = {"type": name, "channel": GENERAL, "user": "U0ADA000001", "event_ts": ts}
    more: dict[str, Thing] = {
        "message": {"ts": ts, "text": "Is it up?", "channel_type": "channel"},
        "app_mention": {"ts": ts, "text": f"<@{BOT_USER}> is it up?"},
        "member_joined_channel": {"channel_type": "C", "team": TEAM},
    }
    if name == "reaction_added":
        item = {"type": "message", "channel": GENERAL, "ts": ts}
        reaction = {"reaction": "eyes", "item_user": BOT_USER, "item": item}
        return {key: value for key, value in said.items() if key != "channel"} | reaction
    return said | more[name]


def delivery(inner: Thing, *, id: str, at: int) -> bytes:
    """The body of an event of the Events API."""
    told = {
        "token": "deprecated",
        "team_id": TEAM,
        "api_app_id": APP,
        "event": inner,
        "type": "event_callback",
        "event_id": id,
        "event_time": at,
        "authorizations": [{"team_id": TEAM, "user_id": BOT_USER, "is_bot": True}],
    }
    return json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()


def command(trigger: str, words: str) -> bytes:
    """The form of a slash command."""
    return urlencode(
        {
            "token": "deprecated",
            "team_id": TEAM,
            "team_domain": "sandbox",
            "channel_id": GENERAL,
            "channel_name": "general",
            "user_id": "U0ADA000001",
            "user_name": "ada",
            "command": "/deploy",
            "text": words,
            "api_app_id": APP,
            "response_url": RESPONSE_URL,
            "trigger_id": trigger,
        }
    ).encode()


def interaction(kind: str, trigger: str, ts: str) -> bytes:
    """The form of a button that was pressed, a dialog that was sent, or a shortcut."""
    told: Thing = {
        "type": kind,
        "user": {"id": "U0ADA000001", "username": "ada", "name": "ada", "team_id": TEAM},
        "api_app_id": APP,
        "team": {"id": TEAM, "domain": "sandbox"},
        "trigger_id": trigger,
    }
    if kind == "block_actions":
        action = {"type": "button", "block_id": "b1", "action_id": "approve", "value": "42", "action_ts": ts}
        told |= {
            "container": {"type": "message", "message_ts": ts, "channel_id": GENERAL, "is_ephemeral": False},
            "channel": {"id": GENERAL, "name": "general"},
            "message": {"type": "message", "ts": ts, "text": "Deploy?"},
            "response_url": RESPONSE_URL.replace("/commands/", "/actions/"),
            "actions": [action],
        }
    elif kind == "view_submission":
        state = {"values": {"reason": {"why": {"type": "plain_text_input", "value": "late"}}}}
        told["view"] = {"id": "V0SANDBOX01", "type": "modal", "callback_id": "ask", "state": state}
    else:
        told["callback_id"] = "new_ticket"
    return urlencode({"payload": json.dumps(told, ensure_ascii=False, separators=(",", ":"))}).encode()
