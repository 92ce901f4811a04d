"""Seals: the chains that moved become leaves of one signed tree, each once, whoever seals them."""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from challenge_engine import sealing, sealing_queries
from challenge_engine.checkpoint_files import (
    CheckpointDirectory,
    CheckpointFileError,
    ExportedCheckpoint,
    read_exported,
    write_file,
)
from challenge_engine.checkpoint_reading import checkpoint_reader
from challenge_engine.database import Database, WriterConnection
from challenge_engine.keys import (
    KeyFileError,
    SealKey,
    load_key,
    load_or_make_key,
    make_key,
    parse_public_key,
    public_path,
    verify_signature,
)
from challenge_engine.sealing import Sealer, TreeError
from challenge_rules.chain import encode_leaf
from challenge_rules.merkle import (
    CompactRange,
    inclusion_proof,
    leaf_hash,
    tree_root,
    verify_consistency,
    verify_inclusion,
)
from challenge_rules.notes import Checkpoint, NoteError, SignedNote
from tests.engine.harness import NOW, RunningEngine, eventually, running_engine, sql, submission, tampering, value


@pytest.fixture
def key(tmp_path: Path) -> SealKey:
    return make_key(tmp_path / "key.pem")


@asynccontextmanager
async def sealer(engine: RunningEngine, *keys: SealKey, directory: Path | None = None) -> AsyncIterator[Sealer]:
    """A sealer that seals when the test says so."""
    made = Sealer(engine.database, keys, clock=lambda: NOW, directory=directory)
    yield made
    await made.stop()


async def leaves(engine: RunningEngine) -> list[Any]:
    return await sql(
        engine.url,
        "SELECT challenge_id::text, sequence, chain_head FROM checkpoint_leaves ORDER BY leaf_index",
    )


def root_of(found: Sequence[Any]) -> bytes:
    tree = CompactRange()
    for leaf in found:
        tree.append(leaf_hash(encode_leaf(*leaf)))
    return tree.root()


async def test_what_has_moved_is_sealed_once_with_its_head_and_the_note_is_signed(engine: RunningEngine, key: SealKey):
    async with sealer(engine, key) as made:
        first, second = await engine.create(), await engine.create()
        assert await made.seal_all() == 2
        await engine.batch(*(submission(first, f"t{number}", "1", number) for number in range(5)))
        assert await made.seal_all() == 1
        assert await made.seal_all() == 0
    state = await engine.state(first)
    assert [leaf[:2] for leaf in await leaves(engine)] == [(first, 0), (second, 0), (first, 5)]
    assert (await leaves(engine))[-1][2] == state.chain_head
    with checkpoint_reader(engine.url) as reader:
        newest = reader.newest()
        note = SignedNote.parse(newest.note)
        assert note.verified_by([key.public], verify_signature) == [key.public]
        checkpoint = Checkpoint.parse_body(note.text)
        assert (checkpoint.tree_size, checkpoint.root) == (3, root_of(await leaves(engine)))
        log_id = await value(engine.url, "SELECT log_id::text FROM event_log")
        assert checkpoint.origin == f"challenge-engine/{log_id}"
        assert reader.newest_leaf(first) == (2, 5, state.chain_head)
        assert reader.first_with(0).tree_size == 2
    assert await value(engine.url, "SELECT count(*) FROM seal_outbox") == 0


