"""The shop of examples/shop, served against the sandbox: what its page and its operator see."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx2
import pytest
from tests.examples.conftest import ROOT, Sandbox
from tests.servers import until

Load = Callable[[str], ModuleType]
Serve = Callable[[Any], str]
VISA, BROKE = "pm_card_visa", "pm_card_visa_chargeDeclinedInsufficientFunds"


@pytest.fixture
def shop(sandbox: Sandbox, load: Load, serve: Serve) -> Iterator[httpx2.Client]:
    """A client of the running shop."""
    url = serve(load("examples/shop/main.py").api)
    with httpx2.Client(base_url=url, timeout=30, trust_env=False) as client:
        yield client


def _pay(shop: httpx2.Client, order: str = "42", card: str = VISA, **more: str) -> httpx2.Response:
    return shop.post("/payments", json={"order": order, "amount": "20.00", "card": card, **more})


def _payments(sandbox: Sandbox) -> list[dict[str, Any]]:
    return list(sandbox.state("stripe")["payment_intents"].values())


def test_a_payment_is_taken(shop: httpx2.Client, sandbox: Sandbox) -> None:
    """The page is told that it succeeded, and the vendor holds one payment of that amount for that order."""
    answer = _pay(shop)
    assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")
    (payment,) = _payments(sandbox)
    assert payment["id"] == answer.json()["payment"]
    assert (payment["amount_received"], payment["currency"], payment["metadata"]) == (2000, "usd", {"order": "42"})


@pytest.mark.parametrize("second_card", [VISA, "pm_card_mastercard"])
def test_an_order_sent_twice_is_paid_once(shop: httpx2.Client, sandbox: Sandbox, second_card: str) -> None:
    """The same answer comes again, even if another card is chosen the second time."""
    first, second = _pay(shop), _pay(shop, card=second_card)
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.json() == second.json()
    assert len(_payments(sandbox)) == 1


def test_a_declined_card_is_400_and_another_card_may_follow(shop: httpx2.Client, sandbox: Sandbox) -> None:
    """The customer is told why; the same order then goes through with a good card, as the same payment."""
    declined = _pay(shop, card=BROKE)
    assert declined.status_code == 400
    assert declined.json() == {"error": "declined", "reason": "insufficient_funds", "may_retry": True}
    assert _pay(shop).json()["status"] == "succeeded"
    (payment,) = _payments(sandbox)
    assert payment["status"] == "succeeded"


def test_an_outage_is_503_with_retry_after(
    sandbox: Sandbox, load: Load, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Down: 30 s; a time that Stripe names is passed on; afterwards the same order is paid, once."""
    (tmp_path / "moorline.toml").write_text("[services.stripe]\nretries = 0\n")
    monkeypatch.setenv("MOORLINE_SETTINGS", str(tmp_path / "moorline.toml"))
    with httpx2.Client(base_url=serve(load("examples/shop/main.py").api), timeout=30, trust_env=False) as shop:
        sandbox.arm(kind="status", service="stripe", status=503)
        down = _pay(shop)
        assert (down.status_code, down.headers["Retry-After"]) == (503, "30")
        sandbox.calm()
        assert _pay(shop).status_code == 200
        sandbox.arm(kind="status", service="stripe", status=429, retry_after=90)
        limited = _pay(shop, "43")
        assert limited.status_code == 503
        assert 85 <= int(limited.headers["Retry-After"]) <= 90
    assert len(_payments(sandbox)) == 1


@pytest.mark.parametrize("step", ["/v1/payment_intents", "/v1/payment_intents/*/confirm"])
def test_a_lost_answer_does_not_charge_twice(shop: httpx2.Client, sandbox: Sandbox, step: str) -> None:
    """Stripe does the work and its answer is lost, in either step: the customer pays once and sees no error."""
    sandbox.arm(kind="dropped", service="stripe", method="POST", path=step, count=1, processed=True)
    assert _pay(shop, "7").json()["status"] == "succeeded"
    (payment,) = _payments(sandbox)
    assert payment["amount_received"] == 2000


@pytest.mark.parametrize(
    ("wrong", "status", "said"),
    [
        ({"card": "pm_card_of_nobody"}, 400, "resource_missing"),
        ({"amount": "0"}, 400, "amount"),
        ({"amount": "20.005"}, 422, "amount"),
        ({"amount": "1.50", "currency": "jpy"}, 422, "decimal places"),
        ({"currency": "dollars"}, 422, "currency"),
        ({"order": ""}, 422, "order"),
        ({"card": "4242424242424242"}, 422, "card"),
    ],
)
def test_a_wrong_order_is_told_what_is_wrong(
    shop: httpx2.Client, sandbox: Sandbox, wrong: dict[str, str], status: int, said: str
) -> None:
    """400 or 422 naming the field or Stripe's code, never a 500; no money moves."""
    answer = shop.post("/payments", json={"order": "1", "amount": "20.00", "card": VISA, **wrong})
    assert answer.status_code == status, answer.text
    assert said in answer.text
    assert all(payment["amount_received"] == 0 for payment in _payments(sandbox))


