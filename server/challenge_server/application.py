"""Wires the parts together and runs them: the one place that knows them all."""

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import grpc
import psycopg
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from sqlalchemy import exc
from sqlalchemy.engine import URL

from challenge_engine.creating import MAX_CREATING
from challenge_engine.database import POOL_SIZE, Database, brief, check_usable, normalise_url, require_finished_import
from challenge_engine.embedded import EmbeddedPostgres, default_data_dir
from challenge_engine.event_listener import EventListener
from challenge_engine.event_log import EventLog
from challenge_engine.event_tail import EventTail
from challenge_engine.keys import load_key, load_or_make_key
from challenge_engine.positions import PositionAssigner
from challenge_engine.reading import ChallengeReader
from challenge_engine.sealing import Sealer, is_signed_by
from challenge_engine.trading import MAX_ISOLATED, TradingService, system_clock
from challenge_engine.wakeup import Wakeup
from challenge_rules import ChallengeError, ChallengeEvent
from challenge_server.handlers import SERVICE, CallCount, generic_handler
from challenge_server.servicer import ChallengeServicer
from challenge_server.settings import AddressError, DatabaseSettings, ServeSettings, SettingsError

T = TypeVar("T")

logger = logging.getLogger(__name__)

STOP_GRACE_S = 20.0
LAST_CALLS_S = 3.0
"""For calls that read, streams whose reader stalls and watchers of health, once all trades have their answers."""
LATE_ROUND_S = 0.05
MAX_LATE_ROUNDS = 40
HEALTH_INTERVAL_S = 1.0
HEALTH_TIMEOUT_S = 5.0
MIN_PING_INTERVAL_MS = 5_000
"""Clients may ping every 10 s; half of that leaves room for their clocks."""
GC_THRESHOLD = 50_000
"""Container objects that may be made before the youngest are looked through."""
WRITE_POOL_SIZE = MAX_CREATING
"""For creations."""
MAX_CONNECTIONS = 1 + MAX_ISOLATED + 1 + 2 + WRITE_POOL_SIZE + POOL_SIZE + 1 + 1
"""Of one process to the database: its writers of groups, the one that gives positions, those that seal and
export, the two pools, the listener and the tail of the log."""

SERVER_OPTIONS = (
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
)


@contextmanager
def open_database(settings: DatabaseSettings, progress: Callable[[str], None]) -> Iterator[URL]:
    """The database to use, as it is: the given one, or the embedded one, started."""
    if settings.url is not None:
        yield normalise_url(settings.url)
        return
    with EmbeddedPostgres.open(settings.data_dir or default_data_dir(), progress=progress) as postgres:
        yield normalise_url(postgres.url)


@contextmanager
def open_existing(settings: DatabaseSettings, progress: Callable[[str], None]) -> Iterator[URL]:
    """The same for who only looks at what is there: a mistyped directory must not become a new database."""
    directory = settings.data_dir or default_data_dir()
    if settings.url is None and not (directory / "cluster").exists():
        raise SettingsError(f"there is no database in {directory}: name another --data-dir, or a --database-url")
    with open_database(settings, progress) as url:
        yield url


def migrate(url: URL) -> str:
    """Bring the schema of a database to the revision of this release, and return it."""
    from challenge_engine import migrating  # noqa: PLC0415 -- loads Alembic, which a start does not need otherwise

    return migrating.migrate(url)


@contextmanager
def ready_database(settings: DatabaseSettings, progress: Callable[[str], None]) -> Iterator[URL]:
    """The database to serve from: its schema checked, or, if it is the embedded one, migrated."""
    with open_database(settings, progress) as url:
        if settings.url is None:
            migrate(url)
            logger.info("using the embedded PostgreSQL in %s", settings.data_dir or default_data_dir())
        else:
            check_usable(url)
            logger.info("using PostgreSQL at %s, database %s", url.host or "its socket", url.database)
        require_finished_import(url)
        yield url


def with_seal_keys(settings: ServeSettings, database: DatabaseSettings, url: URL, *, no_seal: bool) -> ServeSettings:
    """The settings with the keys to seal by: for the embedded PostgreSQL, one beside its data is made.

    Raises `SettingsError` when a given database would be served without a key and without having said so, and when the
    one of the embedded PostgreSQL has been lost.
    """
    if no_seal:
        if settings.seal_keys or settings.checkpoint_dir:
            raise SettingsError("give --no-seal, or --seal-key and --checkpoint-dir, not both")
        return settings
    own = seal_key_path(database)
    paths = settings.seal_keys or ((str(own),) if database.url is None else ())
    if not paths:
        raise SettingsError(
            "checkpoints need a key to sign them: make one with challenge-engine keygen and give it by --seal-key FILE,"
            " or say --no-seal"
        )
    is_new = not settings.seal_keys and not own.exists()
    keys = [] if is_new else [load_key(Path(path)) for path in paths]
    if not settings.adopt_tree and not is_signed_by(url, keys):
        raise SettingsError(
            f"the newest checkpoint of this database has no good signature of {' or '.join(paths)}: bring the key that"
            " made it, or see what verify says; if it is lost, say --adopt-tree once, and tell auditors the new one"
        )
    if not settings.seal_keys:
        load_or_make_key(own)
    return replace(settings, seal_keys=paths)


