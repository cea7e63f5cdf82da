from __future__ import annotations

import asyncio
import pickle
import time
from typing import Any

import httpx2
import pytest
import stripe
from tests.calls import fault_server
from tests.calls.fault_server import FaultServer
from tests.calls.ledger import Script, both

from moorline import errors
from moorline.calls.adapters.stripe import Client
from moorline.calls.guards import Guards
from moorline.policies.breaker import Breaker
from moorline.policies.policy import Policy
from moorline.policies.retry import Retry

KEY = "sk_test_canary0123456789"
CUSTOMER = (200, {"request-id": "req_1"}, b'{"id": "cus_1", "object": "customer"}')
BUSY = (429, {"retry-after": "7"}, b'{"error": {"code": "rate_limit", "type": "invalid_request_error"}}')


def sdk(script: Script, *, retries: int = 0, name: str = "stripe", **policy: Any) -> stripe.StripeClient:
    """The real SDK on our client, whose wire is scripted."""
    client = Client(Policy(**policy), name=name, guards=Guards(script.clock), wire=httpx2.MockTransport(script))
    return stripe.StripeClient(KEY, http_client=client, max_network_retries=retries)


def create(colour: str, client: stripe.StripeClient) -> stripe.Customer:
    if colour == "sync":
        return client.v1.customers.create({"email": "a@example.com"})
    return asyncio.run(client.v1.customers.create_async({"email": "a@example.com"}))


def read(colour: str, client: stripe.StripeClient) -> stripe.Customer:
    if colour == "sync":
        return client.v1.customers.retrieve("cus_1")
    return asyncio.run(client.v1.customers.retrieve_async("cus_1"))


def at(server: FaultServer, policy: Policy) -> stripe.StripeClient:
    """The real SDK on our own wire, against a real server."""
    return stripe.StripeClient(
        KEY, http_client=Client(policy, guards=Guards()), base_addresses={"api": server.url}, max_network_retries=0
    )


@both
def test_a_write_is_repeated_under_one_key(colour):
    """A POST that meets 503s and a 409 is sent again with the key that the SDK put on it."""
    script = Script(503, 409, CUSTOMER)
    customer = create(colour, sdk(script))
    assert customer.id == "cus_1"
    assert customer.last_response is not None
    assert customer.last_response.request_id == "req_1"
    assert len({request.headers["idempotency-key"] for request in script.requests}) == 1
    assert len(script.requests) == 3
    assert script.requests[0].content == b"email=a%40example.com"


@both
def test_should_retry_is_obeyed(colour):
    """Stripe's own header decides: "false" ends it, "true" repeats even a 400."""
    script = Script((503, {"stripe-should-retry": "false"}, b'{"error": {"message": "no"}}'))
    with pytest.raises(stripe.APIError) as caught:
        create(colour, sdk(script))
    assert (len(script.requests), caught.value.http_status) == (1, 503)
    script = Script((400, {"stripe-should-retry": "true"}, b"{}"), CUSTOMER)
    assert create(colour, sdk(script)).id == "cus_1"


@both
def test_callers_faults_are_the_sdks_own(colour):
    """A declined card is stripe's CardError, sent once, and no failure of the service."""
    declined: Any = (
        402,
        {},
        b'{"error": {"type": "card_error", "code": "card_declined", "message": "no", "param": null}}',
    )
    script = Script(declined)
    client = sdk(script, breaker=Breaker(failures=1))
    for _ in range(3):
        with pytest.raises(stripe.CardError):
            create(colour, client)
    assert len(script.requests) == 3


@both
def test_a_limit_is_waited_for_or_raised_as_both(colour):
    """A 429 is repeated no earlier than asked; given up, it is RateLimited and stripe's RateLimitError, fields and
    all.
    """
    script = Script(BUSY, CUSTOMER)
    create(colour, sdk(script))
    assert script.times[1] >= 7 - 1e-6
    script = Script(BUSY)
    client = sdk(script, deadline=5)
    with pytest.raises(stripe.RateLimitError) as caught:
        create(colour, client)
    error = caught.value
    assert isinstance(error, errors.RateLimited)
    assert (error.http_status, error.code, error.retry_at) == (429, "rate_limit", script.clock.wall() + 7)
    with pytest.raises(stripe.RateLimitError):
        read(colour, client)
    assert len(script.requests) == 1
    assert KEY not in repr(error) + str(error)


