"""Seals the chains that moved: appends their heads to one Merkle tree, and signs a checkpoint of it.

Every server process runs a sealer. Whoever comes first seals what all of them have committed; the numbers of the leaves
admit one of two that try at the same moment. `docs/audit.md` tells what a seal proves.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import psycopg
from sqlalchemy.engine import URL

from challenge_engine import rows
from challenge_engine import sealing_queries as queries
from challenge_engine.checkpoint_files import CheckpointFileError
from challenge_engine.checkpoint_reading import checkpoint_reader
from challenge_engine.database import CONFLICTS, UNAVAILABLE, Connection, Database, WriterConnection, brief
from challenge_engine.keys import SealKey, verify_signature
from challenge_engine.snapshots import snapshot
from challenge_rules.chain import encode_leaf
from challenge_rules.merkle import TILE_LEVELS, CompactRange, leaf_hash
from challenge_rules.notes import Checkpoint, NoteError, SignedNote
from challenge_rules.timestamps import to_iso

logger = logging.getLogger(__name__)

SEAL_INTERVAL_S = 0.75
RETRY_INTERVAL_S = 1.0
PATIENCE_S = 5.0
"""A database that is away for longer is worth a line in the log."""
MAX_ROWS = 500
"""So many rows of the outbox are looked at together."""
MAX_PER_SEAL = 1_000
"""With so many chains or a few more a seal is full: others wait for the event loop meanwhile."""
MIN_KEPT_ROWS = 200
"""Where nobody seals, the outbox is looked through once it has more rows than this, and twice as many as it had to keep
the last time."""
EXPORT_INTERVAL_S = 60.0
"""How often a checkpoint is written to the directory of checkpoints, where there is one."""
SEALED_AT = "sealed_at "
"""The line of a checkpoint that says when it was made."""


class TreeError(Exception):
    """The sealed tree in the database is not the one that was signed; nothing more is sealed on top of it."""


@dataclass(slots=True)
class _Seal:
    """What one seal appends."""

    leaves: list[dict[str, Any]] = field(default_factory=list)
    tiles: list[dict[str, Any]] = field(default_factory=list)
    outbox_ids: list[int] = field(default_factory=list)


class Sealer:
    """Seals every SEAL_INTERVAL_S what has moved, so at most a second after its commit.

    Without keys nothing is sealed; what waits is kept short, so that a later start with a key seals all of it. With
    several keys every checkpoint has the signature of each, which is how one takes the place of another; a tree that
    none of them has signed is gone on from only if `adopts_tree` says that its key is lost. `directory` receives the
    checkpoints for safe-keeping.
    """

    def __init__(
        self,
        database: Database,
        keys: Sequence[SealKey],
        *,
        clock: Callable[[], int],
        directory: Path | None = None,
        adopts_tree: bool = False,
    ) -> None:
        self._url = database.url
        self._connection = WriterConnection(database, queries.PREPARED_TO_SEAL)
        self._keys = keys
        self._clock = clock
        self._directory = directory
        self._adopts_tree = adopts_tree
        self._kept_rows = 0
        self._frontier: CompactRange | None = None
        self._log_id = ""
        self._turn = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to seal, and to export."""
        self._tasks.append(asyncio.create_task(self._run(), name="sealer"))
        if self._directory is not None and self._keys:
            self._tasks.append(asyncio.create_task(self._keep_exporting(self._directory), name="checkpoints"))

    async def stop(self) -> None:
        """Seal what waits, if the database lets us, and end."""
        for task in self._tasks:
            task.cancel()
        try:
            if self._tasks:
                await asyncio.wait(self._tasks)
                await self._seal_the_last()
        finally:
            await self._connection.close()

    async def _seal_the_last(self) -> None:
        try:
            await self.seal_all()
        except (psycopg.Error, TreeError) as error:
            logger.info("the last chains were not sealed; the next process does it: %s", brief(error))
        if self._directory is not None and self._keys:
            await self._export(self._directory)

    async def seal_all(self) -> int:
        """Seal every chain that has moved; returns how many leaves there were. Without keys: 0."""
        async with self._turn:
            if not self._keys:
                await self._forget_repeated()
                return 0
            total = 0
            while True:
                is_last, sealed = await self._seal_some()
                total += sealed
                if is_last:
                    return total

    async def _seal_some(self) -> tuple[bool, int]:
        """Seal some; whether nothing more waits, and how many leaves there were."""
        async with self._connection.use() as connection:
            waiting = await _execute(connection, "EXECUTE waiting_to_seal(%s)", (MAX_ROWS,))
            if not waiting:
                return True, 0
            size, frontier = await self._tree(connection)
            seal = _Seal()
            moved: dict[str, None] = {}
            for outbox_id, challenge_ids in waiting:
                seal.outbox_ids.append(outbox_id)
                moved.update(dict.fromkeys(challenge_ids[1:-1].split(",")))
                if len(moved) >= MAX_PER_SEAL:
                    break
            for chain in await _execute(connection, "EXECUTE chains(%s)", (rows.uuid_array(moved),)):
                challenge_id, sequence, chain_head, is_sealed = chain
                if not is_sealed:
                    _append(seal, frontier, challenge_id, sequence, chain_head)
            is_last = len(seal.outbox_ids) == len(waiting) < MAX_ROWS
            if not seal.leaves:
                await _execute(connection, "EXECUTE delete_sealed(%s)", (_array(seal.outbox_ids),))
                return is_last, 0
            try:
                await self._write(connection, seal, frontier)
            except psycopg.errors.UniqueViolation as taken:
                await connection.rollback()
                newest = await _execute(connection, "EXECUTE newest_checkpoint")
                if not newest or newest[0][0] == size:
                    raise TreeError(
                        f"there are rows after the {size} leaves that were signed, so that nothing more can be sealed"
                        f" ({brief(taken)}); run: challenge-engine verify"
                    ) from None
                # Another process sealed at the same moment: what is left of these waits for the next time.
                return True, 0
            logger.debug("sealed %d chains, the tree has %d leaves", len(seal.leaves), frontier.size)
            self._frontier = frontier
            return is_last, frontier.size - size

    async def _write(self, connection: Connection, seal: _Seal, frontier: CompactRange) -> None:
        sealed_at = to_iso(self._clock())
        body = Checkpoint(
            f"challenge-engine/{self._log_id}", frontier.size, frontier.root(), (f"{SEALED_AT}{sealed_at}",)
        ).body
        note = SignedNote(body, tuple(key.sign(body) for key in self._keys)).encode()
        cursor = psycopg.AsyncClientCursor(connection)
        parameters = (
            orjson.dumps(seal.leaves).decode(),
            orjson.dumps(seal.tiles).decode(),
            frontier.size,
            note,
            sealed_at,
            _array(seal.outbox_ids),
        )
        await cursor.execute(queries.SEAL, parameters)

    async def _tree(self, connection: Connection) -> tuple[int, CompactRange]:
        """The size of the tree in the database, and a frontier to go on from; `TreeError` when it is not as signed."""
        log_id = await _log_id(connection)
        newest = await _execute(connection, "EXECUTE newest_checkpoint")
        size, note = newest[0] if newest else (0, "")
        known = self._frontier
        if known is not None and known.size > size and self._log_id == log_id:
            raise TreeError(
                f"the sealed tree had {known.size} leaves and has {size} now; nothing more is sealed on top of it;"
                " run: challenge-engine verify"
            )
        self._log_id = log_id
        if not newest:
            return 0, CompactRange()
        if known is None or known.size != size:
            known = await _frontier(connection, size)
            self._require_signed(size, note, known)
        return size, CompactRange(size, known.hashes)

    def _require_signed(self, size: int, note: str, frontier: CompactRange) -> None:
        """Make sure that the tree is the one that the newest checkpoint signs."""
        try:
            signed = SignedNote.parse(note)
            is_ours = signed.verified_by([key.public for key in self._keys], verify_signature)
            checkpoint = Checkpoint.parse_body(signed.text)
        except NoteError as error:
            raise TreeError(
                f"the newest checkpoint is not to be believed: {error}; run: challenge-engine verify"
            ) from None
        except ValueError as error:
            raise TreeError(f"the newest checkpoint cannot be read: {error}; run: challenge-engine verify") from None
        if not is_ours and not self._adopts_tree:
            raise TreeError(
                "the newest checkpoint has no signature of a given key, so that nothing is sealed on top of it: give"
                " the key that signed it as well, or, if that is lost and verify is clean, --adopt-tree once"
            )
        if (checkpoint.tree_size, checkpoint.root) != (size, frontier.root()):
            raise TreeError(
                f"the {size} sealed leaves are not those that were signed, so that nothing more is sealed on top of"
                " them; run: challenge-engine verify"
            )

    async def _forget_repeated(self) -> None:
        bound = max(MIN_KEPT_ROWS, 2 * self._kept_rows)
        async with self._connection.use() as connection:
            ((count,),) = await _execute(connection, queries.OUTBOX_ROWS, (bound + 1,))
            if count > bound:
                await _execute(connection, queries.FORGET_REPEATED, (10 * bound,))
                ((self._kept_rows,),) = await _execute(connection, queries.OUTBOX_ROWS, (10 * bound,))

    async def _run(self) -> None:
        clock = asyncio.get_running_loop().time
        failing_since: float | None = None
        told = ""
        while True:
            try:
                await self.seal_all()
            except Exception as error:
                failing_since = failing_since or clock()
                lasts = clock() - failing_since >= PATIENCE_S
                if str(error) != told and (lasts or not isinstance(error, UNAVAILABLE + CONFLICTS)):
                    told = str(error)
                    logger.exception("nothing is sealed until this is mended")
                else:
                    logger.debug("nothing was sealed: %s", brief(error))
                await asyncio.sleep(RETRY_INTERVAL_S)
            else:
                if told:
                    logger.info("chains are sealed again")
                failing_since, told = None, ""
                await asyncio.sleep(SEAL_INTERVAL_S)

    async def _keep_exporting(self, directory: Path) -> None:
        while True:
            has_exported = await self._export(directory)
            await asyncio.sleep(EXPORT_INTERVAL_S if has_exported else SEAL_INTERVAL_S)

    async def _export(self, directory: Path) -> bool:
        """Write the newest checkpoint, and the leaves that came since the last; False when there is none to write."""
        try:
            return await asyncio.to_thread(_export, self._url, directory)
        except CheckpointFileError:
            logger.exception("no checkpoint was written to %s, while sealing goes on", directory)
        except psycopg.Error as error:
            logger.warning("no checkpoint was written to %s: %s", directory, brief(error))
        return True


