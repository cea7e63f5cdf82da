"""A process that takes a message, makes a job of it, and dies before it acknowledges: DATABASE_URL, URL."""

from __future__ import annotations

import os
import sys
from typing import Any

from moorline import Moorline
from moorline.cli import runner
from moorline.jobs.foreign import Message
from moorline.jobs.foreign.amqp import AmqpSource

if __name__ == "__main__":
    app = Moorline(sys.argv[1])

    @app.consume(sys.argv[2], queue="later")
    async def on_order(message: Message) -> None: ...

    def die(source: AmqpSource, deliveries: Any) -> None:
        del source, deliveries
        os._exit(9)

    setattr(AmqpSource, "acknowledge", die)  # noqa: B010 -- a plain assignment is no type that mypy knows
    runner.run(app, listener=None, worker=app.worker())
