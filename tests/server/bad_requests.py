"""Requests that must be refused, each with the fields that are to be named."""

from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from propfirm.challenge.v1 import challenge_pb2 as pb
from tests.server.calls import trade

KNOWN = "0190b5a8-7c3e-7d2a-9f00-1a2b3c4d5e6f"
"""A challenge that exists, with one trade."""

BAD_AMOUNTS = [
    *"1e5 1E5 NaN nan Infinity -Infinity inf +1 1,000 1_000 -0 -0.0 -0.00 -0.00000000".split(),
    *".5 -.5 5. 01 -01 00 --1 - .".split(),
    *"0x10 1.2.3 1.123456789 0.000000001 12345678901234567 -12345678901234567 10000000000000000.1".split(),
    *"１２３ ٣ 1² ½ $1 1€ 1d None null true".split(),
    *("", " 1", "1 ", "1\n", "\n1", "1\t", "1\x00", "\x00", "1 000", "1\u00a0", "\u22121", "9" * 5000),
]

BAD_IDS = [
    "",
    "x",
    KNOWN[:-1],
    KNOWN + "0",
    KNOWN + "\n",
    KNOWN[:-1] + "\x00",
    " " + KNOWN,
    "{" + KNOWN + "}",
    "urn:uuid:" + KNOWN,
    KNOWN.replace("-", ""),
    KNOWN.replace("0", "\uff10"),
    KNOWN[:-1] + "g",
    "' OR 1=1 --",
    "x" * 100_000,
]

BAD_PERCENTAGES = [
    *"0 0.0 0.0000 -1 -0 5.00001 0.00005 1e1 +5 abc NaN Infinity .5 5. 05 5% 5,5 1_0 ５ 123456".split(),
    *(" 5", "5 ", "5\n", "5\x00", "9" * 5000),
]
BAD_DRAWDOWNS = [*BAD_PERCENTAGES, "100", "100.0000", "100.0001", "101", "10000"]
BAD_TARGETS = [*BAD_PERCENTAGES, "10000.0001", "10001", "99999"]

BAD_CURRENCIES = ["usd", "Usd", "US", "USDD", "XYZ", "$", "U\x00D", "USD\n", " USD", "ＵＳＤ"]

BAD_LABELS = {
    "33 labels": {f"k{n}": "" for n in range(33)},
    "key of 64": {"k" * 64: "v"},
    "empty key": {"": "v"},
    "value of 256": {"k": "v" * 256},
    "NUL in a key": {"a\x00b": "v"},
    "NUL in a value": {"k": "a\x00b"},
    "newline in a value": {"k": "a\nb"},
    "delete in a key": {"a\x7f": "v"},
    "C1 control in a value": {"k": "\x85"},
}

BAD_TRADE_IDS = ["", "x" * 65, "é", "a\nb", "a\n", "a\x00", "\t", "\x7f", "\u2028", "１", "x" * 100_000]
BAD_SYMBOLS = ["x" * 33, "é", "a\n", "a\x00", "\x1b[31m", "x" * 100_000]
BAD_MOMENTS = {
    "before the year 1": (-62_135_596_801, 0),
    "after the year 9999": (253_402_300_800, 0),
    "int64 min": (-(2**63), 0),
    "int64 max": (2**63 - 1, 0),
    "nanos -1": (0, -1),
    "nanos 1e9": (0, 1_000_000_000),
    "nanos int32 max": (0, 2**31 - 1),
    "nanos int32 min": (0, -(2**31)),
}
BAD_TOKENS = ["x", "AAAA", "====", "AQ", "é", "\x00", "a b", "../..", "x" * 10_000, "AQAAAAAAAAAAWzFd", "null"]
BAD_STATUSES = [0, 5, 99, -1, 2**31 - 1]

Case = tuple[str, Any, set[str]]
"""The method, the request, and the fields that are to be named."""


def case(name: str, method: str, request: Any, *fields: str) -> Any:
    """A row of the table."""
    return pytest.param((method, request, set(fields)), id=f"{method} {name}")


def create(**terms: Any) -> pb.CreateChallengeRequest:
    """A challenge that is good but for these terms."""
    return pb.CreateChallengeRequest(**{"initial_balance": "100000", **terms})


