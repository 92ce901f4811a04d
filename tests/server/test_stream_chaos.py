"""Subscribers through everything that breaks: servers killed, sessions of the database ended, wake-ups lost."""

import asyncio
import os
import random
import socket
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import grpc
import psycopg
import pytest
from sqlalchemy.engine import URL

from challenge_client import (
    AsyncChallengeClient,
    ChallengeStatus,
    DatabaseUnavailableError,
    OutcomeUnknownError,
    OverloadedError,
    TransportError,
    WriteConflictError,
)
from propfirm.challenge.v1 import challenge_pb2 as pb
from propfirm.challenge.v1.challenge_pb2_grpc import ChallengeServiceStub
from tests.conftest import ServerProcess
from tests.engine.harness import conninfo, eventually, sql, value
from tests.server.calls import url_text

CHALLENGES = int(os.environ.get("CHAOS_CHALLENGES", "120"))
SUBSCRIBERS = int(os.environ.get("CHAOS_SUBSCRIBERS", "8"))
KILL_EVERY_S = float(os.environ.get("CHAOS_KILL_EVERY_S", "0.7"))
WRITERS = 6
SERVERS = 2
PATIENCE_S = 120.0
MORNING = datetime(2026, 1, 5, 9, tzinfo=UTC)
LIVES = (("1",), ("1", "-6000"), ("20000",), ("-6000",), ("2", "-1", "12000"))
"""The P&L of the trades of a challenge."""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with_sockets = [socket.socket() for _ in range(count)]
    try:
        for each in with_sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in with_sockets]
    finally:
        for each in with_sockets:
            each.close()


class Servers:
    """Servers on one database, each at its port, killed and started again in turn."""

    def __init__(self, url: URL) -> None:
        self._url = url
        self.addresses = [f"127.0.0.1:{port}" for port in free_ports(SERVERS)]
        self._running = [self._start(address) for address in self.addresses]
        for server in self._running:
            server.wait_ready()
        self.kills = 0

    def _start(self, address: str) -> ServerProcess:
        return ServerProcess("--listen", address, "--database-url", url_text(self._url), "--log-level", "error")

    async def kill_one(self) -> None:
        number = self.kills % SERVERS
        self.kills += 1
        self._running[number].kill()
        self._running[number].close()
        self._running[number] = self._start(self.addresses[number])
        await asyncio.to_thread(self._running[number].wait_ready)

    def close(self) -> None:
        for server in self._running:
            server.close()


@pytest.fixture
def servers(database_url: URL):
    made = Servers(database_url)
    yield made
    made.close()


TRANSIENT = (TransportError, DatabaseUnavailableError, OutcomeUnknownError, WriteConflictError, OverloadedError)


async def insist(call: Callable[[], Awaitable[object]]) -> None:
    """Send again until it is answered: the same ids, so that nothing is done twice."""
    answered = False
    while not answered:
        try:
            await call()
            answered = True
        except TRANSIENT:
            await asyncio.sleep(0.05)


async def write(address: str, challenge_ids: Sequence[str], dice: random.Random) -> None:
    """Bring challenges from their creation to wherever their life leads."""
    async with AsyncChallengeClient(address) as client:
        for challenge_id in challenge_ids:
            await insist(lambda: client.create_challenge(challenge_id=challenge_id, initial_balance="100000"))  # noqa: B023
            for number, pnl in enumerate(dice.choice(LIVES)):
                await insist(
                    lambda: client.submit_trade(
                        challenge_id,  # noqa: B023
                        trade_id=f"t{number}",  # noqa: B023
                        realized_pnl=pnl,  # noqa: B023
                        executed_at=MORNING + timedelta(seconds=number),  # noqa: B023
                    )
                )


async def end_sessions(url: URL, dice: random.Random) -> None:
    """End sessions of the service in the database now and then: those that listen for wake-ups, and others."""
    async with await psycopg.AsyncConnection.connect(conninfo(url), autocommit=True) as connection:
        while True:
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM (SELECT pid FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
                " AND (%s OR query LIKE 'LISTEN%%') ORDER BY random() LIMIT 2) chosen",
                (dice.random() < 0.5,),
            )
            await asyncio.sleep(0.4)


async def follow(address: str, wanted: dict, seen: list, last: "asyncio.Future[int]") -> None:
    """Take every event until all that were written have been told."""
    async with (
        AsyncChallengeClient(address) as client,
        client.subscribe(from_beginning=True, heartbeat_interval=timedelta(seconds=1), **wanted) as subscription,
    ):
        async for delivery in subscription.deliveries():
            seen += delivery.events
            if last.done() and delivery.position >= last.result():
                return


