"""``Download``: a Call whose answer goes to a file. A body that breaks off is a failed attempt like others, and the
next attempt asks for the rest.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from moorline.calls import story
from moorline.calls.drivers import drive, drive_async
from moorline.calls.effects import Effect, Lease
from moorline.calls.engine import Pipeline
from moorline.calls.exchange import Exchange
from moorline.calls.ranges import CONDITIONS, Transfer
from moorline.calls.sending import ServiceContext, ServiceRequest
from moorline.errors import Attempt, CallError, ConfigurationError

if TYPE_CHECKING:
    from moorline.calls.call import Call
    from moorline.calls.saving import Progress, Saver, Target

__all__ = ["Download"]

_UNSATISFIED: Final = 416


class Download:
    """A Call whose answer goes to a file: ``await`` it, or block with ``.result()``; either gives the bytes written.

    The file appears under its name when it is complete; until then it is a hidden one beside.

    A body that breaks off is a failed attempt, which the Call's Retry covers: the next one asks for the rest, if
    *resume* says so and the service named a version to compare with (an ETag that is not weak, or a Last-Modified). A
    rest of another version is never added; then all comes again. Retries count anew each time that 64 KiB more came.
    The deadline bounds all of it; ``attempt_timeout`` bounds each wait in which nothing comes.

    Raises ConfigurationError for a *resume* that is no truth value.
    """

    def __init__(
        self,
        call: Call[Any],
        path: str | os.PathLike[str],
        progress: Progress | None = None,
        *,
        resume: bool = True,
    ) -> None:
        if not isinstance(resume, bool):
            raise ConfigurationError(f"download.resume must be True or False, not {type(resume).__name__}")
        self._call = call
        self._path = Path(path)
        self._progress = progress
        self._resume = resume

    def __await__(self) -> Generator[Any, None, int]:
        return self._run().__await__()

    async def _run(self) -> int:
        from moorline.calls.saving import AsyncSavingWire, Target

        service = self._call.service
        pipeline = self._pipeline()
        with Target(self._path) as target:
            wire = await service._wires.for_loop(whole=False)  # noqa: SLF001 (as the service itself sends)
            steps = pipeline.run()
            await drive_async(steps, AsyncSavingWire(wire, self._saver(pipeline, target)), service.clock)
            await asyncio.to_thread(target.finish)
        return pipeline.transfer.size

    def result(self) -> int:
        """Write the file and block until it is complete. Raises CallError, OSError."""
        self._call._check_blocking()  # noqa: SLF001 (the same rule as for ``result``)
        from moorline.calls.saving import SyncSavingWire, Target

        service = self._call.service
        pipeline = self._pipeline()
        with Target(self._path) as target:
            wire = service._wires.blocking(whole=False)  # noqa: SLF001 (as the service itself sends)
            steps = pipeline.run()
            drive(steps, SyncSavingWire(wire, self._saver(pipeline, target)), service.clock)
            target.finish()
        return pipeline.transfer.size

    def _pipeline(self) -> _DownloadPipeline:
        context = self._call.service.context_of(self._call, kind=_DownloadContext)
        assert isinstance(context, _DownloadContext)
        return _DownloadPipeline(context, context.begin(resume=self._resume))

    def _saver(self, pipeline: _DownloadPipeline, target: Target) -> Saver:
        from moorline.calls.saving import Saver

        return Saver(pipeline.transfer, target, self._progress, pipeline.request_id_of, pipeline.restarted)


class _DownloadContext(ServiceContext):
    """One sending of a Call whose answer goes to a file."""

    __slots__ = ("_added", "_identity", "_transfer")

    streams = True

    def begin(self, *, resume: bool) -> Transfer:
        """What the request allows; the bytes, of which there are none yet."""
        # A large body may take long, as long as something comes: as for uploads, each wait is bounded by itself.
        self.policy = replace(self.policy, attempt_timeout=None)
        names = {name.lower() for name in self._headers}
        barred = ""
        if not resume:
            barred = "resuming is switched off"
        elif self._plan.method != "GET":
            barred = f"the rest of the answer to a {self._plan.method} cannot be asked for"
        elif CONDITIONS & names:
            barred = "the request has a range or conditions of its own"
        self._added: dict[str, str] = {}
        # Ranges are of the encoded bytes where there is an encoding.
        self._identity = {} if barred or "accept-encoding" in names else {"Accept-Encoding": "identity"}
        self._transfer = Transfer(barred=barred, ranged="range" in names)
        return self._transfer

    def request(self) -> ServiceRequest:
        """The request of the next attempt: for the rest, once there is something."""
        request = super().request()
        self._added = {**self._identity, **self._transfer.ask()}
        return request._replace(headers={**request.headers, **self._added})

    def redirected(self, request: ServiceRequest, answer: Exchange, hops: int) -> ServiceRequest | None:
        """As for any call; what we ask of the bytes is no secret, and goes where they come from."""
        onward = super().redirected(request, answer, hops)
        return None if onward is None else onward._replace(headers={**onward.headers, **self._added})

    def judge(self, answer: Exchange) -> CallError | None:
        """The status alone: the body is in the file."""
        if answer.open is not None:
            answer.request_id = self.request_id_of(answer)
            return None
        error = super().judge(answer)
        if error is None or answer.status != _UNSATISFIED or not self._transfer.offset:
            return error
        unfit = self._transfer.unfit(f"the service has no bytes from {self._transfer.offset} on (answered 416)")
        unfit.status, unfit.request_id = error.status, error.request_id
        return unfit

    def succeeded(self, answer: Exchange, lease: Lease, deadline: float, attempts: tuple[Attempt, ...]) -> Exchange:  # noqa: ARG002
        """A large body is no slow service: how long it took says nothing to the breaker."""
        self.accepted(attempts[-1].at)
        lease.settle(worked=True)
        answer.attempts = attempts
        return answer


class _DownloadPipeline(Pipeline[ServiceRequest, Exchange]):
    """The pipeline, in which the retries count anew when a body got further, and end where the rest cannot be had."""

    def __init__(self, context: _DownloadContext, transfer: Transfer) -> None:
        super().__init__(context)
        self.transfer = transfer
        self.request_id_of = context.request_id_of

    def _again(self, error: CallError) -> Generator[Effect, Any, bool]:
        transfer = self.transfer
        if transfer.progressed():
            self._retries = 0
        if transfer.stuck:
            self._tell(story.GaveUp, transfer.stuck)
            return False
        again = yield from super()._again(error)
        if again and transfer.size:
            what = "all of it" if transfer.anew else "the rest"
            self._told(f"the body broke off after {transfer}; asked for {what}", 0 if transfer.anew else transfer.size)
        return again

    def restarted(self) -> None:
        """All comes again though the rest was asked for."""
        self._told("the rest was asked for, all of it comes: it is another version, or there are no ranges", 0)

    def _told(self, reason: str, start: int) -> None:
        self._tell(story.Resuming, reason, start=start, total=self.transfer.total)
