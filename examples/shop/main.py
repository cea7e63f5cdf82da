"""A small shop on FastAPI: take a payment, hear from GitHub, greet new customers from a queue, sign in with Google.

Start it against the sandbox with one command, from the project's root::

    .venv/bin/moorline sandbox -- .venv/bin/uvicorn --app-dir examples/shop main:api

Open http://localhost:8000 in a browser, sign in (the sandbox's Google wants no password), and buy something. Or::

    curl localhost:8000/payments --json '{"order": "42", "amount": "20.00", "card": "pm_card_visa"}'
    curl localhost:8000/payments --json '{"order": "43", "amount": "20.00", "card": "pm_card_visa_chargeDeclined"}'
    curl localhost:8000/signups --json '{"email": "ada@example.com", "name": "Ada"}'

With ``--webhooks-to http://localhost:8000`` before the ``--`` the sandbox sends its webhooks here; ask for one::

    curl -X POST 'localhost:4010/_sandbox/deliver?service=github&event=issues'
    curl localhost:8000/issues

Against the real services set STRIPE_SECRET_KEY, SENDGRID_API_KEY, GITHUB_WEBHOOK_SECRET, GOOGLE_CLIENT_ID,
GOOGLE_CLIENT_SECRET and MOORLINE_ENCRYPTION_KEY (``moorline keys master new``), and leave the sandbox out. Others than
Google: MOORLINE_SIGN_IN__PROVIDERS=google,github. Orders are kept in SHOP_URL, a database of the shop's own.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import sqlalchemy as sa
from fastapi import Depends, FastAPI, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from fastapi.templating import Jinja2Templates
from pydantic import BaseModel, Field, model_validator

from moorline import Event, Money, Moorline, errors
from moorline.identity import Google, Identity
from moorline.services import GitHub, SendGrid, Stripe
from moorline.services.email.protocol import Email

moor = Moorline()
providers = moor.settings.sign_in.providers or ["google"]
if not moor.settings.sign_in.providers:
    moor.sign_in(Google)
stripe = moor.service(Stripe)
email = moor.service(SendGrid)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Jobs run in this process; on more machines run ``moorline worker main:moor`` there instead."""
    _tables.create_all(_database)
    async with moor.running(worker=True):
        yield


api = FastAPI(title="Shop", lifespan=lifespan)
api.add_middleware(moor.signed_in)  # keeps a session alive while it is used


# --- 1. Take a payment: a declined card is the customer's problem (400), an outage is ours to ride out (503).


class Order(BaseModel):
    """What the shop's page sends. ``order`` names the purchase: sent twice, it is paid once."""

    order: Annotated[str, Field(min_length=1, max_length=64)]
    amount: Annotated[str, Field(pattern=r"^\d{1,7}(\.\d{1,2})?$")]
    currency: Annotated[str, Field(pattern="^[a-z]{3}$")] = "usd"
    card: Annotated[str, Field(pattern=r"^pm_\w{1,100}$")]

    @model_validator(mode="after")
    def _fits_the_currency(self) -> Self:
        _ = self.money  # no half yen; FastAPI answers 422 with the reason
        return self

    @property
    def money(self) -> Money:
        return Money.of(self.amount, self.currency)


@api.post("/payments")
async def pay(order: Order) -> dict[str, Any]:
    """One payment for an order, however often the button is pressed; after a decline another card may try it."""
    started = await stripe.create_payment(
        order.money, payment_method_types=["card"], metadata={"order": order.order}
    ).using(idempotency_key=f"order-{order.order}")
    try:
        payment = await stripe.confirm_payment(started.id, payment_method=order.card)
    except errors.CallerFault as error:
        if error.code != "payment_intent_unexpected_state":
            raise
        payment = await stripe.get_payment(started.id)  # an earlier press has done it
    return {"payment": payment.id, "status": payment.status}


@api.exception_handler(errors.PaymentDeclined)
async def declined(_: Request, error: errors.PaymentDeclined) -> JSONResponse:
    """The bank said no: say why, and whether another try may help."""
    reason = error.decline_code or error.code
    return JSONResponse({"error": "declined", "reason": reason, "may_retry": error.may_retry}, 400)


@api.exception_handler(errors.CallerFault)
async def refused(_: Request, error: errors.CallerFault) -> JSONResponse:
    """Stripe says that the request is wrong: an unknown card, or an order that comes back with another amount."""
    return JSONResponse({"error": "refused", "reason": error.code or "invalid"}, 400)


@api.exception_handler(errors.CallError)
async def unavailable(_: Request, error: errors.CallError) -> JSONResponse:
    """Down, limited, or no answer in time. It is safe to press the button again."""
    seconds = 30 if error.retry_at is None else max(1, round(error.retry_at - moor.clock.wall()))
    return JSONResponse({"error": "try again soon", "outcome": error.outcome}, 503, {"Retry-After": str(seconds)})


