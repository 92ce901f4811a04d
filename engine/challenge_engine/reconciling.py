"""Compares the trades that a statement from outside lists with those that are recorded, one challenge at a time.

Pure: knows no file and no database. Amounts are integers of 0.00000001, moments integers of a microsecond. The findings
account for every difference of the totals: the statement's sum minus ours is what is missing, minus what is extra, plus
by how much amounts differ, plus what is listed again or belongs to a challenge that is not known.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from challenge_rules.money import format_amount
from challenge_rules.timestamps import to_iso


class Listed(NamedTuple):
    """A trade as a statement lists it, and the line on which its row begins."""

    line: int
    trade_id: str
    """Empty when the statement has none."""
    executed_at: int
    realized_pnl: int
    symbol: str = ""


class Recorded(NamedTuple):
    """A trade as it was accepted and decided."""

    sequence: int
    trade_id: str
    executed_at: int
    realized_pnl: int
    symbol: str = ""


class Match(StrEnum):
    """By what a listed trade is found among the recorded ones; both are unique within a challenge."""

    TRADE_ID = "trade_id"
    TIME = "time"


class FindingKind(StrEnum):
    """What can be wrong."""

    MISSING = "missing"
    """Listed, and not recorded."""
    EXTRA = "extra"
    """Recorded, and not listed."""
    DIFFERENT = "different"
    """Listed with another content than is recorded."""
    OUT_OF_ORDER = "out_of_order"
    """Listed at another place than it was decided at."""
    DUPLICATE = "duplicate"
    """Listed once more; the first of the rows is the one that is compared."""
    UNKNOWN_CHALLENGE = "unknown_challenge"
    """Listed for a challenge that does not exist: one finding for all its trades."""


class Difference(NamedTuple):
    """A field with two values, as text in the form of the contract."""

    field: str
    listed: str
    recorded: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    `line` is that of the statement and `sequence` ours, each None where there is none. Amount and moment are the
    statement's, or ours where the statement has none. `first_line` is where a duplicate was listed first.
    """

    kind: FindingKind
    challenge_id: str
    trade_id: str = ""
    line: int | None = None
    sequence: int | None = None
    executed_at: int | None = None
    realized_pnl: int | None = None
    differences: tuple[Difference, ...] = ()
    first_line: int | None = None


