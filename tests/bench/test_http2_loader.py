"""The loader of the benchmarks: what it counts is what the server did."""

import uuid

import grpc

from bench import http2_loader
from propfirm.challenge.v1 import challenge_pb2 as pb
from propfirm.challenge.v1.challenge_pb2_grpc import ChallengeServiceStub

SUBMIT_TRADE = "/propfirm.challenge.v1.ChallengeService/SubmitTrade"
NOON_US = 1_700_000_000_000_000


def _bodies(challenge_ids: list[str], count: int, pnl: str = "0.01") -> list[bytes]:
    bodies = []
    for number in range(count):
        request = pb.SubmitTradeRequest(challenge_id=challenge_ids[number % len(challenge_ids)])
        request.trade.trade_id = f"t{number}"
        request.trade.realized_pnl = pnl
        request.trade.executed_at.FromMicroseconds(NOON_US + number)
        bodies.append(http2_loader.message(request.SerializeToString()))
    return bodies


def _challenges(stub: ChallengeServiceStub, count: int) -> list[str]:
    ids = [str(uuid.uuid4()) for _ in range(count)]
    for challenge_id in ids:
        stub.CreateChallenge(pb.CreateChallengeRequest(challenge_id=challenge_id, initial_balance="100000"))
    return ids


def test_every_body_is_sent_once_and_every_answer_counted(server_address: str) -> None:
    with grpc.insecure_channel(server_address) as channel:
        stub = ChallengeServiceStub(channel)
        ids = _challenges(stub, 100)
        outcome = http2_loader.run(server_address, SUBMIT_TRADE, [[body] for body in _bodies(ids, 100)], connections=2)
        assert (outcome.answered, outcome.failed) == (100, 0)
        assert len(outcome.latencies_s) == 100
        for challenge_id in ids:
            challenge = stub.GetChallenge(pb.GetChallengeRequest(challenge_id=challenge_id)).challenge
            assert challenge.last_sequence == 1


def test_a_lane_sends_its_calls_one_after_the_other(server_address: str) -> None:
    """The trades of one challenge, each after the one before: sent at once, some would arrive too late."""
    with grpc.insecure_channel(server_address) as channel:
        stub = ChallengeServiceStub(channel)
        ids = _challenges(stub, 3)
        lanes = [_bodies([challenge_id], 50) for challenge_id in ids]
        outcome = http2_loader.run(server_address, SUBMIT_TRADE, lanes, connections=2)
        assert (outcome.answered, outcome.failed) == (150, 0)
        for challenge_id in ids:
            challenge = stub.GetChallenge(pb.GetChallengeRequest(challenge_id=challenge_id)).challenge
            assert challenge.last_sequence == 50


def test_refused_calls_are_counted_as_failed(server_address: str) -> None:
    with grpc.insecure_channel(server_address) as channel:
        ids = _challenges(ChallengeServiceStub(channel), 1)
    outcome = http2_loader.run(server_address, SUBMIT_TRADE, [_bodies(ids, 20, pnl="1e5")])
    assert (outcome.answered, outcome.failed) == (20, 20)


def test_at_a_given_rate_calls_begin_evenly(server_address: str) -> None:
    with grpc.insecure_channel(server_address) as channel:
        ids = _challenges(ChallengeServiceStub(channel), 40)
    outcome = http2_loader.run(server_address, SUBMIT_TRADE, [[body] for body in _bodies(ids, 40)], rate=200.0)
    assert (outcome.answered, outcome.failed) == (40, 0)
    assert outcome.seconds >= 39 / 200
