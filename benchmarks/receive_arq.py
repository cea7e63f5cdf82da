"""A peer of receive.py: FastAPI checks the HMAC, Redis ``SET NX`` deduplicates, arq takes the job.

``python receive_arq.py REDIS_PORT SECRET``; prints its port when it listens.
"""

import contextlib
import hmac
import sys
from collections.abc import AsyncIterator

import uvicorn
from arq import create_pool
from arq.connections import RedisSettings
from fastapi import FastAPI, Request, Response

port, secret = int(sys.argv[1]), sys.argv[2].encode()


@contextlib.asynccontextmanager
async def connected(app: FastAPI) -> AsyncIterator[None]:
    app.state.redis = await create_pool(RedisSettings(port=port))
    yield


app = FastAPI(lifespan=connected)


@app.post("/webhooks/github")
async def receive(request: Request) -> Response:
    body = await request.body()
    expected = "sha256=" + hmac.digest(secret, body, "sha256").hex()
    if not hmac.compare_digest(request.headers.get("x-hub-signature-256", ""), expected):
        return Response(status_code=401)
    identity = request.headers["x-github-delivery"]
    redis = app.state.redis
    if not await redis.set(f"seen:{identity}", 1, ex=30 * 86_400, nx=True):
        return Response(b'{"status":"duplicate"}')
    await redis.enqueue_job("handle", body, _job_id=identity)
    return Response(b'{"status":"stored"}')


class Server(uvicorn.Server):
    async def startup(self, sockets: object = None) -> None:
        await super().startup(sockets)
        print(self.servers[0].sockets[0].getsockname()[1], flush=True)


Server(uvicorn.Config(app, port=0, loop="uvloop", http="httptools", access_log=False, log_level="error")).run()