async def tap(address: str, streams: list[list[int]], last: "asyncio.Future[int]") -> None:
    """Note the positions of each connection to a server as they come, with nothing that would drop what comes twice."""
    cursor = ""
    while not (last.done() and streams and streams[-1] and streams[-1][-1] >= last.result()):
        start = {"after_cursor": cursor} if cursor else {"from_beginning": {}}
        told: list[int] = []
        streams.append(told)
        async with grpc.aio.insecure_channel(address) as channel:
            with suppress(grpc.aio.AioRpcError):
                async for message in ChallengeServiceStub(channel).StreamEvents(
                    pb.StreamEventsRequest(**start), timeout=PATIENCE_S
                ):
                    cursor = message.cursor
                    if message.HasField("event"):
                        told.append(message.event.position)
                    if last.done() and told and told[-1] >= last.result():
                        return
        await asyncio.sleep(0.05)


@pytest.mark.soak
async def test_every_subscriber_gets_every_event_once_and_in_order_whatever_breaks(servers: Servers, database_url: URL):
    dice = random.Random(4)
    challenges = [str(uuid.UUID(int=dice.getrandbits(128))) for _ in range(CHALLENGES)]
    wanted = [
        {},
        {"new_statuses": [ChallengeStatus.FAILED, ChallengeStatus.FUNDED]},
        {"challenge_ids": challenges[::3]},
        {"challenge_ids": challenges[1::7], "new_statuses": [ChallengeStatus.ACTIVE]},
    ]
    last: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    followed = [(wanted[number % len(wanted)], list[object]()) for number in range(SUBSCRIBERS)]
    following = [
        asyncio.create_task(follow(servers.addresses[number % SERVERS], filters, seen, last))
        for number, (filters, seen) in enumerate(followed)
    ]
    streams: list[list[int]] = []
    following.append(asyncio.create_task(tap(servers.addresses[0], streams, last)))
    ending = asyncio.create_task(end_sessions(database_url, dice))
    writing = asyncio.gather(
        *(write(servers.addresses[n % SERVERS], challenges[n::WRITERS], random.Random(n)) for n in range(WRITERS))
    )
    async with asyncio.timeout(PATIENCE_S + CHALLENGES):
        while not writing.done():
            await asyncio.wait([writing], timeout=KILL_EVERY_S)
            if not writing.done():
                await servers.kill_one()
        await writing
        ending.cancel()
        with suppress(asyncio.CancelledError):
            await ending

        async def positioned() -> bool:
            return not await value(database_url, "SELECT count(*) FROM event_outbox")

        await eventually(positioned)
        last.set_result(await value(database_url, "SELECT max(position) FROM event_positions"))
        await asyncio.gather(*following)

    assert servers.kills >= 2
    table = await sql(
        database_url,
        "SELECT p.position, p.challenge_id::text, p.challenge_sequence, e.new_status"
        " FROM event_positions p JOIN challenge_events e USING (challenge_id, challenge_sequence) ORDER BY p.position",
    )
    assert [row[0] for row in table] == list(range(1, len(table) + 1))
    assert len(table) == await value(database_url, "SELECT count(*) FROM challenge_events")
    for filters, seen in followed:
        ids = set(filters.get("challenge_ids", challenges))
        statuses = {status.name for status in filters.get("new_statuses", ChallengeStatus)}
        expected = [row for row in table if row[1] in ids and row[3] in statuses]
        told = [(e.position, e.challenge_id, e.challenge_sequence, e.new_status.name) for e in seen]
        assert told == expected
    # Every verdict has its event, and every event its verdict: they are written together or not at all.
    assert not await sql(
        database_url,
        "SELECT c.challenge_id FROM challenges c LEFT JOIN challenge_events e"
        " ON e.challenge_id = c.challenge_id AND e.challenge_sequence = c.event_count"
        " WHERE e.new_status IS DISTINCT FROM c.status"
        " OR c.event_count <> (SELECT count(*) FROM challenge_events n WHERE n.challenge_id = c.challenge_id)",
    )
    assert not await sql(
        database_url,
        "SELECT t.challenge_id, t.sequence FROM trades t WHERE t.previous_status <> t.status AND NOT EXISTS"
        " (SELECT FROM challenge_events e WHERE e.challenge_id = t.challenge_id AND e.trade_sequence = t.sequence"
        " AND e.new_status = t.status)",
    )
    for positions in streams:
        assert positions == sorted(set(positions)), "a stream told an event twice, or out of order"
    assert sum(map(len, streams)) >= len(table)
