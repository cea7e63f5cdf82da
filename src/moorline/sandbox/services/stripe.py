"""Stripe's stand-in: payment intents, refunds, idempotency, declines, 3-D Secure, signed events.

Facts: services/payments/stripe.md and stripe.json. Each ``sk_test_…`` key is good but those that end in ``_wrong``;
``rk_test_read…`` may only read; all others are refused. The magic payment methods of Stripe's test mode decline as they
do there, and so do its four test cards in ``payment_method_data`` (that others are an ``incorrect_number`` is
unconfirmed); a payment that needs 3-D Secure is finished by ``GET /_authenticate/{intent}?outcome=succeed`` (or
``fail``), where the customer's bank would be.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
from collections.abc import Callable
from typing import Any

from moorline.errors import ConfigurationError
from moorline.sandbox.idempotency import Keys
from moorline.sandbox.parameters import Form, Kind, Unfit, checked, decode_form, needed
from moorline.sandbox.services import _stripe_tables as tables
from moorline.sandbox.standin import Answer, Ask, Emission, Registration, Signed, Surroundings

__all__ = ["STAND_IN"]

API_VERSION = "2026-10-28.endive"
_Action = Callable[..., Form]


class _Refused(Exception):
    """An error answer in the making. ``stored``: an idempotency key keeps it, for the work had begun."""

    def __init__(
        self, status: int, message: str, *, type: str = "invalid_request_error", stored: bool = True, **more: Any
    ) -> None:
        super().__init__(message)
        self.status = status
        self.stored = stored
        given = {key: value for key, value in more.items() if value is not None}
        self.error = {"message": message, "type": type, **given}


def _invalid(message: str, code: str | None = None, param: str | None = None, status: int = 400) -> _Refused:
    return _Refused(status, message, code=code, param=param, stored=False)


def _worded(unfit: Unfit) -> _Refused:
    name, value = unfit.name, unfit.value
    message, code = {
        "unknown": (f"Received unknown parameter: {name}", "parameter_unknown"),
        "missing": (f"Missing required param: {name}.", "parameter_missing"),
        "empty": (f"You passed an empty string for '{name}'.", "parameter_invalid_empty"),
        "int": (f"Invalid integer: {value}", "parameter_invalid_integer"),
        "bool": (f"Invalid boolean: {value}", None),
        "text": (f"Invalid string: {json.dumps(value)}", None),
        "hash": ("Invalid object", None),
        "list": ("Invalid array", None),
        "choice": (f"Invalid {name}: must be one of {', '.join(filter(None, unfit.choices))}", None),
        "twofold": (f"Invalid parameter: {name}", None),
    }[unfit.problem]
    return _invalid(message, code, name)


def _check_metadata(metadata: object) -> None:
    if not isinstance(metadata, dict):
        return
    if len(metadata) > 50:
        raise _invalid("Metadata may have at most 50 keys.", None, "metadata")
    for key, value in metadata.items():
        if len(key) > 40 or not isinstance(value, str) or len(value) > 500:
            raise _invalid(
                "Metadata: keys have up to 40 characters, values are strings of up to 500.", None, "metadata"
            )


def _copy(thing: Form) -> Form:
    """What was answered or stored must not change with the object."""
    copied: Form = json.loads(json.dumps(thing))
    return copied


class StripeStandIn:
    """One test account."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._keys = Keys(around.clock, window=24 * 3600)
        self._intents: dict[str, Form] = {}
        self._refunds: dict[str, Form] = {}
        self._charges: dict[str, Form] = {}
        self._cause: Form = {"id": None, "idempotency_key": None}
        one = r"/v1/payment_intents/(pi_\w+)"
        self._routes: list[tuple[str, str, dict[str, Kind], _Action]] = [
            ("POST", r"/v1/payment_intents", tables.CREATE, self._create),
            ("GET", r"/v1/payment_intents", tables.PAGE, self._list_intents),
            ("GET", one, tables.ONE, self._get_intent),
            ("POST", one + "/confirm", tables.CONFIRM, self._confirm),
            ("POST", one + "/capture", tables.CAPTURE, self._capture),
            ("POST", one + "/cancel", tables.CANCEL, self._cancel),
            ("POST", r"/v1/refunds", tables.REFUND, self._refund),
            ("GET", r"/v1/refunds", tables.PAGE, self._list_refunds),
            ("GET", r"/v1/refunds/(re_\w+)", tables.ONE, self._get_refund),
            ("POST", r"/v1/refunds/(re_\w+)/cancel", tables.ONE, self._cancel_refund),
        ]

    # -- the protocol of a stand-in ------------------------------------------------------------------------------------

    async def handle(self, ask: Ask) -> Answer:
        """Answer one request."""
        headers = {
            "Request-Id": self._around.id("req_", 14),
            "Stripe-Version": ask.headers.get("stripe-version", API_VERSION),
        }
        key = ask.headers.get("idempotency-key")
        if ask.path.startswith("/_authenticate/"):
            return self._authenticate(ask)
        try:
            self._authorise(ask)
            routed = self._routed(ask)
            if ask.method == "POST" and key is not None:
                headers["Idempotency-Key"] = key
                return await self._once(ask, key, routed, headers)
            await ask.work()
            return self._run(routed, headers, key)
        except Unfit as unfit:
            return _error(_worded(unfit), headers)
        except _Refused as error:
            return _error(error, headers)

    def snapshot(self) -> dict[str, Any]:
        """Intents, refunds and charges by id."""
        return {"payment_intents": self._intents, "refunds": self._refunds, "charges": self._charges}

    def failure(self, status: int) -> Answer:
        """Stripe's error body for an injected status."""
        error = {"type": "api_error", "message": "An unknown error occurred."}
        if status == 429:
            error = {"type": "invalid_request_error", "code": "rate_limit", "message": "Request rate limit exceeded."}
        elif status < 500:
            error["type"] = "invalid_request_error"
        return Answer(status, {"error": error}, {"Request-Id": self._around.id("req_", 14)})

    def sample(self, event: str) -> bytes:
        """An event about an object that the account does not have."""
        if event not in STAND_IN.events:
            raise ConfigurationError(f"'event' must be one of {', '.join(STAND_IN.events)}")
        thing = tables.new_intent(self._around, {"amount": 1099, "currency": "eur"})
        if event == "charge.refunded":
            thing = tables.new_charge(self._around, thing, paid=True)
            thing.update(captured=True, amount_captured=1099, amount_refunded=1099, refunded=True)
        elif event in ("payment_intent.succeeded", "payment_intent.canceled"):
            thing["status"] = event.rpartition(".")[2]
        return self._event(event, thing)[1]

    def sign(self, emission: Emission, *, url: str, secrets: tuple[str, ...], hook_id: str, broken: bool) -> Signed:
        """``Stripe-Signature`` with one ``v1`` for each secret."""
        moment = str(self._around.now())
        signed = moment.encode() + b"." + emission.body + (b" " if broken else b"")
        marks = [hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest() for secret in secrets]
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
            "Stripe-Signature": ",".join([f"t={moment}", *(f"v1={mark}" for mark in marks)]),
        }
        return Signed(headers)

    # -- the way to an action ------------------------------------------------------------------------------------------

    def _authorise(self, ask: Ask) -> None:
        scheme, _, credential = ask.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic":
            try:
                credential = base64.b64decode(credential, validate=True).decode().partition(":")[0]
            except (binascii.Error, UnicodeDecodeError):
                credential = ""
        elif scheme.lower() != "bearer":
            credential = ""
        if not credential:
            raise _invalid("You did not provide an API key.", status=401)
        if not credential.startswith(("sk_test_", "rk_test_")) or credential.endswith("_wrong"):
            raise _invalid(f"Invalid API Key provided: {credential[:8]}****", status=401)
        if credential.startswith("rk_test_read") and ask.method != "GET":
            raise _invalid("The provided key does not have the required permissions for this endpoint.", status=403)

    def _routed(self, ask: Ask) -> tuple[_Action, tuple[str, ...], Form]:
        for method, pattern, kinds, action in self._routes:
            match = re.fullmatch(pattern, ask.path)
            if method == ask.method and match:
                form = checked(self._form(ask), kinds)
                _check_metadata(form.get("metadata"))
                for field in form.get("expand", ()):
                    if field != "latest_charge":
                        raise _invalid(f"This property cannot be expanded ({field}).", None, "expand")
                return action, match.groups(), form
        raise _invalid(f"Unrecognized request URL ({ask.method}: {ask.path}).", status=404)

    def _form(self, ask: Ask) -> Form:
        if ask.method == "GET":
            return decode_form(ask.query)
        kind = ask.headers.get("content-type", "").partition(";")[0].strip().lower()
        if ask.body and kind != "application/x-www-form-urlencoded":
            raise _invalid("Invalid request: the POST content type must be application/x-www-form-urlencoded.")
        try:
            return decode_form(ask.body.decode())
        except UnicodeDecodeError:
            raise _invalid("Invalid UTF-8 in the request.") from None

    async def _once(
        self, ask: Ask, key: str, routed: tuple[_Action, tuple[str, ...], Form], headers: dict[str, str]
    ) -> Answer:
        if len(key) > 255:
            raise _invalid("Idempotency-Key has at most 255 characters.")
        before = self._keys.begin(key, json.dumps([ask.path, routed[2]], sort_keys=True))
        if before == "other":
            message = "Keys for idempotent requests can only be used with the parameters they were first used with."
            raise _Refused(400, message, type="idempotency_error")
        if before == "running":
            message = "There is currently another in-progress request using this Idempotency-Key."
            raise _Refused(409, message, code="idempotency_key_in_use")
        if isinstance(before, Answer):
            return Answer(before.status, before.content, {**headers, "Idempotent-Replayed": "true"})
        stored = False
        try:
            await ask.work()
            answer = self._run(routed, headers, key)
            stored = True
        except _Refused as error:
            answer, stored = _error(error, headers), error.stored
        finally:
            if not stored:
                self._keys.forget(key)
        if stored:
            self._keys.finish(key, answer)
        return answer

    def _run(self, routed: tuple[_Action, tuple[str, ...], Form], headers: dict[str, str], key: str | None) -> Answer:
        action, arguments, form = routed
        self._cause = {"id": headers["Request-Id"], "idempotency_key": key}
        content = action(form, *arguments)
        if "latest_charge" in form.get("expand", ()) and content.get("latest_charge"):
            content = {**content, "latest_charge": self._charges[content["latest_charge"]]}
        return Answer(200, _copy(content), headers)

    # -- payment intents -----------------------------------------------------------------------------------------------

    def _create(self, form: Form) -> Form:
        needed(form, "amount", "currency")
        amount, currency = form["amount"], form["currency"].lower()
        if currency not in tables.CURRENCIES:
            raise _invalid(f"Invalid currency: {form['currency']}.", None, "currency")
        if amount < 1:
            raise _invalid("This value must be greater than or equal to 1.", "parameter_invalid_integer", "amount")
        if amount < 50:
            raise _invalid(f"Amount must be at least 50 {currency}.", "amount_too_small", "amount")
        if amount > tables.MOST:
            raise _invalid(f"Amount must be no more than {tables.MOST}.", "amount_too_large", "amount")
        _check_units(amount, currency, "amount")
        confirm = form.get("confirm", False)
        for name in ("error_on_requires_action", "off_session", "return_url"):
            if name in form and not confirm:
                raise _invalid(f"The parameter {name} can only be passed with confirm=true.", None, name)
        given = dict(form, currency=currency)
        if "automatic_payment_methods" in form:
            methods = checked(form["automatic_payment_methods"], tables.AUTOMATIC)
            needed(methods, "enabled")
            given["automatic_payment_methods"] = {"allow_redirects": "always", **methods}
        given["payment_method"] = self._method(form)
        if confirm:
            self._check_confirmable(given)
        intent = tables.new_intent(self._around, given)
        self._intents[intent["id"]] = intent
        return self._charge(intent, form) if confirm else intent

    def _method(self, form: Form) -> str | None:
        """The payment method that is named, or that the test card whose data are given amounts to."""
        method: str | None = form.get("payment_method")
        if method is None and "payment_method_data" in form:
            return self._method_of(form["payment_method_data"])
        known = method is None or method in tables.DECLINES or method in tables.NEEDS_ACTION
        if not known and not tables.GOOD_METHOD.fullmatch(method or ""):
            raise _invalid(f"No such PaymentMethod: '{method}'", "resource_missing", "payment_method")
        return method

    def _method_of(self, data: Form) -> str:
        needed(data, "type")
        card = data.get("card")
        if data["type"] != "card" or not isinstance(card, dict) or "number" not in card:
            raise _invalid("Of such data the sandbox takes a card's number alone.", None, "payment_method_data")
        if card["number"] not in tables.CARDS:
            message = "Your card number is incorrect."
            raise _Refused(402, message, type="card_error", code="incorrect_number", param="number")
        return tables.CARDS[card["number"]]

    def _check_confirmable(self, form: Form) -> None:
        if form.get("payment_method") is None:
            message = "You cannot confirm this PaymentIntent because it's missing a payment method."
            raise _invalid(message, "payment_intent_unexpected_state")
        methods = form.get("automatic_payment_methods") or {}
        if methods.get("enabled") and methods.get("allow_redirects") != "never" and "return_url" not in form:
            message = "This PaymentIntent may redirect: give a return_url, or allow_redirects=never."
            raise _invalid(message, None, "return_url")

    def _intent(self, id: str) -> Form:
        if id not in self._intents:
            raise _invalid(f"No such payment_intent: '{id}'", "resource_missing", "intent", 404)
        return self._intents[id]

    def _get_intent(self, form: Form, id: str) -> Form:
        return self._intent(id)

    def _list_intents(self, form: Form) -> Form:
        wanted = form.get("customer")
        rows = [intent for intent in self._intents.values() if wanted in (None, intent["customer"])]
        return _page(rows, "/v1/payment_intents", "payment_intent", form)

    def _confirm(self, form: Form, id: str) -> Form:
        intent = self._intent(id)
        _expect(intent, "confirm", "requires_payment_method", "requires_confirmation", "requires_action")
        method = self._method(form)
        merged = {**intent, **form, "payment_method": method or intent["payment_method"]}
        self._check_confirmable(merged)
        intent.update(payment_method=merged["payment_method"], capture_method=merged["capture_method"])
        return self._charge(intent, form)

    def _charge(self, intent: Form, form: Form) -> Form:
        method = intent["payment_method"]
        if method in tables.NEEDS_ACTION:
            if form.get("off_session") in ("true", "one_off", "recurring") or form.get("error_on_requires_action"):
                message = "This payment requires additional user action before it can be completed successfully."
                raise self._declined(intent, "authentication_required", "authentication_required", message)
            return self._ask_customer(intent, form.get("return_url"))
        if method in tables.DECLINES:
            raise self._declined(intent, *tables.DECLINES[method])
        return self._paid(intent)

    def _ask_customer(self, intent: Form, return_url: str | None) -> Form:
        intent["status"] = "requires_action"
        if return_url is None:
            intent["next_action"] = {"type": "use_stripe_sdk", "use_stripe_sdk": {"type": "three_d_secure_redirect"}}
        else:
            redirect = {"return_url": return_url, "url": f"https://hooks.stripe.com/_authenticate/{intent['id']}"}
            intent["next_action"] = {"type": "redirect_to_url", "redirect_to_url": redirect}
        self._emit("payment_intent.requires_action", intent)
        return intent

    def _authenticate(self, ask: Ask) -> Answer:
        intent = self._intents.get(ask.path.rpartition("/")[2])
        if intent is None or intent["status"] != "requires_action":
            return Answer(404, b"no payment waits for its customer there")
        back = intent["next_action"].get("redirect_to_url", {}).get("return_url")
        if ("outcome", "fail") in ask.parameters:
            message = "We are unable to authenticate your payment method."
            self._declined(intent, "payment_intent_authentication_failure", None, message)
        else:
            self._paid(intent)
        return Answer(303, None, {"Location": back}) if back else Answer(200, _copy(intent))

    def _paid(self, intent: Form) -> Form:
        charge = tables.new_charge(self._around, intent, paid=True)
        self._charges[charge["id"]] = charge
        intent.update(latest_charge=charge["id"], last_payment_error=None, next_action=None)
        if intent["capture_method"] == "manual":
            intent.update(status="requires_capture", amount_capturable=intent["amount"])
            self._emit("payment_intent.amount_capturable_updated", intent)
        else:
            intent.update(status="succeeded", amount_received=intent["amount"])
            charge.update(captured=True, amount_captured=intent["amount"])
            self._emit("payment_intent.succeeded", intent)
        return intent

    def _declined(self, intent: Form, code: str, decline_code: str | None, message: str) -> _Refused:
        charge = tables.new_charge(self._around, intent, paid=False)
        self._charges[charge["id"]] = charge
        kind = "invalid_request_error" if code.startswith("payment_intent") else "card_error"
        facts = {
            "code": code,
            "charge": charge["id"],
            "doc_url": f"https://stripe.com/docs/error-codes/{code.replace('_', '-')}",
            **({"decline_code": decline_code} if decline_code else {}),
        }
        intent.update(status="requires_payment_method", payment_method=None, next_action=None)
        intent["latest_charge"] = charge["id"]
        intent["last_payment_error"] = {"type": kind, "message": message, **facts}
        self._emit("payment_intent.payment_failed", intent)
        return _Refused(402, message, type=kind, payment_intent=_copy(intent), **facts)

    def _capture(self, form: Form, id: str) -> Form:
        intent = self._intent(id)
        _expect(intent, "capture", "requires_capture")
        most: int = intent["amount_capturable"]
        amount: int = form.get("amount_to_capture", most)
        if not 1 <= amount <= most:
            code = "amount_too_large" if amount > most else "parameter_invalid_integer"
            raise _invalid(f"The amount_to_capture must be from 1 to {most}.", code, "amount_to_capture")
        _check_units(amount, intent["currency"], "amount_to_capture")
        intent.update(status="succeeded", amount_received=amount, amount_capturable=0)
        if isinstance(form.get("metadata"), dict):
            intent["metadata"] = {**intent["metadata"], **form["metadata"]}
        self._charges[intent["latest_charge"]].update(captured=True, amount_captured=amount)
        self._emit("payment_intent.succeeded", intent)
        return intent

    def _cancel(self, form: Form, id: str) -> Form:
        intent = self._intent(id)
        open_states = ("requires_payment_method", "requires_confirmation", "requires_action", "requires_capture")
        _expect(intent, "cancel", *open_states)
        intent.update(status="canceled", canceled_at=self._around.now(), amount_capturable=0, next_action=None)
        intent["cancellation_reason"] = form.get("cancellation_reason")
        self._emit("payment_intent.canceled", intent)
        return intent

    # -- refunds -------------------------------------------------------------------------------------------------------

    def _refund(self, form: Form) -> Form:
        charge = self._refundable(form)
        left = charge["amount_captured"] - charge["amount_refunded"]
        amount = form.get("amount", left)
        if left == 0:
            raise _Refused(400, f"Charge {charge['id']} has already been refunded.", code="charge_already_refunded")
        if amount < 1:
            raise _invalid("Invalid positive integer", "parameter_invalid_integer", "amount")
        if amount > left:
            message = f"Refund amount ({amount}) is greater than unrefunded amount on charge ({left})"
            raise _Refused(400, message, param="amount")
        _check_units(amount, charge["currency"], "amount")
        refund = tables.new_refund(self._around, charge, amount, form)
        self._refunds[refund["id"]] = refund
        charge["amount_refunded"] += amount
        charge["refunded"] = charge["amount_refunded"] == charge["amount_captured"]
        self._emit("charge.refunded", charge)
        return refund

    def _refundable(self, form: Form) -> Form:
        if "charge" in form:
            if form["charge"] not in self._charges:
                raise _invalid(f"No such charge: '{form['charge']}'", "resource_missing", "charge")
            return self._charges[form["charge"]]
        if "payment_intent" not in form:
            raise _invalid("One of the following params should be provided: payment_intent or charge.")
        name = form["payment_intent"]
        if name not in self._intents:
            raise _invalid(f"No such payment_intent: '{name}'", "resource_missing", "payment_intent")
        if self._intents[name]["status"] != "succeeded":
            raise _Refused(400, f"This PaymentIntent ({name}) does not have a successful charge to refund.")
        return self._charges[self._intents[name]["latest_charge"]]

    def _get_refund(self, form: Form, id: str) -> Form:
        if id not in self._refunds:
            raise _invalid(f"No such refund: '{id}'", "resource_missing", "refund", 404)
        return self._refunds[id]

    def _list_refunds(self, form: Form) -> Form:
        wanted = form.get("payment_intent")
        rows = [refund for refund in self._refunds.values() if wanted in (None, refund["payment_intent"])]
        return _page(rows, "/v1/refunds", "refund", form)

    def _cancel_refund(self, form: Form, id: str) -> Form:
        refund = self._get_refund(form, id)
        raise _Refused(400, f"Refund {id} cannot be canceled: its status is {refund['status']}.")

    # -- events --------------------------------------------------------------------------------------------------------

    def _emit(self, kind: str, thing: Form) -> None:
        name, body = self._event(kind, thing)
        self._around.emit(Emission(kind, body, name))

    def _event(self, kind: str, thing: Form) -> tuple[str, bytes]:
        name = self._around.id("evt_3")
        event = {
            "id": name,
            "object": "event",
            "api_version": API_VERSION,
            "created": self._around.now(),
            "type": kind,
            "livemode": False,
            "pending_webhooks": 1,
            "request": self._cause,
            "data": {"object": thing},
        }
        # Indented: who re-serialises a body before checking its signature shall find out here.
        return name, json.dumps(event, indent=2, ensure_ascii=False).encode()


