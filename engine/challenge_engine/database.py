"""The connection to PostgreSQL: the pool, whether a database is usable, and what its errors mean."""

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import psycopg
from psycopg import pq
from psycopg.rows import TupleRow
from sqlalchemy import create_engine, event, exc, make_url
from sqlalchemy.engine import URL
from sqlalchemy.engine import Connection as SyncConnection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from challenge_engine import queries
from challenge_rules.errors import DatabaseUnavailableError

logger = logging.getLogger(__name__)

MIN_SERVER_VERSION = 15
REVISIONS = ("0001", "0002", "0003")
"""The revisions of the schema, oldest first, which a test holds against the migrations. To read them from there would
load Alembic, a fifth of what the service loads to start."""
NEWEST_REVISION = REVISIONS[-1]
"""The revision this release was written for."""
POOL_SIZE = 10
POOL_TIMEOUT_S = 10
CONNECT_TIMEOUT_S = 5
LOCK_TIMEOUT_S = 1
STATEMENT_TIMEOUT_S = 8
TRANSACTION_TIMEOUT_S = 10
READ_ATTEMPTS = 2
"""The first may meet a connection that was lost while nobody used it."""
IDLE_IN_TRANSACTION_TIMEOUT_S = 60

SESSION_SETTINGS = {
    "lock_timeout": f"{LOCK_TIMEOUT_S}s",
    "statement_timeout": f"{STATEMENT_TIMEOUT_S}s",
    "idle_in_transaction_session_timeout": f"{IDLE_IN_TRANSACTION_TIMEOUT_S}s",
}

Connection = psycopg.AsyncConnection[TupleRow]

UNAVAILABLE = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.ReadOnlySqlTransaction,
    exc.OperationalError,
    exc.InterfaceError,
    exc.TimeoutError,
)
"""What is raised when the database cannot be reached or written, and by statements it broke off itself."""

CONFLICTS = (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected, psycopg.errors.LockNotAvailable)
"""Another transaction was in the way: nothing was written, and trying again may succeed."""


def brief(error: BaseException) -> str:
    """The first line of a database error, for the log alone."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


class DatabaseError(RuntimeError):
    """The database cannot be used as it is; the message says what to do."""


def normalise_url(url: str) -> URL:
    """A PostgreSQL URL as SQLAlchemy wants it; `postgresql://` and `postgres://` mean psycopg."""
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError):
        raise DatabaseError("the database URL must look like postgresql://user:password@host:5432/name") from None
    if parsed.drivername not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise DatabaseError(f"the database must be PostgreSQL, such as postgresql://…; got {parsed.drivername}://…")
    return parsed.set(drivername="postgresql+psycopg")


class Database:
    """A pool of connections to one PostgreSQL database."""

    def __init__(self, url: URL, *, pool_size: int = POOL_SIZE) -> None:
        self.url = url
        self.engine: AsyncEngine = create_async_engine(
            url,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=POOL_TIMEOUT_S,
            connect_args={"connect_timeout": CONNECT_TIMEOUT_S},
        )
        event.listen(self.engine.sync_engine, "connect", _configure_session)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A psycopg connection from the pool, outside any transaction; what is not committed is rolled back.

        It is cut after TRANSACTION_TIMEOUT_S: a database that has stopped answering obeys no time limit of its own.
        """
        async with self.engine.connect() as pooled, self._transaction(pooled) as connection:
            yield connection

    @asynccontextmanager
    async def _transaction(self, pooled: AsyncConnection) -> AsyncIterator[Connection]:
        raw = await pooled.get_raw_connection()
        connection = cast("Connection", raw.driver_connection)
        watchdog = asyncio.get_running_loop().call_later(TRANSACTION_TIMEOUT_S, cut, connection)
        try:
            yield connection
        finally:
            try:
                if connection.info.transaction_status != pq.TransactionStatus.IDLE:
                    # What is being raised matters more than how this fares; a connection it fails on is dropped.
                    with suppress(psycopg.Error):
                        await connection.rollback()
                if connection.closed or connection.info.transaction_status != pq.TransactionStatus.IDLE:
                    await pooled.invalidate()
                    # The others in the pool are most likely lost as well: whoever tries again gets a new one.
                    await self.engine.dispose()
            finally:
                watchdog.cancel()

    async def open(self) -> Connection:
        """A connection of one's own in autocommit mode, for what holds it long; to be closed by its owner."""
        conninfo = self.url.set(drivername="postgresql").render_as_string(hide_password=False)
        return await psycopg.AsyncConnection.connect(
            conninfo, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S, application_name="challenge-engine"
        )

    async def fetch(self, query: str, parameters: Any = None) -> list[TupleRow]:
        """The rows of one reading statement; `DatabaseUnavailableError` when the database is away."""
        for attempt in range(1, READ_ATTEMPTS + 1):
            try:
                async with self.connection() as connection:
                    cursor = await connection.execute(cast("Any", query), parameters)
                    return await cursor.fetchall()
            except UNAVAILABLE as error:
                logger.warning("a read failed (attempt %d of %d): %s", attempt, READ_ATTEMPTS, brief(error))
        raise DatabaseUnavailableError

    async def is_writable(self) -> bool:
        """Whether the schema can be read, and this is no standby or read-only database."""
        found = await self.fetch(queries.IS_WRITABLE)
        return bool(found) and bool(found[0][0])

    async def close(self) -> None:
        """Close every connection."""
        await self.engine.dispose()


