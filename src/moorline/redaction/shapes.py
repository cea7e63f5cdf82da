"""Secrets that are known by their look: keys in vendors' formats, private keys, JWTs, numbers of payment cards.

Sources: the cards of the services; Slack's, Discord's and Telegram's documentation of their addresses; RFC 7468 (PEM);
RFC 7515 (JWT); RFC 9580 (PGP's blocks); ISO/IEC 7812-1 (card numbers, the check digit by Luhn); Sentry's page on token
formats. Unconfirmed are the beginnings that only scanners of secrets tell of: ``GOCSPX-``, ``sq0…``, ``NRAK-``,
``…NRAL``, ``sbp_``, ``A21AA``; and that a key of Resend has a second underscore, which no id of a Stripe refund has.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from moorline.redaction.draft import Change, Draft
from moorline.redaction.gate import Gate
from moorline.redaction.names import MASK

__all__ = ["CARDS", "SHAPES", "mask_cards", "mask_shapes"]

# Not inside a word ("task_test_1"), but after what an escape stands for.
_EDGE: Final = r"(?:(?<![A-Za-z0-9])|(?<=\\[nrt])|(?<=%[0-9A-Fa-f]{2})|(?<=\\u[0-9A-Fa-f]{4}))"


_WITH_SECRETS: Final = ("pi", "seti", "cs", "src")  # Stripe's ids of what has a secret
_LONGEST_ID: Final = 64


class _Shape(NamedTuple):
    """*hint* stands with every secret of the shape, *back* characters after its beginning (None: behind an id)."""

    hint: str
    pattern: re.Pattern[str]
    back: int | None
    gate: str


def _shape(hint: str, pattern: str, *, back: int | None = 0, gate: str | None = None) -> _Shape:
    return _Shape(hint, re.compile(_EDGE + pattern, re.DOTALL), back, re.escape(hint) if gate is None else gate)


def _after(hint: str, pattern: str, *, gate: str | None = None) -> _Shape:
    """Of what is a secret only behind the hint."""
    return _Shape(hint, re.compile(pattern, re.DOTALL), -len(hint), re.escape(hint) if gate is None else gate)


_SLACK_HOOK: Final = r"(?:services|workflows|triggers|commands|actions|app)/[A-Za-z0-9/_-]+"
_PEM: Final = r"[A-Z ]{0,32}PRIVATE KEY(?: BLOCK)?-----.*?(?:-----END [A-Z ]{0,32}PRIVATE KEY(?: BLOCK)?-----|\Z)"

_SHAPES: Final = (
    _shape("k_live_", r"[sre]k_live_[A-Za-z0-9_]+", back=1, gate="[sre]k_live_"),
    _shape("k_test_", r"[sre]k_test_[A-Za-z0-9_]+", back=1, gate="[sre]k_test_"),
    _shape("sk_org_", r"sk_org_(?:live|test)_[A-Za-z0-9_]+"),
    _shape("whsec_", r"whsec_[A-Za-z0-9+/=_-]+"),
    _shape("_secret_", rf"(?:{'|'.join(_WITH_SECRETS)})_[A-Za-z0-9]{{1,{_LONGEST_ID}}}_secret_[A-Za-z0-9]+", back=None),
    _shape("sb_secret_", r"sb_secret_[A-Za-z0-9_-]+"),
    _shape("SG.", r"SG\.[A-Za-z0-9_-]{7,}(?:\.[A-Za-z0-9_-]+)?", gate=r"SG\.[A-Za-z0-9_-]{7}"),
    *(_shape(f"gh{kind}_", rf"gh{kind}_[A-Za-z0-9]{{8,}}") for kind in "oprsu"),
    _shape("github_pat_", r"github_pat_[A-Za-z0-9_]+"),
    _shape("glpat-", r"glpat-[A-Za-z0-9_-]{8,}"),
    _shape("shpat_", r"shpat_[A-Za-z0-9_-]{8,}"),
    _shape("pat-", r"pat-[a-z]{2}[0-9]-[A-Za-z0-9-]{8,}", gate="pat-[a-z]{2}[0-9]-"),
    _shape("xox", r"xox[abceoprs](?:\.[a-z]+)?-[A-Za-z0-9-]{8,}", gate=r"xox[abceoprs][.-]"),
    _shape("xapp-", r"xapp-[A-Za-z0-9-]{8,}"),
    _after("hooks.slack.com/", _SLACK_HOOK),
    _after("files.slack.com/upload/v1/", r"[A-Za-z0-9_-]+", gate=r"slack\.com/upl"),
    _after("/api/webhooks/", r"(?:[0-9]+|\*\*\*)/[A-Za-z0-9_-]+"),
    _after("/bot", r"[0-9]{6,}:[A-Za-z0-9_-]{20,}", gate="/bot[0-9]{6}"),
    _shape("AKIA", r"AKIA[A-Z0-9]{12,}"),
    _shape("ASIA", r"ASIA[A-Z0-9]{12,}", gate="ASIA[A-Z0-9]{12}"),
    _shape("AIza", r"AIza[A-Za-z0-9_-]{30,}"),
    _shape("ya29.", r"ya29\.[A-Za-z0-9_.-]{8,}"),
    _shape("1//0", r"1//0[A-Za-z0-9_-]{10,}"),
    _shape("00D", r"00D[A-Za-z0-9]{12,15}![A-Za-z0-9._]{20,}", gate="00D[A-Za-z0-9]{12,15}!"),
    _shape("GOCSPX-", r"GOCSPX-[A-Za-z0-9_-]{8,}"),
    _shape("sq0", r"sq0(?:csp|atp)-[A-Za-z0-9_-]{8,}", gate="sq0(?:csp|atp)-"),
    _shape("NRAK-", r"NRAK-[A-Z0-9]{8,}"),
    _shape("NRAL", r"[A-Za-z0-9]{36}NRAL(?![A-Za-z0-9])", back=36),  # a class repeated would cost the gate a fifth
    _shape("sntrys_", r"sntrys_[A-Za-z0-9+/=_-]{8,}"),
    _shape("sntryu_", r"sntryu_[a-f0-9]{8,}"),
    _shape("sbp_", r"sbp_[a-f0-9]{20,}", gate="sbp_[a-f0-9]{20}"),
    _shape("A21AA", r"A21AA[A-Za-z0-9_-]{40,}", gate="A21AA[A-Za-z0-9_-]{40}"),
    _shape("hvr.", r"hvr\.[A-Za-z0-9_-]{8,}"),
    _shape("hvs.", r"hvs\.[A-Za-z0-9_-]{8,}"),
    _shape("hvb.", r"hvb\.[A-Za-z0-9_-]{8,}"),
    _shape("EAAA", r"EAAA[A-Za-z0-9_-]{8,}", gate="EAAA[A-Za-z0-9_-]{8}"),
    _shape("os_v2_", r"os_v2_(?:app|org)_[a-z0-9]{8,}"),
    _shape("re_", r"re_(?=[a-z_]*[A-Z0-9])[A-Za-z0-9]{6,}_[A-Za-z0-9]{16,}", gate="re_[A-Za-z0-9]{6,}_[A-Za-z0-9]{16}"),
    _shape("eu01xx", r"eu01xx[A-Za-z0-9]{16,}"),
    _shape("sk-", r"sk-[A-Za-z0-9_-]{20,}", gate="sk-[A-Za-z0-9_-]{20}"),
    _shape("key-", r"key-[0-9a-f]{32}", gate="key-[0-9a-f]{32}"),
    _shape("eyJ", r"eyJ[A-Za-z0-9_-]{6,}(?:\.[A-Za-z0-9_-]*){1,4}", gate=r"eyJ[A-Za-z0-9_-]{6,}\."),
    _Shape("-----BEGIN ", re.compile("-----BEGIN " + _PEM, re.DOTALL), 0, "BEGIN [A-Z ]*PRIVATE KEY"),
)
SHAPES: Final = "|".join(dict.fromkeys(shape.gate for shape in _SHAPES))
"""What opens a gate for them, in the syntax that Rust's regular expressions share with Python's."""

_may_hold_shapes: Final = Gate(SHAPES)
_BY_HINT: Final = {shape.hint: shape for shape in _SHAPES}


def mask_shapes(draft: Draft) -> None:
    """Mask what has the look of a secret."""
    if draft.may_hold(_may_hold_shapes):
        for hint, shape in _BY_HINT.items():
            if hint in draft.pieces:
                draft.change(_masked(draft, shape))


def _masked(draft: Draft, shape: _Shape) -> list[Change]:
    hint, pattern, back, _gate = shape
    line = draft.line
    changes: list[Change] = []
    done = 0
    for at in draft.places(hint):
        start = at - back if back is not None else _beginning(line, at)
        found = pattern.match(line, start) if start >= done else None
        if found is not None:
            done = found.end()
            changes.append((start, done, MASK))
    return changes


def _beginning(line: str, at: int) -> int:
    """Where the id begins that ends at that place, with the prefix of what it is the id of; -1 if there is none."""
    joint = line.rfind("_", max(at - _LONGEST_ID - 1, 0), at)
    for prefix in _WITH_SECRETS:
        if joint >= 0 and line.endswith(prefix, 0, joint):
            return joint - len(prefix)
    return -1


# --- cards ------------------------------------------------------------------------------------------------------------

# By the networks' ranges and lengths, as a tenth of all numbers has a good check digit: milliseconds and microseconds
# since 1970, ISBNs and the ids of most services begin otherwise or are shorter. Visa's old numbers of 13 digits, which
# nobody issues, would cost more order numbers than they are worth.
_CARD: Final = re.compile(
    r"(?<![0-9A-Za-z_.\-])(?:"
    r"4[0-9]{3}(?:[ -]?[0-9]{4}){3}(?:[ -]?[0-9]{3})?"
    r"|(?:5[1-5][0-9]{2}|2[2-7][0-9]{2}|3[0-9]{3}|6[0-9]{3})(?:[ -]?[0-9]{4}){3}(?:[0-9]{0,3})"
    r"|3[47][0-9]{2}[ -]?[0-9]{6}[ -]?[0-9]{5}"
    r"|3[0689][0-9]{2}[ -]?[0-9]{6}[ -]?[0-9]{4}"
    r")(?![0-9A-Za-z_\-]|\.[0-9])"
)
_NETWORKS: Final = re.compile(
    r"4(?:[0-9]{15}|[0-9]{18})"  # Visa
    r"|(?:5[1-5][0-9]{2}|222[1-9]|22[3-9][0-9]|2[3-6][0-9]{2}|27[01][0-9]|2720)[0-9]{12}"  # Mastercard
    r"|3[47][0-9]{13}"  # American Express
    r"|3(?:0[0-5]|[689][0-9])[0-9]{11}(?:[0-9]{2})?"  # Diners Club
    r"|35(?:2[89]|[3-8][0-9])[0-9]{12,15}"  # JCB
    r"|(?:6011|64[4-9][0-9]|65[0-9]{2}|62[0-9]{2})[0-9]{12,15}"  # Discover, UnionPay
)
_RUN: Final = re.compile("[2-6][0-9]{3,}")
CARDS: Final = r"[2-6][0-9]{3}(?:[ -]?[0-9]){10}"
"""What stands in every card number, for a gate."""

_may_hold_cards: Final = Gate(CARDS)

_DOUBLED: Final = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)


def mask_cards(draft: Draft) -> None:
    """Mask numbers of payment cards."""
    if not draft.may_hold(_may_hold_cards):
        return
    line = draft.line
    changes: list[Change] = []
    done = 0
    for at in draft.found(_RUN):
        found = _CARD.match(line, at) if at >= done else None
        if found is not None and _is_card(found[0]):
            done = found.end()
            changes.append((at, done, MASK))
    draft.change(changes)


def _is_card(written: str) -> bool:
    digits = written.replace(" ", "").replace("-", "")
    if _NETWORKS.fullmatch(digits) is None:
        return False
    numbers = [int(digit) for digit in reversed(digits)]
    return (sum(numbers[::2]) + sum(_DOUBLED[number] for number in numbers[1::2])) % 10 == 0
