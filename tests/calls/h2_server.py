"""A real HTTP/2 server on loopback, without TLS, that turns requests away as told."""

from __future__ import annotations

import asyncio
from typing import Literal

import h2.config
import h2.connection
import h2.events
from h2.errors import ErrorCodes
from tests.calls.fault_server import FaultServer

Answer = Literal["refused", "unseen", "before", "leaving", "broken"] | int
"""What becomes of a request: its stream is refused; the connection is left by a server that saw no stream, or that saw
the one before, or this one; its stream is broken off; or it is answered with a status.
"""


class H2Server(FaultServer):
    """Answers in turn, the last for ever. ``seen`` are the methods that came, in their order, ``bodies`` those
    that came whole.
    """

    def __init__(self, *answers: Answer) -> None:
        super().__init__(self._connection)
        self.answers = list(answers)
        self.seen: list[str] = []
        self.bodies: list[bytes] = []

    async def _connection(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """All of one connection; *head* is the beginning of its preface."""
        peer = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        peer.initiate_connection()
        data, open_ = head, True
        coming: dict[int, bytes] = {}
        while data and open_:
            for event in peer.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    self.seen.append(dict(event.headers or ())[b":method"].decode())
                elif isinstance(event, h2.events.DataReceived):
                    coming[event.stream_id] = coming.get(event.stream_id, b"") + (event.data or b"")
                    peer.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded) and open_:
                    self.bodies.append(coming.pop(event.stream_id, b""))
                    open_ = self._answer(peer, event.stream_id)
            writer.write(peer.data_to_send())
            await writer.drain()
            data = await reader.read(65_536) if open_ else b""
        raise ConnectionResetError

    def _answer(self, peer: h2.connection.H2Connection, stream: int) -> bool:
        """Answer the request of *stream*; whether the connection goes on."""
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        left = {"unseen": 0, "before": stream - 2, "leaving": stream}.get(str(answer))
        if left is not None:
            peer.close_connection(last_stream_id=left)
            return False
        if answer in ("refused", "broken"):
            peer.reset_stream(stream, ErrorCodes.REFUSED_STREAM if answer == "refused" else ErrorCodes.INTERNAL_ERROR)
        else:
            peer.send_headers(stream, [(":status", str(answer)), ("content-type", "application/json")])
            peer.send_data(stream, b'{"id": "b_1"}', end_stream=True)
        return True
