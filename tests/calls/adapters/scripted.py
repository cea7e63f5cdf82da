"""A real HTTP server on loopback that gives scripted answers, for SDKs that bring a wire of their own."""

from __future__ import annotations

import asyncio
import re

from tests.calls.fault_server import FaultServer

Reply = int | tuple[int, dict[str, str], bytes] | type[Exception]


class Scripted(FaultServer):
    """Answers in turn; the last one for ever. ``heads`` and ``bodies`` keep what came; an exception hangs up."""

    def __init__(self, *answers: Reply) -> None:
        super().__init__(self._answer)
        self.answers = list(answers)
        self.bodies: list[bytes] = []

    async def _answer(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.bodies.append(await _body(head, reader))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, type):
            raise ConnectionResetError
        status, headers, body = (answer, {}, b"{}") if isinstance(answer, int) else answer
        fields = {"content-type": "application/json", "content-length": str(len(body)), **headers}
        lines = [f"HTTP/1.1 {status} Said", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
        writer.write("\r\n".join(lines).encode() + body)
        await writer.drain()


async def _body(head: bytes, reader: asyncio.StreamReader) -> bytes:
    length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
    if length is not None:
        return await reader.readexactly(int(length[1]))
    if b"transfer-encoding: chunked" not in head.lower():
        return b""
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return body
