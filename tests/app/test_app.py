"""Moorline: an ASGI application that joins store, handlers, jobs and services."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import fastapi
import httpx2
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from moorline import Moorline, Policy
from moorline.clock import ManualClock
from moorline.errors import ConfigurationError
from moorline.events import Event
from moorline.jobs.broker import JobFilter
from moorline.services import GitHub, Stripe
from moorline.settings import load

Push = Callable[..., dict[str, Any]]


def client(asgi: Any) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=asgi), base_url="http://app", timeout=20)


async def jobs(app: Moorline, state: Any = None) -> list[tuple[str, str, int]]:
    found = await app.jobs.broker.list(JobFilter(state=state))
    return sorted((job.name, job.state, job.attempts) for job in found)


# --- as an ASGI application


async def lifespan(asgi: Any, *kinds: str) -> list[dict[str, Any]]:
    """What the application answers to these messages of a server."""
    waiting = [{"type": f"lifespan.{kind}"} for kind in kinds]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return waiting.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await asgi({"type": "lifespan"}, receive, send)
    return sent


async def test_lifespan_opens_and_closes_the_store(app: Moorline) -> None:
    """A server's startup message opens the store, its shutdown message closes it."""
    seen: list[bool] = []
    kinds = ["startup", "shutdown"]

    async def receive() -> dict[str, Any]:
        seen.append(app.store.is_open)
        return {"type": f"lifespan.{kinds[len(seen) - 1]}"}

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await app({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert (*seen, app.store.is_open) == (False, True, False)


@pytest.mark.parametrize("url", ["sqlite:///taken/app.db", "postgresql+psycopg://m:hush@127.0.0.1:1/m"])
async def test_a_store_that_is_down_fails_the_startup_with_its_reason(url: str, tmp_path: Path) -> None:
    """The server is told why, without the password, instead of getting a traceback."""
    (tmp_path / "taken").write_text("a file, where a folder is needed")
    (answer,) = await lifespan(Moorline(url), "startup")
    assert answer["type"] == "lifespan.startup.failed"
    assert answer["message"]
    assert "hush" not in answer["message"]


async def test_an_application_can_be_opened_again_after_it_was_closed(app: Moorline, push: Push) -> None:
    """Closing is no end: the next server, or the next test, opens the same object again."""
    for identity in ("d-1", "d-2"):
        async with app, client(app) as http:
            assert (await http.post("/webhooks/github", **push(identity))).status_code == 200
    async with app:
        assert len(await app.events()) == 2


async def test_health_is_answered_without_the_store_and_readiness_with_it(app: Moorline) -> None:
    """GET and HEAD of /healthz and /readyz are 200; other methods are 405 and say what is allowed."""
    async with client(app) as http:
        assert (await http.get("/healthz")).json() == {"status": "ok"}
        assert not app.store.is_open
        for path in ("/healthz", "/readyz"):
            assert (await http.get(path)).status_code == 200
            head = await http.head(path)
            assert (head.status_code, head.content) == (200, b"")
            post = await http.post(path)
            assert (post.status_code, post.headers["allow"]) == (405, "GET, HEAD")
    await app.close()


@pytest.mark.parametrize("url", ["sqlite:///taken/app.db", "postgresql+psycopg://m:hush@127.0.0.1:1/m"])
async def test_with_the_store_down_it_is_alive_and_not_ready(url: str, tmp_path: Path, push: Push) -> None:
    """/healthz stays 200; /readyz and webhooks are 503 with Retry-After, and tell nothing of the database."""
    (tmp_path / "taken").write_text("a file, where a folder is needed")
    async with client(Moorline(url)) as http:
        assert (await http.get("/healthz")).status_code == 200
        for answer in (await http.get("/readyz"), await http.post("/webhooks/github", **push("d-1"))):
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) >= 1
            assert "hush" not in answer.text
            assert "127.0.0.1" not in answer.text


async def test_a_store_that_comes_up_later_needs_no_restart(tmp_path: Path, push: Push) -> None:
    """As soon as the database can be opened, the same process is ready and receives."""
    taken = tmp_path / "taken"
    taken.write_text("a file, where a folder is needed")
    app = Moorline("sqlite:///taken/app.db")
    async with client(app) as http:
        assert (await http.get("/readyz")).status_code == 503
        taken.unlink()
        assert (await http.get("/readyz")).status_code == 200
        assert (await http.post("/webhooks/github", **push("d-1"))).status_code == 200
    await app.close()


@pytest.mark.postgres
async def test_a_database_that_goes_away_is_noticed(postgres_url: str) -> None:
    """/readyz asks the database each time, not only at start."""
    import psycopg

    name = postgres_url.rpartition("/")[2]
    admin = postgres_url.replace("+psycopg", "").replace(f"/{name}", "/postgres")
    async with Moorline(postgres_url) as app, client(app) as http:
        assert (await http.get("/readyz")).status_code == 200
        with psycopg.connect(admin, autocommit=True) as connection:
            connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')  # type: ignore[arg-type, unused-ignore]
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
            assert (await http.get("/readyz")).status_code == 503
            assert (await http.get("/healthz")).status_code == 200
            connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')  # type: ignore[arg-type, unused-ignore]
        assert (await http.get("/readyz")).status_code == 200


@pytest.mark.parametrize("path", ["/", "/webhooks", "/webhooks/", "/webhooks/nobody", "/webhooks/stripe", "/healthz/x"])
async def test_unknown_paths_are_404(app: Moorline, path: str, push: Push) -> None:
    """Also a service that is known and has no secret here: the answer does not tell which it is."""
    async with app, client(app) as http:
        answers = [await http.get(path), await http.post(path, **push("d-1"))]
    assert {(answer.status_code, answer.text) for answer in answers} == {(404, '{"error":"not found"}')}


@pytest.mark.parametrize("framework", ["fastapi", "starlette"])
async def test_it_can_be_mounted_under_a_path(app: Moorline, push: Push, framework: str) -> None:
    """Under /moorline its routes work as at the root, opened by the outer lifespan or, without one, at the first request."""
    outer: Any
    if framework == "fastapi":

        @asynccontextmanager
        async def life(_: fastapi.FastAPI) -> AsyncIterator[None]:
            async with app.running():
                yield

        outer = fastapi.FastAPI(lifespan=life)
        outer.mount("/moorline", app)
    else:
        outer = Starlette(routes=[Mount("/moorline", app=app)])
    async with client(outer) as http:
        assert (await http.post("/moorline/webhooks/github", **push("d-1"))).status_code == 200
        assert (await http.get("/moorline/readyz")).status_code == 200
        assert (await http.get("/moorline/elsewhere")).status_code == 404
        assert (await http.get("/webhooks/github")).status_code == 404
    assert [event.type for event in await app.events()] == ["push"]
    if framework == "fastapi":
        assert (await lifespan(outer, "startup", "shutdown"))[-1]["type"] == "lifespan.shutdown.complete"
        assert not app.store.is_open
    await app.close()


async def test_many_first_requests_open_it_once(app: Moorline, push: Push) -> None:
    """Without a lifespan the first requests come together; all are answered, and all events are stored."""
    async with client(app) as http:
        answers = await asyncio.gather(*(http.post("/webhooks/github", **push(f"d-{n}")) for n in range(20)))
    assert [answer.status_code for answer in answers] == [200] * 20
    assert len(await app.events()) == 20
    await app.close()


def test_it_may_be_used_from_one_event_loop_after_another(app: Moorline, push: Push) -> None:
    """An application object is bound to no event loop, so scripts and tests may run several."""

    async def one_run(first: int) -> list[int]:
        async with client(app) as http:
            requests = (http.post("/webhooks/github", **push(f"d-{n}")) for n in range(first, first + 8))
            statuses = [answer.status_code for answer in await asyncio.gather(*requests)]
        await app.close()
        return statuses

    assert [asyncio.run(one_run(first)) for first in (0, 8)] == [[200] * 8] * 2


# --- handlers


async def test_each_matching_handler_runs_once_for_an_event(app: Moorline, push: Push) -> None:
    """Handlers for "*", the type and "type.action", async and plain; others are left alone."""
    ran: list[tuple[str, str]] = []

    @app.on(GitHub)
    async def anything(event: Event) -> None:
        ran.append(("anything", event.name))

    @app.on(GitHub, "pull_request")
    def any_action(event: Event) -> None:
        assert threading.current_thread() is not threading.main_thread()
        ran.append(("any_action", event.name))

    @app.on("github", "pull_request.closed")
    async def closed(event: Event) -> None:
        ran.append(("closed", event.payload["action"]))

    @app.on(GitHub, "push")
    async def pushed(event: Event) -> None:
        ran.append(("pushed", event.name))

    async with app, client(app) as http:
        for identity, action in (("d-1", "closed"), ("d-2", "opened"), ("d-1", "closed")):
            sent = push(identity, "pull_request", action)
            assert (await http.post("/webhooks/github", **sent)).status_code == 200
        await app.worker().drain()
    assert sorted(ran) == [
        ("any_action", "pull_request.closed"),
        ("any_action", "pull_request.opened"),
        ("anything", "pull_request.closed"),
        ("anything", "pull_request.opened"),
        ("closed", "closed"),
    ]


async def test_a_handler_that_fails_is_retried_alone(app: Moorline, clock: ManualClock, push: Push) -> None:
    """The other handler of the event ran once; the failing one comes again, with backoff, until it is mended."""
    ran: list[str] = []

    @app.on(GitHub, "push")
    async def steady(event: Event) -> None:
        ran.append("steady")

    @app.on(GitHub, "push", name="shaky")
    def fails_twice(event: Event) -> None:
        ran.append("shaky")
        if ran.count("shaky") < 3:
            raise RuntimeError("not yet")

    async with app, client(app) as http:
        await http.post("/webhooks/github", **push("d-1"))
        await app.worker().drain()
        assert await jobs(app) == [("event:github.steady", "done", 1), ("event:shaky", "ready", 1)]
        for _ in range(2):
            clock.advance(60)
            await app.worker().drain()
        assert await jobs(app) == [("event:github.steady", "done", 1), ("event:shaky", "done", 3)]
    assert sorted(ran) == ["shaky", "shaky", "shaky", "steady"]


async def test_a_handler_that_never_succeeds_is_dead_after_its_retries(
    app: Moorline, clock: ManualClock, push: Push
) -> None:
    """``retries=1`` is two runs; then the job is a dead letter with its reason, and the event is kept."""

    @app.on(GitHub, "push", retries=1)
    async def hopeless(event: Event) -> None:
        raise RuntimeError("never")

    async with app, client(app) as http:
        await http.post("/webhooks/github", **push("d-1"))
        for _ in range(3):
            await app.worker().drain()
            clock.advance(60)
        (job,) = await app.jobs.broker.list(JobFilter())
        assert (job.state, job.reason, job.attempts) == ("dead", "failed", 2)
        assert [failure.message for failure in await app.jobs.broker.failures(job.id)] == ["never", "never"]
        assert len(await app.events()) == 1


async def test_on_names_what_is_wrong(app: Moorline) -> None:
    """A service without webhooks, a pattern that is none, a handler without a name, and a name that is taken."""

    @app.on(GitHub, name="mine")
    async def first(event: Event) -> None: ...

    async def second(event: Event) -> None: ...

    for register, said in (
        (lambda: app.on("nobody"), "nobody"),
        (lambda: app.on(GitHub, "pull_*"), "type"),
        (lambda: app.on(GitHub, retries=-1), "retries"),
        (lambda: app.on(GitHub)(lambda event: None), "name"),
        (lambda: app.on(GitHub, name="mine")(second), "mine"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            register()


# --- jobs


async def test_a_job_is_declared_with_and_without_parentheses(app: Moorline) -> None:
    """Both can be called as the plain function and enqueued; with parentheses options are taken."""
    ran: list[tuple[str, int]] = []

    @app.job
    async def bare(number: int) -> int:
        ran.append(("bare", number))
        return number

    @app.job(name="renamed", retries=0, queue="slow")
    def dressed(number: int) -> int:
        ran.append(("dressed", number))
        return number

    assert (await bare(1), dressed(1)) == (1, 1)
    async with app:
        await bare.enqueue(2)
        await dressed.enqueue(number=2)
        assert await app.worker(queues=["slow"]).drain() == 1
        assert await app.worker().drain() == 1
        assert await jobs(app) == [("bare", "done", 1), ("renamed", "done", 1)]
    assert sorted(ran) == [("bare", 1), ("bare", 2), ("dressed", 1), ("dressed", 2)]


def test_a_job_is_enqueued_from_a_script(app: Moorline) -> None:
    """``with app.opened()`` and ``.result()`` need no event loop."""

    @app.job
    def work(number: int) -> None: ...

    with app.opened():
        assert work.enqueue(1).result().id
    assert asyncio.run(_drained(app)) == 1


async def _drained(app: Moorline) -> int:
    async with app:
        return await app.worker().drain()


async def test_job_names_what_is_wrong(app: Moorline) -> None:
    """A negative number of retries, a name that is taken, an option that is none."""

    @app.job(name="mine")
    async def first() -> None: ...

    async def second() -> None: ...

    with pytest.raises(ConfigurationError, match="retries"):
        app.job(retries=-1)(second)
    with pytest.raises(ConfigurationError, match="mine"):
        app.job(name="mine")(second)
    with pytest.raises(TypeError, match="retrys"):
        app.job(retrys=2)(second)  # type: ignore[call-overload]


# --- running


async def test_running_with_a_worker_runs_jobs_beside_the_application(tmp_path: Path) -> None:
    """Inside ``app.running(worker=True)`` a job is done soon after it was enqueued; afterwards all is closed."""
    app = Moorline(f"sqlite:///{tmp_path}/app.db")
    done = asyncio.Event()

    @app.job
    async def work() -> None:
        done.set()

    async with app.running(worker=True):
        await work.enqueue()
        await asyncio.wait_for(done.wait(), 20)
    assert not app.store.is_open
    async with app:
        assert await jobs(app) == [("work", "done", 1)]


async def test_running_ends_at_once_when_its_block_does_nothing(tmp_path: Path) -> None:
    """A worker that had no time to start is stopped all the same."""
    app = Moorline(f"sqlite:///{tmp_path}/app.db")
    async with asyncio.timeout(20):
        async with app.running(worker=True):
            pass
    assert not app.store.is_open


async def test_an_error_in_the_block_of_running_passes_through(tmp_path: Path) -> None:
    """And the worker and the store are stopped nevertheless."""
    app = Moorline(f"sqlite:///{tmp_path}/app.db")
    with pytest.raises(LookupError, match="mine"):
        async with app.running(worker=True):
            raise LookupError("mine")
    assert not app.store.is_open


def test_a_worker_takes_its_values_from_the_settings(tmp_path: Path) -> None:
    """What is not said at ``app.worker()`` is what ``[worker]`` says, and nonsense is refused, not replaced."""
    (tmp_path / "moorline.toml").write_text(
        '[worker]\nconcurrency = 3\nlease = 9.0\ngrace = 2.0\nqueues = ["a", "b"]\n'
    )
    app = Moorline()
    worker = app.worker()
    held = (worker._concurrency, worker._lease, worker._grace, worker._queues)
    assert held == (3, 9.0, 2.0, ("a", "b"))
    assert app.worker(concurrency=1, queues=["c"])._queues == ("c",)
    with pytest.raises(ConfigurationError, match="concurrency"):
        app.worker(concurrency=0)
    with pytest.raises(ConfigurationError, match="queues"):
        app.worker(queues=[])


# --- services


def test_settings_of_a_service_reach_its_policy(tmp_path: Path) -> None:
    """``[services.stripe]`` changes what it names and leaves the rest; options given in the code win."""
    (tmp_path / "moorline.toml").write_text(
        "[services.stripe]\nbase_url = 'http://127.0.0.1:9/stripe'\ndeadline = 4.0\nattempt_timeout = 2.0\n"
        "retries = 1\nbreaker_failures = 7\nbreaker_reset = 3.0\n"
    )
    app = Moorline()
    stripe = app.service(Stripe)
    assert stripe.base_url == "http://127.0.0.1:9/stripe"
    policy = stripe.policy
    assert policy.retry is not None
    assert policy.breaker is not None
    assert (policy.deadline, policy.attempt_timeout, policy.retry.retries) == (4.0, 2.0, 1)
    assert (policy.breaker.failures, policy.breaker.reset, policy.breaker.probes) == (7, 3.0, 1)
    assert policy.retry.base == Policy().retry.base  # type: ignore[union-attr]
    assert app.service(Stripe, policy=Policy(deadline=1.0)).policy.deadline == 1.0
    assert app.service(GitHub).policy == GitHub.default_policy


def test_settings_and_a_database_url_exclude_each_other() -> None:
    """Two places that say where the database is would leave one of them unheard."""
    with pytest.raises(ConfigurationError, match="database_url or settings"):
        Moorline("sqlite:///a.db", settings=load())


def test_the_repr_shows_no_password() -> None:
    """An application is printed and logged; the database's password is not."""
    assert "hush" not in repr(Moorline("postgresql://m:hush@127.0.0.1/m"))


def test_only_configured_services_have_a_path(app: Moorline, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path is open for each service that has a scheme and a secret in the environment."""
    assert app.webhook_paths() == ["/webhooks/github"]
    monkeypatch.setenv("STRIPE_WEBHOOK_SECRET", "whsec_" + "a" * 32)
    assert app.webhook_paths() == ["/webhooks/github", "/webhooks/stripe"]