def _export(url: URL, directory: Path) -> bool:
    with checkpoint_reader(url) as reader:
        newest = reader.newest_if_any()
        if newest is None:
            return False
        reader.export_to(directory, newest)
    return True


async def _log_id(connection: Connection) -> str:
    """The identity of the log here. One that was restored takes a new one first: what is sealed from then on is another
    history than what was sealed before."""
    found = await _execute(connection, queries.LOG_ID)
    if not found:
        await _execute(connection, queries.SETTLE_LOG)
        found = await _execute(connection, queries.LOG_ID)
    ((log_id,),) = found
    return str(log_id)


def _append(seal: _Seal, frontier: CompactRange, challenge_id: str, sequence: int, chain_head: bytes) -> None:
    """Make a chain the next leaf."""
    seal.leaves.append(
        {
            "leaf_index": frontier.size,
            "challenge_id": challenge_id,
            "sequence": sequence,
            "chain_head": rows.bytea(chain_head),
        }
    )
    for level, index, tile in frontier.append(leaf_hash(encode_leaf(challenge_id, sequence, chain_head))):
        seal.tiles.append({"level": level, "tile_index": index, "hash": rows.bytea(tile)})


def _array(numbers: Iterable[int]) -> str:
    """The text of an array of bigint."""
    return "{" + ",".join(map(str, numbers)) + "}"