def submit(**fields: Any) -> pb.SubmitTradeRequest:
    """A trade that is good but for these fields."""
    good = {"trade_id": "bad", "realized_pnl": "1", "executed_at": Timestamp(seconds=1_700_000_000)}
    return pb.SubmitTradeRequest(challenge_id=KNOWN, trade=pb.Trade(**good | fields))


def stream(**fields: Any) -> pb.StreamEventsRequest:
    """A stream that is good but for these fields."""
    return pb.StreamEventsRequest(**{"from_beginning": {}, **fields})


def _terms_and_labels() -> Iterator[Any]:
    for amount in BAD_AMOUNTS:
        shown = ascii(amount[:20])
        yield case(f"amount {shown}", "CreateChallenge", create(initial_balance=amount), "initial_balance")
        yield case(f"amount {shown}", "SubmitTrade", submit(realized_pnl=amount), "trade.realized_pnl")
    for amount in ("0", "0.00", "-1", "-100000", "0.00999999", "0.001", "-9999999999999999.99999999"):
        yield case(f"balance {amount}", "CreateChallenge", create(initial_balance=amount), "initial_balance")
    for name, bad in (
        ("max_daily_drawdown_pct", BAD_DRAWDOWNS),
        ("max_total_drawdown_pct", BAD_DRAWDOWNS),
        ("profit_target_pct", BAD_TARGETS),
    ):
        for text in bad:
            request = create(limits=pb.Limits(**{name: text}))
            yield case(f"{name} {text[:20]!a}", "CreateChallenge", request, f"limits.{name}")
    for code in BAD_CURRENCIES:
        yield case(f"currency {code!a}", "CreateChallenge", create(currency_code=code), "currency_code")
    for name, labels in BAD_LABELS.items():
        fields = (
            {"labels"}
            if len(labels) > 1
            else {f"labels[{ascii(k) if len(k) <= 40 else ascii(k)[:40] + '...'}]" for k in labels}
        )
        yield case(name, "CreateChallenge", create(labels=labels), *fields)
        yield case(name, "ListChallenges", pb.ListChallengesRequest(labels=labels), *fields)


def _ids() -> Iterator[Any]:
    for text in BAD_IDS:
        shown = ascii(text[:50])
        if text:
            yield case(f"id {shown}", "CreateChallenge", create(challenge_id=text), "challenge_id")
            yield case(f"id {shown}", "ListEvents", pb.ListEventsRequest(challenge_id=text), "challenge_id")
        request = pb.SubmitTradeRequest(challenge_id=text, trade=trade())
        yield case(f"id {shown}", "SubmitTrade", request, "challenge_id")
        yield case(f"id {shown}", "GetChallenge", pb.GetChallengeRequest(challenge_id=text), "challenge_id")
        yield case(f"id {shown}", "ListTrades", pb.ListTradesRequest(challenge_id=text), "challenge_id")
        yield case(f"id {shown}", "StreamEvents", stream(challenge_ids=[KNOWN, text]), "challenge_ids[1]")


def _trades() -> Iterator[Any]:
    for text in BAD_TRADE_IDS:
        yield case(f"trade_id {text[:20]!a}", "SubmitTrade", submit(trade_id=text), "trade.trade_id")
    for text in BAD_SYMBOLS:
        yield case(f"symbol {text[:20]!a}", "SubmitTrade", submit(symbol=text), "trade.symbol")
    for name, (seconds, nanos) in BAD_MOMENTS.items():
        moment = Timestamp(seconds=seconds, nanos=nanos)
        yield case(name, "SubmitTrade", submit(executed_at=moment), "trade.executed_at")
        for field in ("closed_at_from", "closed_at_before"):
            yield case(f"{field} {name}", "ListChallenges", pb.ListChallengesRequest(**{field: moment}), field)
    yield case("executed_at unset", "SubmitTrade", submit(executed_at=None), "trade.executed_at")
    yield case("trade unset", "SubmitTrade", pb.SubmitTradeRequest(challenge_id=KNOWN), "trade")
    everything = ("challenge_id", "trade.trade_id", "trade.realized_pnl", "trade.executed_at")
    yield case("all at once", "SubmitTrade", pb.SubmitTradeRequest(trade=pb.Trade()), *everything)
    request = pb.SubmitTradeRequest(challenge_id=KNOWN, trade=trade(), expected_sequence=-1)
    yield case("expected_sequence -1", "SubmitTrade", request, "expected_sequence")


