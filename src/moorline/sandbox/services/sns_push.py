"""SNS's stand-in for push endpoints. See ``_sns``."""

from __future__ import annotations

from typing import Final

from moorline.sandbox.services._aws import ACCOUNT, REGION
from moorline.sandbox.services._sns import SnsStandIn
from moorline.sandbox.standin import Registration, Surroundings

__all__ = ["STAND_IN"]

_EVENTS: Final = ("EndpointCreated", "EndpointUpdated", "EndpointDeleted", "DeliveryFailure")


def _made(around: Surroundings) -> SnsStandIn:
    return SnsStandIn(around, "sns_push", _EVENTS)


STAND_IN = Registration(name="sns_push", make=_made, secret=f"arn:aws:sns:{REGION}:{ACCOUNT}:push", events=_EVENTS)
