"""What was acknowledged is there, once and for all: after kill -9, and with two servers on one database."""

import concurrent.futures
import contextlib
import itertools
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from sqlalchemy.engine import URL

from challenge_rules import ChallengeEngine, ChallengeTerms, Limits, Trade
from challenge_rules.limits import parse_percentage
from challenge_rules.money import format_amount, parse_amount
from challenge_rules.timestamps import from_seconds_and_nanos, to_iso
from propfirm.challenge.v1 import challenge_pb2 as pb
from propfirm.challenge.v1.challenge_pb2_grpc import ChallengeServiceStub
from tests.conftest import ServerProcess
from tests.engine.test_embedded import processes_of
from tests.server.calls import (
    PATIENCE_S,
    after,
    connected,
    decision_as_model,
    eventually,
    iso,
    list_trades,
    make_challenge,
    new_id,
    rule_name,
    submission,
    url_text,
)

Start = Callable[..., ServerProcess]
PNLS = ("10.5", "-3.25", "0.00000001", "0", "-20.125", "12")
BATCH = 25


def get(stub: ChallengeServiceStub, challenge_id: str) -> pb.Challenge:
    return stub.GetChallenge(pb.GetChallengeRequest(challenge_id=challenge_id), timeout=PATIENCE_S).challenge


class Sender:
    """Sends the trades of one challenge in order, alone or in batches, and keeps what was sent and acknowledged."""

    def __init__(self, challenge_id: str, *, batches: bool) -> None:
        self.challenge_id = challenge_id
        self.batches = batches
        self.sent: list[pb.SubmitTradeRequest] = []
        self.acknowledged: list[pb.Decision] = []
        self._numbers = itertools.count(1)

    def next(self) -> pb.SubmitTradeRequest:
        number = next(self._numbers)
        pnl = PNLS[number % len(PNLS)]
        request = submission(self.challenge_id, f"t-{number}", pnl, after(number * 600), symbol=f"S{number % 3}")
        self.sent.append(request)
        return request

    def run(self, address: str) -> None:
        """Until the server is no more."""
        with connected(address) as stub, contextlib.suppress(grpc.RpcError):
            while True:
                if self.batches:
                    request = pb.BatchSubmitTradesRequest(trades=[self.next() for _ in range(BATCH)])
                    results = stub.BatchSubmitTrades(request, timeout=PATIENCE_S).results
                    self.acknowledged.extend(result.decision for result in results if result.HasField("decision"))
                else:
                    self.acknowledged.append(stub.SubmitTrade(self.next(), timeout=PATIENCE_S).decision)


def replayed_through_the_pure_engine(challenge: pb.Challenge, recorded: list[pb.RecordedTrade]) -> list[pb.Decision]:
    """What the pure engine decides today on the stored trades, as far as the wire shows it."""
    terms = ChallengeTerms(
        challenge_id=challenge.challenge_id,
        initial_balance=parse_amount(challenge.initial_balance),
        limits=Limits(
            parse_percentage(challenge.limits.max_daily_drawdown_pct),
            parse_percentage(challenge.limits.max_total_drawdown_pct),
            parse_percentage(challenge.limits.profit_target_pct),
        ),
        currency_code=challenge.currency_code,
        labels=(),
        rules_version=challenge.rules_version,
        created_at=0,
    )
    engine = ChallengeEngine()
    state, _ = engine.create(terms)
    for item in recorded:
        trade, decision = item.trade, item.decision
        outcome = engine.decide(
            state,
            Trade(
                trade.trade_id,
                parse_amount(trade.realized_pnl),
                from_seconds_and_nanos(trade.executed_at.seconds, trade.executed_at.nanos),
                trade.symbol,
            ),
            recorded_at=1,
        )
        state = outcome.state
        stored, again = decision_as_model(decision), outcome.decision
        assert (stored["sequence"], stored["status"], stored["previous_status"], stored["executed_at"]) == (
            again.sequence, again.status.value, again.previous_status.value, to_iso(again.executed_at),
        )  # fmt: skip
        assert rule_name(decision.reason) == (again.reason.value if again.reason else None)
        for name in ("equity", "peak_equity", "daily_start_equity"):
            assert stored[name] == format_amount(getattr(again, name))
        for shown, evaluation in zip(decision.evaluations, again.evaluations, strict=True):
            assert (rule_name(shown.rule), shown.triggered) == (evaluation.rule.value, evaluation.triggered)
            assert shown.headroom == format_amount(evaluation.headroom)
    assert (challenge.equity, challenge.peak_equity) == (format_amount(state.equity), format_amount(state.peak_equity))
    assert (challenge.last_sequence, challenge.version) == (state.last_sequence, state.version)
    assert challenge.status == pb.ChallengeStatus.Value(f"CHALLENGE_STATUS_{state.status.value}")
    return [item.decision for item in recorded]