def is_signed_by(url: URL, keys: Sequence[SealKey]) -> bool:
    """Whether these keys may go on from the sealed tree of a database: one of them signed it, or there is none yet."""
    with snapshot(url) as session:
        newest = session.execute(queries.NEWEST_CHECKPOINT).fetchone()
    if newest is None:
        return True
    try:
        return bool(SignedNote.parse(newest[1]).verified_by([key.public for key in keys], verify_signature))
    except ValueError:
        return False


async def _frontier(connection: Connection, size: int) -> CompactRange:
    """The frontier of the first `size` leaves, from the stored subtrees and the leaves after the last of them."""
    hashes: list[bytes] = []
    level = 0
    while size >> level:
        start = size >> (level + TILE_LEVELS) << TILE_LEVELS
        end = size >> level
        if level == 0:
            leaves = await _execute(connection, queries.LEAVES, (start, end))
            nodes = [leaf_hash(encode_leaf(*leaf)) for leaf in leaves]
        else:
            nodes = [tile for (tile,) in await _execute(connection, queries.TILES, (level, start, end))]
        if len(nodes) != end - start:
            raise TreeError(f"the tree of {size} leaves lacks rows; run: challenge-engine verify")
        tail = CompactRange()
        for node in nodes:
            tail.append(node)
        hashes[:0] = tail.hashes
        level += TILE_LEVELS
    return CompactRange(size, hashes)


async def _execute(connection: Connection, query: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
    cursor = psycopg.AsyncClientCursor(connection)
    await cursor.execute(query, parameters)
    return await cursor.fetchall() if cursor.description else []
