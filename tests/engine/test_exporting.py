"""Export and import: what comes back is what went out, to the last bit, also after interruptions."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import URL

from challenge_engine import exporting
from challenge_engine.database import DatabaseError, require_finished_import
from challenge_engine.exporting import export_log, import_log
from challenge_engine.keys import make_key
from challenge_engine.log_files import LogFileError, Manifest
from challenge_engine.migrating import migrate
from challenge_engine.reading import ChallengeFilter
from challenge_engine.snapshots import say_nothing
from challenge_engine.verifying import verify
from tests.engine.harness import RunningEngine, running_engine, sql, sql_session, submission, value
from tests.engine.test_rebuilding import live
from tests.engine.test_verifying import seal

TABLES = (
    "challenges", "trades", "challenge_events", "event_positions", "checkpoint_leaves", "checkpoint_tiles",
    "checkpoints", "archives",
)  # fmt: skip


class PowerCutError(Exception):
    """Ends a move where a test wants it."""


@pytest.fixture
async def other_url(database_url: URL) -> Any:
    """Another, empty database with the schema."""
    name = "imported"
    async with sql_session(database_url) as connection:
        await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await connection.execute(f"CREATE DATABASE {name}")
        url = database_url.set(database=name)
        migrate(url)
        yield url
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def contents(url: URL) -> dict[str, list[Any]]:
    return {table: await sql(url, f"SELECT t::text FROM {table} t ORDER BY 1") for table in TABLES}


async def written(engine: RunningEngine, tmp_path: Path) -> list[str]:
    key = make_key(tmp_path / "key.pem")
    ids = await live(engine)
    await engine.positions.assign_all()
    await seal(engine, key)
    return ids


async def test_what_is_imported_is_what_was_exported(engine: RunningEngine, other_url: URL, tmp_path: Path):
    await written(engine, tmp_path)
    exported = export_log(engine.url, tmp_path / "export", progress=say_nothing)
    imported = import_log(other_url, tmp_path / "export", progress=say_nothing)
    assert (imported.rows, imported.chunks) == (exported.rows, exported.chunks)
    assert await contents(other_url) == await contents(engine.url)
    assert verify(other_url).is_clean
    ids = [await value(url, "SELECT log_id FROM event_log") for url in (engine.url, other_url)]
    assert ids[0] != ids[1]


async def test_an_imported_log_trades_on_and_gives_positions_and_seals_to_what_came_after_the_export_began(
    engine: RunningEngine, other_url: URL, tmp_path: Path
):
    ids = await written(engine, tmp_path)
    late = await engine.create()
    await engine.trading.submit(submission(ids[-1], "late", "1", 10**6))
    await engine.positions.stop()
    export_log(engine.url, tmp_path / "export", progress=say_nothing)
    import_log(other_url, tmp_path / "export", progress=say_nothing)
    assert verify(other_url).is_clean
    async with running_engine(other_url) as imported:
        await imported.trading.submit(submission(late, "t1", "1", 1))
        positioned = await imported.all_positioned()
        assert {event.challenge_id for event in positioned} == {*ids, late}
        await seal(imported, make_key(tmp_path / "second.pem"), adopts_tree=True)
    report = verify(other_url)
    assert (report.findings, report.waiting) == ([], 0)


@pytest.mark.parametrize("after", [1, 2, 3])
async def test_both_go_on_where_they_were_interrupted(
    engine: RunningEngine, other_url: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
):
    monkeypatch.setattr(exporting, "CHALLENGES_PER_CHUNK", 3)
    await written(engine, tmp_path)

    def interrupt(_step: str, _done: int, _total: int) -> None:
        calls.append(None)
        if len(calls) == after:
            raise PowerCutError

    directory = tmp_path / "export"
    for move, url in ((export_log, engine.url), (import_log, other_url)):
        calls: list[None] = []
        with pytest.raises(PowerCutError):
            move(url, directory, progress=interrupt)
        if move is export_log:
            with pytest.raises(LogFileError, match="not complete"):
                import_log(other_url, directory, progress=say_nothing)
        resumed = move(url, directory, progress=say_nothing)
        assert resumed.resumed >= after - 1
    assert await contents(other_url) == await contents(engine.url)
    again = import_log(other_url, directory, progress=say_nothing)
    assert again.resumed == again.chunks + 1
    with pytest.raises(LogFileError, match="complete export already"):
        export_log(engine.url, directory, progress=say_nothing)


async def test_a_half_imported_database_is_neither_served_nor_imported_into_while_it_is(
    engine: RunningEngine, other_url: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(exporting, "CHALLENGES_PER_CHUNK", 3)
    await written(engine, tmp_path)
    directory = tmp_path / "export"
    export_log(engine.url, directory, progress=say_nothing)

    def interrupt(_step: str, _done: int, _total: int) -> None:
        raise PowerCutError

    with pytest.raises(PowerCutError):
        import_log(other_url, directory, progress=interrupt)
    with pytest.raises(DatabaseError, match="is not finished"):
        require_finished_import(other_url)
    async with running_engine(other_url) as served:
        await served.reader.list_challenges(ChallengeFilter(), limit=1, page_token="")
        with pytest.raises(DatabaseError, match="stop every server"):
            import_log(other_url, directory, progress=say_nothing)
    import_log(other_url, directory, progress=say_nothing)
    require_finished_import(other_url)
    assert await contents(other_url) == await contents(engine.url)


async def test_an_import_needs_an_empty_database(engine: RunningEngine, tmp_path: Path):
    await written(engine, tmp_path)
    export_log(engine.url, tmp_path / "export", progress=say_nothing)
    with pytest.raises(DatabaseError, match="empty database"):
        import_log(engine.url, tmp_path / "export", progress=say_nothing)


async def test_a_chunk_that_was_changed_is_refused_and_nothing_of_it_stored(
    engine: RunningEngine, other_url: URL, tmp_path: Path
):
    await written(engine, tmp_path)
    directory = tmp_path / "export"
    export_log(engine.url, directory, progress=say_nothing)
    path = next(directory.glob("*-challenges.jsonl.gz"))
    lines = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(lines.replace(b"PENDING", b"ACTIVE ", 1)))
    with pytest.raises(LogFileError, match="SHA-256 differs"):
        import_log(other_url, directory, progress=say_nothing)
    assert await value(other_url, "SELECT count(*) FROM challenges") == 0
    path.unlink()
    with pytest.raises(LogFileError, match="cannot read"):
        import_log(other_url, directory, progress=say_nothing)


@pytest.mark.parametrize(
    "content", [None, "", "{}", "[]", '{"format": "x"}', '{"format": "propfirm.challenge/export/v1"}']
)
def test_what_is_no_export_is_a_clear_error(session_database_url: URL, tmp_path: Path, content: str | None):
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(LogFileError, match=r"manifest|format"):
        import_log(session_database_url, tmp_path, progress=say_nothing)


async def test_a_line_is_a_row_that_anybody_can_read(engine: RunningEngine, tmp_path: Path):
    ids = await written(engine, tmp_path)
    export_log(engine.url, tmp_path / "export", progress=say_nothing)
    manifest = Manifest.read(tmp_path / "export")
    assert manifest is not None
    assert manifest.is_complete
    found = []
    for chunk in manifest.chunks:
        lines = gzip.decompress((tmp_path / "export" / chunk.file).read_bytes()).splitlines()
        assert len(lines) == chunk.rows
        found += [json.loads(line) for line in lines]
    assert {each["row"]["challenge_id"] for each in found if each["kind"] == "challenges"} == set(ids)
    assert {each["kind"] for each in found} == set(TABLES) - {"checkpoint_tiles", "archives"}


async def test_an_export_of_another_log_is_not_gone_on_with(engine: RunningEngine, other_url: URL, tmp_path: Path):
    Manifest("another", "0003", 0, 0, "now").write(tmp_path)
    with pytest.raises(LogFileError, match="another log"):
        export_log(engine.url, tmp_path, progress=say_nothing)
