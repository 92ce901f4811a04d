"""Each row of the design's error table: code, reason and metadata are the same for one call and inside a batch."""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import sql

from challenge_engine.embedded import EmbeddedPostgres
from propfirm.challenge.v1 import challenge_pb2 as pb
from propfirm.challenge.v1.challenge_pb2_grpc import ChallengeServiceStub
from tests.conftest import ServerProcess, _fresh_database
from tests.server.calls import (
    MONDAY,
    PATIENCE_S,
    Refusal,
    after,
    batch,
    connected,
    eventually,
    libpq,
    list_trades,
    make_challenge,
    new_id,
    read_refusal,
    read_rejection,
    refusal,
    stream_refusal,
    submission,
    trade,
    url_text,
)
from tests.server.conftest import either

Ask = Callable[[pb.SubmitTradeRequest], Refusal]


@pytest.fixture(params=["server", "fake"])
def stub(request: pytest.FixtureRequest) -> ChallengeServiceStub:
    """The shared server, and the fake one, which has to do the same."""
    return either(request)


@pytest.fixture(params=["unary", "batch"])
def refused(request: pytest.FixtureRequest, stub: ChallengeServiceStub) -> Ask:
    """Submits a trade that is refused, alone or in the middle of a batch of accepted ones."""
    if request.param == "unary":
        return lambda one: refusal(stub.SubmitTrade, one)

    def within_a_batch(one: pb.SubmitTradeRequest) -> Refusal:
        other = make_challenge(stub)
        before, result, behind = batch(
            stub, submission(other, "a", executed_at=after(0)), one, submission(other, "b", executed_at=after(1))
        )
        assert (before.decision.sequence, behind.decision.sequence) == (1, 2)
        return read_rejection(result)

    return within_a_batch


def summary(answer: Refusal) -> tuple[str, str, dict[str, str]]:
    return answer.code, answer.reason, answer.metadata


def test_a_trade_of_an_unknown_challenge_is_not_found(refused: Ask) -> None:
    assert summary(refused(submission(new_id()))) == ("NOT_FOUND", "CHALLENGE_NOT_FOUND", {})


def test_reading_an_unknown_challenge_is_not_found(stub: ChallengeServiceStub) -> None:
    unknown = new_id()
    for answer in (
        refusal(stub.GetChallenge, pb.GetChallengeRequest(challenge_id=unknown)),
        refusal(stub.GetChallenge, pb.GetChallengeRequest(challenge_id=unknown, at_sequence=0)),
        refusal(stub.ListTrades, pb.ListTradesRequest(challenge_id=unknown)),
    ):
        assert summary(answer) == ("NOT_FOUND", "CHALLENGE_NOT_FOUND", {})


@pytest.mark.parametrize("at_sequence", [3, 4, 2**63 - 1])
def test_a_sequence_that_is_not_there_yet_is_not_found(stub: ChallengeServiceStub, at_sequence: int) -> None:
    challenge_id = make_challenge(stub)
    batch(stub, submission(challenge_id, "1"), submission(challenge_id, "2", executed_at=after(1)))
    request = pb.GetChallengeRequest(challenge_id=challenge_id, at_sequence=at_sequence)
    assert summary(refusal(stub.GetChallenge, request)) == ("NOT_FOUND", "SEQUENCE_NOT_FOUND", {})