async def test_a_sealer_goes_on_where_another_ended_and_stored_subtrees_make_the_same_tree(
    engine: RunningEngine, key: SealKey
):
    """Past 256 leaves a subtree is stored; proofs by way of it lead to the root of all the leaves."""
    ids = [await engine.create() for _ in range(30)]
    async with sealer(engine, key) as made:
        await made.seal_all()
    for step in range(10):
        await engine.batch(*(submission(each, f"t{step}", "1", step) for each in ids))
        async with sealer(engine, key) as another:
            assert await another.seal_all() == 30
    found = await leaves(engine)
    assert len(found) == 330
    assert await value(engine.url, "SELECT count(*) FROM checkpoint_tiles") == 1
    with checkpoint_reader(engine.url) as reader:
        newest = Checkpoint.parse_body(SignedNote.parse(reader.newest().note).text)
        assert newest.root == root_of(found) == tree_root(330, reader.complete)
        for index in (0, 255, 256, 329):
            proof = inclusion_proof(index, 330, reader.complete)
            hashed = leaf_hash(encode_leaf(*found[index]))
            assert verify_inclusion(hashed, index, 330, newest.root, proof)
        older = reader.first_with(100)
        assert Checkpoint.parse_body(SignedNote.parse(older.note).text).root == root_of(found[: older.tree_size])


async def test_sealers_at_the_same_time_seal_everything_once(database_url: Any, key: SealKey):
    async with running_engine(database_url) as engine:
        ids = [await engine.create() for _ in range(8)]
        databases = [Database(database_url, pool_size=1) for _ in range(3)]
        sealers = [Sealer(database, [key], clock=lambda: NOW) for database in databases]
        for step in range(15):
            await engine.batch(*(submission(each, f"t{step}", "1", step) for each in ids))
            await asyncio.gather(*(each.seal_all() for each in sealers))
        await asyncio.gather(*(each.stop() for each in sealers), return_exceptions=False)
        await sealers[0].seal_all()
        for database, each in zip(databases, sealers, strict=True):
            await each.stop()
            await database.close()
        found = await leaves(engine)
        assert len({leaf[:2] for leaf in found}) == len(found)
        assert {(each, 15) for each in ids} <= {leaf[:2] for leaf in found}
        with checkpoint_reader(database_url) as reader:
            assert Checkpoint.parse_body(SignedNote.parse(reader.newest().note).text).root == root_of(found)


@pytest.mark.parametrize(
    "tampered",
    [
        "UPDATE checkpoint_leaves SET chain_head = sha256('') WHERE leaf_index = 1",
        "DELETE FROM checkpoint_leaves WHERE leaf_index = 2",
        "UPDATE checkpoints SET note = replace(note, 'sealed_at 2', 'sealed_at 1')",
        "UPDATE checkpoints SET note = 'no note'",
    ],
)
async def test_nothing_is_sealed_on_top_of_a_tree_that_is_not_the_signed_one(
    engine: RunningEngine, key: SealKey, tampered: str
):
    for _ in range(3):
        await engine.create()
    async with sealer(engine, key) as made:
        await made.seal_all()
    async with tampering(engine.url) as connection:
        await connection.execute(tampered)
    before = await leaves(engine)
    await engine.create()
    async with sealer(engine, key) as made:
        with pytest.raises(TreeError, match="challenge-engine verify"):
            await made.seal_all()
    assert await leaves(engine) == before
    assert await value(engine.url, "SELECT count(*) FROM seal_outbox") == 1


async def test_without_a_key_what_waits_stays_short_and_a_later_key_seals_all_of_it(
    engine: RunningEngine, key: SealKey, monkeypatch: pytest.MonkeyPatch
):
    ids = [await engine.create() for _ in range(3)]
    for step in range(6):
        await engine.batch(*(submission(each, f"t{step}", "1", step) for each in ids))
    monkeypatch.setattr(sealing, "MIN_KEPT_ROWS", 2)
    assert await value(engine.url, "SELECT count(*) FROM seal_outbox") > 3
    async with sealer(engine) as keyless:
        assert await keyless.seal_all() == 0
    assert await value(engine.url, "SELECT count(*) FROM seal_outbox") == 1
    async with sealer(engine, key) as later:
        assert await later.seal_all() == 3
    assert {leaf[:2] for leaf in await leaves(engine)} == {(each, 6) for each in ids}


