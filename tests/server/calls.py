"""What the server's tests share: messages to send, and answers and errors read back, with raw gRPC stubs."""

import contextlib
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import psycopg
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2
from psycopg import sql
from sqlalchemy.engine import URL

from propfirm.challenge.v1 import challenge_pb2 as pb
from propfirm.challenge.v1.challenge_pb2_grpc import ChallengeServiceStub

DOMAIN = "challenge.propfirm"
SERVICE = "propfirm.challenge.v1.ChallengeService"
PATIENCE_S = 30.0
MONDAY = datetime(2025, 3, 3, 9, tzinfo=UTC)
TABLES = ("challenges", "trades", "challenge_events", "event_positions", "event_outbox", "event_log")


def eventually(condition: Callable[[], Any], patience_s: float = PATIENCE_S) -> Any:
    """The first true answer of `condition`; fails when there is none in time."""
    deadline = time.monotonic() + patience_s
    while not (answer := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    return answer


@contextlib.contextmanager
def connected(address: str, **options: int) -> Iterator[ChallengeServiceStub]:
    """A stub with a connection of its own."""
    arguments = [("grpc.use_local_subchannel_pool", 1), *((f"grpc.{name}", value) for name, value in options.items())]
    with grpc.insecure_channel(address, options=arguments) as channel:
        yield ChallengeServiceStub(channel)


def timestamp(moment: datetime | None) -> Timestamp | None:
    """An aware datetime on the wire, to the microsecond."""
    if moment is None:
        return None
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return Timestamp(seconds=since.days * 86_400 + since.seconds, nanos=since.microseconds * 1000)


def iso(moment: Timestamp) -> str:
    """A moment of the wire as ISO text in UTC with six decimals, as the model writes it."""
    aware = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=moment.seconds, microseconds=moment.nanos // 1000)
    return aware.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def after(seconds: float) -> datetime:
    """A moment so many seconds after a Monday morning long ago."""
    return MONDAY + timedelta(seconds=seconds)


def new_id() -> str:
    """A challenge_id that nothing else uses."""
    return str(uuid.uuid4())


def trade(trade_id: str = "t-1", pnl: str = "1", executed_at: datetime | None = MONDAY, symbol: str = "") -> pb.Trade:
    """A trade on the wire."""
    return pb.Trade(trade_id=trade_id, realized_pnl=pnl, executed_at=timestamp(executed_at), symbol=symbol)


def submission(
    challenge_id: str,
    trade_id: str = "t-1",
    pnl: str = "1",
    executed_at: datetime | None = MONDAY,
    symbol: str = "",
    **more: Any,
) -> pb.SubmitTradeRequest:
    """A trade to submit."""
    return pb.SubmitTradeRequest(challenge_id=challenge_id, trade=trade(trade_id, pnl, executed_at, symbol), **more)


def make_challenge(stub: ChallengeServiceStub, balance: str = "100000", **terms: Any) -> str:
    """The id of a new challenge."""
    request = pb.CreateChallengeRequest(initial_balance=balance, **terms)
    return str(stub.CreateChallenge(request, timeout=PATIENCE_S).challenge.challenge_id)


@dataclass(frozen=True)
class Refusal:
    """How a call or one trade of a batch was refused."""

    code: str
    reason: str
    metadata: dict[str, str]
    fields: tuple[str, ...]
    message: str
    retry_delay_s: float | None = None


def read_refusal(error: grpc.RpcError) -> Refusal:
    """The standard details of an error, which each error must carry."""
    code = error.code().name
    raw = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
    assert raw is not None, f"no details: {code} {error.details()}"
    status = status_pb2.Status.FromString(raw)
    assert status.code == error.code().value[0]
    assert status.message == error.details()
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    retry_delay_s = None
    for detail in status.details:
        assert detail.Unpack(info) or detail.Unpack(bad) or detail.Unpack(retry)
        if detail.Is(retry.DESCRIPTOR):
            retry_delay_s = retry.retry_delay.ToTimedelta().total_seconds()
    assert info.domain == DOMAIN
    assert all(violation.description for violation in bad.field_violations)
    fields = tuple(violation.field for violation in bad.field_violations)
    return Refusal(code, info.reason, dict(info.metadata), fields, error.details(), retry_delay_s)


def refusal(call: Callable[..., Any], request: Any) -> Refusal:
    """How a unary call is refused."""
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=PATIENCE_S)
    return read_refusal(caught.value)


def stream_refusal(stub: ChallengeServiceStub, request: pb.StreamEventsRequest) -> Refusal:
    """How a stream is refused."""
    with pytest.raises(grpc.RpcError) as caught:
        next(stub.StreamEvents(request, timeout=PATIENCE_S))
    return read_refusal(caught.value)


