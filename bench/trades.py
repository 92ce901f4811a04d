"""Prepared requests: every call its own trade, none of which ends its challenge."""

import itertools
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import grpc

from bench.http2_loader import message
from propfirm.challenge.v1 import challenge_pb2 as pb
from propfirm.challenge.v1.challenge_pb2_grpc import ChallengeServiceStub

SERVICE = "/propfirm.challenge.v1.ChallengeService/"
BEGIN_US = 1_770_000_000_000_000
"""A day in February 2026, after every trade of a filled database."""
INTERVAL_US = 250_000
SYMBOLS = ("BTC", "ETH", "SOL", "HYPE", "EURUSD", "XAUUSD")


def make_challenges(address: str, count: int) -> list[str]:
    """The ids of new challenges."""
    ids = [str(uuid.uuid4()) for _ in range(count)]
    with grpc.insecure_channel(address) as channel, ThreadPoolExecutor(8) as pool:
        stub = ChallengeServiceStub(channel)  # type: ignore[no-untyped-call]

        def make(challenge_id: str) -> None:
            stub.CreateChallenge(pb.CreateChallengeRequest(challenge_id=challenge_id, initial_balance="100000"))

        list(pool.map(make, ids))
    return ids


class TradeMaker:
    """Makes trades that the service accepts, each later than all before it, whatever their challenge.

    The profit of one is the loss of the challenge's next, so that every challenge stays ACTIVE.
    """

    def __init__(self) -> None:
        self._number = itertools.count(1)
        self._made: Counter[str] = Counter()

    def submission(self, challenge_id: str) -> pb.SubmitTradeRequest:
        """The next trade, on this challenge."""
        number = next(self._number)
        request = pb.SubmitTradeRequest(challenge_id=challenge_id)
        trade = request.trade
        made = self._made[challenge_id]
        self._made[challenge_id] += 1
        cents = made // 2 * 7919 % 9000 + 100
        trade.trade_id = f"ticket-{number}"
        trade.realized_pnl = f"{'-' if made % 2 else ''}{cents // 100}.{cents % 100:02d}"
        trade.executed_at.FromMicroseconds(BEGIN_US + number * INTERVAL_US)
        trade.symbol = SYMBOLS[number % len(SYMBOLS)]
        return request

    def unary(self, challenge_ids: Sequence[str], calls: int) -> list[list[bytes]]:
        """A lane of `calls` single trades for each challenge."""
        lanes: list[list[bytes]] = [[] for _ in challenge_ids]
        for _ in range(calls):
            for lane, challenge_id in zip(lanes, challenge_ids, strict=True):
                lane.append(message(self.submission(challenge_id).SerializeToString()))
        return lanes

    def batches(self, groups: Iterable[Sequence[str]], calls: int, size: int) -> list[list[bytes]]:
        """A lane of `calls` batches for each group of challenges, over which each batch is spread."""
        lanes = []
        for challenge_ids in groups:
            spread = itertools.cycle(challenge_ids)
            lane = []
            for _ in range(calls):
                request = pb.BatchSubmitTradesRequest(
                    trades=(self.submission(challenge_id) for challenge_id in itertools.islice(spread, size))
                )
                lane.append(message(request.SerializeToString()))
            lanes.append(lane)
        return lanes
