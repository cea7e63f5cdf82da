"""What comes to Slack beside its methods, for its stand-in: the bytes of files, and answers to commands."""

from __future__ import annotations

import json

from moorline.sandbox.services._slack_objects import Refused, Thing
from moorline.sandbox.standin import Answer, Ask, Surroundings

__all__ = ["Files", "Responses"]

_MOST = 5


class Files:
    """Files, in three steps: an address is asked for, the bytes come there, the upload is completed."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self.held: dict[str, Thing] = {}

    def asked(self, ask: Ask, given: Thing) -> Thing:
        """The address for a file of that name and length, which no token is needed for."""
        length = str(given.get("length") or "0")
        if not given.get("filename") or not length.isdecimal() or int(length) == 0:
            raise Refused("missing_argument")
        key, ticket = self._around.id("F0", 9).upper(), self._around.id("", 40)
        self.held[key] = {"name": given["filename"], "length": int(length), "ticket": ticket, "state": "asked"}
        return {"upload_url": f"{ask.base}/upload/v1/{ticket}", "file_id": key}

    def take(self, ask: Ask) -> Answer:
        """The bytes."""
        ticket = ask.path.removeprefix("/upload/v1/")
        for file in self.held.values():
            if file["ticket"] == ticket and ask.method == "POST" and file["state"] != "complete":
                if len(ask.body) != file["length"]:
                    return Answer(400, b"length mismatch")
                file["state"], file["content"] = "sent", ask.body.decode("utf-8", "replace")[:10_000]
                return Answer(200, f"OK - {len(ask.body)}".encode())
        return Answer(404, b"not found")

    def complete(self, given: Thing) -> list[Thing]:
        """The files that were sent, with their titles."""
        files = given.get("files")
        try:
            listed = json.loads(files) if isinstance(files, str) else files
            wanted = [{"id": str(one["id"]), "title": str(one.get("title") or "")} for one in listed or ()]
        except (ValueError, TypeError, KeyError, AttributeError):
            raise Refused("invalid_arguments") from None
        if not wanted or any(self.held.get(one["id"], {}).get("state") != "sent" for one in wanted):
            raise Refused("file_not_found")
        for one in wanted:
            self.held[one["id"]] |= {"state": "complete", "title": one["title"], "channel": given.get("channel_id")}
        return wanted


class Responses:
    """Answers to commands, five for each address; the word for one that is used up is the sandbox's own."""

    def __init__(self) -> None:
        self.held: list[Thing] = []

    def take(self, ask: Ask) -> Answer:
        """An answer, which must not bring a token."""
        if "authorization" in ask.headers or ask.method != "POST":
            return Answer(403, b"action_prohibited")
        try:
            given = json.loads(ask.body)
        except ValueError:
            return Answer(400, b"invalid_payload")
        if not isinstance(given, dict) or not (given.keys() & {"text", "blocks", "attachments", "delete_original"}):
            return Answer(400, b"no_text")
        if sum(one["path"] == ask.path for one in self.held) >= _MOST:
            return Answer(404, b"used_url")
        self.held.append({"path": ask.path, **given})
        return Answer(200, b"ok")
