"""Every exception that a caller may catch, in one tree.

::

    MoorlineError
    ├── ConfigurationError            a setting, an argument or a registration is wrong (also a ValueError)
    │   └── SecretUnavailable         the place where a secret is kept does not give it
    ├── Misuse                        right thing, wrong moment: blocking inside a running loop, … (also a RuntimeError)
    ├── CallError                     a Call did not give its answer
    │   ├── CallerFault               the service says that we are wrong; the same request will fail again
    │   │   ├── InvalidRequest        malformed, or refused by validation (400, 413, 422; or before sending)
    │   │   ├── NotFound              no such object, or not for this credential (404, 410)
    │   │   ├── Conflict              the object is in another state (409, 412)
    │   │   ├── IdempotencyConflict   the same idempotency key came with other parameters
    │   │   └── PaymentDeclined       the bank or the risk engine said no
    │   ├── CredentialFault           our key, not our request
    │   │   ├── AuthenticationFailed  missing, wrong or expired credential (401)
    │   │   ├── PermissionDenied      a good credential without the right (403)
    │   │   └── ReauthorizationRequired   a connected account is of no more use until its owner connects it again
    │   ├── LimitFault                too much at once
    │   │   ├── RateLimited           the service's limit, or ours in front of it (429)
    │   │   └── BulkheadFull          our own limit of calls in flight
    │   ├── ServiceFault              the service failed
    │   │   ├── ServiceUnavailable    5xx
    │   │   ├── BadAnswer             truncated, malformed or too large an answer
    │   │   ├── CircuitOpen           not sent: the breaker is open
    │   │   └── AllServicesFailed     none of the services of a Failover could
    │   ├── NetworkFault              nobody answered
    │   │   ├── ConnectFailed         never left this machine (refused, DNS, TLS, pool)
    │   │   ├── AttemptTimeout        one attempt took too long
    │   │   ├── ConnectionLost        the connection broke in the middle
    │   │   └── DeadlineExceeded      the whole call took too long
    │   └── OutcomeUnknown            it may have happened: sent, not answered, and not safe to repeat
    │       └── DeadlineOutcomeUnknown   the same, because the deadline ran out (also a DeadlineExceeded)
    ├── EventError
    │   ├── InvalidSignature          the bytes were not signed by a secret that we accept, or too long ago
    │   ├── UnusableEvent             signed well, but not an event: no id, no type, not the expected body
    │   │   └── PayloadMismatch       the payload does not fit the model of the handler
    │   ├── BatchFailed               some of the events that a handler got together failed
    │   ├── EventNotFound
    │   ├── EventPruned               its body is no longer kept
    │   ├── ReplayNotFound
    │   └── ReplayStateError          the replay has ended, so it cannot be resumed or cancelled
    ├── JobError
    │   ├── UnknownJob                no function or operation is registered under that name
    │   ├── JobNotFound               no such job in the store
    │   ├── GroupNotFound             no such group of jobs
    │   ├── JobStateError             the job is in a state that does not allow it
    │   ├── JobProcessDied            the process in which the job ran was killed, or crashed
    │   ├── JobFailed                 the job whose result was asked for ended without one
    │   ├── PayloadFromNewer          the arguments were stored by a newer program than this one
    │   └── InvalidArguments          the arguments do not fit the function (also a TypeError)
    ├── StoreError
    │   ├── StoreUnavailable          the database is down, locked or full
    │   ├── StoreOverloaded           more is waiting to be written than the limit
    │   ├── MessageRefused            a queue or exchange of others does not take the message
    │   └── StoreNotMigrated          the schema is older or newer than this program
    ├── ConnectionNotFound            nobody has connected such an account
    ├── RotationRefused               a key cannot be added, promoted or retired now: somebody would be left without
    ├── DecryptionFailed              what was encrypted was changed or moved, or its key is gone
    ├── KeyUnavailable                an encryption key that is kept wrapped cannot be unwrapped
    ├── InvalidToken                  a token that must not be believed
    └── SignInFailed                  nobody was signed in: the answer was forged, too late, refused, …

A CallError answers two questions: *whose fault* it was (``fault``), and *what happened* (``outcome``):
``not_sent`` (the service saw nothing), ``unknown`` (it may have acted), ``done`` (it answered).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

Fault = Literal["caller", "credentials", "limit", "service", "network"]
Outcome = Literal["not_sent", "unknown", "done"]


class MoorlineError(Exception):
    """The root: ``except MoorlineError`` catches all that moorline raises on purpose."""


class ConfigurationError(MoorlineError, ValueError):
    """A setting, an argument or a registration is wrong. The message names it and says what is accepted."""


class SecretUnavailable(ConfigurationError):
    """The place where a secret is kept is down, or refuses it. The message names the place, and shows no value."""


class Misuse(MoorlineError, RuntimeError):
    """A call that cannot work from here, such as ``.result()`` inside a running event loop."""


class Attempt(NamedTuple):
    """One try of a Call.

    ``at`` is seconds since the epoch, ``elapsed`` seconds; ``status`` is the HTTP status when there was an answer;
    ``reason`` is one line without secrets; ``wait`` the seconds slept before the next attempt.
    """

    number: int
    at: float
    elapsed: float
    status: int | None
    reason: str
    wait: float = 0.0


class CallError(MoorlineError):
    """A Call did not give its answer. ``str()`` is one line and holds no secret.

    Attributes: ``service``, ``operation``; ``status`` (HTTP) and ``code`` (the service's own) if it answered;
    ``request_id`` (the service's); ``outcome``; ``retryable`` (is the same Call, sent again later, safe and sensible);
    ``retry_at`` (seconds since the epoch, when the service or the breaker named a time); ``idempotency_key``;
    ``attempts``; ``detail`` (the service's structured answer, redacted, for programs that need more than ``code``).
    """

    fault: ClassVar[Fault] = "service"
    default_outcome: ClassVar[Outcome] = "done"
    default_retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        service: str = "",
        operation: str = "",
        status: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
        outcome: Outcome | None = None,
        retryable: bool | None = None,
        retry_at: float | None = None,
        idempotency_key: str | None = None,
        attempts: tuple[Attempt, ...] = (),
        detail: Any = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.service = service
        self.operation = operation
        self.status = status
        self.code = code
        self.request_id = request_id
        self.outcome: Outcome = outcome or self.default_outcome
        self.retryable = self.default_retryable if retryable is None else retryable
        self.retry_at = retry_at
        self.idempotency_key = idempotency_key
        self.attempts = attempts
        self.detail = detail

    def __str__(self) -> str:
        where = ".".join(part for part in (self.service, self.operation) if part)
        facts = [f"status {self.status}" if self.status else "", f"code {self.code}" if self.code else ""]
        facts.append(f"request {self.request_id}" if self.request_id else "")
        facts.append(f"{len(self.attempts)} attempts" if len(self.attempts) > 1 else "")
        if self.outcome != "done":
            facts.append(f"outcome {self.outcome}")
        tail = ", ".join(fact for fact in facts if fact)
        return (f"{where}: " if where else "") + self.message + (f" ({tail})" if tail else "")

    def __reduce__(self) -> tuple[Any, ...]:
        # An exception pickles through its positional arguments; ours are keywords.
        return (_rebuild, (type(self), self.message, dict(vars(self))))


def _rebuild(kind: type[CallError], message: str, state: dict[str, Any]) -> CallError:
    error = kind(message)
    vars(error).update(state)
    return error


class CallerFault(CallError):
    """The service answered that the request is wrong; sending it again gives the same answer."""

    fault = "caller"


class InvalidRequest(CallerFault):
    """Malformed, or refused by validation: 400, 413 or 422, or a documented limit checked before sending."""


class NotFound(CallerFault):
    """No such object, or not visible to this credential (404, 410)."""


class Conflict(CallerFault):
    """The object is in a state that does not allow it (409, 412)."""


class IdempotencyConflict(CallerFault):
    """The same idempotency key was used before with other parameters."""


class PaymentDeclined(CallerFault):
    """The bank or the risk engine said no. ``code`` is the service's code, ``decline_code`` the bank's finer reason.

    ``may_retry`` says whether trying again later, or with another card, may help.
    """

    def __init__(
        self, message: str, *, decline_code: str | None = None, may_retry: bool | None = None, **context: Any
    ) -> None:
        super().__init__(message, **context)
        self.decline_code = decline_code
        self.may_retry = may_retry


class CredentialFault(CallError):
    """The key is at fault, not the request."""

    fault = "credentials"


class AuthenticationFailed(CredentialFault):
    """The credential is missing, wrong or expired (401)."""


class PermissionDenied(CredentialFault):
    """The credential is good and lacks the right (403); so does its other accepted version, if there is one."""


class ReauthorizationRequired(CredentialFault):
    """A connected account is of no more use: revoked, or over, or not granted for what is wanted. ``connection`` is its
    id, ``reconnect`` the address (if known) at which its owner connects it again, ``missing`` the scopes that were not
    granted (none: the whole connection has ended).
    """

    default_outcome = "not_sent"

    def __init__(
        self,
        message: str,
        *,
        connection: str | None = None,
        reconnect: str | None = None,
        missing: frozenset[str] = frozenset(),
        **context: Any,
    ) -> None:
        super().__init__(message, **context)
        self.connection = connection
        self.reconnect = reconnect
        self.missing = missing


class LimitFault(CallError):
    """Too much at once; the same Call later is fine."""

    fault = "limit"
    default_retryable = True


class RateLimited(LimitFault):
    """The service's limit (429), or the gate that we keep in front of it. ``retry_at`` says when it opens, if known."""


class BulkheadFull(LimitFault):
    """Our own limit of calls in flight to this service is reached. Nothing was sent."""

    default_outcome = "not_sent"


class ServiceFault(CallError):
    """The service failed."""

    fault = "service"
    default_retryable = True


class ServiceUnavailable(ServiceFault):
    """The service answered 5xx."""


class BadAnswer(ServiceFault):
    """The answer is truncated, malformed or larger than the limit."""

    default_retryable = False


class CircuitOpen(ServiceFault):
    """Not sent: the service failed too often, and the breaker stays open until ``retry_at``."""

    default_outcome = "not_sent"


class AllServicesFailed(ServiceFault):
    """None of the services of a Failover could. ``errors`` are theirs, in the order in which they were asked;
    ``attempts`` those of all of them. ``retry_at`` is the earliest time that one of them named.
    """

    errors: tuple[CallError, ...] = ()

    @classmethod
    def of(cls, operation: str, errors: Sequence[CallError]) -> AllServicesFailed:
        """The one error that tells of *errors*."""
        failed = cls(f"no service could: {'; '.join(map(str, errors))}", operation=operation)
        failed.errors = tuple(errors)
        failed.service = ", ".join(error.service for error in errors)
        failed.attempts = tuple(attempt for error in errors for attempt in error.attempts)
        outcomes = {error.outcome for error in errors}
        failed.outcome = "unknown" if "unknown" in outcomes else "not_sent" if outcomes == {"not_sent"} else "done"
        failed.retryable = any(error.retryable for error in errors)
        # Who comes back later must find at least one of them willing: the soonest, if none is willing at once.
        times = [error.retry_at for error in errors if error.retryable]
        failed.retry_at = min(at for at in times if at is not None) if times and None not in times else None
        return failed


class NetworkFault(CallError):
    """No answer came."""

    fault = "network"
    default_outcome: ClassVar[Outcome] = "unknown"
    default_retryable = True


class ConnectFailed(NetworkFault):
    """The request never left: connection refused, DNS, TLS, or no free connection in the pool."""

    default_outcome = "not_sent"


class AttemptTimeout(NetworkFault):
    """One attempt took longer than ``attempt_timeout``."""


class ConnectionLost(NetworkFault):
    """The connection broke after the request was sent and before the answer was complete."""


class DeadlineExceeded(NetworkFault):
    """The whole call, waits and body included, took longer than its deadline."""


class OutcomeUnknown(NetworkFault):
    """Sent, not answered, and not safe to send again: the service may have acted.

    Do not treat it as failed. Look the object up, or send the *same* Call again where ``idempotency_key`` is set:
    the service answers with the first result.
    """

    default_retryable = False

    @property
    def find_out(self) -> str:
        """What to do to learn whether it happened."""
        if self.idempotency_key is not None:
            return (
                "send the same Call again: its idempotency key makes the service answer with the first result"
                if self.retryable
                else "look the object up: the service no longer knows the idempotency key"
            )
        return "look the object up before sending again: this request carried no key that would make a repeat safe"


class DeadlineOutcomeUnknown(OutcomeUnknown, DeadlineExceeded):
    """The deadline ran out while an unrepeatable request was with the service."""


class EventError(MoorlineError):
    """Something is wrong with an Event."""


class InvalidSignature(EventError):
    """The bytes were not signed by an accepted secret, or not in time. ``reason`` is for the operator's log.

    Never send ``reason`` to the sender: it helps who forges.
    """

    def __init__(self, message: str, *, reason: str = "mismatch") -> None:
        super().__init__(message)
        self.reason = reason


class UnusableEvent(EventError):
    """Well signed, but not an event: no id, no type, or not the body that this service sends."""


class PayloadMismatch(UnusableEvent):
    """The payload does not fit the model of the handler. The message names each place that is wrong, and no value."""


class BatchFailed(EventError):
    """Raised by a handler that got several events at once: these failed, by ``Event.id``; the others are done.

    With a text in place of the mapping, all of them failed.
    """

    def __init__(self, errors: Mapping[str, object] | str) -> None:
        super().__init__(errors)  # the argument itself, which is what an exception is pickled by
        self.failed = None if isinstance(errors, str) else dict(errors)

    def __str__(self) -> str:
        if self.failed is None:
            return str(self.args[0])
        first = next(iter(self.failed.items()), None)
        return f"{len(self.failed)} of the events failed" + (f": {first[0]}: {first[1]}" if first else "")


class EventNotFound(EventError):
    """No event of that id is stored."""


class EventPruned(EventError):
    """The event's body and headers are no longer kept (setting ``webhooks.keep_days``): it can only be recognised."""


class ReplayNotFound(EventError):
    """No replay of that id was started."""


class ReplayStateError(EventError):
    """The replay is in a state that does not allow it, such as resuming one that was cancelled."""


class JobError(MoorlineError):
    """Something is wrong with a Job."""


class UnknownJob(JobError):
    """No function or operation is registered under that name in this program."""


class JobNotFound(JobError):
    """No job of that id is stored."""


class GroupNotFound(JobError):
    """No group of jobs of that id is stored."""


class JobStateError(JobError):
    """The job is in a state that does not allow it, such as cancelling a finished one."""


class JobProcessDied(JobError):
    """The process in which the job ran (``process=True``) was killed, or crashed; the message says by what."""


class JobFailed(JobError):
    """The job whose result was asked for ended without one: dead, or cancelled. The message has its last error."""


class PayloadFromNewer(JobError):
    """The arguments are of a version of the function that this program does not know yet; a newer one runs the job."""


class InvalidArguments(JobError, TypeError):
    """The arguments do not fit the signature of the function or operation."""


class StoreError(MoorlineError):
    """The database did not do it."""


class StoreUnavailable(StoreError):
    """The database is down, locked for too long, or full. Nothing of the transaction was kept."""


class StoreOverloaded(StoreError):
    """More is waiting to be written than the limit allows; try again in ``retry_after`` seconds."""

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class MessageRefused(StoreError):
    """A server does not take what was published: no queue is bound for it, it is too large, or of no form it knows."""


class StoreNotMigrated(StoreError):
    """The schema of the database is not the one that this program needs."""


class ConnectionNotFound(MoorlineError):
    """No such account is connected, or not by that owner. ``connect`` is the address (if known) at which the owner
    connects one.
    """

    connect: str | None = None


class RotationRefused(MoorlineError):
    """A version of a credential is not promoted, retired, …: somebody would be left without one, or still uses it.

    The message says who and since when, and what to do instead.
    """


class DecryptionFailed(MoorlineError):
    """What is stored encrypted cannot be read: it was changed, comes from another place, or its key is gone."""


class KeyUnavailable(MoorlineError):
    """An encryption key that is kept wrapped cannot be unwrapped: what wrapped it is down, or refuses. It is named."""


class InvalidToken(MoorlineError):
    """A token that must not be believed; the message says why and never holds the token.

    ``reason`` is one of ``malformed``, ``algorithm``, ``key`` (none of that id), ``signature``, ``issuer``,
    ``audience``, ``expired``, ``early``, ``nonce``, ``claims`` (another one is missing or not as it must be).
    """

    def __init__(self, message: str, *, reason: str = "malformed") -> None:
        super().__init__(message)
        self.reason = reason


class SignInFailed(MoorlineError):
    """Nobody was signed in. The message is for the operator's log: it holds no code, no token and no state.

    ``reason`` is one of ``state`` (not begun in this browser, or ended already), ``expired``, ``issuer`` (another one
    answered), ``denied`` (the user said no), ``provider`` (it answered an error, which ``code`` is), ``answer`` (it
    cannot be read in one way only), ``token`` (its ID token must not be believed), ``tenant`` (a domain or tenant that
    is not let in), ``sign_in_first`` (a user of that e-mail address is known, and it is not proved whose it is),
    ``taken`` (the account is another user's), ``refused`` (by the application).
    """

    def __init__(self, message: str, *, reason: str = "state", code: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.code = code
