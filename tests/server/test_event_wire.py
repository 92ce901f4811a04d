"""Events go from the database to the wire without being made into values: what arrives is what the values say."""

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from challenge_engine import rows
from challenge_engine.event_log import PositionedEvent
from challenge_engine.rows import StoredEvent
from challenge_rules import ChallengeEvent
from challenge_rules.limits import format_percentage
from challenge_rules.money import DECIMAL_PLACES, UNITS_PER_WHOLE, format_amount, format_scaled
from challenge_rules.rules import OBSERVED_PLACES
from challenge_server import wire
from propfirm.challenge.v1 import challenge_pb2 as pb
from tests.engine.test_rows import all_terms, ascii_text, lived, moments, pnls


def stored(event: ChallengeEvent) -> StoredEvent:
    """The event as PostgreSQL gives it back, which tests/engine/test_rows.py shows on the real one."""
    (record,) = orjson.loads(rows.events_to_json([event]))
    whole, part = divmod(event.equity, UNITS_PER_WHOLE)
    return StoredEvent._make(
        (
            *(record[name] for name in StoredEvent._fields[:8]),
            f"{whole}.{part:0{DECIMAL_PLACES}d}",
            orjson.dumps(record["evaluations"]).decode(),
            record["terms"] and orjson.dumps(record["terms"]).decode(),
            event.occurred_at,
            event.recorded_at,
        )
    )


def moment(message) -> int:
    """Microseconds of a timestamp on the wire."""
    assert message.nanos % 1000 == 0
    return message.seconds * 1_000_000 + message.nanos // 1000


@given(
    terms=all_terms,
    pnls_=st.lists(pnls | st.integers(-(10**12), 10**12), max_size=5),
    first=moments,
    ids=st.lists(ascii_text, min_size=5, max_size=5, unique=True),
)
@settings(max_examples=300)
def test_every_field_says_what_the_event_says(terms, pnls_, first, ids):
    _, _, events = lived(terms, pnls_, first, ids, "")
    for event in events:
        assert rows.event_from_row(stored(event)) == event
        message = wire.event_to(PositionedEvent(7, stored(event)))
        assert message.position == 7
        assert (message.challenge_id, message.challenge_sequence) == (event.challenge_id, event.challenge_sequence)
        assert pb.EventType.Name(message.event_type) == f"EVENT_TYPE_{event.event_type}"
        assert pb.ChallengeStatus.Name(message.old_status) == f"CHALLENGE_STATUS_{event.old_status or 'UNSPECIFIED'}"
        assert pb.ChallengeStatus.Name(message.new_status) == f"CHALLENGE_STATUS_{event.new_status}"
        assert pb.Rule.Name(message.reason) == f"RULE_{event.reason or 'UNSPECIFIED'}"
        assert (message.trade_id, message.trade_sequence) == (event.trade_id or "", event.trade_sequence or 0)
        assert message.equity == format_amount(event.equity)
        assert [
            (pb.Rule.Name(each.rule), each.limit_pct, each.observed_pct, each.triggered, each.headroom)
            for each in message.evaluations
        ] == [
            (
                f"RULE_{each.rule}",
                format_percentage(each.limit_pct),
                format_scaled(each.observed_pct, OBSERVED_PLACES),
                each.triggered,
                format_amount(each.headroom),
            )
            for each in event.evaluations
        ]
        assert (moment(message.occurred_at), moment(message.recorded_at)) == (event.occurred_at, event.recorded_at)
        assert message.HasField("terms") == (event.terms is not None)
        if event.terms is not None:
            limits = event.terms.limits
            assert message.terms == pb.ChallengeTerms(
                initial_balance=format_amount(event.terms.initial_balance),
                limits=pb.Limits(
                    max_daily_drawdown_pct=format_percentage(limits.max_daily_drawdown_pct),
                    max_total_drawdown_pct=format_percentage(limits.max_total_drawdown_pct),
                    profit_target_pct=format_percentage(limits.profit_target_pct),
                ),
                currency_code=event.terms.currency_code,
                labels=dict(event.terms.labels),
                rules_version=event.terms.rules_version,
                created_at=message.terms.created_at,
            )
            assert moment(message.terms.created_at) == event.terms.created_at
