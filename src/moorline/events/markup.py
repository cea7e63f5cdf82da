"""XML of senders, read by the standard library's expat: no document type, so no entities, nothing fetched, no bombs.

Expat and not ``defusedxml``: it tells where in the bytes an element stands, which a piece of a batch is cut by, and one
refusal (of the document type) closes all that the other wraps. Prefixes are dropped without asking for their
namespaces, because a piece stands without the declarations around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from xml.parsers import expat

from moorline.errors import UnusableEvent

__all__ = ["parse", "slices"]

_DEEPEST: Final = 100


def parse(body: bytes) -> dict[str, Any]:
    """The document as nested dicts, the root's name at the top.

    An element with text alone is that text; else a dict of its elements by local name, a list where one comes several
    times, its attributes as ``"@name"``, text beside these as ``"#text"``; ``xsi:nil="true"`` is None. Of ``xsi:type``
    the prefix is dropped too. Raises UnusableEvent when it is no XML in UTF-8, has a document type, or is too deep.
    """
    reader = _Reader()
    reader.read(body)
    return reader.root


def slices(body: bytes, path: Sequence[str]) -> list[bytes]:
    """The bytes of each element at that path of local names, the root's first. Raises UnusableEvent as ``parse`` does,
    and when there is none.
    """
    reader = _Reader(list(path))
    reader.read(body)
    if not reader.spans:
        raise UnusableEvent(f"there is no {'/'.join(path)} in the XML")
    return [body[start:end] for start, end in reader.spans]


class _Reader:
    """Builds the dicts, and notes where the elements at ``path`` begin and end."""

    def __init__(self, path: list[str] | None = None) -> None:
        self.root: dict[str, Any] = {}
        self.spans: list[tuple[int, int]] = []
        self._path = path
        self._names: list[str] = []
        self._open: list[tuple[dict[str, Any], list[str], bool]] = []
        self._begun = 0
        self._body = b""

    def read(self, body: bytes) -> None:
        """All of it."""
        self._body = body
        # UTF-8, whatever the document says of itself: a byte order mark would make expat read another encoding.
        try:
            body.decode()
        except UnicodeDecodeError as error:
            raise UnusableEvent("the XML is not UTF-8") from error
        self._parser = parser = expat.ParserCreate("utf-8")
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = self._refuse
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        try:
            parser.Parse(body, True)
        except expat.ExpatError as error:
            raise UnusableEvent("the body is not XML") from error

    @staticmethod
    def _refuse(*_: object) -> None:
        raise UnusableEvent("the XML has a document type: it could hold entities")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._names.append(_local(name))
        if len(self._names) > _DEEPEST:
            raise UnusableEvent(f"the XML is deeper than {_DEEPEST} elements")
        if self._names == self._path:
            self._begun = self._parser.CurrentByteIndex
        held: dict[str, Any] = {
            "@" + _local(key): _local(value) if key == "xsi:type" else value
            for key, value in attributes.items()
            if not key.startswith("xmlns") and key != "xsi:nil"
        }
        self._open.append((held, [], attributes.get("xsi:nil") in ("true", "1")))

    def _text(self, text: str) -> None:
        if self._open:
            self._open[-1][1].append(text)

    def _end(self, _: str) -> None:
        if self._names == self._path:
            self._note()
        held, texts, nothing = self._open.pop()
        name = self._names.pop()
        text = "".join(texts)
        value: Any = None if nothing else held or text
        if held and text.strip():
            held["#text"] = text
        parent = self._open[-1][0] if self._open else self.root
        if name not in parent:
            parent[name] = value
        elif isinstance(parent[name], list):
            parent[name].append(value)
        else:
            parent[name] = [parent[name], value]

    def _note(self) -> None:
        at = self._parser.CurrentByteIndex  # of the closing tag; behind an element that has none
        held, texts, _ = self._open[-1]
        hollow = not texts and all(name.startswith("@") for name in held)
        if hollow and self._body[self._begun : at].endswith(b"/>"):
            raise UnusableEvent(f"an empty {self._names[-1]} is no event")
        self.spans.append((self._begun, self._body.index(b">", at) + 1))


def _local(name: str) -> str:
    return name.rpartition(":")[2]