def read_rejection(result: pb.TradeResult) -> Refusal:
    """How one trade of a batch was refused."""
    assert result.WhichOneof("outcome") == "rejection", result
    rejection = result.rejection
    code = next(status.name for status in grpc.StatusCode if status.value[0] == rejection.code)
    reason = pb.ErrorReason.Name(rejection.reason).removeprefix("ERROR_REASON_")
    assert all(violation.description for violation in rejection.field_violations)
    fields = tuple(violation.field for violation in rejection.field_violations)
    return Refusal(code, reason, dict(rejection.metadata), fields, rejection.message)


def batch(stub: ChallengeServiceStub, *trades: pb.SubmitTradeRequest) -> list[pb.TradeResult]:
    """The results of a batch."""
    return list(stub.BatchSubmitTrades(pb.BatchSubmitTradesRequest(trades=trades), timeout=PATIENCE_S).results)


def libpq(url: URL) -> str:
    """A database URL for psycopg."""
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


def url_text(url: URL) -> str:
    """A database URL for the command line."""
    return url.render_as_string(hide_password=False)


def snapshot(connection: psycopg.Connection[Any]) -> dict[str, list[Any]]:
    """Every row of every table, once no event waits for its position."""
    eventually(lambda: connection.execute("SELECT NOT EXISTS (SELECT FROM event_outbox)").fetchone() == (True,))
    return {
        table: connection.execute(sql.SQL("SELECT t::text, t.xmin::text FROM {} t").format(sql.Identifier(table)))
        .fetchall()
        for table in TABLES
    }  # fmt: skip


def list_trades(stub: ChallengeServiceStub, challenge_id: str) -> list[pb.RecordedTrade]:
    """Every accepted trade of a challenge."""
    found: list[pb.RecordedTrade] = []
    token = ""
    while True:
        request = pb.ListTradesRequest(challenge_id=challenge_id, page_size=1000, page_token=token)
        page = stub.ListTrades(request, timeout=PATIENCE_S)
        found.extend(page.trades)
        token = page.next_page_token
        if not token:
            return found


def command(
    *arguments: str, environment: dict[str, str] | None = None, timeout_s: float = PATIENCE_S
) -> "subprocess.CompletedProcess[str]":
    """Run `challenge-engine` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "challenge_server", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env=clean_environment() | (environment or {}),
    )


def clean_environment() -> dict[str, str]:
    """Our environment without settings of the service."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CHALLENGE_")}


def decision_as_model(decision: pb.Decision) -> dict[str, Any]:
    """A decision in the form in which the reference model answers."""
    return {
        "outcome": "decision",
        "trade_id": decision.trade_id,
        "executed_at": iso(decision.executed_at),
        "status": _status(decision.status),
        "previous_status": _status(decision.previous_status),
        "reason": rule_name(decision.reason),
        "sequence": decision.sequence,
        "replayed": decision.replayed,
        "equity": decision.equity,
        "peak_equity": decision.peak_equity,
        "daily_start_equity": decision.daily_start_equity,
        "evaluations": evaluations_as_model(decision.evaluations),
    }


def refusal_as_model(refused: Refusal) -> dict[str, Any]:
    """A refusal in the form in which the reference model answers."""
    return {"outcome": "rejection", "reason": refused.reason, **refused.metadata}


def challenge_as_model(challenge: pb.Challenge) -> dict[str, Any]:
    """A challenge in the form of the reference model's snapshot."""
    return {
        "status": _status(challenge.status),
        "status_reason": rule_name(challenge.status_reason),
        "initial_balance": challenge.initial_balance,
        "equity": challenge.equity,
        "peak_equity": challenge.peak_equity,
        "daily_start_equity": challenge.daily_start_equity,
        "trading_day": challenge.trading_day or None,
        "last_sequence": challenge.last_sequence,
        "version": challenge.version,
        **{
            name: iso(getattr(challenge, name)) if challenge.HasField(name) else None
            for name in ("activated_at", "closed_at", "last_executed_at")
        },
    }


def event_as_model(event: pb.ChallengeEvent) -> dict[str, Any]:
    """A status change in the form in which the reference model keeps it."""
    return {
        "old_status": _status(event.old_status),
        "new_status": _status(event.new_status),
        "reason": rule_name(event.reason),
        "trade_id": event.trade_id,
        "trade_sequence": event.trade_sequence,
        "equity": event.equity,
        "evaluations": evaluations_as_model(event.evaluations),
        "occurred_at": iso(event.occurred_at),
    }


def evaluations_as_model(evaluations: Any) -> list[dict[str, Any]]:
    """The evidence as the reference model writes it."""
    return [
        {
            "rule": rule_name(row.rule),
            "limit_pct": row.limit_pct,
            "observed_pct": row.observed_pct,
            "triggered": row.triggered,
            "headroom": row.headroom,
        }
        for row in evaluations
    ]


def rule_name(rule: Any) -> str | None:
    """The name of a rule without its prefix; None when there is none."""
    return pb.Rule.Name(rule).removeprefix("RULE_") if rule else None


def _status(status: Any) -> str:
    return pb.ChallengeStatus.Name(status).removeprefix("CHALLENGE_STATUS_")