def _check_units(amount: int, currency: str, name: str) -> None:
    """Refuse fractions of what Stripe counts finer than it takes it."""
    step = tables.STEPS.get(currency, 1)
    if amount % step:
        message = f"Invalid amount. Charged amounts in {currency.upper()} must be evenly divisible by {step}."
        raise _invalid(message, "invalid_charge_amount_no_decimal_compatible" if step == 100 else None, name)


def _expect(intent: Form, verb: str, *states: str) -> None:
    if intent["status"] not in states:
        message = f"You cannot {verb} this PaymentIntent because it has a status of {intent['status']}."
        raise _Refused(400, message, code="payment_intent_unexpected_state", payment_intent=_copy(intent))


def _page(rows: list[Form], url: str, what: str, form: Form) -> Form:
    limit = form.get("limit", 10)
    if not 1 <= limit <= 100:
        raise _invalid("This value must be from 1 to 100.", "parameter_invalid_integer", "limit")
    rows.reverse()  # newest first
    ids = [row["id"] for row in rows]
    for name in ("starting_after", "ending_before"):
        if name in form and form[name] not in ids:
            raise _invalid(f"No such {what}: '{form[name]}'", "resource_missing", name)
    if "ending_before" in form:
        rows = rows[: ids.index(form["ending_before"])]
        return {"object": "list", "url": url, "has_more": len(rows) > limit, "data": rows[-limit:]}
    if "starting_after" in form:
        rows = rows[ids.index(form["starting_after"]) + 1 :]
    return {"object": "list", "url": url, "has_more": len(rows) > limit, "data": rows[:limit]}


def _error(error: _Refused, headers: dict[str, str]) -> Answer:
    log = f"https://dashboard.stripe.com/test/logs/{headers['Request-Id']}"
    return Answer(error.status, {"error": {**error.error, "request_log_url": log}}, headers)


STAND_IN = Registration(
    name="stripe",
    make=StripeStandIn,
    secret="whsec_sandbox",
    events=(
        "payment_intent.succeeded",
        "payment_intent.payment_failed",
        "payment_intent.canceled",
        "payment_intent.requires_action",
        "payment_intent.amount_capturable_updated",
        "charge.refunded",
    ),
)