@dataclass(frozen=True, slots=True)
class Total:
    """How many trades, and the sum of their realized P&L."""

    count: int = 0
    realized_pnl: int = 0

    def __add__(self, other: "Total") -> "Total":
        return Total(self.count + other.count, self.realized_pnl + other.realized_pnl)

    def __sub__(self, other: "Total") -> "Total":
        return Total(self.count - other.count, self.realized_pnl - other.realized_pnl)


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What came of one challenge. `listed` counts every row, duplicates too; `recorded` what it was compared with."""

    challenge_id: str
    findings: tuple[Finding, ...]
    listed: Total
    recorded: Total


@dataclass(frozen=True, slots=True)
class Comparison:
    """How to compare.

    Moments are compared in whole units of `precision` microseconds, for statements that show no finer ones; to match
    by time it must be 1. Recorded trades before `executed_from`, or from `executed_before` on, need not be listed;
    those that are listed are compared all the same.
    """

    match: Match = Match.TRADE_ID
    compares_symbols: bool = True
    precision: int = 1
    executed_from: int | None = None
    executed_before: int | None = None
    newest_first: bool = False

    def __post_init__(self) -> None:
        if self.match is Match.TIME and self.precision != 1:
            raise ValueError("to match by time takes moments to the microsecond")

    def key(self, trade: Listed | Recorded) -> str | int:
        """What is the same for a listed trade and the recorded one."""
        return trade.executed_at if self.match is Match.TIME else trade.trade_id

    def must_list(self, trade: Recorded) -> bool:
        """Whether the statement is about the time of this trade."""
        return (self.executed_from is None or trade.executed_at >= self.executed_from) and (
            self.executed_before is None or trade.executed_at < self.executed_before
        )

    def differences(self, listed: Listed, recorded: Recorded) -> tuple[Difference, ...]:
        """The fields in which two trades with the same key differ, amounts by value."""
        found = []
        if listed.executed_at // self.precision != recorded.executed_at // self.precision:
            found.append(Difference("executed_at", to_iso(listed.executed_at), to_iso(recorded.executed_at)))
        if listed.realized_pnl != recorded.realized_pnl:
            pair = format_amount(listed.realized_pnl), format_amount(recorded.realized_pnl)
            found.append(Difference("realized_pnl", *pair))
        if self.compares_symbols and listed.symbol != recorded.symbol:
            found.append(Difference("symbol", listed.symbol, recorded.symbol))
        return tuple(found)


def reconcile(
    challenge_id: str, listed: Sequence[Listed], recorded: Iterable[Recorded] | None, comparison: Comparison
) -> Reconciled:
    """Compare the trades of one challenge: listed ones by line, recorded ones by sequence, None for no such challenge.

    The recorded ones are gone through once and not kept. Findings are sorted by line; those without one come last.
    """
    total_listed = total_of(listed)
    if recorded is None:
        line = listed[0].line if listed else None
        unknown = Finding(FindingKind.UNKNOWN_CHALLENGE, challenge_id, line=line)
        return Reconciled(challenge_id, (unknown,), total_listed, Total())
    findings: list[Finding] = []
    # A key that is listed again is a duplicate of the first, and only the first is compared.
    firsts: dict[str | int, Listed] = {}
    for trade in listed:
        first = firsts.setdefault(comparison.key(trade), trade)
        if first is not trade:
            findings.append(_of_listed(FindingKind.DUPLICATE, challenge_id, trade, first_line=first.line))
    decided: dict[str | int, Recorded] = {}
    count = pnl = 0
    for entry in recorded:
        match = firsts.get(comparison.key(entry))
        if match is not None:
            decided[comparison.key(entry)] = entry
            if differences := comparison.differences(match, entry):
                findings.append(_of_pair(FindingKind.DIFFERENT, challenge_id, match, entry, differences))
        elif comparison.must_list(entry):
            findings.append(_of_recorded(challenge_id, entry))
        else:
            continue
        count, pnl = count + 1, pnl + entry.realized_pnl
    findings += (
        _of_listed(FindingKind.MISSING, challenge_id, trade) for key, trade in firsts.items() if key not in decided
    )
    pairs = [(trade, decided[key]) for key, trade in firsts.items() if key in decided]
    if comparison.newest_first:
        pairs.reverse()
    findings += (
        _of_pair(FindingKind.OUT_OF_ORDER, challenge_id, *pairs[place])
        for place in out_of_place([entry.sequence for _, entry in pairs])
    )
    findings.sort(key=lambda finding: (finding.line is None, finding.line or finding.sequence))
    return Reconciled(challenge_id, tuple(findings), total_listed, Total(count, pnl))


def total_of(trades: Iterable[Listed | Recorded]) -> Total:
    """How many trades these are, and the exact sum of their P&L."""
    count = pnl = 0
    for trade in trades:
        count, pnl = count + 1, pnl + trade.realized_pnl
    return Total(count, pnl)


def out_of_place(numbers: Sequence[int]) -> list[int]:
    """The places of the fewest numbers without which the others increase; they are all different.

    The others are a longest increasing subsequence, so one that was moved is one place, not all that it passed.
    """
    # For each length, the smallest number that ends an increasing subsequence so long, and its place.
    ends: list[int] = []
    places: list[int] = []
    before: list[int] = []
    for place, number in enumerate(numbers):
        length = bisect_left(ends, number)
        before.append(places[length - 1] if length else -1)
        ends[length : length + 1] = [number]
        places[length : length + 1] = [place]
    kept = set()
    place = places[-1] if places else -1
    while place >= 0:
        kept.add(place)
        place = before[place]
    return [place for place in range(len(numbers)) if place not in kept]


def _of_listed(kind: FindingKind, challenge_id: str, trade: Listed, *, first_line: int | None = None) -> Finding:
    return Finding(
        kind, challenge_id, trade.trade_id, trade.line, None, trade.executed_at, trade.realized_pnl,
        first_line=first_line,
    )  # fmt: skip


def _of_recorded(challenge_id: str, trade: Recorded) -> Finding:
    return Finding(
        FindingKind.EXTRA, challenge_id, trade.trade_id, None, trade.sequence, trade.executed_at, trade.realized_pnl
    )


def _of_pair(
    kind: FindingKind,
    challenge_id: str,
    listed: Listed,
    recorded: Recorded,
    differences: tuple[Difference, ...] = (),
) -> Finding:
    return Finding(
        kind, challenge_id, recorded.trade_id, listed.line, recorded.sequence, listed.executed_at, listed.realized_pnl,
        differences,
    )  # fmt: skip
