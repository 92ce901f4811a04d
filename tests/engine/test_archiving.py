"""Archives: trades of what ended long ago leave the database, and every verdict can still be proved."""

import gzip
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from challenge_engine.archiving import Archived, archive, find_in_archive, read_archive
from challenge_engine.auditing import Fault
from challenge_engine.keys import SealKey, make_key, verify_signature
from challenge_engine.log_files import LogFileError
from challenge_engine.proving import CannotProveError, prove
from challenge_engine.snapshots import say_nothing
from challenge_engine.verifying import Report, verify
from challenge_rules import ChallengeError, ChallengeStatus
from challenge_rules.notes import SignedNote
from challenge_rules.proof import check_proof, encode_proof
from tests.engine.harness import RunningEngine, sql, submission, tampering, value
from tests.engine.test_verifying import seal


class Moved:
    """An engine with an ended challenge of three trades, one that is still ACTIVE, and what was sealed of them."""

    def __init__(self, engine: RunningEngine, directory: Path, key: SealKey) -> None:
        self.engine = engine
        self.directory = directory
        self.key = key
        self.ended = self.active = ""

    async def begin(self) -> None:
        self.ended, self.active = await self.engine.create(), await self.engine.create()
        for number, pnl in enumerate(("1", "2.5", "20000"), start=1):
            await self.engine.trading.submit(submission(self.ended, f"t{number}", pnl, number))
            await self.engine.trading.submit(submission(self.active, f"t{number}", "1", number))
        await self.engine.positions.assign_all()
        await seal(self.engine, self.key)

    def archive(self, older_than: timedelta = timedelta(0), **options: Any) -> Archived:
        return archive(
            self.engine.url, self.directory, older_than=older_than, keys=[self.key], progress=say_nothing, **options
        )

    def verify(self, *, with_archive: bool = True) -> Report:
        return verify(self.engine.url, keys=[self.key.public], archives=self.directory if with_archive else None)

    async def reason(self, call: Any) -> str:
        with pytest.raises(ChallengeError) as refused:
            await call
        return str(refused.value.reason)


@pytest.fixture
async def moved(engine: RunningEngine, tmp_path: Path) -> Moved:
    made = Moved(engine, tmp_path / "archives", make_key(tmp_path / "key.pem"))
    await made.begin()
    return made


async def test_trades_of_what_has_ended_are_moved_and_the_rest_stays(moved: Moved):
    state = await moved.engine.state(moved.ended)
    archived = moved.archive()
    assert (archived.challenges, archived.trades, len(archived.archives), archived.refused) == (1, 3, 1, [])
    left = await sql(moved.engine.url, "SELECT DISTINCT challenge_id::text FROM trades")
    assert left == [(moved.active,)]
    assert await moved.engine.state(moved.ended) == state
    assert [event.challenge_id for event in await moved.engine.all_positioned()].count(moved.ended) == 3
    again = moved.archive()
    assert (again.challenges, again.archives) == (0, [])


async def test_only_what_closed_longer_ago_than_asked_for_is_moved(moved: Moved):
    """By both clocks: history may be imported, which closed long ago and was recorded just now."""
    recorded_at = await value(moved.engine.url, "SELECT recorded_at FROM challenge_events WHERE new_status = 'FUNDED'")
    now = await value(moved.engine.url, "SELECT now()")
    age = now - recorded_at
    assert moved.archive(age + timedelta(hours=1)).challenges == 0
    assert moved.archive(age - timedelta(hours=1)).challenges == 1


async def test_reads_and_writes_of_archived_trades_say_so_and_the_id_stays_taken(moved: Moved):
    moved.archive()
    reader, trading = moved.engine.reader, moved.engine.trading
    assert (await reader.get(moved.ended)).state.status is ChallengeStatus.FUNDED
    assert (await reader.get(moved.ended, 3)).state.last_sequence == 3
    assert (await reader.get(moved.ended, 0)).state.status is ChallengeStatus.PENDING
    assert await moved.reason(reader.get(moved.ended, 2)) == "CHALLENGE_ARCHIVED"
    assert await moved.reason(reader.get(moved.ended, 4)) == "SEQUENCE_NOT_FOUND"
    listing = reader.list_trades(moved.ended, first=1, last=0, limit=10, page_token="")
    assert await moved.reason(listing) == "CHALLENGE_ARCHIVED"
    for trade_id in ("t1", "new"):
        trade = submission(moved.ended, trade_id, "1", 1)
        assert await moved.reason(trading.submit(trade)) == "CHALLENGE_ARCHIVED"
    terms = (await moved.engine.state(moved.ended)).terms
    assert (await trading.create_challenge(terms))[1] is True


