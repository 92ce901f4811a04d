"""The hash chain: what a link is the hash of, byte by byte, and that nothing of it can be changed unnoticed."""

from dataclasses import fields, replace
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from challenge_rules import ChallengeEvent, Decision, EventType, Limits, Rule, Trade
from challenge_rules.chain import creation_link, encode_creation, encode_event, encode_trade, trade_link
from challenge_rules.money import MAX_AMOUNT
from tests.rules.account import CHALLENGE_ID, CREATED_AT, RECORDED_AT, Account, microseconds, terms

CODES: dict[Any, int] = {
    None: 0, "PENDING": 1, "ACTIVE": 2, "FAILED": 3, "FUNDED": 4,
    "MAX_DAILY_DRAWDOWN": 1, "MAX_TOTAL_DRAWDOWN": 2, "PROFIT_TARGET": 3,
    "CHALLENGE_CREATED": 1, "CHALLENGE_STATUS_CHANGED": 2,
}  # fmt: skip
DAY = 86_400_000_000


class Written:
    """Bytes as docs/audit.md describes them, written without a look at the code."""

    def __init__(self, domain: str) -> None:
        self.bytes = b""
        self.text(domain)

    def number(self, value: int, size: int, *, signed: bool = False) -> None:
        self.bytes += value.to_bytes(size, "big", signed=signed)

    def text(self, value: str) -> None:
        self.number(len(value.encode()), 4)
        self.bytes += value.encode()

    def amount(self, value: int) -> None:
        self.number(value, 16, signed=True)

    def moment(self, value: int) -> None:
        self.number(value, 8, signed=True)

    def code(self, value: Any) -> None:
        self.number(CODES[value], 1)

    def uuid(self, value: str) -> None:
        self.bytes += bytes.fromhex(value.replace("-", ""))

    def limits(self, limits: Limits) -> None:
        for limit in fields(Limits):
            self.number(getattr(limits, limit.name), 4)


def written_event(event: ChallengeEvent) -> bytes:
    to = Written("propfirm.challenge/chain/event/v1")
    to.uuid(event.challenge_id)
    to.number(event.challenge_sequence, 8)
    for named in (event.event_type, event.old_status, event.new_status, event.reason):
        to.code(named)
    to.number(event.trade_id is not None, 1)
    if event.trade_id is not None:
        to.text(event.trade_id)
        to.number(event.trade_sequence or 0, 8)
    to.amount(event.equity)
    to.moment(event.occurred_at)
    to.moment(event.recorded_at)
    to.number(len(event.evaluations), 1)
    for each in event.evaluations:
        to.code(each.rule)
        to.number(each.limit_pct, 4)
        to.amount(each.observed_pct)
        to.number(each.triggered, 1)
        to.amount(each.headroom)
    to.number(event.terms is not None, 1)
    if event.terms is not None:
        to.amount(event.terms.initial_balance)
        to.limits(event.terms.limits)
        to.text(event.terms.currency_code)
        to.number(len(event.terms.labels), 4)
        for key, value in event.terms.labels:
            to.text(key)
            to.text(value)
        to.number(event.terms.rules_version, 4)
        to.moment(event.terms.created_at)
    return to.bytes


def written_creation(event: ChallengeEvent) -> bytes:
    to = Written("propfirm.challenge/chain/creation/v1")
    to.uuid(event.challenge_id)
    to.number(0, 8)
    to.bytes += bytes(32)
    to.number(len(written_event(event)), 4)
    return to.bytes + written_event(event)


