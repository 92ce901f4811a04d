"""The hash chain of a challenge: every accepted trade and every event, each link holding the one before.

Link 0 covers the creation, link n the n-th accepted trade, the state it led to, and the events it caused. Links are
SHA-256 over the encoding below, which docs/audit.md describes byte by byte with test vectors. Every encoding begins
with its own domain and version, and every part of varying length with its length, so that no two contents share one.
Version 1 never changes; another encoding would be another version.
"""

import struct
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256

from challenge_rules.challenge import ChallengeTerms, Decision, Trade
from challenge_rules.events import ChallengeEvent, EventType
from challenge_rules.rules import Rule
from challenge_rules.status import ChallengeStatus
from challenge_rules.timestamps import trading_day

HASH_BYTES = 32
AMOUNT_BYTES = 16
BEFORE_CREATION = bytes(HASH_BYTES)
"""What stands for the link before the first."""

STATUS_CODES = {
    ChallengeStatus.PENDING: 1,
    ChallengeStatus.ACTIVE: 2,
    ChallengeStatus.FAILED: 3,
    ChallengeStatus.FUNDED: 4,
}
RULE_CODES = {None: 0, Rule.MAX_DAILY_DRAWDOWN: 1, Rule.MAX_TOTAL_DRAWDOWN: 2, Rule.PROFIT_TARGET: 3}
EVENT_CODES = {EventType.CHALLENGE_CREATED: 1, EventType.CHALLENGE_STATUS_CHANGED: 2}

_LENGTH = struct.Struct(">I")
_HEAD = struct.Struct(">16sQ32sIIII")
_DECIDED = struct.Struct(">qBBB")
_AFTER = struct.Struct(">iQqB")
_MOMENT = struct.Struct(">q")
_SEQUENCE = struct.Struct(">Q")


def _text(text: str) -> bytes:
    encoded = text.encode()
    return _LENGTH.pack(len(encoded)) + encoded


def _amount(units: int) -> bytes:
    return units.to_bytes(AMOUNT_BYTES, "big", signed=True)


@lru_cache(maxsize=16_384)
def _uuid(challenge_id: str) -> bytes:
    return bytes.fromhex(challenge_id.replace("-", ""))


TRADE_DOMAIN = "propfirm.challenge/chain/trade/v1"
CREATION_DOMAIN = "propfirm.challenge/chain/creation/v1"
EVENT_DOMAIN = "propfirm.challenge/chain/event/v1"
LEAF_DOMAIN = "propfirm.challenge/leaf/v1"
_TRADE = _text(TRADE_DOMAIN)
_CREATION = _text(CREATION_DOMAIN)
_EVENT = _text(EVENT_DOMAIN)
_LEAF = _text(LEAF_DOMAIN)


def creation_link(event: ChallengeEvent) -> bytes:
    """Link 0, of a CHALLENGE_CREATED event: SHA-256 of its encoding."""
    return sha256(encode_creation(event)).digest()


def trade_link(
    previous: bytes,
    terms: ChallengeTerms,
    trade: Trade,
    decision: Decision,
    *,
    event_count: int,
    activated_at: int,
    events: Sequence[ChallengeEvent],
) -> bytes:
    """Link n, of the n-th accepted trade: SHA-256 of its encoding.

    `previous` is link n−1. `event_count` and `activated_at` belong to the state after the trade, whose other figures
    the decision has; `events` are those that the trade caused, in their order.
    """
    return sha256(encode_trade(previous, terms, trade, decision, event_count, activated_at, events)).digest()


def encode_creation(event: ChallengeEvent) -> bytes:
    """The bytes that link 0 is the hash of."""
    encoded = encode_event(event)
    return b"".join(
        (_CREATION, _uuid(event.challenge_id), bytes(8), BEFORE_CREATION, _LENGTH.pack(len(encoded)), encoded)
    )


def encode_trade(
    previous: bytes,
    terms: ChallengeTerms,
    trade: Trade,
    decision: Decision,
    event_count: int,
    activated_at: int,
    events: Sequence[ChallengeEvent],
) -> bytes:
    """The bytes that link n is the hash of."""
    limits = terms.limits
    assert decision.recorded_at is not None
    parts = [
        _TRADE,
        _HEAD.pack(
            _uuid(terms.challenge_id),
            decision.sequence,
            previous,
            terms.rules_version,
            limits.max_daily_drawdown_pct,
            limits.max_total_drawdown_pct,
            limits.profit_target_pct,
        ),
        _amount(terms.initial_balance),
        _text(trade.trade_id),
        _amount(trade.realized_pnl),
        _MOMENT.pack(trade.executed_at),
        _text(trade.symbol),
        _DECIDED.pack(
            decision.recorded_at,
            STATUS_CODES[decision.previous_status],
            STATUS_CODES[decision.status],
            RULE_CODES[decision.reason],
        ),
        _amount(decision.equity),
        _amount(decision.peak_equity),
        _amount(decision.daily_start_equity),
        _AFTER.pack(trading_day(trade.executed_at), event_count, activated_at, len(events)),
    ]
    for event in events:
        encoded = encode_event(event)
        parts += (_LENGTH.pack(len(encoded)), encoded)
    return b"".join(parts)


def encode_event(event: ChallengeEvent) -> bytes:
    """The bytes of one event inside a link."""
    parts = [
        _EVENT,
        _uuid(event.challenge_id),
        struct.pack(">QB", event.challenge_sequence, EVENT_CODES[event.event_type]),
        bytes(
            (
                0 if event.old_status is None else STATUS_CODES[event.old_status],
                STATUS_CODES[event.new_status],
                RULE_CODES[event.reason],
            )
        ),
    ]
    if event.trade_id is None or event.trade_sequence is None:
        parts.append(b"\x00")
    else:
        parts += (b"\x01", _text(event.trade_id), struct.pack(">Q", event.trade_sequence))
    parts += (_amount(event.equity), struct.pack(">qqB", event.occurred_at, event.recorded_at, len(event.evaluations)))
    for evaluation in event.evaluations:
        parts += (
            struct.pack(">BI", RULE_CODES[evaluation.rule], evaluation.limit_pct),
            _amount(evaluation.observed_pct),
            bytes((int(evaluation.triggered),)),
            _amount(evaluation.headroom),
        )
    if event.terms is None:
        parts.append(b"\x00")
    else:
        parts += (b"\x01", _encode_terms(event.terms))
    return b"".join(parts)


def _encode_terms(terms: ChallengeTerms) -> bytes:
    limits = terms.limits
    return b"".join(
        (
            _amount(terms.initial_balance),
            struct.pack(">III", limits.max_daily_drawdown_pct, limits.max_total_drawdown_pct, limits.profit_target_pct),
            _text(terms.currency_code),
            _LENGTH.pack(len(terms.labels)),
            *(_text(key) + _text(value) for key, value in terms.labels),
            struct.pack(">Iq", terms.rules_version, terms.created_at),
        )
    )


def encode_leaf(challenge_id: str, sequence: int, chain_head: bytes) -> bytes:
    """The bytes of a leaf of the Merkle tree: a chain as it stood at a seal. Its hash is `merkle.leaf_hash` of them."""
    return _LEAF + _uuid(challenge_id) + _SEQUENCE.pack(sequence) + chain_head