@pytest.fixture
def database_arguments(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[str]]:
    """Where the server keeps its data, by the parameter: a data directory or a URL."""
    if request.param == "url":
        yield ["--database-url", url_text(request.getfixturevalue("database_url"))]
        return
    directory = tmp_path / "data"
    yield ["--data-dir", str(directory)]
    eventually(lambda: not any(processes_of(directory).values()))


@pytest.mark.parametrize("database_arguments", ["embedded", "url"], indirect=True)
def test_after_kill_9_every_acknowledged_trade_is_there_exactly_once(
    database_arguments: list[str], start_server: Start
) -> None:
    server = start_server(*database_arguments, "--log-level", "error")
    with connected(server.address) as stub:
        limits = pb.Limits(max_daily_drawdown_pct="99", max_total_drawdown_pct="99", profit_target_pct="10000")
        senders = [Sender(make_challenge(stub, limits=limits), batches=number % 2 == 0) for number in range(4)]
    with concurrent.futures.ThreadPoolExecutor(len(senders)) as pool:
        running = [pool.submit(sender.run, server.address) for sender in senders]
        eventually(lambda: all(len(sender.acknowledged) >= 2 * BATCH for sender in senders))
        server.kill()
        for future in running:
            future.result(PATIENCE_S)

    again = start_server(*database_arguments, "--log-level", "error")
    with connected(again.address) as stub:
        for sender in senders:
            recorded = list_trades(stub, sender.challenge_id)
            stored = replayed_through_the_pure_engine(get(stub, sender.challenge_id), recorded)
            assert [decision.sequence for decision in stored] == list(range(1, len(stored) + 1))
            assert [item.trade for item in recorded] == [request.trade for request in sender.sent[: len(stored)]]
            assert stored[: len(sender.acknowledged)] == sender.acknowledged
            unacknowledged = len(stored) - len(sender.acknowledged)
            assert 0 <= unacknowledged <= BATCH

            # Sending everything again gives what was recorded, and records only what was lost on its way.
            results = stub.BatchSubmitTrades(pb.BatchSubmitTradesRequest(trades=sender.sent[-500:]), timeout=PATIENCE_S)
            first = len(sender.sent) - len(results.results)
            for number, result in enumerate(results.results, first):
                assert result.decision.sequence == number + 1
                assert result.decision.replayed is (number < len(stored))
                if number < len(stored):
                    result.decision.replayed = False
                    assert result.decision == stored[number]
            replayed_through_the_pure_engine(get(stub, sender.challenge_id), list_trades(stub, sender.challenge_id))
        events = stub.ListEvents(pb.ListEventsRequest(page_size=1000), timeout=PATIENCE_S).events
        assert [event.position for event in events] == list(range(1, 2 * len(senders) + 1))
    assert again.stop() == 0


@pytest.fixture(scope="module")
def two_servers(server_address: str, session_database_url: URL) -> Iterator[list[str]]:
    """The shared server, and another one on its database."""
    url = url_text(session_database_url)
    other = ServerProcess("--listen", "127.0.0.1:0", "--log-level", "error", "--database-url", url)
    yield [server_address, other.wait_ready()]
    assert other.stop() == 0
    other.close()


