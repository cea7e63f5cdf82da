"""A small shop on FastAPI: take a payment, hear from GitHub, greet new customers from a queue.

Start it against the sandbox with one command, from the project's root::

    .venv/bin/moorline sandbox -- .venv/bin/uvicorn --app-dir examples/shop main:api

and try it::

    curl localhost:8000/payments --json '{"order": "42", "amount": "20.00", "card": "pm_card_visa"}'
    curl localhost:8000/payments --json '{"order": "43", "amount": "20.00", "card": "pm_card_visa_chargeDeclined"}'
    curl localhost:8000/signups --json '{"email": "ada@example.com", "name": "Ada"}'

With ``--webhooks-to http://localhost:8000`` before the ``--`` the sandbox sends its webhooks here; ask for one::

    curl -X POST 'localhost:4010/_sandbox/deliver?service=github&event=issues'
    curl localhost:8000/issues

Against the real services set STRIPE_SECRET_KEY, SENDGRID_API_KEY and GITHUB_WEBHOOK_SECRET, and leave the sandbox out.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Self

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, model_validator

from moorline import Event, Money, Moorline, errors
from moorline.services import GitHub, SendGrid, Stripe
from moorline.services.email.protocol import Email

moor = Moorline()
stripe = moor.service(Stripe)
email = moor.service(SendGrid)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Jobs run in this process; on more machines run ``moorline worker main:moor`` there instead."""
    async with moor.running(worker=True):
        yield


api = FastAPI(title="Shop", lifespan=lifespan)


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


api.mount("/", moor)
