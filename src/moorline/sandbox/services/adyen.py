"""Adyen's stand-in: payments, sessions, 3-D Secure, modifications whose results come by signed webhook.

Facts: services/payments/adyen.md and adyen.json. Keys begin with ``AQE`` (or are the password of a user
``…@Company.…``); those that end in ``wrong`` are refused (401), those that begin with ``AQEread`` may only ask how an
account can be paid (403). Any merchant account is good that does not begin with ``Wrong`` (403).

Cards: 4111 1111 1111 1111 and any other good number, 03/2030, 737, with the prefix ``test_`` in encrypted fields. The
holder names and ``RequestedTestAcquirerResponseCode`` of Adyen's test platform decline as they do there;
``capture failed``, ``refund failed`` and ``chargeback:10.4`` as holder name let these happen later;
``RequestedTestErrorResponseCode`` brings its two errors of communication.

The sandbox's own: ``authenticationData.attemptAuthentication`` ``always`` asks for 3-D Secure (by redirect, or natively
where ``nativeThreeDS`` is ``preferred``), and whatever is no card asks for a redirect. Who is redirected decides at
``GET /_authenticate/{…}?outcome=succeed`` (or ``fail``, ``cancel``). A session is paid at
``GET /_pay/{session}?outcome=completed`` (or the other words of its status). The account captures at once, and takes
one capture of what is held: the rest is let go.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, urlencode

from moorline.errors import ConfigurationError
from moorline.sandbox import signing
from moorline.sandbox.idempotency import Keys
from moorline.sandbox.services import _adyen_tables as tables
from moorline.sandbox.services._adyen_tables import Refused, invalid
from moorline.sandbox.standin import Answer, Ask, Emission, Registration, Signed, Surroundings

__all__ = ["STAND_IN"]

_Json = dict[str, Any]
_Action = Callable[..., Answer]
_DAY = 86_400
_STATUSES = ("completed", "canceled", "expired", "paymentPending", "refused")
_POOR = "Insufficient balance on payment"


class AdyenStandIn:
    """One company account on the test platform."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._keys = Keys(around.clock, window=31 * _DAY)
        self._payments: dict[str, _Json] = {}
        self._sessions: dict[str, _Json] = {}
        self._waiting: dict[str, str | None] = {}  # what finishes an action -> the payment; None once it is finished
        self._base = ""
        one = r"/payments/([^/]+)"
        self._routes: list[tuple[str, str, _Action]] = [
            ("/paymentMethods", "PaymentMethodsRequest", self._methods),
            ("/payments", "PaymentRequest", self._pay),
            ("/payments/details", "PaymentDetailsRequest", self._details),
            (f"{one}/captures", "PaymentCaptureRequest", self._capture),
            (f"{one}/cancels", "PaymentCancelRequest", self._cancel),
            (f"{one}/refunds", "PaymentRefundRequest", self._refund),
            (f"{one}/reversals", "PaymentReversalRequest", self._reverse),
            ("/cancels", "StandalonePaymentCancelRequest", self._cancel_by_reference),
            ("/sessions", "CreateCheckoutSessionRequest", self._open_session),
        ]

    # -- the protocol of a stand-in ------------------------------------------------------------------------------------

    async def handle(self, ask: Ask) -> Answer:
        """Answer one request."""
        self._base = ask.base
        page = re.fullmatch(r"/_(authenticate|pay)/(\w+)", ask.path)
        if page and ask.method == "GET":
            outcome = dict(ask.parameters).get("outcome", "")
            return self._authenticate(page[2], outcome) if page[1] == "authenticate" else self._shop(page[2], outcome)
        key = ask.headers.get("idempotency-key")
        echoed = {"Idempotency-Key": key} if key else {}
        try:
            self._authorise(ask)
            if ask.method == "GET":
                await ask.work()
                return self._session_result(ask)
            routed = self._routed(ask)
            if key is None:
                await ask.work()
                return self._run(routed)
            answer = await self._once(ask, key, routed)
        except Refused as refused:
            answer = Answer(refused.body["status"], refused.body, refused.headers)
        return Answer(answer.status, answer.content, {**echoed, **answer.headers})

    def snapshot(self) -> dict[str, Any]:
        """Payments by their ``pspReference``, sessions by their id."""
        return {"payments": self._payments, "sessions": self._sessions}

    def failure(self, status: int) -> Answer:
        """Adyen's error body for an injected status."""
        kind = "internal" if status >= 500 else "validation"
        return Answer(status, Refused(status, "000", "An error was injected by the sandbox", kind).body)

    def sample(self, event: str) -> bytes:
        """A notification about a payment that the account does not have."""
        if event not in STAND_IN.events:
            raise ConfigurationError(f"'event' must be one of {', '.join(STAND_IN.events)}")
        payment = {
            "pspReference": tables.reference(self._around),
            "merchantAccount": "MoorlineECOM",
            "reference": "order-42",
            "amount": {"value": 1099, "currency": "EUR"},
            "method": "visa",
        }
        own = {} if event == "AUTHORISATION" else self._about(payment)
        return tables.notification(self._around, event, payment, **own)[1]

    def sign(self, emission: Emission, *, url: str, secrets: tuple[str, ...], hook_id: str, broken: bool) -> Signed:
        """Signed within each item, by the first secret."""
        return signing.signed(
            "adyen",
            emission,
            url=url,
            secrets=secrets,
            broken=broken,
            now=self._around.clock.wall(),
            headers={"Content-Type": "application/json; charset=utf-8", "User-Agent": "Adyen HttpClient 1.0"},
        )

    # -- the way to an action ------------------------------------------------------------------------------------------

    def _authorise(self, ask: Ask) -> None:
        key = ask.headers.get("x-api-key", "")
        scheme, _, sealed = ask.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic":
            try:
                user, _, password = base64.b64decode(sealed, validate=True).decode().partition(":")
            except (binascii.Error, UnicodeDecodeError):
                user = password = ""
            key = f"AQE{password}" if "@Company." in user and password else ""
        if not key.startswith("AQE") or key.endswith("wrong"):
            raise Refused(401, "000", "HTTP Status Response - Unauthorized", "security")
        if key.startswith("AQEread") and not ask.path.endswith("/paymentMethods"):
            raise Refused(403, "010", "Not allowed", "security")

    def _routed(self, ask: Ask) -> tuple[_Action, tuple[str, ...], _Json]:
        path = re.sub(r"^/v\d+", "", ask.path)
        for pattern, kind, action in self._routes:
            found = re.fullmatch(pattern, path)
            if ask.method == "POST" and found:
                try:
                    body = json.loads(ask.body)
                except ValueError:
                    body = None
                if not isinstance(body, dict):
                    raise Refused(400, "000", "Unable to parse message")
                tables.check_fields(kind, body)
                return action, found.groups(), body
        raise Refused(404, "000", "HTTP Status Response - Not Found")

    async def _once(self, ask: Ask, key: str, routed: tuple[_Action, tuple[str, ...], _Json]) -> Answer:
        if len(key) > 64:
            raise invalid("702", "Idempotency-Key is longer than 64 characters")
        before = self._keys.begin(key, json.dumps([ask.path, routed[2]], sort_keys=True))
        if isinstance(before, Answer):
            return before
        if before is not None:  # "other": what Adyen says to other parameters is not known
            text = "request already processed or in progress"
            raise Refused(422, "704", text, transient=before == "running")
        kept = False
        try:
            await ask.work()
            answer = self._run(routed)
            kept = True
        except Refused as refused:
            kept = refused.kept
            if not kept:
                raise
            answer = Answer(refused.body["status"], refused.body)
        finally:
            if not kept:
                self._keys.forget(key)
        self._keys.finish(key, answer)
        return answer

    def _run(self, routed: tuple[_Action, tuple[str, ...], _Json]) -> Answer:
        action, arguments, body = routed
        answer = action(body, *arguments)
        # What was answered or kept must not change with the payment.
        return Answer(answer.status, json.loads(json.dumps(answer.content)))

    # -- payments ------------------------------------------------------------------------------------------------------

    def _methods(self, _: _Json) -> Answer:
        return Answer(200, {"paymentMethods": [{"brands": ["visa", "mc"], "name": "Cards", "type": "scheme"}]})

    def _pay(self, body: _Json) -> Answer:
        tables.check_order(body)
        kind = tables.check_method(body)
        more = body.get("additionalData", {})
        if more.get("RequestedTestErrorResponseCode") == "NO_CONNECTION_AVAILABLE":
            raise Refused(500, "000", "No connection available", "internal", transient=True)
        if more.get("RequestedTestErrorResponseCode") == "IOEXCEPTION_RECEIVED":
            raise Refused(500, "000", "IOException received", "internal", kept=True)
        payment: _Json = {
            "pspReference": tables.reference(self._around),
            "merchantAccount": body["merchantAccount"],
            "reference": body["reference"],
            "amount": body["amount"],
            "method": "visa" if kind in ("scheme", "card") else kind,
            "holderName": body["paymentMethod"].get("holderName", ""),
            "manual": str(more.get("manualCapture")).lower() == "true" or body.get("captureDelayHours", 0) > 0,
            "returnUrl": body["returnUrl"],
            "state": "waiting",
            "held": 0,
            "captured": 0,
            "refunded": 0,
        }
        self._payments[payment["pspReference"]] = payment
        secure = body.get("authenticationData", {})
        if kind not in ("scheme", "card"):
            return self._ask_shopper(payment, kind, native=False)
        payment["fate"] = tables.refusal_of(body)
        if secure.get("attemptAuthentication") == "always":
            native = secure.get("threeDSRequestData", {}).get("nativeThreeDS") == "preferred"
            return self._ask_shopper(payment, kind, native=native)
        return self._settle(payment, payment["fate"])

    def _ask_shopper(self, payment: _Json, kind: str, *, native: bool) -> Answer:
        token = self._around.id("", 32)
        self._waiting[token] = payment["pspReference"]
        if native:
            action = {"type": "threeDS2", "subtype": "fingerprint", "paymentMethodType": kind, "token": token}
            return Answer(200, {"resultCode": "IdentifyShopper", "action": action | {"authorisationToken": token}})
        url = f"{self._base}/_authenticate/{token}"
        action = {"type": "redirect", "method": "GET", "paymentMethodType": kind, "url": url}
        return Answer(200, {"resultCode": "RedirectShopper", "action": action})

    def _authenticate(self, token: str, outcome: str) -> Answer:
        """Where the shopper's bank would be."""
        payment = self._payments.get(self._waiting.get(token) or "")
        if payment is None or outcome not in ("", "succeed", "fail", "cancel"):
            return Answer(404, b"no payment waits for its shopper there")
        payment["fate"] = {"fail": "11", "cancel": "cancel"}.get(outcome, payment.get("fate"))
        return Answer(303, None, {"Location": _with(payment["returnUrl"], redirectResult=token)})

    def _details(self, body: _Json) -> Answer:
        details = body.get("details")
        names = ("redirectResult", "threeDSResult", "threeds2.fingerprint", "threeds2.challengeResult")
        given = details if isinstance(details, dict) else {}
        token = next((str(given[name]) for name in names if name in given), "")
        if token not in self._waiting:
            raise invalid("702", "The details are of no payment that waits for them")  # the code is the sandbox's own
        name = self._waiting[token]
        if name is None:
            raise invalid("704", "request already processed or in progress")
        self._waiting[token] = None
        return self._settle(self._payments[name], self._payments[name].get("fate"))

    def _settle(self, payment: _Json, fate: str | None) -> Answer:
        """What the bank says. Of a payment that is pending it says it by webhook alone."""
        facts = {"pspReference": payment["pspReference"], "merchantReference": payment["reference"]}
        if fate == "cancel":
            payment["state"] = "cancelled"
            return Answer(200, {**facts, "resultCode": "Cancelled"})
        if fate is not None and fate != tables.PENDING:
            payment["state"] = "refused"
            reason = tables.REFUSALS[fate][1]
            self._tell("AUTHORISATION", payment, success="false", reason=reason)
            result = "Error" if fate in tables.ERRORS else "Refused"
            return Answer(200, {**facts, "resultCode": result, "refusalReason": reason, "refusalReasonCode": fate})
        value = payment["amount"]["value"]
        payment["state"] = "authorised"
        payment["held" if payment["manual"] else "captured"] = value
        operations = ["CANCEL", "CAPTURE", "REFUND"]
        self._tell("AUTHORISATION", payment, reason="076181:1111:03/2030", operations=operations)
        if payment["holderName"].startswith("chargeback"):
            self._tell("CHARGEBACK", payment, **self._about(payment), reason="Other Fraud-Card Absent Environment")
        if fate == tables.PENDING:
            return Answer(200, {**facts, "resultCode": "Received"})
        method = {"type": "scheme", "brand": payment["method"]}
        return Answer(200, {**facts, "resultCode": "Authorised", "amount": payment["amount"], "paymentMethod": method})

    # -- modifications: taken at once, done by webhook -----------------------------------------------------------------

    def _payment(self, name: str) -> _Json:
        payment = self._payments.get(name)
        if payment is None or payment["state"] == "waiting":
            raise invalid("167", "Original pspReference required for this operation")
        return payment

    def _taken(self, body: _Json, about: _Json, **facts: Any) -> Answer:
        own = {name: body[name] for name in ("reference", "amount", "merchantRefundReason") if name in body}
        psp, account = about["pspReference"], body["merchantAccount"]
        return Answer(201, {"merchantAccount": account, "pspReference": psp, "status": "received", **facts, **own})

    def _capture(self, body: _Json, name: str) -> Answer:
        payment, about = self._checked(body, name)
        taken, value = body["amount"], body["amount"]["value"]
        good = taken["currency"] == payment["amount"]["currency"] and value <= payment["held"]
        if good:
            payment.update(held=0, captured=value)
        self._tell("CAPTURE", payment, **about, amount=taken, **_outcome(_POOR, good=good))
        if good and payment["holderName"] == "capture failed":
            payment["captured"] = 0
            self._tell("CAPTURE_FAILED", payment, **about, amount=taken, reason="Capture Failed")
        return self._taken(body, about, paymentPspReference=name)

    def _refund(self, body: _Json, name: str) -> Answer:
        payment, about = self._checked(body, name)
        if body.get("merchantRefundReason") not in tables.REASONS:
            raise invalid("702", "Invalid merchantRefundReason")  # the code is the sandbox's own guess
        back, value = body["amount"], body["amount"]["value"]
        left = payment["captured"] - payment["refunded"]
        good = back["currency"] == payment["amount"]["currency"] and value <= left
        payment["refunded"] += value if good else 0
        self._tell("REFUND", payment, **about, amount=back, **_outcome(_POOR, good=good))
        if good and payment["holderName"] == "refund failed":
            payment["refunded"] -= value
            self._tell("REFUND_FAILED", payment, **about, amount=back, reason="Refund Failed")
        return self._taken(body, about, paymentPspReference=name)

    def _cancel(self, body: _Json, name: str) -> Answer:
        payment, about = self._payment(name), self._about(self._payment(name))
        good = self._let_go(payment)
        self._tell("CANCELLATION", payment, **about, **_outcome("Transaction is already captured", good=good))
        return self._taken(body, about, paymentPspReference=name)

    def _reverse(self, body: _Json, name: str) -> Answer:
        payment, about = self._payment(name), self._about(self._payment(name))
        cancelled = self._let_go(payment)
        good = cancelled or payment["captured"] > payment["refunded"] == 0
        if good and not cancelled:
            payment["refunded"] = payment["captured"]
        more = {"modification.action": "cancel" if cancelled else "refund"}
        outcome = _outcome("Transaction is already refunded", good=good)
        self._tell("CANCEL_OR_REFUND", payment, **about, additionalData=more, **outcome)
        return self._taken(body, about, paymentPspReference=name)

    def _cancel_by_reference(self, body: _Json) -> Answer:
        reference = body.get("paymentReference")
        if not isinstance(reference, str) or not reference:
            raise invalid("130", "Reference Missing")
        about: _Json = {"pspReference": tables.reference(self._around)}
        for payment in [one for one in self._payments.values() if one["reference"] == reference]:
            about["originalReference"] = payment["pspReference"]
            outcome = _outcome("Transaction is already captured", good=self._let_go(payment))
            self._tell("TECHNICAL_CANCEL", payment, **about, **outcome)
        return self._taken(body, about, paymentReference=reference)

    def _checked(self, body: _Json, name: str) -> tuple[_Json, _Json]:
        payment = self._payment(name)
        tables.check_amount(body, 1)
        return payment, self._about(payment)

    def _let_go(self, payment: _Json) -> bool:
        if payment["held"] == 0 or payment["state"] != "authorised":
            return False
        payment.update(held=0, state="cancelled")
        return True

    # -- sessions ------------------------------------------------------------------------------------------------------

    def _open_session(self, body: _Json) -> Answer:
        tables.check_order(body)
        if body.get("mode", "embedded") not in ("embedded", "hosted"):
            raise invalid("702", "Invalid mode")  # the code is the sandbox's own guess
        name = self._around.id("CS", 16).upper()
        self._sessions[name] = {"order": body, "status": "active", "result": self._around.id("", 40), "payments": []}
        answer = {"expiresAt": tables.moment(self._around, 3600), **body, "id": name}
        answer["sessionData"] = self._around.id("Ab02b4c0!", 60)
        if body.get("mode") == "hosted":
            answer["url"] = f"{self._base}/_pay/{name}"
        return Answer(201, answer)

    def _shop(self, name: str, outcome: str) -> Answer:
        """Where the shopper would choose how to pay."""
        session, status = self._sessions.get(name), outcome or "completed"
        if session is None or session["status"] != "active" or status not in _STATUSES:
            return Answer(404, b"no session waits for its shopper there")
        session["status"] = status
        if status in ("completed", "refused"):
            card = {"type": "scheme", "number": "4111111111111111", "expiryMonth": "03", "expiryYear": "2030"}
            card |= {"holderName": "DECLINED"} if status == "refused" else {}
            known = tables.FIELDS["PaymentRequest"]
            order = {field: value for field, value in session["order"].items() if field in known}
            paid = self._pay({**order, "paymentMethod": card}).content
            if paid["resultCode"] == "Authorised":
                session["payments"] = [{name: paid[name] for name in ("amount", "pspReference", "resultCode")}]
        back = _with(session["order"]["returnUrl"], sessionId=name, sessionResult=session["result"])
        return Answer(303, None, {"Location": back})

    def _session_result(self, ask: Ask) -> Answer:
        found = re.fullmatch(r"(?:/v\d+)?/sessions/(\w+)", ask.path)
        session = self._sessions.get(found[1]) if found else None
        if found is None or session is None:
            raise Refused(404, "000", "HTTP Status Response - Not Found")
        if dict(ask.parameters).get("sessionResult") != session["result"]:
            raise invalid("702", "Invalid sessionResult")  # the code is the sandbox's own guess
        facts = {"id": found[1], "status": session["status"], "reference": session["order"]["reference"]}
        return Answer(200, {**facts, "payments": session["payments"]})

    # -- events --------------------------------------------------------------------------------------------------------

    def _about(self, payment: _Json) -> _Json:
        """What names a new modification of a payment."""
        return {"pspReference": tables.reference(self._around), "originalReference": payment["pspReference"]}

    def _tell(self, code: str, payment: _Json, **fields: Any) -> None:
        name, body = tables.notification(self._around, code, payment, **fields)
        self._around.emit(Emission(code, body, name))


def _outcome(why: str, *, good: bool) -> dict[str, str]:
    return {"success": "true"} if good else {"success": "false", "reason": why}


def _with(url: str, **fields: str) -> str:
    """*url* with more in its query."""
    base, _, query = url.partition("?")
    return f"{base}?{urlencode([*parse_qsl(query, keep_blank_values=True), *fields.items()])}"


STAND_IN = Registration(
    name="adyen",
    make=AdyenStandIn,
    secret="0123456789ABCDEF" * 4,
    events=(
        "AUTHORISATION",
        "CAPTURE",
        "CAPTURE_FAILED",
        "CANCELLATION",
        "CANCEL_OR_REFUND",
        "TECHNICAL_CANCEL",
        "REFUND",
        "REFUND_FAILED",
        "CHARGEBACK",
    ),
)