def test_two_servers_on_one_database_number_trades_without_gaps_and_agree(
    two_servers: list[str],
) -> None:
    """Every trade is sent to both at the same time: one of them decides it, the other replays that decision."""
    challenges, trades, threads = 3, 60, 3
    with connected(two_servers[0]) as stub:
        ids = [make_challenge(stub) for _ in range(challenges)]
    began = datetime.now(UTC).timestamp() - after(0).timestamp() - 3600
    answers: list[pb.Decision] = []
    refused: list[pb.TradeRejection] = []

    def work(address: str, worker: int) -> None:
        """Each worker sends trades of its own as they happen, and the shared ones, in batches over all challenges."""
        with connected(address) as stub:
            for number in range(trades):
                moment = after(began + number)
                batch = []
                for challenge_id in ids:
                    batch.append(submission(challenge_id, f"shared-{number}", PNLS[number % 6], moment))
                    own = after(began + number + (worker + 1) / 100)
                    batch.append(submission(challenge_id, f"own-{worker}-{number}", "1", own))
                results = stub.BatchSubmitTrades(pb.BatchSubmitTradesRequest(trades=batch), timeout=PATIENCE_S).results
                for result in results:
                    if result.HasField("decision"):
                        answers.append(result.decision)
                    else:
                        refused.append(result.rejection)

    with concurrent.futures.ThreadPoolExecutor(2 * threads) as pool:
        running = [pool.submit(work, two_servers[n % 2], n) for n in range(2 * threads)]
        for future in running:
            future.result(PATIENCE_S)

    # A trade that another worker has overtaken is out of order; nothing else may be refused.
    assert {rejection.reason for rejection in refused} <= {pb.ERROR_REASON_TRADE_OUT_OF_ORDER}
    assert len(answers) + len(refused) == 2 * threads * trades * challenges * 2
    for address in two_servers:
        with connected(address) as stub:
            for challenge_id in ids:
                recorded = list_trades(stub, challenge_id)
                stored = replayed_through_the_pure_engine(get(stub, challenge_id), recorded)
                assert [decision.sequence for decision in stored] == list(range(1, len(stored) + 1))
                moments = [iso(decision.executed_at) for decision in stored]
                assert moments == sorted(set(moments))
                by_trade = {decision.trade_id: decision for decision in stored}
                assert len(by_trade) == len(stored)
                ours = [answer for answer in answers if answer.challenge_id == challenge_id]
                assert {answer.trade_id for answer in ours if not answer.replayed} == set(by_trade)
                assert sum(not answer.replayed for answer in ours) == len(stored)
                for answer in ours:
                    same = pb.Decision()
                    same.CopyFrom(answer)
                    same.replayed = False
                    assert same == by_trade[answer.trade_id]


def test_one_trade_sent_to_two_servers_at_once_is_decided_once(two_servers: list[str]) -> None:
    with connected(two_servers[0]) as one, connected(two_servers[1]) as two:
        for number in range(20):
            challenge_id = make_challenge(one)
            request = submission(challenge_id, "the one", "-6000" if number % 2 else "10000")
            calls = [stub.SubmitTrade.future(request, timeout=PATIENCE_S) for stub in (one, two) * 4]
            decisions = [call.result().decision for call in calls]
            assert sorted(decision.replayed for decision in decisions) == [False] + [True] * 7
            assert (
                len({(decision.sequence, decision.equity, decision.recorded_at.nanos) for decision in decisions}) == 1
            )
            listed = pb.ListEventsRequest(challenge_id=challenge_id)
            eventually(lambda: len(two.ListEvents(listed, timeout=PATIENCE_S).events) >= 3)  # noqa: B023 -- called at once
            events = two.ListEvents(listed, timeout=PATIENCE_S).events
            assert [event.challenge_sequence for event in events] == [1, 2, 3]


def test_one_challenge_made_on_two_servers_at_once_is_made_once(two_servers: list[str]) -> None:
    with connected(two_servers[0]) as one, connected(two_servers[1]) as two:
        for _ in range(20):
            challenge_id = new_id()
            request = pb.CreateChallengeRequest(challenge_id=challenge_id, initial_balance="1")
            answers = [stub.CreateChallenge.future(request, timeout=PATIENCE_S) for stub in (one, two) * 4]
            results = [answer.result() for answer in answers]
            assert sorted(result.replayed for result in results) == [False] + [True] * 7
            assert len({result.challenge.created_at.nanos for result in results}) == 1