@pytest.mark.parametrize(
    ("differing", "fields"),
    [
        ({"initial_balance": "2"}, "initial_balance"),
        ({"limits": {"max_daily_drawdown_pct": "4"}}, "limits.max_daily_drawdown_pct"),
        ({"limits": {"max_total_drawdown_pct": "4"}}, "limits.max_total_drawdown_pct"),
        ({"limits": {"profit_target_pct": "4"}}, "limits.profit_target_pct"),
        ({"currency_code": "EUR"}, "currency_code"),
        ({"labels": {"a": "b"}}, "labels"),
        ({"labels": {}, "initial_balance": "3"}, "initial_balance,labels"),
        (
            {"initial_balance": "2", "limits": {"profit_target_pct": "4"}, "currency_code": "EUR", "labels": {}},
            "initial_balance,limits.profit_target_pct,currency_code,labels",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_same_challenge_id_with_other_terms_exists_already(
    stub: ChallengeServiceStub, differing: dict[str, Any], fields: str
) -> None:
    first: dict[str, Any] = {"challenge_id": new_id(), "initial_balance": "1", "labels": {"desk": "7"}}
    make_challenge(stub, first["initial_balance"], challenge_id=first["challenge_id"], labels=first["labels"])
    answer = refusal(stub.CreateChallenge, pb.CreateChallengeRequest(**first | differing))
    assert summary(answer) == ("ALREADY_EXISTS", "CHALLENGE_EXISTS", {"differing_fields": fields})


@pytest.mark.parametrize(
    ("differing", "fields"),
    [
        ({"pnl": "2"}, "realized_pnl"),
        ({"executed_at": after(1)}, "executed_at"),
        ({"executed_at": MONDAY + timedelta(microseconds=1)}, "executed_at"),
        ({"symbol": "X"}, "symbol"),
        ({"pnl": "-1", "executed_at": after(-1), "symbol": "X"}, "realized_pnl,executed_at,symbol"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_same_trade_id_with_other_content_is_refused(
    stub: ChallengeServiceStub, refused: Ask, differing: dict[str, Any], fields: str
) -> None:
    challenge_id = make_challenge(stub)
    stub.SubmitTrade(submission(challenge_id), timeout=PATIENCE_S)
    answer = refused(submission(challenge_id, **differing))
    assert summary(answer) == ("ALREADY_EXISTS", "TRADE_ID_REUSED", {"differing_fields": fields})


@pytest.mark.parametrize(("pnl", "status"), [("-5000.00000001", "FAILED"), ("10000", "FUNDED")])
def test_an_ended_challenge_takes_no_more_trades_but_still_replays(
    stub: ChallengeServiceStub, refused: Ask, pnl: str, status: str
) -> None:
    challenge_id = make_challenge(stub)
    last = submission(challenge_id, "last", pnl)
    decided = stub.SubmitTrade(last, timeout=PATIENCE_S).decision
    answer = refused(submission(challenge_id, "next", executed_at=after(1)))
    assert summary(answer) == ("FAILED_PRECONDITION", "CHALLENGE_TERMINAL", {"status": status})
    replayed = stub.SubmitTrade(last, timeout=PATIENCE_S).decision
    assert replayed.replayed
    replayed.replayed = False
    assert replayed == decided
    reused = refused(submission(challenge_id, "last", pnl, symbol="other"))
    assert summary(reused) == ("ALREADY_EXISTS", "TRADE_ID_REUSED", {"differing_fields": "symbol"})


@pytest.mark.parametrize("earlier", [timedelta(0), timedelta(microseconds=1), timedelta(days=400)])
def test_a_trade_that_is_not_after_the_last_one_is_out_of_order(
    stub: ChallengeServiceStub, refused: Ask, earlier: timedelta
) -> None:
    challenge_id = make_challenge(stub)
    last = MONDAY + timedelta(microseconds=123_456)
    stub.SubmitTrade(submission(challenge_id, executed_at=last), timeout=PATIENCE_S)
    answer = refused(submission(challenge_id, "u", executed_at=last - earlier))
    when = {"last_executed_at": "2025-03-03T09:00:00.123456Z"}
    assert summary(answer) == ("FAILED_PRECONDITION", "TRADE_OUT_OF_ORDER", when)


def test_a_trade_ahead_of_the_clock_is_refused(stub: ChallengeServiceStub, refused: Ask) -> None:
    challenge_id = make_challenge(stub)
    answer = refused(submission(challenge_id, executed_at=datetime.now(UTC) + timedelta(minutes=1)))
    assert summary(answer) == ("INVALID_ARGUMENT", "TRADE_IN_FUTURE", {})


@pytest.mark.parametrize(
    ("balance", "pnl"), [("9999999999999999.99999999", "0.00000001"), ("0.01", "9999999999999999.99999999")]
)
def test_an_equity_beyond_16_digits_is_out_of_range(
    stub: ChallengeServiceStub, refused: Ask, balance: str, pnl: str
) -> None:
    answer = refused(submission(make_challenge(stub, balance), pnl=pnl))
    assert summary(answer) == ("OUT_OF_RANGE", "EQUITY_OUT_OF_RANGE", {})


@pytest.mark.parametrize("expected", [0, 1, 3, 2**63 - 1])
def test_another_sequence_than_expected_is_a_mismatch(stub: ChallengeServiceStub, refused: Ask, expected: int) -> None:
    challenge_id = make_challenge(stub)
    stub.SubmitTrade(submission(challenge_id, "1", expected_sequence=1), timeout=PATIENCE_S)
    answer = refused(submission(challenge_id, "2", executed_at=after(1), expected_sequence=expected))
    assert summary(answer) == ("ABORTED", "SEQUENCE_MISMATCH", {"next_sequence": "2"})


def test_a_bad_field_has_violations_and_no_metadata(stub: ChallengeServiceStub, refused: Ask) -> None:
    answer = refused(submission(make_challenge(stub), pnl="1e5"))
    assert summary(answer) == ("INVALID_ARGUMENT", "VALIDATION_FAILED", {})
    assert [field.removeprefix("trades[1].") for field in answer.fields] == ["trade.realized_pnl"]


def test_errors_come_in_the_binding_order(stub: ChallengeServiceStub, refused: Ask) -> None:
    """V2: fields, known, replay, terminal, future, order, sequence; what is wrong in all ways gets the first."""
    challenge_id = make_challenge(stub)
    future = datetime.now(UTC) + timedelta(hours=1)
    bad = submission(new_id(), "t", "1e5", future, expected_sequence=9)
    assert refused(bad).reason == "VALIDATION_FAILED"
    assert refused(submission(new_id(), executed_at=future, expected_sequence=9)).reason == "CHALLENGE_NOT_FOUND"
    stub.SubmitTrade(submission(challenge_id, "1"), timeout=PATIENCE_S)
    replay = submission(challenge_id, "1", expected_sequence=9)
    assert stub.SubmitTrade(replay, timeout=PATIENCE_S).decision.replayed
    assert refused(submission(challenge_id, "1", executed_at=future)).reason == "TRADE_ID_REUSED"
    assert refused(submission(challenge_id, "2", executed_at=future, expected_sequence=9)).reason == "TRADE_IN_FUTURE"
    assert refused(submission(challenge_id, "2", expected_sequence=9)).reason == "TRADE_OUT_OF_ORDER"
    huge = "9999999999999999"
    mismatch = refused(submission(challenge_id, "2", huge, after(1), expected_sequence=9))
    assert mismatch.reason == "SEQUENCE_MISMATCH"
    assert refused(submission(challenge_id, "2", huge, after(1))).reason == "EQUITY_OUT_OF_RANGE"
    stub.SubmitTrade(submission(challenge_id, "end", "-50000", after(1)), timeout=PATIENCE_S)
    assert refused(submission(challenge_id, "3", executed_at=future)).reason == "CHALLENGE_TERMINAL"


def test_refused_trades_are_not_remembered(stub: ChallengeServiceStub, refused: Ask) -> None:
    """The id of a refused trade may be used again, with any content."""
    challenge_id = make_challenge(stub)
    assert refused(submission(challenge_id, "t", expected_sequence=7)).reason == "SEQUENCE_MISMATCH"
    decision = stub.SubmitTrade(submission(challenge_id, "t", "2"), timeout=PATIENCE_S).decision
    assert (decision.sequence, decision.replayed) == (1, False)


def test_a_dry_run_is_refused_like_the_trade_and_records_nothing(stub: ChallengeServiceStub, refused: Ask) -> None:
    challenge_id = make_challenge(stub)
    dry = submission(challenge_id, "1", "-6000", validate_only=True)
    first, second = batch(stub, dry, dry)
    assert first == second
    assert (first.decision.sequence, first.decision.replayed) == (1, False)
    assert pb.ChallengeStatus.Name(first.decision.status) == "CHALLENGE_STATUS_FAILED"
    assert not first.decision.HasField("recorded_at")
    wrong = submission(challenge_id, "1", validate_only=True, expected_sequence=2)
    assert refused(wrong).reason == "SEQUENCE_MISMATCH"
    assert list_trades(stub, challenge_id) == []


CURSOR_TEXTS = ["x", "AAAA", "====", "é", "a b", "x" * 10_000]


@pytest.mark.parametrize("cursor", CURSOR_TEXTS, ids=[ascii(text[:10]) for text in CURSOR_TEXTS])
def test_a_malformed_cursor_is_a_mismatch(stub: ChallengeServiceStub, cursor: str) -> None:
    answer = stream_refusal(stub, pb.StreamEventsRequest(after_cursor=cursor))
    assert summary(answer) == ("INVALID_ARGUMENT", "CURSOR_MISMATCH", {})


# What goes wrong below is planted in a database of our own.


class Own:
    """A server and a database of this module's own, where things are planted to go wrong."""

    def __init__(self, server: ServerProcess, stub: ChallengeServiceStub, connection: psycopg.Connection[Any]) -> None:
        self.server = server
        self.stub = stub
        self.connection = connection
        self._told = 0

    def plant(self, action: str, *, deferred: bool = False) -> None:
        """Let PostgreSQL do something whenever a trade_id that begins with `bad` is written."""
        self.connection.execute(
            f"""
            CREATE FUNCTION planted() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN {action}; RETURN NEW; END $$
            """.encode()
        )
        kind = "CONSTRAINT TRIGGER planted AFTER" if deferred else "TRIGGER planted BEFORE"
        when = "DEFERRABLE INITIALLY DEFERRED" if deferred else ""
        self.connection.execute(
            f"""
            CREATE {kind} INSERT ON trades {when} FOR EACH ROW
            WHEN (NEW.trade_id LIKE 'bad%') EXECUTE FUNCTION planted()
            """.encode()
        )

    def clear(self) -> None:
        """Remove what was planted, and what has been said so far."""
        self.connection.execute("DROP FUNCTION IF EXISTS planted CASCADE")
        self.log()

    def log(self) -> str:
        """What the server has said since the last time. It logs before it answers, so nothing has to be waited for."""
        said = self.server.stderr()
        news, self._told = said[self._told :], len(said)
        return news


@pytest.fixture(scope="module")
def module_own(postgres: EmbeddedPostgres) -> Iterator[Own]:
    with _fresh_database(postgres) as url:
        server = ServerProcess("--listen", "127.0.0.1:0", "--database-url", url_text(url))
        with connected(server.wait_ready()) as stub, psycopg.connect(libpq(url), autocommit=True) as connection:
            yield Own(server, stub, connection)
        assert server.stop() == 0
        server.close()


@pytest.fixture
def own(module_own: Own) -> Iterator[Own]:
    module_own.clear()
    yield module_own
    module_own.clear()


def in_both_ways(own: Own, code: str, reason: str) -> list[Refusal]:
    """Submit a planted trade alone and inside a batch; only that trade and the next of its challenge may suffer."""
    stub = own.stub
    one, two, other = (make_challenge(stub) for _ in range(3))
    alone = refusal(stub.SubmitTrade, submission(one, "bad"))
    first, bad, behind, dry, elsewhere = batch(
        stub,
        submission(two, "good", executed_at=after(0)),
        submission(two, "bad", executed_at=after(1)),
        submission(two, "behind", executed_at=after(2)),
        submission(two, "dry", executed_at=after(2), validate_only=True),
        submission(other, "good"),
    )
    assert (first.decision.sequence, elsewhere.decision.sequence) == (1, 1)
    for later in (behind, dry):
        assert summary(read_rejection(later)) == ("ABORTED", "PREDECESSOR_FAILED", {})
    inside = read_rejection(bad)
    assert [(answer.code, answer.reason) for answer in (alone, inside)] == [(code, reason)] * 2
    assert [item.trade.trade_id for item in list_trades(stub, one)] == []
    assert [item.trade.trade_id for item in list_trades(stub, two)] == ["good"]
    return [alone, inside]


def test_what_is_unforeseen_tells_an_error_id_that_is_found_in_the_log(own: Own) -> None:
    own.plant("RAISE EXCEPTION 'the secret of the vault'")
    answers = in_both_ways(own, "INTERNAL", "INTERNAL")
    log = own.log()
    assert "the secret of the vault" in log
    for answer in answers:
        assert set(answer.metadata) == {"error_id"}
        assert answer.metadata["error_id"] in log
        assert "secret" not in answer.message
    assert answers[0].metadata != answers[1].metadata


def test_what_is_unforeseen_while_reading_tells_an_error_id_too(own: Own) -> None:
    challenge_id = make_challenge(own.stub)
    own.connection.execute("ALTER TABLE challenges RENAME COLUMN labels TO secret_labels")
    own.connection.execute("ALTER TABLE event_positions RENAME COLUMN position TO secret_position")
    answers = [
        refusal(own.stub.GetChallenge, pb.GetChallengeRequest(challenge_id=challenge_id)),
        refusal(own.stub.CreateChallenge, pb.CreateChallengeRequest(initial_balance="1")),
        refusal(own.stub.ListEvents, pb.ListEventsRequest()),
        stream_refusal(own.stub, pb.StreamEventsRequest(from_beginning={})),
    ]
    own.connection.execute("ALTER TABLE challenges RENAME COLUMN secret_labels TO labels")
    own.connection.execute("ALTER TABLE event_positions RENAME COLUMN secret_position TO position")
    log = own.log()
    for answer in answers:
        assert (answer.code, answer.reason, set(answer.metadata)) == ("INTERNAL", "INTERNAL", {"error_id"})
        assert answer.metadata["error_id"] in log
        assert "secret" not in answer.message


@pytest.mark.parametrize("state", ["serialization_failure", "deadlock_detected", "lock_not_available"])
def test_another_writer_in_the_way_is_a_write_conflict(own: Own, state: str) -> None:
    own.plant(f"RAISE EXCEPTION 'in the way' USING ERRCODE = '{state}'")
    for answer in in_both_ways(own, "ABORTED", "WRITE_CONFLICT"):
        assert answer.metadata == {}


def test_a_conflict_that_passes_is_not_seen_by_the_caller(own: Own) -> None:
    own.connection.execute("CREATE SEQUENCE IF NOT EXISTS tries")
    own.plant("IF nextval('tries') < 3 THEN RAISE EXCEPTION 'once' USING ERRCODE = 'serialization_failure'; END IF")
    challenge_id = make_challenge(own.stub)
    decision = own.stub.SubmitTrade(submission(challenge_id, "bad"), timeout=PATIENCE_S).decision
    assert (decision.sequence, decision.replayed) == (1, False)


def test_a_connection_lost_during_commit_leaves_the_outcome_unknown(own: Own) -> None:
    """Sending the very same again tells."""
    own.plant("PERFORM pg_terminate_backend(pg_backend_pid())", deferred=True)
    challenge_id = make_challenge(own.stub)
    request = submission(challenge_id, "bad")
    answer = refusal(own.stub.SubmitTrade, request)
    assert (answer.code, answer.reason) == ("UNAVAILABLE", "OUTCOME_UNKNOWN")
    (result,) = batch(own.stub, request)
    answer = read_rejection(result)
    assert (answer.code, answer.reason) == ("UNAVAILABLE", "OUTCOME_UNKNOWN")
    own.connection.execute("DROP TRIGGER planted ON trades")
    decision = own.stub.SubmitTrade(request, timeout=PATIENCE_S).decision
    assert (decision.sequence, decision.replayed) == (1, False)


def test_while_the_database_is_away_calls_are_unavailable_and_afterwards_they_work(
    own: Own, postgres: EmbeddedPostgres
) -> None:
    challenge_id = make_challenge(own.stub)
    name = own.connection.info.dbname
    ours = own.connection.info.backend_pid
    with psycopg.connect(postgres.conninfo, autocommit=True) as outside:
        shut = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
        outside.execute(shut.format(sql.Identifier(name), sql.SQL("false")))
        terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> %s"
        outside.execute(terminate, [name, ours])
        (result,) = batch(own.stub, submission(challenge_id))
        answers = [
            read_rejection(result),
            refusal(own.stub.SubmitTrade, submission(challenge_id)),
            refusal(own.stub.CreateChallenge, pb.CreateChallengeRequest(initial_balance="1")),
            refusal(own.stub.GetChallenge, pb.GetChallengeRequest(challenge_id=challenge_id)),
            refusal(own.stub.ListChallenges, pb.ListChallengesRequest()),
            refusal(own.stub.ListTrades, pb.ListTradesRequest(challenge_id=challenge_id)),
            refusal(own.stub.ListEvents, pb.ListEventsRequest()),
            stream_refusal(own.stub, pb.StreamEventsRequest(from_now={})),
        ]
        assert {(answer.code, answer.reason) for answer in answers} == {("UNAVAILABLE", "DATABASE_UNAVAILABLE")}
        for answer in answers:
            assert name not in answer.message
        outside.execute(shut.format(sql.Identifier(name), sql.SQL("true")))
    decision = own.stub.SubmitTrade(submission(challenge_id), timeout=PATIENCE_S).decision
    assert (decision.sequence, decision.replayed) == (1, False)


def test_full_queues_are_overloaded_with_a_time_to_come_back_and_the_rest_is_answered(own: Own) -> None:
    """20,000 trades may wait. They wait here because someone else holds the lock of their challenge."""
    challenge_id = make_challenge(own.stub)
    request = pb.BatchSubmitTradesRequest(trades=[submission(challenge_id, validate_only=True)] * 500)
    with own.connection.transaction():
        own.connection.execute("SELECT FROM challenges WHERE challenge_id = %s FOR UPDATE", [challenge_id])
        # With `--max-group 1` each of the 20,000 is a transaction.
        calls = [own.stub.BatchSubmitTrades.future(request, timeout=3 * PATIENCE_S) for _ in range(42)]
        eventually(lambda: any(call.done() for call in calls))
    answers = [call.exception() for call in calls]
    overloaded = [answer for answer in answers if answer is not None]
    assert 1 <= len(overloaded) <= 2
    for error in overloaded:
        answer = read_refusal(error)
        assert summary(answer) == ("RESOURCE_EXHAUSTED", "OVERLOADED", {})
        assert answer.retry_delay_s is not None
        assert 0 < answer.retry_delay_s <= 10
    for call in calls:
        if call.exception() is None:
            assert [result.decision.sequence for result in call.result().results] == [1] * 500


LOG_LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (DEBUG|INFO|WARNING|ERROR) (\[worker \d\] )?\S+: ")


def test_refused_trades_are_logged_with_ids_and_reason(own: Own) -> None:
    challenge_id = make_challenge(own.stub)
    refusal(own.stub.SubmitTrade, submission(challenge_id, "lone trade", expected_sequence=5))
    batch(own.stub, submission(challenge_id, "in a batch", "1e5"), submission(challenge_id, "accepted"))
    unknown = new_id()
    refusal(own.stub.SubmitTrade, submission(unknown, "nowhere"))
    lines = [line for line in own.log().splitlines() if "refused trade" in line]
    for line, (ident, trade_id, reason) in zip(
        lines,
        [
            (challenge_id, "lone trade", "SEQUENCE_MISMATCH"),
            (challenge_id, "in a batch", "VALIDATION_FAILED"),
            (unknown, "nowhere", "CHALLENGE_NOT_FOUND"),
        ],
        strict=True,
    ):
        assert LOG_LINE.match(line)
        assert ident in line
        assert trade_id in line
        assert reason in line


def test_what_a_caller_sends_cannot_forge_a_line_of_the_log(own: Own) -> None:
    forged = "2026-01-01 00:00:00,000 INFO challenge_server: all is well"
    challenge_id = make_challenge(own.stub)
    for text in (f"x\n{forged}", f"x\r\n{forged}", f"\x1b[2J{forged}", f"\u2028{forged}", f"\x85{forged}", "x\x00"):
        refusal(own.stub.SubmitTrade, pb.SubmitTradeRequest(challenge_id=text, trade=trade(text, text, symbol=text)))
        batch(own.stub, submission(challenge_id, text), submission(text, "t"))
        refusal(own.stub.GetChallenge, pb.GetChallengeRequest(challenge_id=text))
        refusal(own.stub.CreateChallenge, pb.CreateChallengeRequest(labels={text: text}, initial_balance=text))
    refusal(own.stub.SubmitTrade, submission("x" * 1_000_000, "y" * 1_000_000))
    log = own.log()
    assert log.count("refused trade") == 6 * 3 + 1
    for line in log.splitlines():
        assert LOG_LINE.match(line), line
        assert not line.startswith("2026-01-01 00:00:00,000")
        assert line.isprintable()
        assert len(line) < 2000