# --- 2. Hear from GitHub: POST /webhooks/github is served by the mounted application below.

issues: list[str] = []


@moor.on(GitHub, "issues.opened")
async def on_issue(event: Event) -> None:
    """Verified, stored once, and answered long before this runs."""
    issues.append(event.payload["issue"]["title"])


@api.get("/issues")
async def seen() -> list[str]:
    """The titles of the issues that were opened."""
    return issues


# --- 3. Greet new customers from a queue: the signup does not wait for SendGrid, and no crash loses the greeting.


class Signup(BaseModel):
    """A new customer."""

    email: Annotated[str, Field(pattern=r"^[^@\s]+@[^@\s]+$", max_length=254)]
    name: Annotated[str, Field(min_length=1, max_length=100)]


@api.post("/signups", status_code=202)
async def sign_up(signup: Signup) -> dict[str, str]:
    """Remember the greeting, answer at once."""
    job = await send_welcome.enqueue(signup.email, signup.name)
    return {"job": job.id}


@moor.job(retries=5)
async def send_welcome(address: str, name: str) -> None:
    """Retried with back-off until SendGrid takes it."""
    text = f"Good to have you aboard, {name}."
    await email.send(Email(sender="shop@example.com", to=[address], subject="Welcome!", text=text))


# --- 4. Sign in, and buy: /auth/google/login and the rest are served by the mounted application below.

GOODS = {"cap": ("Captain's cap", 2400), "rope": ("Ten metres of rope", 1500), "lamp": ("Storm lamp", 5900)}
CARDS = {"pm_card_visa": "Visa", "pm_card_visa_chargeDeclinedInsufficientFunds": "empty card"}

_database = sa.create_engine(os.environ.get("SHOP_URL", "sqlite:///shop.db"))
_tables = sa.MetaData()
customers = sa.Table("customers", _tables, sa.Column("id", sa.Text, primary_key=True), sa.Column("name", sa.Text))
orders = sa.Table(
    "orders",
    _tables,
    sa.Column("number", sa.Text, primary_key=True),
    sa.Column("customer", sa.Text, nullable=False, index=True),
    sa.Column("good", sa.Text, nullable=False),
    sa.Column("payment", sa.Text, nullable=False),
)
_pages = Jinja2Templates(Path(__file__).parent)
_GUARD = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "Cache-Control": "no-store",  # the way back must not show who was signed in before
}


@moor.on_sign_in
def customer_of(identity: Identity) -> str:
    """Who it is at Google never changes; names and e-mail addresses do."""
    one = {"id": f"{identity.provider} {identity.subject}", "name": identity.name or "Somebody"}
    with _database.begin() as database:
        if not database.execute(sa.update(customers).where(customers.c.id == one["id"]).values(one)).rowcount:
            database.execute(sa.insert(customers).values(one))
    return one["id"]


async def signed_in(request: Request) -> str | None:
    """Who is signed in."""
    session = await moor.session(request)
    return None if session is None else session.user


Customer = Annotated[str | None, Depends(signed_in)]


@api.get("/")
def front(request: Request, customer: Customer, told: Literal["declined", "again", ""] = "") -> HTMLResponse:
    """The only page. Each button has a number of its own: pressed twice, it is one order."""
    with _database.connect() as database:
        name = database.execute(sa.select(customers.c.name).where(customers.c.id == customer)).scalar()
        mine = database.execute(sa.select(orders).where(orders.c.customer == customer)).all()
    known = {"goods": GOODS, "cards": CARDS, "providers": providers, "name": name, "orders": mine, "told": told}
    return _pages.TemplateResponse(request, "page.html", {**known, "number": lambda: uuid.uuid4().hex}, headers=_GUARD)


@api.post("/orders")
async def buy(
    customer: Customer,
    good: Annotated[Literal["cap", "rope", "lamp"], Query()],
    card: Annotated[str, Query(pattern=r"^pm_\w{1,100}$")],
    number: Annotated[str, Query(pattern="^[0-9a-f]{32}$")],
) -> RedirectResponse:
    """Other sites cannot send this for a customer: the browser keeps the cookie, which is SameSite=Lax, to itself."""
    if customer is None:
        return RedirectResponse(f"/auth/{providers[0]}/login", 303)
    try:
        paid = await pay(Order(order=number, amount=f"{GOODS[good][1] / 100:.2f}", card=card))
    except errors.PaymentDeclined:
        return RedirectResponse("/?told=declined", 303)
    except errors.CallError:
        return RedirectResponse("/?told=again", 303)
    await asyncio.to_thread(_keep, {"number": number, "customer": customer, "good": good, "payment": paid["payment"]})
    return RedirectResponse("/", 303)


def _keep(order: dict[str, str]) -> None:
    with _database.begin() as database:
        if database.execute(sa.select(orders).where(orders.c.number == order["number"])).first() is None:
            database.execute(sa.insert(orders).values(order))


api.mount("/", moor)