def _reads() -> Iterator[Any]:
    request = pb.GetChallengeRequest(challenge_id=KNOWN, at_sequence=-1)
    yield case("at_sequence -1", "GetChallenge", request, "at_sequence")
    for field in ("from_sequence", "to_sequence", "page_size"):
        request = pb.ListTradesRequest(challenge_id=KNOWN, **{field: -1})
        yield case(f"{field} -1", "ListTrades", request, field)
    yield case("page_size -1", "ListChallenges", pb.ListChallengesRequest(page_size=-1), "page_size")
    yield case("page_size int32 min", "ListEvents", pb.ListEventsRequest(page_size=-(2**31)), "page_size")
    yield case("after_position -1", "ListEvents", pb.ListEventsRequest(after_position=-1), "after_position")
    for token in BAD_TOKENS:
        shown = ascii(token[:20])
        yield case(f"token {shown}", "ListChallenges", pb.ListChallengesRequest(page_token=token), "page_token")
        request = pb.ListTradesRequest(challenge_id=KNOWN, page_token=token)
        yield case(f"token {shown}", "ListTrades", request, "page_token")
        yield case(f"token {shown}", "ListEvents", pb.ListEventsRequest(page_token=token), "page_token")
    for number in BAD_STATUSES:
        statuses = [pb.CHALLENGE_STATUS_ACTIVE, number]
        yield case(f"status {number}", "ListChallenges", pb.ListChallengesRequest(statuses=statuses), "statuses[1]")
        yield case(f"status {number}", "ListEvents", pb.ListEventsRequest(new_statuses=statuses), "new_statuses[1]")
        yield case(f"status {number}", "StreamEvents", stream(new_statuses=statuses), "new_statuses[1]")


def _sizes_and_streams() -> Iterator[Any]:
    request = pb.BatchSubmitTradesRequest(trades=[submit()] * 501)
    yield case("501 trades", "BatchSubmitTrades", request, "trades")
    yield case("no start", "StreamEvents", pb.StreamEventsRequest(), "start")
    yield case("empty cursor", "StreamEvents", pb.StreamEventsRequest(after_cursor=""), "after_cursor")
    for position in (-1, -(2**63), 1_000_000, 2**63 - 1):
        request = pb.StreamEventsRequest(after_position=position)
        yield case(f"after_position {position}", "StreamEvents", request, "after_position")
    for name, interval in {
        "0": Duration(),
        "0.5 s": Duration(nanos=500_000_000),
        "just under 1 s": Duration(nanos=999_999_999),
        "3601 s": Duration(seconds=3601),
        "just over 1 h": Duration(seconds=3600, nanos=1),
        "-1 s": Duration(seconds=-1),
        "int64 max": Duration(seconds=2**63 - 1),
        "int64 min": Duration(seconds=-(2**63), nanos=-(2**31)),
        "nanos that are no Duration": Duration(seconds=1, nanos=2**31 - 1),
        "signs that are no Duration": Duration(seconds=3, nanos=-1),
    }.items():
        yield case(f"heartbeat {name}", "StreamEvents", stream(heartbeat_interval=interval), "heartbeat_interval")
    yield case("1001 ids", "StreamEvents", stream(challenge_ids=[KNOWN] * 1001), "challenge_ids")


CASES = [*_terms_and_labels(), *_ids(), *_trades(), *_reads(), *_sizes_and_streams()]

BAD_TRADES: dict[str, tuple[dict[str, Any], set[str]]] = {
    **{f"amount {a[:20]!a}": ({"pnl": a}, {"trade.realized_pnl"}) for a in BAD_AMOUNTS},
    **{f"trade_id {t[:20]!a}": ({"trade_id": t}, {"trade.trade_id"}) for t in BAD_TRADE_IDS},
    **{f"symbol {s[:20]!a}": ({"symbol": s}, {"trade.symbol"}) for s in BAD_SYMBOLS},
    **{f"id {i[:50]!a}": ({"challenge_id": i}, {"challenge_id"}) for i in BAD_IDS},
    "expected_sequence -1": ({"expected_sequence": -1}, {"expected_sequence"}),
    "executed_at unset": ({"executed_at": None}, {"trade.executed_at"}),
}  # fmt: skip
