"""Complete messages of the contract, as a server would send them."""

from google.protobuf.timestamp_pb2 import Timestamp

from propfirm.challenge.v1 import challenge_pb2 as pb

CHALLENGE_ID = "0190b5a8-7c3e-7d2a-9f00-1a2b3c4d5e6f"


def limits():
    return pb.Limits(max_daily_drawdown_pct="5", max_total_drawdown_pct="7.25", profit_target_pct="10")


def evaluation(**changes):
    fields = {"rule": 1, "limit_pct": "5", "observed_pct": "-0.000001", "triggered": False, "headroom": "5000.5"}
    return pb.RuleEvaluation(**(fields | changes))


def challenge(**changes):
    fields = {
        "challenge_id": CHALLENGE_ID, "status": 3, "limits": limits(), "initial_balance": "100000", "equity": "94999.5",
        "peak_equity": "100000", "daily_start_equity": "100000", "trading_day": "2026-03-02", "last_sequence": 2,
        "version": 3, "status_reason": 1, "currency_code": "USD", "labels": {"desk": "b"},
        "evaluations": [evaluation()], "created_at": Timestamp(seconds=1, nanos=1999),
        "activated_at": Timestamp(seconds=2), "closed_at": Timestamp(seconds=3),
        "last_executed_at": Timestamp(seconds=3), "rules_version": 1,
    }  # fmt: skip
    return pb.Challenge(**(fields | changes))


def decision(**changes):
    fields = {
        "challenge_id": CHALLENGE_ID, "trade_id": "t1", "sequence": 1, "replayed": True, "previous_status": 1,
        "status": 2, "equity": "100000", "peak_equity": "100000", "daily_start_equity": "100000",
        "evaluations": [evaluation()], "executed_at": Timestamp(seconds=5), "recorded_at": Timestamp(seconds=6),
    }  # fmt: skip
    return pb.Decision(**(fields | changes))


def created(position=1, **changes):
    fields = {
        "position": position, "challenge_id": CHALLENGE_ID, "challenge_sequence": 1, "event_type": 1, "new_status": 1,
        "equity": "100000", "occurred_at": Timestamp(seconds=1), "recorded_at": Timestamp(seconds=1),
        "terms": pb.ChallengeTerms(
            initial_balance="100000", limits=limits(), currency_code="USD", labels={"a": "b"}, rules_version=1,
            created_at=Timestamp(seconds=1),
        ),
    }  # fmt: skip
    return pb.ChallengeEvent(**(fields | changes))


def message(cursor="c", **changes):
    return pb.StreamEventsResponse(cursor=cursor, **changes)