class WriterConnection:
    """A connection that stays with one who has much to do, its statements prepared once.

    To borrow one from the pool for each transaction costs more than to decide a trade. One that is lost is replaced at
    the next use.
    """

    def __init__(self, database: Database, prepared: Mapping[str, str] = queries.PREPARED_TO_WRITE) -> None:
        self._database = database
        self._prepared = prepared
        self._connection: Connection | None = None

    @asynccontextmanager
    async def use(self) -> AsyncIterator[Connection]:
        """The connection, outside any transaction; what is not committed is rolled back. For one use at a time.

        It is cut after TRANSACTION_TIMEOUT_S, as those of the pool are.
        """
        connection, self._connection = self._connection or await self._open(), None
        watchdog = asyncio.get_running_loop().call_later(TRANSACTION_TIMEOUT_S, cut, connection)
        is_sound = True
        try:
            yield connection
            await self._roll_back(connection)
        except CONFLICTS:
            # Another transaction was in the way; the session is sound.
            await self._roll_back(connection)
            raise
        except psycopg.Error:
            # It may have lost what it had prepared, or hold plans for tables that have changed.
            is_sound = False
            raise
        finally:
            watchdog.cancel()
            if is_sound and connection.info.transaction_status == pq.TransactionStatus.IDLE:
                self._connection = connection
            else:
                if connection.closed:
                    # Those in the pool are most likely lost as well.
                    await self._database.engine.dispose()
                # PostgreSQL rolls back what an ended session leaves, and whatever was wrong with it ends with it.
                await connection.close()

    async def _roll_back(self, connection: Connection) -> None:
        if connection.info.transaction_status != pq.TransactionStatus.IDLE:
            with suppress(psycopg.Error):
                await connection.rollback()

    async def close(self) -> None:
        """End the connection, if there is one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _open(self) -> Connection:
        connection = await self._database.open()
        watchdog = asyncio.get_running_loop().call_later(TRANSACTION_TIMEOUT_S, cut, connection)
        try:
            await connection.execute(queries.CONFIGURE_SESSION, SESSION_SETTINGS)
            await connection.execute(queries.CONFIGURE_WRITER)
            for name, query in self._prepared.items():
                first, *others = query.split("%s")
                text = first + "".join(f"${number}{other}" for number, other in enumerate(others, start=1))
                await connection.execute(f"PREPARE {name} AS {text}".encode())
        except BaseException:
            await connection.close()
            raise
        finally:
            watchdog.cancel()
        return connection


def cut(connection: Connection) -> None:
    """End a connection from our side, so that whoever waits for the server learns that it is lost.

    The socket is shut down, not closed: it belongs to libpq, which then reads its end.
    """
    logger.warning("the database has not answered for long; its connection is cut")
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as duplicate:
        duplicate.shutdown(socket.SHUT_RDWR)


def _configure_session(dbapi_connection: Any, _record: Any) -> None:
    """Days are UTC whatever the database's default, and no statement waits without a bound."""
    cursor = dbapi_connection.cursor()
    cursor.execute(queries.CONFIGURE_SESSION, SESSION_SETTINGS)
    cursor.close()
    dbapi_connection.commit()


