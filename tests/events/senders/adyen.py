"""Adyen, by the example of its card: two notifications in one delivery."""

from __future__ import annotations

import dataclasses

from tests.events.senders.sample import Sample, Signed


def item(reference: str, value: int = 500) -> str:
    """A notification without its signature."""
    return (
        '{"NotificationRequestItem":{"eventCode":"REFUND","success":"true","pspReference":"' + reference + '",'
        '"originalReference":"NC6HT9CRT65ZGN82","merchantAccountCode":"MyShopECOM","merchantReference":"order-42",'
        f'"amount":{{"value":{value},"currency":"EUR"}},"eventDate":"2026-11-20T10:00:00+01:00","reason":"",'
        '"paymentMethod":"visa"}}'
    )


def changed(signed: Signed) -> Signed:
    """Another amount in the second notification alone."""
    first, second = signed.body.rsplit(b'"value": 500', 1)
    return dataclasses.replace(signed, body=first + b'"value": 501' + second)


SAMPLE = Sample(
    service="adyen",
    body=f'{{"live":"false","notificationItems":[{item("J2KHP9CRT65ZGN83")},{item("J2KHP9CRT65ZGN84")}]}}'.encode(),
    secret="44782DEF547AAA06C910C43932B1EB0C71FC68D9D0C057550C48EC2ACF6BA056",
    other="74F490DD33F7327BAECC88B2947C011FC02D014A473AAA33A8EC93E4DC069174",
    headers={"Content-Type": "application/json"},
    id="sha256:f10f10c770bca92a80237fbcf3b1ab21878842954b9f7b83813acc349ab6a84a",
    type="REFUND",
    events=2,
    timed=False,
    answer=b"[accepted]",
    changed=changed,
)