async def test_an_archive_holds_what_was_sealed_and_proofs_are_made_of_it(moved: Moved):
    before, seal_before, _ = prove(moved.engine.url, moved.ended)
    moved.archive()
    ((name, note, sha256),) = await sql(moved.engine.url, "SELECT file_name, note, encode(sha256, 'hex') FROM archives")
    signed = SignedNote.parse(note)
    assert signed.verified_by([moved.key.public], verify_signature) == [moved.key.public]
    assert f"sha256 {sha256}\n" in signed.text
    ((history, seal_, head),) = read_archive(moved.directory / name)
    assert (history, seal_, head) == (before, seal_before, before.state.chain_head)
    with pytest.raises(CannotProveError, match="give --archive DIR"):
        prove(moved.engine.url, moved.ended)
    again, seal_again, _ = prove(
        moved.engine.url, moved.ended, archives=lambda *ids: find_in_archive(moved.directory, *ids)
    )
    proof = encode_proof(again, seal_again)
    assert proof == encode_proof(before, seal_before)
    assert check_proof(proof, [moved.key.public], verify_signature).history == before


async def test_verification_goes_on_with_and_without_the_archives(moved: Moved):
    moved.archive()
    report = moved.verify()
    assert (report.findings, report.archived, report.archived_trades, report.notes) == ([], 1, 3, [])
    report = moved.verify(with_archive=False)
    assert report.findings == []
    assert "1 archives were not checked" in report.notes[0]


async def test_another_challenge_does_not_hide_behind_an_archive_nor_an_archived_verdict_change(moved: Moved):
    """Both are found without a look into the archive: its signature covers what is left of what it holds."""
    other = await moved.engine.create()
    await moved.engine.trading.submit(submission(other, "t1", "20000", 10))
    await moved.engine.positions.assign_all()
    await seal(moved.engine, moved.key)
    moved.archive(timedelta(0))
    assert moved.verify(with_archive=False).is_clean
    for statement in (
        "UPDATE challenges SET peak_equity = peak_equity + 1 WHERE challenge_id = %s",
        "UPDATE challenge_events SET equity = equity + 1 WHERE challenge_id = %s AND new_status = 'FUNDED'",
    ):
        async with tampering(moved.engine.url) as connection:
            await connection.execute(statement, (other,))
        assert any("what was signed" in each.message for each in moved.verify(with_archive=False).findings)


@pytest.mark.parametrize("what", ["changed", "missing", "other head", "row", "equity", "event", "signature"])
async def test_an_archive_that_is_not_the_recorded_one_is_found(moved: Moved, what: str):
    (name,) = moved.archive().archives
    path = moved.directory / name
    if what == "changed":
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).replace(b'"2.5', b'"3.5')))
    elif what == "missing":
        path.unlink()
    else:
        statement = {
            "other head": "UPDATE challenges SET chain_head = sha256('') WHERE challenge_id = %s",
            "row": "UPDATE challenges SET archive_id = NULL WHERE challenge_id = %s",
            "equity": "UPDATE challenges SET peak_equity = peak_equity + 1 WHERE challenge_id = %s",
            "event": "UPDATE challenge_events SET equity = 1 WHERE new_status = 'FUNDED' AND challenge_id = %s",
            "signature": "UPDATE archives SET trade_count = 4 WHERE %s::text IS NOT NULL",
        }[what]
        async with tampering(moved.engine.url) as connection:
            await connection.execute(statement, (moved.ended,))
    report = moved.verify()
    assert not report.is_clean
    if what in ("changed", "missing"):
        assert {each.fault for each in report.findings} == {Fault.ARCHIVE}
    elif what == "signature":
        assert any("what was signed" in each.message for each in report.findings)
    else:
        assert moved.ended in {each.challenge_id for each in report.findings}


async def test_what_is_not_sealed_or_has_faults_is_left_where_it_is_and_named(moved: Moved):
    late = await moved.engine.create()
    await moved.engine.trading.submit(submission(late, "t1", "20000", 1))
    async with tampering(moved.engine.url) as connection:
        await connection.execute("UPDATE trades SET symbol = 'x' WHERE challenge_id = %s", (moved.ended,))
    archived = moved.archive()
    assert (archived.challenges, archived.archives) == (0, [])
    assert {(each.challenge_id, each.fault) for each in archived.refused} == {
        (late, Fault.SEAL),
        (moved.ended, Fault.CHAIN),
    }
    assert await value(moved.engine.url, "SELECT count(*) FROM trades") == 7


def test_what_is_no_archive_is_a_clear_error(tmp_path: Path):
    path = tmp_path / "x.jsonl.gz"
    for content in (b"", b"x", gzip.compress(b'{"kind":"archive","row":{}}\n'), gzip.compress(b"[]\n")):
        path.write_bytes(content)
        with pytest.raises(LogFileError):
            list(read_archive(path))