@both
def test_an_open_breaker_is_a_stripe_error(colour):
    """After failures in a row the call is refused at once, with an error that users of either library catch."""
    script = Script(500)
    client = sdk(script, retry=None, breaker=Breaker(failures=2))
    for _ in range(2):
        with pytest.raises(stripe.APIError) as failed:
            read(colour, client)
        assert isinstance(failed.value, errors.ServiceUnavailable)
    with pytest.raises(stripe.APIConnectionError) as caught:
        read(colour, client)
    error = caught.value
    assert isinstance(error, errors.CircuitOpen)
    assert (error.outcome, error.should_retry, len(script.requests)) == ("not_sent", False, 2)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (type(error), str(error))


@both
def test_a_write_without_answer_keeps_its_key(colour):
    """A POST that nobody answered is OutcomeUnknown, with the key that makes it safe to send again."""
    script = Script(httpx2.ReadTimeout("slow"))
    with pytest.raises(errors.OutcomeUnknown) as caught:
        create(colour, sdk(script, retry=Retry(retries=1)))
    assert isinstance(caught.value, stripe.APIConnectionError)
    assert caught.value.idempotency_key == script.requests[0].headers["idempotency-key"]
    assert len(script.requests) == 2


@both
@pytest.mark.parametrize("behaviour", [fault_server.drip, fault_server.silent, fault_server.stalled_body])
def test_the_deadline_holds(colour, behaviour):
    """However slow the server, the call is back by its deadline, the body included."""
    with FaultServer(behaviour) as server:
        client = at(server, Policy(deadline=0.3))
        begun = time.monotonic()
        with pytest.raises(errors.DeadlineExceeded) as caught:
            read(colour, client)
        assert time.monotonic() - begun < 0.6
        assert isinstance(caught.value, stripe.APIConnectionError)
        client._requestor._get_http_client().close()


@both
def test_files_are_read(colour):
    """A streamed answer has the SDK's shape: a file to read, or an asynchronous iterator."""
    script = Script((200, {}, b"%PDF"))
    client = sdk(script)
    if colour == "sync":
        assert client.v1.quotes.pdf("qt_1").io.read() == b"%PDF"
    else:

        async def whole():
            return await (await client.v1.quotes.pdf_async("qt_1")).read_async()

        assert asyncio.run(whole()) == b"%PDF"


@both
def test_the_sdks_retries_are_off(colour, caplog):
    """With retries of its own the SDK still asks once for each of our attempts, and a line in the log says so once."""
    script = Script(500)
    client = sdk(script, retries=3, retry=Retry(retries=1), breaker=None)
    for _ in range(2):
        with pytest.raises(stripe.APIError):
            read(colour, client)
    assert len(script.requests) == 4
    assert sum("double_retries_off" in record.getMessage() for record in caplog.records) == 1


def test_the_module_wide_client(monkeypatch):
    """The SDK's older style runs on the pipeline too, and its default of two retries is off."""
    script = Script(500)
    policy = Policy(retry=None)
    client = Client(policy, guards=Guards(script.clock), wire=httpx2.MockTransport(script))
    monkeypatch.setattr(stripe, "default_http_client", client)
    monkeypatch.setattr(stripe, "api_key", KEY)
    assert stripe.max_network_retries == 2
    with pytest.raises(errors.ServiceUnavailable):
        stripe.Customer.retrieve("cus_1")
    assert len(script.requests) == 1


@both
def test_state_is_shared_by_name(colour):
    """Clients of one name share a breaker; another name has its own."""
    script = Script(500)
    guards = Guards(script.clock)
    policy = Policy(retry=None, breaker=Breaker(failures=1))
    wire = httpx2.MockTransport(script)

    def client(name: str) -> stripe.StripeClient:
        return stripe.StripeClient(KEY, http_client=Client(policy, name=name, guards=guards, wire=wire))

    with pytest.raises(errors.ServiceUnavailable):
        read(colour, client("payments"))
    with pytest.raises(errors.CircuitOpen):
        read(colour, client("payments"))
    with pytest.raises(errors.ServiceUnavailable):
        read(colour, client("elsewhere"))


def test_arguments_are_checked():
    """Each wrong argument is named."""
    for wrong, named in (({"policy": 3}, "policy"), ({"name": ""}, "name"), ({"guards": {}}, "guards")):
        with pytest.raises(errors.ConfigurationError, match=rf"stripe\.Client\.{named}"):
            Client(**wrong)
