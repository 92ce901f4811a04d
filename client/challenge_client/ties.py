"""Moments for trades whose source stamps them too coarsely."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from challenge_client.values import Trade

TIE = timedelta(microseconds=1)
"""The smallest step that tells two trades apart."""


def spread_ties(trades: Iterable[Trade], *, step: timedelta = TIE) -> list[Trade]:
    """The trades of one challenge in the order of time, each at least `step` after the one before.

    For fills that are stamped to the second or the millisecond: the service wants each trade strictly after the last.
    Trades that share a moment keep the order they came in. The first keeps its moment, each further one is moved to
    `step` after the one before, and so is whoever that catches up with. The same trades give the same moments, so they
    may be sent again; more trades of a moment that is already there change nothing if they come last.

    Raises `ValueError` when the ties would carry a trade into another UTC day than its own, which another daily limit
    may rule, and for a `step` that is not positive.
    """
    if step < TIE:
        raise ValueError(f"step must be at least a microsecond, got {step}")
    spread: list[Trade] = []
    last: datetime | None = None
    for trade in sorted(trades, key=lambda trade: trade.executed_at):
        moment = trade.executed_at
        if last is not None and moment < last + step:
            moment = last + step
            if moment.date() != trade.executed_at.date():
                raise ValueError(
                    f"trade {trade.trade_id!r} at {trade.executed_at.isoformat()} has so many ties that it would come"
                    f" to lie in the next day; use a smaller step than {step}"
                )
        last = moment
        spread.append(Trade(trade.trade_id, trade.realized_pnl, moment, trade.symbol))
    return spread
