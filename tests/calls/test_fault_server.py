"""The scripted server itself leaves nothing behind, or it would be taken for a leak of what is tested."""

from __future__ import annotations

import gc
import socket
import warnings

from tests.calls import fault_server
from tests.calls.fault_server import FaultServer


def test_connections_that_come_as_it_stops():
    """A connection that was accepted in the server's last moment is closed with it."""
    with warnings.catch_warnings(record=True, action="always") as unclosed:
        for number in range(60):
            with FaultServer(fault_server.silent) as server:
                ours = socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])))
                if number % 3:
                    ours.close()
            ours.close()
        gc.collect()
    assert [str(each.message) for each in unclosed] == []
