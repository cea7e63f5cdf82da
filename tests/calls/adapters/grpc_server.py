"""A real gRPC server on loopback with scripted answers; generic handlers, so that no code has to be generated."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import grpc

Reply = Any  # bytes, a status, or a status and its trailers


class GrpcServer(grpc.GenericRpcHandler):  # type: ignore[misc]  # gRPC ships no types
    """Answers in turn, the last one for ever; ``calls`` keeps the methods, ``left`` the deadlines that came along.

    Methods ending in ``Stream`` answer twice before they end so; those beginning with ``Many`` take many requests.
    ``/pkg.Slow/…`` say nothing until ``go`` is set.
    """

    def __init__(self, *answers: Reply) -> None:
        self.answers = list(answers)
        self.calls: list[str] = []
        self.left: list[float | None] = []
        self.go = threading.Event()
        self.came = threading.Event()
        self.target = ""

    def __enter__(self) -> Self:
        self._server = grpc.server(ThreadPoolExecutor(8), handlers=(self,))
        port = self._server.add_insecure_port("127.0.0.1:0")
        self.target = f"127.0.0.1:{port}"
        self._server.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.go.set()
        self._server.stop(0).wait(10)

    def service(self, handler_call_details: Any) -> Any:
        method = handler_call_details.method
        many = method.rpartition("/")[2].startswith("Many")

        def one(request: Any, context: Any) -> bytes:
            if many:
                request = b"".join(request)
            return self._end(method, context) or request

        def stream(request: Any, context: Any) -> Any:
            yield b"1"
            yield b"2"
            self._end(method, context)

        if method.endswith("Stream"):
            make = grpc.stream_stream_rpc_method_handler if many else grpc.unary_stream_rpc_method_handler
            return make(stream)
        return (grpc.stream_unary_rpc_method_handler if many else grpc.unary_unary_rpc_method_handler)(one)

    def _end(self, method: str, context: Any) -> bytes:
        self.calls.append(method)
        self.came.set()
        self.left.append(context.time_remaining())
        if "Slow" in method:
            self.go.wait(10)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, bytes):
            return answer
        code, trailers = answer if isinstance(answer, tuple) else (answer, ())
        context.set_trailing_metadata(trailers)
        context.abort(code, "said the server")
        raise AssertionError