def test_an_order_that_comes_back_with_another_amount_is_refused(shop: httpx2.Client, sandbox: Sandbox) -> None:
    """An order's number stands for one amount."""
    assert _pay(shop).status_code == 200
    changed = _pay(shop, amount="99.00")
    assert (changed.status_code, changed.json()["reason"]) == (400, "idempotency_error")


def test_a_signup_is_greeted_by_e_mail(shop: httpx2.Client, sandbox: Sandbox) -> None:
    """202 at once; the job then sends one e-mail to the new customer, though SendGrid is limited at first."""
    sandbox.arm(kind="status", service="sendgrid", status=429, retry_after=1, count=1)
    answer = shop.post("/signups", json={"email": "ada@example.com", "name": "Ada"})
    assert answer.status_code == 202
    assert answer.json()["job"]
    until(lambda: bool(sandbox.state("sendgrid")["messages"]), seconds=30)
    (sent,) = sandbox.state("sendgrid")["messages"]
    assert sent["message"]["personalizations"] == [{"to": [{"email": "ada@example.com"}]}]
    assert "Ada" in sent["message"]["content"][0]["value"]


@pytest.mark.parametrize("address", ["", "ada", "ada@example.com\r\nBcc: all@example.com", "a b@example.com"])
def test_a_wrong_address_is_422(shop: httpx2.Client, address: str) -> None:
    """Nothing that is no address is enqueued."""
    assert shop.post("/signups", json={"email": address, "name": "Ada"}).status_code == 422


def test_an_issue_on_github_is_seen(shop: httpx2.Client, sandbox: Sandbox) -> None:
    """A signed webhook, sent twice, shows up once at /issues; a forged one does not."""
    target = sandbox.target("github", f"{shop.base_url}/webhooks/github", repeat=2)
    assert sandbox.deliver("github", "issues", target=target) == [200, 200]
    assert sandbox.deliver("github", "issues", target=target, repeat=1, broken_signature="true") == [401]
    until(lambda: shop.get("/issues").json() != [], seconds=30)
    assert shop.get("/issues").json() == ["Found adrift"]


def test_health_is_served_beside_the_shop(shop: httpx2.Client) -> None:
    """The mounted application answers /healthz and /readyz."""
    assert shop.get("/healthz").status_code == 200
    assert shop.get("/readyz").json() == {"status": "ok"}


def _sign_in(shop: httpx2.Client, login: str) -> httpx2.Response:
    """Through the page of the sandbox's Google, as that user."""
    page = shop.get("/auth/google/login", follow_redirects=True)
    action = re.search(r'action="([^"]+)"', page.text)
    assert action is not None
    return shop.post(html.unescape(action[1]), data={"login": login}, follow_redirects=True)


def _buy(shop: httpx2.Client, number: str, card: str = VISA) -> httpx2.Response:
    return shop.post(f"/orders?good=cap&card={card}&number={number}", follow_redirects=True)


def test_nobody_buys_without_signing_in(shop: httpx2.Client, sandbox: Sandbox) -> None:
    """The page offers to sign in, and a button that is pressed all the same leads there."""
    page = shop.get("/").text
    assert "Sign in with Google" in page
    assert "Pay by" not in page
    answer = shop.post(f"/orders?good=cap&card={VISA}&number={'0' * 32}")
    assert (answer.status_code, answer.headers["location"]) == (303, "/auth/google/login")
    assert _payments(sandbox) == []


def test_a_customer_signs_in_buys_and_signs_out(shop: httpx2.Client, sandbox: Sandbox) -> None:
    """Who is signed in is shown with their own orders; a button pressed twice is one order; a declined one is none."""
    page = _sign_in(shop, "ada@gmail.com")
    assert (page.status_code, page.headers["cache-control"]) == (200, "no-store")
    assert "Ada Lovelace" in page.text
    assert "nothing was charged" in _buy(shop, "1" * 32, BROKE).text
    assert [_buy(shop, "2" * 32).status_code for _ in range(2)] == [200, 200]
    (payment,) = [one for one in _payments(sandbox) if one["status"] == "succeeded"]
    assert shop.get("/").text.count(payment["id"]) == 1
    here = {"origin": str(shop.base_url).rstrip("/")}
    assert "Ada Lovelace" not in shop.post("/auth/logout", headers=here, follow_redirects=True).text
    page = _sign_in(shop, "grace@corp.example")
    assert "Grace Hopper" in page.text
    assert payment["id"] not in page.text


def test_the_shop_stays_short() -> None:
    """It is an example, to be read at once: four parts in about 230 lines."""
    assert len((ROOT / "examples/shop/main.py").read_text().splitlines()) <= 240
