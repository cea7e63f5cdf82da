"""E-mail addresses and phone numbers, which are masked only where the operator asks for it: most logs need them."""

from __future__ import annotations

import re
from typing import Final

from moorline.redaction.names import MASK

__all__ = ["mask_if_asked", "mask_personal"]

_EMAIL: Final = re.compile(r"(?<![\w.+%-])[\w.+%-]{1,64}(?:@|%40)[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})+")
# E.164 with its plus sign: without one, no number can be told from an id.
_PHONE: Final = re.compile(r"(?<![\w+])(?:\+|%2[Bb])[1-9](?:[ .()-]{0,2}[0-9]){6,14}(?![0-9])")


class _Asked:
    emails = False
    phones = False


def mask_personal(*, emails: bool = False, phones: bool = False) -> None:
    """From now on mask e-mail addresses, and phone numbers that are written with a plus sign, in this process."""
    _Asked.emails, _Asked.phones = emails, phones


def mask_if_asked(line: str) -> str:
    """*line* without what ``mask_personal`` named."""
    if _Asked.emails and ("@" in line or "%40" in line):
        line = _EMAIL.sub(MASK, line)
    if _Asked.phones and ("+" in line or "%2" in line):
        line = _PHONE.sub(MASK, line)
    return line