async def test_a_tree_that_a_stranger_signed_is_not_gone_on_from_unless_the_key_is_said_to_be_lost(
    engine: RunningEngine, key: SealKey, tmp_path: Path
):
    """Else whoever rewrites the tree would have the service itself sign it."""
    stranger = make_key(tmp_path / "stranger.pem")
    await engine.create()
    async with sealer(engine, stranger) as made:
        await made.seal_all()
    await engine.create()
    async with sealer(engine, key) as made:
        with pytest.raises(TreeError, match="no signature of a given key"):
            await made.seal_all()
    adopting = Sealer(engine.database, [key], clock=lambda: NOW, adopts_tree=True)
    assert await adopting.seal_all() == 1
    await adopting.stop()
    async with sealer(engine, key) as made:
        assert await made.seal_all() == 0


async def test_a_tree_that_became_smaller_while_a_sealer_runs_is_not_gone_on_from(engine: RunningEngine, key: SealKey):
    async with sealer(engine, key) as made:
        for _ in range(2):
            await engine.create()
            await made.seal_all()
        async with tampering(engine.url) as connection:
            await connection.execute("DELETE FROM checkpoint_leaves WHERE leaf_index = 1")
            await connection.execute("DELETE FROM checkpoints WHERE tree_size = 2")
        await engine.create()
        with pytest.raises(TreeError, match="had 2 leaves and has 1 now"):
            await made.seal_all()


async def test_a_row_that_stands_in_the_way_is_told_and_not_taken_for_another_sealer(
    engine: RunningEngine, key: SealKey
):
    challenge_id = await engine.create()
    await sql(engine.url, "INSERT INTO checkpoint_leaves VALUES (0, %s, 7, sha256(''))", (challenge_id,))
    async with sealer(engine, key) as made:
        with pytest.raises(TreeError, match="rows after the 0 leaves that were signed"):
            await made.seal_all()


async def test_where_nothing_can_be_sealed_trading_goes_on_and_so_does_sealing_once_it_is_mended(
    engine: RunningEngine, key: SealKey, caplog: pytest.LogCaptureFixture
):
    challenge_id = await engine.create()
    await sql(engine.url, "INSERT INTO checkpoint_leaves VALUES (0, %s, 7, sha256(''))", (challenge_id,))
    async with sealer(engine, key) as made:
        made.start()

        async def told() -> bool:
            return "nothing is sealed until this is mended" in caplog.text

        await eventually(told)
        assert (await engine.trading.submit(submission(challenge_id, "t1"))).sequence == 1
        async with tampering(engine.url) as connection:
            await connection.execute("DELETE FROM checkpoint_leaves")

        async def sealed() -> bool:
            return [leaf[:2] for leaf in await leaves(engine)] == [(challenge_id, 1)]

        await eventually(sealed)


async def test_a_restored_log_takes_its_new_identity_before_anything_is_sealed_in_it(
    engine: RunningEngine, key: SealKey
):
    ids = []
    for origin in (None, "elsewhere"):
        await engine.create()
        if origin is not None:
            await sql(engine.url, "UPDATE event_log SET origin = %s", (origin,))
        async with sealer(engine, key) as made:
            await made.seal_all()
        with checkpoint_reader(engine.url) as reader:
            ids.append(Checkpoint.parse_body(SignedNote.parse(reader.newest().note).text).origin)
    assert len(set(ids)) == 2
    assert ids[1] == f"challenge-engine/{await value(engine.url, 'SELECT log_id FROM event_log')}"


async def test_a_key_takes_the_place_of_another_while_both_sign(engine: RunningEngine, key: SealKey, tmp_path: Path):
    new = make_key(tmp_path / "new.pem")
    for keys in ((key,), (key, new), (new,)):
        await engine.create()
        async with sealer(engine, *keys) as made:
            await made.seal_all()
        with checkpoint_reader(engine.url) as reader:
            note = SignedNote.parse(reader.newest().note)
        assert note.verified_by([new.public, key.public], verify_signature) == [each.public for each in keys]
    with pytest.raises(NoteError):
        SignedNote(note.text + "more\n", note.signatures).verified_by([new.public], verify_signature)