def written_trade(previous: bytes, trade: Trade, decision: Decision, account: Account, events: Any) -> bytes:
    """`account` as it is after the trade."""
    made_with = account.state.terms
    to = Written("propfirm.challenge/chain/trade/v1")
    to.uuid(made_with.challenge_id)
    to.number(decision.sequence, 8)
    to.bytes += previous
    to.number(made_with.rules_version, 4)
    to.limits(made_with.limits)
    to.amount(made_with.initial_balance)
    to.text(trade.trade_id)
    to.amount(trade.realized_pnl)
    to.moment(trade.executed_at)
    to.text(trade.symbol)
    to.moment(decision.recorded_at or 0)
    for named in (decision.previous_status, decision.status, decision.reason):
        to.code(named)
    for amount in (decision.equity, decision.peak_equity, decision.daily_start_equity):
        to.amount(amount)
    to.number(trade.executed_at // DAY, 4, signed=True)
    to.number(account.state.event_count, 8)
    to.moment(account.state.activated_at or 0)
    to.number(len(events), 1)
    for event in events:
        to.number(len(written_event(event)), 4)
        to.bytes += written_event(event)
    return to.bytes


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


@given(
    st.lists(st.tuples(st.integers(-(10**12), 10**12), st.integers(1, 2 * DAY), texts), max_size=8),
    st.sampled_from(("100000", "0.01", "9999999999999999")),
)
def test_a_link_is_the_hash_of_the_bytes_that_the_document_describes(trades: list[Any], balance: str):
    account = Account(balance)
    (created,) = account.log
    assert encode_creation(created) == written_creation(created)
    link = account.state.chain_head
    assert link == creation_link(created) == sha256(written_creation(created)).digest()
    at = CREATED_AT
    for number, (pnl, later, symbol) in enumerate(trades):
        at += later
        trade = Trade(f"t{number}", pnl, at, symbol)
        if account.state.status.is_terminal or account.state.equity + pnl > MAX_AMOUNT:
            break
        outcome = account.decide(trade)
        link = sha256(written_trade(link, trade, outcome.decision, account, outcome.events)).digest()
        assert outcome.state.chain_head == link


def test_the_test_vectors_of_the_document_hold():
    """A challenge that fails on its second trade; docs/audit.md shows these very hashes."""
    account = Account()
    heads = [account.state.chain_head.hex()]
    for pnl, at in (("500.25", "2025-01-02T10:00:00.000001"), ("-6000", "2025-01-02T10:00:01")):
        heads.append(account.trade(pnl, at, symbol="BTC").state.chain_head.hex())
    assert heads == [
        "26c7f6851293d275602cc63fa593660f3917a66df09973f79a8b50c81212bdd5",
        "664fbf84d3d7c1538c651cc6fe1e1da1c0f0b7023cae4282328d70f848b31b4a",
        "e36ac658b3ff0df2acdd3bbf203ab63527aa4cebffebe229c7ed3b0dcd873698",
    ]


def test_validating_a_trade_or_sending_it_again_leaves_the_head_where_it_is():
    account = Account()
    account.trade("1", "2025-01-02T10:00", "t1")
    head = account.state.chain_head
    assert account.trade("1", "2025-01-02T10:00", "t1").state.chain_head == head


def decided() -> dict[str, Any]:
    """The parts of the link of a first trade that fails the challenge."""
    account = Account()
    before = account.state
    trade = Trade("t1", -(10**13), microseconds("2025-01-02T10:00"), "BTC")
    outcome = account.decide(trade)
    return {
        "previous": before.chain_head,
        "terms": before.terms,
        "trade": trade,
        "decision": outcome.decision,
        "event_count": outcome.state.event_count,
        "activated_at": outcome.state.activated_at,
        "events": outcome.events,
    }


CHANGES: dict[str, Any] = {
    "previous": bytes(32),
    "terms": {
        "challenge_id": CHALLENGE_ID[:-1] + "0",
        "initial_balance": 1,
        "limits": Limits(1, 2, 3),
        "rules_version": 2,
    },
    "trade": {"trade_id": "t1 ", "realized_pnl": 1, "executed_at": CREATED_AT, "symbol": ""},
    "decision": {
        "sequence": 2,
        "previous_status": "ACTIVE",
        "status": "ACTIVE",
        "reason": Rule.MAX_TOTAL_DRAWDOWN,
        "equity": 1,
        "peak_equity": 1,
        "daily_start_equity": 1,
        "recorded_at": RECORDED_AT + 1,
    },
    "event_count": 4,
    "activated_at": 1,
    "events": (),
}


@pytest.mark.parametrize(
    ("part", "name"),
    [(part, name) for part, changes in CHANGES.items() for name in (changes if isinstance(changes, dict) else [None])],
)
def test_whatever_changes_in_a_trade_changes_its_link(part: str, name: str | None):
    parts = decided()
    changed = CHANGES[part] if name is None else replace(parts[part], **{name: CHANGES[part][name]})
    assert trade_link(**parts | {part: changed}) != trade_link(**parts)


def test_whatever_changes_in_an_event_changes_its_bytes_and_a_label_is_not_its_neighbour():
    account = Account()
    (created,) = account.log
    _, failed = decided()["events"]
    changes: list[tuple[ChallengeEvent, dict[str, Any]]] = [
        (failed, {"challenge_id": CHALLENGE_ID[:-1] + "0"}),
        (failed, {"challenge_sequence": 9}),
        (failed, {"event_type": EventType.CHALLENGE_CREATED}),
        (failed, {"old_status": None}),
        (failed, {"new_status": "FUNDED"}),
        (failed, {"reason": None}),
        (failed, {"trade_id": "t2"}),
        (failed, {"trade_sequence": 2}),
        (failed, {"equity": 1}),
        (failed, {"occurred_at": 1}),
        (failed, {"recorded_at": 1}),
        (failed, {"evaluations": failed.evaluations[:2]}),
        *(
            (failed, {"evaluations": (replace(failed.evaluations[0], **{name: value}), *failed.evaluations[1:])})
            for name, value in (("limit_pct", 1), ("observed_pct", 1), ("triggered", False), ("headroom", 1))
        ),
        (created, {"terms": None}),
        *(
            (created, {"terms": replace(terms(), **{name: value})})
            for name, value in (
                ("initial_balance", 1),
                ("limits", Limits(1, 2, 3)),
                ("currency_code", "USD"),
                ("labels", (("desk", "7t"), ("rader", "ada"))),
                ("labels", ()),
                ("rules_version", 2),
                ("created_at", 1),
            )
        ),
    ]
    for event, change in changes:
        assert encode_event(replace(event, **change)) != encode_event(event), change


def test_bytes_of_one_kind_are_never_those_of_another():
    parts = decided()
    account = Account()
    kinds = (
        encode_creation(account.log[0]),
        encode_event(account.log[0]),
        encode_trade(
            parts["previous"], parts["terms"], parts["trade"], parts["decision"], parts["event_count"],
            parts["activated_at"], parts["events"],
        ),
    )  # fmt: skip
    assert len({kind[4 : 4 + int.from_bytes(kind[:4])] for kind in kinds}) == 3
