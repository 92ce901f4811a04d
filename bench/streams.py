"""What event streams cost: delivery, catching up, many subscribers, and stalled ones."""

import itertools
import statistics
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Protocol

import grpc

from bench import filling, http2_loader, report
from bench.processes import Server
from bench.scenarios import SUBMIT_TRADE, Figures
from bench.stream_readers import StreamReader, Subscribers, is_caught_up
from bench.trades import TradeMaker
from challenge_engine.embedded import EmbeddedPostgres
from propfirm.challenge.v1 import challenge_pb2 as pb
from propfirm.challenge.v1.challenge_pb2_grpc import ChallengeServiceStub

SUBSCRIBERS = 100
MANY_SUBSCRIBERS = 1000
DELIVERED = 200
DELIVERED_PER_S = 20
DELIVERED_TO_MANY = 60
DELIVERED_TO_MANY_PER_S = 3
LOGGED_CHALLENGES = 50_000
"""Each has two events."""
EVENTS_PER_MESSAGE = 500
SINGLY = 20_000
LOAD_PER_S = 250
STALLED_S = 60
PIECE_S = 10
"""A load is made in pieces of this length, each with connections of its own."""
FRESH_PER_ROUND = DELIVERED + DELIVERED_TO_MANY + 2 * STALLED_S * LOAD_PER_S


class Serving(Protocol):
    """Starts the service on a new database."""

    def __call__(
        self, postgres: EmbeddedPostgres, name: str, *arguments: str
    ) -> AbstractContextManager[tuple[Server, str]]: ...


def run(postgres: EmbeddedPostgres, serving: Serving, *, rounds: int) -> None:
    """Every scenario in turn, so many times."""
    with ExitStack() as stack:
        server, conninfo = stack.enter_context(serving(postgres, "streams"))
        filling.fill(conninfo, challenges=LOGGED_CHALLENGES, trades_per_challenge=1)
        fresh = iter(
            filling.fill(conninfo, challenges=rounds * FRESH_PER_ROUND, trades_per_challenge=0, first=LOGGED_CHALLENGES)
        )
        maker = TradeMaker()
        measured = []
        for number in range(1, rounds + 1):
            report.say(f"round {number} of {rounds}")
            figures = catching_up(server, events=2 * LOGGED_CHALLENGES, together=EVENTS_PER_MESSAGE, name="together")
            figures |= catching_up(server, events=SINGLY, together=1, name="singly")
            figures |= delivering(server, maker, fresh, SUBSCRIBERS, DELIVERED, DELIVERED_PER_S, "hundred")
            figures |= delivering(
                server, maker, fresh, MANY_SUBSCRIBERS, DELIVERED_TO_MANY, DELIVERED_TO_MANY_PER_S, "thousand"
            )
            figures |= beside_stalled(server, maker, fresh)
            measured.append(figures)
        report.tell(measured, title=f"make bench-stream, {rounds} rounds", name="stream")


def catching_up(server: Server, *, events: int, together: int, name: str) -> Figures:
    """Events a second to one subscriber who begins at the beginning."""
    request = pb.StreamEventsRequest(from_beginning={}, max_events_per_message=together)
    reader = StreamReader(server.address, request)
    counted = 0

    def take(data: bytes) -> None:
        nonlocal counted
        told = pb.StreamEventsResponse.FromString(data)
        counted += len(told.events.events) if told.HasField("events") else told.HasField("event")

    began, cpu_before = time.perf_counter(), server.cpu_s()
    while counted < events:
        reader.receive(take)
    seconds, cpu_s = time.perf_counter() - began, server.cpu_s() - cpu_before
    reader.socket.close()
    return {f"{name}_events_per_s": counted / seconds, f"{name}_server_us": cpu_s / counted * 1e6}


def delivering(
    server: Server, maker: TradeMaker, fresh: Iterator[str], subscribers: int, count: int, per_s: int, name: str
) -> Figures:
    """From the answer to a trade that begins its challenge, to the event at each subscriber, in milliseconds."""
    readers = [StreamReader(server.address, pb.StreamEventsRequest(from_now={})) for _ in range(subscribers)]
    answered: dict[str, float] = {}
    with Subscribers(readers) as all_of_them, grpc.insecure_channel(server.address) as channel:
        all_of_them.wait_until(is_caught_up)
        stub = ChallengeServiceStub(channel)  # type: ignore[no-untyped-call]
        due = time.perf_counter()
        for challenge_id in itertools.islice(fresh, count):
            time.sleep(max(0.0, due - time.perf_counter()))
            stub.SubmitTrade(maker.submission(challenge_id))
            answered[challenge_id] = time.perf_counter()
            due += 1 / per_s
        all_of_them.wait_until(lambda reader: sum(told.HasField("event") for told, _ in reader.received) == count)
    took = [
        max(0.0, moment - answered[told.event.challenge_id]) * 1000
        for reader in readers
        for told, moment in reader.received
        if told.HasField("event")
    ]
    cuts = statistics.quantiles(took, n=100, method="inclusive")
    return {f"{name}_p{percentile}_ms": cuts[percentile - 1] for percentile in (50, 95, 99)}


def beside_stalled(server: Server, maker: TradeMaker, fresh: Iterator[str]) -> Figures:
    """What subscribers who have stopped reading cost the server and those who write.

    A minute with them, from the moment in which they all begin at the beginning, and half a minute without them before
    and after.
    """
    alone = _load(server, maker, fresh, STALLED_S // 2)
    before = server.memory_bytes()
    request = pb.StreamEventsRequest(from_beginning={})
    stalled = [StreamReader(server.address, request, is_stalled=True) for _ in range(SUBSCRIBERS)]
    beside = _load(server, maker, fresh, STALLED_S)
    grown = (server.memory_bytes() - before) / 2**20
    for reader in stalled:
        reader.socket.close()
    alone += _load(server, maker, fresh, STALLED_S // 2)
    with_them, without = (statistics.quantiles(each, n=100, method="inclusive")[98] for each in (beside, alone))
    return {
        "stalled_memory_mib": grown,
        "stalled_write_p99_ms": with_them * 1000,
        "no_stalled_write_p99_ms": without * 1000,
        "stalled_to_none_p99": with_them / without,
    }


def _load(server: Server, maker: TradeMaker, fresh: Iterator[str], seconds: int) -> list[float]:
    """Latencies in seconds of trades that come evenly, each of which writes an event."""
    latencies: list[float] = []
    for _ in range(seconds // PIECE_S):
        lanes = maker.unary(list(itertools.islice(fresh, PIECE_S * LOAD_PER_S)), 1)
        outcome = http2_loader.run(server.address, SUBMIT_TRADE, lanes, connections=16, rate=LOAD_PER_S)
        if outcome.failed or outcome.answered != len(lanes):
            raise RuntimeError(f"not every trade was answered: {outcome}")
        latencies += outcome.latencies_s
    return latencies