READING = {
    "newest_checkpoint": ("", {"checkpoints_pkey"}),
    "waiting_to_seal": ("(500)", {"seal_outbox_pkey"}),
    "chains": ("('{0190b5a8-7c3e-7d2a-9f00-1a2b3c4d5e6f}')", {"challenges_pkey", "checkpoint_leaves_once"}),
    "delete_sealed": ("('{1,2}')", {"seal_outbox_pkey"}),
}


@pytest.mark.parametrize("name", READING)
async def test_every_statement_of_a_seal_uses_its_index_on_a_table_that_was_empty_when_it_was_planned(
    engine: RunningEngine, name: str
):
    parameters, indexes = READING[name]
    connection = WriterConnection(engine.database, sealing_queries.PREPARED_TO_SEAL)
    async with connection.use() as session:
        found = await (await session.execute(f"EXPLAIN (FORMAT TEXT) EXECUTE {name}{parameters}")).fetchall()
    await connection.close()
    plan = "\n".join(line for (line,) in found)
    assert "Seq Scan" not in plan
    assert set(re.findall(r"(?:using|Scan on) (\w+_(?:pkey|once))", plan)) == indexes


class TestExports:
    async def test_a_directory_gains_the_newest_checkpoint_and_the_leaves_it_lacks(
        self, engine: RunningEngine, key: SealKey, tmp_path: Path
    ):
        directory = tmp_path / "checkpoints"
        for round_ in range(1, 3):
            for _ in range(3):
                await engine.create()
            async with sealer(engine, key, directory=directory) as made:
                made.start()
            notes, exported = read_exported(directory)
            assert [leaf for _, leaf in exported] == await leaves(engine)
            assert len(notes) == round_
        with checkpoint_reader(engine.url) as reader:
            assert notes[-1].note == reader.newest().note
            again = {path.name: path.read_bytes() for path in directory.iterdir()}
            reader.export_to(directory, reader.newest())
        assert {path.name: path.read_bytes() for path in directory.iterdir()} == again

    async def test_a_directory_of_another_history_is_left_as_it_is(
        self, engine: RunningEngine, key: SealKey, tmp_path: Path
    ):
        """After a restore, or with another database, what was exported before must not be mixed up."""
        directory = tmp_path / "checkpoints"
        before = ("0190b5a8-7c3e-7d2a-9f00-1a2b3c4d5e6f", 1, bytes(32))
        tree = CompactRange()
        tree.append(leaf_hash(encode_leaf(*before)))
        body = Checkpoint("challenge-engine/before", 1, tree.root()).body
        CheckpointDirectory(directory).write_leaves(0, [before])
        CheckpointDirectory(directory).write_note(1, SignedNote(body, (key.sign(body),)).encode())
        kept = {path.name: path.read_bytes() for path in directory.iterdir()}
        for _ in range(3):
            await engine.create()
        async with sealer(engine, key, directory=directory) as made:
            made.start()
        assert {path.name: path.read_bytes() for path in directory.iterdir()} == kept
        assert len(await leaves(engine)) == 3
        with checkpoint_reader(engine.url) as reader, pytest.raises(CheckpointFileError, match="another history"):
            reader.export_to(directory, reader.newest())

    async def test_an_older_checkpoint_is_shown_to_be_the_beginning_of_a_newer_one(
        self, engine: RunningEngine, key: SealKey
    ):
        notes = []
        for _ in range(5):
            await engine.create()
            async with sealer(engine, key) as made:
                await made.seal_all()
            with checkpoint_reader(engine.url) as reader:
                notes.append(reader.newest())
        old, new = (Checkpoint.parse_body(SignedNote.parse(note.note).text) for note in (notes[2], notes[4]))
        with checkpoint_reader(engine.url) as reader:
            proof = reader.consistency(ExportedCheckpoint("old", notes[2].note), notes[4])
        assert verify_consistency(old.tree_size, old.root, new.tree_size, new.root, proof)

    async def test_a_file_holds_a_note_and_its_leaves_and_is_never_overwritten(
        self, engine: RunningEngine, key: SealKey, tmp_path: Path
    ):
        await engine.create()
        async with sealer(engine, key) as made:
            await made.seal_all()
        path = tmp_path / "checkpoint"
        with checkpoint_reader(engine.url) as reader:
            newest = reader.newest()
            write_file(path, newest.note, reader.leaves(0, newest.tree_size))
        ((exported,), found) = read_exported(path)
        assert (exported.note, [leaf for _, leaf in found]) == (newest.note, await leaves(engine))
        with pytest.raises(CheckpointFileError, match="never overwritten"):
            write_file(path, newest.note, [])

    async def test_without_a_seal_there_is_nothing_to_export(self, engine: RunningEngine):
        with (
            checkpoint_reader(engine.url) as reader,
            pytest.raises(CheckpointFileError, match="nothing has been sealed"),
        ):
            reader.newest()

    @pytest.mark.parametrize("line", ["1 x 2 3", "1 0190b5a8-7c3e-7d2a-9f00-1a2b3c4d5e6f 01 " + "0" * 64, " "])
    def test_a_line_that_is_no_leaf_is_named(self, tmp_path: Path, line: str):
        (tmp_path / f"{0:020d}-{1:020d}.leaves").write_text(line + "\n")
        with pytest.raises(CheckpointFileError, match="index challenge_id sequence chain_head"):
            list(CheckpointDirectory(tmp_path).leaves())

    def test_leaves_behind_a_gap_do_not_count(self, tmp_path: Path):
        directory = CheckpointDirectory(tmp_path)
        one = ("0190b5a8-7c3e-7d2a-9f00-1a2b3c4d5e6f", 1, bytes(32))
        directory.write_leaves(0, [one, one])
        directory.write_leaves(1, [one, one])
        directory.write_leaves(4, [one])
        assert directory.exported_size() == 3
        assert [index for index, _ in directory.leaves()] == [0, 1, 2]