def seal_key_path(database: DatabaseSettings) -> Path:
    """Where the key of the embedded PostgreSQL lies: beside its data."""
    return (database.data_dir or default_data_dir()) / "seal-key.pem"


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run on uvloop, where there is one."""
    if sys.platform == "win32":
        return asyncio.run(coroutine)
    import uvloop  # noqa: PLC0415 -- not there on Windows

    return uvloop.run(coroutine)


class Application:
    """One server process: engine, event log, health and the gRPC server."""

    def __init__(self, url: URL, settings: ServeSettings, *, clock: Callable[[], int] = system_clock) -> None:
        self._settings = settings
        self._writes = Database(url, pool_size=WRITE_POOL_SIZE)
        self._reads = Database(url)
        self._news = Wakeup()
        self._positions = PositionAssigner(self._writes, self._news)
        self._listener = EventListener(self._reads, self._news)
        self.trading = TradingService(
            self._writes,
            on_commit=self._positions.wake,
            clock=clock,
            max_clock_skew=round(settings.max_clock_skew_s * 1_000_000),
            max_group=settings.max_group,
        )
        self._sealer = Sealer(
            self._writes,
            [load_key(Path(path)) for path in settings.seal_keys],
            clock=clock,
            directory=None if settings.checkpoint_dir is None else Path(settings.checkpoint_dir),
            adopts_tree=settings.adopt_tree,
        )
        self.trading.events.subscribe(_log_event)
        log = EventLog(self._reads)
        self._tail = EventTail(log, self._news, gives_way_to=self.trading.activity)
        self._servicer = ChallengeServicer(self.trading, ChallengeReader(self._reads), log, self._tail, clock=clock)
        self._calls = CallCount()
        self._health = health.aio.HealthServicer()
        self._server: grpc.aio.Server | None = None
        self._health_task: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Serve; returns the port. Raises `AddressError`."""
        is_shared = self._settings.workers > 1
        if not is_shared:
            await self._settings.listen.require_free()
        # Unless told otherwise, grpc lets a second server bind the same port and take half of the calls.
        server = grpc.aio.server(options=[*SERVER_OPTIONS, ("grpc.so_reuseport", int(is_shared))])
        server.add_generic_rpc_handlers((generic_handler(self._servicer, self._calls),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((SERVICE.full_name, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        try:
            port = server.add_insecure_port(str(self._settings.listen))
        except RuntimeError:
            raise AddressError(f"cannot listen on {self._settings.listen}") from None
        self.trading.start()
        self._positions.start()
        self._sealer.start()
        self._listener.start()
        await server.start()
        self._server = server
        await self._tell_health(healthy=True)
        self._health_task = asyncio.create_task(self._watch_health(), name="health")
        return port

    async def stop(self) -> None:
        """Finish what was accepted, end the streams after a last heartbeat, close everything."""
        if self._health_task is not None:
            self._health_task.cancel()
            await asyncio.wait([self._health_task])
        await self._health.enter_graceful_shutdown()
        self._servicer.draining = True
        self._tail.wake_followers()
        _, unfinished = await asyncio.wait([asyncio.create_task(self.trading.stop())], timeout=STOP_GRACE_S)
        if unfinished:
            logger.error("the database did not let us finish in %d s; callers are left without an answer", STOP_GRACE_S)
        await self._answer_late_calls()
        if self._server is not None:
            await self._server.stop(LAST_CALLS_S)
        await self._positions.stop()
        await self._sealer.stop()
        await self._listener.stop()
        await self._tail.stop()
        await self._writes.close()
        await self._reads.close()

    async def _answer_late_calls(self) -> None:
        """Go on answering DRAINING until no more calls come: those that meet a closed server get a bare CANCELLED."""
        for _ in range(MAX_LATE_ROUNDS):
            begun = self._calls.begun
            await asyncio.sleep(LATE_ROUND_S)
            if self._calls.begun == begun:
                return

    async def _watch_health(self) -> None:
        """NOT_SERVING while the database is away."""
        healthy = True
        while True:
            await asyncio.sleep(HEALTH_INTERVAL_S)
            now_healthy = await self._is_healthy()
            if now_healthy is not healthy:
                logger.warning("%s", "SERVING again" if now_healthy else "NOT_SERVING: the database cannot be used")
                healthy = now_healthy
                await self._tell_health(healthy=healthy)

    async def _is_healthy(self) -> bool:
        """Whether trades can be decided and recorded, whatever it is that says no."""
        try:
            async with asyncio.timeout(HEALTH_TIMEOUT_S):
                return await self._reads.is_writable() and self.trading.is_running
        except (ChallengeError, TimeoutError, psycopg.Error, exc.SQLAlchemyError) as error:
            logger.debug("not healthy: %s", brief(error))
            return False

    async def _tell_health(self, *, healthy: bool) -> None:
        status = health_pb2.HealthCheckResponse.SERVING if healthy else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in ("", SERVICE.full_name):
            await self._health.set(service, status)


def _log_event(event: ChallengeEvent) -> None:
    logger.info(
        "challenge_id=%s %s%s on trade_sequence=%s",
        event.challenge_id,
        event.new_status,
        f" by {event.reason}" if event.reason else "",
        event.trade_sequence or 0,
    )


def collect_garbage_less_often() -> None:
    """Calls whose trades were all answered leave no circles of references, so that looking for them finds little.

    Python's own thresholds, made for small programs, were measured at 8 per cent of the time of a loaded server.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 50)


async def serve(url: URL, settings: ServeSettings, *, ready: Callable[[int], None]) -> None:
    """Serve until SIGTERM or SIGINT, then stop cleanly. `ready` is called with the port once it serves."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    application = Application(url, settings)
    try:
        port = await application.start()
        collect_garbage_less_often()
        ready(port)
        await stop.wait()
        logger.info("stopping: finishing what was accepted")
    finally:
        await application.stop()