def check_usable(url: URL, missing_privileges: str | None = None) -> None:
    """Raise `DatabaseError` unless the database has the schema this release was written for, and lets us use it.

    What the role needs is the service's unless another query of missing privileges is given. That the service's role
    could do far more than it needs is told in the log.
    """
    engine = create_engine(url, connect_args={"connect_timeout": CONNECT_TIMEOUT_S})
    try:
        with engine.connect() as connection:
            require_version(connection.dialect.server_version_info)
            found = revision_of(connection)
            refuse_newer(found)
            if found != NEWEST_REVISION:
                raise DatabaseError(
                    f"the database has schema revision {found or 'none'}, this release needs {NEWEST_REVISION};"
                    " run: challenge-engine migrate --database-url URL"
                )
            missing = connection.exec_driver_sql(missing_privileges or queries.MISSING_PRIVILEGES).scalars().all()
            if missing:
                raise DatabaseError(
                    f"the database role {url.username or ''} lacks privileges: {', '.join(missing)};"
                    " deploy/roles.sql grants them"
                )
            if missing_privileges is None:
                for role in connection.exec_driver_sql(queries.ROLE_THAT_CAN_REWRITE).scalars():
                    logger.warning(
                        "the database role %s owns the tables or is a superuser, so it could rewrite history;"
                        " docs/roles.md tells how to serve by a role that cannot",
                        role,
                    )
    finally:
        engine.dispose()


def require_finished_import(url: URL) -> None:
    """Raise `DatabaseError` for a database that an import has not stored the whole of a log in."""
    engine = create_engine(url, connect_args={"connect_timeout": CONNECT_TIMEOUT_S})
    try:
        with engine.connect() as connection:
            if connection.exec_driver_sql(queries.IMPORT_IS_UNFINISHED).scalar_one():
                raise DatabaseError("an import into this database is not finished: run challenge-engine import again")
    finally:
        engine.dispose()


def usable_connections(url: URL) -> int:
    """How many connections the server allows to ordinary roles together."""
    engine = create_engine(url, connect_args={"connect_timeout": CONNECT_TIMEOUT_S})
    try:
        with engine.connect() as connection:
            return int(connection.exec_driver_sql(queries.USABLE_CONNECTIONS).scalar_one())
    finally:
        engine.dispose()


def revision_of(connection: SyncConnection) -> str | None:
    """The revision of the schema; None when there is none."""
    if connection.exec_driver_sql(queries.HAS_REVISION).scalar_one():
        found: str | None = connection.exec_driver_sql(queries.REVISION).scalar_one_or_none()
        return found
    return None


def refuse_newer(revision: str | None) -> None:
    """Raise `DatabaseError` for a revision that this release does not know."""
    if revision is not None and revision not in REVISIONS:
        raise DatabaseError(
            f"the database has schema revision {revision}, which this release does not know;"
            " it belongs to a newer release: upgrade challenge-engine"
        )


def require_version(version: tuple[int | str, ...] | None) -> None:
    """Raise `DatabaseError` for a PostgreSQL that is too old."""
    if version is None or int(version[0]) < MIN_SERVER_VERSION:
        shown = ".".join(map(str, version or ("unknown",)))
        raise DatabaseError(f"PostgreSQL {MIN_SERVER_VERSION} or newer is needed, the server is {shown}")