class TestKeys:
    def test_a_key_is_its_owners_alone_and_never_overwritten(self, tmp_path: Path):
        path = tmp_path / "key.pem"
        key = make_key(path)
        assert path.stat().st_mode & 0o777 == 0o600
        assert load_key(path).public == key.public == load_or_make_key(path).public
        assert parse_public_key(str(public_path(path))) == key.public == parse_public_key(str(key.public))
        with pytest.raises(KeyFileError, match="never overwritten"):
            make_key(path)
        public_path(path).unlink()
        assert load_or_make_key(path).public == parse_public_key(str(public_path(path)))
        for name in ("", ".", "absent/key.pem"):
            with pytest.raises(KeyFileError, match="cannot write the key"):
                make_key(tmp_path / name if name.endswith("pem") else Path(name))
        with pytest.raises(KeyFileError, match="is no public key"):
            parse_public_key("a+" + "x" * 300)
        assert sorted(each.name for each in tmp_path.iterdir()) == ["key.pem", "key.pem.pub"]

    @pytest.mark.parametrize(
        "content", [b"", b"nothing", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
    )
    def test_what_is_no_key_is_a_clear_error(self, tmp_path: Path, content: bytes):
        path = tmp_path / "key.pem"
        path.write_bytes(content)
        with pytest.raises(KeyFileError, match="Ed25519 private key in PEM"):
            load_key(path)
        with pytest.raises(KeyFileError, match="is no public key"):
            parse_public_key(str(path))
        with pytest.raises(KeyFileError, match="cannot read the key"):
            load_key(tmp_path / "absent")

    def test_a_key_of_another_kind_is_a_clear_error(self, tmp_path: Path):
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

        path = tmp_path / "key.pem"
        path.write_bytes(
            X25519PrivateKey.generate().private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        with pytest.raises(KeyFileError, match="must be Ed25519"):
            load_key(path)
