"""A process that pays and receives webhooks until it is killed or told to stop: ``python … DATABASE PORT``.

Each call is a line on standard output: ``ok``, or what went wrong.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # run as a script, it finds its own folder alone

import uvicorn

from moorline import Money, Moorline
from moorline.errors import MoorlineError
from moorline.services import Stripe


async def main(url: str, port: int) -> None:
    app = Moorline(url)
    app.keys.watch.every = 0.2  # a test cannot wait for long
    app.keys.watch.role = f"shop {port}"
    config = uvicorn.Config(app, port=port, log_level="error", lifespan="off")
    async with app:
        stripe = app.service(Stripe)
        serving = asyncio.create_task(uvicorn.Server(config).serve())

        async def pay() -> None:
            while not serving.done():
                said = "ok"
                try:
                    await stripe.create_payment(Money(500, "eur")).using(retry=None)
                except MoorlineError as error:
                    said = f"{type(error).__name__}: {error}"
                sys.stdout.write(f"{said}\n")
                sys.stdout.flush()
                await asyncio.sleep(0.01)

        await asyncio.gather(pay(), pay(), serving)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
