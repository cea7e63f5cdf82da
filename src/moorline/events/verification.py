"""``moorline.events.verify``: the check alone, for those who receive webhooks in their own way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from moorline.clock import SYSTEM
from moorline.errors import ConfigurationError, InvalidSignature
from moorline.events.certificates import Certificates
from moorline.events.delivery import Delivery
from moorline.events.event import Event
from moorline.events.scheme import NeedsCertificate, Scheme
from moorline.events.schemes.standard_webhooks import STANDARD_WEBHOOKS
from moorline.events.signatures import check_seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moorline.events.places import Verified
    from moorline.events.scheme import Proof
    from moorline.events.signatures import Key

__all__ = ["event_from", "lower_case", "scheme_of", "verify", "verify_each"]

GENERIC: Mapping[str, Scheme] = {"standard_webhooks": STANDARD_WEBHOOKS}
"""Schemes that are nobody's own, by the name that stands in the place of a service's."""

_CERTIFICATES = Certificates()


def verify(
    service: str | type[Any] | Scheme,
    *,
    headers: Mapping[str, str],
    body: bytes,
    secrets: Key | Sequence[Key],
    url: str | None = None,
    method: str = "POST",
    now: float | None = None,
    tolerance: float | None = None,
    certificates: Mapping[str, str | bytes] | None = None,
) -> Event:
    """Check a webhook's signature over its raw bytes and return it as an Event. Nothing is stored.

    ``service`` is a service class or its name (``"github"``, ``"standard_webhooks"``), or a scheme of your own;
    ``headers`` a mapping in any case; ``body`` the bytes as received; ``secrets`` one or several, each a str, bytes or
    Secret; ``url`` as the sender called it (needed by senders that sign it); ``now`` seconds since the epoch, by
    default this machine's clock; ``tolerance`` seconds that the signed time may be off, either way; ``certificates``
    PEM by URL, used instead of fetching, which otherwise blocks for up to 5 s and only asks the sender's own hosts.

    An Event may be a replay: keep ``event.dedup_key`` (where that begins with ``once:`` the id too) and refuse what was
    there before, or use the inbox, which does that. A delivery that holds several events gives one Event of the whole;
    see ``verify_each``.

    Raises InvalidSignature (missing, malformed, wrong, too old, too new), UnusableEvent for well-signed bytes that are
    no event of this service, ConfigurationError naming the argument that is wrong.
    """
    checked = _Checked(service, headers, body, secrets, url, method, now, tolerance, certificates)
    verified = checked.scheme.read(checked.delivery, checked.proof.secret_index, checked.proof.timestamp)
    return checked.event(verified, checked.delivery.body)


def verify_each(
    service: str | type[Any] | Scheme,
    *,
    headers: Mapping[str, str],
    body: bytes,
    secrets: Key | Sequence[Key],
    url: str | None = None,
    method: str = "POST",
    now: float | None = None,
    tolerance: float | None = None,
    certificates: Mapping[str, str | bytes] | None = None,
) -> list[Event]:
    """As ``verify``, with one Event for each that the delivery holds (SendGrid, HubSpot, Adyen send several)."""
    checked = _Checked(service, headers, body, secrets, url, method, now, tolerance, certificates)
    parts = checked.scheme.parts(checked.delivery, checked.proof.secret_index, checked.proof.timestamp)
    return [checked.event(verified, part) for verified, part in parts]


class _Checked:
    """A delivery whose signature is good."""

    def __init__(
        self,
        service: str | type[Any] | Scheme,
        headers: Mapping[str, str],
        body: bytes,
        secrets: Key | Sequence[Key],
        url: str | None,
        method: str,
        now: float | None,
        tolerance: float | None,
        certificates: Mapping[str, str | bytes] | None,
    ) -> None:
        self.name, self.scheme = scheme_of(service)
        self.now = SYSTEM.wall() if now is None else now
        self.delivery = Delivery(lower_case(headers), _raw(body), method=method, url=url, received_at=self.now)
        check_seconds("now", self.now)
        if tolerance is not None:
            check_seconds("tolerance", tolerance)
        self.proof = self._proof(secrets, tolerance, certificates)
        if self.scheme.signs_query:
            self.delivery = self.delivery.as_form()

    def _proof(
        self,
        secrets: Key | Sequence[Key],
        tolerance: float | None,
        certificates: Mapping[str, str | bytes] | None,
    ) -> Proof:
        given = {url: pem.encode() if isinstance(pem, str) else pem for url, pem in (certificates or {}).items()}
        known: Mapping[str, bytes] = _CERTIFICATES if certificates is None else given
        try:
            return self.scheme.check(self.delivery, secrets, now=self.now, tolerance=tolerance, certificates=known)
        except NeedsCertificate as need:
            if certificates is not None:
                # The address is the request's: a stranger must not be able to cause an error of configuration.
                raise InvalidSignature(f"certificates: there is none for {need.url}", reason="certificate") from None
            from moorline.events.fetching import fetch_sync

            _CERTIFICATES.keep(need.url, fetch_sync(need.url))
        return self.scheme.check(self.delivery, secrets, now=self.now, tolerance=tolerance, certificates=_CERTIFICATES)

    def event(self, verified: Verified, body: bytes) -> Event:
        """The Event of those facts."""
        return event_from(self.name, self.delivery.headers, body, verified, received_at=self.now)


def scheme_of(service: str | type[Any] | Scheme) -> tuple[str, Scheme]:
    """The name and the scheme of a service class, or of what has that name. Raises ConfigurationError."""
    if isinstance(service, Scheme):
        return service.env.lower().removesuffix("_secret").removesuffix("_webhook"), service
    if isinstance(service, str):
        generic = GENERIC.get(service)
        if generic is not None:
            return service, generic
        from moorline import registry

        service = registry.service(service)
    scheme: Scheme | None = getattr(service, "webhooks", None)
    name = getattr(service, "name", None)
    if not isinstance(name, str):
        raise ConfigurationError(f"service: expected a service class or its name, got {service!r}")
    if scheme is None:
        raise ConfigurationError(f"service: {name} sends no webhooks that are known here")
    return name, scheme


def lower_case(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers with lower-case names. One that comes twice is joined, and so matches no signature by half."""
    pairs = getattr(headers, "items", None)  # WSGI's and Django's are no Mapping and have it
    if pairs is None:
        raise ConfigurationError(f"headers: expected a mapping of names to values, got {type(headers).__name__}")
    folded: dict[str, str] = {}
    for name, value in pairs():
        if value is None:
            continue
        key, text = _text(name).lower(), _text(value)
        folded[key] = f"{folded[key]}, {text}" if key in folded else text
    return folded


def event_from(
    service: str, headers: Mapping[str, str], body: bytes, verified: Verified, *, received_at: float, secret: str = ""
) -> Event:
    """The Event that those facts make; ``secret`` is what the secret is called that had signed it."""
    return Event(
        service=service,
        id=verified.id,
        type=verified.type,
        body=body,
        headers=headers,
        action=verified.action,
        received_at=received_at,
        timestamp=verified.timestamp,
        secret_index=verified.secret_index,
        secret=secret,
        dedup_key=verified.key,
        once_for=verified.once_for,
    )


def _raw(body: object) -> bytes:
    if isinstance(body, (bytes, bytearray, memoryview)):
        return bytes(body)
    raise ConfigurationError(f"body: expected the raw bytes as received, got {type(body).__name__}")


def _text(value: object) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
